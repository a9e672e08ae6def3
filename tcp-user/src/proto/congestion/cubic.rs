//! CUBIC (RFC 9438), with slow start after `HyStart++` (RFC 9406).

use super::{Ack, Congestion, Instant, MAX_CWND, initial_window};
use std::time::Duration;

/// RFC 9438 §4.6.
const BETA: f64 = 0.7;
/// Segments per second cubed, RFC 9438 §5.1.
const C: f64 = 0.4;
/// What makes the Reno-friendly region as fast as Reno, RFC 9438 §4.3.
const ALPHA: f64 = 3.0 * (1.0 - BETA) / (1.0 + BETA);

/// RFC 9406 §4.3: bounds of the round-trip time's rise that ends slow start, µs; samples
/// a round needs; how much slower conservative slow start is; how many rounds
/// it takes; segments per ACK that count.
const MIN_RTT_THRESH: u32 = 4_000;
const MAX_RTT_THRESH: u32 = 16_000;
const RTT_SAMPLES: u8 = 8;
const CSS_DIVISOR: u32 = 4;
const CSS_ROUNDS: u8 = 5;
const L: u32 = 8;

/// State of one connection. 36 octets.
#[derive(Clone, Debug)]
pub(crate) struct Cubic {
    mss: u16,
    cwnd: u32,
    ssthresh: u32,
    /// `W_max`; 0: none, and the next congestion avoidance begins at its plateau.
    w_max: u32,
    phase: Phase,
    /// The timer expired and nothing new was acknowledged since.
    timed_out: bool,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    SlowStart(HyStart),
    Avoidance(Epoch),
    /// Congestion avoidance, or slow start after a loss, whose epoch has not begun.
    Waiting,
}

/// RFC 9406 §4.2; µs, `u32::MAX` for infinity.
#[derive(Clone, Copy, Debug)]
struct HyStart {
    last_round: u32,
    this_round: u32,
    /// `cssBaselineMinRtt`; `u32::MAX` outside conservative slow start.
    baseline: u32,
    samples: u8,
    css_rounds: u8,
}

/// RFC 9438 §4.1.
#[derive(Clone, Copy, Debug)]
struct Epoch {
    /// `t_epoch`, milliseconds modulo 2^32.
    start: u32,
    /// When the last ACK came, the same.
    seen: u32,
    /// K, milliseconds.
    k: u32,
    /// `W_est`.
    w_est: f32,
}

impl HyStart {
    const NEW: Self = Self {
        last_round: u32::MAX,
        this_round: u32::MAX,
        baseline: u32::MAX,
        samples: 0,
        css_rounds: 0,
    };

    /// Takes an ACK; true if slow start is over.
    fn on_ack(&mut self, ack: &Ack) -> bool {
        if ack.new_round {
            self.last_round = self.this_round;
            self.this_round = u32::MAX;
            self.samples = 0;
            if self.is_conservative() {
                self.css_rounds += 1;
                if self.css_rounds >= CSS_ROUNDS {
                    return true;
                }
            }
        }
        if let Some(rtt) = ack.rtt {
            let rtt = u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX - 1);
            self.this_round = self.this_round.min(rtt);
            self.samples = self.samples.saturating_add(1);
        }
        if self.samples < RTT_SAMPLES || self.this_round == u32::MAX {
            return false;
        }
        if self.is_conservative() {
            if self.this_round < self.baseline {
                // It was a false alarm.
                self.baseline = u32::MAX;
                self.css_rounds = 0;
            }
        } else if self.last_round != u32::MAX {
            let thresh = (self.last_round / 8).clamp(MIN_RTT_THRESH, MAX_RTT_THRESH);
            if self.this_round >= self.last_round.saturating_add(thresh) {
                self.baseline = self.this_round;
                self.css_rounds = 0;
            }
        }
        false
    }

    const fn is_conservative(&self) -> bool {
        self.baseline != u32::MAX
    }
}

impl Cubic {
    pub(crate) fn new(mss: u32) -> Self {
        let mss = mss.clamp(1, u32::from(u16::MAX));
        Self {
            mss: mss as u16,
            cwnd: initial_window(mss),
            ssthresh: u32::MAX,
            w_max: 0,
            phase: Phase::SlowStart(HyStart::NEW),
            timed_out: false,
        }
    }

    fn mss(&self) -> u32 {
        u32::from(self.mss)
    }

    fn grow(&mut self, octets: u32) {
        self.cwnd = self.cwnd.saturating_add(octets).min(MAX_CWND);
    }

    /// RFC 9438 §4.6 and §4.7 (fast convergence). Growth stops while the window is not used,
    /// so cwnd may stand for the flight size.
    fn reduce(&mut self) {
        let cwnd = f64::from(self.cwnd);
        self.w_max = if self.cwnd < self.w_max {
            (cwnd * f64::midpoint(1.0, BETA)) as u32
        } else {
            self.cwnd
        };
        self.ssthresh = ((cwnd * BETA) as u32).max(2 * self.mss());
        self.phase = Phase::Waiting;
    }

    /// RFC 9438 §4.2: the epoch begins with the first ACK of congestion avoidance.
    fn begin(&mut self, now: Instant) -> Epoch {
        self.w_max = self.w_max.max(self.cwnd);
        let rise = f64::from(self.w_max - self.cwnd) / f64::from(self.mss);
        Epoch {
            start: now.millis(),
            seen: now.millis(),
            k: ((rise / C).cbrt() * 1e3) as u32,
            w_est: self.cwnd as f32,
        }
    }

    fn avoid(&mut self, ack: &Ack, epoch: &mut Epoch) {
        let (cwnd, mss) = (f64::from(self.cwnd), f64::from(self.mss));
        let w_max = f64::from(self.w_max);
        let acked = f64::from(ack.acked).min(cwnd);
        // Reno-friendly region (§4.3).
        let alpha = if f64::from(epoch.w_est) >= w_max {
            1.0
        } else {
            ALPHA
        };
        epoch.w_est += (alpha * acked * mss / cwnd) as f32;
        // W_cubic(t) and W_cubic(t + RTT), octets (§4.2).
        let cubic = |ms: f64| {
            let t = (ms - f64::from(epoch.k)) / 1e3;
            C * t * t * t * mss + w_max
        };
        let elapsed = f64::from(epoch.seen.wrapping_sub(epoch.start));
        let rtt = ack.rtt.unwrap_or(Duration::ZERO).as_secs_f64() * 1e3;
        if cubic(elapsed) < f64::from(epoch.w_est) {
            self.set_cwnd(self.cwnd.max(epoch.w_est as u32));
        } else {
            // Concave and convex region (§4.4, §4.5).
            let target = cubic(elapsed + rtt).clamp(cwnd, 1.5 * cwnd);
            self.grow(((target - cwnd) * acked / cwnd) as u32);
        }
    }
}

impl Congestion for Cubic {
    fn on_ack(&mut self, ack: &Ack) {
        self.timed_out = false;
        if self.cwnd < self.ssthresh {
            let mut octets = ack.acked.min(L * self.mss());
            if let Phase::SlowStart(hystart) = &mut self.phase {
                let over = hystart.on_ack(ack);
                if hystart.is_conservative() {
                    octets /= CSS_DIVISOR;
                }
                if over {
                    self.ssthresh = self.cwnd;
                    self.phase = Phase::Waiting;
                    return;
                }
            }
            if ack.limited {
                self.grow(octets);
            }
            return;
        }
        let mut epoch = match self.phase {
            Phase::Avoidance(epoch) => epoch,
            Phase::SlowStart(_) | Phase::Waiting => self.begin(ack.now),
        };
        let since = ack.now.millis().wrapping_sub(epoch.seen);
        epoch.seen = ack.now.millis();
        if ack.limited {
            self.avoid(ack, &mut epoch);
        } else {
            // Time without use is no time of the epoch (§5.8).
            epoch.start = epoch.start.wrapping_add(since);
        }
        self.phase = Phase::Avoidance(epoch);
    }

    fn on_loss(&mut self, _flight: u32) {
        self.reduce();
    }

    fn set_cwnd(&mut self, cwnd: u32) {
        self.cwnd = cwnd.clamp(self.mss(), MAX_CWND);
    }

    fn on_recovered(&mut self) {
        self.timed_out = false;
        self.set_cwnd(self.ssthresh);
    }

    /// RFC 9438 §4.8.
    fn on_timeout(&mut self, _flight: u32) {
        if !self.timed_out {
            self.reduce();
        }
        // The next congestion avoidance starts at its plateau.
        self.w_max = 0;
        self.timed_out = true;
        self.cwnd = self.mss();
    }

    fn on_idle_restart(&mut self) {
        self.cwnd = self.cwnd.min(initial_window(self.mss()));
        self.phase = match self.phase {
            Phase::SlowStart(_) => Phase::SlowStart(HyStart::NEW),
            Phase::Avoidance(_) | Phase::Waiting => Phase::Waiting,
        };
    }

    fn set_mss(&mut self, mss: u32) {
        self.mss = mss.clamp(1, u32::from(u16::MAX)) as u16;
        self.cwnd = self.cwnd.max(self.mss());
        self.ssthresh = self.ssthresh.max(2 * self.mss());
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
