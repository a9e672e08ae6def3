//! Storage by index that grows without moving what it holds, and gives memory back.
//!
//! A `Vec` that doubles copies every connection when it grows, a stall of seconds
//! at ten million; here a new chunk is added and nothing moves. The free slot with the
//! lowest index is used first, or one near it, so that chunks at the end become empty; all
//! empty chunks but one go back to the allocator at once.

const CHUNK_BITS: u32 = 8;
const CHUNK: usize = 1 << CHUNK_BITS;
const NONE: u32 = u32::MAX;

enum Content<T> {
    /// Place of the next free slot of the chunk.
    Free(u32),
    Used(T),
}

struct Slot<T> {
    /// Counts the values that this slot has held.
    generation: u32,
    content: Content<T>,
}

struct Chunk<T> {
    /// None in a chunk that was given back.
    slots: Vec<Slot<T>>,
    /// Place of the first free slot among them.
    free: u32,
    used: u32,
}

impl<T> Chunk<T> {
    const fn new() -> Self {
        Self {
            slots: Vec::new(),
            free: NONE,
            used: 0,
        }
    }

    const fn is_full(&self) -> bool {
        self.used as usize == CHUNK
    }
}

/// A slab of `T`.
pub(super) struct Slab<T> {
    chunks: Vec<Chunk<T>>,
    /// A bit for each chunk that is not full, and below which word there is none.
    open: Vec<u64>,
    first_open: usize,
    /// Chunks that have memory and hold nothing.
    spare: u32,
    /// Generation of new slots: no smaller than that of a slot that was given back.
    base: u32,
    len: usize,
}

impl<T> Slab<T> {
    pub(super) const fn new() -> Self {
        Self {
            chunks: Vec::new(),
            open: Vec::new(),
            first_open: 0,
            spare: 0,
            base: 0,
            len: 0,
        }
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// An index that no value has, nor one above.
    pub(super) fn end(&self) -> u32 {
        (self.chunks.len() << CHUNK_BITS) as u32
    }

    fn slot(&self, index: u32) -> Option<&Slot<T>> {
        self.chunks
            .get((index >> CHUNK_BITS) as usize)?
            .slots
            .get(index as usize % CHUNK)
    }

    fn slot_mut(&mut self, index: u32) -> Option<&mut Slot<T>> {
        self.chunks
            .get_mut((index >> CHUNK_BITS) as usize)?
            .slots
            .get_mut(index as usize % CHUNK)
    }

    /// The chunk for the next value.
    fn open_chunk(&mut self) -> usize {
        while let Some(word) = self.open.get(self.first_open) {
            if *word != 0 {
                return self.first_open * 64 + word.trailing_zeros() as usize;
            }
            self.first_open += 1;
        }
        let chunk = self.chunks.len();
        self.chunks.push(Chunk::new());
        self.set_open(chunk, true);
        chunk
    }

    fn set_open(&mut self, chunk: usize, open: bool) {
        let word = chunk / 64;
        if word >= self.open.len() {
            self.open.resize(word + 1, 0);
        }
        let bit = 1 << (chunk % 64);
        if open {
            self.open[word] |= bit;
            self.first_open = self.first_open.min(word);
        } else {
            self.open[word] &= !bit;
        }
    }

    /// Stores `value`; returns its index and generation.
    pub(super) fn insert(&mut self, value: T) -> (u32, u32) {
        self.len += 1;
        let number = self.open_chunk();
        let base = self.base;
        let chunk = &mut self.chunks[number];
        if chunk.used == 0 {
            if chunk.slots.capacity() == 0 {
                chunk.slots.reserve_exact(CHUNK);
            } else {
                self.spare -= 1;
            }
        }
        chunk.used += 1;
        let mut place = chunk.free;
        let generation = if let Some(slot) = chunk.slots.get_mut(place as usize) {
            match std::mem::replace(&mut slot.content, Content::Used(value)) {
                Content::Free(next) => chunk.free = next,
                Content::Used(_) => debug_assert!(false, "a used slot on the free list"),
            }
            slot.generation
        } else {
            place = chunk.slots.len() as u32;
            chunk.slots.push(Slot {
                generation: base,
                content: Content::Used(value),
            });
            base
        };
        if chunk.is_full() {
            self.set_open(number, false);
        }
        ((number << CHUNK_BITS) as u32 | place, generation)
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
        let number = (index >> CHUNK_BITS) as usize;
        let chunk = self.chunks.get_mut(number)?;
        let place = index as usize % CHUNK;
        let slot = chunk.slots.get_mut(place)?;
        if matches!(slot.content, Content::Free(_)) {
            return None;
        }
        slot.generation = slot.generation.wrapping_add(1);
        let content = std::mem::replace(&mut slot.content, Content::Free(chunk.free));
        chunk.free = place as u32;
        chunk.used -= 1;
        let empty = chunk.used == 0;
        self.len -= 1;
        self.set_open(number, true);
        if empty {
            self.spare += 1;
            if self.spare > 1 {
                self.give_back(number);
            }
        }
        match content {
            Content::Used(value) => Some(value),
            Content::Free(_) => None,
        }
    }

    /// Gives the memory of an empty chunk back. What comes in its place is told from what was
    /// there by a later generation.
    fn give_back(&mut self, number: usize) {
        self.spare -= 1;
        let chunk = std::mem::replace(&mut self.chunks[number], Chunk::new());
        for slot in &chunk.slots {
            self.base = self.base.max(slot.generation);
        }
        while self.chunks.last().is_some_and(|c| c.slots.capacity() == 0) {
            self.chunks.pop();
            self.set_open(self.chunks.len(), false);
        }
    }

    /// Gives back all memory that is not in use.
    pub(super) fn shrink(&mut self) {
        for number in (0..self.chunks.len()).rev() {
            if self.chunks.get(number).is_some_and(|c| c.used == 0)
                && self.chunks[number].slots.capacity() > 0
            {
                self.give_back(number);
            }
        }
        self.chunks.shrink_to_fit();
        self.open.truncate(self.chunks.len().div_ceil(64));
        self.open.shrink_to_fit();
        self.first_open = 0;
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.chunks.iter().zip(0..).flat_map(|(chunk, number)| {
            chunk
                .slots
                .iter()
                .zip(number << CHUNK_BITS..)
                .filter_map(|(slot, index)| match &slot.content {
                    Content::Used(value) => Some((index, value)),
                    Content::Free(_) => None,
                })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{HashMap, HashSet};

    /// Chunks that have memory.
    fn chunks<T>(slab: &Slab<T>) -> usize {
        let with = |c: &&Chunk<T>| c.slots.capacity() > 0;
        slab.chunks.iter().filter(with).count()
    }

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

    #[test]
    fn empty_chunks_are_given_back() {
        let mut slab = Slab::new();
        let ids: Vec<_> = (0..100 * CHUNK).map(|n| slab.insert(n).0).collect();
        assert_eq!(chunks(&slab), 100);
        // All but one value in the middle, which stays where it is.
        for id in ids.iter().filter(|id| **id != ids[40 * CHUNK + 7]) {
            slab.remove(*id);
        }
        assert_eq!(slab.len(), 1);
        assert!(chunks(&slab) <= 2);
        assert_eq!(slab.get(ids[40 * CHUNK + 7]), Some(&(40 * CHUNK + 7)));
        slab.shrink();
        assert_eq!((chunks(&slab), slab.end()), (1, 41 * CHUNK as u32));
        // New values find room at the front.
        assert_eq!(slab.insert(1).0, 0);
        slab.remove(0);
        slab.remove(ids[40 * CHUNK + 7]);
        slab.shrink();
        assert_eq!((chunks(&slab), slab.end()), (0, 0));
        assert_eq!(slab.insert(1).0, 0);
    }

    proptest! {
        /// Against a map, with chunks that come and go: a value is where it was put, and an
        /// index is never used twice under the same generation.
        #[test]
        fn values_are_found_and_ids_are_never_used_twice(
            rounds in prop::collection::vec((0usize..1500, 0u8..=10, any::<bool>()), 1..12)
        ) {
            let mut slab = Slab::new();
            let mut here: HashMap<u32, (u32, usize)> = HashMap::new();
            let mut ids = HashSet::new();
            let mut next = 0;
            for (insert, leave, shrink) in rounds {
                for _ in 0..insert {
                    let (index, generation) = slab.insert(next);
                    prop_assert!(ids.insert((index, generation)), "an id twice");
                    prop_assert!(here.insert(index, (generation, next)).is_none());
                    next += 1;
                }
                let gone: Vec<u32> = here.keys().copied()
                    .filter(|i| i.wrapping_mul(0x9e37_79b9) % 10 >= u32::from(leave))
                    .collect();
                for index in gone {
                    let (_, value) = here.remove(&index).expect("is here");
                    prop_assert_eq!(slab.remove(index), Some(value));
                }
                if shrink {
                    slab.shrink();
                }
                prop_assert_eq!(slab.len(), here.len());
                for (index, (generation, value)) in &here {
                    prop_assert_eq!(slab.get(*index), Some(value));
                    prop_assert_eq!(slab.generation(*index), Some(*generation));
                }
                let listed: HashMap<u32, usize> = slab.iter().map(|(i, v)| (i, *v)).collect();
                prop_assert_eq!(listed.len(), here.len());
                // Not more memory than what is used and one chunk.
                let used: HashSet<u32> = here.keys().map(|i| i >> CHUNK_BITS).collect();
                prop_assert!(chunks(&slab) <= used.len() + 1);
            }
        }
    }
}
