//! Congestion control: how much may be in flight.
//!
//! A controller counts octets and knows nothing of sequence numbers; loss detection
//! stays with the sender, which reports here what it found:
//!
//! ```text
//! data acked, no recovery    on_ack
//! loss found                 on_loss → set_cwnd* (by Prr, for each ACK) → on_recovered
//! RTO                        on_timeout
//! idle for an RTO            on_idle_restart, before the next segment
//! ```
//!
//! One that goes by a model of the path ([`Bbr`]) hears of every segment sent and of
//! every delivery instead, in recovery or not, and paces what goes out.
//!
//! What turns out to have been no loss is undone by putting back a copy of the controller.

mod bbr;
mod cubic;
mod prr;
mod reno;

use super::Instant;
pub(crate) use bbr::Bbr;
pub(crate) use cubic::Cubic;
pub(crate) use prr::Prr;
pub(crate) use reno::Reno;
use std::time::Duration;

/// The congestion window never grows past this; no window does (RFC 7323 §2.2).
pub(crate) const MAX_CWND: u32 = 1 << 30;

/// Initial window for a segment size, octets: ten segments, at most 14,600 octets
/// unless two segments are more (RFC 6928 §2).
pub(crate) const fn initial_window(mss: u32) -> u32 {
    let floor = 2 * mss;
    let cap = if floor > 14_600 { floor } else { 14_600 };
    if 10 * mss < cap { 10 * mss } else { cap }
}

/// Congestion control of new connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Algorithm {
    /// CUBIC (RFC 9438) with `HyStart++` (RFC 9406).
    #[default]
    Cubic,
    /// `NewReno` (RFC 5681, RFC 6582).
    Reno,
    /// BBR, version 1: for paths that lose segments without being congested.
    Bbr,
}

/// What an ACK delivered, or a timer found lost, for a model of the path.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Delivery {
    pub(crate) now: Instant,
    /// Octets.
    pub(crate) octets: u32,
    /// When the latest of them were sent.
    pub(crate) sent_at: Option<Instant>,
    /// Their round trip, if it can be told.
    pub(crate) rtt: Option<Duration>,
    /// Octets in flight now.
    pub(crate) pipe: u32,
    /// Octets that were found lost.
    pub(crate) lost: u32,
    /// Losses are being repaired.
    pub(crate) recovering: bool,
}

/// What an ACK of new data says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ack {
    pub(crate) now: Instant,
    /// Octets that it delivered; what was sacked before is not among them.
    pub(crate) acked: u32,
    /// The congestion window, not the application, was the limit: a window that is not
    /// used does not grow.
    pub(crate) limited: bool,
    /// The round trip of what was delivered, if it can be told.
    pub(crate) rtt: Option<Duration>,
    /// It acknowledges the first octet that was sent after the last such ACK: once a
    /// round trip.
    pub(crate) new_round: bool,
}

/// One congestion-control algorithm for one connection. All sizes in octets.
pub(crate) trait Congestion {
    /// New data was acknowledged outside recovery, or in slow start after a timeout.
    fn on_ack(&mut self, ack: &Ack);

    /// A loss was found without a timeout: lowers ssthresh. `flight` octets were
    /// sent and not acknowledged (RFC 5681 §3.2 step 2). cwnd is set with
    /// [`Self::set_cwnd`] from now on.
    fn on_loss(&mut self, flight: u32);

    /// What is in flight is governed by proportional rate reduction.
    fn set_cwnd(&mut self, cwnd: u32);

    /// Recovery is over: cwnd is ssthresh.
    fn on_recovered(&mut self);

    /// The retransmission timer expired with `flight` octets out (RFC 5681 §3.1). Called for
    /// each expiry; only the first of a row lowers ssthresh.
    fn on_timeout(&mut self, flight: u32);

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
    /// CUBIC.
    Cubic(Cubic),
    /// `NewReno`.
    Reno(Reno),
    /// BBR. Its state is large.
    Bbr(Box<Bbr>),
}

impl Controller {
    /// Slow start from the initial window; `mss` is the size of a full segment (SMSS).
    pub(crate) fn new(algorithm: Algorithm, mss: u32) -> Self {
        match algorithm {
            Algorithm::Cubic => Self::Cubic(Cubic::new(mss)),
            Algorithm::Reno => Self::Reno(Reno::new(mss)),
            Algorithm::Bbr => Self::Bbr(Box::new(Bbr::new(mss))),
        }
    }

    /// The one that goes by a model of the path.
    pub(crate) fn model(&mut self) -> Option<&mut Bbr> {
        match self {
            Self::Bbr(bbr) => Some(bbr),
            Self::Cubic(_) | Self::Reno(_) => None,
        }
    }

    /// What [`Self::undo`] wants; a model only needs to know that there was nothing.
    pub(crate) fn snapshot(&self) -> Option<Self> {
        (!matches!(self, Self::Bbr(_))).then(|| self.clone())
    }

    /// The last reduction was a mistake: everything as in `before`, and the window at
    /// least as it is.
    pub(crate) fn undo(&mut self, before: Option<Self>) {
        match (self, before) {
            (Self::Bbr(bbr), _) => bbr.undo(),
            (this, Some(before)) => {
                let cwnd = this.cwnd().max(before.cwnd());
                *this = before;
                this.set_cwnd(cwnd);
            }
            (_, None) => {}
        }
    }

    /// Whether pacing lets another segment out.
    pub(crate) fn has_credit(&self) -> bool {
        match self {
            Self::Bbr(bbr) => bbr.has_credit(),
            Self::Cubic(_) | Self::Reno(_) => true,
        }
    }

    /// Octets that pacing lets out in one piece; 0 where it lets nothing out.
    pub(crate) fn piece(&self) -> u32 {
        match self {
            Self::Bbr(bbr) => bbr.piece(),
            Self::Cubic(_) | Self::Reno(_) => u32::MAX,
        }
    }

    /// When pacing does, if not now.
    pub(crate) fn credit_at(&self) -> Option<Instant> {
        match self {
            Self::Bbr(bbr) => bbr.credit_at(),
            Self::Cubic(_) | Self::Reno(_) => None,
        }
    }
}

/// Calls the method of whichever it is.
macro_rules! each {
    ($self:expr, $c:ident => $call:expr) => {
        match $self {
            Self::Cubic($c) => $call,
            Self::Reno($c) => $call,
            Self::Bbr($c) => $call,
        }
    };
}

impl Congestion for Controller {
    fn on_ack(&mut self, ack: &Ack) {
        each!(self, c => c.on_ack(ack));
    }

    fn on_loss(&mut self, flight: u32) {
        each!(self, c => c.on_loss(flight));
    }

    fn set_cwnd(&mut self, cwnd: u32) {
        each!(self, c => c.set_cwnd(cwnd));
    }

    fn on_recovered(&mut self) {
        each!(self, c => c.on_recovered());
    }

    fn on_timeout(&mut self, flight: u32) {
        each!(self, c => c.on_timeout(flight));
    }

    fn on_idle_restart(&mut self) {
        each!(self, c => c.on_idle_restart());
    }

    fn set_mss(&mut self, mss: u32) {
        each!(self, c => c.set_mss(mss));
    }

    fn cwnd(&self) -> u32 {
        each!(self, c => c.cwnd())
    }

    fn ssthresh(&self) -> u32 {
        each!(self, c => c.ssthresh())
    }
}
