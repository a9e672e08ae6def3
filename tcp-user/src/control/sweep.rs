//! Removes flows that no worker knows.
//!
//! XDP enters a flow when it has checked the cookie; if the frame is then lost on its
//! way to the worker (RX ring full, bad payload checksum) nobody in userspace ever
//! heard of it. Such entries are found by age.

use super::flows::Flows;
use crate::dataplane::worker::{Command, Commands, clock};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};
use tcp_common::abi::Flow;
use tcp_common::flow::FlowKey;

/// Between two passes.
const EVERY: Duration = Duration::from_secs(30);
/// Younger entries are left alone: their first segment may still be on its way.
const AGE: Duration = Duration::from_mins(1);
/// Flows that the workers are asked about at a time.
const BATCH: usize = 1024;
/// Left to others after each batch.
const PAUSE: Duration = Duration::from_millis(1);

/// The sweeper; runs on a thread of its own.
pub struct Sweep {
    due: Instant,
    state: State,
}

enum State {
    Idle(Box<Parts>),
    Running(std::thread::JoinHandle<Box<Parts>>),
    Gone,
}

struct Parts {
    flows: Flows,
    workers: Vec<Commands>,
}

impl Sweep {
    /// A sweeper over the flows of these workers.
    pub fn new(flows: Flows, workers: Vec<Commands>) -> Self {
        Self {
            due: Instant::now() + EVERY,
            state: State::Idle(Box::new(Parts { flows, workers })),
        }
    }

    /// Starts a pass when it is time.
    pub fn tick(&mut self) {
        self.state = match std::mem::replace(&mut self.state, State::Gone) {
            State::Idle(mut parts) if Instant::now() >= self.due => {
                self.due = Instant::now() + EVERY;
                let thread = std::thread::Builder::new().name("sweep".into());
                match thread.spawn(move || {
                    let removed = parts.pass();
                    tracing::debug!(removed, "flows swept");
                    parts
                }) {
                    Ok(handle) => State::Running(handle),
                    Err(error) => {
                        tracing::warn!(%error, "no thread for sweeping flows");
                        State::Gone
                    }
                }
            }
            State::Running(handle) if handle.is_finished() => {
                handle.join().map_or(State::Gone, State::Idle)
            }
            other => other,
        };
    }
}

impl Parts {
    fn pass(&mut self) -> usize {
        let before = Flow::age_unit(clock().0.saturating_sub(AGE.as_nanos() as u64));
        let mut unknown = Vec::new();
        let mut batch = Vec::with_capacity(BATCH);
        let mut old = self.flows.older_than(before);
        loop {
            batch.extend(old.by_ref().take(BATCH));
            if batch.is_empty() {
                break;
            }
            self.keep_unknown(&mut batch);
            unknown.append(&mut batch);
            std::thread::sleep(PAUSE);
        }
        drop(old);
        for (key, flow) in &unknown {
            self.flows.remove_if_still(key, flow);
        }
        unknown.len()
    }

    /// Leaves those in the batch that no worker knows; none if a worker is silent.
    fn keep_unknown(&self, batch: &mut Vec<(FlowKey, Flow)>) {
        let keys: Vec<FlowKey> = batch.iter().map(|(key, _)| *key).collect();
        let mut known = vec![false; keys.len()];
        for worker in &self.workers {
            let (to, from) = channel();
            worker.send(Command::Knows(keys.clone(), to));
            match from.recv_timeout(Duration::from_secs(2)) {
                Ok(answer) => {
                    for (known, here) in known.iter_mut().zip(answer) {
                        *known |= here;
                    }
                }
                Err(_) => known.fill(true),
            }
        }
        let mut known = known.into_iter();
        batch.retain(|_| known.next() == Some(false));
    }
}
