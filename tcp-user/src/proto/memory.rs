//! The memory of all buffers of an endpoint: how much there may be, and freed pieces
//! that wait for their next use.

/// Pieces are powers of two, of this size at least.
const MIN_PIECE: usize = 512;
/// A buffer up to this size is always granted, so that every connection goes on when
/// the limit is reached: one that could neither send nor receive would never free
/// what it holds.
pub(super) const FLOOR: usize = 4096;
/// Larger pieces are given back to the allocator.
const MAX_KEPT: usize = 1 << 20;
/// Octets of freed pieces that are kept.
const KEPT: usize = 2 << 20;
const CLASSES: usize = (MAX_KEPT.ilog2() - MIN_PIECE.ilog2()) as usize + 1;

/// Grants and takes back the storage of [`super::ring::Ring`].
pub(super) struct Memory {
    limit: usize,
    used: usize,
    kept: usize,
    /// By size: a request and its answer find their pieces here.
    free: [Vec<Box<[u8]>>; CLASSES],
}

impl Memory {
    /// At most `limit` octets, but for what [`FLOOR`] grants.
    pub(super) const fn new(limit: usize) -> Self {
        Self {
            limit,
            used: 0,
            kept: 0,
            free: [const { Vec::new() }; CLASSES],
        }
    }

    fn class(size: usize) -> Option<usize> {
        ((MIN_PIECE..=MAX_KEPT).contains(&size) && size.is_power_of_two())
            .then(|| (size.ilog2() - MIN_PIECE.ilog2()) as usize)
    }

    /// Octets that buffers hold.
    pub(super) const fn used(&self) -> usize {
        self.used
    }

    /// Nearly all is used: windows stop growing.
    pub(super) const fn is_tight(&self) -> bool {
        self.used > self.limit / 4 * 3
    }

    /// A piece of at least `size` octets, of any content, for one of `instead` octets that comes back
    /// at once; `None` if the limit is reached.
    pub(super) fn take(&mut self, size: usize, instead: usize) -> Option<Box<[u8]>> {
        let size = size.max(MIN_PIECE).checked_next_power_of_two()?;
        let after = (self.used - instead.min(self.used)).checked_add(size)?;
        if size > FLOOR && after > self.limit {
            return None;
        }
        self.used += size;
        let kept = Self::class(size).and_then(|class| self.free[class].pop());
        if let Some(piece) = kept {
            self.kept -= size;
            return Some(piece);
        }
        Some(vec![0; size].into_boxed_slice())
    }

    /// Gives the pieces that wait for their next use to the allocator.
    pub(super) fn shrink(&mut self) {
        self.free = [const { Vec::new() }; CLASSES];
        self.kept = 0;
    }

    /// Takes a piece back.
    pub(super) fn give(&mut self, piece: Box<[u8]>) {
        let size = piece.len();
        self.used -= size.min(self.used);
        if let Some(class) = Self::class(size)
            && self.kept + size <= KEPT
        {
            self.kept += size;
            self.free[class].push(piece);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_freed_piece_is_used_again() {
        let mut memory = Memory::new(1 << 20);
        let piece = memory.take(600, 0).expect("plenty");
        assert_eq!((piece.len(), memory.used()), (1024, 1024));
        let address = piece.as_ptr();
        memory.give(piece);
        assert_eq!(memory.used(), 0);
        let again = memory.take(1024, 0).expect("plenty");
        assert_eq!(again.as_ptr(), address, "no allocation");
        memory.give(again);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut memory = Memory::new(usize::MAX);
        let pieces: Vec<_> = (0..100).filter_map(|_| memory.take(1 << 16, 0)).collect();
        assert_eq!(pieces.len(), 100);
        for piece in pieces {
            memory.give(piece);
        }
        assert_eq!((memory.used(), memory.kept), (0, KEPT));
        memory.shrink();
        assert_eq!(memory.kept, 0);
        assert!(memory.free.iter().all(|pieces| pieces.capacity() == 0));
    }

    #[test]
    fn only_the_floor_is_granted_beyond_the_limit() {
        let mut memory = Memory::new(16 << 10);
        let all = memory.take(16 << 10, 0).expect("all of it");
        assert!(memory.is_tight());
        assert!(memory.take(8192, 0).is_none());
        assert!(memory.take(usize::MAX, 0).is_none());
        let small = memory.take(FLOOR, 0).expect("the floor");
        assert!(memory.take(16 << 10, 16 << 10).is_none());
        memory.give(small);
        let other = memory
            .take(16 << 10, 16 << 10)
            .expect("in place of the first");
        memory.give(all);
        assert_eq!(memory.used(), 16 << 10);
        memory.give(other);
    }
}
