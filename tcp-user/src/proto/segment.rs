//! From a frame to a validated [`Segment`].
//!
//! The wire parsers are those of `tcp_common::wire`, the same that the XDP program
//! runs. What comes out of [`Segment::parse`] was checked as far as a segment can be
//! checked without its connection: lengths, both checksums, every option's length.

use super::frame::LinkHeader;
use super::state::State;
use super::trace::{Direction, TraceEvent};
use super::{Disposition, Instant};
use tcp_common::flow::FlowKey;
use tcp_common::seq::SeqNum;
use tcp_common::wire::{Bytes, Flags, Sum, Timestamps, checksum, ip, link, options, tcp};

/// SACK blocks of a segment (RFC 2018 §3): left edge, right edge.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct SackList {
    blocks: [(SeqNum, SeqNum); 4],
    count: u8,
}

impl SackList {
    /// Appends a block; a fifth is left out, as no header has room for it.
    pub(super) fn push(&mut self, left: SeqNum, right: SeqNum) {
        if let Some(slot) = self.blocks.get_mut(usize::from(self.count)) {
            *slot = (left, right);
            self.count += 1;
        }
    }

    /// The blocks in the order of the option.
    pub(super) fn as_slice(&self) -> &[(SeqNum, SeqNum)] {
        self.blocks.get(..usize::from(self.count)).unwrap_or(&[])
    }
}

/// A valid TCP segment that arrived.
#[derive(Clone, Debug)]
pub(super) struct Segment<'a> {
    pub(super) flow: FlowKey,
    /// Ethernet header with its tags, as it arrived.
    pub(super) link: &'a [u8],
    pub(super) seq: SeqNum,
    pub(super) ack: SeqNum,
    pub(super) flags: Flags,
    /// ECN codepoint (RFC 3168 §5).
    pub(super) ecn: u8,
    /// The window field, not scaled.
    pub(super) window: u16,
    pub(super) mss: Option<u16>,
    pub(super) window_scale: Option<u8>,
    pub(super) sack_permitted: bool,
    pub(super) timestamps: Option<Timestamps>,
    pub(super) sack: SackList,
    pub(super) payload: &'a [u8],
}

impl<'a> Segment<'a> {
    /// Parses and verifies a frame. `partial_checksums` also accepts a TCP checksum
    /// that is the folded, not complemented sum of the pseudo-header alone: what a
    /// sender on this machine leaves for an offload that a veth pair never does.
    pub(super) fn parse(frame: &'a [u8], partial_checksums: bool) -> Result<Self, Disposition> {
        let link = link::parse(frame).ok_or(Disposition::Malformed)?;
        let packet = ip::parse(frame, link).map_err(|reject| match reject {
            ip::Reject::NotIp
            | ip::Reject::Icmp
            | ip::Reject::NotTcp
            | ip::Reject::TooManyExtensions => Disposition::NotTcp,
            ip::Reject::LaterFragment => Disposition::Fragment,
            ip::Reject::Malformed => Disposition::Malformed,
        })?;
        if packet.fragment {
            return Err(Disposition::Fragment);
        }
        if !packet.checksum_ok {
            return Err(Disposition::BadChecksum);
        }
        let octets = packet
            .l4
            .checked_add(packet.l4_len)
            .and_then(|end| frame.get(packet.l4..end))
            .ok_or(Disposition::Malformed)?;
        let header = tcp::parse(octets, 0).ok_or(Disposition::Malformed)?;
        if header.header_len < tcp::HEADER_LEN || header.header_len > octets.len() {
            return Err(Disposition::Malformed);
        }
        let flow = FlowKey {
            remote: packet.src,
            local: packet.dst,
            remote_port_be: header.src_port_be,
            local_port_be: header.dst_port_be,
        };
        let pseudo = checksum::pseudo_header(&flow, packet.l4_len as u16);
        if !pseudo.add_sum(Sum::new().add_slice(octets)).is_valid() {
            let stored = octets
                .window::<2>(tcp::CHECKSUM_OFFSET)
                .map(|w| w.ne16::<0>());
            if !partial_checksums || stored != Some(pseudo.fold()) {
                return Err(Disposition::BadChecksum);
            }
        }
        let options = options::parse(octets, tcp::HEADER_LEN, header.header_len)
            .map_err(|_| Disposition::Malformed)?;
        let mut sack = SackList::default();
        if let Some(blocks) = options.sack {
            for i in 0..blocks.count {
                if let Some(w) = octets.window::<8>(blocks.offset + i * 8) {
                    sack.push(SeqNum(w.be32::<0>()), SeqNum(w.be32::<4>()));
                }
            }
        }
        Ok(Self {
            flow,
            link: frame.get(..link.len).unwrap_or(&[]),
            seq: SeqNum(header.seq),
            ack: SeqNum(header.ack),
            flags: header.flags,
            ecn: packet.ecn,
            window: header.window,
            mss: options.mss,
            window_scale: options.window_scale,
            sack_permitted: options.sack_permitted,
            timestamps: options.timestamps,
            sack,
            payload: octets.get(header.header_len..).unwrap_or(&[]),
        })
    }

    /// SEG.LEN: octets of data, and one each for SYN and FIN.
    pub(super) fn len(&self) -> u32 {
        self.payload.len() as u32
            + u32::from(self.flags.has(Flags::SYN))
            + u32::from(self.flags.has(Flags::FIN))
    }

    /// The link header of an answer.
    pub(super) fn reply_link(&self) -> LinkHeader {
        LinkHeader::reply_to(self.link)
    }

    /// This segment as a trace record; `window` scaled.
    pub(super) fn trace(
        &self,
        at: Instant,
        window: u32,
        client: State,
        server: State,
        note: &'static str,
    ) -> TraceEvent {
        TraceEvent {
            at,
            flow: self.flow,
            direction: Direction::In,
            reconstructed: false,
            flags: self.flags,
            seq: self.seq.0,
            ack: self.ack.0,
            len: self.payload.len(),
            window,
            mss: self.mss,
            window_scale: self.window_scale,
            sack_permitted: self.sack_permitted,
            timestamps: self.timestamps,
            sack: self.sack.blocks.map(|(l, r)| (l.0, r.0)),
            sack_blocks: usize::from(self.sack.count),
            client,
            server,
            note,
        }
    }
}
