//! Malformed and hostile frames while a connection transfers data: each is counted
//! under its reason, and the transfer stays exact.

use crate::frames::Spec;
use crate::lab::{Lab, Server, V4, V6, octet, wait_for};
use crate::raw::{Wire, fix_ip_checksum};
use etherparse::TcpOptionElement;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tcp_user::control::records::Stats;

const OCTETS: usize = 50_000_000;
const TWO_GIG: u32 = 1 << 31;
/// Frames sent before the server must have taken them: less than its ring holds, with those of the
/// transfer.
const AT_A_TIME: u64 = 256;
/// Sources that nobody has: answers to them end in the client's namespace.
const STRANGER4: &str = "192.0.2.99:40000";
const STRANGER6: &str = "[2001:db8::99]:40000";

/// Counters to be found afterwards: frames sent per reason. XDP's have a prefix of
/// their own (`drop_`, `pass_`, `to_`, ...), the others are userspace's.
struct Expected<'a> {
    server: &'a Server,
    counts: BTreeMap<&'static str, u64>,
}

impl Expected<'_> {
    fn send(&mut self, wire: &Wire, frame: Vec<u8>, reason: &'static str) {
        wire.put(frame);
        *self.counts.entry(reason).or_default() += 1;
        if self.sent().is_multiple_of(AT_A_TIME) {
            self.keep_pace();
        }
    }

    fn sent(&self) -> u64 {
        self.counts.values().sum()
    }

    /// Waits until the server has taken from its ring what is in it by now. A worker that a busy
    /// machine keeps waiting must not lose frames, as they are counted.
    fn keep_pace(&self) {
        let handed = self.server.stats().xdp;
        let handed = handed["to_flow"] + handed["to_accept"];
        wait_for("the worker", || {
            self.server.stats().workers[0].received >= handed
        });
    }
}

/// A connection of the client's kernel, as one who hears everything knows it.
struct Victim {
    /// The connection's ends and, if it has them, current timestamps; no flags.
    spec: Spec,
    /// RCV.NXT of the server, who gets nothing more.
    rcv_nxt: u32,
    /// An acknowledgment number that was never sent, and will not be.
    unsent: u32,
}

/// Malformations of an IPv4 segment; userspace's reason and XDP's for a stranger.
fn malformed_v4(spec: &Spec) -> Vec<(Vec<u8>, &'static str, &'static str)> {
    let l4 = spec.l4();
    let frame = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = spec.build();
        change(&mut frame);
        fix_ip_checksum(&mut frame);
        frame
    };
    let total = |len: u8| frame(&|f| f[16..18].copy_from_slice(&[0, len]));
    let mut bad_ip = spec.build();
    bad_ip[24] ^= 0x40;
    vec![
        (
            frame(&|f| f[14] = 0x55),
            "pass_malformed_ip",
            "pass_malformed_ip",
        ),
        (
            frame(&|f| f[14] = 0x44),
            "pass_malformed_ip",
            "pass_malformed_ip",
        ),
        (total(19), "pass_malformed_ip", "pass_malformed_ip"),
        (total(200), "malformed", "drop_length"),
        (total(39), "malformed", "drop_length"),
        (total(21), "malformed", "drop_length"),
        (
            frame(&|f| f[l4 + 12] = 0x40),
            "malformed",
            "drop_data_offset",
        ),
        (frame(&|f| f[l4 + 12] = 0), "malformed", "drop_data_offset"),
        (frame(&|f| f[l4 + 12] = 0xf0), "malformed", "drop_length"),
        (frame(&|f| f[20] = 0x20), "drop_fragment", "drop_fragment"),
        (frame(&|f| f[21] = 8), "pass_fragment", "pass_fragment"),
        (
            frame(&|f| f[l4 + 16] ^= 1),
            "bad_checksum",
            "drop_tcp_checksum",
        ),
        (bad_ip, "bad_checksum", "drop_ip_checksum"),
    ]
}

fn malformed_v6(spec: &Spec) -> Vec<(Vec<u8>, &'static str, &'static str)> {
    let l4 = spec.l4();
    let frame = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = spec.build();
        change(&mut frame);
        frame
    };
    let fragment = |field: u8| spec.build_with(&[(44, vec![0, 0, 0, field, 1, 2, 3, 4])]);
    let padding = vec![0u8, 0, 1, 4, 0, 0, 0, 0];
    let too_long = vec![0u8, 200, 1, 4, 0, 0, 0, 0];
    let five = vec![(60, padding); 5];
    vec![
        (
            frame(&|f| f[14] = 0x50),
            "pass_malformed_ip",
            "pass_malformed_ip",
        ),
        (frame(&|f| f[18] = 1), "malformed", "drop_length"),
        (frame(&|f| f[19] = 19), "malformed", "drop_length"),
        (
            frame(&|f| f[l4 + 12] = 0x40),
            "malformed",
            "drop_data_offset",
        ),
        (frame(&|f| f[l4 + 12] = 0xf0), "malformed", "drop_length"),
        (fragment(1), "drop_fragment", "drop_fragment"),
        (fragment(8), "pass_fragment", "pass_fragment"),
        (
            frame(&|f| f[l4 + 16] ^= 1),
            "bad_checksum",
            "drop_tcp_checksum",
        ),
        (spec.build_with(&five), "pass_extensions", "pass_extensions"),
        (
            spec.build_with(&[(60, too_long)]),
            "pass_malformed_ip",
            "pass_malformed_ip",
        ),
    ]
}

fn malformed(spec: &Spec) -> Vec<(Vec<u8>, &'static str, &'static str)> {
    let mut all = if spec.to.is_ipv4() {
        malformed_v4(spec)
    } else {
        malformed_v6(spec)
    };
    for bad in [
        &[2u8, 3, 5, 0][..],
        &[2, 5, 5, 0, 0, 0, 0, 0],
        &[3, 4, 1, 0],
        &[4, 3, 0, 0],
        &[8, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[5, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[254, 0, 0, 0],
        &[254, 1, 0, 0],
        &[1, 1, 1, 8],
        &[1, 1, 254, 3],
    ] {
        let frame = spec.clone().raw_options(bad).build();
        all.push((frame, "malformed", "drop_options"));
    }
    // Cut anywhere.
    let frame = spec.build();
    for len in spec.l3()..frame.len() {
        let cut = frame[..len].to_vec();
        if len < spec.l4() + 20 {
            all.push((cut, "pass_malformed_ip", "pass_malformed_ip"));
        } else {
            all.push((cut, "malformed", "drop_length"));
        }
    }
    all
}

/// Eight flags as in the header.
fn with_flags(mut spec: Spec, flags: u8) -> Spec {
    let has = |bit: u8| flags & 1 << bit != 0;
    let tcp = &mut spec.tcp;
    (tcp.fin, tcp.syn, tcp.rst, tcp.psh) = (has(0), has(1), has(2), has(3));
    (tcp.ack, tcp.urg, tcp.ece, tcp.cwr) = (has(4), has(5), has(6), has(7));
    spec
}

/// What XDP does with a stranger's segment.
fn verdict_on(flags: u8) -> &'static str {
    let (fin, syn, rst, ack) = (flags & 1, flags & 2, flags & 4, flags & 16);
    match (syn, ack) {
        _ if rst != 0 => "drop_rst",
        (0, 16) => "rst_bad_cookie",
        (2, 0) if fin == 0 => "syn_ack",
        _ => "drop_flags",
    }
}

/// An IPv6 extension header that says nothing; with IPv4 an option of that kind.
fn nothing_to_say(spec: &Spec) -> Vec<(u8, Vec<u8>)> {
    if spec.to.is_ipv4() {
        vec![(0, vec![1, 1, 1, 0])]
    } else {
        let padding = vec![0u8, 0, 1, 4, 0, 0, 0, 0];
        vec![(0, padding.clone()), (60, padding)]
    }
}

fn from_a_stranger(wire: &Wire, victim: &Victim, expected: &mut Expected<'_>) {
    let (from, to) = match victim.spec.to {
        to if to.is_ipv4() => (STRANGER4, to.to_string()),
        to => (STRANGER6, to.to_string()),
    };
    let syn = Spec::syn(from, &to);
    for (frame, _, reason) in malformed(&syn) {
        expected.send(wire, frame, reason);
    }
    for flags in 0..=255 {
        // Without options, so that an answer has to grow: a copy that veth makes of a
        // frame ends at a multiple of 64 octets, and one of 62 (two tags) has no room
        // behind it for an MSS option.
        let spec = with_flags(Spec::new(from, &to), flags);
        for vlans in [&[][..], &[7], &[8, 9]] {
            let frame = spec.clone().vlans(vlans).build();
            expected.send(wire, frame, verdict_on(flags));
        }
        let frame = spec.build_with(&nothing_to_say(&spec));
        expected.send(wire, frame, verdict_on(flags));
    }
    let mut strange = syn.clone();
    strange.tcp.source_port = 0;
    expected.send(wire, strange.build(), "drop_source");
}

fn from_the_peer(wire: &Wire, victim: &Victim, expected: &mut Expected<'_>) {
    // None of these is ever the next segment, whatever it does.
    let mut old = with_flags(victim.spec.clone(), 0x10);
    old.tcp.sequence_number = victim.rcv_nxt.wrapping_sub(1_000_000);
    for (frame, reason, _) in malformed(&old) {
        expected.send(wire, frame, reason);
    }
    for flags in 0..=255 {
        for offset in [1000, TWO_GIG, 1_000_000_u32.wrapping_neg()] {
            let mut spec = with_flags(victim.spec.clone(), flags);
            spec.tcp.sequence_number = victim.rcv_nxt.wrapping_add(offset);
            spec.tcp.acknowledgment_number = victim.unsent;
            expected.send(wire, spec.build(), "segment");
            expected.send(wire, spec.clone().vlans(&[7]).build(), "segment");
            let frame = spec.build_with(&nothing_to_say(&spec));
            expected.send(wire, frame, "segment");
            expected.send(wire, spec.payload(b"injected").build(), "segment");
        }
    }
}

/// Counts since, as far as XDP and userspace have names for them.
fn since(server: &Server, before: &Stats) -> BTreeMap<String, u64> {
    let after = server.stats();
    let worker = |stats: &Stats| stats.workers[0].frames.clone();
    let mut counts = after.xdp;
    for (name, n) in &mut counts {
        *n -= before.xdp[name];
    }
    let old = worker(before);
    counts.extend(
        after.workers[0]
            .frames
            .iter()
            .map(|(name, n)| (name.clone(), n - old[name])),
    );
    counts
}

fn attack(mode: &str, host: &str, timestamps: bool) {
    let lab = Lab::new();
    let enabled = if timestamps { "1" } else { "0" };
    lab.client.sysctl("ipv4/tcp_timestamps", enabled).unwrap();
    let server = lab.serve(&["--mode", mode]);
    let wire = Wire::listening(&lab);
    let frames = lab.frames().0;
    let before = server.stats();

    let place = if host == V6 {
        format!("[{host}]:80")
    } else {
        format!("{host}:80")
    };
    let mut stream = lab.connect(&place);
    let from = stream.local_addr().unwrap();
    let request = format!("GET /bytes/{OCTETS} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let syn = wire.hear(from.port(), |tcp| tcp.syn && !tcp.ack);
    let syn_ack = wire.hear(from.port(), |tcp| tcp.syn && tcp.ack);
    let mut spec = Spec::new(&from.to_string(), &place);
    let stamps = |tcp: &etherparse::TcpHeader| {
        tcp.options_iterator().find_map(|option| match option {
            Ok(TcpOptionElement::Timestamp(val, _)) => Some(val),
            _ => None,
        })
    };
    assert_eq!(stamps(&syn).is_some(), timestamps);
    if let (Some(val), Some(ecr)) = (stamps(&syn), stamps(&syn_ack)) {
        spec = spec.options(&[TcpOptionElement::Timestamp(val.wrapping_add(1 << 20), ecr)]);
    }
    let victim = Victim {
        spec,
        rcv_nxt: syn.sequence_number.wrapping_add(1 + request.len() as u32),
        unsent: syn_ack.sequence_number.wrapping_add(TWO_GIG),
    };

    let mut expected = Expected {
        server: &server,
        counts: BTreeMap::new(),
    };
    let (begun, over) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut one = [0];
                stream.read_exact(&mut one).unwrap();
                head.push(one[0]);
            }
            let mut buffer = vec![0; 64 * 1024];
            let mut at = 0;
            let mut during = 0;
            loop {
                if over.load(Ordering::Relaxed) {
                    let len = stream.read(&mut buffer).unwrap();
                    if len == 0 {
                        return (during, at);
                    }
                    check(&buffer[..len], &mut at);
                } else {
                    // Slowly, so that it takes as long as the attack; the last part waits.
                    if at < OCTETS / 2 {
                        let len = stream.read(&mut buffer[..4096]).unwrap();
                        check(&buffer[..len], &mut at);
                        during = at;
                    }
                    begun.store(true, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_micros(500));
                }
            }
        });
        // A reader that fails ends the test at its `join`.
        while !begun.load(Ordering::Relaxed) && !reader.is_finished() {
            std::thread::sleep(Duration::from_millis(1));
        }
        from_a_stranger(&wire, &victim, &mut expected);
        from_the_peer(&wire, &victim, &mut expected);
        expected.keep_pace();
        over.store(true, Ordering::Relaxed);
        let (during, all) = reader.join().unwrap();
        println!(
            "{mode} {host}: {} frames sent while {during} octets were read",
            expected.sent()
        );
        assert!(during > 0 && during < OCTETS);
        assert_eq!(all, OCTETS);
    });
    drop(stream);
    wait_for("TIME-WAIT", || {
        server.conns().iter().all(|c| c.state == "TIME-WAIT")
    });

    let counts = since(&server, &before);
    // Beside what was sent there are the transfer itself, and neighbour discovery.
    for (name, n) in &counts {
        let sent = expected.counts.get(name.as_str()).copied().unwrap_or(0);
        match name.as_str() {
            "to_accept" | "accepted" => assert_eq!(*n, 1, "{name}"),
            "syn_ack" => assert_eq!(*n, sent + 1, "{name}"),
            "to_flow" | "segment" | "pass_not_ip" | "pass_not_tcp" | "time_wait" => {
                assert!(*n >= sent, "{name}: {n} of {sent}");
            }
            _ => assert_eq!(*n, sent, "{name}"),
        }
    }
    // Neighbour discovery may come between the two readings: once they must agree.
    let read = || {
        let after = server.stats();
        let seen = after.xdp_frames - before.xdp_frames;
        (seen, lab.frames().0 - frames, after)
    };
    let mut after = None;
    wait_for("the same number of frames", || {
        let (seen, received, stats) = read();
        after = Some(stats);
        seen == received
    });
    let after = after.unwrap();
    let worker = &after.workers[0];
    assert_eq!(worker.receive_dropped, 0);
    assert_eq!(worker.frames.values().sum::<u64>(), worker.received);
    assert_eq!(
        worker.received,
        after.xdp["to_flow"] + after.xdp["to_accept"]
    );
    // The one connection is in TIME-WAIT, and there was no other.
    let conns = server.conns();
    assert_eq!(conns.len(), 1, "{conns:?}");
    assert_eq!(conns[0].state, "TIME-WAIT");
    assert_eq!(server.flows(), 1);
}

fn check(octets: &[u8], at: &mut usize) {
    for got in octets {
        assert_eq!(*got, octet(*at), "octet {at}");
        *at += 1;
    }
}

#[test]
#[ignore = "needs root"]
fn a_transfer_survives_every_malformation_over_ipv4() {
    attack("native", V4, true);
    attack("native", V4, false);
}

#[test]
#[ignore = "needs root"]
fn a_transfer_survives_every_malformation_over_ipv6() {
    attack("native", V6, true);
    attack("native", V6, false);
}

#[test]
#[ignore = "needs root"]
fn a_transfer_survives_every_malformation_in_generic_mode() {
    attack("generic", V4, true);
    attack("generic", V6, false);
}
