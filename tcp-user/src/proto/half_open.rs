//! Handshakes that userspace keeps: SYN-RECEIVED, for SYNs that XDP hands up.
//!
//! The ISS is the cookie that XDP would have sent. So an entry that has to make room, or
//! that another server took over, costs its client no more than the repair: the ACK opens
//! the connection all the same. What an entry adds is what a cookie cannot do: the SYN-ACK
//! is sent again when the final ACK is lost (and with it every chance that a server which
//! speaks first is heard), and text that comes before that ACK is kept.
//!
//! Entries wait in one queue for each number of retransmissions, in order of expiry. What
//! was answered in the meantime is skipped.

use super::frame::LinkHeader;
use super::rtt::INITIAL_RTO;
use super::slab::Slab;
use super::{Config, Instant};
use std::collections::VecDeque;
use std::time::Duration;
use tcp_common::cookie::Negotiated;
use tcp_common::flow::FlowKey;
use tcp_common::seq::SeqNum;
use tcp_common::wire::Timestamps;

/// A SYN that comes again is answered again, but not sooner than this: sources may be forged.
const REPEAT: Duration = Duration::from_millis(500);

/// What the client has been told.
#[derive(Clone, Debug)]
pub(super) struct HalfOpen {
    pub(super) flow: FlowKey,
    pub(super) link: LinkHeader,
    /// The client's initial sequence number.
    pub(super) irs: SeqNum,
    /// Ours.
    pub(super) iss: SeqNum,
    pub(super) negotiated: Negotiated,
    /// `TSval` of the SYN-ACK, and of the SYN, if timestamps were negotiated.
    pub(super) timestamps: Option<(u32, u32)>,
    /// When the SYN came.
    pub(super) created: Instant,
    /// When the SYN-ACK was last sent.
    pub(super) sent: Instant,
    /// How often it was sent again.
    pub(super) retries: u8,
}

impl HalfOpen {
    /// Whether a SYN that came again gets its SYN-ACK again.
    pub(super) fn may_repeat(&self, now: Instant) -> bool {
        now - self.sent >= REPEAT
    }

    /// The option as we send it.
    pub(super) fn stamps(&self) -> Option<Timestamps> {
        self.timestamps.map(|(val, ecr)| Timestamps { val, ecr })
    }

    /// When the SYN-ACK is to be sent again: RFC 6298 §5.5, from the RTO of §2.1.
    fn expires(&self) -> Instant {
        self.sent + self.rto()
    }

    /// Retransmission timeout.
    pub(super) fn rto(&self) -> Duration {
        INITIAL_RTO * (1 << self.retries.min(Config::MAX_SYN_ACK_RETRIES))
    }
}

#[derive(Clone, Copy)]
struct Waiting {
    expires: Instant,
    index: u32,
    generation: u32,
}

/// All entries.
pub(super) struct HalfOpens {
    entries: Slab<HalfOpen>,
    /// By retransmissions so far.
    waiting: Vec<VecDeque<Waiting>>,
}

impl HalfOpens {
    /// Octets of an entry.
    pub(super) const ENTRY: usize = size_of::<HalfOpen>();

    pub(super) const fn new() -> Self {
        Self {
            entries: Slab::new(),
            waiting: Vec::new(),
        }
    }

    pub(super) const fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn get(&self, index: u32) -> Option<&HalfOpen> {
        self.entries.get(index)
    }

    pub(super) fn get_mut(&mut self, index: u32) -> Option<&mut HalfOpen> {
        self.entries.get_mut(index)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &HalfOpen> {
        self.entries.iter().map(|(_, entry)| entry)
    }

    pub(super) fn insert(&mut self, entry: HalfOpen) -> u32 {
        let (expires, retries) = (entry.expires(), entry.retries);
        let (index, generation) = self.entries.insert(entry);
        self.wait(retries, index, generation, expires);
        index
    }

    pub(super) fn remove(&mut self, index: u32) -> Option<HalfOpen> {
        self.entries.remove(index)
    }

    /// The SYN-ACK has gone out again.
    pub(super) fn retransmitted(&mut self, index: u32, now: Instant) {
        let Some(generation) = self.entries.generation(index) else {
            return;
        };
        if let Some(entry) = self.entries.get_mut(index) {
            entry.retries = entry.retries.saturating_add(1);
            entry.sent = now;
            let (expires, retries) = (entry.expires(), entry.retries);
            self.wait(retries, index, generation, expires);
        }
    }

    /// When the next entry expires.
    pub(super) fn deadline(&mut self) -> Option<Instant> {
        let Self { entries, waiting } = self;
        let heads = waiting.iter_mut().filter_map(|queue| head(entries, queue));
        heads.map(|first| first.expires).min()
    }

    /// Takes an entry that has expired off its queue.
    pub(super) fn expired(&mut self, now: Instant) -> Option<u32> {
        let Self { entries, waiting } = self;
        waiting.iter_mut().find_map(|queue| {
            let first = head(entries, queue).filter(|first| first.expires <= now)?;
            queue.pop_front();
            Some(first.index)
        })
    }

    /// The entry to go when there is no more room: of those that were answered with the most
    /// SYN-ACKs the oldest, as the least likely to be of a client.
    pub(super) fn surplus(&mut self) -> Option<u32> {
        let Self { entries, waiting } = self;
        let mut queues = waiting.iter_mut().rev();
        queues.find_map(|queue| head(entries, queue).map(|first| first.index))
    }

    /// Gives back the memory of entries that are gone.
    pub(super) fn shrink(&mut self) {
        self.entries.shrink();
        for queue in &mut self.waiting {
            let is_current = |w: &Waiting| self.entries.generation(w.index) == Some(w.generation);
            queue.retain(is_current);
            queue.shrink_to_fit();
        }
    }

    fn wait(&mut self, retries: u8, index: u32, generation: u32, expires: Instant) {
        let retries = usize::from(retries);
        if self.waiting.len() <= retries {
            self.waiting.resize_with(retries + 1, VecDeque::new);
        }
        if let Some(queue) = self.waiting.get_mut(retries) {
            queue.push_back(Waiting {
                expires,
                index,
                generation,
            });
        }
    }
}

/// The first of a queue that is still there.
fn head(entries: &Slab<HalfOpen>, queue: &mut VecDeque<Waiting>) -> Option<Waiting> {
    while let Some(first) = queue.front() {
        if entries.get(first.index).is_some()
            && entries.generation(first.index) == Some(first.generation)
        {
            return Some(*first);
        }
        queue.pop_front();
    }
    None
}
