//! What the peer holds beyond SND.UNA, by its SACK blocks (RFC 2018, RFC 6675).

use tcp_common::seq::SeqNum;

/// Ranges kept at most; a peer that reports more holes is believed later.
const MAX_RANGES: usize = 64;
/// Segments above a hole that mean it is lost (RFC 6675 §2, `DupThresh`).
const DUP_THRESHOLD: usize = 3;

/// The scoreboard. It lives only while there is something on it.
#[derive(Debug, Default)]
pub(super) struct Scoreboard {
    /// Received, ascending, disjoint and not touching.
    ranges: Vec<(SeqNum, SeqNum)>,
    /// End of what recovery has sent again (`HighRxt`).
    pub(super) resent: SeqNum,
}

impl Scoreboard {
    /// Enters a block; whether it tells anything new. The caller has checked that it lies in
    /// `(SND.UNA, SND.NXT]`.
    pub(super) fn insert(&mut self, left: SeqNum, right: SeqNum) -> bool {
        let from = self.ranges.partition_point(|r| r.1.before(left));
        let to = self.ranges.partition_point(|r| r.0.before_eq(right));
        match self.ranges.get(from..to) {
            Some([only]) if only.0.before_eq(left) && right.before_eq(only.1) => false,
            Some([first, .., last] | [first @ last]) => {
                let merged = (first.0.min(left), last.1.max(right));
                self.ranges.splice(from..to, [merged]);
                true
            }
            _ if self.ranges.len() < MAX_RANGES => {
                self.ranges.insert(from, (left, right));
                true
            }
            _ => false,
        }
    }

    pub(super) fn ranges_are_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Forgets what lies below `una`; whether nothing is left.
    pub(super) fn advance(&mut self, una: SeqNum) -> bool {
        self.ranges.retain_mut(|r| {
            r.0 = r.0.max(una);
            r.0.before(r.1)
        });
        self.ranges.is_empty()
    }

    /// What is not received below here counts as lost (`IsLost`): more than two segments
    /// of octets, or three ranges, are received above it.
    pub(super) fn lost_below(&self, mss: u32) -> Option<SeqNum> {
        let mut octets = 0;
        for (count, (left, right)) in self.ranges.iter().rev().enumerate() {
            octets += right.distance_from(*left);
            if octets > (DUP_THRESHOLD as u32 - 1) * mss || count + 1 >= DUP_THRESHOLD {
                return Some(*left);
            }
        }
        None
    }

    /// The first octets not received in `[from, below)`.
    pub(super) fn hole(&self, from: SeqNum, below: SeqNum) -> Option<(SeqNum, u32)> {
        let mut start = from;
        for (left, right) in &self.ranges {
            if start.before(*left) {
                break;
            }
            start = start.max(*right);
        }
        let next = self.ranges.iter().find(|r| r.0.after(start));
        let end = next.map_or(below, |r| r.0.min(below));
        start.before(end).then(|| (start, end.distance_from(start)))
    }

    /// Octets not received in `[from, to)`.
    pub(super) fn missing(&self, from: SeqNum, to: SeqNum) -> u32 {
        if !from.before(to) {
            return 0;
        }
        let received = self.ranges.iter().fold(0, |sum: u32, (left, right)| {
            let (left, right) = (left.max(from), right.min(to));
            if left.before(right) {
                sum + right.distance_from(left)
            } else {
                sum
            }
        });
        to.distance_from(from).saturating_sub(received)
    }
}

#[cfg(test)]
mod tests;
