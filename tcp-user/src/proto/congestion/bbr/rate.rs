//! Delivery rates (draft-cheng-iccrg-delivery-rate-estimation-02), by batches of what was sent at one
//! time, not by segments.

use super::Delivery;
use crate::proto::Instant;
use std::collections::VecDeque;
use std::time::Duration;

/// Batches remembered at most. Of older ones no rate is known.
const MAX_BATCHES: usize = 4096;

/// What was known when something was sent.
#[derive(Clone, Copy, Debug)]
struct Batch {
    sent_at: Instant,
    /// `P.delivered`, `P.delivered_time`, `P.first_sent_time`.
    delivered: u64,
    delivered_at: Instant,
    first_sent_at: Instant,
    app_limited: bool,
}

/// `C.delivered` and what belongs to it.
#[derive(Clone, Default, Debug)]
pub(super) struct Rates {
    delivered: u64,
    delivered_at: Instant,
    first_sent_at: Instant,
    /// Rates are the application's until more than this is delivered.
    app_limited: u64,
    /// In the order of sending.
    batches: VecDeque<Batch>,
}

/// What an ACK says about the path.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Sample {
    /// Octets per second.
    pub(super) rate: Option<f64>,
    /// Octets that were delivered when what it acknowledges was sent.
    pub(super) prior: Option<u64>,
    pub(super) app_limited: bool,
}

impl Rates {
    /// Octets delivered so far.
    pub(super) const fn delivered(&self) -> u64 {
        self.delivered
    }

    pub(super) fn on_sent(&mut self, now: Instant, pipe: u32) {
        if pipe == 0 {
            self.first_sent_at = now;
            self.delivered_at = now;
        }
        if self.batches.back().is_some_and(|b| b.sent_at == now) {
            return;
        }
        if self.batches.len() >= MAX_BATCHES {
            self.batches.pop_front();
        }
        self.batches.push_back(Batch {
            sent_at: now,
            delivered: self.delivered,
            delivered_at: self.delivered_at,
            first_sent_at: self.first_sent_at,
            app_limited: self.app_limited != 0,
        });
    }

    pub(super) fn on_app_limited(&mut self, pipe: u32) {
        self.app_limited = (self.delivered + u64::from(pipe)).max(1);
    }

    pub(super) fn on_delivery(&mut self, delivery: &Delivery, min_rtt: Duration) -> Sample {
        let now = delivery.now;
        if delivery.octets > 0 {
            self.delivered += u64::from(delivery.octets);
            self.delivered_at = now;
        }
        if self.app_limited != 0 && self.delivered > self.app_limited {
            self.app_limited = 0;
        }
        let Some(batch) = delivery.sent_at.and_then(|at| self.take(at)) else {
            return Sample::default();
        };
        self.first_sent_at = batch.sent_at;
        let sending = batch.sent_at.saturating_since(batch.first_sent_at);
        let arriving = now.saturating_since(batch.delivered_at);
        let interval = sending.max(arriving);
        let octets = self.delivered - batch.delivered;
        // Shorter than any round trip is only the spacing of ACKs that were held up.
        let is_short = interval.is_zero() || (min_rtt != Duration::MAX && interval < min_rtt);
        Sample {
            rate: (!is_short).then(|| octets as f64 / interval.as_secs_f64()),
            prior: Some(batch.delivered),
            app_limited: batch.app_limited,
        }
    }

    /// The batch of that time. Older ones have nothing new to say.
    fn take(&mut self, sent_at: Instant) -> Option<Batch> {
        let at = self.batches.partition_point(|b| b.sent_at < sent_at);
        self.batches.drain(..at.min(self.batches.len()));
        self.batches
            .front()
            .copied()
            .filter(|b| b.sent_at == sent_at)
    }
}
