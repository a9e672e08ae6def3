use crate::proto::script::*;
use crate::proto::{CloseReason, Config, Disposition, Event, State};

mod close;
mod ecn;
mod handshake;
mod memory;
mod pacing;
mod path_mtu;
mod probe;
mod receive;
mod rules;
mod send;

fn config() -> Config {
    Config {
        trace: true,
        ..Config::default()
    }
}

/// RFC 9293 §3.5, the last ACK of the handshake, as a cookie.
#[test]
fn a_cookie_ack_makes_an_established_connection() {
    let (mut s, id) = Script::established(config());
    assert_eq!(s.endpoint.state(id), Some(State::Established));
    assert_eq!(s.endpoint.flow(id), Some(s.flow));
    assert!(s.endpoint.knows(&s.flow));
    s.expect_nothing();
    let trace = s.trace();
    let states: Vec<_> = trace.iter().map(|t| (t.client, t.server)).collect();
    assert_eq!(
        states,
        [
            (State::SynSent, State::SynReceived),
            (State::Established, State::SynReceived),
            (State::Established, State::Established),
        ]
    );
    assert!(trace[0].reconstructed && trace[1].reconstructed && !trace[2].reconstructed);
}

#[test]
fn data_flows_both_ways() {
    let (mut s, id) = Script::established(config());
    s.send(1, 1, PSH, b"GET /");
    assert_eq!(s.events(), [Event::Readable(id)]);
    assert_eq!(s.read(id), b"GET /");
    assert_eq!(s.endpoint.write(s.now, id, b"200 OK"), Ok(6));
    let sent = s.recv().expect("the answer");
    assert_eq!(sent.brief(), (1, 6, "P.".to_string(), 6));
    assert_eq!(sent.payload, b"200 OK");
    s.expect_nothing();
    s.send(6, 7, ACK, b"");
    assert_eq!(s.endpoint.infos(s.now)[0].send_queue, 0);
}

#[test]
fn the_first_ack_may_carry_data_and_fin() {
    let mut s = Script::new(config(), &offer(1460, None, false, false));
    assert_eq!(s.send(1, 1, FIN, b"all of it"), Disposition::Accepted);
    let id = s.accepted();
    assert_eq!(s.events(), [Event::Readable(id)]);
    assert_eq!(s.endpoint.state(id), Some(State::CloseWait));
    assert_eq!(s.read(id), b"all of it");
    assert!(s.endpoint.is_read_closed(id));
    s.expect(1, 11, ".", 0);
}

/// RFC 9293 §3.10.7.1.
#[test]
fn an_ack_without_a_cookie_is_reset_and_its_flow_ends() {
    let mut s = Script::new(config(), &offer(1460, None, false, false));
    assert_eq!(s.send(1, 99, ACK, b""), Disposition::NoFlow);
    assert_eq!(s.events(), [Event::FlowEnded(s.flow)]);
    let sent = s.recv().expect("RST");
    assert_eq!((sent.seq, sent.flags), (99, RST));
    // Without an ACK field: SEQ=0, ACK=SEG.SEQ+SEG.LEN.
    s.send(5, 0, tcp_common::wire::Flags::FIN, b"xyz");
    let sent = s.recv().expect("RST");
    assert_eq!(sent.seq.wrapping_add(s.iss), 0);
    assert_eq!((sent.ack, sent.flags), (9, RST.with(ACK)));
    assert_eq!(s.send(1, 1, RST, b""), Disposition::NoFlow);
    s.expect_nothing();
}

/// The ring between XDP and us was full, or the path lost it after XDP had seen a copy.
#[test]
fn what_overtakes_its_first_segment_is_no_reason_for_a_reset() {
    let mut s = Script::new(config(), &offer(1460, None, false, false));
    assert_eq!(s.send(101, 1, PSH, b"second"), Disposition::Early);
    assert_eq!(s.send(107, 1, FIN, b""), Disposition::Early);
    assert!(s.events().is_empty());
    s.expect_nothing();
    assert_eq!(s.send(1, 1, PSH, &[b'x'; 100]), Disposition::Accepted);
    let id = s.accepted();
    s.send(101, 1, FIN, b"second");
    let read = s.read(id);
    assert_eq!((read.len(), &read[100..]), (106, &b"second"[..]));
    assert!(s.endpoint.is_read_closed(id));
}

#[test]
fn one_connection_too_many_is_refused() {
    let (mut s, _) = Script::established(Config {
        max_connections: 1,
        ..config()
    });
    s.flow.remote_port_be = 1;
    s.syn(77, &offer(1460, None, false, false));
    assert_eq!(s.send(1, 1, ACK, b""), Disposition::TooMany);
    assert_eq!(s.recv().map(|r| r.flags), Some(RST));
    assert_eq!(s.events(), [Event::FlowEnded(s.flow)]);
    assert_eq!(s.endpoint.len(), 1);
}

#[test]
fn abort_sends_a_reset_and_frees_the_flow() {
    let (mut s, id) = Script::established(config());
    s.endpoint.abort(s.now, id);
    s.expect(1, 1, "R.", 0);
    assert_eq!(
        s.events(),
        [
            Event::FlowEnded(s.flow),
            Event::Closed(id, CloseReason::Aborted)
        ]
    );
    assert!(s.endpoint.is_empty());
}

#[test]
fn a_stopping_endpoint_keeps_its_connections_and_makes_none() {
    let (mut s, id) = Script::established(config());
    s.endpoint.set_accepting(false);
    s.send(1, 1, PSH, b"still here");
    assert_eq!(s.read(id), b"still here");
    s.expect(1, 11, ".", 0);
    s.flow.remote_port_be = 5;
    s.syn(8, &offer(1460, None, false, false));
    assert_eq!(s.send(0, 0, SYN, b""), Disposition::Syn);
    assert_eq!(s.send(1, 1, ACK, b""), Disposition::NoFlow);
    assert_eq!(s.recv().map(|r| r.flags), Some(RST));
    s.expect_nothing();
    assert_eq!(s.endpoint.len(), 1);
}

/// A SYN that XDP took for one of a known flow, though none is left here.
#[test]
fn a_syn_of_a_forgotten_flow_is_answered_with_a_cookie() {
    let mut s = Script::new(config(), &offer(1460, None, false, false));
    assert_eq!(s.send(0, 0, SYN, b""), Disposition::Syn);
    assert_eq!(s.events(), [Event::FlowEnded(s.flow)]);
    let sent = s.recv().expect("SYN-ACK");
    assert_eq!(sent.flags, SYN.with(ACK));
    assert_eq!((sent.ack, sent.window), (1, 65_535));
    s.iss = s.iss.wrapping_add(sent.seq);
    let id = s.accept();
    assert_eq!(s.endpoint.state(id), Some(State::Established));
}
