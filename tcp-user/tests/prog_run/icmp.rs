//! ICMP errors about known flows go to userspace (RFC 1191, RFC 8201), all other ICMP
//! passes untouched.

use crate::frames::{CLIENT_MAC, CLIENT4, CLIENT6, SERVER_MAC, SERVER4, SERVER6, Spec};
use crate::harness::{Program, flow};
use etherparse::{Icmpv4Type, Icmpv6Type, IpNumber, PacketBuilder};
use etherparse::{icmpv4, icmpv6};
use std::net::SocketAddr;
use tcp_common::counters::Counter;

/// A segment from the server to the client, from its IP header on, cut to `octets`.
fn quoted(server: &str, client: &str, octets: usize) -> Vec<u8> {
    let frame = Spec::ack(server, client, 7000, 1)
        .payload(&[0; 1400])
        .build();
    frame[14..14 + octets].to_vec()
}

fn error4(kind: Icmpv4Type, quoted: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(CLIENT_MAC, SERVER_MAC)
        .ipv4([203, 0, 113, 7], [192, 0, 2, 1], 60)
        .icmpv4(kind)
        .write(&mut frame, quoted)
        .unwrap();
    frame
}

fn error6(kind: Icmpv6Type, quoted: &[u8]) -> Vec<u8> {
    let SocketAddr::V6(to) = SERVER6.parse().unwrap() else {
        panic!("IPv6");
    };
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(CLIENT_MAC, SERVER_MAC)
        .ipv6([0x20; 16], to.ip().octets(), 60)
        .icmpv6(kind)
        .write(&mut frame, quoted)
        .unwrap();
    frame
}

fn too_big4() -> Icmpv4Type {
    Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::FragmentationNeeded {
        next_hop_mtu: 1400,
    })
}

#[test]
#[ignore = "needs root"]
fn an_error_about_a_known_flow_goes_to_userspace() {
    let mut program = Program::load();
    let ours4 = quoted(SERVER4, CLIENT4, 28);
    let ours6 = quoted(SERVER6, CLIENT6, 1232);
    let too_big6 = Icmpv6Type::PacketTooBig { mtu: 1400 };
    // Nobody knows the flows yet.
    assert_eq!(
        program.counter(&error4(too_big4(), &ours4)),
        Counter::PassNotTcp
    );
    assert_eq!(
        program.counter(&error6(too_big6, &ours6)),
        Counter::PassNotTcp
    );
    program.add_flow(flow(CLIENT4, SERVER4));
    program.add_flow(flow(CLIENT6, SERVER6));
    let mut tagged = error4(too_big4(), &ours4);
    tagged.splice(12..12, [0x81, 0, 0, 5]);
    for (what, frame) in [
        ("fragmentation needed", error4(too_big4(), &ours4)),
        (
            "all of it quoted",
            error4(too_big4(), &quoted(SERVER4, CLIENT4, 548)),
        ),
        ("tagged", tagged),
        (
            "host unreachable",
            error4(
                Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::Host),
                &ours4,
            ),
        ),
        (
            "time exceeded",
            error4(
                Icmpv4Type::TimeExceeded(icmpv4::TimeExceededCode::TtlExceededInTransit),
                &ours4,
            ),
        ),
        ("packet too big", error6(too_big6, &ours6)),
        (
            "no route",
            error6(
                Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::NoRoute),
                &ours6,
            ),
        ),
    ] {
        // There is no socket in a test run: where there is one it is `to_icmp`.
        assert_eq!(program.counter(&frame), Counter::DropNoSocket, "{what}");
    }
}

#[test]
#[ignore = "needs root"]
fn all_other_icmp_passes() {
    let mut program = Program::load();
    program.add_flow(flow(CLIENT4, SERVER4));
    program.add_flow(flow(CLIENT6, SERVER6));
    let ours4 = quoted(SERVER4, CLIENT4, 28);
    let ours6 = quoted(SERVER6, CLIENT6, 48);
    let echo = etherparse::IcmpEchoHeader { id: 1, seq: 1 };
    let mut udp = ours4.clone();
    udp[9] = IpNumber::UDP.0;
    let mut options = ours4.clone();
    options[0] = 0x46;
    let mut elsewhere = error4(too_big4(), &ours4);
    elsewhere[33] = 9;
    let mut fragment = error4(too_big4(), &ours4);
    fragment[20] = 0x20;
    let mut cut = error4(too_big4(), &ours4);
    cut.pop();
    for (what, frame) in [
        (
            "echo request",
            error4(Icmpv4Type::EchoRequest(echo), &ours4),
        ),
        (
            "echo request over IPv6",
            error6(Icmpv6Type::EchoRequest(echo), &ours6),
        ),
        (
            "not the server's segment",
            error4(too_big4(), &quoted(CLIENT4, SERVER4, 28)),
        ),
        (
            "another port",
            error4(too_big4(), &quoted(SERVER4, "192.0.2.99:1", 28)),
        ),
        ("UDP quoted", error4(too_big4(), &udp)),
        ("options that we never send", error4(too_big4(), &options)),
        ("quoted too little", error4(too_big4(), &ours4[..27])),
        ("to another host", elsewhere),
        ("a fragment", fragment),
        ("cut short", cut),
        (
            "a bare message",
            error6(Icmpv6Type::PacketTooBig { mtu: 1 }, &[]),
        ),
    ] {
        assert_eq!(program.counter(&frame), Counter::PassNotTcp, "{what}");
    }
}
