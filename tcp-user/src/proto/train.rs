//! Runs of full segments under one header, which the kernel or the NIC cuts apart: segmentation
//! offload.
//!
//! What is copied, looked up and handed down once for a run costs a segment a fraction of that. The
//! segments are those that would have been sent one by one: same options, SEG.SEQ counted on, PSH on
//! the last.

use super::frame::{MAX_HEAD, Outgoing};
use tcp_common::wire::link::ETH_LEN;
use tcp_common::wire::{ip, tcp};

/// Octets of an IP packet at most, as its length field has them.
const MAX_PACKET: usize = 65_535;
/// Headers of IP and TCP with every option.
const MAX_HEADERS: usize = ip::V6_LEN + 60;

/// A run of full segments.
#[derive(Debug)]
pub struct Train<'a> {
    head: [u8; MAX_HEAD],
    head_len: usize,
    /// The octets, in two parts as a ring buffer has them.
    pub payload: [&'a [u8]; 2],
    /// Octets of each segment.
    pub segment: u16,
    /// IPv4, else IPv6.
    pub is_v4: bool,
}

impl<'a> Train<'a> {
    /// Octets of text that a run of segments of `mss` octets holds at most.
    pub(super) const fn limit(mss: usize) -> usize {
        (MAX_PACKET - MAX_HEADERS) / mss * mss
    }

    pub(super) fn new(outgoing: &Outgoing<'a>, segment: u16) -> Option<Self> {
        let mut train = Self {
            head: [0; MAX_HEAD],
            head_len: 0,
            payload: outgoing.payload,
            segment,
            is_v4: outgoing.flow.is_v4(),
        };
        train.head_len = outgoing.write_head(&mut train.head)?;
        Some(train)
    }

    /// Ethernet, IP and TCP header. The lengths are those of the whole run, and the TCP checksum
    /// is that of the pseudo-header alone, not inverted, as whoever cuts the run wants it.
    pub fn head(&self) -> &[u8] {
        &self.head[..self.head_len]
    }

    /// Where the TCP header begins.
    pub fn tcp(&self) -> usize {
        ETH_LEN + if self.is_v4 { ip::V4_LEN } else { ip::V6_LEN }
    }

    /// Where in the TCP header its checksum is.
    pub const CHECKSUM: usize = tcp::CHECKSUM_OFFSET;

    /// Octets of text.
    pub fn len(&self) -> usize {
        self.payload[0].len() + self.payload[1].len()
    }

    /// A run has at least two segments.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Segmentation as the kernel does it.
#[cfg(test)]
impl Train<'_> {
    pub(super) fn cut(&self) -> Vec<Vec<u8>> {
        use tcp_common::wire::{Flags, Sum};
        let text = self.payload.concat();
        let pieces = text.len().div_ceil(usize::from(self.segment));
        let l4 = self.tcp();
        let frames = text.chunks(usize::from(self.segment)).enumerate();
        let cut = frames.map(|(i, piece)| {
            let mut frame = self.head().to_vec();
            frame.extend(piece);
            let len = (frame.len() - l4) as u16;
            if self.is_v4 {
                let total = len + ip::V4_LEN as u16;
                frame[ETH_LEN + 2..ETH_LEN + 4].copy_from_slice(&total.to_be_bytes());
                frame[ETH_LEN + 4..ETH_LEN + 6].copy_from_slice(&(i as u16).to_be_bytes());
                frame[ETH_LEN + 10..ETH_LEN + 12].fill(0);
                let sum = Sum::new().add_slice(&frame[ETH_LEN..l4]).finish();
                frame[ETH_LEN + 10..ETH_LEN + 12].copy_from_slice(&sum.to_ne_bytes());
            } else {
                frame[ETH_LEN + 4..ETH_LEN + 6].copy_from_slice(&len.to_be_bytes());
            }
            let seq =
                u32::from_be_bytes([frame[l4 + 4], frame[l4 + 5], frame[l4 + 6], frame[l4 + 7]]);
            let seq = seq.wrapping_add(i as u32 * u32::from(self.segment));
            frame[l4 + 4..l4 + 8].copy_from_slice(&seq.to_be_bytes());
            if i + 1 < pieces {
                frame[l4 + 13] &= !Flags::PSH.0;
            }
            // The pseudo-header's sum is in the checksum's place, with the length of the run.
            let whole = (self.head_len - l4 + text.len()) as u16;
            let place = l4 + Self::CHECKSUM;
            let pseudo = u16::from_be_bytes([frame[place], frame[place + 1]]);
            let shorter = u32::from(pseudo) + u32::from(!whole) + u32::from(len);
            let shorter = (shorter & 0xffff) + (shorter >> 16);
            let shorter = (shorter & 0xffff) + (shorter >> 16);
            frame[place..place + 2].copy_from_slice(&(shorter as u16).to_be_bytes());
            let sum = Sum::new().add_slice(&frame[l4..]).finish();
            frame[place..place + 2].copy_from_slice(&sum.to_ne_bytes());
            frame
        });
        cut.collect()
    }
}
