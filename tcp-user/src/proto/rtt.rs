//! Round-trip time and retransmission timeout (RFC 6298).

use std::time::Duration;

/// RTO before the first sample (RFC 6298 §2.1).
pub(crate) const INITIAL_RTO: Duration = Duration::from_secs(1);
/// The same where the handshake's timer has expired (RFC 6298 §5.7).
pub(crate) const RTO_AFTER_SYN_LOSS: Duration = Duration::from_secs(3);
/// Upper bound of the RTO (RFC 6298 §2.5 allows one of at least 60 s).
pub(crate) const MAX_RTO: Duration = Duration::from_mins(1);
/// Clock granularity G (RFC 6298 §2): that of the timer wheel, µs.
const GRANULARITY: u32 = 1_000;

/// SRTT, RTTVAR and RTO of one connection. 16 octets; times inside in µs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RttEstimator {
    /// 0: no sample yet.
    srtt: u32,
    rttvar: u32,
    rto_min: u32,
    /// How often the timer expired without an answer.
    backoff: u8,
    /// The SYN-ACK was sent more than once.
    syn_lost: bool,
    /// The peer has kept an ACK back for longer than a probe waits.
    slow_acks: bool,
}

/// Microseconds, saturating.
fn micros(d: Duration) -> u32 {
    u32::try_from(d.as_micros()).unwrap_or(u32::MAX)
}

impl RttEstimator {
    /// No sample yet. `rto_min` bounds the RTO from below (RFC 6298 §2.4) and is
    /// itself at most [`MAX_RTO`].
    pub(crate) fn new(rto_min: Duration) -> Self {
        Self {
            srtt: 0,
            rttvar: 0,
            rto_min: micros(rto_min.min(MAX_RTO)),
            backoff: 0,
            syn_lost: false,
            slow_acks: false,
        }
    }

    /// The SYN-ACK was sent more than once: until there is a sample the RTO is
    /// [`RTO_AFTER_SYN_LOSS`].
    pub(crate) fn syn_was_lost(&mut self) {
        self.syn_lost = true;
    }

    /// A probe was not needed: the ACK was only kept back.
    pub(crate) fn note_slow_acks(&mut self) {
        self.slow_acks = true;
    }

    /// Whether ACKs are kept back for longer than most peers do.
    pub(crate) fn acks_are_slow(&self) -> bool {
        self.slow_acks
    }

    /// Takes a measured round trip (RFC 6298 §2.2 and §2.3) and ends backoff (§5.7). The
    /// caller leaves out segments that were retransmitted (Karn, §3) unless
    /// timestamps tell which one was answered.
    pub(crate) fn sample(&mut self, rtt: Duration) {
        let r = micros(rtt.min(MAX_RTO)).max(1);
        if self.srtt == 0 {
            self.srtt = r;
            self.rttvar = r / 2;
        } else {
            // In this order: RTTVAR wants the old SRTT. No product passes 60 s · 7 in µs.
            self.rttvar = (3 * self.rttvar + self.srtt.abs_diff(r)) / 4;
            self.srtt = ((7 * self.srtt + r) / 8).max(1);
        }
        self.backoff = 0;
    }

    /// The timer expired: doubles the RTO (RFC 6298 §5.5), up to [`MAX_RTO`].
    pub(crate) fn backoff(&mut self) {
        if self.rto() < MAX_RTO {
            self.backoff += 1;
        }
    }

    /// The timer has expired and no sample came since.
    pub(crate) fn is_backed_off(&self) -> bool {
        self.backoff > 0
    }

    /// Ends backoff without a sample, when new data was acknowledged.
    pub(crate) fn reset_backoff(&mut self) {
        self.backoff = 0;
    }

    /// The retransmission timeout: SRTT + max(4·RTTVAR, `rto_min`), within `rto_min` and
    /// [`MAX_RTO`].
    pub(crate) fn rto(&self) -> Duration {
        let base = if self.srtt == 0 {
            micros(if self.syn_lost {
                RTO_AFTER_SYN_LOSS
            } else {
                INITIAL_RTO
            })
        } else {
            // The RFC's floor for the variation is the clock's granularity, and its floor
            // for the RTO 1 s. With a lower one, a steady path has an RTO of little
            // more than SRTT, and an ACK that the peer delays comes after it. So the
            // lower bound goes to the variation, as in Linux.
            let spread = self.rttvar.saturating_mul(4);
            self.srtt
                .saturating_add(spread.max(self.rto_min).max(GRANULARITY))
        };
        // The initial RTO of 1 s stands even where `rto_min` is lower.
        let doubled = u64::from(base.max(self.rto_min)) << self.backoff.min(31);
        Duration::from_micros(doubled).min(MAX_RTO)
    }

    /// Smoothed round-trip time; `None` before the first sample.
    pub(crate) fn srtt(&self) -> Option<Duration> {
        (self.srtt != 0).then(|| Duration::from_micros(self.srtt.into()))
    }

    /// Variation of the round-trip time; zero before the first sample.
    pub(crate) fn rttvar(&self) -> Duration {
        Duration::from_micros(self.rttvar.into())
    }
}

#[cfg(test)]
mod tests;
