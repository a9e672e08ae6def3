//! Whether we are under attack: what `cookie.require_timestamps = "under-attack"` goes by,
//! and whether XDP takes the time to tell cookies that are too old from bad ones.
//!
//! What counts are SYNs that want an answer and ACKs that guess cookies; legitimate
//! clients make both, but not `cookie.attack_rate` of them a second.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tcp_common::counters::Counter;

/// Readings closer together say little.
const LEAST: Duration = Duration::from_millis(900);
/// The rate must stay below half the threshold for so long until it is over.
const CALM: Duration = Duration::from_secs(10);

/// What is going on, as far as XDP is to behave by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Threat {
    /// More SYNs and bad cookies than `cookie.attack_rate`.
    pub attacked: bool,
    /// More SYNs to adaptive listens and others of ours than `xdp.adaptive_rate`.
    pub flooded: bool,
}

/// Watches a rate.
#[derive(Debug)]
pub struct Watch {
    threshold: u32,
    last: Option<(Duration, u64)>,
    attacked: bool,
    calm_since: Option<Duration>,
}

impl Watch {
    /// Begins at peace. `threshold` is `cookie.attack_rate`, frames per second.
    pub const fn new(threshold: u32) -> Self {
        Self {
            threshold,
            last: None,
            attacked: false,
            calm_since: None,
        }
    }

    /// Another threshold, from the next reading on.
    pub const fn set_threshold(&mut self, threshold: u32) {
        self.threshold = threshold;
    }

    /// A reading: time by any steady clock, frames counted so far. The new state if
    /// it changes.
    pub fn read(&mut self, now: Duration, frames: u64) -> Option<bool> {
        let Some((then, before)) = self.last else {
            self.last = Some((now, frames));
            return None;
        };
        let time = now.saturating_sub(then);
        if time < LEAST {
            return None;
        }
        self.last = Some((now, frames));
        let rate = frames.saturating_sub(before) as f64 / time.as_secs_f64();
        let threshold = f64::from(self.threshold);
        if !self.attacked {
            self.attacked = rate > threshold;
            self.calm_since = None;
            return self.attacked.then_some(true);
        }
        if rate >= threshold / 2.0 {
            self.calm_since = None;
            return None;
        }
        let since = *self.calm_since.get_or_insert(then);
        if now.saturating_sub(since) < CALM {
            return None;
        }
        self.attacked = false;
        Some(false)
    }
}

/// Both [`Watch`]es.
pub struct Guard {
    watch: Watch,
    syns: Watch,
    shared: Arc<Shared>,
}

/// A [`Threat`] for other threads.
#[derive(Debug, Default)]
pub struct Shared {
    attacked: AtomicBool,
    flooded: AtomicBool,
}

impl Shared {
    /// As of the last look.
    pub fn threat(&self) -> Threat {
        Threat {
            attacked: self.attacked.load(Ordering::Relaxed),
            flooded: self.flooded.load(Ordering::Relaxed),
        }
    }
}

impl Guard {
    /// `attack_rate` is `cookie.attack_rate`, `adaptive_rate` is `xdp.adaptive_rate`.
    pub fn new(attack_rate: u32, adaptive_rate: u32) -> Self {
        Self {
            watch: Watch::new(attack_rate),
            syns: Watch::new(adaptive_rate),
            shared: Arc::default(),
        }
    }

    /// Other rates, from the next reading on.
    pub const fn set_thresholds(&mut self, attack_rate: u32, adaptive_rate: u32) {
        self.watch.set_threshold(attack_rate);
        self.syns.set_threshold(adaptive_rate);
    }

    /// The counters of a program as they are now; the new state if it changes.
    pub fn look(&mut self, now: Duration, counters: &[(Counter, u64)]) -> Option<Threat> {
        let attacked = self.watch.read(now, frames(counters));
        let flooded = self.syns.read(now, syns(counters));
        let threat = self.threat();
        let shared = &self.shared;
        shared.attacked.store(threat.attacked, Ordering::Relaxed);
        shared.flooded.store(threat.flooded, Ordering::Relaxed);
        (attacked.is_some() || flooded.is_some()).then_some(threat)
    }

    /// The state as of the last look.
    pub const fn threat(&self) -> Threat {
        Threat {
            attacked: self.watch.attacked,
            flooded: self.syns.attacked,
        }
    }

    /// The same for other threads.
    pub fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }
}

/// The frames that count: SYNs and bad cookies, refused ones included, so that the
/// answer to an attack does not look like its end.
pub fn frames(counters: &[(Counter, u64)]) -> u64 {
    let bad = |counter| {
        matches!(
            counter,
            Counter::RstBadCookie | Counter::DropBadCookie | Counter::DropRstLimit
        )
    };
    sum(counters, bad) + syns(counters)
}

/// The SYNs among them, those that userspace answers included.
pub fn syns(counters: &[(Counter, u64)]) -> u64 {
    sum(counters, |counter| {
        matches!(
            counter,
            Counter::SynAck
                | Counter::ToHandshake
                | Counter::DropSynLimit
                | Counter::DropNoTimestamps
        )
    })
}

fn sum(counters: &[(Counter, u64)], is: impl Fn(Counter) -> bool) -> u64 {
    let these = counters.iter().filter(|(counter, _)| is(*counter));
    these.map(|(_, n)| n).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_begins_at_once_and_ends_after_a_while() {
        let mut watch = Watch::new(1000);
        let mut frames = 0;
        let mut changes = Vec::new();
        let rates = [
            (5, 900),  // below
            (1, 1100), // begins
            (3, 400),
            (1, 600), // between half and whole: goes on
            (9, 100),
            (1, 900), // starts the wait again
            (20, 100),
        ];
        let mut second = 0;
        watch.read(Duration::ZERO, 0);
        for (seconds, rate) in rates {
            for _ in 0..seconds {
                second += 1;
                frames += rate;
                let change = watch.read(Duration::from_secs(second), frames);
                changes.extend(change.map(|on| (second, on)));
            }
        }
        assert_eq!(changes, [(6, true), (30, false)]);
    }

    #[test]
    fn a_reading_too_soon_is_none() {
        let mut watch = Watch::new(1000);
        watch.read(Duration::ZERO, 0);
        assert_eq!(watch.read(Duration::from_millis(1), 100), None);
        assert_eq!(watch.read(Duration::from_secs(1), 100), None);
    }

    #[test]
    fn answered_and_refused_ones_count_alike() {
        let all: Vec<_> = Counter::ALL.iter().map(|c| (*c, 1)).collect();
        assert_eq!((frames(&all), syns(&all)), (7, 4));
    }
}
