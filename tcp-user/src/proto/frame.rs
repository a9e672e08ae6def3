//! From a segment to a frame: link, IP and TCP headers with their checksums.

use super::Instant;
use super::segment::SackList;
use super::state::State;
use super::trace::{Direction, TraceEvent};
use tcp_common::flow::FlowKey;
use tcp_common::seq::SeqNum;
use tcp_common::wire::link::{ETH_LEN, MAX_LINK_LEN};
use tcp_common::wire::options::{self, NOP, SACK, SynAckOptions, TIMESTAMPS};
use tcp_common::wire::{Flags, Sum, Timestamps, checksum, ip, tcp};

/// Octets of the padded timestamps option (RFC 7323 appendix A).
pub(super) const TIMESTAMPS_LEN: usize = 12;

/// Octets of the padded SACK option with `blocks` blocks.
pub(super) const fn sack_len(blocks: usize) -> usize {
    if blocks == 0 { 0 } else { 4 + 8 * blocks }
}

/// Octets of all headers together at most.
pub(super) const MAX_HEAD: usize = MAX_LINK_LEN + ip::V6_LEN + 60;

/// The Ethernet header of what we send, VLAN tags included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) struct LinkHeader {
    octets: [u8; MAX_LINK_LEN],
    len: u8,
}

impl LinkHeader {
    /// The header of an answer: addresses swapped, tags kept.
    pub(super) fn reply_to(received: &[u8]) -> Self {
        let mut octets = [0; MAX_LINK_LEN];
        let len = received.len().min(MAX_LINK_LEN);
        octets[..len].copy_from_slice(&received[..len]);
        let (destination, rest) = octets.split_at_mut(6);
        destination.swap_with_slice(&mut rest[..6]);
        Self {
            octets,
            len: len.max(ETH_LEN) as u8,
        }
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        &self.octets[..usize::from(self.len)]
    }

    /// There is no VLAN tag.
    pub(super) fn is_plain(&self) -> bool {
        usize::from(self.len) == ETH_LEN
    }
}

/// A segment to send.
#[derive(Clone, Debug)]
pub(super) struct Outgoing<'a> {
    pub(super) link: &'a LinkHeader,
    pub(super) flow: &'a FlowKey,
    pub(super) hop_limit: u8,
    /// ECN codepoint (RFC 3168 §5).
    pub(super) ecn: u8,
    pub(super) seq: SeqNum,
    pub(super) ack: SeqNum,
    pub(super) flags: Flags,
    /// The window field, scaled down.
    pub(super) window: u16,
    /// Only on a SYN-ACK; the two below are then left out.
    pub(super) syn_ack: Option<SynAckOptions>,
    pub(super) timestamps: Option<Timestamps>,
    pub(super) sack: SackList,
    /// The text, in two parts as a ring buffer has it.
    pub(super) payload: [&'a [u8]; 2],
}

impl Outgoing<'_> {
    fn options_len(&self) -> usize {
        if let Some(options) = &self.syn_ack {
            return 4 * options.words;
        }
        let ts = self.timestamps.map_or(0, |_| TIMESTAMPS_LEN);
        ts + sack_len(self.sack.as_slice().len())
    }

    /// Writes the frame into `buf` and returns its length; `None` if it does not fit.
    pub(super) fn write(&self, buf: &mut [u8]) -> Option<usize> {
        let data = self.write_head(buf)?;
        let [first, second] = self.payload;
        let end = data + first.len() + second.len();
        let text = buf.get_mut(data..end)?;
        text[..first.len()].copy_from_slice(first);
        text[first.len()..].copy_from_slice(second);
        // The pseudo-header is in the checksum's place.
        let l4 = self.l4();
        let sum = Sum::new().add_slice(&buf[l4..end]).finish();
        buf[l4 + tcp::CHECKSUM_OFFSET..][..2].copy_from_slice(&sum.to_ne_bytes());
        Some(end)
    }

    /// Where the TCP header begins.
    fn l4(&self) -> usize {
        let ip = if self.flow.is_v4() {
            ip::V4_LEN
        } else {
            ip::V6_LEN
        };
        usize::from(self.link.len) + ip
    }

    /// Writes all headers into `buf` and returns their length; `None` if they do not fit. The TCP
    /// checksum is the sum of the pseudo-header, not inverted: what is missing is that of
    /// the segment.
    pub(super) fn write_head(&self, buf: &mut [u8]) -> Option<usize> {
        let l3 = usize::from(self.link.len);
        let l4 = self.l4();
        let header_len = tcp::HEADER_LEN + self.options_len();
        let data = l4 + header_len;
        let text = self.payload[0].len() + self.payload[1].len();
        let segment_len = u16::try_from(header_len + text).ok()?;
        let head = buf.get_mut(..data)?;

        head[..l3].copy_from_slice(self.link.as_slice());
        if self.flow.is_v4() {
            self.write_v4(&mut head[l3..l4], segment_len)?;
        } else {
            self.write_v6(&mut head[l3..l4], segment_len);
        }

        let tcp = &mut head[l4..];
        tcp[0..2].copy_from_slice(&self.flow.local_port_be.to_ne_bytes());
        tcp[2..4].copy_from_slice(&self.flow.remote_port_be.to_ne_bytes());
        tcp[4..8].copy_from_slice(&self.seq.0.to_be_bytes());
        tcp[8..12].copy_from_slice(&self.ack.0.to_be_bytes());
        tcp[12] = (header_len as u8 / 4) << 4;
        tcp[13] = self.flags.0;
        tcp[14..16].copy_from_slice(&self.window.to_be_bytes());
        tcp[16..20].fill(0);
        self.write_options(&mut tcp[tcp::HEADER_LEN..]);
        let pseudo = !checksum::pseudo_header(self.flow, segment_len).finish();
        tcp[tcp::CHECKSUM_OFFSET..tcp::CHECKSUM_OFFSET + 2].copy_from_slice(&pseudo.to_ne_bytes());
        Some(data)
    }

    /// DF is set and the identification zero: an atomic datagram (RFC 6864 §4.1).
    fn write_v4(&self, ip: &mut [u8], segment_len: u16) -> Option<()> {
        let total = segment_len.checked_add(ip::V4_LEN as u16)?;
        ip[..4].copy_from_slice(&[0x45, self.ecn, 0, 0]);
        ip[2..4].copy_from_slice(&total.to_be_bytes());
        ip[4..8].copy_from_slice(&[0, 0, 0x40, 0]);
        ip[8..12].copy_from_slice(&[self.hop_limit, ip::TCP, 0, 0]);
        ip[12..16].copy_from_slice(&self.flow.local.0[3].to_ne_bytes());
        ip[16..20].copy_from_slice(&self.flow.remote.0[3].to_ne_bytes());
        let sum = Sum::new().add_slice(ip).finish();
        ip[10..12].copy_from_slice(&sum.to_ne_bytes());
        Some(())
    }

    fn write_v6(&self, ip: &mut [u8], segment_len: u16) {
        ip[..4].copy_from_slice(&[0x60, self.ecn << 4, 0, 0]);
        ip[4..6].copy_from_slice(&segment_len.to_be_bytes());
        ip[6..8].copy_from_slice(&[ip::TCP, self.hop_limit]);
        ip[8..24].copy_from_slice(&self.flow.local.octets());
        ip[24..40].copy_from_slice(&self.flow.remote.octets());
    }

    fn write_options(&self, out: &mut [u8]) {
        if let Some(options) = &self.syn_ack {
            for (chunk, word) in out.chunks_exact_mut(4).zip(options.word) {
                chunk.copy_from_slice(&word.to_be_bytes());
            }
            return;
        }
        let mut sack_at = 0;
        if let Some(ts) = self.timestamps
            && let Some(option) = out.get_mut(..TIMESTAMPS_LEN)
        {
            option[..4].copy_from_slice(&[NOP, NOP, TIMESTAMPS, 10]);
            option[4..8].copy_from_slice(&ts.val.to_be_bytes());
            option[8..12].copy_from_slice(&ts.ecr.to_be_bytes());
            sack_at = TIMESTAMPS_LEN;
        }
        let blocks = self.sack.as_slice();
        if let Some((option, after)) = out[sack_at..].split_at_mut_checked(4) {
            option.copy_from_slice(&[NOP, NOP, SACK, 2 + 8 * blocks.len() as u8]);
            for (chunk, (left, right)) in after.chunks_exact_mut(8).zip(blocks) {
                chunk[..4].copy_from_slice(&left.0.to_be_bytes());
                chunk[4..].copy_from_slice(&right.0.to_be_bytes());
            }
        }
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
        let blocks = self.sack.as_slice();
        let mut sack = [(0, 0); 4];
        for (to, (left, right)) in sack.iter_mut().zip(blocks) {
            *to = (left.0, right.0);
        }
        // Options are read behind a header.
        let mut laid = vec![0];
        if let Some(options) = &self.syn_ack {
            let words = options.word.iter().take(options.words);
            laid.extend(words.flat_map(|word| word.to_be_bytes()));
        }
        // Our own, so they can be read.
        let offered = options::parse(&laid[..], 1, laid.len()).unwrap_or_default();
        TraceEvent {
            at,
            flow: *self.flow,
            direction: Direction::Out,
            reconstructed: false,
            flags: self.flags,
            seq: self.seq.0,
            ack: self.ack.0,
            len: self.payload[0].len() + self.payload[1].len(),
            window,
            mss: offered.mss,
            window_scale: offered.window_scale,
            sack_permitted: offered.sack_permitted,
            timestamps: self.timestamps.or(offered.timestamps),
            sack,
            sack_blocks: blocks.len(),
            client,
            server,
            note,
        }
    }
}
