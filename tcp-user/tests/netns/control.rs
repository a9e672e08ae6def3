//! The ladder, and the commands for a running server.

use crate::lab::{Lab, PATIENCE, V4, read_all, wait_for};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
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
    let lines = server.printed_until("TIME-WAIT");
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
    let (to, records) = channel();
    let stdout = BufReader::new(watcher.stdout.take().unwrap());
    std::thread::spawn(move || {
        for line in stdout.lines().map_while(Result::ok) {
            let _ = to.send(serde_json::from_str::<Segment>(&line).unwrap());
        }
    });
    // It does not say when the server knows of it: the first connections may go unseen.
    let mut connections = 0;
    let mut segments: Vec<Segment> = Vec::new();
    wait_for("a connection that is seen from its SYN on", || {
        get(&lab);
        connections += 1;
        while let Ok(segment) = records.recv_timeout(Duration::from_millis(100)) {
            if !segments.is_empty() || segment.flags == "SYN" {
                segments.push(segment);
            }
        }
        !segments.is_empty()
    });
    let client = segments[0].remote;
    while segments.iter().all(|s| s.server != "TIME-WAIT") {
        segments.push(records.recv_timeout(PATIENCE).unwrap());
    }
    segments.retain(|s| s.remote == client);
    let _ = watcher.kill();
    let _ = watcher.wait();
    assert!(segments[0].by_xdp && segments[0].flags == "SYN");
    assert!(segments[1].by_xdp && segments[1].flags == "SYN,ACK");
    assert_eq!(segments[1].ack, segments[0].seq.wrapping_add(1));
    assert_eq!(segments[2].ack, segments[1].seq.wrapping_add(1));

    let stats = server.stats();
    assert_eq!(stats.xdp["syn_ack"], connections);
    assert_eq!(stats.workers.len(), 1);
    assert_eq!(stats.workers[0].frames["accepted"], connections);
    assert!(server.client("stats", &[]).contains("syn_ack"));
    assert!(server.client("conns", &[]).contains("TIME-WAIT"));
}
