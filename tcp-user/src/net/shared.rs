//! What a stream and its worker share.

use super::inbox::Inbox;
use crate::proto::ConnId;
use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};

/// Octets that wait in a stream at most, in each direction; what is beyond stays in the
/// engine's buffers or with the writer.
pub(super) const ROOM: usize = 128 << 10;
/// An empty buffer above this size is given back.
const KEPT: usize = 512;

/// What a task wants of the worker.
pub(super) mod want {
    /// More data: there is room again.
    pub(in crate::net) const RECEIVE: u8 = 1;
    /// Something to send, an option changed, or the stream is gone.
    pub(in crate::net) const SEND: u8 = 2;
}

/// One connection, seen from both sides.
#[derive(Debug)]
pub(super) struct Shared {
    id: ConnId,
    pub(super) peer: SocketAddr,
    pub(super) local: SocketAddr,
    inbox: Arc<Inbox>,
    /// [`want`]; the stream is on the ready list while it is not 0.
    wants: AtomicU8,
    recv: Mutex<Recv>,
    send: Mutex<Send>,
}

/// From the worker to the task.
#[derive(Debug, Default)]
pub(super) struct Recv {
    pub(super) data: VecDeque<u8>,
    /// What follows the data.
    pub(super) end: Option<End>,
    /// More waits in the engine.
    pub(super) stalled: bool,
    pub(super) tasks: Tasks,
}

/// From the task to the worker.
#[derive(Debug, Default)]
pub(super) struct Send {
    pub(super) data: VecDeque<u8>,
    /// Nothing is accepted any more: why not.
    pub(super) error: Option<ErrorKind>,
    /// A FIN stands behind the data.
    pub(super) fin: bool,
    pub(super) gone: Option<Gone>,
    pub(super) options: Options,
    pub(super) tasks: Tasks,
}

/// How a direction ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The peer's FIN.
    Fin,
    /// The connection broke.
    Broken(ErrorKind),
}

/// Nobody has the stream any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gone {
    /// What was written is sent, and a FIN.
    Close,
    /// An RST.
    Abort,
}

/// Socket options; all are off at first, as in the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) nodelay: bool,
    pub(super) keepalive: bool,
    pub(super) zero_linger: bool,
}

/// Who waits.
#[derive(Debug, Default)]
pub(super) struct Tasks {
    /// In `poll_read` or `poll_write`: the last one.
    poll: Option<Waker>,
    /// In `readable` or `writable`: all.
    ready: Vec<Waker>,
}

impl Tasks {
    pub(super) fn set_poll(&mut self, cx: &Context<'_>) {
        if !self.poll.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
            self.poll = Some(cx.waker().clone());
        }
    }

    pub(super) fn add(&mut self, cx: &Context<'_>) {
        if !self.ready.iter().any(|w| w.will_wake(cx.waker())) {
            self.ready.push(cx.waker().clone());
        }
    }

    /// To be woken once no lock is held.
    pub(super) fn take(&mut self, woken: &mut Vec<Waker>) {
        woken.extend(self.poll.take());
        woken.append(&mut self.ready);
    }
}

impl Shared {
    pub(super) fn new(
        id: ConnId,
        peer: SocketAddr,
        local: SocketAddr,
        inbox: Arc<Inbox>,
    ) -> Arc<Self> {
        Arc::new(Self {
            id,
            peer,
            local,
            inbox,
            wants: AtomicU8::new(0),
            recv: Mutex::default(),
            send: Mutex::default(),
        })
    }

    pub(super) fn id(&self) -> ConnId {
        self.id
    }

    pub(super) fn recv(&self) -> MutexGuard<'_, Recv> {
        self.recv.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn send(&self) -> MutexGuard<'_, Send> {
        self.send.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the worker. What it is to see was written before, under a lock that is free
    /// again.
    pub(super) fn notify(&self, wants: u8) {
        // The worker clears the bits before it looks: either it sees what was written, or
        // the bits are 0 here and the connection goes on the list again.
        if self.wants.fetch_or(wants, Ordering::AcqRel) == 0 {
            self.inbox.push(self.id);
        }
    }

    /// What is wanted; the worker looks now.
    pub(super) fn take_wants(&self) -> u8 {
        self.wants.swap(0, Ordering::AcqRel)
    }
}

impl Recv {
    /// Whether a read would not wait.
    pub(super) fn is_ready(&self) -> bool {
        !self.data.is_empty() || self.end.is_some()
    }

    /// Takes octets off the front as `copy` wants them; `Ok(0)` is the end, `WouldBlock`
    /// means that there is nothing yet. True beside it: the worker is to be told.
    pub(super) fn take(
        &mut self,
        copy: impl FnOnce(&mut VecDeque<u8>) -> usize,
    ) -> (io::Result<usize>, bool) {
        if self.data.is_empty() {
            let result = match self.end {
                None => Err(ErrorKind::WouldBlock.into()),
                Some(End::Fin) => Ok(0),
                Some(End::Broken(kind)) => Err(kind.into()),
            };
            return (result, false);
        }
        let octets = copy(&mut self.data);
        self.data.drain(..octets);
        shrink(&mut self.data);
        let tell = self.stalled && self.data.len() <= ROOM / 2;
        self.stalled &= !tell;
        (Ok(octets), tell)
    }
}

impl Send {
    /// Whether a write would not wait.
    pub(super) fn is_ready(&self) -> bool {
        self.data.len() < ROOM || self.error.is_some() || self.fin
    }

    /// Appends what there is room for, of several pieces.
    pub(super) fn append(&mut self, pieces: &[io::IoSlice<'_>]) -> io::Result<usize> {
        if let Some(kind) = self.error {
            return Err(kind.into());
        }
        if self.fin {
            return Err(ErrorKind::BrokenPipe.into());
        }
        let room = ROOM - self.data.len().min(ROOM);
        let wanted = pieces
            .iter()
            .fold(0_usize, |sum, p| sum.saturating_add(p.len()));
        let octets = wanted.min(room);
        if octets == 0 && wanted > 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        self.data.reserve(octets);
        let mut left = octets;
        for piece in pieces {
            let n = piece.len().min(left);
            self.data.extend(&piece[..n]);
            left -= n;
        }
        Ok(octets)
    }

    /// The worker has taken octets off the front.
    pub(super) fn taken(&mut self, octets: usize) {
        self.data.drain(..octets);
        shrink(&mut self.data);
    }

    /// Nothing more can be sent; what was not is lost.
    pub(super) fn fail(&mut self, kind: ErrorKind) {
        self.error.get_or_insert(kind);
        self.data = VecDeque::new();
    }
}

fn shrink(data: &mut VecDeque<u8>) {
    if data.is_empty() && data.capacity() > KEPT {
        *data = VecDeque::new();
    }
}
