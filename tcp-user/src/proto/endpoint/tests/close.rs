//! Teardown, segment by segment, with both sides' states.

use super::*;

const DONE: CloseReason = CloseReason::Done;

fn last_states(s: &mut Script) -> (State, State) {
    let trace = s.trace();
    let last = trace.last().expect("a segment");
    (last.client, last.server)
}

/// RFC 9293 §3.6, figure 12 with the client closing first: a / a+1 / c / c+1, and
/// data from us while in CLOSE-WAIT.
#[test]
fn the_client_closes_first() {
    let (mut s, id) = Script::established(config());
    s.send(1, 1, FIN, b"");
    assert_eq!(s.endpoint.state(id), Some(State::CloseWait));
    assert_eq!(last_states(&mut s), (State::FinWait1, State::CloseWait));
    s.expect(1, 2, ".", 0);
    assert_eq!(last_states(&mut s), (State::FinWait2, State::CloseWait));
    assert_eq!(s.events(), [Event::Readable(id)]);
    assert!(s.endpoint.is_read_closed(id));

    assert_eq!(s.endpoint.write(s.now, id, b"more"), Ok(4));
    s.expect(1, 2, "P.", 4);
    assert_eq!(last_states(&mut s), (State::FinWait2, State::CloseWait));
    s.send(2, 5, ACK, b"");

    s.endpoint.close(s.now, id);
    s.expect(5, 2, "F.", 0);
    assert_eq!(s.endpoint.state(id), Some(State::LastAck));
    assert_eq!(last_states(&mut s), (State::TimeWait, State::LastAck));
    s.send(2, 6, ACK, b"");
    assert_eq!(last_states(&mut s), (State::TimeWait, State::Closed));
    assert_eq!(
        s.events(),
        [Event::FlowEnded(s.flow), Event::Closed(id, DONE)]
    );
    assert!(s.endpoint.is_empty());
    s.expect_nothing();
}

/// RFC 9293 §3.6, figure 12 with us as the side that closes first.
#[test]
fn we_close_first_and_wait_two_msl() {
    let (mut s, id) = Script::established(config());
    s.endpoint.write(s.now, id, b"bye").expect("open");
    s.endpoint.close(s.now, id);
    s.expect(1, 1, "FP.", 3);
    assert_eq!(last_states(&mut s), (State::CloseWait, State::FinWait1));
    s.send(1, 5, ACK, b"");
    assert_eq!(last_states(&mut s), (State::CloseWait, State::FinWait2));
    s.send(1, 5, FIN, b"");
    assert_eq!(last_states(&mut s), (State::LastAck, State::TimeWait));
    s.expect(5, 2, ".", 0);
    assert_eq!(last_states(&mut s), (State::Closed, State::TimeWait));
    assert_eq!(s.events(), [Event::Closed(id, DONE)]);
    assert!(s.endpoint.knows(&s.flow));
    s.millis(59_999);
    assert_eq!(s.events(), []);
    s.millis(2);
    assert_eq!(s.events(), [Event::FlowEnded(s.flow)]);
    assert!(s.endpoint.is_empty());
}

/// RFC 9293 §3.6, figure 13.
#[test]
fn both_close_at_once() {
    let (mut s, id) = Script::established(config());
    s.endpoint.close(s.now, id);
    s.expect(1, 1, "F.", 0);
    s.send(1, 1, FIN, b"");
    assert_eq!(s.endpoint.state(id), Some(State::Closing));
    s.expect(2, 2, ".", 0);
    s.send(2, 2, ACK, b"");
    assert_eq!(last_states(&mut s), (State::TimeWait, State::TimeWait));
    assert_eq!(s.events(), [Event::Closed(id, DONE)]);
    s.expect_nothing();
    s.millis(60_001);
    assert_eq!(s.events(), [Event::FlowEnded(s.flow)]);
}

/// FIN-WAIT-1 to TIME-WAIT by one segment: FIN that acknowledges our FIN.
#[test]
fn a_fin_that_acknowledges_our_fin_ends_in_time_wait() {
    let (mut s, id) = Script::established(config());
    s.endpoint.close(s.now, id);
    s.expect(1, 1, "F.", 0);
    s.send(1, 2, FIN, b"");
    s.expect(2, 2, ".", 0);
    assert_eq!(last_states(&mut s), (State::Closed, State::TimeWait));
    assert_eq!(s.events(), [Event::Closed(id, DONE)]);
}

/// RFC 9293 §3.10.7.4, seventh: FIN-WAIT-1 and FIN-WAIT-2 receive text.
#[test]
fn after_a_half_close_data_is_still_delivered() {
    let (mut s, id) = Script::established(config());
    s.endpoint.shutdown(s.now, id).expect("open");
    assert!(s.endpoint.write(s.now, id, b"x").is_err());
    s.expect(1, 1, "F.", 0);
    s.send(1, 1, PSH, b"in FIN-WAIT-1");
    assert_eq!(s.read(id), b"in FIN-WAIT-1");
    s.send(14, 2, PSH, b"in FIN-WAIT-2");
    assert_eq!(s.endpoint.state(id), Some(State::FinWait2));
    assert_eq!(s.read(id), b"in FIN-WAIT-2");
    // Long after: no timeout, as somebody reads.
    s.millis(3_600_000);
    assert_eq!(s.endpoint.state(id), Some(State::FinWait2));
    s.send(27, 2, FIN, b"!");
    // The last octet is unread: TIME-WAIT below, but not the end for the reader.
    assert!(s.endpoint.knows(&s.flow));
    assert!(!s.endpoint.is_read_closed(id));
    assert!(!s.events().contains(&Event::Closed(id, DONE)));
    assert_eq!(s.read(id), b"!");
    assert!(s.endpoint.is_read_closed(id));
    assert_eq!(s.events(), [Event::Closed(id, DONE)]);
    assert_eq!(s.endpoint.read(id, &mut [0; 8]), Err(crate::proto::Refused));
}

/// RFC 9293 §3.6.1 (SHLD-3 of RFC 1122 §4.2.2.13).
#[test]
fn after_a_full_close_data_is_answered_with_rst() {
    let (mut s, id) = Script::established(config());
    s.endpoint.close(s.now, id);
    s.expect(1, 1, "F.", 0);
    s.send(1, 2, PSH, b"too late");
    let sent = s.recv().expect("RST");
    assert_eq!((sent.seq, sent.flags), (2, RST.with(ACK)));
    assert_eq!(
        s.events(),
        [
            Event::FlowEnded(s.flow),
            Event::Closed(id, CloseReason::Aborted)
        ]
    );
}

/// RFC 2525 §2.17.
#[test]
fn a_close_with_unread_data_is_a_reset() {
    let (mut s, id) = Script::established(config());
    s.send(1, 1, PSH, b"unread");
    s.endpoint.close(s.now, id);
    s.expect(1, 7, "R.", 0);
    assert!(s.endpoint.is_empty());
}

#[test]
fn fin_wait_2_of_a_full_close_ends_after_a_minute() {
    let (mut s, id) = Script::established(config());
    s.endpoint.close(s.now, id);
    s.expect(1, 1, "F.", 0);
    s.send(1, 2, ACK, b"");
    s.millis(59_000);
    assert_eq!(s.endpoint.state(id), Some(State::FinWait2));
    s.millis(1_001);
    assert_eq!(
        s.events(),
        [
            Event::FlowEnded(s.flow),
            Event::Closed(id, CloseReason::TimedOut)
        ]
    );
}

/// An application that has only the peer's FIN to wait for reads what comes before it, but
/// not for ever.
#[test]
fn fin_wait_2_of_a_finished_application_ends_after_a_minute() {
    for acknowledged in [false, true] {
        let (mut s, id) = Script::established(config());
        if acknowledged {
            s.endpoint.shutdown(s.now, id).expect("it is open");
            s.expect(1, 1, "F.", 0);
            s.send(1, 2, ACK, b"");
            s.millis(100_000_000);
        }
        s.endpoint.finish(s.now, id).expect("it is open");
        if !acknowledged {
            s.expect(1, 1, "F.", 0);
            s.send(1, 2, ACK, b"");
        }
        assert_eq!(s.endpoint.state(id), Some(State::FinWait2));
        s.millis(30_000);
        s.send(1, 2, PSH, b"late");
        assert_eq!(s.events(), [Event::Readable(id)]);
        assert_eq!(s.read(id), b"late");
        s.millis(29_000);
        assert_eq!(s.endpoint.state(id), Some(State::FinWait2));
        s.millis(1_001);
        let gone = [
            Event::FlowEnded(s.flow),
            Event::Closed(id, CloseReason::TimedOut),
        ];
        assert_eq!(s.events(), gone);
        assert_eq!(s.endpoint.finish(s.now, id), Err(crate::proto::Refused));
    }
}

#[test]
fn a_lost_fin_is_sent_again() {
    for peer_first in [false, true] {
        let (mut s, id) = Script::established(config());
        if peer_first {
            s.send(1, 1, FIN, b"");
        }
        s.endpoint.close(s.now, id);
        let ack = if peer_first { 2 } else { 1 };
        s.expect(1, ack, "F.", 0);
        s.millis(999);
        s.expect_nothing();
        s.millis(2);
        s.expect(1, ack, "F.", 0);
        s.millis(2_001);
        s.expect(1, ack, "F.", 0);
        s.send(ack, 2, ACK, b"");
        s.millis(10_000);
        s.expect_nothing();
    }
}

#[test]
fn the_fin_follows_all_queued_data() {
    let mut s = Script::new(config(), &offer(1460, None, false, false));
    s.window = 1000;
    let id = s.accept();
    s.endpoint.write(s.now, id, &[7; 1500]).expect("open");
    s.endpoint.close(s.now, id);
    s.expect(1, 1, ".", 1000);
    assert_eq!(s.endpoint.state(id), Some(State::FinWait1));
    s.send(1, 1001, ACK, b"");
    s.expect(1001, 1, "FP.", 500);
}

/// RFC 9293 §3.10.7.4 and RFC 1337.
#[test]
fn time_wait_answers_a_repeated_fin_and_nothing_else() {
    let (mut s, id) = Script::established(config());
    s.endpoint.close(s.now, id);
    s.expect(1, 1, "F.", 0);
    s.send(1, 2, FIN, b"");
    s.expect(2, 2, ".", 0);
    s.millis(50_000);
    assert_eq!(s.send(1, 2, FIN, b""), Disposition::TimeWait);
    s.expect(2, 2, ".", 0);
    s.send(2, 2, ACK, b"");
    s.expect_nothing();
    assert_eq!(s.send(2, 0, RST, b""), Disposition::TimeWait);
    s.expect_nothing();
    s.send(2, 2, PSH, b"old or forged");
    s.expect(2, 2, ".", 0);
    // The repeated FIN restarted the timeout.
    s.millis(59_000);
    assert!(s.endpoint.knows(&s.flow));
    s.millis(1_001);
    assert!(s.endpoint.is_empty());
}

/// RFC 6191 §2, RFC 9293 §3.10.7.4: the new ISS lies above the old SND.NXT.
#[test]
fn time_wait_admits_a_new_syn_by_cookie() {
    for irs in (0..2000).map(|n| 1_000_000 + n) {
        let (mut s, id) = Script::established_with(config(), &offer(1460, Some(7), true, true));
        s.endpoint.close(s.now, id);
        s.expect(1, 1, "F.", 0);
        s.send(1, 2, FIN, b"");
        s.expect(2, 2, ".", 0);
        s.events();
        let old = s.iss.wrapping_add(2);
        s.irs = irs;
        let ts = s.ts.as_mut().expect("negotiated");
        ts.val += 500;
        ts.ecr = 0;
        assert_eq!(s.send(0, 0, SYN, b""), Disposition::Syn);
        let sent = s.recv().expect("SYN-ACK");
        let iss = sent.seq.wrapping_add(s.iss);
        assert!((iss.wrapping_sub(old) as i32) > 0);
        assert_eq!(sent.ack, 1);
        s.iss = iss;
        s.ts.as_mut().expect("negotiated").ecr = sent.timestamps.expect("offered").val;
        assert_eq!(s.send(1, 1, ACK, b""), Disposition::Accepted);
        let new = s.accepted();
        assert_ne!(id, new);
        assert_eq!(s.endpoint.len(), 1);
    }
}

/// Its cookie is still valid, but it is the old connection's: what TIME-WAIT is for
/// (RFC 9293 §3.6.1).
#[test]
fn time_wait_does_not_end_with_a_late_copy_of_the_first_segment() {
    for timestamps in [false, true] {
        let offer = offer(1460, Some(7), true, timestamps);
        let mut s = Script::new(config(), &offer);
        assert_eq!(s.send(1, 1, PSH, b"POST /"), Disposition::Accepted);
        let id = s.accepted();
        assert_eq!(s.read(id), b"POST /");
        s.endpoint.close(s.now, id);
        s.expect(1, 7, "F.", 0);
        s.send(7, 2, FIN, b"");
        s.expect(2, 8, ".", 0);
        s.events();
        assert_eq!(s.send(1, 1, PSH, b"POST /"), Disposition::TimeWait);
        s.expect(2, 8, ".", 0);
        assert!(s.events().is_empty());
        assert_eq!(s.endpoint.infos(s.now)[0].state, State::TimeWait);
    }
}
