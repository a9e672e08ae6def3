//! The ladder, and the commands for a running server.

use crate::lab::{Lab, V4, read_all};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::Duration;
use tcp_user::control::records::Segment;

fn get(lab: &Lab) {
    let mut stream = lab.connect(&format!("{V4}:80"));
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .unwrap();
    read_all(&stream);
}

#[test]
#[ignore = "needs root"]
fn the_ladder_starts_with_what_xdp_did() {
    let lab = Lab::new();
    let server = lab.serve(&["--trace"]);
    get(&lab);
    let lines = server.printed();
    let text = lines.join("\n");
    assert!(
        lines[0].contains("192.0.2.1:") && lines[0].contains("192.0.2.2:80"),
        "{text}"
    );
    assert!(
        lines[2].contains("SYN-SENT") && lines[2].contains("──▶ SYN "),
        "{text}"
    );
    assert!(
        lines[3].contains("◀── SYN,ACK") && lines[3].contains("SYN-RECEIVED"),
        "{text}"
    );
    assert!(
        lines[2].ends_with("(by XDP)") && lines[3].ends_with("(by XDP)"),
        "{text}"
    );
    assert!(
        lines[4].contains("──▶ ACK") && lines[4].contains("ESTABLISHED"),
        "{text}"
    );
    assert!(lines.last().unwrap().contains("TIME-WAIT"), "{text}");
    assert!(
        lines[4..]
            .iter()
            .all(|l| l.chars().count() <= 120 && !l.contains('\x1b')),
        "{text}"
    );
}

#[test]
#[ignore = "needs root"]
fn a_running_server_can_be_watched() {
    let lab = Lab::new();
    let server = lab.serve(&[]);
    let mode = std::fs::metadata(&server.control)
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);

    let mut watcher = Command::new(env!("CARGO_BIN_EXE_tcp-user"))
        .args(["trace", "--json", "--control", &server.control])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(200));
    get(&lab);
    let mut segments: Vec<Segment> = Vec::new();
    for line in BufReader::new(watcher.stdout.take().unwrap()).lines() {
        segments.push(serde_json::from_str(&line.unwrap()).unwrap());
        if segments.last().unwrap().server == "TIME-WAIT" {
            break;
        }
    }
    let _ = watcher.kill();
    let _ = watcher.wait();
    assert!(segments[0].by_xdp && segments[0].flags == "SYN");
    assert!(segments[1].by_xdp && segments[1].flags == "SYN,ACK");
    assert_eq!(segments[1].ack, segments[0].seq.wrapping_add(1));
    assert_eq!(segments[2].ack, segments[1].seq.wrapping_add(1));

    let stats = server.stats();
    assert_eq!(stats.xdp["syn_ack"], 1);
    assert_eq!(stats.workers.len(), 1);
    assert_eq!(stats.workers[0].frames["accepted"], 1);
    assert!(server.client("stats", &[]).contains("syn_ack"));
    assert!(server.client("conns", &[]).contains("TIME-WAIT"));
}
