//! SYNs and their answers.

use crate::frames::{CLIENT4, CLIENT6, SERVER4, SERVER6, Spec, linux_options, read_answer};
use crate::harness::{Action, CONFIG, Program, SECRETS, flow};
use etherparse::TcpOptionElement::{
    MaximumSegmentSize, Noop, SelectiveAcknowledgementPermitted, Timestamp, WindowScale,
};
use tcp_common::abi::{Secrets, flag};
use tcp_common::cookie;
use tcp_common::counters::Counter;

#[test]
#[ignore = "needs root"]
fn a_linux_syn_is_answered_with_all_options_and_a_cookie() {
    let mut program = Program::load();
    for (from, to, mss) in [(CLIENT4, SERVER4, 1460), (CLIENT6, SERVER6, 1440)] {
        let syn = Spec::syn(from, to);
        let out = program.run(&syn.build());
        assert_eq!(out.counter, Counter::SynAck);
        let answer = read_answer(&syn, &out.frame);
        assert!(answer.tcp.syn && answer.tcp.ack && !answer.tcp.rst && !answer.tcp.fin);
        assert_eq!(answer.tcp.acknowledgment_number, 1001);
        assert_eq!(answer.tcp.window_size, 65_535);
        assert_eq!(answer.hop_limit, 64);
        let [
            MaximumSegmentSize(m),
            SelectiveAcknowledgementPermitted,
            Timestamp(val, ecr),
            Noop,
            WindowScale(scale),
        ] = answer.options[..]
        else {
            panic!("{:?}", answer.options);
        };
        assert_eq!((m, ecr, scale), (mss, 0x0102_0304, 7));
        let agreed = cookie::check(
            &SECRETS.keys[0],
            &flow(from, to),
            1000,
            answer.tcp.sequence_number,
            Some(val),
        )
        .expect("a valid cookie");
        assert_eq!(
            agreed,
            cookie::Negotiated {
                mss: 1460,
                window_scale: Some(10),
                sack: true,
                timestamps: true,
                ecn: false
            }
        );
        assert_eq!(
            cookie::slot_parity(answer.tcp.sequence_number, Some(val)),
            0
        );
    }
}

#[test]
#[ignore = "needs root"]
fn options_are_offered_back_only_if_the_client_offered_them() {
    let mut program = Program::load();
    let mss = MaximumSegmentSize(1400);
    let (sack, ts, ws) = (
        SelectiveAcknowledgementPermitted,
        Timestamp(77, 0),
        WindowScale(8),
    );
    for mask in 0..16u8 {
        let mut offered = Vec::new();
        for (bit, option) in [(1, &mss), (2, &sack), (4, &ts), (8, &ws)] {
            if mask & bit != 0 {
                offered.push(option.clone());
            }
        }
        for (from, to) in [(CLIENT4, SERVER4), (CLIENT6, SERVER6)] {
            let syn = Spec::syn(from, to).options(&offered);
            let out = program.run(&syn.build());
            assert_eq!(out.counter, Counter::SynAck, "{offered:?}");
            let answer = read_answer(&syn, &out.frame);
            let has = |f: fn(&etherparse::TcpOptionElement) -> bool| answer.options.iter().any(f);
            assert!(has(|o| matches!(o, MaximumSegmentSize(_))), "MSS always");
            assert_eq!(has(|o| matches!(o, Timestamp(_, 77))), mask & 4 != 0);
            assert_eq!(
                has(|o| matches!(o, SelectiveAcknowledgementPermitted)),
                mask & 2 != 0
            );
            // Without timestamps a shift count fits in the cookie only with SACK.
            let scale = mask & 8 != 0 && (mask & 4 != 0 || mask & 2 != 0);
            assert_eq!(has(|o| matches!(o, WindowScale(7))), scale, "{offered:?}");
        }
    }
}

#[test]
#[ignore = "needs root"]
fn a_syn_without_options_grows_to_hold_the_mss() {
    let mut program = Program::load();
    let syn = Spec::syn(CLIENT4, SERVER4).options(&[]);
    let frame = syn.build();
    assert_eq!(frame.len(), 54);
    let out = program.run(&frame);
    assert_eq!(out.frame.len(), 58);
    assert_eq!(
        read_answer(&syn, &out.frame).options,
        [MaximumSegmentSize(1460)]
    );
}

#[test]
#[ignore = "needs root"]
fn the_same_syn_gets_the_same_answer_within_a_slot() {
    let mut program = Program::load();
    let frame = Spec::syn(CLIENT4, SERVER4).build();
    let first = program.run(&frame).frame;
    assert_eq!(program.run(&frame).frame, first);
    program.set_secrets(Secrets {
        current: 1,
        ..SECRETS
    });
    assert_ne!(program.run(&frame).frame, first, "the next slot's key");
}

#[test]
#[ignore = "needs root"]
fn link_padding_is_cut_and_vlan_tags_go_back() {
    let mut program = Program::load();
    for vlans in [&[][..], &[5], &[100, 5]] {
        for (from, to) in [(CLIENT4, SERVER4), (CLIENT6, SERVER6)] {
            let syn = Spec::syn(from, to).vlans(vlans);
            let mut frame = syn.build();
            frame.extend([0xaa; 9]);
            let out = program.run(&frame);
            assert_eq!(out.counter, Counter::SynAck, "{vlans:?}");
            read_answer(&syn, &out.frame);
        }
    }
}

#[test]
#[ignore = "needs root"]
fn ip_options_and_extension_headers_are_walked_and_not_repeated() {
    let mut program = Program::load();
    let syn = Spec::syn(CLIENT4, SERVER4);
    let out = program.run(&syn.build_with(&[(0, vec![1, 1, 1, 0])]));
    assert_eq!(out.counter, Counter::SynAck);
    read_answer(&syn, &out.frame);
    let syn = Spec::syn(CLIENT6, SERVER6);
    let padding = |len: usize| {
        let mut v = vec![0, ((len - 8) / 8) as u8, 1, (len - 4) as u8];
        v.resize(len, 0);
        v
    };
    for extensions in [
        vec![(0, padding(8))],
        vec![(0, padding(16)), (60, padding(8))],
        vec![
            (60, padding(24)),
            (60, padding(8)),
            (60, padding(8)),
            (60, padding(8)),
        ],
        // An atomic fragment (RFC 6946).
        vec![(44, vec![0, 0, 0, 0, 1, 2, 3, 4])],
    ] {
        let out = program.run(&syn.build_with(&extensions));
        assert_eq!(out.counter, Counter::SynAck, "{extensions:?}");
        read_answer(&syn, &out.frame);
    }
}

#[test]
#[ignore = "needs root"]
fn data_on_a_syn_is_not_acknowledged() {
    let mut program = Program::load();
    let syn = Spec::syn(CLIENT4, SERVER4).payload(&[7; 300]);
    let out = program.run(&syn.build());
    assert_eq!(out.counter, Counter::SynAck);
    let answer = read_answer(&syn, &out.frame);
    assert_eq!(answer.tcp.acknowledgment_number, 1001);
}

#[test]
#[ignore = "needs root"]
fn a_syn_to_a_known_flow_goes_to_userspace_and_gets_no_cookie() {
    let mut program = Program::load();
    program.add_flow(flow(CLIENT4, SERVER4));
    let out = program.run(&Spec::syn(CLIENT4, SERVER4).build());
    assert_eq!(
        (out.action, out.counter),
        (Action::Drop, Counter::DropNoSocket),
        "no AF_XDP socket here, but it was sent to one"
    );
}

#[test]
#[ignore = "needs root"]
fn a_syn_that_only_shares_a_known_flows_slot_is_answered() {
    let mut program = Program::load();
    let known = flow(CLIENT4, SERVER4);
    program.add_flow(known);
    let other = (1..=u16::MAX)
        .map(|port| format!("192.0.2.98:{port}"))
        .find(|from| flow(from, SERVER4).filter_slot() == known.filter_slot())
        .unwrap();
    let out = program.run(&Spec::syn(&other, SERVER4).build());
    assert_eq!(out.counter, Counter::SynAck);
}

#[test]
#[ignore = "needs root"]
fn ecn_is_agreed_to_only_with_timestamps_and_when_configured() {
    let mut program = Program::load();
    let mut syn = Spec::syn(CLIENT4, SERVER4);
    (syn.tcp.ece, syn.tcp.cwr) = (true, true);
    let out = program.run(&syn.build());
    assert!(!read_answer(&syn, &out.frame).tcp.ece, "off by default");
    program.set_flags(flag::ECN);
    let out = program.run(&syn.build());
    let answer = read_answer(&syn, &out.frame);
    assert!(answer.tcp.ece && !answer.tcp.cwr, "RFC 3168 §6.1.1");
    let syn = syn.options(&[MaximumSegmentSize(1460)]);
    let out = program.run(&syn.build());
    assert!(!read_answer(&syn, &out.frame).tcp.ece);
}

#[test]
#[ignore = "needs root"]
fn syns_without_timestamps_can_be_refused() {
    let mut program = Program::load();
    program.set_flags(flag::REQUIRE_TIMESTAMPS);
    let with = Spec::syn(CLIENT4, SERVER4);
    let without = Spec::syn(CLIENT4, SERVER4).options(&[MaximumSegmentSize(1460)]);
    assert_eq!(program.counter(&with.build()), Counter::SynAck);
    assert_eq!(program.counter(&without.build()), Counter::DropNoTimestamps);
}

#[test]
#[ignore = "needs root"]
fn a_stopping_server_answers_no_syn() {
    let mut program = Program::load();
    program.set_flags(flag::STOPPING);
    let frame = Spec::syn(CLIENT4, SERVER4).build();
    assert_eq!(program.counter(&frame), Counter::DropStopping);
}

#[test]
#[ignore = "needs root"]
fn a_listen_on_one_address_is_served_there_only() {
    let mut program = Program::load();
    let here = Spec::syn(CLIENT4, "192.0.2.1:443").build();
    let there = Spec::syn(CLIENT6, "[2001:db8::1]:443").build();
    assert_eq!(program.counter(&here), Counter::SynAck);
    assert_eq!(program.counter(&there), Counter::PassNotServed);
}

#[test]
#[ignore = "needs root"]
fn a_partial_checksum_is_accepted_only_when_configured() {
    let mut program = Program::load();
    let spec = Spec::syn(CLIENT4, SERVER4);
    let mut frame = spec.build();
    let len = (frame.len() - spec.l4()) as u16;
    let pseudo = tcp_common::wire::checksum::pseudo_header(&flow(CLIENT4, SERVER4), len);
    let at = spec.l4() + 16;
    frame[at..at + 2].copy_from_slice(&pseudo.fold().to_ne_bytes());
    assert_eq!(program.counter(&frame), Counter::DropTcpChecksum);
    program.set_flags(flag::PARTIAL_CHECKSUMS);
    let out = program.run(&frame);
    assert_eq!(out.counter, Counter::SynAck);
    read_answer(&spec, &out.frame);
}

#[test]
#[ignore = "needs root"]
fn the_mss_of_the_config_is_announced() {
    let mut program = Program::load();
    program.configure(tcp_common::abi::Config {
        mss_v4: 1200,
        ..CONFIG
    });
    let syn = Spec::syn(CLIENT4, SERVER4).options(&linux_options());
    let out = program.run(&syn.build());
    assert_eq!(
        read_answer(&syn, &out.frame).options[0],
        MaximumSegmentSize(1200)
    );
}
