//! How fast counters grow.

use super::records::{ListenStats, Stats};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;
use tcp_common::counters::Counter;

/// Growth of the counters, per second.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Rates {
    /// Seconds in between.
    pub interval_s: f64,
    /// All frames that XDP saw.
    pub xdp_frames: f64,
    /// By counter.
    pub xdp: BTreeMap<String, f64>,
    /// By `Verdict::name`.
    pub verdicts: BTreeMap<String, f64>,
    /// By queue.
    pub workers: Vec<WorkerRates>,
    /// Connections accepted, by the listen's place.
    pub listens: BTreeMap<String, f64>,
}

/// Those of one worker.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct WorkerRates {
    /// Frames from the AF_XDP socket.
    pub received: f64,
    /// Frames sent.
    pub sent: f64,
    /// Frames by what the engine did with them.
    pub frames: BTreeMap<String, f64>,
}

impl Rates {
    /// Between two readings, `time` apart.
    pub fn between(before: &Stats, after: &Stats, time: Duration) -> Self {
        let seconds = time.as_secs_f64().max(1e-9);
        let rate = |before: u64, after: u64| after.saturating_sub(before) as f64 / seconds;
        let all = |before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>| {
            after
                .iter()
                .map(|(name, n)| {
                    let then = before.get(name).copied().unwrap_or(0);
                    (name.clone(), rate(then, *n))
                })
                .collect::<BTreeMap<_, _>>()
        };
        let xdp = all(&before.xdp, &after.xdp);
        let mut verdicts = BTreeMap::new();
        for counter in Counter::ALL {
            *verdicts
                .entry(counter.verdict().name().to_owned())
                .or_default() += xdp.get(counter.name()).copied().unwrap_or(0.0);
        }
        let listens = after
            .listens
            .iter()
            .map(|l| {
                let same = |other: &&ListenStats| other.listen.place == l.listen.place;
                let then = before.listens.iter().find(same).map_or(0, |l| l.accepted);
                (l.listen.place.clone(), rate(then, l.accepted))
            })
            .collect();
        Self {
            listens,
            interval_s: seconds,
            xdp_frames: rate(before.xdp_frames, after.xdp_frames),
            verdicts,
            workers: before
                .workers
                .iter()
                .zip(&after.workers)
                .map(|(before, after)| WorkerRates {
                    received: rate(before.received, after.received),
                    sent: rate(before.sent, after.sent),
                    frames: all(&before.frames, &after.frames),
                })
                .collect(),
            xdp,
        }
    }
}
