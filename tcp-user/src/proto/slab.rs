//! Storage by index that grows without moving what it holds.
//!
//! A `Vec` that doubles copies every connection when it grows, a stall of seconds
//! at ten million; here a new chunk is added and nothing moves.

const CHUNK_BITS: u32 = 8;
const CHUNK: usize = 1 << CHUNK_BITS;
const NONE: u32 = u32::MAX;

enum Content<T> {
    /// Index of the next free slot.
    Free(u32),
    Used(T),
}

struct Slot<T> {
    /// Counts the values that this slot has held.
    generation: u32,
    content: Content<T>,
}

/// A slab of `T`.
pub(super) struct Slab<T> {
    chunks: Vec<Vec<Slot<T>>>,
    free: u32,
    len: usize,
}

impl<T> Slab<T> {
    pub(super) const fn new() -> Self {
        Self {
            chunks: Vec::new(),
            free: NONE,
            len: 0,
        }
    }

    #[cfg(test)]
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    fn slot(&self, index: u32) -> Option<&Slot<T>> {
        self.chunks
            .get((index >> CHUNK_BITS) as usize)?
            .get(index as usize % CHUNK)
    }

    fn slot_mut(&mut self, index: u32) -> Option<&mut Slot<T>> {
        self.chunks
            .get_mut((index >> CHUNK_BITS) as usize)?
            .get_mut(index as usize % CHUNK)
    }

    /// Stores `value`; returns its index and generation.
    pub(super) fn insert(&mut self, value: T) -> (u32, u32) {
        self.len += 1;
        let index = self.free;
        if let Some(slot) = self.slot_mut(index) {
            let Content::Free(next) = std::mem::replace(&mut slot.content, Content::Used(value))
            else {
                debug_assert!(false, "a used slot on the free list");
                return (index, slot.generation);
            };
            let generation = slot.generation;
            self.free = next;
            return (index, generation);
        }
        if self.chunks.last().is_none_or(|c| c.len() == CHUNK) {
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        let chunk = self.chunks.len() - 1;
        let slots = &mut self.chunks[chunk];
        slots.push(Slot {
            generation: 0,
            content: Content::Used(value),
        });
        ((chunk << CHUNK_BITS | (slots.len() - 1)) as u32, 0)
    }

    pub(super) fn get(&self, index: u32) -> Option<&T> {
        match &self.slot(index)?.content {
            Content::Used(value) => Some(value),
            Content::Free(_) => None,
        }
    }

    pub(super) fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        match &mut self.slot_mut(index)?.content {
            Content::Used(value) => Some(value),
            Content::Free(_) => None,
        }
    }

    /// The generation of the value at `index`.
    pub(super) fn generation(&self, index: u32) -> Option<u32> {
        self.slot(index).map(|s| s.generation)
    }

    pub(super) fn remove(&mut self, index: u32) -> Option<T> {
        let free = self.free;
        let slot = self.slot_mut(index)?;
        if matches!(slot.content, Content::Free(_)) {
            return None;
        }
        slot.generation = slot.generation.wrapping_add(1);
        let content = std::mem::replace(&mut slot.content, Content::Free(free));
        self.free = index;
        self.len -= 1;
        match content {
            Content::Used(value) => Some(value),
            Content::Free(_) => None,
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.chunks
            .iter()
            .flatten()
            .zip(0..)
            .filter_map(|(slot, index)| match &slot.content {
                Content::Used(value) => Some((index, value)),
                Content::Free(_) => None,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_reused_under_a_new_generation() {
        let mut slab = Slab::new();
        let ids: Vec<_> = (0..1000).map(|n| slab.insert(n)).collect();
        assert_eq!(slab.len(), 1000);
        assert!(
            ids.iter()
                .zip(0..)
                .all(|(id, n)| slab.get(id.0) == Some(&n))
        );
        assert_eq!(slab.remove(ids[300].0), Some(300));
        assert_eq!(slab.remove(ids[300].0), None);
        let (index, generation) = slab.insert(7);
        assert_eq!((index, generation), (ids[300].0, ids[300].1 + 1));
        assert_eq!(slab.iter().count(), 1000);
    }
}
