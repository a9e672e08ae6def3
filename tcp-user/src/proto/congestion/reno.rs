//! `NewReno`: RFC 5681 with the byte counting of RFC 3465 (L = 2) and the recovery of
//! RFC 6582.

use super::{Congestion, Instant, MAX_CWND, initial_window};

/// State of one connection. 20 octets.
#[derive(Clone, Debug)]
pub(crate) struct Reno {
    mss: u32,
    cwnd: u32,
    ssthresh: u32,
    /// Octets acknowledged since cwnd last grew in congestion avoidance (RFC 3465 §2.1).
    counted: u32,
    /// The timer expired and nothing new was acknowledged since: ssthresh stays
    /// (RFC 5681 §3.1).
    timed_out: bool,
    /// Slow start after a timeout: one segment per ACK at most (RFC 3465 §2.3).
    cautious: bool,
}

impl Reno {
    /// RFC 5681 equation (4).
    fn halve(&mut self, flight: u32) {
        self.ssthresh = (flight / 2).max(2 * self.mss);
        self.counted = 0;
    }

    fn grow(&mut self, octets: u32) {
        self.cwnd = self.cwnd.saturating_add(octets).min(MAX_CWND);
    }
}

impl Congestion for Reno {
    fn new(mss: u32) -> Self {
        let mss = mss.clamp(1, 1 << 16);
        Self {
            mss,
            cwnd: initial_window(mss),
            ssthresh: u32::MAX,
            counted: 0,
            timed_out: false,
            cautious: false,
        }
    }

    fn on_ack(&mut self, _now: Instant, acked: u32, _flight: u32, limited: bool) {
        self.timed_out = false;
        if !limited {
            return;
        }
        if self.cwnd < self.ssthresh {
            let limit = if self.cautious {
                self.mss
            } else {
                2 * self.mss
            };
            self.grow(acked.min(limit));
        } else {
            self.cautious = false;
            self.counted = self.counted.saturating_add(acked);
            if self.counted >= self.cwnd {
                self.counted -= self.cwnd;
                self.grow(self.mss);
                // One segment per window, also if a single ACK covered several.
                self.counted = self.counted.min(self.cwnd);
            }
        }
    }

    fn enter_recovery(&mut self, _now: Instant, flight: u32) {
        self.halve(flight);
        // Three duplicates: three segments have left the network.
        self.cwnd = self.ssthresh.saturating_add(3 * self.mss).min(MAX_CWND);
    }

    fn on_dup_ack_in_recovery(&mut self) {
        self.grow(self.mss);
    }

    fn on_partial_ack(&mut self, acked: u32) {
        self.timed_out = false;
        self.cwnd = self.cwnd.saturating_sub(acked);
        if acked >= self.mss {
            self.grow(self.mss);
        }
        // So that the retransmission of the next hole always fits.
        self.cwnd = self.cwnd.max(self.mss);
    }

    fn exit_recovery(&mut self, flight: u32) {
        self.timed_out = false;
        // The choice of RFC 6582 §3.2 that cannot cause a burst.
        self.cwnd = self
            .ssthresh
            .min(flight.max(self.mss).saturating_add(self.mss))
            .min(MAX_CWND);
    }

    fn on_timeout(&mut self, _now: Instant, flight: u32) {
        if !self.timed_out {
            self.halve(flight);
        }
        self.timed_out = true;
        self.cautious = true;
        self.cwnd = self.mss;
    }

    fn on_idle_restart(&mut self) {
        self.cwnd = self.cwnd.min(initial_window(self.mss));
        self.counted = 0;
    }

    fn set_mss(&mut self, mss: u32) {
        self.mss = mss.clamp(1, 1 << 16);
        self.cwnd = self.cwnd.max(self.mss);
        self.ssthresh = self.ssthresh.max(2 * self.mss);
    }

    fn cwnd(&self) -> u32 {
        self.cwnd
    }

    fn ssthresh(&self) -> u32 {
        self.ssthresh
    }
}

#[cfg(test)]
mod tests;
