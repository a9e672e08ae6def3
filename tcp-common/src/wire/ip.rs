//! IPv4 (RFC 791) and IPv6 (RFC 8200) headers, as far as TCP needs them.

use super::icmp::{ICMP, ICMP_V6};
use super::link::{IPV4, IPV6, Link};
use super::{Bytes, Sum};
use crate::flow::Addr;
use core::mem::offset_of;
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

/// Octets of an IPv4 header without options.
pub const V4_LEN: usize = Ipv4Hdr::LEN;
/// Octets of an IPv6 header without extension headers.
pub const V6_LEN: usize = Ipv6Hdr::LEN;
/// Protocol number of TCP.
pub const TCP: u8 = 6;
/// Extension headers walked before a packet is given up.
pub const MAX_EXTENSIONS: usize = 4;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;

/// A packet that carries TCP.
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Offset of the TCP header in the frame.
    pub l4: usize,
    /// Octets of the segment, by the packet's own length field.
    pub l4_len: usize,
    /// ECN codepoint (RFC 3168 §5), the low two bits of the traffic class.
    pub ecn: u8,
    /// First fragment of several; the segment is not whole.
    pub fragment: bool,
    /// Whether this is IPv6.
    pub v6: bool,
    /// The IPv4 header checksum holds (always for IPv6, which has none).
    pub checksum_ok: bool,
}

/// Why a packet is not a TCP packet that we can judge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reject {
    /// Neither IPv4 nor IPv6.
    NotIp,
    /// ICMP or `ICMPv6`, see [`super::icmp::parse`].
    Icmp,
    /// Another protocol than TCP and ICMP.
    NotTcp,
    /// A fragment other than the first: its ports are not known.
    LaterFragment,
    /// A header does not fit in the frame, or its length fields contradict.
    Malformed,
    /// More extension headers than [`MAX_EXTENSIONS`].
    TooManyExtensions,
}

/// Parses the packet behind `link`. Reads no further than the IP headers.
#[inline(always)]
pub fn parse<B: Bytes + ?Sized>(frame: &B, link: Link) -> Result<Packet, Reject> {
    match link.ether_type {
        IPV4 => parse_v4(frame, link.len),
        IPV6 => parse_v6(frame, link.len),
        _ => Err(Reject::NotIp),
    }
}

#[inline(always)]
fn parse_v4<B: Bytes + ?Sized>(frame: &B, l3: usize) -> Result<Packet, Reject> {
    let ip = frame.window::<V4_LEN>(l3).ok_or(Reject::Malformed)?;
    let vihl = ip.u8::<{ offset_of!(Ipv4Hdr, vihl) }>();
    let protocol = ip.u8::<{ offset_of!(Ipv4Hdr, proto) }>();
    if protocol != TCP {
        return Err(not_tcp(protocol, ICMP));
    }
    let header_len = usize::from(vihl & 0xf) * 4;
    let total_len = usize::from(ip.be16::<{ offset_of!(Ipv4Hdr, tot_len) }>());
    if vihl >> 4 != 4 || header_len < V4_LEN || total_len < header_len {
        return Err(Reject::Malformed);
    }
    let fragment = ip.be16::<{ offset_of!(Ipv4Hdr, frags) }>();
    if fragment & 0x1fff != 0 {
        return Err(Reject::LaterFragment);
    }
    let mut sum = Sum::new()
        .add32(ip.ne32::<0>())
        .add32(ip.ne32::<4>())
        .add32(ip.ne32::<8>())
        .add32(ip.ne32::<12>())
        .add32(ip.ne32::<16>());
    if header_len > V4_LEN {
        // Options come in words; at most ten (RFC 791 §3.1).
        for i in 0..10 {
            let at = V4_LEN + i * 4;
            if at >= header_len {
                break;
            }
            let word = frame.window::<4>(l3 + at).ok_or(Reject::Malformed)?;
            sum = sum.add32(word.ne32::<0>());
        }
    }
    Ok(Packet {
        src: Addr::v4(ip.ne32::<{ offset_of!(Ipv4Hdr, src_addr) }>()),
        dst: Addr::v4(ip.ne32::<{ offset_of!(Ipv4Hdr, dst_addr) }>()),
        l4: l3 + header_len,
        l4_len: total_len - header_len,
        ecn: ip.u8::<{ offset_of!(Ipv4Hdr, tos) }>() & 3,
        fragment: fragment & 0x2000 != 0,
        v6: false,
        checksum_ok: sum.is_valid(),
    })
}

#[inline(always)]
const fn not_tcp(protocol: u8, icmp: u8) -> Reject {
    if protocol == icmp {
        Reject::Icmp
    } else {
        Reject::NotTcp
    }
}

#[inline(always)]
fn parse_v6<B: Bytes + ?Sized>(frame: &B, l3: usize) -> Result<Packet, Reject> {
    const SRC: usize = offset_of!(Ipv6Hdr, src_addr);
    const DST: usize = offset_of!(Ipv6Hdr, dst_addr);
    let ip = frame.window::<V6_LEN>(l3).ok_or(Reject::Malformed)?;
    if ip.u8::<0>() >> 4 != 6 {
        return Err(Reject::Malformed);
    }
    let mut next = ip.u8::<{ offset_of!(Ipv6Hdr, next_hdr) }>();
    let payload_len = usize::from(ip.be16::<{ offset_of!(Ipv6Hdr, payload_len) }>());
    let mut skipped = 0;
    let mut fragment = false;
    if next != TCP {
        // RFC 8200 §4: a header's length is its second octet, in units of 8
        // octets not counting the first 8; the fragment header is always 8.
        let mut walked = 0;
        while walked < MAX_EXTENSIONS && next != TCP {
            if !matches!(next, HOP_BY_HOP | ROUTING | DESTINATION | FRAGMENT) {
                return Err(not_tcp(next, ICMP_V6));
            }
            let ext = frame
                .window::<8>(l3 + V6_LEN + skipped)
                .ok_or(Reject::Malformed)?;
            if next == FRAGMENT {
                let field = ext.be16::<2>();
                if field & 0xfff8 != 0 {
                    return Err(Reject::LaterFragment);
                }
                // An atomic fragment (RFC 6946) is a whole packet.
                fragment |= field & 1 != 0;
                skipped += 8;
            } else {
                skipped += 8 + usize::from(ext.u8::<1>()) * 8;
            }
            next = ext.u8::<0>();
            walked += 1;
        }
        if next != TCP {
            return Err(
                if matches!(next, HOP_BY_HOP | ROUTING | DESTINATION | FRAGMENT) {
                    Reject::TooManyExtensions
                } else {
                    not_tcp(next, ICMP_V6)
                },
            );
        }
        if skipped > payload_len {
            return Err(Reject::Malformed);
        }
    }
    let src = Addr([
        ip.ne32::<SRC>(),
        ip.ne32::<{ SRC + 4 }>(),
        ip.ne32::<{ SRC + 8 }>(),
        ip.ne32::<{ SRC + 12 }>(),
    ]);
    let dst = Addr([
        ip.ne32::<DST>(),
        ip.ne32::<{ DST + 4 }>(),
        ip.ne32::<{ DST + 8 }>(),
        ip.ne32::<{ DST + 12 }>(),
    ]);
    // IPv4-mapped addresses have no place on the wire (RFC 4942 §2.2), and as keys
    // they would pass for the IPv4 flow.
    if src.is_v4() || dst.is_v4() {
        return Err(Reject::Malformed);
    }
    Ok(Packet {
        src,
        dst,
        l4: l3 + V6_LEN + skipped,
        l4_len: payload_len - skipped,
        ecn: (ip.u8::<1>() >> 4) & 3,
        fragment,
        v6: true,
        checksum_ok: true,
    })
}
