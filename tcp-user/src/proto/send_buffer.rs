//! Octets from SND.UNA on: sent and not acknowledged, then not yet sent.

use super::memory::Memory;
use super::ring::{MAX_CAPACITY, Ring};

/// Send buffer of one connection. It holds no memory while it is empty and grows in
/// powers of two as octets come.
#[derive(Clone, Debug)]
pub(crate) struct SendBuffer {
    ring: Ring,
    capacity: u32,
}

impl SendBuffer {
    /// An empty buffer of at most `capacity` octets.
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            ring: Ring::default(),
            capacity: capacity.min(MAX_CAPACITY) as u32,
        }
    }

    /// Appends of `data` what fits and returns how many octets that were: fewer than
    /// there is [`Self::room`] for where memory is short.
    pub(super) fn write(&mut self, data: &[u8], memory: &mut Memory) -> usize {
        let n = data.len().min(self.room());
        if n == 0 {
            return 0;
        }
        let room = self.ring.reserve(self.len() + n, self.len(), memory);
        let n = n.min(room - self.len());
        self.ring.store(self.len(), &data[..n]);
        self.ring.len += n as u32;
        n
    }

    /// Gives all memory back; the buffer is not used any more.
    pub(super) fn release(&mut self, memory: &mut Memory) {
        self.ring.release(memory);
        self.ring.len = 0;
    }

    /// Octets stored.
    pub(crate) fn len(&self) -> usize {
        self.ring.len as usize
    }

    /// Whether nothing is stored.
    pub(crate) fn is_empty(&self) -> bool {
        self.ring.len == 0
    }

    /// Octets that [`Self::write`] would take.
    pub(crate) fn room(&self) -> usize {
        self.capacity.saturating_sub(self.ring.len) as usize
    }

    /// Octets at most.
    pub(crate) fn capacity(&self) -> usize {
        self.capacity as usize
    }

    /// Changes the capacity; what is stored stays even if it is more.
    pub(crate) fn set_capacity(&mut self, capacity: usize) {
        self.capacity = capacity.min(MAX_CAPACITY) as u32;
    }

    /// Copies octets from SND.UNA + `offset` on into `out` and returns how many there were.
    pub(crate) fn copy_at(&self, offset: usize, out: &mut [u8]) -> usize {
        let [a, b] = self.slices_at(offset, out.len());
        out[..a.len()].copy_from_slice(a);
        out[a.len()..a.len() + b.len()].copy_from_slice(b);
        a.len() + b.len()
    }

    /// At most `len` octets from SND.UNA + `offset` on.
    pub(crate) fn slices_at(&self, offset: usize, len: usize) -> [&[u8]; 2] {
        let len = len.min(self.len().saturating_sub(offset));
        self.ring.slices(offset, len)
    }

    /// Drops `octets` acknowledged ones from the front.
    pub(super) fn ack(&mut self, octets: usize, memory: &mut Memory) {
        debug_assert!(octets <= self.len());
        let octets = octets.min(self.len());
        self.ring.len -= octets as u32;
        if self.ring.len == 0 {
            self.ring.release(memory);
        } else {
            self.ring.advance(octets);
        }
    }
}

#[cfg(test)]
mod tests;
