//! The Internet checksum (RFC 1071) and its incremental form (RFC 1624).

use crate::flow::FlowKey;

/// A one's-complement sum before folding, of at most 2^16 words of four octets. Words are added as they lie in memory:
/// the sum is byte-order independent (RFC 1071 §2(B)), so the folded result is
/// stored as it lies, too.
#[derive(Clone, Copy, Default, Debug)]
pub struct Sum(u64);

impl Sum {
    /// The empty sum.
    #[inline(always)]
    pub const fn new() -> Self {
        Self(0)
    }

    /// Adds two octets as they lie in memory.
    #[inline(always)]
    #[must_use]
    pub const fn add16(self, ne: u16) -> Self {
        Self(self.0 + ne as u64)
    }

    /// Adds four octets as they lie in memory.
    #[inline(always)]
    #[must_use]
    pub const fn add32(self, ne: u32) -> Self {
        Self(self.0 + ne as u64)
    }

    /// Adds the sum of another part that starts at an even offset.
    #[inline(always)]
    #[must_use]
    pub const fn add_sum(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// Removes a 16-bit word that is part of the summed data (RFC 1624 eqn. 3).
    #[inline(always)]
    #[must_use]
    pub const fn remove16(self, ne: u16) -> Self {
        self.add16(!ne)
    }

    /// Adds `octets`, the last one padded with zero if their number is odd.
    /// Parts that follow must start at an even offset of the whole.
    #[must_use]
    pub fn add_slice(mut self, octets: &[u8]) -> Self {
        let mut words = octets.chunks_exact(8);
        for w in &mut words {
            let w = u64::from_ne_bytes([w[0], w[1], w[2], w[3], w[4], w[5], w[6], w[7]]);
            self = self.add32(w as u32).add32((w >> 32) as u32);
        }
        let mut halves = words.remainder().chunks_exact(2);
        for h in &mut halves {
            self = self.add16(u16::from_ne_bytes([h[0], h[1]]));
        }
        if let [last] = halves.remainder() {
            self = self.add16(u16::from_ne_bytes([*last, 0]));
        }
        self
    }

    /// The folded 16-bit sum, not complemented.
    #[inline(always)]
    pub const fn fold(self) -> u16 {
        let s = self.fold_once();
        let s = (s & 0xffff) + (s >> 16);
        (s + (s >> 16)) as u16
    }

    /// An equal sum of at most 3 · 0xffff; its three parts do not wait for each other.
    #[inline(always)]
    pub const fn fold_once(self) -> u32 {
        ((self.0 & 0xffff) + (self.0 >> 16 & 0xffff) + (self.0 >> 32)) as u32
    }

    /// The checksum to store, as it lies in memory.
    #[inline(always)]
    pub const fn finish(self) -> u16 {
        !self.fold()
    }

    /// Whether a sum over data that includes its checksum is right.
    #[inline(always)]
    pub const fn is_valid(self) -> bool {
        matches!(self.fold_once(), 0xffff | 0x1fffe | 0x2fffd)
    }
}

/// Sum of the pseudo-header (RFC 9293 §3.1, RFC 8200 §8.1) for a segment of
/// `len` octets.
#[inline(always)]
pub const fn pseudo_header(flow: &FlowKey, len: u16) -> Sum {
    let (r, l) = (&flow.remote.0, &flow.local.0);
    let sum = Sum::new()
        .add32(r[3])
        .add32(l[3])
        .add16(len.to_be())
        .add16(6u16.to_be());
    if flow.is_v4() {
        return sum;
    }
    sum.add32(r[0])
        .add32(r[1])
        .add32(r[2])
        .add32(l[0])
        .add32(l[1])
        .add32(l[2])
}

#[cfg(test)]
mod tests {
    use super::Sum;
    use proptest::prelude::*;

    fn reference(octets: &[u8]) -> u16 {
        let mut s: u32 = 0;
        for pair in octets.chunks(2) {
            s += (u32::from(pair[0]) << 8) | u32::from(*pair.get(1).unwrap_or(&0));
            s = (s & 0xffff) + (s >> 16);
        }
        !(s as u16)
    }

    #[test]
    fn the_example_of_rfc_1071_section_3() {
        let data = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(u16::from_be(Sum::new().add_slice(&data).fold()), 0xddf2);
    }

    proptest! {
        #[test]
        fn the_sum_equals_the_word_by_word_reference(data in proptest::collection::vec(any::<u8>(), 0..2000)) {
            prop_assert_eq!(u16::from_be(Sum::new().add_slice(&data).finish()), reference(&data));
        }

        #[test]
        fn a_sum_of_any_words_is_valid_with_its_checksum(
            words in proptest::collection::vec(prop_oneof![any::<u32>(), Just(u32::MAX), Just(0)], 0..200)
        ) {
            let sum = words.iter().fold(Sum::new(), |sum, word| sum.add32(*word));
            let whole = sum.add16(sum.finish());
            prop_assert_eq!(whole.fold(), 0xffff);
            prop_assert!(whole.is_valid());
            prop_assert_eq!(sum.is_valid(), sum.fold() == 0xffff);
        }

        #[test]
        fn changing_a_word_incrementally_equals_summing_again(
            mut data in proptest::collection::vec(any::<u8>(), 4..64), new: [u8; 2]
        ) {
            data.truncate(data.len() & !1);
            let before = Sum::new().add_slice(&data);
            let old = u16::from_ne_bytes([data[2], data[3]]);
            let updated = before.remove16(old).add16(u16::from_ne_bytes(new));
            data[2..4].copy_from_slice(&new);
            let fresh = Sum::new().add_slice(&data);
            // 0x0000 and 0xffff are the same number in one's complement.
            prop_assert_eq!(updated.fold() % 0xffff, fresh.fold() % 0xffff);
        }
    }
}
