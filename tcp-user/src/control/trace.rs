//! Hands trace records from the workers to whoever watches.
//!
//! A worker never waits: what finds no room in its queue, or in a watcher's, is
//! dropped and counted.

use super::records::Segment;
use crate::dataplane::worker::{Command, Commands, TraceSink};
use crate::proto::TraceEvent;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Records on their way from the workers.
const QUEUE: usize = 1 << 14;
/// Records on their way to one watcher.
const WATCHER_QUEUE: usize = 1 << 14;

/// Where records are handed out.
#[derive(Clone, Debug)]
pub struct Hub {
    inner: Arc<Mutex<Inner>>,
    dropped: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
struct Inner {
    workers: Vec<Commands>,
    watchers: Vec<SyncSender<Segment>>,
}

impl Hub {
    /// Starts the thread that hands out; workers send into the sink.
    pub fn start() -> std::io::Result<(Self, TraceSink)> {
        let (records, incoming) = sync_channel::<TraceEvent>(QUEUE);
        let dropped = Arc::new(AtomicU64::new(0));
        let hub = Self {
            inner: Arc::default(),
            dropped: Arc::clone(&dropped),
        };
        let here = hub.clone();
        std::thread::Builder::new()
            .name("trace".into())
            .spawn(move || {
                for event in incoming {
                    here.hand_out(&event);
                }
            })?;
        Ok((hub, TraceSink { records, dropped }))
    }

    /// The workers to be told when tracing goes on and off.
    pub fn set_workers(&self, workers: Vec<Commands>) {
        let mut inner = self.lock();
        inner.workers = workers;
        inner.switch();
    }

    /// Records from now on, until the receiver is dropped.
    pub fn watch(&self) -> Receiver<Segment> {
        let (to, from) = sync_channel(WATCHER_QUEUE);
        let mut inner = self.lock();
        inner.watchers.push(to);
        inner.switch();
        from
    }

    /// Ends every watcher's stream.
    pub fn close(&self) {
        self.lock().watchers.clear();
    }

    /// Records that found no room.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn hand_out(&self, event: &TraceEvent) {
        let segment = Segment::from(event);
        let mut inner = self.lock();
        let before = inner.watchers.len();
        inner
            .watchers
            .retain(|watcher| match watcher.try_send(segment.clone()) {
                Ok(()) => true,
                Err(TrySendError::Full(_)) => {
                    self.dropped.fetch_add(1, Ordering::Relaxed);
                    true
                }
                Err(TrySendError::Disconnected(_)) => false,
            });
        if inner.watchers.len() != before {
            inner.switch();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn switch(&self) {
        for worker in &self.workers {
            worker.send(Command::Trace(!self.watchers.is_empty()));
        }
    }
}
