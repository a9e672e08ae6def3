//! BBR version 1 (Cardwell et al., "BBR: Congestion-Based Congestion Control", ACM Queue 14(5),
//! 2016; draft-cardwell-iccrg-bbr-congestion-control-00), the congestion control for paths whose
//! losses are no congestion.
//!
//! It measures the bottleneck's bandwidth (the largest delivery rate of ten round trips) and the
//! path's round trip (the least of ten seconds) and keeps about their product in flight. A
//! loss alone lowers nothing but for the round trip in which it is found. Two rules make
//! it fit for batches: a round's surplus of ACKs is added to the window, and what is paced is a
//! credit that timers of a millisecond can refill, so that short round trips are clocked by ACKs.
//!
//! Left out: the detection of policers. ECN is not heeded, so it should not be offered.

mod filter;
mod rate;

use super::{Congestion, Delivery, MAX_CWND, initial_window};
use crate::proto::Instant;
use filter::WindowedMax;
use rate::{Rates, Sample};
use std::time::Duration;

/// 2/ln 2: doubles the rate each round trip.
const HIGH_GAIN: f64 = 2.885;
const DRAIN_GAIN: f64 = 1.0 / HIGH_GAIN;
/// Two bandwidth-delay products, for delayed and aggregated ACKs.
const CWND_GAIN: f64 = 2.0;
/// Round trips of bandwidth probing: more, then less, then what there is.
const CYCLE: [f64; 8] = [1.25, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0];
/// Rounds that the bandwidth is remembered.
const BW_ROUNDS: u64 = 10;
/// Rounds of less than `FULL_GAIN` growth that end startup.
const FULL_ROUNDS: u8 = 3;
const FULL_GAIN: f64 = 1.25;
/// How long a round trip is believed in, and how long a new one is looked for.
const MIN_RTT_WINDOW: Duration = Duration::from_secs(10);
const PROBE_RTT: Duration = Duration::from_millis(200);
/// Segments in flight while it is.
const MIN_SEGMENTS: u32 = 4;
/// The rate stays a little below the estimate, so that no queue builds up.
const PACING_MARGIN: f64 = 0.99;
/// What a timer of a millisecond may be late, and what may go out at once after it.
const CREDIT: Duration = Duration::from_millis(2);
/// Sending happens in batches of a millisecond, of so many octets at most; three of them are
/// let into the window beyond the product.
const MAX_QUANTUM: f64 = 65_536.0;
const QUANTA: f64 = 3.0;
/// Rounds that a surplus of ACKs is remembered, and the most that it counts for.
const SURPLUS_ROUNDS: u64 = 10;
const MAX_SURPLUS: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    Startup,
    Drain,
    ProbeBw,
    ProbeRtt,
}

/// State of one connection.
#[derive(Clone, Debug)]
pub(crate) struct Bbr {
    mss: u32,
    cwnd: u32,
    /// cwnd before a loss or before the round trip was probed.
    prior_cwnd: u32,
    mode: Mode,
    rates: Rates,
    /// Octets per second.
    bw: WindowedMax<f64>,
    min_rtt: Duration,
    min_rtt_at: Instant,
    round: u64,
    /// The round ends when what is sent after so many octets were delivered arrives.
    round_end: u64,
    /// Bandwidth when it last grew, and rounds since.
    full_bw: f64,
    full_rounds: u8,
    is_full: bool,
    phase: usize,
    phase_at: Instant,
    /// The end of the probe of the round trip, once little enough is in flight.
    probe_end: Option<Instant>,
    probe_round: bool,
    /// Nothing was sent for a while: the round trip's age says nothing.
    idle: bool,
    recovering: bool,
    /// The first round of a recovery: no more goes out than arrives.
    conserving: bool,
    /// Octets delivered beyond what the bandwidth explains.
    surplus: WindowedMax<u32>,
    epoch_at: Instant,
    epoch_octets: u64,
    /// Octets that may go out now, and when that was last reckoned.
    credit: f64,
    credit_at: Instant,
}

impl Bbr {
    pub(crate) fn new(mss: u32) -> Self {
        Self {
            mss,
            cwnd: initial_window(mss),
            prior_cwnd: 0,
            mode: Mode::Startup,
            rates: Rates::default(),
            bw: WindowedMax::default(),
            min_rtt: Duration::MAX,
            min_rtt_at: Instant(0),
            round: 0,
            round_end: 0,
            full_bw: 0.0,
            full_rounds: 0,
            is_full: false,
            phase: 0,
            phase_at: Instant(0),
            probe_end: None,
            probe_round: false,
            idle: false,
            recovering: false,
            conserving: false,
            surplus: WindowedMax::default(),
            epoch_at: Instant(0),
            epoch_octets: 0,
            credit: f64::from(2 * mss),
            credit_at: Instant(0),
        }
    }

    /// Octets were sent, new or again; `pipe` octets were in flight before.
    pub(crate) fn on_sent(&mut self, now: Instant, octets: u32, pipe: u32) {
        self.refill(now);
        // What nothing paces is no debt: it would have to be paid when a rate is known, and
        // hold up the repair of what it lost.
        if self.rate().is_some() {
            self.credit -= f64::from(octets);
        }
        self.rates.on_sent(now, pipe);
    }

    /// There is nothing to send though the window has room: `pipe` octets are in flight.
    pub(crate) fn on_app_limited(&mut self, pipe: u32) {
        self.rates.on_app_limited(pipe);
    }

    /// Whether another segment may go out now.
    pub(crate) fn has_credit(&self) -> bool {
        self.rate().is_none() || self.credit > 0.0
    }

    /// Octets that may go out now in one piece, whole segments or not: a batch, or what the credit
    /// is if that is more.
    pub(crate) fn piece(&self) -> u32 {
        match self.rate() {
            None => u32::MAX,
            Some(_) if self.credit <= 0.0 => 0,
            Some(rate) => self.credit.max(self.quantum(rate)) as u32,
        }
    }

    /// When it may.
    pub(crate) fn credit_at(&self) -> Option<Instant> {
        let rate = self.rate().filter(|_| self.credit <= 0.0)?;
        let wait = (f64::from(self.mss) - self.credit) / rate;
        Some(self.credit_at + Duration::from_secs_f64(wait.min(1.0)))
    }

    /// Reckons what may go out at `now`.
    pub(crate) fn refill(&mut self, now: Instant) {
        let passed = now.saturating_since(self.credit_at).as_secs_f64();
        self.credit_at = self.credit_at.max(now);
        if let Some(rate) = self.rate() {
            let most = (rate * CREDIT.as_secs_f64()).max(f64::from(2 * self.mss));
            self.credit = (self.credit + rate * passed).min(most);
        }
    }

    /// Octets per second, once the bandwidth is known.
    fn rate(&self) -> Option<f64> {
        let bw = self.bw.get();
        (bw > 0.0).then(|| (bw * self.pacing_gain() * PACING_MARGIN).max(1.0))
    }

    /// Octets of a batch at `rate`.
    fn quantum(&self, rate: f64) -> f64 {
        (rate / 1000.0).clamp(f64::from(2 * self.mss), MAX_QUANTUM)
    }

    fn pacing_gain(&self) -> f64 {
        match self.mode {
            Mode::Startup => HIGH_GAIN,
            Mode::Drain => DRAIN_GAIN,
            Mode::ProbeBw => CYCLE[self.phase],
            Mode::ProbeRtt => 1.0,
        }
    }

    fn cwnd_gain(&self) -> f64 {
        match self.mode {
            Mode::Startup | Mode::Drain => HIGH_GAIN,
            Mode::ProbeBw => CWND_GAIN,
            Mode::ProbeRtt => 1.0,
        }
    }

    /// `gain` bandwidth-delay products and the batches on top, octets.
    fn target(&self, gain: f64) -> u32 {
        let bw = self.bw.get();
        if bw <= 0.0 || self.min_rtt == Duration::MAX {
            return initial_window(self.mss).max(self.cwnd);
        }
        let product = bw * self.min_rtt.as_secs_f64() * gain;
        let quantum = self.quantum(self.rate().unwrap_or(bw));
        let octets = product + QUANTA * quantum;
        (octets as u32).min(MAX_CWND)
    }

    /// An ACK delivered something, or it told of a loss.
    pub(crate) fn on_delivery(&mut self, delivery: &Delivery) {
        let now = delivery.now;
        self.refill(now);
        let sample = self.rates.on_delivery(delivery, self.min_rtt);
        let is_round = self.count_round(&sample);
        if let Some(rate) = sample.rate
            && (rate >= self.bw.get() || !sample.app_limited)
        {
            self.bw.add(rate, self.round, BW_ROUNDS);
        }
        if is_round {
            self.conserving = false;
        }
        self.count_surplus(delivery);
        self.advance_cycle(delivery);
        self.check_full(is_round, sample.app_limited);
        if self.mode == Mode::Drain && delivery.pipe <= self.target(1.0) {
            self.probe_bandwidth(now);
        }
        self.check_rtt(delivery, is_round);
        self.set_window(delivery);
    }

    fn count_round(&mut self, sample: &Sample) -> bool {
        let begins = sample.prior.is_some_and(|prior| prior >= self.round_end);
        if begins {
            self.round_end = self.rates.delivered();
            self.round += 1;
        }
        begins
    }

    /// ACKs come in batches; while none comes the window must not run dry.
    fn count_surplus(&mut self, delivery: &Delivery) {
        let bw = self.bw.get();
        if bw <= 0.0 {
            return;
        }
        let passed = delivery.now.saturating_since(self.epoch_at).as_secs_f64();
        let mut expected = (bw * passed) as u64;
        if self.epoch_octets <= expected {
            self.epoch_at = delivery.now;
            self.epoch_octets = 0;
            expected = 0;
        }
        self.epoch_octets += u64::from(delivery.octets);
        let surplus = self.epoch_octets.saturating_sub(expected);
        let most = (bw * MAX_SURPLUS.as_secs_f64()) as u64;
        let surplus = surplus.min(most).min(u64::from(self.cwnd)) as u32;
        self.surplus.add(surplus, self.round, SURPLUS_ROUNDS);
    }

    fn advance_cycle(&mut self, delivery: &Delivery) {
        if self.mode != Mode::ProbeBw {
            return;
        }
        let gain = CYCLE[self.phase];
        let is_long = delivery.now.saturating_since(self.phase_at) > self.min_rtt;
        let before = delivery.pipe.saturating_add(delivery.octets);
        let over = if gain > 1.0 {
            // Until the path is full, or a queue overflows.
            is_long && (delivery.lost > 0 || before >= self.target(gain))
        } else if gain < 1.0 {
            is_long || before <= self.target(1.0)
        } else {
            is_long
        };
        if over {
            self.phase = (self.phase + 1) % CYCLE.len();
            self.phase_at = delivery.now;
        }
    }

    fn check_full(&mut self, is_round: bool, app_limited: bool) {
        if self.is_full || !is_round || app_limited {
            return;
        }
        let bw = self.bw.get();
        if bw >= self.full_bw * FULL_GAIN {
            self.full_bw = bw;
            self.full_rounds = 0;
            return;
        }
        self.full_rounds += 1;
        if self.full_rounds >= FULL_ROUNDS {
            self.is_full = true;
            if self.mode == Mode::Startup {
                self.mode = Mode::Drain;
            }
        }
    }

    fn probe_bandwidth(&mut self, now: Instant) {
        self.mode = Mode::ProbeBw;
        // Connections that share a path should not probe together: the clock is random enough.
        self.phase = 1 + (now.0 / 1_000 % 7) as usize;
        self.phase_at = now;
    }

    fn check_rtt(&mut self, delivery: &Delivery, is_round: bool) {
        let now = delivery.now;
        let expired =
            self.min_rtt != Duration::MAX && now.saturating_since(self.min_rtt_at) > MIN_RTT_WINDOW;
        if let Some(rtt) = delivery.rtt
            && (rtt <= self.min_rtt || expired)
        {
            self.min_rtt = rtt.max(Duration::from_micros(1));
            self.min_rtt_at = now;
        }
        let idle = std::mem::take(&mut self.idle);
        if expired && !idle && self.mode != Mode::ProbeRtt {
            self.mode = Mode::ProbeRtt;
            self.prior_cwnd = self.prior_cwnd.max(self.cwnd);
            self.probe_end = None;
        }
        if self.mode != Mode::ProbeRtt {
            return;
        }
        self.rates.on_app_limited(delivery.pipe);
        match self.probe_end {
            None if delivery.pipe <= MIN_SEGMENTS * self.mss => {
                self.probe_end = Some(now + PROBE_RTT);
                self.probe_round = false;
                self.round_end = self.rates.delivered();
            }
            None => {}
            Some(end) => {
                self.probe_round |= is_round;
                if self.probe_round && now >= end {
                    self.min_rtt_at = now;
                    self.restore();
                    if self.is_full {
                        self.probe_bandwidth(now);
                    } else {
                        self.mode = Mode::Startup;
                    }
                }
            }
        }
    }

    fn restore(&mut self) {
        self.cwnd = self.cwnd.max(std::mem::take(&mut self.prior_cwnd));
    }

    fn set_window(&mut self, delivery: &Delivery) {
        let flying = delivery.pipe.saturating_add(delivery.octets);
        if delivery.lost > 0 {
            self.cwnd = self.cwnd.saturating_sub(delivery.lost).max(self.mss);
        }
        if self.recovering && !delivery.recovering {
            self.recovering = false;
            self.conserving = false;
            self.restore();
        }
        if self.recovering && self.conserving {
            self.cwnd = self.cwnd.max(flying);
        } else {
            let target = self
                .target(self.cwnd_gain())
                .saturating_add(if self.is_full { self.surplus.get() } else { 0 });
            let grown = self.cwnd.saturating_add(delivery.octets);
            if self.is_full {
                self.cwnd = grown.min(target);
            } else if self.cwnd < target
                || self.rates.delivered() < u64::from(initial_window(self.mss))
            {
                self.cwnd = grown;
            }
        }
        let least = MIN_SEGMENTS * self.mss;
        self.cwnd = self.cwnd.clamp(least, MAX_CWND);
        if self.mode == Mode::ProbeRtt {
            self.cwnd = least;
        }
    }

    fn lose(&mut self) {
        if !self.recovering {
            self.prior_cwnd = self.prior_cwnd.max(self.cwnd);
        }
        self.recovering = true;
        self.conserving = true;
        self.round_end = self.rates.delivered();
    }

    /// A recovery was needless.
    pub(crate) fn undo(&mut self) {
        self.recovering = false;
        self.conserving = false;
        self.full_bw = 0.0;
        self.full_rounds = 0;
        self.restore();
    }
}

impl Congestion for Bbr {
    /// All that counts is in [`Bbr::on_delivery`].
    fn on_ack(&mut self, _: &super::Ack) {}

    fn on_loss(&mut self, _: u32) {
        self.lose();
    }

    fn set_cwnd(&mut self, cwnd: u32) {
        self.cwnd = cwnd.min(MAX_CWND);
    }

    fn on_recovered(&mut self) {}

    fn on_timeout(&mut self, _: u32) {
        self.lose();
        self.full_bw = 0.0;
        self.cwnd = self.mss;
    }

    /// The rate is known; that of the path may have changed, which the next round shows.
    fn on_idle_restart(&mut self) {
        self.idle = true;
    }

    fn set_mss(&mut self, mss: u32) {
        self.mss = mss;
    }

    fn cwnd(&self) -> u32 {
        self.cwnd
    }

    fn ssthresh(&self) -> u32 {
        u32::MAX
    }
}

#[cfg(test)]
mod tests;
