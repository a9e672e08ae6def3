//! Frames as the simulated peers write and read them. Shares no code with the engine, so that a
//! mistake cannot hide on both sides.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use tcp_common::flow::FlowKey;

pub(super) const FIN: u8 = 0x01;
pub(super) const SYN: u8 = 0x02;
pub(super) const RST: u8 = 0x04;
pub(super) const PSH: u8 = 0x08;
pub(super) const ACK: u8 = 0x10;

/// The two ends of a connection and the link header between them.
#[derive(Clone, Debug)]
pub(super) struct Path {
    pub(super) client: SocketAddr,
    pub(super) server: SocketAddr,
    pub(super) client_mac: [u8; 6],
    pub(super) server_mac: [u8; 6],
    pub(super) vlan: Option<u16>,
}

impl Path {
    pub(super) fn flow(&self) -> FlowKey {
        FlowKey::new(self.client, self.server)
    }

    pub(super) fn is_v6(&self) -> bool {
        self.client.is_ipv6()
    }

    /// Octets of the IP header.
    pub(super) fn ip_len(&self) -> usize {
        if self.is_v6() { 40 } else { 20 }
    }

    /// Octets before the IP header.
    pub(super) fn link_len(&self) -> usize {
        if self.vlan.is_some() { 18 } else { 14 }
    }

    /// A frame from the client to the server.
    pub(super) fn up(&self, segment: &Segment) -> Vec<u8> {
        self.build(true, segment)
    }

    /// A frame from the server to the client.
    pub(super) fn down(&self, segment: &Segment) -> Vec<u8> {
        self.build(false, segment)
    }

    fn build(&self, up: bool, segment: &Segment) -> Vec<u8> {
        let (src, dst) = if up {
            (self.client, self.server)
        } else {
            (self.server, self.client)
        };
        let (from, to) = if up {
            (self.client_mac, self.server_mac)
        } else {
            (self.server_mac, self.client_mac)
        };
        let tcp = segment.octets(src, dst);
        let mut out = Vec::with_capacity(60 + tcp.len());
        out.extend(to);
        out.extend(from);
        if let Some(tag) = self.vlan {
            out.extend([0x81, 0x00]);
            out.extend(tag.to_be_bytes());
        }
        match (src.ip(), dst.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                out.extend([0x08, 0x00]);
                let mut ip = vec![0x45, segment.ecn];
                ip.extend((20 + tcp.len() as u16).to_be_bytes());
                ip.extend([0x12, 0x34, 0x40, 0, 64, 6, 0, 0]);
                ip.extend(src.octets());
                ip.extend(dst.octets());
                let sum = checksum(&[&ip]);
                ip[10..12].copy_from_slice(&sum.to_be_bytes());
                out.extend(ip);
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                out.extend([0x86, 0xdd, 0x60, segment.ecn << 4, 0, 0]);
                out.extend((tcp.len() as u16).to_be_bytes());
                out.extend([6, 64]);
                out.extend(src.octets());
                out.extend(dst.octets());
            }
            _ => panic!("mixed address families"),
        }
        out.extend(tcp);
        out
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) mss: Option<u16>,
    pub(super) window_scale: Option<u8>,
    pub(super) sack_permitted: bool,
    pub(super) timestamps: Option<(u32, u32)>,
    pub(super) sack: Vec<(u32, u32)>,
    /// Written after the others without a look at it.
    pub(super) raw: Vec<u8>,
}

/// A segment without its ports.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) flags: u8,
    pub(super) seq: u32,
    pub(super) ack: u32,
    pub(super) window: u16,
    pub(super) urgent: u16,
    /// The ECN field of the IP header.
    pub(super) ecn: u8,
    pub(super) options: Options,
    /// Octets of the header's options, as received.
    pub(super) options_len: usize,
    pub(super) data: Vec<u8>,
}

impl Segment {
    pub(super) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// SEG.LEN.
    pub(super) fn len(&self) -> u32 {
        self.data.len() as u32 + u32::from(self.has(SYN)) + u32::from(self.has(FIN))
    }

    fn octets(&self, src: SocketAddr, dst: SocketAddr) -> Vec<u8> {
        let o = &self.options;
        let mut options = Vec::new();
        if let Some(mss) = o.mss {
            options.extend([2, 4]);
            options.extend(mss.to_be_bytes());
        }
        if o.sack_permitted {
            options.extend([4, 2]);
        }
        if let Some((val, ecr)) = o.timestamps {
            if !o.sack_permitted {
                options.extend([1, 1]);
            }
            options.extend([8, 10]);
            options.extend(val.to_be_bytes());
            options.extend(ecr.to_be_bytes());
        }
        if let Some(shift) = o.window_scale {
            options.extend([1, 3, 3, shift]);
        }
        if !o.sack.is_empty() {
            options.extend([1, 1, 5, 2 + 8 * o.sack.len() as u8]);
            for (left, right) in &o.sack {
                options.extend(left.to_be_bytes());
                options.extend(right.to_be_bytes());
            }
        }
        options.extend(&o.raw);
        while options.len() % 4 != 0 {
            options.push(0);
        }
        assert!(options.len() <= 40, "options too long: {o:?}");
        let mut tcp = Vec::with_capacity(20 + options.len() + self.data.len());
        tcp.extend(src.port().to_be_bytes());
        tcp.extend(dst.port().to_be_bytes());
        tcp.extend(self.seq.to_be_bytes());
        tcp.extend(self.ack.to_be_bytes());
        tcp.push(((20 + options.len()) / 4 * 16) as u8);
        tcp.push(self.flags);
        tcp.extend(self.window.to_be_bytes());
        tcp.extend([0, 0]);
        tcp.extend(self.urgent.to_be_bytes());
        tcp.extend(options);
        tcp.extend(&self.data);
        let sum = tcp_checksum(src.ip(), dst.ip(), &tcp);
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
        tcp
    }
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (bit, letter) in [(FIN, 'F'), (SYN, 'S'), (RST, 'R'), (PSH, 'P'), (ACK, '.')] {
            if self.has(bit) {
                write!(f, "{letter}")?;
            }
        }
        write!(
            f,
            " seq {} len {} ack {} win {}",
            self.seq,
            self.data.len(),
            self.ack,
            self.window
        )?;
        if self.options != Options::default() {
            write!(f, " {:?}", self.options)?;
        }
        Ok(())
    }
}

/// What a frame holds.
#[derive(Clone, Debug)]
pub(super) struct Parsed {
    pub(super) src: SocketAddr,
    pub(super) dst: SocketAddr,
    pub(super) to_mac: [u8; 6],
    pub(super) from_mac: [u8; 6],
    pub(super) vlan: Option<u16>,
    pub(super) segment: Segment,
}

/// Reads a frame and checks all that can be checked.
pub(super) fn parse(frame: &[u8]) -> Result<Parsed, &'static str> {
    fn take<'a, const N: usize>(rest: &mut &'a [u8]) -> Result<&'a [u8; N], &'static str> {
        let (head, tail) = rest.split_first_chunk::<N>().ok_or("cut short")?;
        *rest = tail;
        Ok(head)
    }
    let mut rest = frame;
    let to_mac = *take::<6>(&mut rest)?;
    let from_mac = *take::<6>(&mut rest)?;
    let mut ether_type = u16::from_be_bytes(*take(&mut rest)?);
    let mut vlan = None;
    if ether_type == 0x8100 {
        vlan = Some(u16::from_be_bytes(*take(&mut rest)?));
        ether_type = u16::from_be_bytes(*take(&mut rest)?);
    }
    let (src, dst, ecn, tcp): (IpAddr, IpAddr, u8, &[u8]) = match ether_type {
        0x0800 => {
            let ip = take::<20>(&mut rest)?;
            if ip[0] != 0x45 {
                return Err("IPv4 version or header length");
            }
            if checksum(&[ip]) != 0 {
                return Err("IPv4 checksum");
            }
            if u16::from_be_bytes([ip[6], ip[7]]) & 0x3fff != 0 {
                return Err("fragment");
            }
            if ip[9] != 6 || ip[8] == 0 {
                return Err("protocol or time to live");
            }
            let total = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
            let len = total.checked_sub(20).ok_or("IPv4 length")?;
            let src: [u8; 4] = *ip[12..].first_chunk().ok_or("source")?;
            let dst: [u8; 4] = *ip[16..].first_chunk().ok_or("destination")?;
            (
                src.into(),
                dst.into(),
                ip[1] & 3,
                rest.get(..len).ok_or("IPv4 length")?,
            )
        }
        0x86dd => {
            let ip = take::<40>(&mut rest)?;
            // No checksum covers the hop limit, and its end is no router (RFC 8200 §3).
            if ip[0] >> 4 != 6 || ip[6] != 6 {
                return Err("IPv6 version or next header");
            }
            let len = usize::from(u16::from_be_bytes([ip[4], ip[5]]));
            let src: [u8; 16] = *ip[8..].first_chunk().ok_or("source")?;
            let dst: [u8; 16] = *ip[24..].first_chunk().ok_or("destination")?;
            (
                src.into(),
                dst.into(),
                ip[1] >> 4 & 3,
                rest.get(..len).ok_or("IPv6 length")?,
            )
        }
        _ => return Err("EtherType"),
    };
    if tcp.len() < 20 {
        return Err("TCP header cut short");
    }
    if tcp_checksum(src, dst, tcp) != 0 {
        return Err("TCP checksum");
    }
    let header_len = usize::from(tcp[12] >> 4) * 4;
    let options = tcp.get(20..header_len).ok_or("data offset")?;
    let be16 = |at: usize| u16::from_be_bytes([tcp[at], tcp[at + 1]]);
    let be32 = |at: usize| u32::from_be_bytes([tcp[at], tcp[at + 1], tcp[at + 2], tcp[at + 3]]);
    Ok(Parsed {
        src: SocketAddr::new(src, be16(0)),
        dst: SocketAddr::new(dst, be16(2)),
        to_mac,
        from_mac,
        vlan,
        segment: Segment {
            flags: tcp[13],
            seq: be32(4),
            ack: be32(8),
            window: be16(14),
            urgent: be16(18),
            ecn,
            options: parse_options(options)?,
            options_len: options.len(),
            data: tcp[header_len..].to_vec(),
        },
    })
}

fn parse_options(mut rest: &[u8]) -> Result<Options, &'static str> {
    let be32 = |o: &[u8]| u32::from_be_bytes([o[0], o[1], o[2], o[3]]);
    let mut out = Options::default();
    while let [kind, tail @ ..] = rest {
        match kind {
            0 => break,
            1 => {
                rest = tail;
                continue;
            }
            _ => {}
        }
        let len = usize::from(*tail.first().ok_or("option without length")?);
        let body = rest.get(2..len).ok_or("option length")?;
        match (kind, body.len()) {
            (2, 2) => out.mss = Some(u16::from_be_bytes([body[0], body[1]])),
            (3, 1) => out.window_scale = Some(body[0]),
            (4, 0) => out.sack_permitted = true,
            (8, 8) => out.timestamps = Some((be32(body), be32(&body[4..]))),
            (5, n) if n > 0 && n % 8 == 0 => {
                out.sack = body.chunks(8).map(|b| (be32(b), be32(&b[4..]))).collect();
            }
            (2..=5 | 8, _) => return Err("option length"),
            _ => {}
        }
        rest = &rest[len..];
    }
    Ok(out)
}

/// RFC 1071, octet by octet.
pub(super) fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u32;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn tcp_checksum(src: IpAddr, dst: IpAddr, tcp: &[u8]) -> u16 {
    let len = (tcp.len() as u32).to_be_bytes();
    match (src, dst) {
        (IpAddr::V4(s), IpAddr::V4(d)) => checksum(&[&s.octets(), &d.octets(), &[0, 6], &len, tcp]),
        (IpAddr::V6(s), IpAddr::V6(d)) => {
            checksum(&[&s.octets(), &d.octets(), &len, &[0, 0, 0, 6], tcp])
        }
        _ => panic!("mixed address families"),
    }
}
