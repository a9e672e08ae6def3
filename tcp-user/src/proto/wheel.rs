//! One timer per connection in a hierarchical wheel (Varghese and Lauck, 1987).
//!
//! Eight levels of 64 slots; a tick is 1 ms, so that the eight levels hold every
//! `Instant` there is. A timer lies at the level of the highest base-64 digit in
//! which its tick differs from the wheel's, and moves down as that tick comes near.
//! Scheduling, cancelling and finding the next deadline take constant time.
//!
//! A timer that is moved to a later time stays where it is and is put right when its
//! old slot comes up: the retransmission timer moves with every ACK and mostly
//! never fires.

use super::Instant;

/// Nanoseconds per tick.
const TICK: u64 = 1_000_000;
const BITS: u32 = 6;
const SLOTS: usize = 1 << BITS;
const LEVELS: usize = 8;
const NIL: u32 = u32::MAX;
/// Slot of a key that has no timer.
const IDLE: u16 = u16::MAX;

/// A key's timer and its place in the list of its slot. 16 octets.
#[derive(Clone, Copy, Debug)]
struct Node {
    /// Tick at which it is due, 48 bits; the upper 16 bits hold the slot.
    packed: u64,
    next: u32,
    prev: u32,
}

impl Node {
    const EMPTY: Self = Self {
        packed: (IDLE as u64) << 48,
        next: NIL,
        prev: NIL,
    };

    const fn tick(self) -> u64 {
        self.packed & ((1 << 48) - 1)
    }

    const fn slot(self) -> u16 {
        (self.packed >> 48) as u16
    }

    const fn is_idle(self) -> bool {
        self.slot() == IDLE
    }
}

/// Timers of all connections of a worker, by connection index. Memory grows with the highest
/// index used and by nothing else.
#[derive(Clone, Debug)]
pub(crate) struct Wheel {
    /// All timers that were due at this tick or before are out.
    tick: u64,
    nodes: Vec<Node>,
    /// First key of each slot's list.
    heads: Box<[u32; LEVELS * SLOTS]>,
    /// Which slots of a level are not empty.
    occupied: [u64; LEVELS],
}

impl Wheel {
    /// A wheel without timers.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            tick: now.0 / TICK,
            nodes: Vec::new(),
            heads: Box::new([NIL; LEVELS * SLOTS]),
            occupied: [0; LEVELS],
        }
    }

    /// Sets the timer of `key`, which replaces the one it had. A time that has passed is due
    /// at once.
    pub(crate) fn schedule(&mut self, key: u32, at: Instant) {
        debug_assert!(key != NIL);
        let index = key as usize;
        if index >= self.nodes.len() {
            self.nodes.resize(index + 1, Node::EMPTY);
        }
        let tick = at.0.div_ceil(TICK).max(self.tick);
        let node = &mut self.nodes[index];
        if !node.is_idle() {
            if tick >= node.tick() {
                node.packed = u64::from(node.slot()) << 48 | tick;
                return;
            }
            self.unlink(key);
        }
        self.link(key, tick);
    }

    /// Takes the timer of `key` out, if it has one.
    pub(crate) fn cancel(&mut self, key: u32) {
        let node = self.nodes.get(key as usize);
        if node.is_some_and(|n| !n.is_idle()) {
            self.unlink(key);
        }
    }

    /// Gives back the memory of keys from `end` on, which have no timers.
    pub(crate) fn shrink(&mut self, end: u32) {
        debug_assert!(self.nodes.iter().skip(end as usize).all(|n| n.is_idle()));
        self.nodes.truncate(end as usize);
        self.nodes.shrink_to_fit();
    }

    /// When [`Self::expire`] wants to be called next; `None` without timers. It may find
    /// nothing due then, but nothing is due before. After an `expire(now)` it is later
    /// than `now`, unless something was scheduled for an earlier time since.
    pub(crate) fn next_deadline(&mut self) -> Option<Instant> {
        let (_, tick) = self.next_slot()?;
        Some(Instant(tick.saturating_mul(TICK)))
    }

    /// Appends to `out` the keys whose time has come. Their timers are gone then.
    pub(crate) fn expire(&mut self, now: Instant, out: &mut Vec<u32>) {
        let until = (now.0 / TICK).max(self.tick);
        while let Some((slot, tick)) = self.next_slot() {
            if tick > until {
                break;
            }
            self.tick = tick;
            let mut key = std::mem::replace(&mut self.heads[slot], NIL);
            self.occupied[slot / SLOTS] &= !(1 << (slot % SLOTS));
            while key != NIL {
                let node = std::mem::replace(&mut self.nodes[key as usize], Node::EMPTY);
                if node.tick() <= until {
                    out.push(key);
                } else {
                    self.link(key, node.tick());
                }
                key = node.next;
            }
        }
        self.tick = until;
    }

    /// The earliest slot that is not empty and the tick at which it begins. In each
    /// level only slots from the wheel's own on are occupied, and a lower
    /// level comes before a higher one.
    fn next_slot(&self) -> Option<(usize, u64)> {
        let level = self.occupied.iter().position(|slots| *slots != 0)?;
        let slot = self.occupied[level].trailing_zeros() as usize;
        let shift = BITS * level as u32;
        let above = self.tick >> (shift + BITS) << (shift + BITS);
        let tick = above | (slot as u64) << shift;
        // Level 0 may hold what was due already.
        Some((level * SLOTS + slot, tick.max(self.tick)))
    }

    fn link(&mut self, key: u32, tick: u64) {
        let level = ((tick ^ self.tick) | 1).ilog2() / BITS;
        let level = level as usize;
        let slot = (tick >> (BITS * level as u32)) as usize % SLOTS;
        let place = level * SLOTS + slot;
        let next = std::mem::replace(&mut self.heads[place], key);
        if next != NIL {
            self.nodes[next as usize].prev = key;
        }
        self.occupied[level] |= 1 << slot;
        self.nodes[key as usize] = Node {
            packed: (place as u64) << 48 | tick,
            next,
            prev: NIL,
        };
    }

    fn unlink(&mut self, key: u32) {
        let node = std::mem::replace(&mut self.nodes[key as usize], Node::EMPTY);
        if node.next != NIL {
            self.nodes[node.next as usize].prev = node.prev;
        }
        if node.prev == NIL {
            let place = usize::from(node.slot());
            self.heads[place] = node.next;
            if node.next == NIL {
                self.occupied[place / SLOTS] &= !(1 << (place % SLOTS));
            }
        } else {
            self.nodes[node.prev as usize].next = node.next;
        }
    }
}

#[cfg(test)]
mod tests;
