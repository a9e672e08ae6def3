//! How proxied connections end that do not end well: nothing is left of them, and each is
//! counted by its reason.

use crate::lab::{Lab, V4, noise, read_all, wait_for};
use crate::programs::{Directory, nginx_in};
use crate::proxy::{BACKEND, UNCHECKED, accept, descriptors, fds, listen, serve, settled};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// nginx that takes long over 50 MB.
fn slow(lab: &Lab) -> crate::programs::Program {
    let directory = Directory::new();
    directory.write("noise", &noise(50_000_000));
    let servers = "server { listen 127.0.0.1:8080; limit_rate 2m; }";
    nginx_in(&lab.server, BACKEND, servers, directory)
}

/// curl that fetches it into a file, at this rate at most.
fn fetch(lab: &Lab, directory: &Directory, rate: &str) -> std::process::Child {
    let file = directory.path().join("got").display().to_string();
    let url = format!("http://{V4}/noise");
    let child = lab
        .client
        .command("curl")
        .args([
            "-sS",
            "--max-time",
            "300",
            "--limit-rate",
            rate,
            "-o",
            &file,
            &url,
        ])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_for("data", || {
        std::fs::metadata(&file).is_ok_and(|m| m.len() >= 100_000)
    });
    child
}

#[test]
#[ignore = "needs root"]
fn a_backend_killed_in_the_middle_of_a_transfer() {
    let lab = Lab::new();
    let nginx = slow(&lab);
    let server = serve(&lab, BACKEND, &[]);
    let idle = descriptors(&lab, &server);
    let directory = Directory::new();
    let mut curl = fetch(&lab, &directory, "100m");
    nginx.kill();
    // 18: the body was cut short; 56: the connection was reset.
    let code = curl.wait().unwrap().code();
    assert!(matches!(code, Some(18 | 56)), "{code:?}");
    // What came is right as far as it came.
    let got = std::fs::read(directory.path().join("got")).unwrap();
    assert!(got.len() < 50_000_000 && noise(got.len()) == got);
    let proxy = settled(&server, idle);
    assert_eq!(proxy.ended["done"] + proxy.ended["backend_reset"], 2);
}

#[test]
#[ignore = "needs root"]
fn a_client_killed_in_the_middle_of_a_transfer() {
    let lab = Lab::new();
    let nginx = slow(&lab);
    let server = serve(&lab, BACKEND, &[]);
    let idle = descriptors(&lab, &server);
    let directory = Directory::new();
    // Slower than it comes, so that the client has unread data: its kernel sends an RST.
    let mut curl = fetch(&lab, &directory, "100k");
    let filter = ["-Htn", "state", "established", "dport", "=", ":80"];
    wait_for("unread data", || {
        let sockets = lab.client.run("ss", &filter).unwrap();
        let queued = sockets.split_whitespace().next();
        queued.is_some_and(|octets| octets.parse::<u32>().unwrap() > 100_000)
    });
    kill(Pid::from_raw(curl.id() as i32), Signal::SIGKILL).unwrap();
    curl.wait().unwrap();
    let proxy = settled(&server, idle);
    assert_eq!(proxy.ended["client_reset"], 1, "{proxy:?}");
    // nginx noticed: it holds no connection to the proxy any more.
    let filter = ["-Htn", "state", "established", "sport", "=", ":8080"];
    wait_for("no connection, nor a health check", || {
        lab.server.run("ss", &filter).unwrap().is_empty()
    });
    drop(nginx);
}

#[test]
#[ignore = "needs root"]
fn a_reset_reaches_the_other_side() {
    let lab = Lab::new();
    let listener = listen(&lab);
    let server = serve(&lab, BACKEND, &UNCHECKED);
    let idle = fds(&server) + 1;
    let reset = |stream: TcpStream| {
        let socket = socket2::SockRef::from(&stream);
        socket.set_linger(Some(Duration::ZERO)).unwrap();
    };
    for from_client in [true, false] {
        let mut client = lab.connect(&format!("{V4}:80"));
        let mut backend = accept(&listener);
        client.write_all(b"ping").unwrap();
        backend.read_exact(&mut [0; 4]).unwrap();
        let mut other = if from_client {
            reset(client);
            backend
        } else {
            reset(backend);
            client
        };
        let error = other.read(&mut [0]).expect_err("an RST");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    let proxy = settled(&server, idle);
    assert_eq!(proxy.ended["client_reset"], 1, "{proxy:?}");
    assert_eq!(proxy.ended["backend_reset"], 1, "{proxy:?}");
}

#[test]
#[ignore = "needs root"]
fn a_backend_that_does_not_answer_syns() {
    let lab = Lab::new();
    let _listener = listen(&lab);
    // As if it were switched off.
    let rules = "table inet dead { chain in { type filter hook input priority 0; \
                 tcp dport 8080 drop ; } ; }";
    lab.server.run("nft", &[rules]).unwrap();
    let set = ["--set", "proxy.connect_timeout=300ms"];
    let server = serve(&lab, BACKEND, &[&UNCHECKED[..], &set].concat());
    let idle = fds(&server) + 1;
    let start = Instant::now();
    let mut client = lab.connect(&format!("{V4}:80"));
    client.write_all(b"hello").unwrap();
    let error = client.read(&mut [0]).expect_err("an RST");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert!(start.elapsed() >= Duration::from_millis(300));
    let proxy = settled(&server, idle);
    assert_eq!(proxy.ended["connect_timed_out"], 1, "{proxy:?}");
    assert_eq!(proxy.backends[0].failed, 1);
}

#[test]
#[ignore = "needs root"]
fn a_backend_that_accepts_and_is_silent() {
    let lab = Lab::new();
    let listener = listen(&lab);
    let set = ["--set", "proxy.idle_timeout=400ms"];
    let server = serve(&lab, BACKEND, &[&UNCHECKED[..], &set].concat());
    let idle = fds(&server) + 1;
    let mut client = lab.connect(&format!("{V4}:80"));
    let mut backend = accept(&listener);
    let start = Instant::now();
    client.write_all(b"hello").unwrap();
    backend.read_exact(&mut [0; 5]).unwrap();
    for stream in [&mut client, &mut backend] {
        let error = stream.read(&mut [0]).expect_err("an RST");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    assert!(start.elapsed() >= Duration::from_millis(400));
    let proxy = settled(&server, idle);
    assert_eq!(proxy.ended["idle"], 1, "{proxy:?}");
}

#[test]
#[ignore = "needs root"]
fn a_signal_lets_proxied_connections_end() {
    let lab = Lab::new();
    let listener = listen(&lab);
    let grace = ["--set", "shutdown.grace=1h"];
    let mut server = serve(&lab, BACKEND, &[&UNCHECKED[..], &grace].concat());
    let mut client = lab.connect(&format!("{V4}:80"));
    let mut backend = accept(&listener);
    client.write_all(b"before").unwrap();
    backend.read_exact(&mut [0; 6]).unwrap();
    server.signal(Signal::SIGTERM);
    lab.wait_until_stopping(&server, &format!("{V4}:80"));
    // With those that came before the signal was heard, and have gone.
    drop(listener);
    // What is open works on, both ways, until it ends by itself.
    client.write_all(b"during").unwrap();
    backend.read_exact(&mut [0; 6]).unwrap();
    backend.write_all(b"answer").unwrap();
    drop(backend);
    assert_eq!(read_all(&client), b"answer");
    drop(client);
    // Before the grace is over.
    assert_eq!(server.ended().code(), Some(0));
}

#[test]
#[ignore = "needs root"]
fn what_does_not_end_in_time_is_reset_on_both_sides() {
    let lab = Lab::new();
    let listener = listen(&lab);
    let grace = ["--set", "shutdown.grace=200ms"];
    let mut server = serve(&lab, BACKEND, &[&UNCHECKED[..], &grace].concat());
    let mut client = lab.connect(&format!("{V4}:80"));
    let mut backend = accept(&listener);
    client.write_all(b"x").unwrap();
    backend.read_exact(&mut [0]).unwrap();
    server.signal(Signal::SIGTERM);
    for stream in [&mut client, &mut backend] {
        let error = stream.read(&mut [0]).expect_err("an RST");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    assert_eq!(server.ended().code(), Some(0));
}
