//! One direction of a network path that does harm.

use super::network::mark_congestion;
use super::rng::Rng;
use crate::proto::Instant;
use std::time::Duration;

/// What a path does to frames. Probabilities are per frame.
#[derive(Clone, Debug)]
pub(super) struct Faults {
    pub(super) loss: f64,
    /// Probability that a burst of losses begins, and its mean length in frames.
    pub(super) burst: f64,
    pub(super) burst_len: u64,
    pub(super) duplicate: f64,
    /// Probability of an extra delay of up to `reorder_by`.
    pub(super) reorder: f64,
    pub(super) reorder_by: Duration,
    /// Probability that one octet of the packet is changed.
    pub(super) corrupt: f64,
    pub(super) delay: Duration,
    /// Random delay on top; frames stay in order.
    pub(super) jitter: Duration,
    /// Octets per second; `None`: no limit.
    pub(super) rate: Option<u64>,
    /// Octets that wait for the rate limit at most; more are dropped.
    pub(super) queue: u64,
    /// Largest packet; larger ones vanish.
    pub(super) mtu: usize,
    /// After so many frames a narrow link comes in, of this MTU.
    pub(super) narrow: Option<(u64, usize)>,
    /// Its router says so.
    pub(super) icmp: bool,
    /// Probability that a packet that can be is marked with congestion.
    pub(super) congestion: f64,
}

impl Faults {
    /// A path that only takes time.
    pub(super) fn clean(delay: Duration) -> Self {
        Self {
            loss: 0.0,
            burst: 0.0,
            burst_len: 1,
            duplicate: 0.0,
            reorder: 0.0,
            reorder_by: Duration::ZERO,
            corrupt: 0.0,
            delay,
            jitter: Duration::ZERO,
            rate: None,
            queue: u64::MAX,
            mtu: 65_535,
            narrow: None,
            icmp: false,
            congestion: 0.0,
        }
    }

    /// Some mix of faults, often only one kind.
    pub(super) fn random(rng: &mut Rng) -> Self {
        let delay = Duration::from_micros(rng.magnitude(100_000));
        let mut f = Self::clean(delay);
        let all = rng.chance(0.3);
        let kind = rng.range(0, 7);
        let mut on = |n: u64| if all { rng.chance(0.5) } else { kind == n };
        let on: Vec<bool> = (0..7).map(&mut on).collect();
        let level = rng.pick(&[0.002, 0.01, 0.03, 0.1, 0.2]);
        if on[0] {
            f.loss = level;
        }
        if on[1] {
            f.burst = level / 4.0;
            f.burst_len = rng.range(2, 8);
        }
        if on[2] {
            f.duplicate = level;
        }
        if on[3] {
            f.reorder = level;
            f.reorder_by = rng.millis(1, 50);
        }
        if on[4] {
            f.corrupt = level / 2.0;
        }
        if on[5] {
            f.jitter = rng.millis(0, 30);
        }
        if on[6] {
            f.rate = Some(rng.pick(&[20_000, 200_000, 2_000_000]));
            f.queue = rng.pick(&[6_000, 30_000, 200_000]);
        }
        f
    }
}

/// A frame on its way.
#[derive(Clone, Debug)]
pub(super) struct Arrival {
    pub(super) at: Instant,
    pub(super) frame: Vec<u8>,
    pub(super) corrupt: bool,
}

/// A burst is over after this, so that it does not eat one retransmission after another.
const MAX_BURST: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(super) struct Link {
    pub(super) faults: Faults,
    rng: Rng,
    burst_left: u64,
    burst_until: Instant,
    /// When the transmitter is free again.
    busy_until: Instant,
    last_arrival: Instant,
    pub(super) lost: u64,
    /// Frames so far.
    frames: u64,
    /// Frames that the narrow link refused, and packets marked.
    pub(super) refused: u64,
    pub(super) marked: u64,
}

impl Link {
    pub(super) fn new(faults: Faults, rng: Rng) -> Self {
        Self {
            faults,
            rng,
            burst_left: 0,
            burst_until: Instant(0),
            busy_until: Instant(0),
            last_arrival: Instant(0),
            lost: 0,
            frames: 0,
            refused: 0,
            marked: 0,
        }
    }

    /// The MTU of the narrow link that a packet of `len` octets does not pass, if there is one.
    pub(super) fn refuse(&mut self, len: usize) -> Option<usize> {
        self.frames += 1;
        let (after, mtu) = self.faults.narrow?;
        let refused = self.frames > after && len > mtu;
        self.refused += u64::from(refused);
        refused.then_some(mtu)
    }

    /// Sends a frame whose packet begins at `l3`; zero, one or two arrive.
    pub(super) fn send(&mut self, now: Instant, frame: &[u8], l3: usize) -> Vec<Arrival> {
        let f = &self.faults;
        let mut lost = frame.len().saturating_sub(l3) > f.mtu;
        if self.burst_left > 0 && now < self.burst_until {
            self.burst_left -= 1;
            lost = true;
        } else if self.rng.chance(f.burst) {
            self.burst_left = self.rng.range(0, 2 * f.burst_len - 2);
            self.burst_until = now + MAX_BURST;
            lost = true;
        }
        lost |= self.rng.chance(f.loss);
        let mut ready = now;
        if let Some(rate) = f.rate {
            let waiting = self.busy_until.saturating_since(now);
            lost |= waiting.as_secs_f64() * rate as f64 > f.queue as f64;
            if !lost {
                let serialise = frame.len() as u64 * 1_000_000_000 / rate;
                self.busy_until = self.busy_until.max(now) + Duration::from_nanos(serialise);
                ready = self.busy_until;
            }
        }
        if lost {
            self.lost += 1;
            return Vec::new();
        }
        let copies = 1 + usize::from(self.rng.chance(f.duplicate));
        let mut out = Vec::new();
        for _ in 0..copies {
            let jitter = self.rng.range(0, f.jitter.as_nanos() as u64);
            let mut at = (ready + f.delay + Duration::from_nanos(jitter)).max(self.last_arrival);
            if self.rng.chance(f.reorder) {
                at += Duration::from_nanos(self.rng.range(0, f.reorder_by.as_nanos() as u64));
            } else {
                self.last_arrival = at;
            }
            let mut frame = frame.to_vec();
            if f.congestion > 0.0 && self.rng.chance(f.congestion) {
                self.marked += u64::from(mark_congestion(&mut frame, l3));
            }
            let corrupt = self.rng.chance(f.corrupt);
            if corrupt {
                let at = self.rng.range(l3 as u64, frame.len() as u64 - 1) as usize;
                frame[at] ^= self.rng.range(1, 255) as u8;
            }
            out.push(Arrival { at, frame, corrupt });
        }
        out
    }
}
