//! ICMP errors about segments that we sent (RFC 792, RFC 4443), as far as the 4-tuple
//! and the sequence number that they quote.

use super::ip::{TCP, V4_LEN, V6_LEN};
use super::link::{IPV4, IPV6, Link};
use super::{Bytes, Sum};
use crate::flow::{Addr, FlowKey};
use core::mem::offset_of;
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

/// Protocol number of ICMP.
pub const ICMP: u8 = 1;
/// Next header number of `ICMPv6`.
pub const ICMP_V6: u8 = 58;
/// Octets of the message before what it quotes.
pub const HEADER_LEN: usize = 8;
/// Octets quoted of the segment at least (RFC 792): ports and sequence number.
const QUOTED: usize = 8;

const V4_UNREACHABLE: u8 = 3;
const V4_FRAGMENTATION_NEEDED: u8 = 4;
const V4_TIME_EXCEEDED: u8 = 11;
const V4_PARAMETER_PROBLEM: u8 = 12;
const V6_TOO_BIG: u8 = 2;
const V6_PARAMETER_PROBLEM: u8 = 4;

/// An error about a TCP segment. Its checksum is not verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpError {
    /// The connection: we are the source of what is quoted.
    pub flow: FlowKey,
    /// Sequence number of the quoted segment.
    pub seq: u32,
    /// The packet was too big: fragmentation needed, or `ICMPv6`'s packet too big.
    pub too_big: bool,
    /// The next hop's MTU, octets, if `too_big`; zero from routers older than RFC 1191.
    pub mtu: u32,
    /// Octets of the quoted packet, by its own length field.
    pub quoted_len: u32,
    /// Offset of the ICMP message in the frame.
    pub at: usize,
    /// Octets of the ICMP message.
    pub len: usize,
}

/// Parses an error behind `link`. `None` for everything else: other messages, fragments,
/// other protocols, packets that we did not send as they are quoted.
#[inline(always)]
pub fn parse<B: Bytes + ?Sized>(frame: &B, link: Link) -> Option<IcmpError> {
    match link.ether_type {
        IPV4 => parse_v4(frame, link.len),
        IPV6 => parse_v6(frame, link.len),
        _ => None,
    }
}

#[inline(always)]
fn parse_v4<B: Bytes + ?Sized>(frame: &B, l3: usize) -> Option<IcmpError> {
    const PROTO: usize = offset_of!(Ipv4Hdr, proto);
    const SRC: usize = offset_of!(Ipv4Hdr, src_addr);
    const DST: usize = offset_of!(Ipv4Hdr, dst_addr);
    const LEN: usize = offset_of!(Ipv4Hdr, tot_len);
    const FRAGS: usize = offset_of!(Ipv4Hdr, frags);
    let ip = frame.window::<V4_LEN>(l3)?;
    let header_len = usize::from(ip.u8::<0>() & 0xf) * 4;
    let total = usize::from(ip.be16::<LEN>());
    if ip.u8::<PROTO>() != ICMP
        || ip.u8::<0>() >> 4 != 4
        || header_len < V4_LEN
        || total < header_len + HEADER_LEN + V4_LEN + QUOTED
        || ip.be16::<FRAGS>() & 0x3fff != 0
    {
        return None;
    }
    let at = l3 + header_len;
    let message = frame.window::<{ HEADER_LEN + V4_LEN + QUOTED }>(at)?;
    let (kind, code) = (message.u8::<0>(), message.u8::<1>());
    if kind != V4_UNREACHABLE && kind != V4_TIME_EXCEEDED && kind != V4_PARAMETER_PROBLEM {
        return None;
    }
    let too_big = kind == V4_UNREACHABLE && code == V4_FRAGMENTATION_NEEDED;
    // We send no IP options, and the error comes to where the segment was from.
    let source = message.ne32::<{ HEADER_LEN + SRC }>();
    if message.u8::<HEADER_LEN>() != 0x45
        || message.u8::<{ HEADER_LEN + PROTO }>() != TCP
        || message.be16::<{ HEADER_LEN + FRAGS }>() & 0x1fff != 0
        || source != ip.ne32::<DST>()
    {
        return None;
    }
    Some(IcmpError {
        flow: FlowKey {
            remote: Addr::v4(message.ne32::<{ HEADER_LEN + DST }>()),
            local: Addr::v4(source),
            remote_port_be: message.ne16::<{ HEADER_LEN + V4_LEN + 2 }>(),
            local_port_be: message.ne16::<{ HEADER_LEN + V4_LEN }>(),
        },
        seq: message.be32::<{ HEADER_LEN + V4_LEN + 4 }>(),
        too_big,
        // RFC 1191 §4: the low half of what RFC 792 left unused.
        mtu: u32::from(message.be16::<6>()),
        quoted_len: u32::from(message.be16::<{ HEADER_LEN + LEN }>()),
        at,
        len: total - header_len,
    })
}

#[inline(always)]
fn parse_v6<B: Bytes + ?Sized>(frame: &B, l3: usize) -> Option<IcmpError> {
    const NEXT: usize = offset_of!(Ipv6Hdr, next_hdr);
    const SRC: usize = offset_of!(Ipv6Hdr, src_addr);
    const DST: usize = offset_of!(Ipv6Hdr, dst_addr);
    const LEN: usize = offset_of!(Ipv6Hdr, payload_len);
    const Q: usize = HEADER_LEN;
    let ip = frame.window::<V6_LEN>(l3)?;
    let len = usize::from(ip.be16::<LEN>());
    if ip.u8::<NEXT>() != ICMP_V6 || ip.u8::<0>() >> 4 != 6 || len < HEADER_LEN + V6_LEN + QUOTED {
        return None;
    }
    let at = l3 + V6_LEN;
    let message = frame.window::<{ HEADER_LEN + V6_LEN + QUOTED }>(at)?;
    let kind = message.u8::<0>();
    if kind == 0 || kind > V6_PARAMETER_PROBLEM {
        return None;
    }
    if message.u8::<Q>() >> 4 != 6 || message.u8::<{ Q + NEXT }>() != TCP {
        return None;
    }
    let local = Addr([
        message.ne32::<{ Q + SRC }>(),
        message.ne32::<{ Q + SRC + 4 }>(),
        message.ne32::<{ Q + SRC + 8 }>(),
        message.ne32::<{ Q + SRC + 12 }>(),
    ]);
    let remote = Addr([
        message.ne32::<{ Q + DST }>(),
        message.ne32::<{ Q + DST + 4 }>(),
        message.ne32::<{ Q + DST + 8 }>(),
        message.ne32::<{ Q + DST + 12 }>(),
    ]);
    let to = [
        ip.ne32::<DST>(),
        ip.ne32::<{ DST + 4 }>(),
        ip.ne32::<{ DST + 8 }>(),
        ip.ne32::<{ DST + 12 }>(),
    ];
    if local.0[0] != to[0] || local.0[1] != to[1] || local.0[2] != to[2] || local.0[3] != to[3] {
        return None;
    }
    // As in `ip::parse`: a mapped address would pass for the IPv4 flow.
    if local.is_v4() || remote.is_v4() {
        return None;
    }
    Some(IcmpError {
        flow: FlowKey {
            remote,
            local,
            remote_port_be: message.ne16::<{ Q + V6_LEN + 2 }>(),
            local_port_be: message.ne16::<{ Q + V6_LEN }>(),
        },
        seq: message.be32::<{ Q + V6_LEN + 4 }>(),
        too_big: kind == V6_TOO_BIG,
        mtu: message.be32::<4>(),
        quoted_len: u32::from(message.be16::<{ Q + LEN }>()) + V6_LEN as u32,
        at,
        len,
    })
}

/// Verifies the checksum of the message in a whole frame; false if it is cut short, too.
pub fn checksum_ok(frame: &[u8], link: Link, error: &IcmpError) -> bool {
    let Some(message) = error
        .at
        .checked_add(error.len)
        .and_then(|end| frame.get(error.at..end))
    else {
        return false;
    };
    let mut sum = Sum::new().add_slice(message);
    if link.ether_type == IPV6 {
        // RFC 4443 §2.3: with the pseudo-header of RFC 8200 §8.1.
        let Some(addresses) = frame.get(link.len + 8..link.len + V6_LEN) else {
            return false;
        };
        sum = sum
            .add_slice(addresses)
            .add32((error.len as u32).to_be())
            .add32(u32::from(ICMP_V6).to_be());
    }
    sum.is_valid()
}

#[cfg(test)]
mod tests;
