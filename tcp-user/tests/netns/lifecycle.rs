//! Start, idle, stop, kill and start again.

use crate::lab::{Lab, PATIENCE, SHORT, V4, V6, noise, read_all, wait_for};
use nix::sys::signal::Signal;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::Duration;

#[test]
#[ignore = "needs root"]
fn kill_and_start_again_at_once() {
    let lab = Lab::new();
    for mode in ["native", "generic", "native"] {
        let mut server = lab.serve(&["--mode", mode]);
        let mut stream = lab.connect(&format!("{V4}:7"));
        stream.write_all(b"ping").unwrap();
        stream.read_exact(&mut [0; 4]).unwrap();
        server.signal(Signal::SIGKILL);
        server.ended();
    }
    wait_for("the program to be detached", || !lab.is_attached());
}

#[test]
#[ignore = "needs root"]
fn a_signal_lets_connections_end() {
    let lab = Lab::new();
    let mut server = lab.serve(&["--set", "shutdown.grace=1h"]);
    let mut stream = lab.connect(&format!("{V4}:7"));
    let idle = lab.connect(&format!("{V4}:80"));
    stream.write_all(b"before").unwrap();
    stream.read_exact(&mut [0; 6]).unwrap();
    server.signal(Signal::SIGTERM);
    lab.wait_until_stopping(&server, &format!("{V4}:9"));

    // The open connection works on, the idle one was closed, a new one is not made.
    let data = noise(100_000);
    stream.write_all(&data).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert!(read_all(&stream) == data);
    drop(stream);
    assert_eq!(read_all(&idle), b"");
    let refused = lab.try_connect(&format!("{V4}:7"), SHORT);
    drop(idle);
    assert!(refused.is_err());
    // Before the grace is over.
    assert_eq!(server.ended().code(), Some(0));
    assert!(!lab.is_attached());
}

#[test]
#[ignore = "needs root"]
fn what_does_not_end_in_time_is_reset() {
    let lab = Lab::new();
    let mut server = lab.serve(&["--set", "shutdown.grace=300ms"]);
    let mut stream = lab.connect(&format!("{V4}:7"));
    stream.write_all(b"x").unwrap();
    stream.read_exact(&mut [0]).unwrap();
    server.signal(Signal::SIGINT);
    let error = stream.read(&mut [0]).expect_err("RST");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(server.ended().code(), Some(0));
    assert!(!lab.is_attached());
}

#[test]
#[ignore = "needs root"]
fn a_second_signal_ends_at_once() {
    let lab = Lab::new();
    let mut server = lab.serve(&["--set", "shutdown.grace=1h"]);
    let mut stream = lab.connect(&format!("{V4}:7"));
    stream.write_all(b"x").unwrap();
    stream.read_exact(&mut [0]).unwrap();
    server.signal(Signal::SIGINT);
    // It knows of the first one.
    lab.wait_until_stopping(&server, &format!("{V4}:9"));
    assert!(server.wait(Duration::from_millis(300)).is_none());
    server.signal(Signal::SIGINT);
    assert_eq!(server.ended().code(), Some(0));
}

#[test]
#[ignore = "needs root"]
fn an_idle_server_sleeps() {
    let lab = Lab::new();
    let server = lab.serve(&[]);
    let mut streams: Vec<_> = (0..20).map(|_| lab.connect(&format!("{V4}:7"))).collect();
    for stream in &mut streams {
        stream.write_all(b"x").unwrap();
        stream.read_exact(&mut [0]).unwrap();
    }
    std::thread::sleep(Duration::from_millis(500));
    let (before, woken) = (server.cpu(), server.wakeups());
    std::thread::sleep(Duration::from_secs(3));
    let used = server.cpu().saturating_sub(before);
    let woken = server.wakeups() - woken;
    println!("{used:?}, {woken} wakeups");
    assert!(woken <= 100, "{woken} wakeups in 3 s");
    // What one of them costs is up to the machine.
    assert!(used <= Duration::from_millis(300), "{used:?} in 3 s");
}

#[test]
#[ignore = "needs root"]
fn addresses_that_come_and_go_are_served_and_not() {
    let lab = Lab::new();
    let _server = lab.serve(&[]);
    let ip = |args: &[&str]| lab.server.run("ip", args).unwrap();
    ip(&["address", "add", "192.0.2.77/24", "dev", "eth0"]);
    // Until the server knows, the kernel refuses.
    let connect = |within| lab.try_connect("192.0.2.77:7", within);
    let mut stream = None;
    wait_for("the new address to be served", || {
        stream = connect(PATIENCE).ok();
        stream.is_some()
    });
    let mut stream = stream.unwrap();
    stream.write_all(b"x").unwrap();
    stream.read_exact(&mut [0]).unwrap();
    drop(stream);
    ip(&["address", "delete", "192.0.2.77/24", "dev", "eth0"]);
    wait_for("silence at the old one", || connect(SHORT).is_err());
}

#[test]
#[ignore = "needs root"]
fn cookies_outlive_the_rotation_of_keys() {
    let lab = Lab::new();
    let _server = lab.serve(&["--set", "cookie.slot=1"]);
    for host in [format!("{V4}:7"), format!("[{V6}]:7")]
        .iter()
        .cycle()
        .take(300)
    {
        let mut stream = lab.connect(host);
        stream.write_all(b"x").unwrap();
        stream.read_exact(&mut [0]).unwrap();
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(lab.client_resets(), 0);
}
