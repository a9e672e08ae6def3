//! The four apps, octet by octet.

use crate::lab::{Lab, V4, V6, exchange, noise, octet, read_all, wait_for};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::ChildStdout;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use xtask::tcpdump::Tcpdump;

const BOTH: [(&str, &str); 2] = [("native", V4), ("generic", V6)];

fn place(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

fn request(n: usize) -> String {
    format!("GET /bytes/{n} HTTP/1.1\r\nHost: x\r\n\r\n")
}

fn curl(lab: &Lab, args: &[&str]) -> String {
    let mut all = vec!["-sS", "-g", "--fail-with-body", "--max-time", "60"];
    all.extend(args);
    lab.client.run("curl", &all).unwrap()
}

#[test]
#[ignore = "needs root"]
fn curl_gets_the_page_in_both_families_and_modes() {
    for mode in ["native", "generic"] {
        let lab = Lab::new();
        let server = lab.serve(&["--mode", mode]);
        assert!(
            server
                .ready
                .starts_with(&format!("ready iface=eth0 mode={mode} queues=1")),
            "{}",
            server.ready
        );
        for host in [V4, V6] {
            let page = curl(&lab, &[&format!("http://{}/", place(host, 80))]);
            assert!(page.contains("<h1>tcp-xdp</h1>"), "{page}");
        }
        lab.assert_no_resets();
    }
}

#[test]
#[ignore = "needs root"]
fn fifty_megabytes_arrive_octet_by_octet() {
    const N: usize = 50_000_000;
    for (mode, host) in BOTH {
        let lab = Lab::new();
        let _server = lab.serve(&["--mode", mode]);
        let mut stream = lab.connect(&place(host, 80));
        write!(
            stream,
            "GET /bytes/{N} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let all = read_all(&stream);
        let head = all.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
        let body = &all[head..];
        assert_eq!(body.len(), N);
        let wrong = (0..N).find(|i| body[*i] != octet(*i));
        assert_eq!(wrong, None, "first wrong octet");
        assert_eq!(lab.client_resets(), 0);
    }
}

#[test]
#[ignore = "needs root"]
fn echo_returns_ten_megabytes_after_a_half_close() {
    for (mode, host) in BOTH {
        let lab = Lab::new();
        let server = lab.serve(&["--mode", mode]);
        let stream = lab.connect(&place(host, 7));
        let data = noise(10_000_000);
        let back = exchange(&stream, &data);
        assert!(back == data, "{} octets came back", back.len());
        drop(stream);
        lab.assert_no_resets();
        // Our side closed last: no TIME-WAIT here, which would take a minute.
        wait_for("the end", || server.conns().is_empty());
    }
}

#[test]
#[ignore = "needs root"]
fn echo_waits_for_a_reader_that_does_not_read() {
    let lab = Lab::new();
    let _server = lab.serve(&[]);
    let stream = lab.connect(&place(V4, 7));
    let data = noise(30_000_000);
    let back = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut to = &stream;
            to.write_all(&data).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
        });
        // Every buffer on the way fills, windows close on both sides.
        std::thread::sleep(Duration::from_secs(2));
        read_all(&stream)
    });
    assert!(back == data, "{} octets came back", back.len());
}

#[test]
#[ignore = "needs root"]
fn discard_takes_everything_and_closes_after_us() {
    let lab = Lab::new();
    let _server = lab.serve(&[]);
    let mut stream = lab.connect(&place(V4, 9));
    stream.write_all(&noise(5_000_000)).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&stream), b"");
}

#[test]
#[ignore = "needs root"]
fn chargen_sends_its_pattern_until_we_close() {
    let lab = Lab::new();
    let _server = lab.serve(&[]);
    let mut stream = lab.connect(&place(V4, 19));
    let mut text = vec![0; 1_000_000];
    stream.read_exact(&mut text).unwrap();
    for (n, line) in text.chunks_exact(74).enumerate() {
        assert!(line.ends_with(b"\r\n"));
        let first = b' ' + (n % 95) as u8;
        assert_eq!(line[0], first, "line {n}");
    }
    stream.shutdown(Shutdown::Write).unwrap();
    // The rest of what is queued, then the end.
    read_all(&stream);
}

#[test]
#[ignore = "needs root"]
fn http_keeps_the_connection_and_answers_in_order() {
    let lab = Lab::new();
    let _server = lab.serve(&[]);
    let mut stream = lab.connect(&place(V4, 80));
    let mut requests = String::new();
    for n in [0, 1, 100_000, 7] {
        requests.push_str(&request(n));
    }
    requests += "HEAD /bytes/5 HTTP/1.1\r\nHost: x\r\n\r\n";
    requests += "GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n";
    requests += "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc";
    requests += "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(requests.as_bytes()).unwrap();
    let all = read_all(&stream);
    let mut rest = &all[..];
    let mut answers = Vec::new();
    for n in 0..8 {
        let end = rest.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
        let head = std::str::from_utf8(&rest[..end]).unwrap();
        let status: u16 = head[9..12].parse().unwrap();
        let length: usize = head
            .lines()
            .find_map(|l| l.strip_prefix("Content-Length: "))
            .unwrap()
            .parse()
            .unwrap();
        let sent = if n == 4 { 0 } else { length };
        if n < 4 {
            assert!(
                rest[end..end + sent]
                    .iter()
                    .enumerate()
                    .all(|(i, o)| *o == octet(i))
            );
        }
        answers.push((status, length));
        rest = &rest[end + sent..];
    }
    assert_eq!(
        answers[..7],
        [
            (200, 0),
            (200, 1),
            (200, 100_000),
            (200, 7),
            (200, 5),
            (404, 14),
            (405, 23)
        ]
    );
    assert_eq!(answers[7].0, 200);
    assert!(rest.is_empty());
}

#[test]
#[ignore = "needs root"]
fn http_refuses_what_is_not_http() {
    let lab = Lab::new();
    let _server = lab.serve(&[]);
    let answer = |request: &[u8], end: bool| {
        let mut stream: TcpStream = lab.connect(&place(V4, 80));
        stream.write_all(request).unwrap();
        if end {
            stream.shutdown(Shutdown::Write).unwrap();
        }
        let all = read_all(&stream);
        String::from_utf8_lossy(&all[..all.len().min(12)]).into_owned()
    };
    assert_eq!(
        answer(b"\x16\x03\x01\x02\x00\r\n\r\n", false),
        "HTTP/1.1 400"
    );
    let long = [b"GET / HTTP/1.1\r\nX: ".to_vec(), vec![b'x'; 9000]].concat();
    assert_eq!(answer(&long, false), "HTTP/1.1 431");
    assert_eq!(answer(b"GET / HTTP/1.1\r\nHo", true), "HTTP/1.1 400");
    assert_eq!(answer(b"", true), "");
}

#[test]
#[ignore = "needs root"]
fn the_server_that_closes_first_keeps_time_wait() {
    let lab = Lab::new();
    let server = lab.serve(&["--set", "tcp.msl=2s"]);
    let mut stream = lab.connect(&place(V4, 80));
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .unwrap();
    read_all(&stream);
    let closed = Instant::now();
    drop(stream);
    let mut states = Vec::new();
    wait_for("the end of TIME-WAIT", || {
        let conns = server.conns();
        states.extend(conns.iter().map(|c| c.state.clone()));
        conns.is_empty()
    });
    assert!(states.iter().any(|s| s == "TIME-WAIT"), "{states:?}");
    assert!(closed.elapsed() >= Duration::from_secs(4), "2 MSL");
    lab.assert_no_resets();
}

/// What the server hands down as one goes through the stack, and is on the wire in segments that fit.
#[test]
#[ignore = "needs root"]
fn runs_of_segments_are_cut_on_their_way() {
    for offload in [true, false] {
        let lab = Lab::new();
        let set = format!("tcp.segmentation_offload={offload}");
        let _server = lab.serve(&["--set", &set]);
        for host in [V4, V6] {
            let (sent, arrived) = (
                LongestSegment::watch(&lab.server, "eth0"),
                LongestSegment::watch(&lab.client, "peer0"),
            );
            let url = format!("http://{}/bytes/3000000", place(host, 80));
            let got = curl(&lab, &["-o", "/dev/null", "-w", "%{size_download}", &url]);
            assert_eq!(got, "3000000");
            // What goes out through AF_XDP is not seen by captures on its own interface, what
            // the stack has cut is.
            assert_eq!(sent.longest() > 1000, offload, "{host}");
            assert!((1000..=1448).contains(&arrived.longest()), "{host}");
        }
        lab.assert_no_resets();
    }
}

/// A tcpdump that is asked for the longest text that it saw.
struct LongestSegment {
    _tcpdump: Tcpdump,
    longest: Arc<AtomicUsize>,
}

impl LongestSegment {
    fn watch(namespace: &xtask::netns::Namespace, interface: &str) -> Self {
        let args = ["-l", "-s", "96", "tcp", "src", "port", "80"];
        let mut tcpdump = Tcpdump::start(namespace, interface, &args).unwrap();
        let stdout = tcpdump.stdout().unwrap();
        let longest = Arc::new(AtomicUsize::new(0));
        let seen = longest.clone();
        std::thread::spawn(move || Self::read(stdout, &seen));
        Self {
            _tcpdump: tcpdump,
            longest,
        }
    }

    fn read(stdout: ChildStdout, longest: &AtomicUsize) {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            let len = line.split_once(", length ").and_then(|(_, rest)| {
                let digits = rest.split(|c: char| !c.is_ascii_digit());
                digits.into_iter().next()?.parse().ok()
            });
            longest.fetch_max(len.unwrap_or(0), Ordering::Relaxed);
        }
    }

    /// Waits until it is a full one; if none was seen for a while, none went by.
    fn longest(self) -> usize {
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(3) {
            if self.longest.load(Ordering::Relaxed) > 1000 {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.longest.load(Ordering::Relaxed)
    }
}
