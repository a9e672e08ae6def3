//! SYN-RECEIVED, where XDP leaves SYNs to the endpoint.

use super::config;
use crate::proto::script::*;
use crate::proto::{Config, Disposition, Event, State};
use proptest::prelude::*;
use std::time::Duration;
use tcp_common::wire::options::SynOptions;
use tcp_common::wire::{Flags, Timestamps};

fn keeping(half_open: usize) -> Config {
    Config {
        half_open,
        ..config()
    }
}

/// A peer whose SYN has been answered.
fn half_open(half_open: usize, offered: &SynOptions) -> Script {
    let mut s = Script::new(keeping(half_open), offered);
    syn(&mut s, offered);
    s
}

/// Sends the SYN, and checks the answer.
fn syn(s: &mut Script, offered: &SynOptions) {
    assert_eq!(send_syn(s, offered), Disposition::Syn);
    assert_eq!(s.events().last(), Some(&Event::FlowBegan(s.flow)));
    let sent = s.recv().expect("SYN-ACK");
    assert_eq!(sent.brief(), (0, 1, "S.".into(), 0));
    assert_eq!(sent.timestamps.map(|ts| ts.val), s.ts.map(|_| s.tsval));
    assert!(s.endpoint.knows(&s.flow));
}

fn send_syn(s: &mut Script, offered: &SynOptions) -> Disposition {
    let frame = s.syn_frame(offered);
    s.endpoint.handle_frame(s.now, &frame)
}

fn plain() -> SynOptions {
    offer(1460, None, false, false)
}

/// RFC 9293 §3.10.7.4, fifth, SYN-RECEIVED.
#[test]
fn the_last_ack_ends_the_handshake() {
    let mut s = half_open(8, &offer(1400, Some(7), true, true));
    let infos = s.endpoint.infos(s.now);
    assert_eq!((infos.len(), infos[0].state), (1, State::SynReceived));
    s.trace();
    s.millis(100);
    let id = s.accept();
    let infos = s.endpoint.infos(s.now);
    assert_eq!((infos.len(), infos[0].state), (1, State::Established));
    let options = infos[0].options;
    assert!(options.sack && options.timestamps);
    assert_eq!((infos[0].mss, options.shifts), (1388, (7, 7)));
    // RFC 6298 §2.2: the SYN is a sample as good as any.
    assert_eq!(infos[0].srtt, Some(Duration::from_millis(100)));
    assert_eq!(s.endpoint.state(id), Some(State::Established));
    assert_eq!(s.events(), []);
    s.expect_nothing();
    let trace = s.trace();
    assert_eq!(trace.len(), 1, "nothing is made up: {trace:?}");
    // No timer of the handshake is left.
    s.millis(100_000);
    s.expect_nothing();
}

/// RFC 6298 §5.5 and §5.7, RFC 5681 §3.1.
#[test]
fn a_lost_last_ack_is_repaired() {
    let mut s = half_open(8, &offer(1000, None, true, true));
    s.millis(999);
    s.expect_nothing();
    s.millis(1);
    let again = s.recv().expect("SYN-ACK");
    assert_eq!(again.brief(), (0, 1, "S.".into(), 0));
    assert_eq!(again.timestamps.map(|ts| ts.val), Some(s.tsval));
    let id = s.accept();
    let info = s.endpoint.infos(s.now)[0];
    assert_eq!((info.srtt, info.cwnd), (None, 988));
    assert_eq!(info.rto, Duration::from_secs(3));
    assert_eq!(s.endpoint.write(s.now, id, &[b'x'; 5000]), Ok(5000));
    assert_eq!(s.recv_all().len(), 1);
}

#[test]
fn a_client_that_never_answers_is_given_up() {
    let mut s = half_open(8, &plain());
    let mut times = Vec::new();
    let start = s.now;
    while let Some(at) = s.endpoint.poll_deadline() {
        s.now = at;
        s.endpoint.handle_timeout(at);
        let sent = s.recv_all();
        assert!(sent.iter().all(|s| s.2 == "S."), "{sent:?}");
        times.push(((at - start).as_secs(), sent.len()));
    }
    assert_eq!(times, [(1, 1), (3, 1), (7, 1), (15, 1), (31, 1), (63, 0)]);
    assert_eq!(s.events(), [Event::FlowEnded(s.flow)]);
    assert!(s.endpoint.is_empty());
    // Its cookie has not become wrong by that.
    s.accept();
}

#[test]
fn text_that_comes_before_the_last_ack_is_kept() {
    let mut s = half_open(8, &plain());
    assert_eq!(s.send(101, 1, PSH, b"second"), Disposition::Accepted);
    let id = s.accepted();
    s.expect(1, 1, ".", 0);
    s.send(1, 1, PSH, &[b'x'; 100]);
    let read = s.read(id);
    assert_eq!((read.len(), &read[100..]), (106, &b"second"[..]));
}

/// A forged SYN that is repeated must not make us send more than its sender does, and not
/// past the limit of `xdp.syn_ack_rate` either, which XDP does not apply to known flows.
#[test]
fn a_repeated_syn_is_answered_again_but_not_at_once() {
    let mut s = half_open(8, &plain());
    for _ in 0..3 {
        assert_eq!(send_syn(&mut s, &plain()), Disposition::Syn);
        s.expect_nothing();
    }
    s.millis(500);
    send_syn(&mut s, &plain());
    s.expect(0, 1, "S.", 0);
    send_syn(&mut s, &plain());
    s.expect_nothing();
    s.accept();
}

/// RFC 5961 §3.2 and §4.2.
#[test]
fn only_an_exact_reset_ends_the_handshake() {
    let mut s = half_open(8, &plain());
    s.send(70_000, 0, RST, b"");
    s.expect_nothing();
    s.send(2, 0, RST, b"");
    s.expect(1, 1, ".", 0);
    s.send(9, 0, SYN, b"");
    s.expect(1, 1, ".", 0);
    assert_eq!(s.events(), []);
    s.send(1, 0, RST, b"");
    assert_eq!(s.events(), [Event::FlowEnded(s.flow)]);
    assert!(s.endpoint.is_empty());
    s.millis(100_000);
    s.expect_nothing();
}

/// RFC 9293 §3.10.7.4, first: a client that has rebooted gets an ACK, and resets what it
/// does not know (§3.5.1).
#[test]
fn what_is_not_acceptable_gets_an_ack() {
    let mut s = half_open(8, &plain());
    s.send(70_000, 1, ACK, b"");
    s.expect(1, 1, ".", 0);
    s.send(0x8000_0000, 1, PSH, b"old");
    s.expect(1, 1, ".", 0);
    assert_eq!(s.endpoint.infos(s.now)[0].state, State::SynReceived);
}

/// RFC 9293 §3.10.7.4, fifth, SYN-RECEIVED.
#[test]
fn an_ack_of_what_was_not_sent_is_reset_and_changes_nothing() {
    let mut s = half_open(8, &plain());
    for ack in [0, 2, 77] {
        s.send(1, ack, ACK, b"");
        s.expect(ack, 0u32.wrapping_sub(s.irs), "R", 0);
    }
    assert_eq!(s.events(), []);
    s.accept();
}

/// RFC 7323 §5.3 R1 and §3.2.
#[test]
fn timestamps_are_held_to_in_the_handshake() {
    let mut s = half_open(8, &offer(1460, None, false, true));
    let right = s.ts.take();
    s.send(1, 1, ACK, b"");
    s.expect_nothing();
    s.ts = right.map(|ts| tcp_common::wire::Timestamps { val: 999, ..ts });
    s.send(1, 1, ACK, b"");
    s.expect(1, 1, ".", 0);
    s.ts = right;
    s.accept();
}

#[test]
fn the_oldest_that_was_answered_most_makes_room_and_loses_nothing() {
    let mut s = half_open(2, &plain());
    let first = s.flow;
    s.millis(1000);
    assert_eq!(s.recv_all().len(), 1);
    for port in [1, 2] {
        s.flow.remote_port_be = port;
        s.syn(s.irs, &plain());
        assert_eq!(send_syn(&mut s, &plain()), Disposition::Syn);
        s.recv().expect("SYN-ACK");
    }
    let second = s.flow;
    let mut events = s.events();
    events.retain(|e| matches!(e, Event::FlowEnded(_)));
    assert_eq!(events, [Event::FlowEnded(first)]);
    assert_eq!(s.endpoint.len(), 2);
    s.flow = first;
    s.syn(s.irs, &plain());
    s.accept();
    s.flow = second;
    s.syn(s.irs, &plain());
    s.accept();
}

/// Six SYN-ACKs for each forged SYN would be a reflector.
#[test]
fn in_a_crowd_nobody_gets_a_second_syn_ack() {
    let mut s = Script::new(keeping(10), &plain());
    for port in 1..=9 {
        s.flow.remote_port_be = port;
        s.syn(s.irs, &plain());
        syn(&mut s, &plain());
    }
    s.millis(1000);
    assert_eq!(s.endpoint.len(), 5);
    let mut repeated = 0;
    for port in 1..=9 {
        s.flow.remote_port_be = port;
        repeated += usize::from(s.endpoint.knows(&s.flow));
    }
    // Those that came last.
    assert!(s.endpoint.knows(&s.flow));
    assert_eq!(repeated, 5);
    let mut buf = [0; 2048];
    let sent = std::iter::from_fn(|| s.endpoint.poll_transmit(s.now, &mut buf));
    assert_eq!(sent.count(), 5);
}

#[test]
fn connections_go_before_handshakes() {
    let mut s = Script::new(
        Config {
            max_connections: 8,
            ..keeping(8)
        },
        &plain(),
    );
    for port in 1..=20 {
        s.flow.remote_port_be = port;
        s.syn(s.irs, &plain());
        send_syn(&mut s, &plain());
        s.recv().expect("SYN-ACK");
    }
    assert_eq!(s.endpoint.len(), 7);
    s.events();
    // Cookies of handshakes that have made room, and of those that were kept.
    for port in [1, 2, 3, 20, 19, 4, 5, 6] {
        s.flow.remote_port_be = port;
        s.syn(s.irs, &plain());
        assert_eq!(s.send(1, 1, ACK, b""), Disposition::Accepted, "{port}");
    }
    assert_eq!(s.endpoint.len(), 8);
    assert!(s.endpoint.infos(s.now).iter().all(|i| i.id.is_some()));
    s.flow.remote_port_be = 7;
    s.syn(s.irs, &plain());
    assert_eq!(s.send(1, 1, ACK, b""), Disposition::TooMany);
}

#[test]
fn a_server_that_ends_forgets_its_handshakes() {
    let mut s = half_open(8, &plain());
    s.endpoint.forget_half_opens();
    assert_eq!(s.events(), [Event::FlowEnded(s.flow)]);
    assert!(s.endpoint.is_empty());
    s.millis(100_000);
    s.expect_nothing();
}

#[test]
fn the_trace_shows_what_was_there() {
    let mut s = half_open(8, &plain());
    s.millis(1000);
    s.recv().expect("SYN-ACK");
    s.accept();
    let trace = s.trace();
    let steps: Vec<_> = trace
        .iter()
        .map(|t| (t.client, t.server, t.window, t.note, t.mss))
        .collect();
    assert!(trace.iter().all(|t| !t.reconstructed));
    let (sent, received) = (State::SynSent, State::SynReceived);
    let open = State::Established;
    assert_eq!(
        steps,
        [
            (sent, received, 65_000, "", Some(1460)),
            (open, received, 65_535, "", Some(1460)),
            (open, received, 65_535, "retransmission", Some(1460)),
            (open, open, 65_000, "", None),
        ]
    );
}

/// What comes next: sequence and acknowledgment number, flags, octets, `TSval` and `TSecr` if any,
/// milliseconds.
type Next = (u32, u32, u8, usize, Option<(u32, u32)>, u64);

fn next() -> impl Strategy<Value = Next> {
    let near = || {
        prop_oneof![
            4 => 0u32..3,
            1 => any::<u32>(),
            1 => 65_530u32..65_540,
        ]
    };
    let flags = prop_oneof![2 => 0u8..64, 1 => Just(0x10), 1 => Just(0x02)];
    let stamps = proptest::option::of((990u32..1010, near()));
    (near(), near(), flags, 0usize..3, stamps, 0u64..1500)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever comes: one answer to a segment at most, connections only by an ACK of our SYN,
    /// and nothing is left in the end.
    #[test]
    fn any_segments_to_a_handshake_are_survived(ts: bool, list in prop::collection::vec(next(), 1..12)) {
        let mut s = half_open(4, &offer(1460, Some(3), true, ts));
        for (seq, ack, flags, len, stamps, ms) in list {
            s.ts = stamps.map(|(val, ecr)| Timestamps { val, ecr: s.tsval.wrapping_add(ecr) });
            let flags = Flags(flags);
            let disposition = s.send(seq, ack, flags, &[7; 2][..len]);
            if disposition == Disposition::Accepted {
                prop_assert!(flags.has(ACK) && ack == 1, "{flags} {ack}");
            }
            prop_assert!(s.endpoint.len() <= 1);
            let mut buf = [0; 2048];
            let sent = std::iter::from_fn(|| s.endpoint.poll_transmit(s.now, &mut buf));
            prop_assert!(sent.count() <= 1);
            s.millis(ms);
            if let Some(Event::Accepted(id)) = s.events().into_iter().find(|e| matches!(e, Event::Accepted(_))) {
                s.endpoint.abort(s.now, id);
            }
            s.events();
            while s.endpoint.poll_transmit(s.now, &mut buf).is_some() {}
        }
        s.millis(100_000);
        prop_assert!(s.endpoint.is_empty());
        prop_assert_eq!(s.endpoint.poll_deadline(), None);
    }
}
