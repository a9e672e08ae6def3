//! Streams for tokio: the examples over our TCP, and over the kernel's as the oracle.

use crate::lab::{Lab, V4, V6, noise, read_all};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::Duration;

#[test]
#[ignore = "needs root"]
fn an_echo_task_in_the_server_returns_ten_megabytes() {
    for (mode, host) in [("native", V4.to_owned()), ("generic", format!("[{V6}]"))] {
        let lab = Lab::new();
        let server = lab.run(&["--mode", mode, "--listen", "*:7=tokio-echo"]);
        let stream = lab.connect(&format!("{host}:7"));
        let data = noise(10_000_000);
        let back = std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut to = &stream;
                to.write_all(&data).unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
            });
            read_all(&stream)
        });
        assert!(back == data, "{} octets came back", back.len());
        drop(stream);
        assert_eq!(lab.client_resets(), (0, 0));
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(server.conns(), []);
    }
}

#[test]
#[ignore = "needs root"]
fn the_echo_example_returns_ten_megabytes() {
    for kernel in [false, true] {
        let lab = Lab::new();
        let _server = lab.example("echo", &format!("{V4}:7"), kernel, &[]);
        let stream = lab.connect(&format!("{V4}:7"));
        let data = noise(10_000_000);
        let back = std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut to = &stream;
                to.write_all(&data).unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
            });
            // Every buffer on the way fills, windows close on both sides.
            std::thread::sleep(Duration::from_secs(1));
            read_all(&stream)
        });
        assert!(back == data, "{} octets came back", back.len());
        drop(stream);
        assert_eq!(lab.client_resets(), (0, 0));
    }
}

#[test]
#[ignore = "needs root"]
fn a_listener_comes_and_goes_with_its_program() {
    let lab = Lab::new();
    let mut server = lab.example("echo", &format!("{V4}:7"), false, &[]);
    let mut stream = lab.connect(&format!("{V4}:7"));
    stream.write_all(b"hello").unwrap();
    let mut back = [0; 5];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"hello");
    let listens = server.client("listen", &["list"]);
    assert!(
        listens.contains(&format!("{V4}:7  cookie    stream")),
        "{listens}"
    );
    drop(stream);
    server.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(server.wait(Duration::from_secs(10)).unwrap().success());
    assert!(!lab.is_attached());
}
