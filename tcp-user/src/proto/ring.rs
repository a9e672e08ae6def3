//! Ring storage that both buffers share: octets addressed from a moving front,
//! memory only while something is stored.

use super::memory::{FLOOR, Memory};

/// No buffer is larger: the largest window there is (RFC 7323 §2.2).
pub(super) const MAX_CAPACITY: usize = 1 << 30;

/// Storage of a power of two octets, or none.
#[derive(Clone, Default, Debug)]
pub(super) struct Ring {
    octets: Box<[u8]>,
    head: u32,
    /// Octets that the buffer counts as stored; it lies here for the sake of the layout.
    pub(super) len: u32,
}

impl Ring {
    /// Makes room for positions below `needed`, keeping those below `keep`. Returns below
    /// which position there is room now: less where memory is short.
    pub(super) fn reserve(&mut self, needed: usize, keep: usize, memory: &mut Memory) -> usize {
        let have = self.octets.len();
        if needed <= have {
            return have;
        }
        let piece = memory
            .take(needed, have)
            .or_else(|| (have < FLOOR).then(|| memory.take(FLOOR, have)).flatten());
        let Some(mut octets) = piece else {
            return have;
        };
        let [a, b] = self.slices(0, keep);
        octets[..a.len()].copy_from_slice(a);
        octets[a.len()..keep].copy_from_slice(b);
        memory.give(std::mem::replace(&mut self.octets, octets));
        self.head = 0;
        self.octets.len()
    }

    /// Gives all memory back.
    pub(super) fn release(&mut self, memory: &mut Memory) {
        memory.give(std::mem::take(&mut self.octets));
        self.head = 0;
    }

    /// Octets of memory held.
    #[cfg(test)]
    pub(super) fn allocated(&self) -> usize {
        self.octets.len()
    }

    fn index(&self, position: usize) -> usize {
        (self.head as usize + position) & (self.octets.len() - 1)
    }

    /// Stores `data` at `position`; [`Self::reserve`] has made the room.
    pub(super) fn store(&mut self, position: usize, data: &[u8]) {
        if data.is_empty() {
            return;
        }
        let start = self.index(position);
        let until_end = data.len().min(self.octets.len() - start);
        let (a, b) = data.split_at(until_end);
        self.octets[start..start + a.len()].copy_from_slice(a);
        self.octets[..b.len()].copy_from_slice(b);
    }

    /// The `len` octets at `position`, which are within what was reserved.
    pub(super) fn slices(&self, position: usize, len: usize) -> [&[u8]; 2] {
        if len == 0 {
            return [&[], &[]];
        }
        let start = self.index(position);
        let until_end = len.min(self.octets.len() - start);
        [
            &self.octets[start..start + until_end],
            &self.octets[..len - until_end],
        ]
    }

    /// Drops `octets` at the front: positions from now on are relative to what follows.
    pub(super) fn advance(&mut self, octets: usize) {
        if !self.octets.is_empty() {
            self.head = self.index(octets) as u32;
        }
    }
}
