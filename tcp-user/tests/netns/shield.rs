//! Listeners of the kernel's own TCP behind the shield.

use crate::lab::{Lab, Server, V4, V6, noise};
use nix::sys::signal::Signal;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// A process in the server's namespace; killed when dropped.
struct Process(Child);

impl Process {
    fn start(lab: &Lab, program: &str, args: &[&str]) -> Self {
        let mut command = lab.server.command(program);
        command.args(args).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }

    /// Python's web server on every address of a port, serving this crate's sources.
    fn python(lab: &Lab, port: u16) -> Self {
        let directory = env!("CARGO_MANIFEST_DIR");
        let port_text = port.to_string();
        let args = ["-m", "http.server", "-b", "::", "-d", directory, &port_text];
        let process = Self::start(lab, "python3", &args);
        wait_for_listener(lab, port);
        process
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn wait_for_listener(lab: &Lab, port: u16) {
    let start = Instant::now();
    let filter = format!("sport = :{port}");
    while !lab
        .server
        .run("ss", &["-Htln", &filter])
        .unwrap()
        .contains("LISTEN")
    {
        assert!(start.elapsed() < Duration::from_secs(10), "nobody listens");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn sysctl(lab: &Lab, name: &str) -> String {
    let path = format!("/proc/sys/net/ipv4/{name}");
    lab.server.run("cat", &[&path]).unwrap().trim().to_owned()
}

fn curl(lab: &Lab, url: &str) -> String {
    lab.client
        .run("curl", &["-gsS", "--max-time", "10", url])
        .unwrap()
}

/// What `ss -ti` says of the server's connections on a port.
fn connections(lab: &Lab, port: u16) -> String {
    let filter = format!("sport = :{port}");
    lab.server
        .run("ss", &["-HtioOn", "state", "established", &filter])
        .unwrap()
}

/// The counter, once it is at least `least`.
fn counted(server: &Server, counter: &str, least: u64) -> u64 {
    let start = Instant::now();
    loop {
        let count = server.stats().xdp[counter];
        if count >= least || start.elapsed() > Duration::from_secs(5) {
            assert!(count >= least, "{counter}: {count}");
            return count;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
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
    assert!(server.wait(Duration::from_secs(10)).unwrap().success());
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
                assert!(start.elapsed() < Duration::from_secs(5), "{error}");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    };
    accepted.set_nonblocking(false).unwrap();
    (client, accepted)
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
        // Until the server has seen it.
        std::thread::sleep(Duration::from_millis(1200));
        for host in [V4.to_owned(), format!("[{V6}]")] {
            let before = server.stats().xdp["syn_ack_kernel"];
            let (client, accepted) = pair(&lab, &listener, &format!("{host}:{port}"));
            assert_eq!(server.stats().xdp["syn_ack_kernel"], before + 1);
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
