//! `tcp-user trace --svg` and `--mermaid` of a real connection.

use crate::lab::{Lab, V4, read_all, wait_for};
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

#[test]
#[ignore = "needs root"]
fn a_connection_is_drawn_when_it_has_ended() {
    let lab = Lab::new();
    let server = lab.serve(&[]);
    let file = std::env::temp_dir().join(format!("{}.svg", lab.server.name()));
    let mut watcher = Command::new(env!("CARGO_BIN_EXE_tcp-user"))
        .args([
            "trace",
            "--mermaid",
            "--port",
            "80",
            "--for",
            "90s",
            "--svg",
        ])
        .arg(&file)
        .args(["--control", &server.control])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It does not say when the server knows of it: the first connections may go unseen.
    wait_for("a drawing", || {
        // Another port is not drawn.
        drop(lab.connect(&format!("{V4}:7")));
        let mut stream = lab.connect(&format!("{V4}:80"));
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .unwrap();
        read_all(&stream);
        drop(stream);
        std::thread::sleep(Duration::from_millis(500));
        watcher.try_wait().unwrap().is_some()
    });
    let output = watcher.wait_with_output().unwrap();
    let svg = std::fs::read_to_string(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(svg.matches(">XDP</text>").count(), 2, "{svg}");
    for state in [
        "SYN-SENT",
        "SYN-RECEIVED",
        "ESTABLISHED",
        "FIN-WAIT-1",
        "TIME-WAIT",
    ] {
        assert!(svg.contains(&format!(">{state}</text>")), "{state}: {svg}");
    }
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("sequenceDiagram\n"), "{text}");
    assert_eq!(text.matches("sequenceDiagram").count(), 1, "{text}");
    assert!(
        text.contains("participant S as server 192.0.2.2:80"),
        "{text}"
    );
}
