//! Both directions against the kernel's TCP over a path that loses frames.

use crate::lab::{Lab, V4, noise, octet};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

/// Losses in parts of a thousand, each way, and octets to transfer.
const PATHS: [(u32, usize); 3] = [(0, 10_000_000), (10, 5_000_000), (50, 3_000_000)];
/// A transfer takes seconds at worst; this only tells it from one that stands still.
const LIMIT: Duration = Duration::from_mins(2);

/// Drops so many of a thousand frames, on their way to the client and from it.
pub fn lose(lab: &Lab, per_mille: u32) {
    let rule = format!("numgen random mod 1000 < {per_mille} drop");
    let rules = format!(
        "flush ruleset ; table inet loss {{ \
         chain in {{ type filter hook input priority 0; iifname \"peer0\" {rule} ; }} ; \
         chain out {{ type filter hook output priority 0; oifname \"peer0\" {rule} ; }} ; }}"
    );
    lab.client.run("nft", &[&rules]).unwrap();
}

/// A connection; a SYN or its answer may be lost, too.
fn connect(lab: &Lab, port: u16) -> TcpStream {
    let stream = lab.try_connect(&format!("{V4}:{port}"), LIMIT).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.set_write_timeout(Some(LIMIT)).unwrap();
    stream
}

/// It ended in time and without a reset.
fn check_end(lab: &Lab, start: Instant, what: &str) {
    assert!(start.elapsed() < LIMIT, "{what}: {:?}", start.elapsed());
    assert_eq!(lab.client_resets(), (0, 0), "{what}");
}

#[test]
#[ignore = "needs root"]
fn a_download_over_a_lossy_path_is_exact() {
    for congestion in ["cubic", "reno", "bbr"] {
        let lab = Lab::new();
        let _server = lab.serve(&["--set", &format!("tcp.congestion={congestion}")]);
        for (per_mille, len) in PATHS {
            lose(&lab, per_mille);
            let start = Instant::now();
            let mut stream = connect(&lab, 80);
            write!(
                stream,
                "GET /bytes/{len} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
            )
            .unwrap();
            let mut all = Vec::new();
            stream.read_to_end(&mut all).unwrap();
            let head = all.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
            let body = &all[head..];
            assert_eq!(body.len(), len, "{congestion} at {per_mille}");
            let wrong = (0..len).find(|&i| body[i] != octet(i));
            assert_eq!(wrong, None, "{congestion} at {per_mille}");
            check_end(&lab, start, &format!("{congestion} at {per_mille}"));
        }
    }
}

#[test]
#[ignore = "needs root"]
fn an_echo_over_a_lossy_path_is_exact() {
    let lab = Lab::new();
    let _server = lab.serve(&[]);
    for (per_mille, len) in PATHS {
        lose(&lab, per_mille);
        let start = Instant::now();
        let stream = connect(&lab, 7);
        let data = noise(len);
        let mut got = Vec::new();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut to = &stream;
                to.write_all(&data).unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
            });
            (&stream).read_to_end(&mut got).unwrap();
        });
        assert!(got == data, "{per_mille}: {} octets", got.len());
        check_end(&lab, start, &format!("{per_mille}"));
    }
}
