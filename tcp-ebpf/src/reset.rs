//! Turning a received frame into its answer in place, and the RST.

use crate::Outcome;
use crate::classify::Segment;
use crate::packet::{Packet, resize};
use aya_ebpf::programs::XdpContext;
use tcp_common::counters::Counter;
use tcp_common::wire::tcp::HEADER_LEN;
use tcp_common::wire::{Bytes as _, Flags, Sum, checksum, ip};

/// What differs between answers.
pub struct Reply {
    /// SEG.SEQ.
    pub seq: u32,
    /// SEG.ACK.
    pub ack: u32,
    /// Control bits.
    pub flags: Flags,
    /// Window field.
    pub window: u16,
    /// Time to live or hop limit.
    pub hop_limit: u8,
    /// Octets of TCP options, a multiple of four.
    pub options_len: usize,
    /// Their sum.
    pub options_sum: Sum,
}

impl Reply {
    /// A RST.
    #[inline(always)]
    pub fn reset(seq: u32, ack: u32, flags: Flags) -> Self {
        Self {
            seq,
            ack,
            flags,
            window: 0,
            hop_limit: 64,
            options_len: 0,
            options_sum: Sum::new(),
        }
    }
}

/// RST with SEQ=SEG.ACK for an ACK that belongs to nothing (RFC 9293
/// §3.10.7.1): counted under `counter`.
#[inline(always)]
pub fn answer(ctx: &XdpContext, seg: &Segment, counter: Counter) -> Outcome {
    let reply = Reply::reset(seg.ack, 0, Flags::RST);
    match write_headers(ctx, seg, &reply) {
        Ok(_) => counter.into(),
        Err(failed) => failed,
    }
}

/// Swaps the ends, cuts or grows the frame to fit, and writes IP and TCP header:
/// IP options and extension headers of the request are not repeated, VLAN tags
/// stay. The caller writes the TCP options into the frame that is returned.
#[inline(always)]
pub fn write_headers(ctx: &XdpContext, seg: &Segment, reply: &Reply) -> Result<Packet, Outcome> {
    let ip_len = if seg.is_v6() { ip::V6_LEN } else { ip::V4_LEN };
    let tcp_len = HEADER_LEN + reply.options_len;
    if !resize(ctx, seg.link_len() + ip_len + tcp_len) {
        return Err(Counter::DropResize.into());
    }
    let mut packet = Packet::new(ctx);
    swap_macs(&mut packet).ok_or(Outcome::from(Counter::DropResize))?;
    let checksum = checksum::pseudo_header(&seg.flow, tcp_len as u16)
        .add32(u32::from(seg.flow.local_port_be) | u32::from(seg.flow.remote_port_be) << 16)
        .add32(reply.seq.to_be())
        .add32(reply.ack.to_be())
        .add16(offset_and_flags(tcp_len, reply.flags).to_be())
        .add16(reply.window.to_be())
        .add_sum(reply.options_sum)
        .finish();
    if seg.is_v6() {
        let mut w = packet
            .window_mut::<{ ip::V6_LEN + HEADER_LEN }>(seg.link_len())
            .ok_or(Outcome::from(Counter::DropResize))?;
        let (l, r) = (&seg.flow.local.0, &seg.flow.remote.0);
        w.put_be32::<0>(6 << 28);
        w.put_be32::<4>(
            (tcp_len as u32) << 16 | u32::from(ip::TCP) << 8 | u32::from(reply.hop_limit),
        );
        w.put::<8, u32>(l[0]);
        w.put::<12, u32>(l[1]);
        w.put::<16, u32>(l[2]);
        w.put::<20, u32>(l[3]);
        w.put::<24, u32>(r[0]);
        w.put::<28, u32>(r[1]);
        w.put::<32, u32>(r[2]);
        w.put::<36, u32>(r[3]);
        write_tcp::<{ ip::V6_LEN }, { ip::V6_LEN + HEADER_LEN }>(
            &mut w, seg, reply, tcp_len, checksum,
        );
    } else {
        let mut w = packet
            .window_mut::<{ ip::V4_LEN + HEADER_LEN }>(seg.link_len())
            .ok_or(Outcome::from(Counter::DropResize))?;
        let (l, r) = (seg.flow.local.0[3], seg.flow.remote.0[3]);
        let first = 0x4500_0000 | (ip::V4_LEN + tcp_len) as u32;
        // Don't fragment, identification zero (RFC 6864 §4.1).
        let second = 0x4000u32;
        let third = u32::from(reply.hop_limit) << 24 | u32::from(ip::TCP) << 16;
        let ip_checksum = Sum::new()
            .add32(first.to_be())
            .add32(second.to_be())
            .add32(third.to_be())
            .add32(l)
            .add32(r)
            .finish();
        w.put_be32::<0>(first);
        w.put_be32::<4>(second);
        w.put_be16::<8>((third >> 16) as u16);
        w.put::<10, u16>(ip_checksum);
        w.put::<12, u32>(l);
        w.put::<16, u32>(r);
        write_tcp::<{ ip::V4_LEN }, { ip::V4_LEN + HEADER_LEN }>(
            &mut w, seg, reply, tcp_len, checksum,
        );
    }
    Ok(packet)
}

#[inline(always)]
const fn offset_and_flags(tcp_len: usize, flags: Flags) -> u16 {
    ((tcp_len as u16) >> 2) << 12 | flags.0 as u16
}

#[inline(always)]
fn write_tcp<const AT: usize, const N: usize>(
    w: &mut crate::packet::WindowMut<N>,
    seg: &Segment,
    reply: &Reply,
    tcp_len: usize,
    checksum: u16,
) {
    w.put_at::<u16>(AT, seg.flow.local_port_be);
    w.put_at::<u16>(AT + 2, seg.flow.remote_port_be);
    w.put_at::<u32>(AT + 4, reply.seq.to_be());
    w.put_at::<u32>(AT + 8, reply.ack.to_be());
    w.put_at::<u16>(AT + 12, offset_and_flags(tcp_len, reply.flags).to_be());
    w.put_at::<u16>(AT + 14, reply.window.to_be());
    w.put_at::<u16>(AT + 16, checksum);
    w.put_at::<u16>(AT + 18, 0);
}

/// The answer goes back to where the frame came from.
#[inline(always)]
fn swap_macs(packet: &mut Packet) -> Option<()> {
    let (dst_hi, dst_lo, src_hi, src_lo) = {
        let w = packet.window::<12>(0)?;
        (w.ne32::<0>(), w.ne16::<4>(), w.ne32::<6>(), w.ne16::<10>())
    };
    let mut w = packet.window_mut::<12>(0)?;
    w.put::<0, u32>(src_hi);
    w.put::<4, u16>(src_lo);
    w.put::<6, u32>(dst_hi);
    w.put::<10, u16>(dst_lo);
    Some(())
}
