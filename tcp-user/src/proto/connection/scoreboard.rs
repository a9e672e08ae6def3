//! What was sent and not acknowledged, and what is known of it: the scoreboard of
//! RFC 6675 §3 with the transmission times of RFC 8985 §5.2.
//!
//! Octets in the same condition stand in one range: what a batch sent, what a SACK block
//! covers. So the board is short where little goes wrong, and an ACK in order costs the same
//! whatever is in flight.

use crate::proto::Instant;
use std::collections::VecDeque;
use tcp_common::seq::SeqNum;

/// Ranges at most. A block that would make more is left unheeded, which costs a
/// retransmission: SACK is advice. It bounds memory and time where a peer acknowledges every
/// second of thousands of tiny segments.
const MAX_RANGES: usize = 4096;

/// Octets `[start, end)` in one condition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Range {
    pub(super) start: SeqNum,
    pub(super) end: SeqNum,
    /// When it was sent, the last time.
    pub(super) sent_at: Instant,
    /// The receiver has it, if it does not renege.
    pub(super) sacked: bool,
    /// The network has lost it and it was not sent again since.
    pub(super) lost: bool,
    /// It was sent more than once.
    pub(super) again: bool,
}

impl Range {
    pub(super) const fn len(&self) -> u32 {
        self.end.distance_from(self.start)
    }

    const fn in_flight(&self) -> bool {
        !self.sacked && !self.lost
    }

    fn same_condition(&self, other: &Self) -> bool {
        self.sacked == other.sacked
            && self.lost == other.lost
            && (self.sacked
                || self.lost
                || (self.sent_at == other.sent_at && self.again == other.again))
    }

    /// Takes over what follows; both are in the same condition.
    fn join(&mut self, next: &Self) {
        self.end = next.end;
        self.again |= next.again;
        self.sent_at = self.sent_at.max(next.sent_at);
    }
}

/// What [`Scoreboard::mark_lost`] is told about a range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    Lost,
    InFlight,
    /// In flight, and so is everything that was sent once and lies behind it.
    RestInFlight,
}

/// SND.UNA to SND.NXT, without a gap.
#[derive(Clone, Debug)]
pub(super) struct Scoreboard {
    ranges: VecDeque<Range>,
    una: SeqNum,
    nxt: SeqNum,
    /// Octets by condition.
    sacked: u32,
    lost: u32,
    /// Octets in flight that were sent more than once.
    again: u32,
    /// Nothing in front of it is lost.
    lost_from: SeqNum,
}

impl Scoreboard {
    pub(super) const fn new(una: SeqNum) -> Self {
        Self {
            ranges: VecDeque::new(),
            una,
            nxt: una,
            sacked: 0,
            lost: 0,
            again: 0,
            lost_from: una,
        }
    }

    pub(super) const fn nxt(&self) -> SeqNum {
        self.nxt
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.nxt.0 == self.una.0
    }

    /// Octets between SND.UNA and SND.NXT that the receiver has.
    pub(super) const fn sacked(&self) -> u32 {
        self.sacked
    }

    /// Octets that are lost and not sent again.
    pub(super) const fn lost(&self) -> u32 {
        self.lost
    }

    /// Octets in the network that were sent more than once.
    pub(super) const fn again(&self) -> u32 {
        self.again
    }

    /// Octets in the network, as far as known: `SetPipe` of RFC 6675 §4. What was sent
    /// again before it was lost counts once.
    pub(super) const fn pipe(&self) -> u32 {
        self.nxt.distance_from(self.una) - self.sacked - self.lost
    }

    /// The first that is not acknowledged.
    pub(super) fn first(&self) -> Option<&Range> {
        self.ranges.front()
    }

    /// What was sent last.
    pub(super) fn last(&self) -> Option<&Range> {
        self.ranges.back()
    }

    /// The receiver has the octet at SND.UNA, yet did not acknowledge it: it has reneged
    /// (RFC 2018 §8).
    pub(super) fn is_reneged(&self) -> bool {
        self.ranges.front().is_some_and(|r| r.sacked)
    }

    /// New octets up to `end` were sent.
    pub(super) fn push(&mut self, end: SeqNum, now: Instant) {
        let new = Range {
            start: self.nxt,
            end,
            sent_at: now,
            sacked: false,
            lost: false,
            again: false,
        };
        self.nxt = end;
        let full = self.ranges.len() >= MAX_RANGES;
        match self.ranges.back_mut() {
            Some(last) if last.same_condition(&new) || (full && last.in_flight()) => {
                if last.again {
                    self.again += new.len();
                }
                last.join(&new);
            }
            _ => self.ranges.push_back(new),
        }
    }

    /// Everything before `ack` is acknowledged. `delivered` gets each range of it that was
    /// not sacked before.
    pub(super) fn acknowledge(&mut self, ack: SeqNum, mut delivered: impl FnMut(&Range)) {
        while let Some(&first) = self.ranges.front() {
            if !first.start.before(ack) {
                break;
            }
            let mut part = first;
            if first.end.after(ack) {
                part.end = ack;
                self.ranges[0].start = ack;
            } else {
                self.ranges.pop_front();
            }
            self.uncount(&part);
            if !part.sacked {
                delivered(&part);
            }
        }
        self.una = self.una.max(ack);
        self.nxt = self.nxt.max(ack);
        self.lost_from = self.lost_from.max(ack);
    }

    /// The receiver has `[left, right)`. `delivered` gets each range that is news.
    pub(super) fn sack(&mut self, left: SeqNum, right: SeqNum, mut delivered: impl FnMut(&Range)) {
        let (left, right) = (left.max(self.una), right.min(self.nxt));
        if !left.before(right) {
            return;
        }
        let mut at = self.find(left);
        while let Some(&r) = self.ranges.get(at) {
            if !r.start.before(right) {
                break;
            }
            if r.sacked {
                at += 1;
                continue;
            }
            let pieces = usize::from(r.start.before(left)) + usize::from(r.end.after(right));
            if self.ranges.len() + pieces > MAX_RANGES {
                at += 1;
                continue;
            }
            if r.start.before(left) {
                self.split(at, left);
                at += 1;
            }
            if r.end.after(right) {
                self.split(at, right);
            }
            let part = self.ranges[at];
            self.uncount(&part);
            self.sacked += part.len();
            delivered(&part);
            self.ranges[at].sacked = true;
            self.ranges[at].lost = false;
            at = self.merge(at) + 1;
        }
    }

    /// Asks about each range in flight whether it is lost; returns how many octets are.
    pub(super) fn mark_lost(&mut self, mut judge: impl FnMut(&Range) -> Verdict) -> u32 {
        let before = self.lost;
        let mut at = 0;
        while let Some(&r) = self.ranges.get(at) {
            if r.in_flight() {
                match judge(&r) {
                    Verdict::Lost => at = self.lose(at),
                    Verdict::RestInFlight if self.again == 0 => break,
                    Verdict::InFlight | Verdict::RestInFlight => {}
                }
            }
            at += 1;
        }
        self.lost - before
    }

    /// The first `octets` are lost, as far as they are in flight.
    pub(super) fn mark_head_lost(&mut self, octets: u32) {
        let Some(&first) = self.ranges.front() else {
            return;
        };
        if !first.in_flight() {
            return;
        }
        if first.len() > octets {
            self.split(0, first.start + octets);
        }
        self.lose(0);
    }

    /// The first range to be sent again: `NextSeg` rule 1 of RFC 6675 §4, with losses
    /// as RFC 8985 finds them.
    pub(super) fn next_lost(&self) -> Option<(SeqNum, SeqNum)> {
        if self.lost == 0 {
            return None;
        }
        let from = self.find(self.lost_from);
        let lost = self.ranges.range(from..).find(|r| r.lost)?;
        Some((lost.start, lost.end))
    }

    /// `[start, end)` is sent again. It lies in one range.
    pub(super) fn retransmit(&mut self, start: SeqNum, end: SeqNum, now: Instant) {
        let (start, end) = (start.max(self.una), end.min(self.nxt));
        if !start.before(end) {
            return;
        }
        let mut at = self.find(start);
        let Some(&r) = self.ranges.get(at) else {
            return;
        };
        if r.sacked || r.end.before(end) {
            return;
        }
        if r.lost && r.start == start && at > 0 && self.ranges.len() >= MAX_RANGES {
            // No room to split: the range before takes the octets over.
            let before = self.ranges[at - 1];
            if before.in_flight() && before.again && end.before(r.end) {
                self.lost -= end.distance_from(start);
                self.again += end.distance_from(start);
                self.ranges[at - 1].end = end;
                self.ranges[at - 1].sent_at = now;
                self.ranges[at].start = end;
                self.lost_from = end;
                return;
            }
        }
        if r.start.before(start) {
            self.split(at, start);
            at += 1;
        }
        if r.end.after(end) {
            self.split(at, end);
        }
        let part = self.ranges[at];
        self.uncount(&part);
        self.again += part.len();
        if part.lost && !self.lost_from.before(part.start) {
            self.lost_from = part.end;
        }
        self.ranges[at].lost = false;
        self.ranges[at].again = true;
        self.ranges[at].sent_at = now;
        self.merge(at);
    }

    /// Forgets every SACK block: the receiver may renege (RFC 2018 §8).
    pub(super) fn forget_sacks(&mut self) {
        for r in &mut self.ranges {
            if r.sacked {
                r.sacked = false;
                if r.again {
                    self.again += r.len();
                }
            }
        }
        self.sacked = 0;
    }

    /// Nothing was lost after all.
    pub(super) fn forget_losses(&mut self) {
        for r in &mut self.ranges {
            if r.lost {
                r.lost = false;
                if r.again {
                    self.again += r.len();
                }
            }
        }
        self.lost = 0;
        self.lost_from = self.nxt;
    }

    /// Index of the range that holds `seq`.
    fn find(&self, seq: SeqNum) -> usize {
        self.ranges.partition_point(|r| r.end.before_eq(seq))
    }

    fn split(&mut self, at: usize, seq: SeqNum) {
        let mut rest = self.ranges[at];
        rest.start = seq;
        self.ranges[at].end = seq;
        self.ranges.insert(at + 1, rest);
    }

    /// Joins a range with its neighbours if they are in the same condition; returns its index.
    fn merge(&mut self, at: usize) -> usize {
        if let Some(&next) = self.ranges.get(at + 1)
            && self.ranges[at].same_condition(&next)
        {
            self.ranges[at].join(&next);
            self.ranges.remove(at + 1);
        }
        if at > 0 && self.ranges[at - 1].same_condition(&self.ranges[at]) {
            let this = self.ranges[at];
            self.ranges[at - 1].join(&this);
            self.ranges.remove(at);
            return at - 1;
        }
        at
    }

    /// Range `at`, which is in flight, is lost; returns its index afterwards.
    fn lose(&mut self, at: usize) -> usize {
        let r = self.ranges[at];
        self.uncount(&r);
        self.lost += r.len();
        self.ranges[at].lost = true;
        if r.start.before(self.lost_from) || self.lost == r.len() {
            self.lost_from = r.start;
        }
        if at > 0 && self.ranges[at - 1].lost {
            self.ranges[at - 1].join(&r);
            self.ranges.remove(at);
            return at - 1;
        }
        at
    }

    fn uncount(&mut self, r: &Range) {
        if r.sacked {
            self.sacked -= r.len();
        } else if r.lost {
            self.lost -= r.len();
        } else if r.again {
            self.again -= r.len();
        }
    }

    /// The counts are right, the ranges follow each other.
    #[cfg(test)]
    fn check(&self) {
        let (mut at, mut sacked, mut lost, mut again) = (self.una, 0, 0, 0);
        for r in &self.ranges {
            assert_eq!(r.start, at);
            assert!(r.start.before(r.end) && !(r.sacked && r.lost), "{r:?}");
            at = r.end;
            sacked += if r.sacked { r.len() } else { 0 };
            lost += if r.lost { r.len() } else { 0 };
            again += if r.again && r.in_flight() { r.len() } else { 0 };
            assert!(!r.lost || r.end.after(self.lost_from), "{self:?}");
        }
        assert_eq!(at, self.nxt);
        assert_eq!(
            (sacked, lost, again),
            (self.sacked, self.lost, self.again),
            "{self:?}"
        );
    }
}

#[cfg(test)]
mod tests;
