//! How tasks reach a worker: a list of the connections that want something.

use crate::proto::ConnId;
use nix::sys::eventfd::EventFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The ready list of one worker.
#[derive(Debug)]
pub(crate) struct Inbox {
    state: Mutex<State>,
    wake: Arc<EventFd>,
}

#[derive(Debug, Default)]
struct State {
    ready: Vec<ConnId>,
    /// The worker sleeps, or is about to, and has seen an empty list.
    asleep: bool,
}

impl Inbox {
    /// `wake` ends the worker's sleep.
    pub(crate) fn new(wake: Arc<EventFd>) -> Self {
        Self {
            state: Mutex::default(),
            wake,
        }
    }

    /// Puts a connection on the list, and ends the worker's sleep.
    pub(super) fn push(&self, id: ConnId) {
        let mut state = self.lock();
        state.ready.push(id);
        let asleep = std::mem::take(&mut state.asleep);
        drop(state);
        if asleep {
            // It can only fail when it has been written to 2^64 times.
            let _ = self.wake.write(1);
        }
    }

    /// Moves the list into `ready`, which is empty.
    pub(super) fn take(&self, ready: &mut Vec<ConnId>) {
        let mut state = self.lock();
        state.asleep = false;
        std::mem::swap(&mut state.ready, ready);
    }

    /// The worker wants to sleep; false if there is something on the list. From a true on
    /// the next [`Self::push`] wakes it.
    pub(super) fn may_sleep(&self) -> bool {
        let mut state = self.lock();
        state.asleep = state.ready.is_empty();
        state.asleep
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
