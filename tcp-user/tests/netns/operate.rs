//! What an operator asks a running server: `conns`, `drain`, `doctor`, and the protocol
//! of the control socket.

use crate::lab::{Lab, PATIENCE, Server, V4, noise, wait_for};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;
use tcp_user::control::records::Connection;

fn echo(lab: &Lab, data: &[u8]) -> TcpStream {
    let mut stream = lab.connect(&format!("{V4}:7"));
    stream.write_all(data).unwrap();
    stream.read_exact(&mut vec![0; data.len()]).unwrap();
    stream
}

fn conns(server: &Server, args: &[&str]) -> Vec<Connection> {
    let args = [args, &["--json"]].concat();
    serde_json::from_str(&server.client("conns", &args)).unwrap()
}

fn tcp_user(server: &Server, args: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_tcp-user"))
        .args(args)
        .args(["--control", &server.control])
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[test]
#[ignore = "needs root"]
fn conns_are_filtered_sorted_and_told_in_full() {
    let lab = Lab::new();
    let server = lab.serve(&[]);
    let small = echo(&lab, b"ping");
    let large = echo(&lab, &noise(50_000));
    let http = lab.connect(&format!("{V4}:80"));
    wait_for("three connections", || conns(&server, &[]).len() == 3);

    let most = conns(&server, &["--sort", "bytes", "--limit", "1"]);
    assert_eq!(most.len(), 1);
    assert_eq!(most[0].remote, large.local_addr().unwrap());
    assert_eq!(most[0].bytes_in, 50_000);
    assert_eq!(conns(&server, &["--port", "80"]).len(), 1);
    let port = small.local_addr().unwrap().port().to_string();
    let one = conns(&server, &["--peer-port", &port]);
    assert_eq!(one[0].remote, small.local_addr().unwrap());
    assert_eq!(conns(&server, &["--peer", "192.0.2.0/24"]).len(), 3);
    assert_eq!(conns(&server, &["--peer", "198.51.100.0/24"]).len(), 0);
    assert_eq!(conns(&server, &["--state", "established"]).len(), 3);
    assert_eq!(conns(&server, &["--state", "time-wait"]).len(), 0);
    let (code, _, error) = tcp_user(&server, &["conns", "--state", "open"]);
    assert!(code == Some(2) && error.contains("open"), "{error}");

    // What the kernel at the other end knows of the same connection.
    let text = server.client("conns", &["--peer-port", &port]);
    let second = text.lines().nth(2).unwrap();
    for part in [
        "ts sack", "wscale:", "rtt:", "rto:", "mss:1448", "cwnd:", "rcv_wnd:",
    ] {
        assert!(second.contains(part), "{part}: {text}");
    }
    let brief = server.client("conns", &["--brief"]);
    assert_eq!(brief.lines().count(), 4, "{brief}");

    let stats = server.stats();
    assert_eq!(stats.states["ESTABLISHED"], 3);
    let echo = stats
        .listens
        .iter()
        .find(|l| l.listen.place == "*:7")
        .unwrap();
    assert_eq!((echo.accepted, echo.open), (2, 2));
    let text = server.client("stats", &["--interval", "100ms"]);
    assert!(
        text.contains("listen *:7 echo cookie: 2 accepted (0/s), 2 open"),
        "{text}"
    );
    drop((small, http));
}

#[test]
#[ignore = "needs root"]
fn a_drained_listen_answers_no_more_and_its_connections_end() {
    let lab = Lab::new();
    let server = lab.serve(&[]);
    let busy = echo(&lab, b"ping");
    let mut idle = lab.connect(&format!("{V4}:80"));
    let idle = std::thread::spawn(move || idle.read(&mut [0]).unwrap());
    wait_for("two connections", || server.conns().len() == 2);

    let (code, out, _) = tcp_user(&server, &["drain", "*:80", "--wait", "90s"]);
    assert_eq!(
        (code, out.as_str()),
        (Some(0), "*:80: 0 connections left\n")
    );
    assert_eq!(idle.join().unwrap(), 0, "an idle connection is closed");
    let try_http = || lab.try_connect(&format!("{V4}:80"), PATIENCE);
    assert_eq!(
        try_http().unwrap_err().kind(),
        std::io::ErrorKind::ConnectionRefused
    );

    // The other listen goes on until it is drained as well; what is busy is waited for.
    let (code, out, _) = tcp_user(&server, &["drain", "--wait", "300ms"]);
    assert_eq!(code, Some(1));
    assert!(out.ends_with("1 connections left\n"), "{out}");
    drop(busy);
    let (code, out, _) = tcp_user(&server, &["drain", "*:7", "--wait", "90s"]);
    assert_eq!((code, out.as_str()), (Some(0), "*:7: 0 connections left\n"));

    // Another policy ends it.
    server.client("listen", &["policy", "*:80", "cookie"]);
    let mut stream = try_http().unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    stream.read_exact(&mut [0; 10]).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    let mut rest = [0; 4096];
    while stream.read(&mut rest).is_ok_and(|n| n > 0) {}
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    stream.read_exact(&mut [0; 10]).expect("kept alive");

    let (code, _, error) = tcp_user(&server, &["drain", "*:81"]);
    assert!(code == Some(2) && error.contains("*:81"), "{error}");
}

#[test]
#[ignore = "needs root"]
fn the_server_examines_itself() {
    let lab = Lab::new();
    let server = lab.serve(&[]);
    let (code, out, _) = tcp_user(&server, &["doctor"]);
    assert!(
        out.contains("ok    kernel") && out.contains("driver        veth"),
        "{out}"
    );
    assert!(out.contains("tcp_xdp"), "its own program is named: {out}");
    assert_eq!(code, Some(0), "what was dropped does not fail: {out}");
}

#[test]
#[ignore = "needs root"]
fn the_control_socket_greets_and_refuses_other_versions() {
    let lab = Lab::new();
    let server = lab.serve(&[]);
    let stream = UnixStream::connect(&server.control).unwrap();
    let mut lines = BufReader::new(&stream).lines();
    let greeting = lines.next().unwrap().unwrap();
    assert!(
        greeting.contains("\"tcp_xdp\":1") && greeting.contains("eth0"),
        "{greeting}"
    );
    for (request, answer) in [
        ("{\"v\":2,\"cmd\":\"stats\"}\n", "version 2"),
        ("{\"cmd\":\"fly\"}\n", "fly"),
        ("GET / HTTP/1.1\n", "error"),
        ("{\"v\":1,\"cmd\":\"conns\",\"limit\":1}\n", "[]"),
        (
            "{\"cmd\":\"conns\",\"filter\":{\"states\":[\"x\"]}}\n",
            "unknown state",
        ),
    ] {
        (&stream).write_all(request.as_bytes()).unwrap();
        let line = lines.next().unwrap().unwrap();
        assert!(line.contains(answer), "{request}: {line}");
    }

    // A server of the future.
    let path = format!("{}.future", server.control);
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let future = std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        client
            .write_all(b"{\"tcp_xdp\":9,\"more\":true}\n")
            .unwrap();
    });
    let output = Command::new(env!("CARGO_BIN_EXE_tcp-user"))
        .args(["stats", "--control", &path])
        .output()
        .unwrap();
    std::fs::remove_file(&path).unwrap();
    future.join().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(
        error.contains("version 9") && error.contains("version 1"),
        "{error}"
    );
}
