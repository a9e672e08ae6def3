//! From a frame to a TCP segment of a flow, and what is wrong with it.

use crate::Outcome;
use crate::packet::Packet;
use aya_ebpf::programs::XdpContext;
use tcp_common::counters::Counter;
use tcp_common::flow::FlowKey;
use tcp_common::wire::ip::Reject;
use tcp_common::wire::tcp::{CHECKSUM_OFFSET, HEADER_LEN, Header};
use tcp_common::wire::{Bytes as _, Flags, Sum, checksum, ip, link};

/// A TCP segment whose fixed header is in the frame; nothing else is checked.
///
/// Plain words, because it crosses into functions that the kernel verifies on their
/// own ([`crate::synack::answer_syn`], [`crate::ack::judge_ack`]): the verifier
/// forgets there by which of the many ways a frame was parsed.
#[repr(C)]
pub struct Segment {
    /// The 4-tuple.
    pub flow: FlowKey,
    /// SEG.SEQ.
    pub seq: u32,
    /// SEG.ACK.
    pub ack: u32,
    /// Sum of the fixed TCP header.
    header_sum: u32,
    /// Octets before the packet.
    link_len: u32,
    /// Offset of the TCP header.
    l4: u32,
    /// Octets of the TCP header.
    header_len: u32,
    /// Octets of the segment.
    pub l4_len: u32,
    /// Octets of the frame.
    frame_len: u32,
    /// Control bits.
    flags: u32,
    /// Nonzero for IPv6.
    v6: u32,
    /// Nonzero for a first fragment.
    fragment: u32,
    /// Nonzero if the IPv4 header checksum is wrong.
    bad_ip_checksum: u32,
}

/// A frame that has no segment.
pub enum Other {
    /// ICMP or ICMPv6: it may be about one.
    Icmp,
    /// To pass.
    Pass(Outcome),
}

impl From<Counter> for Other {
    #[inline(always)]
    fn from(counter: Counter) -> Self {
        Self::Pass(counter.into())
    }
}

impl Segment {
    /// Reads the headers.
    #[inline(always)]
    pub fn read(ctx: &XdpContext) -> Result<Self, Other> {
        let packet = Packet::new(ctx);
        let link = link::parse(&packet).ok_or(Counter::PassNotIp)?;
        let ip = ip::parse(&packet, link).map_err(|reject| match reject {
            Reject::Icmp => Other::Icmp,
            Reject::NotIp => Counter::PassNotIp.into(),
            Reject::NotTcp => Counter::PassNotTcp.into(),
            Reject::LaterFragment => Counter::PassFragment.into(),
            Reject::Malformed => Counter::PassMalformedIp.into(),
            Reject::TooManyExtensions => Counter::PassExtensions.into(),
        })?;
        let window = packet
            .window::<HEADER_LEN>(ip.l4)
            .ok_or(Counter::PassMalformedIp)?;
        let tcp = Header::read(&window);
        let header_sum = Sum::new()
            .add32(window.ne32::<0>())
            .add32(window.ne32::<4>())
            .add32(window.ne32::<8>())
            .add32(window.ne32::<12>())
            .add32(window.ne32::<16>());
        Ok(Self {
            flow: FlowKey {
                remote: ip.src,
                local: ip.dst,
                remote_port_be: tcp.src_port_be,
                local_port_be: tcp.dst_port_be,
            },
            seq: tcp.seq,
            ack: tcp.ack,
            header_sum: header_sum.fold_once(),
            link_len: link.len as u32,
            l4: ip.l4 as u32,
            header_len: tcp.header_len as u32,
            l4_len: ip.l4_len as u32,
            frame_len: packet.len() as u32,
            flags: u32::from(tcp.flags.0),
            v6: u32::from(ip.v6),
            fragment: u32::from(ip.fragment),
            bad_ip_checksum: u32::from(!ip.checksum_ok),
        })
    }

    /// Control bits.
    #[inline(always)]
    pub const fn flags(&self) -> Flags {
        Flags(self.flags as u8)
    }

    /// Whether the segment came over IPv6.
    #[inline(always)]
    pub const fn is_v6(&self) -> bool {
        self.v6 != 0
    }

    /// Whether it is a fragment with more to follow.
    #[inline(always)]
    pub const fn is_fragment(&self) -> bool {
        self.fragment != 0
    }

    /// Octets before the packet. The mask tells the verifier a bound.
    #[inline(always)]
    pub const fn link_len(&self) -> usize {
        (self.link_len & 0x1f) as usize
    }

    /// Offset of the TCP options, bounded as above: extension headers are walked
    /// no further than this.
    #[inline(always)]
    pub const fn options_at(&self) -> usize {
        (self.l4 & 0x3fff) as usize + HEADER_LEN
    }

    /// Octets of TCP options, 0 to 40.
    #[inline(always)]
    pub const fn options_len(&self) -> usize {
        (self.header_len & 0x3f) as usize - HEADER_LEN
    }

    /// Octets of data.
    #[inline(always)]
    pub const fn payload_len(&self) -> u32 {
        self.l4_len - self.header_len
    }

    /// Whether the segment is a header only.
    #[inline(always)]
    pub const fn is_bare(&self) -> bool {
        self.l4_len == self.header_len
    }

    /// What is wrong with a segment to a served port, before its meaning counts.
    #[inline(always)]
    pub fn check(&self) -> Result<(), Outcome> {
        if self.fragment != 0 {
            return Err(Counter::DropFragment.into());
        }
        if self.bad_ip_checksum != 0 {
            return Err(Counter::DropIpChecksum.into());
        }
        if (self.header_len as usize) < HEADER_LEN {
            return Err(Counter::DropDataOffset.into());
        }
        if self.l4_len < self.header_len || self.l4 + self.l4_len > self.frame_len {
            return Err(Counter::DropLength.into());
        }
        if self.flow.remote_port_be == 0 || !is_answerable(&self.flow) {
            return Err(Counter::DropSource.into());
        }
        Ok(())
    }

    /// Verifies the TCP checksum of a segment without payload. With `partial`, one
    /// that covers only the pseudo-header is accepted, too.
    #[inline(always)]
    pub fn checksum_ok(&self, packet: &Packet, partial: bool) -> bool {
        let at = self.options_at();
        let len = self.options_len();
        let mut sum = Sum::new().add32(self.header_sum);
        if len == 20 {
            let Some(w) = packet.window::<20>(at) else {
                return false;
            };
            sum = sum
                .add32(w.ne32::<0>())
                .add32(w.ne32::<4>())
                .add32(w.ne32::<8>())
                .add32(w.ne32::<12>())
                .add32(w.ne32::<16>());
        } else if len == 12 {
            let Some(w) = packet.window::<12>(at) else {
                return false;
            };
            sum = sum
                .add32(w.ne32::<0>())
                .add32(w.ne32::<4>())
                .add32(w.ne32::<8>());
        } else {
            for i in 0..10 {
                if i * 4 >= len {
                    break;
                }
                let Some(w) = packet.window::<4>(at + i * 4) else {
                    return false;
                };
                sum = sum.add32(w.ne32::<0>());
            }
        }
        let pseudo = checksum::pseudo_header(&self.flow, self.l4_len as u16);
        if pseudo.add_sum(sum).is_valid() {
            return true;
        }
        let field = packet.window::<2>(at - HEADER_LEN + CHECKSUM_OFFSET);
        partial && field.map(|w| w.ne16::<0>()) == Some(pseudo.fold())
    }
}

/// Whether an answer to this flow's source could arrive: no multicast, broadcast,
/// loopback or unspecified source (RFC 9293 §3.9.2.3 MUST-63, RFC 1122 §3.2.1.3),
/// and not ourselves.
#[inline(always)]
fn is_answerable(flow: &FlowKey) -> bool {
    let a = flow.remote.0;
    if flow.is_v4() {
        let first = u32::from_be(a[3]) >> 24;
        return first != 0 && first != 127 && first < 224 && a[3] != flow.local.0[3];
    }
    let multicast = u32::from_be(a[0]) >> 24 == 0xff;
    // `::` and `::1`.
    let local = a[0] == 0 && a[1] == 0 && a[2] == 0 && u32::from_be(a[3]) <= 1;
    !multicast && !local && flow.remote != flow.local
}
