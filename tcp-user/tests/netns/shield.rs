//! Listeners of the kernel's own TCP behind the shield.

use crate::frames::Spec;
use crate::lab::{IFACE, Lab, PATIENCE, Server, V4, V6, noise, tcp_counter, wait_for};
use crate::raw::{Random, Template, Wire};
use nix::sys::signal::Signal;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A process in the server's namespace; killed when dropped.
pub struct Process(pub Child);

impl Process {
    pub fn start(lab: &Lab, program: &str, args: &[&str]) -> Self {
        let mut command = lab.server.command(program);
        command.args(args).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }

    /// Python's web server on every address of a port, serving this crate's sources.
    pub fn python(lab: &Lab, port: u16) -> Self {
        let directory = env!("CARGO_MANIFEST_DIR");
        let port_text = port.to_string();
        let args = ["-m", "http.server", "-b", "::", "-d", directory, &port_text];
        let process = Self::start(lab, "python3", &args);
        wait_for_listeners(lab, port, 1);
        process
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Spoofed frames to a port, as many as go, until dropped; for ten minutes at most.
pub struct Flood {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Flood {
    pub fn syns(lab: &Lab, port: u16) -> Self {
        Self::start(lab, &Spec::syn("192.0.2.1:1", &format!("{V4}:{port}")))
    }

    /// Over IPv6.
    pub fn syns6(lab: &Lab, port: u16) -> Self {
        let to = format!("[{V6}]:{port}");
        Self::start(lab, &Spec::syn("[2001:db8::1]:1", &to))
    }

    pub fn acks(lab: &Lab, port: u16) -> Self {
        let to = format!("{V4}:{port}");
        Self::start(lab, &Spec::ack("192.0.2.1:1", &to, 1, 1))
    }

    /// Over IPv6.
    pub fn acks6(lab: &Lab, port: u16) -> Self {
        let to = format!("[{V6}]:{port}");
        Self::start(lab, &Spec::ack("[2001:db8::1]:1", &to, 1, 1))
    }

    fn start(lab: &Lab, spec: &Spec) -> Self {
        let wire = Wire::new(lab);
        let mut template = Template::new(spec);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let (mut random, start) = (Random::new(7), Instant::now());
            while !stopped.load(Ordering::Relaxed) && start.elapsed() < Duration::from_mins(10) {
                for _ in 0..256 {
                    wire.send(template.spoof(&mut random));
                }
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Waits until so many sockets listen on a port.
pub fn wait_for_listeners(lab: &Lab, port: u16, sockets: usize) {
    let filter = format!("sport = :{port}");
    wait_for("a listener", || {
        let all = lab.server.run("ss", &["-Htln", &filter]).unwrap();
        all.matches("LISTEN").count() >= sockets
    });
}

pub fn sysctl(lab: &Lab, name: &str) -> String {
    let path = format!("/proc/sys/net/ipv4/{name}");
    lab.server.run("cat", &[&path]).unwrap().trim().to_owned()
}

pub fn curl(lab: &Lab, url: &str) -> String {
    lab.client
        .run("curl", &["-gsS", "--max-time", "90", url])
        .unwrap()
}

/// What `ss -ti` says of the server's connections on a port.
pub fn connections(lab: &Lab, port: u16) -> String {
    let filter = format!("sport = :{port}");
    lab.server
        .run("ss", &["-HtioOn", "state", "established", &filter])
        .unwrap()
}

/// The counter, once it is at least `least`.
pub fn counted(server: &Server, counter: &str, least: u64) -> u64 {
    let mut count = 0;
    wait_for(counter, || {
        count = server.stats().xdp[counter];
        count >= least
    });
    count
}

#[test]
#[ignore = "needs root"]
fn a_listener_of_the_kernels_is_shielded_the_whole_way() {
    let lab = Lab::new();
    let _python = Process::python(&lab, 8000);
    let before = (
        sysctl(&lab, "tcp_syncookies"),
        sysctl(&lab, "tcp_timestamps"),
    );
    let mut server = lab.run(&["--listen", "*:8000=kernel", "--tune"]);
    assert!(server.ready.ends_with(" shield=full"), "{}", server.ready);
    assert_eq!(sysctl(&lab, "tcp_syncookies"), "2");
    assert_eq!(sysctl(&lab, "tcp_timestamps"), "2");
    for host in [V4.to_owned(), format!("[{V6}]")] {
        let text = curl(&lab, &format!("http://{host}:8000/Cargo.toml"));
        assert!(text.contains("tcp-user"));
    }
    let xdp = server.stats().xdp;
    assert_eq!(xdp["syn_ack_kernel"], 2);
    assert_eq!(xdp["pass_kernel_syn"], 0);
    assert!(xdp["pass_kernel_accept"] >= 2);
    assert_eq!(xdp["rst_bad_cookie"], 0);

    // A connection outlives the shield.
    let stream = lab.connect(&format!("{V4}:8000"));
    counted(&server, "syn_ack_kernel", 3);
    server.signal(Signal::SIGTERM);
    assert!(server.ended().success());
    let after = (
        sysctl(&lab, "tcp_syncookies"),
        sysctl(&lab, "tcp_timestamps"),
    );
    assert_eq!(before, after, "set back");
    (&stream)
        .write_all(b"GET /Cargo.toml HTTP/1.0\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    (&stream).read_to_string(&mut answer).unwrap();
    assert!(answer.contains("tcp-user"));
}

/// A socket that the server's kernel accepts, behind the shield, and its client.
fn pair(lab: &Lab, listener: &TcpListener, to: &str) -> (TcpStream, TcpStream) {
    let client = lab.connect(to);
    listener.set_nonblocking(true).unwrap();
    let start = Instant::now();
    let accepted = loop {
        match listener.accept() {
            Ok((accepted, _)) => break accepted,
            Err(error) => {
                assert!(start.elapsed() < PATIENCE, "{error}");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    };
    accepted.set_nonblocking(false).unwrap();
    (client, accepted)
}

/// [`pair`]s until the shield answers the SYN, which it does once it knows of the listener: until
/// then the kernel answers.
fn shielded(
    lab: &Lab,
    server: &Server,
    listener: &TcpListener,
    to: &str,
) -> (TcpStream, TcpStream) {
    let mut made = None;
    wait_for("the shield to answer", || {
        let before = server.stats().xdp["syn_ack_kernel"];
        made = Some(pair(lab, listener, to));
        server.stats().xdp["syn_ack_kernel"] == before + 1
    });
    made.unwrap()
}

/// Sends 2 MB each way.
fn exchange(client: &TcpStream, server: &TcpStream) {
    let data = noise(2 << 20);
    for (mut from, mut to) in [(client, server), (server, client)] {
        std::thread::scope(|scope| {
            scope.spawn(|| from.write_all(&data).unwrap());
            let mut got = vec![0; data.len()];
            to.read_exact(&mut got).unwrap();
            assert!(got == data);
        });
    }
}

#[test]
#[ignore = "needs root"]
fn window_scale_and_sack_are_what_the_kernel_uses() {
    let lab = Lab::new();
    // Buffers as the listener sets them, and as the system does.
    let cases = [
        (None, "4096 131072 6291456"),
        (None, "4096 131072 33554432"),
        (None, "4096 65536 400000"),
        (Some(20_000), "4096 131072 6291456"),
        (Some(400_000), "4096 131072 6291456"),
    ];
    let server = lab.run(&["--listen", "*:9000-9100=kernel", "--tune"]);
    for (i, (fixed, rmem)) in cases.into_iter().enumerate() {
        lab.server.sysctl("ipv4/tcp_rmem", rmem).unwrap();
        let port = 9000 + u16::try_from(i).unwrap();
        let at: SocketAddr = format!("[::]:{port}").parse().unwrap();
        let listener: TcpListener = lab
            .server
            .enter(|| {
                let socket =
                    socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None)
                        .unwrap();
                if let Some(size) = fixed {
                    socket.set_recv_buffer_size(size).unwrap();
                }
                socket.bind(&at.into()).unwrap();
                socket.listen(16).unwrap();
                socket.into()
            })
            .unwrap();
        for host in [V4.to_owned(), format!("[{V6}]")] {
            let (client, accepted) = shielded(&lab, &server, &listener, &format!("{host}:{port}"));
            let ours = connections(&lab, port);
            let filter = format!("dport = :{port}");
            let theirs = lab
                .client
                .run("ss", &["-HtioOn", "state", "established", &filter])
                .unwrap();
            let scale = |text: &str| -> (u8, u8) {
                let at = text.find("wscale:").unwrap_or_else(|| panic!("{text}"));
                let end = text[at..].find(' ').unwrap();
                let (a, b) = text[at + 7..at + end].split_once(',').unwrap();
                (a.parse().unwrap(), b.parse().unwrap())
            };
            let (ours_scale, theirs_scale) = (scale(&ours), scale(&theirs));
            // Each has the peer's first.
            assert_eq!(
                ours_scale,
                (theirs_scale.1, theirs_scale.0),
                "{rmem} {fixed:?}"
            );
            for text in [&ours, &theirs] {
                assert!(text.contains(" sack ") && text.contains(" ts "), "{text}");
            }
            exchange(&client, &accepted);
        }
    }
    assert_eq!(server.stats().xdp["rst_bad_cookie"], 0);
}

#[test]
#[ignore = "needs root"]
fn with_timestamps_1_no_options_are_offered_and_nothing_is_changed() {
    let lab = Lab::new();
    lab.server.sysctl("ipv4/tcp_syncookies", "2").unwrap();
    lab.server.sysctl("ipv4/tcp_timestamps", "1").unwrap();
    let at: SocketAddr = "[::]:9000".parse().unwrap();
    let listener = lab.server.enter(|| TcpListener::bind(at).unwrap()).unwrap();
    let server = lab.run(&["--listen", "*:9000=kernel"]);
    assert!(server.ready.ends_with(" shield=no-options"));
    for host in [V4.to_owned(), format!("[{V6}]")] {
        let (client, accepted) = pair(&lab, &listener, &format!("{host}:9000"));
        let info = connections(&lab, 9000);
        for option in [" ts", " sack", "wscale"] {
            assert!(!info.contains(option), "{info}");
        }
        exchange(&client, &accepted);
    }
    assert_eq!(server.stats().xdp["syn_ack_kernel"], 2);
    assert_eq!(sysctl(&lab, "tcp_timestamps"), "1");
}

#[test]
#[ignore = "needs root"]
fn listeners_come_go_and_move() {
    let lab = Lab::new();
    let server = lab.run(&["--listen", "*:8000-8001=kernel", "--tune"]);
    let url = format!("http://{V4}:8000/Cargo.toml");
    let refused = || {
        let to = format!("{V4}:8000");
        let error = lab.try_connect(&to, PATIENCE).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
        let twice = tcp_counter(&lab.client, "RetransSegs");
        assert_eq!(twice, 0, "at once: no SYN is needed twice");
    };
    refused();
    assert_eq!(server.stats().xdp["rst_no_listener"], 1);
    for _ in 0..2 {
        let python = Process::python(&lab, 8000);
        // At first the kernel answers, then we do.
        let before = server.stats().xdp["syn_ack_kernel"];
        wait_for("the shield to answer", || {
            assert!(curl(&lab, &url).contains("tcp-user"));
            server.stats().xdp["syn_ack_kernel"] > before
        });
        drop(python);
        refused();
    }
    // Two processes' worth of sockets on one port, and one on the address alone.
    let bind = |at: &str| -> TcpListener {
        let at: SocketAddr = at.parse().unwrap();
        let listen = || {
            let socket =
                socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            socket.set_reuse_port(true).unwrap();
            socket.bind(&at.into()).unwrap();
            socket.listen(64).unwrap();
            socket.into()
        };
        lab.server.enter(listen).unwrap()
    };
    let group = [bind("0.0.0.0:8001"), bind("0.0.0.0:8001")];
    let to = format!("{V4}:8001");
    let before = server.stats().xdp["syn_ack_kernel"];
    let mut early = Vec::new();
    wait_for("the shield to answer", || {
        early.push(lab.connect(&to));
        server.stats().xdp["syn_ack_kernel"] > before
    });
    let clients: Vec<TcpStream> = (0..32).map(|_| lab.connect(&to)).collect();
    assert_eq!(server.stats().xdp["syn_ack_kernel"], before + 1 + 32);
    let mut accepted = [0, 0];
    wait_for("all to be accepted", || {
        for (listener, accepted) in group.iter().zip(&mut accepted) {
            listener.set_nonblocking(true).unwrap();
            *accepted += std::iter::from_fn(|| listener.accept().ok()).count();
        }
        accepted.iter().sum::<usize>() == early.len() + 32
    });
    assert!(accepted.iter().all(|n| *n > 0), "{accepted:?}");
    drop((early, clients, group));
    let exact = bind(&to);
    let _both = shielded(&lab, &server, &exact, &to);
    assert_eq!(server.stats().xdp["rst_bad_cookie"], 0);
}

#[test]
#[ignore = "needs root"]
fn connections_outlive_a_killed_shield_and_the_next_one_sets_the_sysctls_back() {
    let lab = Lab::new();
    lab.server.sysctl("ipv4/tcp_syncookies", "1").unwrap();
    lab.server.sysctl("ipv4/tcp_timestamps", "1").unwrap();
    let at: SocketAddr = "[::]:9000".parse().unwrap();
    let listener = lab.server.enter(|| TcpListener::bind(at).unwrap()).unwrap();
    let args = ["--listen", "*:9000=kernel", "--tune"];
    let mut server = lab.run(&args);
    let (client, accepted) = pair(&lab, &listener, &format!("{V4}:9000"));
    assert_eq!(server.stats().xdp["syn_ack_kernel"], 1);
    server.signal(Signal::SIGKILL);
    server.ended();
    exchange(&client, &accepted);
    assert_eq!(sysctl(&lab, "tcp_syncookies"), "2");
    let _plain = pair(&lab, &listener, &format!("{V4}:9000"));

    let mut server = lab.run(&args);
    exchange(&client, &accepted);
    server.signal(Signal::SIGTERM);
    assert!(server.ended().success());
    assert_eq!(sysctl(&lab, "tcp_syncookies"), "1");
    assert_eq!(sysctl(&lab, "tcp_timestamps"), "1");
    exchange(&client, &accepted);
}

#[test]
#[ignore = "needs root"]
fn policies_of_a_kernel_listen_change_while_it_runs() {
    let lab = Lab::new();
    let _python = Process::python(&lab, 8000);
    let server = lab.run(&["--listen", "*:8000=kernel", "--tune"]);
    let url = format!("http://{V4}:8000/Cargo.toml");
    let counted = |counter: &str| server.stats().xdp[counter];
    for (policy, counter) in [
        ("observe", "pass_observed_syn"),
        ("off", "pass_not_served"),
        ("cookie", "syn_ack_kernel"),
        ("adaptive", "pass_kernel_syn"),
    ] {
        server.client("listen", &["policy", "*:8000", policy]);
        let before = counted(counter);
        assert!(curl(&lab, &url).contains("tcp-user"));
        assert!(counted(counter) > before, "{policy}");
    }
    assert_eq!(counted("syn_ack_kernel"), 1);
}

#[test]
#[ignore = "needs root"]
fn adaptive_answers_in_a_flood_and_not_before_or_after() {
    let lab = Lab::new();
    let _python = Process::python(&lab, 8000);
    let listen = ["--listen", "*:8000=kernel@adaptive", "--tune"];
    let server = lab.run(&[&listen[..], &["--set", "xdp.adaptive_rate=500"]].concat());
    let url = format!("http://{V4}:8000/Cargo.toml");
    assert!(server.ready.ends_with(" shield=adaptive"));
    let answered = || server.stats().xdp["syn_ack_kernel"];
    assert!(curl(&lab, &url).contains("tcp-user"));
    assert_eq!(answered(), 0);
    assert_eq!(sysctl(&lab, "tcp_syncookies"), "1");
    {
        let _flood = Flood::syns(&lab, 8000);
        counted(&server, "syn_ack_kernel", 10_000);
        wait_for("the sysctl", || sysctl(&lab, "tcp_syncookies") == "2");
        for _ in 0..20 {
            assert!(curl(&lab, &url).contains("tcp-user"));
        }
    }
    wait_for("the end of it", || sysctl(&lab, "tcp_syncookies") == "1");
}

#[test]
#[ignore = "needs root"]
fn the_mss_is_that_of_the_route_and_of_the_listener() {
    let lab = Lab::new();
    let routes = [
        ("192.0.2.1/32", "mtu", "1300"),
        ("2001:db8::1/128", "advmss", "1000"),
    ];
    for (to, metric, value) in routes {
        let args = ["route", "add", to, "dev", IFACE, metric, value];
        lab.server.run("ip", &args).unwrap();
    }
    let at: SocketAddr = "[::]:9000".parse().unwrap();
    let listener = lab.server.enter(|| TcpListener::bind(at).unwrap()).unwrap();
    let server = lab.run(&["--listen", "*:9000=kernel", "--tune"]);
    // The client sends no more than what it was told, less its timestamps.
    let told = |to: &str| {
        let pair = pair(&lab, &listener, to);
        let args = ["-HtiOn", "state", "established", "dport = :9000"];
        let info = lab.client.run("ss", &args).unwrap();
        let mss = info.split(" mss:").nth(1).unwrap().split(' ').next();
        let mss: u16 = mss.unwrap().parse().unwrap();
        drop(pair);
        mss + 12
    };
    let (v4, v6) = (format!("{V4}:9000"), format!("[{V6}]:9000"));
    assert_eq!((told(&v4), told(&v6)), (1260, 1000));
    nix::sys::socket::setsockopt(&listener, nix::sys::socket::sockopt::TcpMaxSeg, &900).unwrap();
    drop(server);
    let server = lab.run(&["--listen", "*:9000=kernel", "--tune"]);
    assert_eq!((told(&v4), told(&v6)), (900, 900));
    assert_eq!(server.stats().xdp["syn_ack_kernel"], 2);
}

#[test]
#[ignore = "needs root"]
fn a_kernel_listen_is_added_while_it_runs_and_taken_away() {
    let lab = Lab::new();
    let _python = Process::python(&lab, 8000);
    let server = lab.run(&["--listen", "*:7=echo", "--tune"]);
    let before = sysctl(&lab, "tcp_syncookies");
    let url = format!("http://{V4}:8000/Cargo.toml");
    assert!(curl(&lab, &url).contains("tcp-user"));
    assert_eq!(server.stats().xdp["syn_ack_kernel"], 0);
    server.client("listen", &["add", "*:8000=kernel"]);
    wait_for("the shield to answer", || {
        assert!(curl(&lab, &url).contains("tcp-user"));
        server.stats().xdp["syn_ack_kernel"] > 0
    });
    assert_eq!(sysctl(&lab, "tcp_syncookies"), "2");
    assert_ne!(before, "2", "nothing is set without such a listen");
    server.client("listen", &["remove", "*:8000"]);
    let answered = server.stats().xdp["syn_ack_kernel"];
    assert!(curl(&lab, &url).contains("tcp-user"));
    assert_eq!(server.stats().xdp["syn_ack_kernel"], answered);
}
