//! The frames that are measured.

use std::net::{IpAddr, SocketAddr};

use tcp_common::{
    flow::FlowKey,
    wire::{Flags, Sum, checksum, link},
};

/// Options of a Linux SYN: MSS, SACK-permitted, timestamps, window scale.
pub(crate) const LINUX: &[u8] = &[
    2, 4, 0x05, 0xb4, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7,
];
/// Options of a Windows SYN: MSS, window scale, SACK-permitted.
pub(crate) const WINDOWS: &[u8] = &[2, 4, 0x05, 0xb4, 1, 3, 3, 8, 1, 1, 4, 2];

const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const SERVER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// A segment without data.
pub(crate) struct Segment<'a> {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) flags: Flags,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    /// A multiple of four octets.
    pub(crate) options: &'a [u8],
}

impl Segment<'_> {
    /// The frame, with right checksums.
    pub(crate) fn frame(&self) -> Vec<u8> {
        let mut tcp = Vec::new();
        tcp.extend(self.from.port().to_be_bytes());
        tcp.extend(self.to.port().to_be_bytes());
        tcp.extend(self.seq.to_be_bytes());
        tcp.extend(self.ack.to_be_bytes());
        let len = 20 + self.options.len();
        tcp.extend([(len as u8 / 4) << 4, self.flags.0]);
        // Window, checksum, urgent pointer.
        tcp.extend([0xfa, 0xf0, 0, 0, 0, 0]);
        tcp.extend(self.options);
        let sum = checksum::pseudo_header(&FlowKey::new(self.from, self.to), len as u16)
            .add_slice(&tcp)
            .finish();
        tcp[16..18].copy_from_slice(&sum.to_ne_bytes());
        packet(self.from.ip(), self.to.ip(), 6, &tcp)
    }
}

/// A UDP datagram of four octets, without a checksum.
pub(crate) fn udp(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let mut udp = Vec::new();
    udp.extend(from.port().to_be_bytes());
    udp.extend(to.port().to_be_bytes());
    udp.extend([0, 12, 0, 0, 1, 2, 3, 4]);
    packet(from.ip(), to.ip(), 17, &udp)
}

/// An ARP request.
pub(crate) fn arp() -> Vec<u8> {
    let mut frame = ethernet(0x0806);
    frame.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(CLIENT_MAC);
    frame.extend([192, 0, 2, 99, 0, 0, 0, 0, 0, 0, 192, 0, 2, 1]);
    frame
}

fn ethernet(ether_type: u16) -> Vec<u8> {
    let mut frame = Vec::new();
    frame.extend(SERVER_MAC);
    frame.extend(CLIENT_MAC);
    frame.extend(ether_type.to_be_bytes());
    frame
}

fn packet(from: IpAddr, to: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut ip = vec![0x45, 0];
            ip.extend((20 + payload.len() as u16).to_be_bytes());
            ip.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
            ip.extend(from.octets());
            ip.extend(to.octets());
            let sum = Sum::new().add_slice(&ip).finish();
            ip[10..12].copy_from_slice(&sum.to_ne_bytes());
            [&ethernet(link::IPV4)[..], &ip, payload].concat()
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let mut ip = vec![0x60, 0, 0, 0];
            ip.extend((payload.len() as u16).to_be_bytes());
            ip.extend([protocol, 64]);
            ip.extend(from.octets());
            ip.extend(to.octets());
            [&ethernet(link::IPV6)[..], &ip, payload].concat()
        }
        _ => unreachable!("both ends are of one family"),
    }
}
