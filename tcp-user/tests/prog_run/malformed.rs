//! Malformed frames: each counted under its reason, none let through.

use crate::frames::{CLIENT4, CLIENT6, SERVER4, SERVER6, Spec};
use crate::harness::Program;
use tcp_common::counters::Counter;
use tcp_common::flow::FlowKey;
use tcp_common::wire::{Sum, checksum};

/// Makes the checksum of the segment at `l4` right, whatever else is wrong.
pub fn fix_tcp_checksum(frame: &mut [u8], l4: usize, flow: &FlowKey) {
    frame[l4 + 16..l4 + 18].fill(0);
    let len = (frame.len() - l4) as u16;
    let sum = checksum::pseudo_header(flow, len).add_sum(Sum::new().add_slice(&frame[l4..]));
    frame[l4 + 16..l4 + 18].copy_from_slice(&sum.finish().to_ne_bytes());
}

fn fix_ip_checksum(frame: &mut [u8]) {
    frame[24..26].fill(0);
    let len = usize::from(frame[14] & 0xf) * 4;
    let sum = Sum::new().add_slice(&frame[14..14 + len]).finish();
    frame[24..26].copy_from_slice(&sum.to_ne_bytes());
}

/// A SYN whose octets were changed by `change`, with the IPv4 checksum put right.
fn v4(change: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
    let mut frame = Spec::syn(CLIENT4, SERVER4).build();
    change(&mut frame);
    fix_ip_checksum(&mut frame);
    frame
}

#[test]
#[ignore = "needs root"]
fn each_malformation_has_its_reason() {
    let mut program = Program::load();
    let l4 = Spec::syn(CLIENT4, SERVER4).l4();
    let cases: Vec<(&str, Vec<u8>, Counter)> = vec![
        (
            "IP version 5",
            v4(|f| f[14] = 0x55),
            Counter::PassMalformedIp,
        ),
        ("IHL 4", v4(|f| f[14] = 0x44), Counter::PassMalformedIp),
        (
            "total length below the header",
            v4(|f| f[17] = 19),
            Counter::PassMalformedIp,
        ),
        (
            "total length past the frame",
            v4(|f| f[17] += 1),
            Counter::DropLength,
        ),
        (
            "total length cuts the TCP header",
            v4(|f| f[17] = 45),
            Counter::DropLength,
        ),
        (
            "data offset 4",
            v4(|f| f[l4 + 12] = 0x40),
            Counter::DropDataOffset,
        ),
        (
            "data offset 0",
            v4(|f| f[l4 + 12] = 0),
            Counter::DropDataOffset,
        ),
        (
            "data offset past the segment",
            v4(|f| f[l4 + 12] = 0xf0),
            Counter::DropLength,
        ),
        (
            "first fragment",
            v4(|f| f[20] = 0x20),
            Counter::DropFragment,
        ),
        ("later fragment", v4(|f| f[21] = 8), Counter::PassFragment),
        (
            "TCP checksum",
            v4(|f| f[l4 + 16] ^= 1),
            Counter::DropTcpChecksum,
        ),
        (
            "source port 0",
            v4(|f| f[l4..l4 + 2].fill(0)),
            Counter::DropSource,
        ),
        (
            "source 0.0.0.0",
            v4(|f| f[26..30].fill(0)),
            Counter::DropSource,
        ),
        (
            "source 127.0.0.1",
            v4(|f| f[26..30].copy_from_slice(&[127, 0, 0, 1])),
            Counter::DropSource,
        ),
        (
            "source 224.0.0.1",
            v4(|f| f[26..30].copy_from_slice(&[224, 0, 0, 1])),
            Counter::DropSource,
        ),
        (
            "source 255.255.255.255",
            v4(|f| f[26..30].fill(255)),
            Counter::DropSource,
        ),
        (
            "source is ourselves",
            v4(|f| f.copy_within(30..34, 26)),
            Counter::DropSource,
        ),
    ];
    for (what, frame, counter) in cases {
        assert_eq!(program.counter(&frame), counter, "{what}");
    }
    let mut frame = Spec::syn(CLIENT4, SERVER4).build();
    frame[24] ^= 0x40;
    assert_eq!(program.counter(&frame), Counter::DropIpChecksum);
}

#[test]
#[ignore = "needs root"]
fn malformed_ipv6_has_its_reasons() {
    let mut program = Program::load();
    let spec = Spec::syn(CLIENT6, SERVER6);
    let change = |f: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = spec.build();
        f(&mut frame);
        frame
    };
    let fragment = |field: u16| {
        let [a, b] = field.to_be_bytes();
        spec.build_with(&[(44, vec![0, 0, a, b, 1, 2, 3, 4])])
    };
    let padding = vec![0u8, 0, 1, 4, 0, 0, 0, 0];
    let too_long = vec![0u8, 200, 1, 4, 0, 0, 0, 0];
    for (what, frame, counter) in [
        (
            "version",
            change(&|f| f[14] = 0x50),
            Counter::PassMalformedIp,
        ),
        (
            "payload past the frame",
            change(&|f| f[19] += 1),
            Counter::DropLength,
        ),
        ("first fragment", fragment(1), Counter::DropFragment),
        ("later fragment", fragment(8), Counter::PassFragment),
        (
            "multicast source",
            change(&|f| f[22] = 0xff),
            Counter::DropSource,
        ),
        (
            "unspecified source",
            change(&|f| f[22..38].fill(0)),
            Counter::DropSource,
        ),
        (
            "TCP checksum",
            change(&|f| f[14 + 40 + 4] ^= 1),
            Counter::DropTcpChecksum,
        ),
        (
            "five extension headers",
            spec.build_with(&vec![(60, padding.clone()); 5]),
            Counter::PassExtensions,
        ),
        (
            "an extension header past the frame",
            spec.build_with(&[(60, too_long)]),
            Counter::PassMalformedIp,
        ),
        (
            "no next header",
            change(&|f| f[20] = 59),
            Counter::PassNotTcp,
        ),
    ] {
        assert_eq!(program.counter(&frame), counter, "{what}");
    }
}

#[test]
#[ignore = "needs root"]
fn a_frame_cut_anywhere_is_refused_or_passed() {
    let mut program = Program::load();
    for spec in [
        Spec::syn(CLIENT4, SERVER4),
        Spec::syn(CLIENT6, SERVER6),
        Spec::syn(CLIENT4, SERVER4).vlans(&[1, 2]),
        Spec::ack(CLIENT6, SERVER6, 1, 2).payload(&[1; 40]),
    ] {
        let frame = spec.build();
        for len in 14..frame.len() {
            let counter = program.counter(&frame[..len]);
            let expected = if len < spec.l3() {
                Counter::PassNotIp
            } else if len < spec.l4() + 20 {
                Counter::PassMalformedIp
            } else {
                Counter::DropLength
            };
            assert_eq!(counter, expected, "{len} of {}", frame.len());
        }
    }
}

#[test]
#[ignore = "needs root"]
fn wrong_option_lengths_are_dropped_on_syn_and_ack() {
    let mut program = Program::load();
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
        &[
            2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0, 1, 3, 4, 7,
        ],
    ] {
        for (from, to) in [(CLIENT4, SERVER4), (CLIENT6, SERVER6)] {
            let syn = Spec::syn(from, to).raw_options(bad);
            assert_eq!(
                program.counter(&syn.build()),
                Counter::DropOptions,
                "{bad:?}"
            );
            let ack = Spec::ack(from, to, 1, 2).raw_options(bad);
            assert_eq!(
                program.counter(&ack.build()),
                Counter::DropOptions,
                "{bad:?}"
            );
        }
    }
}

#[test]
#[ignore = "needs root"]
fn forty_octets_of_nops_are_walked() {
    let mut program = Program::load();
    let syn = Spec::syn(CLIENT4, SERVER4).raw_options(&[1; 40]);
    assert_eq!(program.counter(&syn.build()), Counter::SynAck);
    let mut options = vec![1u8; 36];
    options.extend([2, 4, 2, 24]);
    let syn = Spec::syn(CLIENT4, SERVER4).raw_options(&options);
    assert_eq!(program.counter(&syn.build()), Counter::SynAck);
}
