//! The send path.

use super::*;
use crate::proto::Algorithm;
use std::ops::RangeInclusive;
use std::time::Duration;
use tcp_common::wire::Timestamps;

const MSS: usize = 1460;

/// IW10 (RFC 6928), then slow start (RFC 5681 §3.1).
#[test]
fn the_initial_window_is_ten_segments_and_doubles() {
    let (mut s, id) = Script::established_with(config(), &offer(1460, Some(7), false, false));
    s.endpoint
        .write(s.now, id, &vec![1; 200_000])
        .expect("open");
    assert_eq!(s.recv_all().len(), 10);
    s.millis(20);
    let mut ack = 1;
    for _ in 0..5 {
        ack += 2 * MSS as u32;
        s.send(1, ack, ACK, b"");
    }
    assert_eq!(s.recv_all().len(), 20);
}

/// RFC 9293 §3.8.6, SND.WND.
#[test]
fn the_window_is_never_exceeded() {
    let (mut s, id) = Script::established(config());
    s.window = 4000;
    s.send(1, 1, ACK, b"");
    s.endpoint.write(s.now, id, &vec![1; 20_000]).expect("open");
    let (mut una, mut max) = (1, 1);
    while una < 20_001 {
        for (seq, _, _, len) in s.recv_all() {
            max = max.max(seq + len as u32);
            assert!(max <= una + 4000);
        }
        assert!(max > una);
        una = max;
        s.millis(10);
        s.send(1, una, ACK, b"");
    }
}

/// SND.WL1 must not hold back the window of an ACK that is news otherwise. Found by the
/// simulation: the edge moved along with SND.UNA.
#[test]
fn the_window_of_an_ack_with_a_lower_sequence_number_counts() {
    let (mut s, id) = Script::established(config());
    s.window = 4000;
    // Out of order, as by a peer that goes back to 1 then.
    s.send(3001, 1, ACK, b"later");
    s.recv_all();
    s.endpoint.write(s.now, id, &vec![1; 20_000]).expect("open");
    assert_eq!(s.recv_all().len(), 2);
    s.window = 1100;
    s.send(1, 2921, ACK, b"");
    for (seq, _, _, len) in s.recv_all() {
        assert!(seq + len as u32 <= 2921 + 1100, "{seq} {len}");
    }
}

/// RFC 6298 §5: RTO with backoff, then everything anew from SND.UNA.
#[test]
fn a_timeout_retransmits_and_backs_off() {
    let (mut s, id) = Script::established(config());
    s.endpoint.write(s.now, id, &[1; 4000]).expect("open");
    assert_eq!(s.recv_all().len(), 3);
    let mut times = Vec::new();
    // The third would find segments smaller: RFC 4821.
    for ms in (0..6_000).step_by(5) {
        for sent in s.recv_all() {
            assert_eq!(sent, (1, 1, ".".to_string(), MSS));
            times.push(ms);
        }
        s.millis(5);
    }
    assert_eq!(times, [1000, 3000]);
    let info = s.endpoint.infos(s.now)[0];
    assert_eq!((info.cwnd, info.retransmits), (MSS as u32, 2));
    // cwnd was one segment; the ACK makes it two.
    s.send(1, 1461, ACK, b"");
    assert_eq!(
        s.recv_all(),
        [
            (1461, 1, ".".to_string(), MSS),
            (2921, 1, "P.".to_string(), 1080)
        ]
    );
    s.send(1, 4001, ACK, b"");
    s.millis(100_000);
    s.expect_nothing();
}

/// RFC 9293 §3.8.3, R2.
#[test]
fn a_silent_peer_is_given_up() {
    let (mut s, id) = Script::established(config());
    s.endpoint.write(s.now, id, b"anyone there?").expect("open");
    s.recv_all();
    for _ in 0..1200 {
        s.millis(1000);
        s.recv_all();
    }
    assert_eq!(
        s.events(),
        [
            Event::FlowEnded(s.flow),
            Event::Closed(id, CloseReason::TimedOut)
        ]
    );
}

/// RFC 5681 §3.2 and RFC 6582 §3.2.
#[test]
fn three_duplicate_acks_retransmit_and_partial_acks_go_on() {
    for (congestion, bounds) in [
        (Algorithm::Reno, 7300..=8760),
        (Algorithm::Cubic, 10_220..=10_220),
    ] {
        three_duplicate_acks(congestion, &bounds);
    }
}

fn three_duplicate_acks(congestion: Algorithm, bounds: &RangeInclusive<u32>) {
    let config = Config {
        congestion,
        ..config()
    };
    let (mut s, id) = Script::established_with(config, &offer(1460, Some(7), false, false));
    s.endpoint.write(s.now, id, &[1; 14_600]).expect("open");
    assert_eq!(s.recv_all().len(), 10);
    s.endpoint.write(s.now, id, &[2; 14_600]).expect("open");
    // Segments 1 and 4 are lost. Limited transmit (RFC 3042) for the first two.
    s.send(1, 1, ACK, b"");
    s.expect(14_601, 1, ".", MSS);
    s.send(1, 1, ACK, b"");
    s.expect(16_061, 1, ".", MSS);
    s.send(1, 1, ACK, b"");
    assert_eq!(s.recv_all()[0], (1, 1, ".".to_string(), MSS));
    let ssthresh = s.endpoint.infos(s.now)[0].ssthresh;
    assert!(bounds.contains(&ssthresh), "{ssthresh}");
    // A partial ACK uncovers the second hole without waiting for three more.
    s.send(1, 4381, ACK, b"");
    assert_eq!(s.recv_all()[0], (4381, 1, ".".to_string(), MSS));
    s.send(1, 17_521, ACK, b"");
    let info = s.endpoint.infos(s.now)[0];
    assert!(info.cwnd <= ssthresh, "{}", info.cwnd);
}

/// RFC 9293 §3.8.6.1: probes with backoff, and no end as long as they are answered.
#[test]
fn a_zero_window_is_probed_until_it_opens() {
    let (mut s, id) = Script::established(config());
    s.window = 0;
    s.send(1, 1, ACK, b"");
    s.endpoint.write(s.now, id, b"hello").expect("open");
    s.expect_nothing();
    let mut probes = 0;
    for _ in 0..3600 {
        s.millis(1000);
        for probe in s.recv_all() {
            assert_eq!(probe, (1, 1, ".".to_string(), 1));
            probes += 1;
            s.send(1, 1, ACK, b"");
        }
    }
    assert!((55..80).contains(&probes), "{probes}");
    assert_eq!(s.events(), []);
    s.window = 500;
    s.send(1, 1, ACK, b"");
    s.expect(1, 1, "P.", 5);
    s.send(1, 6, ACK, b"");
    s.millis(100_000);
    s.expect_nothing();
}

#[test]
fn a_probe_that_is_taken_counts_as_sent() {
    let (mut s, id) = Script::established(config());
    s.window = 0;
    s.send(1, 1, ACK, b"");
    s.endpoint.write(s.now, id, b"hello").expect("open");
    s.endpoint.close(s.now, id);
    s.millis(1001);
    s.expect(1, 1, ".", 1);
    s.window = 100;
    s.send(1, 2, ACK, b"");
    s.expect(2, 1, "FP.", 4);
    s.send(1, 7, ACK, b"");
    assert_eq!(s.endpoint.state(id), Some(State::FinWait2));
}

/// A FIN alone behind a closed window.
#[test]
fn a_fin_probes_a_zero_window() {
    let (mut s, id) = Script::established(config());
    s.window = 0;
    s.send(1, 1, ACK, b"");
    s.endpoint.close(s.now, id);
    s.expect_nothing();
    s.millis(1001);
    s.expect(1, 1, "F.", 0);
    s.send(1, 2, ACK, b"");
    assert_eq!(s.endpoint.state(id), Some(State::FinWait2));
}

/// RFC 9293 §3.7.4 in Minshall's variant.
#[test]
fn nagle_holds_small_segments_but_not_the_end_of_a_large_write() {
    let (mut s, id) = Script::established(config());
    s.endpoint.write(s.now, id, &[1; 2000]).expect("open");
    assert_eq!(s.recv_all().len(), 2);
    s.endpoint.write(s.now, id, b"held").expect("open");
    s.expect_nothing();
    s.send(1, 2001, ACK, b"");
    s.expect(2001, 1, "P.", 4);
    s.endpoint.write(s.now, id, b"held").expect("open");
    s.expect_nothing();
    s.endpoint.set_nagle(s.now, id, false).expect("open");
    s.expect(2005, 1, "P.", 4);
}

/// RFC 9293 §3.8.6.2.1: the override timeout.
#[test]
fn a_small_window_is_used_after_a_timeout() {
    let (mut s, id) = Script::established(config());
    s.endpoint.write(s.now, id, &[1; 3000]).expect("open");
    s.recv_all();
    s.window = 100;
    s.send(1, 3001, ACK, b"");
    s.endpoint.write(s.now, id, &[1; 3000]).expect("open");
    s.expect_nothing();
    s.millis(1100);
    s.expect(3001, 1, ".", 100);
}

#[test]
fn a_short_write_is_followed_by_writable() {
    let (mut s, id) = Script::established(Config {
        send_buffer: 10_000,
        ..config()
    });
    assert_eq!(s.endpoint.write(s.now, id, &[1; 12_000]), Ok(10_000));
    assert_eq!(s.endpoint.send_room(id), 0);
    s.recv_all();
    s.send(1, 1461, ACK, b"");
    assert_eq!(s.events(), []);
    s.send(1, 2921, ACK, b"");
    assert_eq!(s.events(), [Event::Writable(id)]);
    assert_eq!(s.endpoint.send_room(id), 2920);
}

/// RFC 6298 §2 and §3.
#[test]
fn the_round_trip_is_measured() {
    for ts in [false, true] {
        let (mut s, id) = Script::established_with(config(), &offer(1460, None, false, ts));
        s.endpoint.write(s.now, id, b"ping").expect("open");
        s.recv_all();
        s.millis(300);
        s.send(1, 5, ACK, b"");
        let info = s.endpoint.infos(s.now)[0];
        assert_eq!(info.srtt, Some(Duration::from_millis(300)));
        assert_eq!(info.rto, Duration::from_millis(900));
    }
}

/// RFC 9293 §3.8.4.
#[test]
fn keepalives_find_a_dead_peer() {
    let (mut s, id) = Script::established(Config {
        keepalive: Some(Duration::from_mins(2)),
        ..config()
    });
    s.millis(120_001);
    s.expect(0, 1, ".", 0);
    s.send(1, 1, ACK, b"");
    s.millis(119_000);
    s.expect_nothing();
    s.millis(1_010);
    s.expect(0, 1, ".", 0);
    for _ in 0..8 {
        s.millis(75_001);
        s.expect(0, 1, ".", 0);
    }
    s.millis(75_001);
    assert_eq!(
        s.events(),
        [
            Event::FlowEnded(s.flow),
            Event::Closed(id, CloseReason::TimedOut)
        ]
    );
}

#[test]
fn connections_take_turns() {
    let (mut s, first) = Script::established(config());
    let flow = s.flow;
    s.flow.remote_port_be = 4;
    s.syn(9, &offer(1460, None, false, false));
    let second = s.accept();
    s.endpoint.write(s.now, first, &[1; 2920]).expect("open");
    s.endpoint.write(s.now, second, &[2; 2920]).expect("open");
    let mut ports = Vec::new();
    let mut buf = [0; 2048];
    while let Some(len) = s.endpoint.poll_transmit(s.now, &mut buf) {
        assert_eq!(len, 54 + MSS);
        ports.push(u16::from_ne_bytes([buf[36], buf[37]]));
    }
    let (a, b) = (flow.remote_port_be, s.flow.remote_port_be);
    assert_eq!(ports, [a, b, a, b]);
}

/// RFC 6675 §5 and RFC 8985 §6.2: what SACK leaves out is sent again, what it holds is not.
#[test]
fn sack_recovery_fills_the_holes_only() {
    let (mut s, id) = Script::established_with(config(), &offer(1460, Some(7), true, false));
    let seg = |n: u32| 1 + n * MSS as u32;
    s.endpoint.write(s.now, id, &[1; 14_600]).expect("open");
    assert_eq!(s.recv_all().len(), 10);
    s.millis(20);
    // Segments 0, 3 and 4 are lost. Two that arrived may have overtaken the first.
    s.sack = vec![(seg(1), seg(3))];
    s.send(1, 1, ACK, b"");
    s.expect_nothing();
    s.millis(1);
    s.sack = vec![(seg(5), seg(6)), (seg(1), seg(3))];
    s.send(1, 1, ACK, b"");
    s.expect(seg(0), 1, ".", MSS);
    s.sack = vec![(seg(5), seg(8)), (seg(1), seg(3))];
    s.send(1, 1, ACK, b"");
    assert_eq!(
        s.recv_all(),
        [
            (seg(3), 1, ".".to_string(), MSS),
            (seg(4), 1, ".".to_string(), MSS)
        ]
    );
    s.sack = vec![(seg(5), seg(10))];
    s.send(1, seg(3), ACK, b"");
    s.expect_nothing();
    s.send(1, seg(10), ACK, b"");
    let info = s.endpoint.infos(s.now)[0];
    assert_eq!((info.retransmits, info.send_queue), (3, 0));
    assert_eq!(info.cwnd, info.ssthresh);
    s.millis(100_000);
    s.expect_nothing();
}

/// RFC 8985 §6.2 step 5: what was overtaken gets a quarter of a round trip.
#[test]
fn a_segment_is_lost_when_the_reordering_window_has_passed() {
    let (mut s, id) = Script::established_with(config(), &offer(1460, Some(7), true, false));
    s.endpoint.write(s.now, id, &[1; 4380]).expect("open");
    assert_eq!(s.recv_all().len(), 3);
    s.millis(100);
    s.sack = vec![(2921, 4381)];
    s.send(1, 1461, ACK, b"");
    s.millis(24);
    s.expect_nothing();
    s.millis(2);
    s.expect(1461, 1, ".", MSS);
}

/// RFC 8985 §6.1: a retransmission that is lost is sent again without a timeout.
#[test]
fn a_lost_retransmission_is_found() {
    let (mut s, id) = Script::established_with(config(), &offer(1460, Some(7), true, false));
    let seg = |n: u32| 1 + n * MSS as u32;
    s.endpoint
        .write(s.now, id, &vec![1; 100_000])
        .expect("open");
    assert_eq!(s.recv_all().len(), 10);
    s.millis(20);
    s.sack = vec![(seg(1), seg(5))];
    s.send(1, 1, ACK, b"");
    let sent = s.recv_all();
    assert_eq!(sent[0].0, seg(0));
    assert_eq!(sent[1].0, seg(10));
    s.millis(20);
    // What was sent with the retransmission has arrived.
    s.sack = vec![(seg(1), seg(11))];
    s.send(1, 1, ACK, b"");
    assert_eq!(s.recv_all()[0].0, seg(0));
    assert_eq!(s.endpoint.infos(s.now)[0].retransmits, 2);
}

/// RFC 2018 §8: what a peer reported and then dropped is sent again.
#[test]
fn a_peer_that_reneges_gets_everything() {
    let (mut s, id) = Script::established_with(config(), &offer(1460, Some(7), true, false));
    s.endpoint.write(s.now, id, &[1; 4380]).expect("open");
    assert_eq!(s.recv_all().len(), 3);
    s.millis(20);
    s.sack = vec![(1461, 4381)];
    s.send(1, 1, ACK, b"");
    s.millis(10);
    s.expect(1, 1, ".", MSS);
    s.millis(20);
    s.send(1, 1461, ACK, b"");
    s.expect_nothing();
    s.millis(300);
    s.expect(1461, 1, ".", MSS);
    s.send(1, 2921, ACK, b"");
    s.expect(2921, 1, "P.", MSS);
}

/// RFC 3522 and RFC 4015: the ACK echoes the original, so the timeout was a mistake.
#[test]
fn a_spurious_timeout_is_undone() {
    let (mut s, id) = Script::established_with(config(), &offer(1460, Some(7), true, true));
    s.endpoint
        .write(s.now, id, &vec![1; 100_000])
        .expect("open");
    let first = s.recv().expect("text");
    let original = first.timestamps.expect("negotiated").val;
    assert_eq!(s.recv_all().len(), 9);
    let before = s.endpoint.infos(s.now)[0].cwnd;
    // A loss probe, then the timeout.
    s.millis(2500);
    assert!(s.recv_all().iter().any(|sent| sent.0 == 1));
    assert!(s.endpoint.infos(s.now)[0].cwnd < before);
    s.ts = s.ts.map(|ts| Timestamps {
        val: ts.val + 1,
        ecr: original,
    });
    s.send(1, 1449, ACK, b"");
    let info = s.endpoint.infos(s.now)[0];
    assert!(info.cwnd >= before && info.ssthresh == u32::MAX, "{info:?}");
    // New data, not the old again.
    assert!(s.recv_all().iter().all(|sent| sent.0 > 14_480));
}

/// RFC 3708 §2: every retransmission comes back as a duplicate.
#[test]
fn a_needless_fast_retransmit_is_undone() {
    let (mut s, id) = Script::established_with(config(), &offer(1460, Some(7), true, false));
    let seg = |n: u32| 1 + n * MSS as u32;
    s.endpoint
        .write(s.now, id, &vec![1; 100_000])
        .expect("open");
    assert_eq!(s.recv_all().len(), 10);
    s.millis(20);
    s.sack = vec![(seg(1), seg(5))];
    s.send(1, 1, ACK, b"");
    assert_eq!(s.recv_all()[0].0, seg(0));
    // Late, not lost.
    s.send(1, seg(5), ACK, b"");
    assert!(s.endpoint.infos(s.now)[0].ssthresh < u32::MAX);
    s.sack = vec![(seg(0), seg(1))];
    s.send(1, seg(10), ACK, b"");
    let info = s.endpoint.infos(s.now)[0];
    assert!(info.cwnd >= 14_600 && info.ssthresh == u32::MAX, "{info:?}");
}

#[test]
fn nonsense_in_sack_is_ignored() {
    let (mut s, id) = Script::established_with(config(), &offer(1460, Some(7), true, false));
    s.endpoint.write(s.now, id, &[1; 4380]).expect("open");
    assert_eq!(s.recv_all().len(), 3);
    let half = 0x6000_0000;
    for block in [
        (1 + half, 1_u32.wrapping_add(2 * half)),
        (2921, 1461),
        (1461, 4382),
        (0, 1461),
        (1461, 1461),
    ] {
        s.sack = vec![block; 4];
        s.millis(1);
        s.send(1, 1, ACK, b"");
        let info = s.endpoint.infos(s.now)[0];
        assert_eq!(info.in_flight, 4380);
    }
}

/// A run goes out as one, and is on the wire in segments.
#[test]
fn a_run_of_segments_is_traced_one_by_one() {
    let (mut s, id) = Script::established(Config {
        trace: true,
        ..config()
    });
    while s.endpoint.poll_trace().is_some() {}
    s.endpoint
        .write(s.now, id, &[7; 3 * 1460])
        .expect("it is open");
    let mut frames = Vec::new();
    let taken = s.endpoint.poll_train(s.now, |train| {
        frames = train.cut();
        true
    });
    assert_eq!((taken, frames.len()), (Some(true), 3));
    let traced = std::iter::from_fn(|| s.endpoint.poll_trace());
    let traced: Vec<_> = traced
        .map(|r| (r.seq.wrapping_sub(s.iss), r.len, r.flags))
        .collect();
    let expected = [(1, 1460, ACK), (1461, 1460, ACK), (2921, 1460, PSH)];
    assert_eq!(traced, expected);
}
