//! Frames that are not ours pass untouched.

use crate::frames::{CLIENT4, CLIENT6, SERVER4, Spec};
use crate::harness::Program;
use tcp_common::counters::Counter;

#[test]
#[ignore = "needs root"]
fn other_protocols_addresses_and_ports_pass_untouched() {
    let mut program = Program::load();
    let mut arp = vec![0xff; 12];
    arp.extend([8, 6]);
    arp.resize(42, 0);
    let mut icmp = Spec::syn(CLIENT4, SERVER4).build();
    icmp[23] = 1;
    let mut udp6 = Spec::syn(CLIENT6, "[2001:db8::1]:80").build();
    udp6[20] = 17;
    for (frame, counter) in [
        (arp, Counter::PassNotIp),
        (vec![0; 14], Counter::PassNotIp),
        (icmp, Counter::PassNotTcp),
        (udp6, Counter::PassNotTcp),
        (
            Spec::syn(CLIENT4, "192.0.2.1:81").build(),
            Counter::PassNotServed,
        ),
        (
            Spec::syn(CLIENT4, "192.0.2.3:80").build(),
            Counter::PassNotServed,
        ),
        (
            Spec::syn(CLIENT6, "[2001:db8::3]:80").build(),
            Counter::PassNotServed,
        ),
        (
            Spec::ack(CLIENT4, "192.0.2.1:22", 1, 2).build(),
            Counter::PassNotServed,
        ),
    ] {
        assert_eq!(program.counter(&frame), counter);
    }
}

#[test]
#[ignore = "needs root"]
fn a_mapped_ipv4_address_in_an_ipv6_packet_is_not_taken_for_ipv4() {
    let mut program = Program::load();
    let mut frame = Spec::syn(CLIENT6, "[2001:db8::1]:80").build();
    let mut mapped = [0u8; 16];
    mapped[10..].copy_from_slice(&[0xff, 0xff, 192, 0, 2, 1]);
    frame[14 + 24..14 + 40].copy_from_slice(&mapped);
    assert_eq!(program.counter(&frame), Counter::PassMalformedIp);
}

#[test]
#[ignore = "needs root"]
fn more_than_two_tags_are_not_ours() {
    let mut program = Program::load();
    let frame = Spec::syn(CLIENT4, SERVER4).vlans(&[1, 2, 3]).build();
    assert_eq!(program.counter(&frame), Counter::PassNotIp);
}
