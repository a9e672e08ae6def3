//! Connections in TIME-WAIT, reduced to what is needed to answer for them.
//!
//! All entries live equally long, so a queue in order of expiry is all the timer
//! there is. An entry is at most 64 octets and its 4-tuple.

use super::Instant;
use super::slab::Slab;
use super::state::State;
use tcp_common::flow::FlowKey;
use tcp_common::seq::SeqNum;

const NONE: u32 = u32::MAX;

/// What is left of a connection.
#[derive(Clone, Debug)]
pub(super) struct TimeWait {
    pub(super) flow: FlowKey,
    /// SND.NXT, our FIN counted.
    pub(super) snd_nxt: SeqNum,
    /// RCV.NXT, the peer's FIN counted.
    pub(super) rcv_nxt: SeqNum,
    /// The timestamp clock's offset and TS.Recent, if negotiated.
    pub(super) timestamps: Option<(u32, u32)>,
    /// Window field of the last ACK, and the shift counts of ours and of theirs.
    pub(super) window: u16,
    pub(super) shifts: (u8, u8),
    /// The client's state as far as it is known.
    pub(super) client: State,
}

struct Entry {
    data: TimeWait,
    expires: Instant,
    older: u32,
    newer: u32,
}

const _: () = assert!(size_of::<Entry>() <= 64 + size_of::<FlowKey>());

/// The queue of TIME-WAIT entries, oldest first.
pub(super) struct TimeWaits {
    entries: Slab<Entry>,
    oldest: u32,
    newest: u32,
}

impl TimeWaits {
    /// Octets of an entry.
    pub(super) const ENTRY: usize = size_of::<Entry>();

    pub(super) const fn new() -> Self {
        Self {
            entries: Slab::new(),
            oldest: NONE,
            newest: NONE,
        }
    }

    pub(super) fn get(&self, index: u32) -> Option<&TimeWait> {
        self.entries.get(index).map(|e| &e.data)
    }

    pub(super) fn get_mut(&mut self, index: u32) -> Option<&mut TimeWait> {
        self.entries.get_mut(index).map(|e| &mut e.data)
    }

    /// Adds an entry. `expires` must not lie before that of an earlier one.
    pub(super) fn insert(&mut self, data: TimeWait, expires: Instant) -> u32 {
        let (index, _) = self.entries.insert(Entry {
            data,
            expires,
            older: NONE,
            newer: NONE,
        });
        self.link(index);
        index
    }

    /// Restarts the timeout (RFC 9293 §3.10.7.4, eighth, TIME-WAIT).
    pub(super) fn restart(&mut self, index: u32, expires: Instant) {
        self.unlink(index);
        if let Some(e) = self.entries.get_mut(index) {
            e.expires = expires;
        }
        self.link(index);
    }

    pub(super) fn remove(&mut self, index: u32) -> Option<TimeWait> {
        self.unlink(index);
        self.entries.remove(index).map(|e| e.data)
    }

    /// How many there are.
    pub(super) const fn len(&self) -> usize {
        self.entries.len()
    }

    /// Gives back the memory of entries that are gone.
    pub(super) fn shrink(&mut self) {
        self.entries.shrink();
    }

    /// When the oldest entry expires.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.entries.get(self.oldest).map(|e| e.expires)
    }

    /// The oldest entry's index if it has expired.
    pub(super) fn expired(&self, now: Instant) -> Option<u32> {
        self.deadline().filter(|d| *d <= now).map(|_| self.oldest)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &TimeWait> {
        self.entries.iter().map(|(_, e)| &e.data)
    }

    fn link(&mut self, index: u32) {
        let newest = self.newest;
        if let Some(e) = self.entries.get_mut(index) {
            e.older = newest;
            e.newer = NONE;
        }
        match self.entries.get_mut(newest) {
            Some(e) => e.newer = index,
            None => self.oldest = index,
        }
        self.newest = index;
    }

    fn unlink(&mut self, index: u32) {
        let Some((older, newer)) = self.entries.get(index).map(|e| (e.older, e.newer)) else {
            return;
        };
        match self.entries.get_mut(older) {
            Some(e) => e.newer = newer,
            None => self.oldest = newer,
        }
        match self.entries.get_mut(newer) {
            Some(e) => e.older = older,
            None => self.newest = older,
        }
    }
}
