//! The TCP header (RFC 9293 §3.1).

use super::{Bytes, Window};
use core::fmt;
use core::mem::offset_of;
use network_types::tcp::TcpHdr;

/// Octets of a header without options.
pub const HEADER_LEN: usize = TcpHdr::LEN;
/// Octets of the longest header.
pub const MAX_HEADER_LEN: usize = 60;
/// Octets of the longest options.
pub const MAX_OPTIONS_LEN: usize = MAX_HEADER_LEN - HEADER_LEN;
/// Offset of the checksum field in the header.
pub const CHECKSUM_OFFSET: usize = offset_of!(TcpHdr, check);

/// The eight control bits.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
#[repr(transparent)]
pub struct Flags(pub u8);

impl Flags {
    /// No more data from the sender.
    pub const FIN: Self = Self(0x01);
    /// Synchronize sequence numbers.
    pub const SYN: Self = Self(0x02);
    /// Reset the connection.
    pub const RST: Self = Self(0x04);
    /// Push.
    pub const PSH: Self = Self(0x08);
    /// The acknowledgment field counts.
    pub const ACK: Self = Self(0x10);
    /// The urgent pointer counts.
    pub const URG: Self = Self(0x20);
    /// ECN echo (RFC 3168).
    pub const ECE: Self = Self(0x40);
    /// Congestion window reduced (RFC 3168).
    pub const CWR: Self = Self(0x80);

    /// Whether all bits of `other` are set.
    #[inline(always)]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both sets of bits.
    #[inline(always)]
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The bits of `self` that `other` lacks.
    #[inline(always)]
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// SYN, RST, FIN and ACK only: what decides about a segment's meaning.
    #[inline(always)]
    #[must_use]
    pub const fn control(self) -> Self {
        Self(self.0 & (Self::SYN.0 | Self::RST.0 | Self::FIN.0 | Self::ACK.0))
    }
}

/// tcpdump's letters: `S` SYN, `.` ACK, `P` PSH, `F` FIN, `R` RST, `U` URG, `E` ECE, `W` CWR.
impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LETTERS: [(Flags, &str); 8] = [
            (Flags::FIN, "F"),
            (Flags::SYN, "S"),
            (Flags::RST, "R"),
            (Flags::PSH, "P"),
            (Flags::URG, "U"),
            (Flags::ECE, "E"),
            (Flags::CWR, "W"),
            (Flags::ACK, "."),
        ];
        if self.0 == 0 {
            return f.write_str("none");
        }
        for (flag, letter) in LETTERS {
            if self.has(flag) {
                f.write_str(letter)?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The fixed part of a TCP header, as values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Source port as it lies in the header (network order).
    pub src_port_be: u16,
    /// Destination port as it lies in the header (network order).
    pub dst_port_be: u16,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgment number; counts only with [`Flags::ACK`].
    pub ack: u32,
    /// Header length in octets as the data offset states it: 0 to 60, unchecked.
    pub header_len: usize,
    /// Control bits.
    pub flags: Flags,
    /// Window field, not scaled.
    pub window: u16,
    /// Urgent pointer.
    pub urgent: u16,
}

impl Header {
    /// Reads the fixed part from its 20 octets.
    #[inline(always)]
    pub fn read(w: &Window<'_, HEADER_LEN>) -> Self {
        // Data offset and flags are the bitfield's two octets.
        const OFFSET: usize = offset_of!(TcpHdr, _bitfield_1);
        Self {
            src_port_be: w.ne16::<{ offset_of!(TcpHdr, source) }>(),
            dst_port_be: w.ne16::<{ offset_of!(TcpHdr, dest) }>(),
            seq: w.be32::<{ offset_of!(TcpHdr, seq) }>(),
            ack: w.be32::<{ offset_of!(TcpHdr, ack_seq) }>(),
            header_len: usize::from(w.u8::<OFFSET>() >> 4) * 4,
            flags: Flags(w.u8::<{ OFFSET + 1 }>()),
            window: w.be16::<{ offset_of!(TcpHdr, window) }>(),
            urgent: w.be16::<{ offset_of!(TcpHdr, urg_ptr) }>(),
        }
    }
}

/// Parses the fixed header at `offset`; `None` if it does not fit in the frame.
#[inline(always)]
pub fn parse<B: Bytes + ?Sized>(frame: &B, offset: usize) -> Option<Header> {
    frame.window::<HEADER_LEN>(offset).map(|w| Header::read(&w))
}
