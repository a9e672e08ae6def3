//! Start, idle, stop, kill and start again.

use crate::lab::{Lab, V4, V6, noise, read_all};
use nix::sys::signal::Signal;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

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
        server.wait(Duration::from_secs(5)).unwrap();
    }
    let start = Instant::now();
    while lab.is_attached() {
        assert!(start.elapsed() < Duration::from_secs(1), "still attached");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
#[ignore = "needs root"]
fn a_signal_lets_connections_end() {
    let lab = Lab::new();
    let mut server = lab.serve(&["--set", "shutdown.grace=10s"]);
    let mut stream = lab.connect(&format!("{V4}:7"));
    let idle = lab.connect(&format!("{V4}:80"));
    stream.write_all(b"before").unwrap();
    stream.read_exact(&mut [0; 6]).unwrap();
    server.signal(Signal::SIGTERM);
    std::thread::sleep(Duration::from_millis(200));

    // The open connection works on, the idle one was closed, a new one is not made.
    let data = noise(100_000);
    stream.write_all(&data).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert!(read_all(&stream) == data);
    drop(stream);
    assert_eq!(read_all(&idle), b"");
    let refused = lab.try_connect(&format!("{V4}:7"), Duration::from_millis(300));
    drop(idle);
    assert!(refused.is_err());
    let status = server
        .wait(Duration::from_secs(3))
        .expect("ends before the grace is over");
    assert_eq!(status.code(), Some(0));
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
    let status = server.wait(Duration::from_secs(2)).unwrap();
    assert_eq!(status.code(), Some(0));
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
    assert!(server.wait(Duration::from_millis(300)).is_none());
    server.signal(Signal::SIGINT);
    assert_eq!(server.wait(Duration::from_secs(2)).unwrap().code(), Some(0));
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
    let before = server.cpu();
    std::thread::sleep(Duration::from_secs(3));
    let used = server.cpu().saturating_sub(before);
    assert!(used <= Duration::from_millis(30), "{used:?} in 3 s");
}

#[test]
#[ignore = "needs root"]
fn addresses_that_come_and_go_are_served_and_not() {
    let lab = Lab::new();
    let _server = lab.serve(&[]);
    let ip = |args: &[&str]| lab.server.run("ip", args).unwrap();
    ip(&["address", "add", "192.0.2.77/24", "dev", "eth0"]);
    std::thread::sleep(Duration::from_millis(1500));
    let mut stream = lab.connect("192.0.2.77:7");
    stream.write_all(b"x").unwrap();
    stream.read_exact(&mut [0]).unwrap();
    drop(stream);
    ip(&["address", "delete", "192.0.2.77/24", "dev", "eth0"]);
    std::thread::sleep(Duration::from_millis(1500));
    let refused = lab.try_connect("192.0.2.77:7", Duration::from_millis(300));
    assert!(refused.is_err());
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
    assert_eq!(lab.client_resets().0, 0);
}
