//! Several backends: who gets a connection, and who is left out.

use crate::lab::{Lab, PATIENCE, V4, read_all, wait_for};
use crate::programs::nginx;
use crate::proxy::{curl, proxy, serve};
use std::collections::BTreeMap;
use std::io::Write;
use std::net::TcpListener;

const THREE: &str = "127.0.0.1:8081,127.0.0.1:8082,127.0.0.1:8083";

/// An nginx server that says its port.
fn says(port: u16) -> String {
    format!("server {{ listen 127.0.0.1:{port}; location / {{ return 200 {port}; }} }}\n")
}

/// How often each backend answered.
fn answers(lab: &Lab, n: usize) -> BTreeMap<String, usize> {
    let mut count = BTreeMap::new();
    for _ in 0..n {
        *count
            .entry(curl(lab, &[&format!("http://{V4}/")]))
            .or_default() += 1;
    }
    count
}

fn counts(pairs: &[(&str, usize)]) -> BTreeMap<String, usize> {
    pairs.iter().map(|(k, n)| ((*k).to_owned(), *n)).collect()
}

#[test]
#[ignore = "needs root"]
fn connections_go_to_each_backend_in_turn() {
    let lab = Lab::new();
    let servers: String = [8081, 8082, 8083].map(says).concat();
    let _nginx = nginx(&lab.server, "127.0.0.1:8081", &servers);
    let server = serve(&lab, THREE, &[]);
    let want = counts(&[("8081", 4), ("8082", 4), ("8083", 4)]);
    assert_eq!(answers(&lab, 12), want);
    let connected: Vec<u64> = proxy(&server)
        .backends
        .iter()
        .map(|b| b.connected)
        .collect();
    assert_eq!(connected, [4, 4, 4]);
}

#[test]
#[ignore = "needs root"]
fn the_backend_with_the_fewest_connections_gets_the_next() {
    let lab = Lab::new();
    let listeners: Vec<TcpListener> = lab
        .server
        .enter(|| [8081, 8082].map(|port| TcpListener::bind(("127.0.0.1", port)).unwrap()))
        .unwrap()
        .into();
    let target = "127.0.0.1:8081,127.0.0.1:8082?balance=least-connections";
    let server = serve(&lab, target, &["--set", "proxy.health_interval=0s"]);
    let open = || -> Vec<usize> { proxy(&server).backends.iter().map(|b| b.active).collect() };
    let connect = || {
        let mut stream = lab.connect(&format!("{V4}:80"));
        stream.write_all(b"x").unwrap();
        stream
    };
    let all: Vec<_> = (0..6).map(|_| connect()).collect();
    wait_for("three each", || open() == [3, 3]);
    // The first backend ends its connections; the next three are its own.
    for _ in 0..3 {
        drop(listeners[0].accept().unwrap());
    }
    wait_for("none", || open()[0] == 0);
    let more: Vec<_> = (0..3).map(|_| connect()).collect();
    wait_for("three each again", || open() == [3, 3]);
    drop((all, more));
}

#[test]
#[ignore = "needs root"]
fn a_dead_backend_is_left_out_and_comes_back() {
    let lab = Lab::new();
    let servers: String = [8081, 8083].map(says).concat();
    let _nginx = nginx(&lab.server, "127.0.0.1:8081", &servers);
    let second = nginx(&lab.server, "127.0.0.1:8082", &says(8082));
    let server = serve(&lab, THREE, &["--set", "proxy.health_interval=50ms"]);
    assert_eq!(answers(&lab, 6).len(), 3);
    let up = || -> Vec<bool> { proxy(&server).backends.iter().map(|b| b.up).collect() };

    second.kill();
    // No client notices, before the checks do or after: another backend is tried.
    assert_eq!(answers(&lab, 6).values().sum::<usize>(), 6);
    wait_for("down", || up() == [true, false, true]);
    let failed = proxy(&server).backends[1].failed;
    assert_eq!(answers(&lab, 6), counts(&[("8081", 3), ("8083", 3)]));
    assert_eq!(proxy(&server).backends[1].failed, failed, "not even tried");

    let _again = nginx(&lab.server, "127.0.0.1:8082", &says(8082));
    wait_for("up", || up() == [true; 3]);
    assert_eq!(answers(&lab, 6).len(), 3);
}

#[test]
#[ignore = "needs root"]
fn a_backend_that_drains_keeps_its_connections_and_gets_no_new_ones() {
    let lab = Lab::new();
    let servers: String = [8081, 8082].map(says).concat();
    let _nginx = nginx(&lab.server, "127.0.0.1:8081", &servers);
    let server = serve(&lab, "127.0.0.1:8081,127.0.0.1:8082", &[]);
    // The first in turn is the first backend.
    let mut open = lab.connect(&format!("{V4}:80"));
    wait_for("open", || proxy(&server).backends[0].active == 1);
    let text = server.client("backend", &["drain", "127.0.0.1:8081"]);
    assert!(
        text.contains("127.0.0.1:8081 up, draining: 1 open"),
        "{text}"
    );
    assert_eq!(answers(&lab, 4), counts(&[("8082", 4)]));
    let close = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    open.write_all(close).unwrap();
    assert!(read_all(&open).ends_with(b"8081"));
    drop(open);
    wait_for("drained", || proxy(&server).backends[0].active == 0);
    server.client("backend", &["use", "127.0.0.1:8081"]);
    assert_eq!(answers(&lab, 4).len(), 2);
    let args = [
        "backend",
        "drain",
        "127.0.0.1:9",
        "--control",
        &server.control,
    ];
    let (code, text) = lab.refused(&args);
    assert_eq!(code, Some(2));
    assert!(text.contains("127.0.0.1:9 is no backend"), "{text}");
}

#[test]
#[ignore = "needs root"]
fn without_a_backend_the_client_is_reset_at_once() {
    let lab = Lab::new();
    let server = serve(
        &lab,
        "127.0.0.1:8081",
        &["--set", "proxy.health_interval=50ms"],
    );
    wait_for("down", || !proxy(&server).backends[0].up);
    let read = lab
        .try_connect(&format!("{V4}:80"), PATIENCE)
        .and_then(|mut stream| std::io::Read::read(&mut stream, &mut [0]));
    let error = read.expect_err("an RST");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    wait_for("counted", || proxy(&server).ended["no_backend"] == 1);
    let _nginx = nginx(&lab.server, "127.0.0.1:8081", &says(8081));
    wait_for("up", || proxy(&server).backends[0].up);
    assert_eq!(answers(&lab, 1), counts(&[("8081", 1)]));
    wait_for("its end", || proxy(&server).backends[0].active == 0);
    let text = server.client("stats", &[]);
    assert!(
        text.contains("127.0.0.1:8081 up: 0 open, 1 connected"),
        "{text}"
    );
    assert!(text.contains("no_backend"), "{text}");
}

#[test]
#[ignore = "needs root"]
fn a_backend_is_found_by_name() {
    let lab = Lab::new();
    let _nginx = nginx(&lab.server, "127.0.0.1:8081", &says(8081));
    let server = serve(
        &lab,
        "localhost:8081",
        &["--set", "proxy.resolve_interval=20ms"],
    );
    // localhost may have an IPv6 address as well, where nobody listens: the other is tried.
    assert_eq!(answers(&lab, 4), counts(&[("8081", 4)]));
    drop(server);
    let listen = "*:80=proxy:no-such-host.invalid:80";
    let (code, text) = lab.refused(&["run", "--iface", "eth0", "--listen", listen]);
    assert_eq!(code, Some(2), "{text}");
    assert!(
        text.contains("--listen *:80=proxy:no-such-host.invalid:80"),
        "{text}"
    );
    assert_eq!(text.lines().count(), 1, "{text}");
}
