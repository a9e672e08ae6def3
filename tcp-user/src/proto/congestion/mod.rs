//! Congestion control: how much may be in flight.
//!
//! A controller counts octets and knows nothing of sequence numbers; loss detection
//! stays with the sender, which reports here what it found. The calls follow
//! RFC 5681 and RFC 6582:
//!
//! ```text
//! new data acked       on_ack
//! third duplicate ACK  enter_recovery → on_dup_ack_in_recovery* / on_partial_ack* → exit_recovery
//! RTO                  on_timeout
//! idle for an RTO      on_idle_restart, before the next segment
//! ```

mod reno;

use super::Instant;
pub(crate) use reno::Reno;

/// The congestion window never grows past this; no window does (RFC 7323 §2.2).
pub(crate) const MAX_CWND: u32 = 1 << 30;

/// Initial window for a segment size, octets: ten segments, at most 14,600 octets
/// unless two segments are more (RFC 6928 §2).
pub(crate) const fn initial_window(mss: u32) -> u32 {
    let floor = 2 * mss;
    let cap = if floor > 14_600 { floor } else { 14_600 };
    if 10 * mss < cap { 10 * mss } else { cap }
}

/// One congestion-control algorithm for one connection. All sizes in octets.
pub(crate) trait Congestion {
    /// Slow start from the initial window; `mss` is the size of a full segment (SMSS).
    fn new(mss: u32) -> Self;

    /// `acked` octets of new data were acknowledged outside recovery. `flight` is what
    /// was in flight before; `limited` says that it filled the window: a window
    /// that is not used does not grow.
    fn on_ack(&mut self, now: Instant, acked: u32, flight: u32, limited: bool);

    /// Loss was found by duplicate ACKs: fast retransmit (RFC 6582 §3.2 step 2).
    fn enter_recovery(&mut self, now: Instant, flight: u32);

    /// Another duplicate ACK: a segment has left the network (step 3).
    fn on_dup_ack_in_recovery(&mut self);

    /// An ACK of `acked` octets that does not cover what was sent before recovery (step 3,
    /// "partial acknowledgment").
    fn on_partial_ack(&mut self, acked: u32);

    /// An ACK covers all that was sent before recovery (step 3, "full acknowledgment").
    fn exit_recovery(&mut self, flight: u32);

    /// The retransmission timer expired with `flight` octets out (RFC 5681 §3.1). Called for
    /// each expiry; only the first of a row lowers ssthresh.
    fn on_timeout(&mut self, now: Instant, flight: u32);

    /// Nothing was sent for longer than an RTO (RFC 5681 §4.1).
    fn on_idle_restart(&mut self);

    /// The segment size changed (path MTU).
    fn set_mss(&mut self, mss: u32);

    /// Congestion window.
    fn cwnd(&self) -> u32;

    /// Slow-start threshold; `u32::MAX` until the first loss.
    fn ssthresh(&self) -> u32;
}

/// The algorithm that a connection uses. An enum, so that a TCB needs no box for it.
#[derive(Clone, Debug)]
pub(crate) enum Controller {
    /// `NewReno` (RFC 5681, RFC 6582).
    Reno(Reno),
}

impl Congestion for Controller {
    fn new(mss: u32) -> Self {
        Self::Reno(Reno::new(mss))
    }

    fn on_ack(&mut self, now: Instant, acked: u32, flight: u32, limited: bool) {
        match self {
            Self::Reno(c) => c.on_ack(now, acked, flight, limited),
        }
    }

    fn enter_recovery(&mut self, now: Instant, flight: u32) {
        match self {
            Self::Reno(c) => c.enter_recovery(now, flight),
        }
    }

    fn on_dup_ack_in_recovery(&mut self) {
        match self {
            Self::Reno(c) => c.on_dup_ack_in_recovery(),
        }
    }

    fn on_partial_ack(&mut self, acked: u32) {
        match self {
            Self::Reno(c) => c.on_partial_ack(acked),
        }
    }

    fn exit_recovery(&mut self, flight: u32) {
        match self {
            Self::Reno(c) => c.exit_recovery(flight),
        }
    }

    fn on_timeout(&mut self, now: Instant, flight: u32) {
        match self {
            Self::Reno(c) => c.on_timeout(now, flight),
        }
    }

    fn on_idle_restart(&mut self) {
        match self {
            Self::Reno(c) => c.on_idle_restart(),
        }
    }

    fn set_mss(&mut self, mss: u32) {
        match self {
            Self::Reno(c) => c.set_mss(mss),
        }
    }

    fn cwnd(&self) -> u32 {
        match self {
            Self::Reno(c) => c.cwnd(),
        }
    }

    fn ssthresh(&self) -> u32 {
        match self {
            Self::Reno(c) => c.ssthresh(),
        }
    }
}
