//! Both directions against the kernel's TCP over paths that lose, double and reorder frames.
//!
//! `TCP_XDP_LOSS_OCTETS=50000000` makes every transfer so long, and loses up to a tenth.

use crate::lab::{Lab, V4, assert_no_resets, exchange, noise, octet, tcp_counter};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};
use xtask::netns::{Namespace, VethEnd, VethPair};

/// Losses in parts of a thousand, each way, and octets to transfer.
const PATHS: [(u32, usize); 5] = [
    (0, 10_000_000),
    (1, 10_000_000),
    (10, 5_000_000),
    (50, 3_000_000),
    (100, 500_000),
];
/// A transfer takes seconds at worst; this only tells it from one that stands still.
const LIMIT: Duration = Duration::from_mins(5);

fn paths() -> impl Iterator<Item = (u32, usize)> {
    let octets = std::env::var("TCP_XDP_LOSS_OCTETS").ok();
    let octets: Option<usize> = octets.map(|text| text.parse().expect("a number"));
    PATHS
        .map(|(loss, len)| (loss, octets.unwrap_or(len)))
        .into_iter()
}

/// A client behind a router, which loses what it forwards: silently, as a path does. A rule at an
/// end would tell that end's TCP.
struct Far {
    client: Namespace,
    _pair: VethPair,
    /// Its client is the router.
    lab: Lab,
}

impl Far {
    fn new() -> Self {
        let lab = Lab::new();
        let client = Namespace::unique("far").unwrap();
        let pair = VethPair::create(
            &VethEnd::new(&lab.client, "far0").address("198.51.100.1/24"),
            &VethEnd::new(&client, "eth0").address("198.51.100.2/24"),
        )
        .unwrap();
        for interface in ["far0", "peer0"] {
            let path = format!("ipv4/conf/{interface}/forwarding");
            lab.client.sysctl(&path, "1").unwrap();
        }
        let route = ["route", "add", "192.0.2.0/24", "via", "198.51.100.1"];
        client.run("ip", &route).unwrap();
        Self {
            client,
            _pair: pair,
            lab,
        }
    }

    /// Drops so many of a thousand frames, each way.
    fn lose(&self, per_mille: u32) {
        let rule = if per_mille > 0 {
            format!("numgen random mod 1000 < {per_mille} drop")
        } else {
            "accept".to_owned()
        };
        let rules = format!(
            "flush ruleset ; table ip loss {{ \
             chain forward {{ type filter hook forward priority 0 ; {rule} ; }} ; }}"
        );
        self.lab.client.run("nft", &[&rules]).unwrap();
    }
}

/// Drops so many of a thousand frames at the client's own hooks, which its TCP notices where it
/// sends.
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
fn connect(client: &Namespace, port: u16) -> TcpStream {
    let to: SocketAddr = format!("{V4}:{port}").parse().unwrap();
    let stream = client.enter(|| TcpStream::connect_timeout(&to, LIMIT));
    let stream = stream.unwrap().unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.set_write_timeout(Some(LIMIT)).unwrap();
    stream
}

/// It ended in time and without a reset.
fn check_end(client: &Namespace, took: Duration, what: &str) {
    eprintln!("{what}: {:.2} s", took.as_secs_f64());
    assert!(took < LIMIT, "{what}: {took:?}");
    // A client that has closed answers a late copy with an RST, which is as it should be.
    assert_eq!(tcp_counter(client, "EstabResets"), 0, "{what}");
}

fn download(client: &Namespace, len: usize, what: &str) {
    let start = Instant::now();
    let mut stream = connect(client, 80);
    write!(
        stream,
        "GET /bytes/{len} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    let took = start.elapsed();
    let head = all.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
    let body = &all[head..];
    assert_eq!(body.len(), len, "{what}");
    let wrong = (0..len).find(|&i| body[i] != octet(i));
    assert_eq!(wrong, None, "{what}");
    check_end(client, took, &format!("{len} down, {what}"));
}

fn echo(client: &Namespace, len: usize, what: &str) {
    let start = Instant::now();
    let stream = connect(client, 7);
    let data = noise(len);
    let got = exchange(&stream, &data);
    assert!(got == data, "{what}: {} octets", got.len());
    let took = start.elapsed();
    check_end(client, took, &format!("{len} up and down, {what}"));
}

fn downloads(congestion: &str) {
    let far = Far::new();
    let set = format!("tcp.congestion={congestion}");
    let _server = far.lab.serve(&["--set", &set]);
    for (per_mille, len) in paths() {
        far.lose(per_mille);
        let what = format!("{congestion}, {per_mille} of 1000 lost");
        download(&far.client, len, &what);
    }
    assert_no_resets(&far.client);
}

#[test]
#[ignore = "needs root"]
fn a_download_over_a_lossy_path_is_exact() {
    downloads("cubic");
}

#[test]
#[ignore = "needs root"]
fn a_download_over_a_lossy_path_is_exact_with_reno() {
    downloads("reno");
}

#[test]
#[ignore = "needs root"]
fn a_download_over_a_lossy_path_is_exact_with_bbr() {
    downloads("bbr");
}

#[test]
#[ignore = "needs root"]
fn an_echo_over_a_lossy_path_is_exact() {
    let far = Far::new();
    let _server = far.lab.serve(&[]);
    for (per_mille, len) in paths() {
        far.lose(per_mille);
        echo(&far.client, len, &format!("{per_mille} of 1000 lost"));
    }
}

/// The tap between engine and device: what nft cannot do.
#[test]
#[ignore = "needs root"]
fn doubled_and_late_frames_change_nothing() {
    for (congestion, faults) in [
        ("cubic", "reorder=10%,seed=1"),
        ("cubic", "duplicate=5%,seed=2"),
        ("bbr", "loss=1%,duplicate=1%,reorder=5%,seed=3"),
        ("cubic", "loss=1%,duplicate=1%,reorder=5%,seed=4"),
        ("reno", "loss=5%,duplicate=5%,reorder=20%,seed=5"),
    ] {
        let lab = Lab::new();
        let set = format!("tcp.congestion={congestion}");
        let _server = lab.serve(&["--set", &set, "--faults", faults]);
        let what = format!("{congestion}, {faults}");
        let len = paths().map(|(_, len)| len).min().unwrap().max(2_000_000);
        download(&lab.client, len, &what);
        echo(&lab.client, len, &what);
    }
}
