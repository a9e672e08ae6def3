//! The textbook exchange between a Linux client, 192.168.1.100:12345, and the
//! server, 192.168.2.200:80, asserted segment by segment from a capture on the
//! client's interface, and from the server's own trace.
//!
//! Needs root: builds two namespaces and a veth pair, and removes them.
#![expect(clippy::unwrap_used, reason = "a test that fails may panic")]

mod capture;
mod network;
mod states;

use capture::{Segment, Side};
use network::{Lab, Record};
use states::{Pair, State};
use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::time::Instant;

/// The segments with the states of client and server after each.
fn walk(segments: &[Segment]) -> Vec<Pair> {
    let mut pair = Pair::start();
    segments
        .iter()
        .map(|s| {
            pair.step(s);
            pair
        })
        .collect()
}

/// Asserts what holds of every exchange: the handshake x / y, x+1 / y+1, and no
/// RST; returns x and y.
fn assert_handshake(segments: &[Segment]) -> (u32, u32) {
    let [syn, syn_ack, ack, ..] = segments else {
        panic!("too few segments: {segments:#?}");
    };
    let (x, y) = (syn.seq, syn_ack.seq);
    assert_eq!((syn.from, syn.flags), (Side::Client, "S"));
    assert_eq!((syn_ack.from, syn_ack.flags), (Side::Server, "S."));
    assert_eq!(syn_ack.ack, x.wrapping_add(1));
    assert_eq!((ack.from, ack.flags, ack.len), (Side::Client, ".", 0));
    assert_eq!((ack.seq, ack.ack), (x.wrapping_add(1), y.wrapping_add(1)));
    assert!(
        segments.iter().all(|s| !s.flags.contains('R')),
        "no RST: {segments:#?}"
    );
    (x, y)
}

/// Whether both FINs are there, and their ACKs.
fn is_whole(segments: &[Segment]) -> bool {
    [Side::Client, Side::Server].iter().all(|side| {
        let fin = segments
            .iter()
            .find(|s| s.from == *side && s.flags.contains('F'));
        fin.is_some_and(|fin| {
            let acks = |s: &Segment| s.from != *side && s.ack == fin.end().wrapping_add(1);
            segments.iter().any(acks)
        })
    })
}

fn index(segments: &[Segment], from: Side, flag: char) -> usize {
    segments
        .iter()
        .position(|s| s.from == from && s.flags.contains(flag))
        .unwrap()
}

/// The server's own trace must tell the same story as the wire: same segments,
/// and the states that RFC 9293 figure 5 gives them. An ACK from the client may
/// cross what the server sends; there the capture, made at the client, is not the
/// order that the server saw, so the state is compared only after the last one.
fn assert_trace_agrees(lab: &mut Lab, segments: &[Segment], states: &[Pair]) {
    for (segment, pair) in segments.iter().zip(states) {
        let is_it = |r: &Record| {
            r.from == segment.from
                && r.seq == segment.seq
                && r.len == segment.len
                && r.fin == segment.flags.contains('F')
                && r.syn == segment.flags.contains('S')
                && (r.ack == segment.ack || r.syn)
        };
        let trace = lab.trace_until(is_it);
        let record = trace.iter().find(|r| is_it(r)).unwrap();
        assert_eq!(record.by_xdp, segment.flags.contains('S'), "{segment:?}");
        let may_cross = segment.from == Side::Client && segment.flags == ".";
        if !may_cross || std::ptr::eq(segment, segments.last().unwrap()) {
            assert_eq!(record.server, pair.server.name(), "{segment:?}");
        }
    }
}

/// RFC 9293 figure 12, client side first: FIN a, ACK a+1, data in CLOSE-WAIT,
/// FIN c, ACK c+1.
#[test]
#[ignore = "needs root"]
fn the_client_closes_first_and_data_flows_in_close_wait() {
    let mut lab = Lab::new("close");
    let mut stream = lab.connect();
    let request = b"GET /bytes/400000 HTTP/1.1\r\nHost: textbook\r\n\r\n";
    stream.write_all(request).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    // The server now sends more than the receive buffer takes: as long as we do not
    // read, data is still to come and the client is in FIN-WAIT-2.
    lab.wait_for_client_state("FIN-WAIT-2");
    let mut response = Vec::new();
    stream.read_to_end(&mut response).unwrap();
    assert!(response.len() > 400_000);
    drop(stream);
    lab.wait_for_client_state("TIME-WAIT");

    lab.wait_for_capture(is_whole);
    let segments = lab.captured();
    let states = walk(&segments);
    let (x, y) = assert_handshake(&segments);
    let client_fin = index(&segments, Side::Client, 'F');
    let server_fin = index(&segments, Side::Server, 'F');
    let a = segments[client_fin].end();
    assert_eq!(a, x.wrapping_add(1 + request.len() as u32));
    let acks_fin = segments
        .iter()
        .position(|s| s.from == Side::Server && s.ack == a.wrapping_add(1))
        .unwrap();
    assert!(acks_fin > client_fin && acks_fin <= server_fin, "ACK a+1");
    assert_eq!(states[acks_fin].server, State::CloseWait);
    assert_eq!(states[acks_fin].client, State::FinWait2);
    let in_close_wait: usize = segments[acks_fin..=server_fin]
        .iter()
        .filter(|s| s.from == Side::Server)
        .map(|s| s.len)
        .sum();
    assert!(in_close_wait > 100_000, "data flows in CLOSE-WAIT");
    for s in &segments[acks_fin..] {
        if s.from == Side::Server {
            assert_eq!(s.ack, a.wrapping_add(1), "{s:?}");
        }
    }
    let c = segments[server_fin].end();
    assert_eq!(c, y.wrapping_add(1 + response.len() as u32));
    assert_eq!(states[server_fin].server, State::LastAck);
    let last = segments.last().unwrap();
    assert_eq!((last.from, last.flags, last.len), (Side::Client, ".", 0));
    assert_eq!((last.seq, last.ack), (a.wrapping_add(1), c.wrapping_add(1)));
    assert_eq!(states.last().unwrap().client, State::TimeWait);
    assert_eq!(states.last().unwrap().server, State::Closed);
    assert_trace_agrees(&mut lab, &segments, &states);
    lab.wait_for_end();
}

/// The server closes first (`Connection: close`), walks FIN-WAIT and ends in
/// TIME-WAIT, which re-ACKs a repeated FIN and ends after 2·MSL.
#[test]
#[ignore = "needs root"]
fn the_server_closes_first_and_ends_in_time_wait() {
    let mut lab = Lab::new("timewait");
    let mut stream = lab.connect();
    let request = b"GET / HTTP/1.1\r\nHost: textbook\r\nConnection: close\r\n\r\n";
    stream.write_all(request).unwrap();
    let mut response = Vec::new();
    stream.read_to_end(&mut response).unwrap();
    lab.wait_for_server_state("FIN-WAIT-2");
    lab.wait_for_client_state("CLOSE-WAIT");
    drop(stream);
    lab.wait_for_server_state("TIME-WAIT");

    lab.wait_for_capture(is_whole);
    let segments = lab.captured();
    let states = walk(&segments);
    let (x, y) = assert_handshake(&segments);
    let server_fin = index(&segments, Side::Server, 'F');
    let client_fin = index(&segments, Side::Client, 'F');
    assert!(server_fin < client_fin);
    let c = segments[server_fin].end();
    assert_eq!(c, y.wrapping_add(1 + response.len() as u32));
    assert_eq!(states[server_fin].server, State::FinWait1);
    let acks_fin = segments
        .iter()
        .position(|s| s.from == Side::Client && s.ack == c.wrapping_add(1))
        .unwrap();
    assert!(acks_fin > server_fin && acks_fin < client_fin);
    assert_eq!(states[acks_fin].server, State::FinWait2);
    assert_eq!(states[acks_fin].client, State::CloseWait);
    let a = segments[client_fin].end();
    assert_eq!(a, x.wrapping_add(1 + request.len() as u32));
    assert_eq!(segments[client_fin].ack, c.wrapping_add(1));
    assert_eq!(states[client_fin].server, State::TimeWait);
    let last = segments.last().unwrap();
    assert_eq!((last.from, last.flags, last.len), (Side::Server, ".", 0));
    assert_eq!((last.seq, last.ack), (c.wrapping_add(1), a.wrapping_add(1)));
    assert_eq!(states.last().unwrap().client, State::Closed);
    assert_eq!(states.last().unwrap().server, State::TimeWait);

    // RFC 9293 §3.10.7.4: the repeated FIN is acknowledged again.
    let replayed = Instant::now();
    lab.replay(&segments[client_fin]);
    lab.wait_for_segments(segments.len() + 2);
    let again = lab.captured();
    let re_ack = again[segments.len() + 1..]
        .iter()
        .find(|s| s.from == Side::Server)
        .unwrap();
    assert_eq!((re_ack.flags, re_ack.len), (".", 0));
    assert_eq!(
        (re_ack.seq, re_ack.ack),
        (c.wrapping_add(1), a.wrapping_add(1))
    );
    // The client's kernel answers that with an RST, which RFC 1337 says to ignore.
    assert_eq!(lab.connections(), ["TIME-WAIT"]);
    assert_trace_agrees(&mut lab, &segments, &states);
    lab.wait_for_end();
    assert!(replayed.elapsed() >= network::MSL * 2, "2 MSL are over");
}
