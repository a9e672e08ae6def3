//! Loss probes: RFC 8985 §7 and what goes beyond it.

use super::config;
use crate::proto::ConnId;
use crate::proto::script::*;
use tcp_common::wire::Timestamps;

const MSS: usize = 1460;

/// Established with SACK; its first five octets took a round trip of 20 ms.
fn measured() -> (Script, ConnId) {
    let (mut s, id) = Script::established_with(config(), &offer(1460, Some(7), true, false));
    s.endpoint.write(s.now, id, b"first").expect("open");
    s.recv_all();
    s.millis(20);
    s.send(1, 6, ACK, b"");
    (s, id)
}

/// RFC 8985 §7.3: the last segment again before the timeout, with the one that probes.
#[test]
fn a_lost_tail_is_probed() {
    let (mut s, id) = measured();
    s.endpoint.write(s.now, id, &[1; 4380]).expect("open");
    assert_eq!(s.recv_all().len(), 3);
    s.millis(41);
    s.expect_nothing();
    s.millis(2);
    s.expect(2926, 1, "P.", MSS);
    // The probe arrives and exposes the others.
    s.millis(20);
    s.sack = vec![(2926, 4386)];
    s.send(1, 6, ACK, b"");
    assert_eq!(s.recv_all()[0], (6, 1, ".".to_string(), MSS));
}

/// RFC 8985 §7.3: what is not sent yet serves as well.
#[test]
fn new_data_is_the_better_probe() {
    let (mut s, id) = Script::established_with(config(), &offer(1460, Some(7), true, false));
    s.endpoint.write(s.now, id, &vec![1; 20_000]).expect("open");
    assert_eq!(s.recv_all().len(), 10);
    s.millis(1001);
    s.expect(14_601, 1, ".", MSS);
    s.millis(900);
    s.expect_nothing();
}

/// RFC 9002 §6.2 rather than RFC 8985 §7.2: the last retransmission, or the one ACK of it, may be
/// lost, too.
#[test]
fn recovery_is_probed_with_the_first_segment() {
    let (mut s, id) = Script::established_with(config(), &offer(1460, Some(7), true, false));
    let seg = |n: u32| 1 + n * MSS as u32;
    s.endpoint.write(s.now, id, &[1; 7300]).expect("open");
    assert_eq!(s.recv_all().len(), 5);
    s.millis(20);
    s.sack = vec![(seg(1), seg(5))];
    s.send(1, 1, ACK, b"");
    s.expect(seg(0), 1, ".", MSS);
    // SRTT + 4 RTTVAR is 60 ms; the probes back off and stop before the timeout.
    let mut times = Vec::new();
    for ms in 0..400 {
        for sent in s.recv_all() {
            assert_eq!(sent, (1, 1, ".".to_string(), MSS));
            times.push(ms);
        }
        s.millis(1);
    }
    assert_eq!(times, [62, 186, 220]);
    let info = s.endpoint.infos(s.now)[0];
    assert_eq!(info.cwnd, MSS as u32, "the last was a timeout");
    s.send(1, seg(5), ACK, b"");
    s.millis(100_000);
    s.expect_nothing();
}

/// RFC 6298 §5.5: nothing comes between a timeout that is not answered and the next.
#[test]
fn a_timeout_without_an_answer_is_followed_by_no_probe() {
    let (mut s, id) = measured();
    s.endpoint.write(s.now, id, &[1; 4380]).expect("open");
    assert_eq!(s.recv_all().len(), 3);
    let mut times = Vec::new();
    for ms in 0..1500 {
        times.extend(s.recv_all().iter().map(|sent| (ms, sent.0)));
        s.millis(1);
    }
    // The tail, the head, then timeouts.
    assert_eq!(times, [(42, 2926), (166, 6), (262, 6), (702, 6)]);
}

/// RFC 8985 §7.4: a probe that repaired the loss of the last segment is a loss,
/// one that was not needed is none.
#[test]
fn a_probe_that_repaired_a_loss_counts_as_one() {
    for needed in [true, false] {
        let (mut s, id) = measured();
        s.endpoint.write(s.now, id, &[1; 1460]).expect("open");
        s.recv_all();
        s.millis(240);
        s.expect(6, 1, "P.", MSS);
        s.send(1, 1466, ACK, b"");
        if !needed {
            s.sack = vec![(6, 1466)];
            s.send(1, 1466, ACK, b"");
        }
        s.endpoint.write(s.now, id, b"next").expect("open");
        s.recv_all();
        s.millis(20);
        s.send(1, 1470, ACK, b"");
        let info = s.endpoint.infos(s.now)[0];
        assert_eq!(info.ssthresh < u32::MAX, needed, "{info:?}");
    }
}

/// RFC 3522 §3.2: the ACK echoes what was sent before the timeout, but not the original, which was
/// lost. Found by the simulation.
#[test]
fn a_timeout_is_not_undone_if_a_probe_had_to_repair_the_loss() {
    let (mut s, id) = Script::established_with(config(), &offer(1460, Some(7), true, true));
    let answer = |s: &mut Script, val: u32, ack: u32| {
        s.millis(20);
        s.ts = s.ts.map(|ts| Timestamps {
            val: ts.val + 1,
            ecr: val,
        });
        s.send(1, ack, ACK, b"");
    };
    s.endpoint.write(s.now, id, b"first").expect("open");
    let first = s.recv().expect("text").timestamps.expect("negotiated");
    answer(&mut s, first.val, 6);
    s.endpoint.write(s.now, id, &[1; 2 * 1448]).expect("open");
    assert_eq!(s.recv_all().len(), 2);
    let before = s.endpoint.infos(s.now)[0].cwnd;
    let mut again = Vec::new();
    while s.endpoint.infos(s.now)[0].cwnd == before {
        s.millis(1);
        again.extend(std::iter::from_fn(|| s.recv()));
    }
    let order: Vec<u32> = again.iter().map(|sent| sent.seq).collect();
    assert_eq!(order, [1454, 6, 6], "two probes and the timeout");
    let probe = again[1].timestamps.expect("negotiated");
    answer(&mut s, probe.val, 1454);
    let info = s.endpoint.infos(s.now)[0];
    assert!(info.cwnd < before && info.ssthresh < u32::MAX, "{info:?}");
    // The copy was needless, which says nothing of the original.
    s.sack = vec![(6, 1454)];
    answer(&mut s, again[2].timestamps.expect("negotiated").val, 1454);
    let info = s.endpoint.infos(s.now)[0];
    assert!(info.cwnd < before && info.ssthresh < u32::MAX, "{info:?}");
}

/// RFC 8985 §7.2: the ACK of a single segment may be kept back. By most not for long.
#[test]
fn the_last_segment_alone_is_probed_soon_unless_the_peer_keeps_acks_back() {
    let (mut s, id) = measured();
    s.endpoint.write(s.now, id, b"lost").expect("open");
    s.recv_all();
    s.millis(88);
    s.expect_nothing();
    s.millis(4);
    s.expect(6, 1, "P.", 4);
    s.send(1, 10, ACK, b"");
    s.endpoint.write(s.now, id, b"next").expect("open");
    s.recv_all();
    s.millis(20);
    s.send(1, 14, ACK, b"");
    // Here the peer had it all the time.
    s.endpoint.write(s.now, id, b"late").expect("open");
    s.recv_all();
    s.millis(93);
    s.expect(14, 1, "P.", 4);
    s.send(1, 18, ACK, b"");
    s.sack = vec![(14, 18)];
    s.send(1, 18, ACK, b"");
    s.endpoint.write(s.now, id, b"again").expect("open");
    s.recv_all();
    s.millis(190);
    s.expect_nothing();
    s.send(1, 23, ACK, b"");
    s.millis(1000);
    s.expect_nothing();
}

/// A queue that has emptied makes the round trip shorter than it ever was. The answer to the
/// probe is that to the copy all the same, as the echo says, so what was sent before it and is
/// not there is lost (RFC 8985 §6.2 step 2).
#[test]
fn a_probe_that_is_answered_sooner_than_ever_exposes_what_was_lost() {
    let (mut s, id) = Script::established_with(config(), &offer(1460, Some(7), true, true));
    s.endpoint.write(s.now, id, b"first").expect("open");
    s.recv_all();
    s.millis(20);
    let echo = |s: &mut Script, sent: u32| {
        s.ts = s.ts.map(|ts| Timestamps { ecr: sent, ..ts });
    };
    s.send(1, 6, ACK, b"");
    let len = MSS - 12;
    s.endpoint
        .write(s.now, id, &vec![1; 8 * len])
        .expect("open");
    assert_eq!(s.recv_all().len(), 8);
    // All is lost, and the tail's probe, too.
    s.millis(42);
    assert_eq!(s.recv_all().len(), 1);
    let mut probe = None;
    while probe.is_none() {
        s.millis(1);
        probe = s.recv();
    }
    let probe = probe.expect("the first segment");
    assert_eq!(probe.brief(), (6, 1, ".".into(), len));
    echo(&mut s, probe.timestamps.expect("timestamps").val);
    s.millis(1);
    s.send(1, 6 + len as u32, ACK, b"");
    // A fresh start, of a segment (RFC 6937), and not a crawl from probe to probe.
    s.expect(6 + len as u32, 1, ".", len);
    assert_eq!(s.endpoint.infos(s.now)[0].in_flight, len as u32);
}
