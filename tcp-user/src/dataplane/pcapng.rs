//! pcapng (draft-ietf-opsawg-pcapng): section, interface, packets with direction and
//! comment, statistics. Each block in this machine's byte order.

use std::io::{self, Write};
use std::time::Duration;

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const STATISTICS: u32 = 5;
const PACKET: u32 = 6;
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
const ETHERNET: u16 = 1;

/// Which way a frame went, as `epb_flags` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Received.
    In = 1,
    /// Sent.
    Out = 2,
}

/// A block that is being written.
struct Block(Vec<u8>);

impl Block {
    fn new(kind: u32) -> Self {
        let mut octets = Vec::with_capacity(256);
        octets.extend(kind.to_ne_bytes());
        // The length comes when it is known.
        octets.extend([0; 4]);
        Self(octets)
    }

    fn u16(mut self, value: u16) -> Self {
        self.0.extend(value.to_ne_bytes());
        self
    }

    fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_ne_bytes());
        self
    }

    /// Nanoseconds since the epoch, high and low word.
    fn time(self, at: Duration) -> Self {
        let nanos = at.as_nanos() as u64;
        self.u32((nanos >> 32) as u32).u32(nanos as u32)
    }

    fn octets(mut self, octets: &[u8]) -> Self {
        self.0.extend(octets);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    fn option(self, code: u16, value: &[u8]) -> Self {
        let len = u16::try_from(value.len()).unwrap_or(u16::MAX);
        self.u16(code).u16(len).octets(&value[..usize::from(len)])
    }

    fn write(mut self, to: &mut impl Write) -> io::Result<u64> {
        // opt_endofopt, then the length again.
        self = self.u16(0).u16(0);
        let len = self.0.len() as u32 + 4;
        self.0[4..8].copy_from_slice(&len.to_ne_bytes());
        self = self.u32(len);
        to.write_all(&self.0)?;
        Ok(u64::from(len))
    }
}

/// The blocks that each file begins with; returns their octets.
pub fn begin(to: &mut impl Write, interface: &str, about: &str) -> io::Result<u64> {
    let application = concat!("tcp-user ", env!("CARGO_PKG_VERSION"));
    let section = Block::new(SECTION)
        .u32(BYTE_ORDER)
        .u16(1)
        .u16(0)
        // Length of the section: unknown.
        .octets(&[0xff; 8])
        .option(4, application.as_bytes())
        .write(to)?;
    let interface = Block::new(INTERFACE)
        .u16(ETHERNET)
        .u16(0)
        // No limit on the length of a packet.
        .u32(0)
        .option(2, interface.as_bytes())
        .option(3, about.as_bytes())
        // if_tsresol: nanoseconds.
        .option(9, &[9])
        .write(to)?;
    Ok(section + interface)
}

/// A frame; `comment` may be empty.
pub fn packet(
    to: &mut impl Write,
    at: Duration,
    way: Way,
    frame: &[u8],
    comment: &str,
) -> io::Result<u64> {
    let len = frame.len() as u32;
    let mut block = Block::new(PACKET)
        .u32(0)
        .time(at)
        .u32(len)
        .u32(len)
        .octets(frame)
        .option(2, &(way as u32).to_ne_bytes());
    if !comment.is_empty() {
        block = block.option(1, comment.as_bytes());
    }
    block.write(to)
}

/// What the file lacks: frames that found no room on their way to it.
pub fn statistics(to: &mut impl Write, at: Duration, dropped: u64) -> io::Result<u64> {
    Block::new(STATISTICS)
        .u32(0)
        .time(at)
        // isb_ifdrop.
        .option(5, &dropped.to_ne_bytes())
        .write(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kind and length of each block; both lengths must agree.
    fn blocks(mut octets: &[u8]) -> Vec<(u32, usize)> {
        let word = |octets: &[u8], at: usize| {
            let four = octets.get(at..at + 4).expect("whole");
            u32::from_ne_bytes(four.try_into().expect("four"))
        };
        let mut all = Vec::new();
        while !octets.is_empty() {
            let len = word(octets, 4) as usize;
            assert!(len.is_multiple_of(4));
            assert_eq!(word(octets, len - 4) as usize, len);
            all.push((word(octets, 0), len));
            octets = &octets[len..];
        }
        all
    }

    #[test]
    fn blocks_are_padded_and_have_their_length_at_both_ends() {
        let mut file = Vec::new();
        let mut len = begin(&mut file, "eth0", "about").expect("in memory");
        let at = Duration::new(1_700_000_000, 5);
        for frame in [&[1_u8, 2, 3][..], &[0; 60], &[]] {
            len += packet(&mut file, at, Way::Out, frame, "").expect("in memory");
            len += packet(&mut file, at, Way::In, frame, "why").expect("in memory");
        }
        len += statistics(&mut file, at, 7).expect("in memory");
        assert_eq!(len as usize, file.len());
        let kinds: Vec<u32> = blocks(&file).iter().map(|(kind, _)| *kind).collect();
        assert_eq!(kinds, [SECTION, INTERFACE, 6, 6, 6, 6, 6, 6, STATISTICS]);
    }
}
