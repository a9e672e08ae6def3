//! From a 4-tuple to what stands behind it.
//!
//! The table holds neither keys nor connections, 8 octets an entry: a hash of the
//! 4-tuple and an index. The hash is SipHash-1-3 under a key of this endpoint's own,
//! so that a peer cannot choose ports that collide; it is stored, so that growing
//! the table touches no connection.

use hashbrown::HashTable;
use siphasher::sip::SipHasher13;
use std::hash::Hasher;
use tcp_common::flow::FlowKey;

const TIME_WAIT: u32 = 1 << 31;
const HALF_OPEN: u32 = 1 << 30;

/// What a 4-tuple has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// A connection, by its index in the slab.
    Connection(u32),
    /// A TIME-WAIT entry, by its index in the queue.
    TimeWait(u32),
    /// A handshake under way, by its index there.
    HalfOpen(u32),
}

impl Place {
    const fn pack(self) -> u32 {
        match self {
            Self::Connection(i) => i,
            Self::TimeWait(i) => i | TIME_WAIT,
            Self::HalfOpen(i) => i | HALF_OPEN,
        }
    }

    const fn unpack(bits: u32) -> Self {
        if bits & (TIME_WAIT | HALF_OPEN) == 0 {
            Self::Connection(bits)
        } else if bits & TIME_WAIT != 0 {
            Self::TimeWait(bits & !TIME_WAIT)
        } else {
            Self::HalfOpen(bits & !HALF_OPEN)
        }
    }
}

#[derive(Clone, Copy)]
struct Entry {
    hash: u32,
    place: u32,
}

impl Entry {
    /// `hashbrown` takes its bucket from the low and its tag from the high bits.
    const fn spread(hash: u32) -> u64 {
        hash as u64 | (hash as u64) << 32
    }
}

/// 4-tuple → [`Place`].
pub(super) struct Table {
    key: (u64, u64),
    entries: HashTable<Entry>,
}

impl Table {
    pub(super) const fn new(key: (u64, u64)) -> Self {
        Self {
            key,
            entries: HashTable::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn hash(&self, flow: &FlowKey) -> u32 {
        let mut h = SipHasher13::new_with_keys(self.key.0, self.key.1);
        let (r, l) = (&flow.remote.0, &flow.local.0);
        let join = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        h.write_u64(join(r[3], l[3]));
        if !flow.is_v4() {
            h.write_u64(join(r[0], r[1]));
            h.write_u64(join(r[2], l[0]));
            h.write_u64(join(l[1], l[2]));
        }
        h.write_u64(join(
            u32::from(flow.remote_port_be),
            u32::from(flow.local_port_be),
        ));
        h.finish() as u32
    }

    /// The entry with `hash` for which `is` holds.
    pub(super) fn find(&self, hash: u32, is: impl Fn(Place) -> bool) -> Option<Place> {
        self.entries
            .find(Entry::spread(hash), |e| {
                e.hash == hash && is(Place::unpack(e.place))
            })
            .map(|e| Place::unpack(e.place))
    }

    pub(super) fn insert(&mut self, hash: u32, place: Place) {
        let entry = Entry {
            hash,
            place: place.pack(),
        };
        self.entries
            .insert_unique(Entry::spread(hash), entry, |e| Entry::spread(e.hash));
    }

    /// Gives back the memory of entries that are gone.
    pub(super) fn shrink(&mut self) {
        self.entries.shrink_to_fit(|e| Entry::spread(e.hash));
    }

    /// Lets the entry of `old` point to `new`.
    pub(super) fn replace(&mut self, hash: u32, old: Place, new: Place) {
        let (old, new) = (old.pack(), new.pack());
        if let Some(e) = self
            .entries
            .find_mut(Entry::spread(hash), |e| e.hash == hash && e.place == old)
        {
            e.place = new;
        }
    }

    pub(super) fn remove(&mut self, hash: u32, place: Place) {
        let place = place.pack();
        if let Ok(entry) = self
            .entries
            .find_entry(Entry::spread(hash), |e| e.hash == hash && e.place == place)
        {
            entry.remove();
        }
    }
}
