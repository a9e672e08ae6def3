//! Many connections: one after another, at once, and through a flood.

use crate::lab::{Lab, PATIENCE, V4, noise, read_all, wait_for};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

fn get(lab: &Lab) -> Vec<u8> {
    let mut stream = lab.connect(&format!("{V4}:80"));
    stream
        .write_all(b"GET /bytes/1000 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .unwrap();
    read_all(&stream)
}

#[test]
#[ignore = "needs root"]
fn a_thousand_connections_one_after_another() {
    let lab = Lab::new();
    let server = lab.serve(&["--set", "tcp.msl=1s"]);
    let first = get(&lab);
    for n in 1..1000 {
        assert!(get(&lab) == first, "connection {n}");
    }
    lab.assert_no_resets();
    let stats = server.stats();
    // XDP answers, or userspace where the client's port is still in TIME-WAIT.
    let userspace = &stats.workers[0].frames;
    assert_eq!(
        stats.xdp["syn_ack"] + userspace["syn"],
        1000,
        "no SYN was needed twice"
    );
    assert_eq!(userspace["accepted"], 1000);
    assert!(stats.xdp["to_accept"] >= stats.xdp["syn_ack"]);
    let frames: u64 = stats.xdp.values().sum();
    assert_eq!(frames, stats.xdp_frames);
}

#[test]
#[ignore = "needs root"]
fn two_hundred_connections_at_once() {
    let lab = Lab::new();
    let server = lab.serve(&[]);
    let streams: Vec<TcpStream> = (0..200).map(|_| lab.connect(&format!("{V4}:7"))).collect();
    let data = noise(100_000);
    std::thread::scope(|scope| {
        for stream in &streams {
            let data = &data;
            scope.spawn(move || {
                let mut to = stream;
                to.write_all(data).unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
            });
        }
        for stream in &streams {
            assert!(read_all(stream) == data);
        }
    });
    drop(streams);
    lab.assert_no_resets();
    wait_for("the end", || server.conns().is_empty());
}

#[test]
#[ignore = "needs root"]
fn a_connection_stays_with_its_worker_wherever_its_segments_arrive() {
    let lab = Lab::with_queues(2);
    let server = lab.serve(&[]);
    assert!(server.ready.contains("queues=2"), "{}", server.ready);
    let first = get(&lab);
    for n in 1..200 {
        assert!(get(&lab) == first, "connection {n}");
    }
    let data = noise(1_000_000);
    for _ in 0..5 {
        let stream = lab.connect(&format!("{V4}:7"));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut to = &stream;
                to.write_all(&data).unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
            });
            assert!(read_all(&stream) == data);
        });
    }
    lab.assert_no_resets();
    let stats = server.stats();
    assert_eq!(stats.workers.len(), 2);
    let accepted: u64 = stats.workers.iter().map(|w| w.frames["accepted"]).sum();
    assert_eq!(accepted, 205);
}

#[test]
#[ignore = "needs root"]
fn no_connection_beyond_the_limit() {
    let lab = Lab::new();
    let server = lab.serve(&["--set", "tcp.max_connections=4"]);
    let mut streams: Vec<TcpStream> = (0..4).map(|_| lab.connect(&format!("{V4}:7"))).collect();
    for stream in &mut streams {
        stream.write_all(b"x").unwrap();
        stream.read_exact(&mut [0]).unwrap();
    }
    // The cookie is valid, the table is full: RST.
    let fifth = lab
        .try_connect(&format!("{V4}:7"), PATIENCE)
        .and_then(|mut fifth| {
            fifth.write_all(b"x")?;
            fifth.read_exact(&mut [0])
        });
    let error = fifth.expect_err("no room");
    assert_ne!(error.kind(), std::io::ErrorKind::TimedOut);
    drop(streams);
    wait_for("room", || server.conns().is_empty());
    let mut sixth = lab.connect(&format!("{V4}:7"));
    sixth.write_all(b"x").unwrap();
    sixth.read_exact(&mut [0]).unwrap();
}
