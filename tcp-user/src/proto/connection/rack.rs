//! RACK (RFC 8985 §6): a segment is lost if one that was sent later has arrived, and enough
//! time has passed that it is not merely overtaken.

use super::scoreboard::{Range, Scoreboard, Verdict};
use crate::proto::Instant;
use std::time::Duration;
use tcp_common::seq::SeqNum;

/// Recoveries for which a widened reordering window lasts (RFC 8985 §6.2 step 4).
const PERSIST: u8 = 16;

/// What outlasts the flight: how much this path reorders (RFC 8985 §5.3).
#[derive(Clone, Copy, Debug)]
pub(super) struct Reordering {
    /// `RACK.reordering_seen`.
    seen: bool,
    /// `RACK.reo_wnd_mult`, `RACK.reo_wnd_persist`.
    mult: u8,
    persist: u8,
}

impl Reordering {
    pub(super) const fn new() -> Self {
        Self {
            seen: false,
            mult: 1,
            persist: 0,
        }
    }

    /// A recovery ends.
    pub(super) fn on_recovered(&mut self) {
        self.persist = self.persist.saturating_sub(1);
        if self.persist == 0 {
            self.mult = 1;
        }
    }
}

/// `RACK.*` of RFC 8985 §5.3, for what is in flight.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rack {
    /// `RACK.xmit_ts` and `RACK.end_seq`: of all that was delivered, what was sent last.
    sent_at: Instant,
    end: SeqNum,
    /// `RACK.rtt`: its round trip.
    rtt: Duration,
    /// `RACK.fack`: the highest that was delivered.
    fack: SeqNum,
    /// `RACK.min_RTT`.
    min_rtt: Duration,
    /// `RACK.dsack_round`.
    dsack_round: Option<SeqNum>,
}

/// What makes the reordering window wider or narrower.
#[derive(Clone, Copy, Debug)]
pub(super) struct Evidence {
    /// In recovery after a loss or a timeout.
    pub(super) recovering: bool,
    /// Segments that were sacked.
    pub(super) sacked: u32,
    pub(super) srtt: Option<Duration>,
}

impl Rack {
    /// `min_rtt` is what is known of the path: [`Duration::MAX`] or the smoothed round trip.
    pub(super) const fn new(una: SeqNum, min_rtt: Duration) -> Self {
        Self {
            sent_at: Instant(0),
            end: una,
            rtt: Duration::ZERO,
            fack: una,
            min_rtt,
            dsack_round: None,
        }
    }

    /// Steps 1 to 3 for a range that was delivered. `echo` is the echoed timestamp in
    /// milliseconds of our clock; `probed`: it answers a probe, which went out some milliseconds
    /// after everything else. Returns whether it says something about what was
    /// sent before it.
    pub(super) fn on_delivered(
        &mut self,
        now: Instant,
        range: &Range,
        echo: Option<u32>,
        probed: bool,
        reordering: &mut Reordering,
    ) -> bool {
        let rtt = now - range.sent_at;
        if range.again {
            // Which of the copies it was (§6.2 step 2). An echo tells for sure where the copies
            // are milliseconds apart; else it was the first if it took less than ever before.
            let older = echo.map(|echo| (echo.wrapping_sub(range.sent_at.millis()) as i32) < 0);
            let is_sure = probed && older == Some(false);
            if older == Some(true) || !is_sure && rtt < self.min_rtt {
                return false;
            }
        } else {
            self.min_rtt = self.min_rtt.min(rtt);
            if range.end.before(self.fack) {
                reordering.seen = true;
            }
        }
        self.fack = self.fack.max(range.end);
        if self.is_after(range.sent_at, range.end) {
            return false;
        }
        self.sent_at = range.sent_at;
        self.end = range.end;
        self.rtt = rtt;
        true
    }

    /// `RACK_sent_after(RACK.xmit_ts, RACK.end_seq, …)`.
    fn is_after(&self, sent_at: Instant, end: SeqNum) -> bool {
        self.sent_at > sent_at || (self.sent_at == sent_at && self.end.after(end))
    }

    /// A D-SACK: something was sent again needlessly, so wait longer from now on, once a
    /// round trip (step 4).
    pub(super) fn on_dsack(&mut self, una: SeqNum, nxt: SeqNum, reordering: &mut Reordering) {
        if self.dsack_round.is_some_and(|end| una.after_eq(end)) {
            self.dsack_round = None;
        }
        if self.dsack_round.is_none() {
            self.dsack_round = Some(nxt);
            reordering.mult = reordering.mult.saturating_add(1);
            reordering.persist = PERSIST;
        }
    }

    /// `RACK_update_reo_wnd` (step 4).
    fn window(&self, reordering: Reordering, evidence: Evidence) -> Duration {
        if !reordering.seen && (evidence.recovering || evidence.sacked >= 3) {
            return Duration::ZERO;
        }
        if self.min_rtt == Duration::MAX {
            return Duration::ZERO;
        }
        let window = self.min_rtt / 4 * u32::from(reordering.mult);
        evidence.srtt.map_or(window, |srtt| window.min(srtt))
    }

    /// `RACK_detect_loss` (step 5): marks what is lost; octets, and when to look again.
    pub(super) fn detect(
        &self,
        now: Instant,
        board: &mut Scoreboard,
        reordering: Reordering,
        evidence: Evidence,
    ) -> (u32, Option<Instant>) {
        let patience = self.rtt + self.window(reordering, evidence);
        let mut again_at = None;
        let lost = board.mark_lost(|range| {
            if !self.is_after(range.sent_at, range.end) {
                return if range.again {
                    Verdict::InFlight
                } else {
                    Verdict::RestInFlight
                };
            }
            let due = range.sent_at + patience;
            if due <= now {
                return Verdict::Lost;
            }
            again_at = again_at.max(Some(due));
            Verdict::InFlight
        });
        (lost, again_at)
    }

    /// The retransmission timer expired: the first segment is lost, the others are if they had
    /// their time (§6.3).
    pub(super) fn on_timeout(
        &self,
        now: Instant,
        board: &mut Scoreboard,
        reordering: Reordering,
        evidence: Evidence,
    ) {
        let patience = self.rtt + self.window(reordering, evidence);
        let mut first = true;
        board.mark_lost(|range| {
            let lost = std::mem::take(&mut first) || range.sent_at + patience <= now;
            if lost {
                Verdict::Lost
            } else {
                Verdict::InFlight
            }
        });
    }
}

#[cfg(test)]
mod tests;
