//! Building frames and reading answers with etherparse.

use etherparse::{
    Ethernet2Header, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, NetHeaders, PacketHeaders,
    SingleVlanHeader, TcpHeader, TcpOptionElement, TransportHeader, VlanId,
};
use std::net::{IpAddr, SocketAddr};

pub const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub const SERVER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
pub const CLIENT4: &str = "192.0.2.99:40000";
pub const SERVER4: &str = "192.0.2.1:80";
pub const CLIENT6: &str = "[2001:db8::99]:40000";
pub const SERVER6: &str = "[2001:db8::1]:80";

/// Options that Linux sends on a SYN.
pub fn linux_options() -> Vec<TcpOptionElement> {
    use TcpOptionElement::*;
    vec![
        MaximumSegmentSize(1460),
        SelectiveAcknowledgementPermitted,
        Timestamp(0x0102_0304, 0),
        Noop,
        WindowScale(10),
    ]
}

/// A frame to be built; the fields that a test does not set are plain.
#[derive(Clone)]
pub struct Spec {
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub tcp: TcpHeader,
    pub payload: Vec<u8>,
    pub vlans: Vec<u16>,
}

impl Spec {
    pub fn new(from: &str, to: &str) -> Self {
        let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
        let mut tcp = TcpHeader::new(from.port(), to.port(), 1000, 64_240);
        tcp.acknowledgment_number = 0;
        Self {
            from,
            to,
            tcp,
            payload: Vec::new(),
            vlans: Vec::new(),
        }
    }

    pub fn syn(from: &str, to: &str) -> Self {
        let mut spec = Self::new(from, to);
        spec.tcp.syn = true;
        spec.tcp.set_options(&linux_options()).unwrap();
        spec
    }

    pub fn ack(from: &str, to: &str, seq: u32, ack: u32) -> Self {
        let mut spec = Self::new(from, to);
        spec.tcp.ack = true;
        spec.tcp.sequence_number = seq;
        spec.tcp.acknowledgment_number = ack;
        spec
    }

    pub fn options(mut self, options: &[TcpOptionElement]) -> Self {
        self.tcp.set_options(options).unwrap();
        self
    }

    pub fn raw_options(mut self, options: &[u8]) -> Self {
        self.tcp.set_options_raw(options).unwrap();
        self
    }

    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    pub fn vlans(mut self, vlans: &[u16]) -> Self {
        self.vlans = vlans.to_vec();
        self
    }

    /// Offset of the IP header.
    pub fn l3(&self) -> usize {
        14 + 4 * self.vlans.len()
    }

    /// Offset of the TCP header in [`Self::build`]'s frame.
    pub fn l4(&self) -> usize {
        self.l3() + if self.to.is_ipv4() { 20 } else { 40 }
    }

    pub fn build(&self) -> Vec<u8> {
        self.build_with(&[])
    }

    /// With IPv4 options (a multiple of four octets), or IPv6 extension headers
    /// given as `(kind, octets)` where the first octet is the next header and is
    /// filled in here.
    pub fn build_with(&self, extensions: &[(u8, Vec<u8>)]) -> Vec<u8> {
        let mut tcp = self.tcp.clone();
        let segment = tcp.header_len() + self.payload.len();
        let mut out = Vec::new();
        out.extend(SERVER_MAC);
        out.extend(CLIENT_MAC);
        let ether_type: u16 = if self.to.is_ipv4() { 0x0800 } else { 0x86dd };
        for (i, id) in self.vlans.iter().enumerate() {
            let tpid: u16 = if self.vlans.len() == 2 && i == 0 {
                0x88a8
            } else {
                0x8100
            };
            out.extend(tpid.to_be_bytes());
            out.extend(id.to_be_bytes());
        }
        out.extend(ether_type.to_be_bytes());
        match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let mut ip = Ipv4Header::new(
                    u16::try_from(segment).unwrap(),
                    61,
                    IpNumber::TCP,
                    src.octets(),
                    dst.octets(),
                )
                .unwrap();
                if let Some((_, options)) = extensions.first() {
                    ip.options = options.as_slice().try_into().unwrap();
                    ip.total_len += u16::try_from(options.len()).unwrap();
                }
                ip.header_checksum = ip.calc_header_checksum();
                tcp.checksum = tcp.calc_checksum_ipv4(&ip, &self.payload).unwrap();
                ip.write(&mut out).unwrap();
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let extra: usize = extensions.iter().map(|(_, o)| o.len()).sum();
                let mut ip = Ipv6Header {
                    traffic_class: 0,
                    flow_label: Ipv6FlowLabel::ZERO,
                    payload_length: u16::try_from(segment + extra).unwrap(),
                    next_header: IpNumber::TCP,
                    hop_limit: 61,
                    source: src.octets(),
                    destination: dst.octets(),
                };
                tcp.checksum = tcp.calc_checksum_ipv6(&ip, &self.payload).unwrap();
                if let Some((kind, _)) = extensions.first() {
                    ip.next_header = IpNumber(*kind);
                }
                ip.write(&mut out).unwrap();
                for (i, (_, octets)) in extensions.iter().enumerate() {
                    let next = extensions.get(i + 1).map_or(6, |(kind, _)| *kind);
                    out.push(next);
                    out.extend(&octets[1..]);
                }
            }
            _ => panic!("mixed families"),
        }
        tcp.write(&mut out).unwrap();
        out.extend(&self.payload);
        out
    }
}

/// An answer, with link addresses, lengths and checksums verified.
pub struct Answer {
    pub tcp: TcpHeader,
    pub hop_limit: u8,
    pub options: Vec<TcpOptionElement>,
}

/// Reads an answer to `request`; panics unless it is a well-formed frame back.
pub fn read_answer(request: &Spec, frame: &[u8]) -> Answer {
    let parsed = PacketHeaders::from_ethernet_slice(frame).unwrap();
    let eth: Ethernet2Header = parsed.link.clone().unwrap().ethernet2().unwrap();
    assert_eq!(eth.source, SERVER_MAC);
    assert_eq!(eth.destination, CLIENT_MAC);
    let tags: Vec<u16> = parsed
        .link_exts
        .iter()
        .map(|ext| match ext {
            etherparse::LinkExtHeader::Vlan(SingleVlanHeader { vlan_id, .. }) => {
                VlanId::value(*vlan_id)
            }
            other @ etherparse::LinkExtHeader::Macsec(_) => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(tags, request.vlans, "the tags go back");
    assert!(parsed.payload.slice().is_empty());
    let Some(TransportHeader::Tcp(tcp)) = parsed.transport else {
        panic!("not TCP");
    };
    assert_eq!(tcp.source_port, request.to.port());
    assert_eq!(tcp.destination_port, request.from.port());
    let ip_len = match parsed.net.unwrap() {
        NetHeaders::Ipv4(ip, _) => {
            assert_eq!(IpAddr::from(ip.source), request.to.ip());
            assert_eq!(IpAddr::from(ip.destination), request.from.ip());
            assert_eq!(ip.header_checksum, ip.calc_header_checksum());
            assert_eq!(tcp.checksum, tcp.calc_checksum_ipv4(&ip, &[]).unwrap());
            assert_eq!(ip.header_len(), 20);
            assert!(ip.dont_fragment);
            (usize::from(ip.total_len), ip.time_to_live)
        }
        NetHeaders::Ipv6(ip, ext) => {
            assert_eq!(IpAddr::from(ip.source), request.to.ip());
            assert_eq!(IpAddr::from(ip.destination), request.from.ip());
            assert!(ext.is_empty());
            assert_eq!(tcp.checksum, tcp.calc_checksum_ipv6(&ip, &[]).unwrap());
            (usize::from(ip.payload_length) + 40, ip.hop_limit)
        }
        NetHeaders::Arp(_) => panic!("ARP"),
    };
    assert_eq!(request.l3() + ip_len.0, frame.len(), "no octet too many");
    let options = tcp.options_iterator().map(Result::unwrap).collect();
    Answer {
        tcp,
        hop_limit: ip_len.1,
        options,
    }
}
