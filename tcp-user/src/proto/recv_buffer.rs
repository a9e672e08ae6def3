//! Received octets: those in order, for the application, and behind them those that
//! arrived out of order. Which of the latter are there is
//! [`super::assembler::Assembler`]'s to know.

use super::memory::Memory;
use super::ring::{MAX_CAPACITY, Ring};

/// Receive buffer of one connection. It holds no memory while it is empty and grows in
/// powers of two as octets come.
#[derive(Clone, Debug)]
pub(crate) struct RecvBuffer {
    ring: Ring,
    /// Octets from the front to the last one stored, holes included; at least `len`.
    high: u32,
    capacity: u32,
}

impl RecvBuffer {
    /// An empty buffer of at most `capacity` octets.
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            ring: Ring::default(),
            high: 0,
            capacity: capacity.min(MAX_CAPACITY) as u32,
        }
    }

    /// Makes room for `octets` at `offset` octets beyond the end of what is in order (so 0
    /// is RCV.NXT) and returns how many of them fit: fewer where memory is short.
    pub(super) fn reserve_at(
        &mut self,
        offset: usize,
        octets: usize,
        memory: &mut Memory,
    ) -> usize {
        let start = self.len().saturating_add(offset);
        let fits = octets.min(self.capacity().saturating_sub(start));
        if fits == 0 {
            return 0;
        }
        let room = self.ring.reserve(start + fits, self.high as usize, memory);
        fits.min(room.saturating_sub(start))
    }

    /// Stores `data` there and returns how many octets fit.
    pub(super) fn write_at(&mut self, offset: usize, data: &[u8], memory: &mut Memory) -> usize {
        let fits = self.reserve_at(offset, data.len(), memory);
        if fits == 0 {
            return 0;
        }
        let start = self.len() + offset;
        self.ring.store(start, &data[..fits]);
        self.high = self.high.max((start + fits) as u32);
        fits
    }

    /// The next `octets` beyond the end are complete: they become readable. They were
    /// stored before.
    pub(crate) fn commit(&mut self, octets: usize) {
        debug_assert!(octets <= (self.high - self.ring.len) as usize);
        self.ring.len += octets.min((self.high - self.ring.len) as usize) as u32;
    }

    /// All that is readable, in order.
    pub(crate) fn readable(&self) -> [&[u8]; 2] {
        self.ring.slices(0, self.len())
    }

    /// Readable octets.
    pub(crate) fn len(&self) -> usize {
        self.ring.len as usize
    }

    /// Whether nothing is readable.
    pub(crate) fn is_empty(&self) -> bool {
        self.ring.len == 0
    }

    /// Drops the first `octets` readable ones.
    pub(super) fn consume(&mut self, octets: usize, memory: &mut Memory) {
        debug_assert!(octets <= self.len());
        let octets = octets.min(self.len());
        self.ring.len -= octets as u32;
        self.high -= octets as u32;
        if self.high == 0 {
            self.ring.release(memory);
        } else {
            self.ring.advance(octets);
        }
    }

    /// Copies readable octets into `buf`, drops them and returns how many.
    pub(super) fn read(&mut self, buf: &mut [u8], memory: &mut Memory) -> usize {
        let n = buf.len().min(self.len());
        let [a, b] = self.ring.slices(0, n);
        buf[..a.len()].copy_from_slice(a);
        buf[a.len()..n].copy_from_slice(b);
        self.consume(n, memory);
        n
    }

    /// Gives all memory back; the buffer is not used any more.
    pub(super) fn release(&mut self, memory: &mut Memory) {
        self.ring.release(memory);
        (self.ring.len, self.high) = (0, 0);
    }

    /// Room beyond what is in order: the most that RCV.WND can be.
    pub(crate) fn window(&self) -> usize {
        (self.capacity - self.ring.len) as usize
    }

    /// Octets at most, out-of-order ones included.
    pub(crate) fn capacity(&self) -> usize {
        self.capacity as usize
    }

    /// Changes the capacity, though not below what is stored. The caller keeps the
    /// right edge of the window that it has announced.
    pub(crate) fn set_capacity(&mut self, capacity: usize) {
        self.capacity = (capacity.min(MAX_CAPACITY) as u32).max(self.high);
    }
}

#[cfg(test)]
mod tests;
