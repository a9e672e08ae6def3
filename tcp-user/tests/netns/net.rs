//! Streams for tokio: the examples over our TCP, and over the kernel's as the oracle.

use crate::lab::{Lab, Server, V4, V6, exchange, noise, read_all, wait_for};
use crate::loss::lose;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

#[test]
#[ignore = "needs root"]
fn an_echo_task_in_the_server_returns_ten_megabytes() {
    for (mode, host) in [("native", V4.to_owned()), ("generic", format!("[{V6}]"))] {
        let lab = Lab::new();
        let server = lab.run(&["--mode", mode, "--listen", "*:7=tokio-echo"]);
        let stream = lab.connect(&format!("{host}:7"));
        let data = noise(10_000_000);
        let back = exchange(&stream, &data);
        assert!(back == data, "{} octets came back", back.len());
        drop(stream);
        lab.assert_no_resets();
        wait_for("the end", || server.conns().is_empty());
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
        lab.assert_no_resets();
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
    assert!(server.ended().success());
    assert!(!lab.is_attached());
}

/// Parts of a thousand frames that the path loses, each way.
const LOSSES: [u32; 2] = [0, 10];

fn curl(lab: &Lab, args: &[&str]) -> String {
    let mut all = vec!["-sS", "--fail-with-body", "--max-time", "60"];
    all.extend(args);
    lab.client.run("curl", &all).unwrap()
}

/// A file of noise that is removed at the end.
struct File(PathBuf, Vec<u8>);

impl File {
    fn new(lab: &Lab, len: usize) -> Self {
        let path = PathBuf::from(format!("/tmp/{}.noise", lab.client.name()));
        let data = noise(len);
        std::fs::write(&path, &data).unwrap();
        Self(path, data)
    }

    /// Posts it with curl; what comes back must be the same.
    fn posted(&self, lab: &Lab, url: &str, args: &[&str]) {
        let back = self.0.with_extension("back");
        let (from, to) = (format!("@{}", self.0.display()), back.to_str().unwrap());
        let mut all = vec!["--data-binary", &from, "-o", to, url];
        all.extend(args);
        curl(lab, &all);
        assert!(std::fs::read(&back).unwrap() == self.1, "{url}");
        std::fs::remove_file(&back).unwrap();
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// It ends by itself, with nothing left open.
fn check_end(mut server: Server) {
    server.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(server.ended().success());
}

#[test]
#[ignore = "needs root"]
fn axum_serves_curl_and_wrk_over_a_clean_and_a_lossy_path() {
    for kernel in [false, true] {
        let lab = Lab::new();
        let server = lab.example("web", &format!("{V4}:80"), kernel, &[]);
        let file = File::new(&lab, 3_000_000);
        for per_mille in LOSSES {
            lose(&lab, per_mille);
            let page = curl(&lab, &[&format!("http://{V4}/")]);
            assert_eq!(page, "hello from axum\n");
            // Without `Expect: 100-continue`, which waits a second.
            file.posted(&lab, &format!("http://{V4}/echo"), &["-H", "Expect:"]);
            let wrk = ["-t", "2", "-c", "50", "-d", "2s", "--timeout", "60s"];
            let url = format!("http://{V4}/bytes/10000");
            let report = lab
                .client
                .run("wrk", &[&wrk[..], &[&url]].concat())
                .unwrap();
            assert!(!report.contains("Socket errors"), "{report}");
            assert!(!report.contains("Non-2xx"), "{report}");
            let rate = report.split("Requests/sec:").nth(1).unwrap();
            let requests = rate.split_whitespace().next().unwrap();
            assert!(requests.parse::<f64>().unwrap() > 10.0, "{report}");
        }
        check_end(server);
    }
}

#[test]
#[ignore = "needs root"]
fn tls_serves_curl_over_a_clean_and_a_lossy_path() {
    for kernel in [false, true] {
        let lab = Lab::new();
        let pem = format!("/tmp/{}.pem", lab.server.name());
        let server = lab.example(
            "tls",
            &format!("{V4}:443"),
            kernel,
            &["--certificate", &pem],
        );
        let file = File::new(&lab, 3_000_000);
        for per_mille in LOSSES {
            lose(&lab, per_mille);
            let page = curl(&lab, &["--cacert", &pem, &format!("https://{V4}/")]);
            assert_eq!(page, "hello from axum behind TLS\n");
            let url = format!("https://{V4}/echo");
            file.posted(&lab, &url, &["--cacert", &pem, "-H", "Expect:"]);
        }
        std::fs::remove_file(&pem).unwrap();
        check_end(server);
    }
}

#[test]
#[ignore = "needs root"]
fn copy_bidirectional_forwards_half_closes_over_a_clean_and_a_lossy_path() {
    for kernel in [false, true] {
        let lab = Lab::new();
        let backend = lab
            .server
            .enter(|| TcpListener::bind("127.0.0.1:0"))
            .unwrap()
            .unwrap();
        let at = backend.local_addr().unwrap().to_string();
        let server = lab.example("forward", &format!("{V4}:80"), kernel, &["--backend", &at]);
        let data = noise(3_000_000);
        for per_mille in LOSSES {
            lose(&lab, per_mille);
            let stream = lab.connect(&format!("{V4}:80"));
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let mut to = &stream;
                    to.write_all(&data).unwrap();
                    stream.shutdown(Shutdown::Write).unwrap();
                });
                // It answers only after the client's FIN has come through.
                scope.spawn(|| {
                    let (mut stream, _) = backend.accept().unwrap();
                    let got = read_all(&stream);
                    assert!(got == data, "{} octets", got.len());
                    stream.write_all(&got).unwrap();
                });
                let back = read_all(&stream);
                assert!(back == data, "{} octets came back", back.len());
            });
        }
        lab.assert_no_resets();
        check_end(server);
    }
}
