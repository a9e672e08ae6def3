//! Segments without SYN: known flows, cookie ACKs, and everything else.

use crate::frames::{CLIENT4, CLIENT6, SERVER4, SERVER6, Spec, read_answer};
use crate::harness::{Program, SECRETS, flow};
use etherparse::TcpOptionElement::{Noop, Timestamp};
use tcp_common::abi::{Secrets, flag};
use tcp_common::counters::Counter;

/// Runs `syn` and returns the ISS and, if there is one, the `TSval` of the answer.
fn handshake(program: &mut Program, syn: &Spec) -> (u32, Option<u32>) {
    let out = program.run(&syn.build());
    let answer = read_answer(syn, &out.frame);
    let tsval = answer.options.iter().find_map(|o| match o {
        Timestamp(val, _) => Some(*val),
        _ => None,
    });
    (answer.tcp.sequence_number, tsval)
}

/// The ACK that ends the handshake, with timestamps if the SYN-ACK had them.
fn final_ack(syn: &Spec, iss: u32, tsval: Option<u32>) -> Spec {
    let (from, to) = (syn.from.to_string(), syn.to.to_string());
    let seq = syn.tcp.sequence_number.wrapping_add(1);
    let ack = Spec::ack(&from, &to, seq, iss.wrapping_add(1));
    match tsval {
        Some(val) => ack.options(&[Noop, Noop, Timestamp(9, val)]),
        None => ack,
    }
}

fn shapes() -> Vec<Spec> {
    vec![
        Spec::syn(CLIENT4, SERVER4),
        Spec::syn(CLIENT6, SERVER6),
        Spec::syn(CLIENT4, SERVER4).options(&[]),
        Spec::syn(CLIENT6, SERVER6).options(&[]),
        Spec::syn(CLIENT4, SERVER4).vlans(&[9]),
    ]
}

// Without an AF_XDP socket the redirect itself fails; that the frame was meant for
// userspace shows in the counter, and the flow in FLOWS.
const SENT_UP: Counter = Counter::DropNoSocket;

#[test]
#[ignore = "needs root"]
fn a_valid_cookie_opens_a_flow_with_or_without_data_or_fin() {
    for syn in shapes() {
        for variant in 0..4 {
            let mut program = Program::load();
            let key = flow(&syn.from.to_string(), &syn.to.to_string());
            let (iss, tsval) = handshake(&mut program, &syn);
            let mut ack = final_ack(&syn, iss, tsval).vlans(&syn.vlans);
            if variant & 1 != 0 {
                ack = ack.payload(b"GET / HTTP/1.1\r\n\r\n");
            }
            ack.tcp.fin = variant & 2 != 0;
            assert!(!program.has_flow(key));
            assert_eq!(program.counter(&ack.build()), SENT_UP);
            assert!(program.has_flow(key));
            let later = Spec::ack(&syn.from.to_string(), &syn.to.to_string(), 5, 6).payload(b"x");
            assert_eq!(program.counter(&later.build()), SENT_UP, "known now");
        }
    }
}

#[test]
#[ignore = "needs root"]
fn a_wrong_acknowledgment_is_answered_with_rst_and_opens_nothing() {
    for syn in shapes() {
        let mut program = Program::load();
        let key = flow(&syn.from.to_string(), &syn.to.to_string());
        let (iss, tsval) = handshake(&mut program, &syn);
        for wrong in [iss, iss.wrapping_add(2), iss ^ 0x8000_0000, 0, 1] {
            let mut ack = final_ack(&syn, iss, tsval).vlans(&syn.vlans);
            ack.tcp.acknowledgment_number = wrong;
            let out = program.run(&ack.build());
            assert_eq!(out.counter, Counter::RstBadCookie);
            let rst = read_answer(&ack, &out.frame);
            assert!(rst.tcp.rst && !rst.tcp.ack && !rst.tcp.syn);
            assert_eq!(rst.tcp.sequence_number, wrong, "RFC 9293 §3.10.7.1");
            assert_eq!(rst.options, []);
            assert!(!program.has_flow(key));
        }
    }
}

#[test]
#[ignore = "needs root"]
fn a_wrong_sequence_number_echo_or_port_is_refused() {
    let mut program = Program::load();
    let syn = Spec::syn(CLIENT4, SERVER4);
    let (iss, tsval) = handshake(&mut program, &syn);
    let good = final_ack(&syn, iss, tsval);
    let mut wrong_seq = good.clone();
    wrong_seq.tcp.sequence_number += 1;
    let wrong_echo = final_ack(&syn, iss, tsval.map(|v| v ^ 1));
    let no_echo = final_ack(&syn, iss, None);
    let mut wrong_port = good.clone();
    wrong_port.tcp.source_port += 1;
    wrong_port.from.set_port(40_001);
    for bad in [wrong_seq, wrong_echo, no_echo, wrong_port] {
        assert_eq!(program.counter(&bad.build()), Counter::RstBadCookie);
    }
    assert_eq!(program.counter(&good.build()), SENT_UP);
}

#[test]
#[ignore = "needs root"]
fn data_that_comes_before_the_first_segment_is_dropped_without_rst() {
    for syn in shapes() {
        let mut program = Program::load();
        let (iss, tsval) = handshake(&mut program, &syn);
        let first = final_ack(&syn, iss, tsval)
            .vlans(&syn.vlans)
            .payload(&[7; 100]);
        for k in [1, 2, 9] {
            let mut later = first.clone();
            later.tcp.sequence_number += k * 100;
            assert_eq!(program.counter(&later.build()), Counter::DropEarly);
        }
        let mut stale = first.clone();
        stale.tcp.sequence_number += 1_000_000;
        assert_eq!(program.counter(&stale.build()), Counter::RstBadCookie);
        assert_eq!(program.counter(&first.build()), SENT_UP);
    }
}

#[test]
#[ignore = "needs root"]
fn the_last_slots_cookie_is_accepted_and_the_one_before_is_not() {
    let mut program = Program::load();
    let syn = Spec::syn(CLIENT4, SERVER4);
    let (iss, tsval) = handshake(&mut program, &syn);
    let ack = final_ack(&syn, iss, tsval).build();
    let next = tcp_common::cookie::Key { k0: 9, k1: 10 };
    // Two rotations on: slot 2 has replaced slot 0's key, which is old now.
    program.set_secrets(Secrets {
        keys: [next, SECRETS.keys[1]],
        old: [SECRETS.keys[0], SECRETS.old[1]],
        ..SECRETS
    });
    assert_eq!(program.counter(&ack), Counter::RstOldCookie);
    program.set_flags(flag::DROP_INVALID);
    assert_eq!(program.counter(&ack), Counter::DropOldCookie);
    program.set_flags(flag::UNDER_ATTACK);
    assert_eq!(
        program.counter(&ack),
        Counter::RstBadCookie,
        "not told apart"
    );
    program.set_flags(flag::DROP_INVALID);
    // Four on: nobody knows it any more.
    program.set_secrets(Secrets {
        keys: [next, SECRETS.keys[1]],
        ..SECRETS
    });
    assert_eq!(program.counter(&ack), Counter::DropBadCookie);
    program.set_flags(0);
    // One rotation on.
    program.set_secrets(Secrets {
        current: 1,
        ..SECRETS
    });
    assert_eq!(program.counter(&ack), SENT_UP);
}

#[test]
#[ignore = "needs root"]
fn invalid_acks_are_dropped_if_the_operator_says_so() {
    let mut program = Program::load();
    program.set_flags(flag::DROP_INVALID);
    let ack = Spec::ack(CLIENT4, SERVER4, 1, 2).build();
    assert_eq!(program.counter(&ack), Counter::DropBadCookie);
}

#[test]
#[ignore = "needs root"]
fn a_full_flow_table_refuses_with_its_own_counter() {
    let mut program = Program::load();
    let (mut full, mut entered) = (None, 0);
    // The table has 16 entries here; per-CPU free lists may hide some.
    for port in 1..2000u16 {
        let from = format!("192.0.2.99:{port}");
        let syn = Spec::syn(&from, SERVER4);
        let (iss, tsval) = handshake(&mut program, &syn);
        let counter = program.counter(&final_ack(&syn, iss, tsval).build());
        if counter != SENT_UP {
            full = Some(counter);
            break;
        }
        entered += 1;
        // Known now, and also to the filter that SYNs are held against.
        assert_eq!(program.counter(&syn.build()), SENT_UP);
    }
    assert_eq!(full, Some(Counter::RstFlowTableFull));
    assert_eq!(
        program.filtered(),
        entered,
        "the refused flow is not counted"
    );
}

#[test]
#[ignore = "needs root"]
fn every_combination_of_the_eight_flags_is_judged() {
    let mut program = Program::load();
    for flags in 0..=255u8 {
        for (from, to) in [(CLIENT4, SERVER4), (CLIENT6, SERVER6)] {
            let spec = Spec::new(from, to);
            let mut frame = spec.build();
            let at = spec.l4();
            frame[at + 13] = flags;
            crate::malformed::fix_tcp_checksum(&mut frame, at, &flow(from, to));
            let (syn, ack) = (flags & 2 != 0, flags & 16 != 0);
            let (fin, rst) = (flags & 1 != 0, flags & 4 != 0);
            let expected = if rst {
                Counter::DropRst
            } else if syn && !ack && !fin {
                Counter::SynAck
            } else if ack && !syn {
                Counter::RstBadCookie
            } else {
                Counter::DropFlags
            };
            assert_eq!(program.counter(&frame), expected, "flags {flags:#010b}");
        }
    }
}
