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
    assert_eq!(last_states(&mut s), (State::FinWait2, State::LastAck));
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
    assert_eq!(last_states(&mut s), (State::Established, State::FinWait1));
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
