//! Clients that want to hurt: each may have what it is due, the others do not notice, and
//! in the end the memory is back.

use crate::crowd::{Crowd, Say};
use crate::lab::{Lab, PATIENCE, Server, V4, octet, wait_for};
use crate::raw::{Random, Wire};
use crate::vanish;
use etherparse::{PacketHeaders, TcpOptionElement, TransportHeader};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Resident memory that may stay, kB: what threads and the allocator keep of themselves.
const MARGIN_KB: u64 = 4096;
/// A server's memory before the abuse.
pub struct Baseline {
    kb: u64,
}

impl Baseline {
    /// After an ordinary request and its end: by then everything is set up.
    pub fn take(lab: &Lab, server: &Server) -> Self {
        let body = download(&lab.connect(&format!("{V4}:80")), 1_000_000);
        assert_eq!(body, 1_000_000);
        wait_for("the end of the first connection", || {
            server.conns().is_empty()
        });
        Self {
            kb: server.memory_kb(),
        }
    }

    /// Resident memory beyond the baseline now, kB.
    pub fn note(&self, server: &Server, what: &str) -> u64 {
        let more = server.memory_kb().saturating_sub(self.kb);
        let buffered = server.stats().workers[0].buffered / 1024;
        println!(
            "{what}: {} kB and {more} kB more, {buffered} kB of buffers",
            self.kb
        );
        more
    }

    /// Waits until nothing is left of any connection, in the engine, in XDP, and of memory.
    pub fn wait(&self, lab: &Lab, server: &Server, what: &str) {
        let start = Instant::now();
        wait_for(&format!("{what}: the end of all connections"), || {
            server.stats().workers[0].connections == 0
        });
        let ended = start.elapsed();
        assert_eq!(server.conns(), [], "{what}");
        wait_for(&format!("{what}: no buffers, no flows"), || {
            server.stats().workers[0].buffered == 0 && server.flows() == 0
        });
        wait_for(&format!("{what}: memory at its baseline"), || {
            server.memory_kb() <= self.kb + MARGIN_KB
        });
        println!(
            "{what}: {} kB before, {} kB after; all ended within {ended:.1?}",
            self.kb,
            server.memory_kb()
        );
        // And it still serves.
        let body = download(&lab.connect(&format!("{V4}:80")), 10_000);
        assert_eq!(body, 10_000);
    }
}

/// Each on a server of its own, and beside the one that takes a minute. `TCP_XDP_ABUSE=name` runs
/// one alone.
#[test]
#[ignore = "needs root"]
fn a_minute_of_abuse_leaves_nothing_behind() {
    type Scenario = (&'static str, fn());
    let threads: [&[Scenario]; 3] = [
        &[("zero window", a_window_may_stay_shut_for_a_minute)],
        &[
            ("half-closed", vanish::half_closed_connections_end_in_time),
            ("vanished", vanish::a_peer_may_vanish_in_any_state),
        ],
        &[
            ("slow readers", slow_readers_hold_little_and_hinder_nobody),
            ("tiny MSS", a_tiny_mss_is_served),
            ("SACK", hostile_sack_blocks_do_no_harm),
        ],
    ];
    let only = std::env::var("TCP_XDP_ABUSE").ok();
    std::thread::scope(|scope| {
        for scenarios in threads {
            let only = only.as_deref();
            scope.spawn(move || {
                let wanted = |(name, _): &&Scenario| only.is_none_or(|only| only == *name);
                for (name, run) in scenarios.iter().filter(wanted) {
                    let start = Instant::now();
                    // Its name stands in the message of a panic.
                    let thread = std::thread::Builder::new().name((*name).to_string());
                    let ended = thread.spawn(run).unwrap().join();
                    assert!(ended.is_ok(), "{name}");
                    println!("{name}: {:.1?}", start.elapsed());
                }
            });
        }
    });
}

/// Asks for `/bytes/N`.
pub fn ask(mut stream: &TcpStream, octets: usize) {
    write!(
        stream,
        "GET /bytes/{octets} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
}

pub fn skip_head(mut stream: &TcpStream) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut one = [0];
        stream.read_exact(&mut one).unwrap();
        head.push(one[0]);
    }
}

/// Reads octets of `/bytes/N` from `at` on, at most so many; returns where it stands.
pub fn read_exact(mut stream: &TcpStream, mut at: usize, most: usize) -> usize {
    let mut buffer = vec![0; 64 << 10];
    let end = at.saturating_add(most);
    while at < end {
        let room = buffer.len().min(end - at);
        let len = stream.read(&mut buffer[..room]).unwrap();
        if len == 0 {
            break;
        }
        for got in &buffer[..len] {
            assert_eq!(*got, octet(at), "octet {at}");
            at += 1;
        }
    }
    at
}

/// Asks for `/bytes/N`, checks each octet, and returns how many came.
fn download(stream: &TcpStream, octets: usize) -> usize {
    ask(stream, octets);
    skip_head(stream);
    read_exact(stream, 0, usize::MAX)
}

/// The rest of a download by a client of a crowd, which from now on does what it should.
fn finish(crowd: &mut Crowd, member: usize, octets: usize, window: u16) {
    let say = Say {
        window,
        ..Say::default()
    };
    let start = Instant::now();
    while !crowd.members[member].fin {
        assert!(start.elapsed() < PATIENCE, "the download stands still");
        crowd.say(member, &say);
        crowd.listen(Duration::from_millis(1));
    }
    let m = &mut crowd.members[member];
    let text = &m.data[..m.in_order()];
    let head = text.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
    let body = &text[head..];
    assert_eq!(body.len(), octets);
    let wrong = (0..octets).find(|&i| body[i] != octet(i));
    assert_eq!(wrong, None);
    let fin = Say { fin: true, ..say };
    for _ in 0..3 {
        crowd.say(member, &fin);
    }
}

fn request(octets: usize) -> String {
    format!("GET /bytes/{octets} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
}

/// A client of a crowd asks for `/bytes/N`.
fn start(crowd: &mut Crowd, member: usize, octets: usize, window: u16) {
    let request = request(octets);
    let say = Say {
        window,
        data: request.as_bytes(),
        ..Say::default()
    };
    crowd.say_until(&[member], &say, |crowd| {
        !crowd.members[member].data.is_empty()
    });
    let m = &mut crowd.members[member];
    m.nxt = m.nxt.wrapping_add(request.len() as u32);
}

fn offer(mss: u16) -> [TcpOptionElement; 4] {
    [
        TcpOptionElement::MaximumSegmentSize(mss),
        TcpOptionElement::SelectiveAcknowledgementPermitted,
        TcpOptionElement::Timestamp(1, 0),
        TcpOptionElement::WindowScale(7),
    ]
}

/// No segment smaller than need be, whatever a client offers; and it is served.
fn a_tiny_mss_is_served() {
    const OFFERS: [u16; 6] = [0, 1, 48, 64, 65, 88];
    let lab = Lab::new();
    let server = lab.serve(&["--set", "tcp.msl=500ms"]);
    let baseline = Baseline::take(&lab, &server);
    for (n, mss) in OFFERS.into_iter().enumerate() {
        let mut crowd = Crowd::new(&lab, &format!("{V4}:80"), n as u32 * 10_000, 1);
        crowd.greet(&offer(mss));
        start(&mut crowd, 0, 100_000, 500);
        finish(&mut crowd, 0, 100_000, 500);
        // Timestamps take 12 octets of each segment.
        let largest = usize::from(mss.max(64)) - 12;
        assert_eq!(crowd.members[0].largest, largest, "MSS {mss}");
    }
    // The smallest that Linux asks for.
    let socket = lab
        .client
        .enter(|| {
            let socket = socket2::Socket::new(
                socket2::Domain::IPV4,
                socket2::Type::STREAM,
                Some(socket2::Protocol::TCP),
            );
            let socket = socket.unwrap();
            socket.set_tcp_mss(88).unwrap();
            let to: std::net::SocketAddr = format!("{V4}:80").parse().unwrap();
            socket.connect(&to.into()).unwrap();
            TcpStream::from(socket)
        })
        .unwrap();
    assert_eq!(download(&socket, 1_000_000), 1_000_000);
    drop(socket);
    baseline.wait(&lab, &server, "tiny MSS");
}

/// SACK blocks of one segment each with holes between, that change all the time, lie, and
/// are taken back: with the smallest segments, as in "SACK panic" (CVE-2019-11477 and others).
fn hostile_sack_blocks_do_no_harm() {
    const OCTETS: usize = 300_000;
    const WINDOW: u16 = 20_000;
    let lab = Lab::new();
    let server = lab.serve(&["--set", "tcp.msl=500ms"]);
    let baseline = Baseline::take(&lab, &server);
    let mut crowd = Crowd::new(&lab, &format!("{V4}:80"), 0, 4);
    crowd.greet(&offer(48));
    for i in 0..4 {
        start(&mut crowd, i, OCTETS, WINDOW);
    }
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let others = scope.spawn(|| {
            let mut done = 0;
            loop {
                let stream = lab.connect(&format!("{V4}:80"));
                assert_eq!(download(&stream, 2_000_000), 2_000_000);
                done += 1;
                if stop.load(std::sync::atomic::Ordering::Relaxed) {
                    return done;
                }
            }
        });
        let mut random = Random::new(77);
        for round in 0..6000u32 {
            let i = (round % 4) as usize;
            let (ack, start) = (crowd.members[i].ack, crowd.members[i].start);
            let far = crowd.members[i].data.len() as u32;
            let una = ack.wrapping_sub(start);
            let mut block = |k: u32| {
                let at = match round / 4 % 6 {
                    // Every second segment, or octet.
                    0 => una + 52 * (1 + 2 * ((round / 24 + k) % 400)),
                    1 => una + 1 + 2 * ((round / 24 + k) % 20_000),
                    // Anywhere in what was sent.
                    2 => random.next() % far.max(1),
                    // What is acknowledged: D-SACKs of what was never sent twice.
                    3 => random.next() % una.max(1),
                    // What was never sent, or is not even near.
                    4 => far + random.next() % 100_000,
                    _ => random.next(),
                };
                let len = match random.next() % 4 {
                    0 => 1,
                    1 => 52,
                    2 => random.next() % 5000,
                    // Backwards, too.
                    _ => (random.next() % 100).wrapping_sub(50),
                };
                let left = start.wrapping_add(at);
                (left, left.wrapping_add(len))
            };
            let blocks = [block(0), block(1), block(2)];
            let mut held = Say {
                window: WINDOW,
                sack: &blocks,
                ..Say::default()
            };
            if round % 97 == 0 {
                held.window = 0;
            }
            // Acknowledges a little of what it has, so that there is always more to sack.
            let full = std::mem::replace(&mut crowd.members[i].ack, ack);
            crowd.say(i, &held);
            crowd.members[i].ack = full;
            crowd.listen(Duration::from_micros(100));
        }
        baseline.note(&server, "hostile SACK blocks");
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let done = others.join().unwrap();
        println!("{done} downloads beside it");
    });
    // All of it was nonsense, and the stream is whole.
    for i in 0..4 {
        finish(&mut crowd, i, OCTETS, WINDOW);
    }
    lab.assert_no_resets();
    baseline.wait(&lab, &server, "hostile SACK blocks");
}

/// A client that stops reading is asked less and less often, and gets the rest when it reads on.
fn a_window_may_stay_shut_for_a_minute() {
    const OCTETS: usize = 20_000_000;
    let lab = Lab::new();
    let server = lab.serve(&["--set", "tcp.msl=500ms"]);
    let baseline = Baseline::take(&lab, &server);
    let wire = Wire::receiving(&lab);
    let stream = lab.connect(&format!("{V4}:80"));
    ask(&stream, OCTETS);
    skip_head(&stream);
    let at = read_exact(&stream, 0, 1_000_000);

    let start = Instant::now();
    let mut probes = Vec::new();
    let mut frame = [0; 2048];
    while let Some(left) = Duration::from_mins(1).checked_sub(start.elapsed()) {
        let Some(len) = wire.receive(&mut frame, left) else {
            continue;
        };
        let parsed = PacketHeaders::from_ethernet_slice(&frame[..len]);
        let is_tcp = parsed.is_ok_and(|p| matches!(p.transport, Some(TransportHeader::Tcp(_))));
        if is_tcp && start.elapsed() > Duration::from_secs(1) {
            probes.push(start.elapsed());
        }
    }
    let gaps = probes.windows(2).map(|w| w[1].saturating_sub(w[0]));
    let gaps: Vec<Duration> = gaps.collect();
    println!("probes after {probes:.1?}");
    assert!((4..12).contains(&probes.len()), "{probes:?}");
    // Each is twice the one before, but a probe may be sent, and seen, a little late.
    assert!(gaps.is_sorted(), "{gaps:?}");
    assert!(gaps[gaps.len() - 1] > gaps[0] * 3, "{gaps:?}");
    let conns = server.conns();
    assert_eq!(conns.len(), 1);
    assert_eq!(conns[0].state, "ESTABLISHED");
    baseline.note(&server, "zero window");

    assert_eq!(read_exact(&stream, at, usize::MAX), OCTETS);
    drop(stream);
    lab.assert_no_resets();
    baseline.wait(&lab, &server, "zero window");
}

/// Two hundred clients that read a kB a second of a large download.
fn slow_readers_hold_little_and_hinder_nobody() {
    const READERS: usize = 200;
    let lab = Lab::new();
    let server = lab.serve(&["--set", "tcp.msl=500ms"]);
    let baseline = Baseline::take(&lab, &server);
    let readers: Vec<TcpStream> = (0..READERS)
        .map(|_| {
            let stream = lab.connect(&format!("{V4}:80"));
            ask(&stream, 100_000_000);
            skip_head(&stream);
            stream
        })
        .collect();
    let start = Instant::now();
    let mut at = 0;
    let mut others = 0;
    let mut most = 0;
    while start.elapsed() < Duration::from_secs(6) {
        for stream in &readers {
            assert_eq!(read_exact(stream, at, 256), at + 256);
        }
        at += 256;
        let stream = lab.connect(&format!("{V4}:80"));
        assert_eq!(download(&stream, 1_000_000), 1_000_000);
        others += 1;
        most = most.max(server.stats().workers[0].buffered);
        let due = Duration::from_millis(others * 250);
        std::thread::sleep(due.saturating_sub(start.elapsed()));
    }
    baseline.note(&server, "slow readers");
    println!(
        "at most {} kB of buffers, {others} downloads beside it",
        most / 1024
    );
    assert!(most <= READERS * (512 << 10), "{most} octets of buffers");
    // The last of the others may not have ended yet.
    wait_for("only the slow ones", || {
        let conns = server.conns();
        let open = |state: &str| state == "ESTABLISHED" || state == "FIN-WAIT-1";
        conns.iter().filter(|c| open(&c.state)).count() == READERS
    });
    drop(readers);
    baseline.wait(&lab, &server, "slow readers");
}
