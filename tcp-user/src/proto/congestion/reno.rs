//! The windows of `NewReno`: RFC 5681 with the byte counting of RFC 3465 (L = 2).

use super::{Ack, Congestion, MAX_CWND, initial_window};

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
    pub(crate) fn new(mss: u32) -> Self {
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
    fn on_ack(&mut self, ack: &Ack) {
        self.timed_out = false;
        if !ack.limited {
            return;
        }
        if self.cwnd < self.ssthresh {
            let limit = if self.cautious {
                self.mss
            } else {
                2 * self.mss
            };
            self.grow(ack.acked.min(limit));
        } else {
            self.cautious = false;
            self.counted = self.counted.saturating_add(ack.acked);
            if self.counted >= self.cwnd {
                self.counted -= self.cwnd;
                self.grow(self.mss);
                // One segment per window, also if a single ACK covered several.
                self.counted = self.counted.min(self.cwnd);
            }
        }
    }

    fn on_loss(&mut self, flight: u32) {
        self.halve(flight);
    }

    fn set_cwnd(&mut self, cwnd: u32) {
        self.cwnd = cwnd.clamp(self.mss, MAX_CWND);
    }

    fn on_recovered(&mut self) {
        self.timed_out = false;
        self.set_cwnd(self.ssthresh);
    }

    fn on_timeout(&mut self, flight: u32) {
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
