//! The worker's side of streams.

use super::inbox::Inbox;
use super::listener::Acceptor;
use super::shared::{End, Gone, Options, ROOM, Shared, want};
use super::stream::TcpStream;
use crate::proto::{CloseReason, ConnId, Endpoint, Instant};
use nix::sys::eventfd::EventFd;
use std::io::ErrorKind;
use std::sync::Arc;
use std::task::Waker;

/// What the streams of a worker have in common.
pub(crate) struct Streams {
    inbox: Arc<Inbox>,
    /// Connections that want something; scratch.
    ready: Vec<ConnId>,
    /// Tasks to be woken when the events of a turn are handled.
    woken: Vec<Waker>,
}

impl Streams {
    /// `wake` ends the worker's sleep.
    pub(crate) fn new(wake: Arc<EventFd>) -> Self {
        Self {
            inbox: Arc::new(Inbox::new(wake)),
            ready: Vec::new(),
            woken: Vec::new(),
        }
    }

    /// The connections whose tasks want something; to be given back to [`Self::done`].
    pub(crate) fn take_ready(&mut self) -> Vec<ConnId> {
        let mut ready = std::mem::take(&mut self.ready);
        self.inbox.take(&mut ready);
        ready
    }

    /// Keeps the list's memory.
    pub(crate) fn done(&mut self, mut ready: Vec<ConnId>) {
        ready.clear();
        self.ready = ready;
    }

    /// Wakes the tasks for which something has changed.
    pub(crate) fn wake(&mut self) {
        for waker in self.woken.drain(..) {
            waker.wake();
        }
    }

    /// Whether no task wants anything.
    pub(crate) fn may_sleep(&self) -> bool {
        self.inbox.may_sleep()
    }
}

/// A connection that has a stream.
pub(crate) struct Attached {
    shared: Arc<Shared>,
    /// Options as the engine has them.
    options: Options,
    /// The engine was told to send the FIN.
    shut: bool,
    /// Nobody has the stream; it is closed once all is sent.
    closing: bool,
}

/// Whether a connection stays with its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Fate {
    /// Yes.
    Stays,
    /// The engine goes on alone.
    Leaves,
}

impl Attached {
    /// Makes a stream of a new connection and queues it for `accept`; `None`: refused, and
    /// reset.
    pub(crate) fn accept(
        now: Instant,
        endpoint: &mut Endpoint,
        id: ConnId,
        acceptor: &Acceptor,
        streams: &mut Streams,
    ) -> Option<Self> {
        let flow = endpoint.flow(id)?;
        let shared = Shared::new(id, flow.remote(), flow.local(), Arc::clone(&streams.inbox));
        let mut attached = Self {
            shared: Arc::clone(&shared),
            options: Options::default(),
            shut: false,
            closing: false,
        };
        // What came with the first segment is there when the stream is.
        attached.receive(endpoint, &mut streams.woken);
        if acceptor.offer(TcpStream::new(shared), &mut streams.woken) {
            Some(attached)
        } else {
            endpoint.abort(now, id);
            None
        }
    }

    /// There is data, or the peer's FIN.
    pub(crate) fn handle_readable(
        &mut self,
        now: Instant,
        endpoint: &mut Endpoint,
        streams: &mut Streams,
    ) -> Fate {
        let id = self.shared.id();
        if self.closing && has_unread(endpoint, id) {
            endpoint.abort(now, id);
            return Fate::Leaves;
        }
        self.receive(endpoint, &mut streams.woken);
        Fate::Stays
    }

    /// The engine's send buffer has room.
    pub(crate) fn handle_writable(
        &mut self,
        now: Instant,
        endpoint: &mut Endpoint,
        streams: &mut Streams,
    ) -> Fate {
        self.send(now, endpoint, &mut streams.woken)
    }

    /// The task wants something.
    pub(crate) fn handle_ready(
        &mut self,
        now: Instant,
        endpoint: &mut Endpoint,
        streams: &mut Streams,
    ) -> Fate {
        let wants = self.shared.take_wants();
        if wants & want::RECEIVE != 0 {
            self.receive(endpoint, &mut streams.woken);
        }
        if wants & want::SEND != 0 {
            return self.send(now, endpoint, &mut streams.woken);
        }
        Fate::Stays
    }

    /// The connection is gone.
    pub(crate) fn handle_closed(&mut self, reason: CloseReason, streams: &mut Streams) {
        self.finish(reason, &mut streams.woken);
    }

    fn receive(&mut self, endpoint: &mut Endpoint, woken: &mut Vec<Waker>) {
        let id = self.shared.id();
        let mut recv = self.shared.recv();
        let Ok(parts) = endpoint.peek(id) else {
            return;
        };
        let mut octets = 0;
        for part in parts {
            let n = part.len().min(ROOM - recv.data.len().min(ROOM));
            recv.data.extend(&part[..n]);
            octets += n;
        }
        recv.stalled = octets < parts[0].len() + parts[1].len();
        if octets > 0 {
            // It was just there.
            let _ = endpoint.consume(id, octets);
        }
        if recv.end.is_none() && endpoint.is_read_closed(id) {
            recv.end = Some(End::Fin);
        }
        if recv.is_ready() {
            recv.tasks.take(woken);
        }
    }

    fn send(&mut self, now: Instant, endpoint: &mut Endpoint, woken: &mut Vec<Waker>) -> Fate {
        let id = self.shared.id();
        let mut send = self.shared.send();
        if send.gone == Some(Gone::Abort) {
            endpoint.abort(now, id);
            return Fate::Leaves;
        }
        self.closing = send.gone.is_some();
        if self.closing && has_unread(endpoint, id) {
            endpoint.abort(now, id);
            return Fate::Leaves;
        }
        if send.options != self.options {
            // Refused by a connection whose end is on its way as an event.
            if send.options.nodelay != self.options.nodelay {
                let _ = endpoint.set_nagle(now, id, !send.options.nodelay);
            }
            if send.options.keepalive != self.options.keepalive {
                let _ = endpoint.set_keepalive(now, id, send.options.keepalive);
            }
            self.options = send.options;
        }
        while !send.data.is_empty() {
            let (front, _) = send.data.as_slices();
            let len = front.len();
            match endpoint.write(now, id, front) {
                Ok(octets) => {
                    send.taken(octets);
                    if octets < len {
                        break;
                    }
                }
                // The event that says why follows.
                Err(_) => send.data.clear(),
            }
        }
        if send.data.is_empty() {
            if self.closing {
                endpoint.close(now, id);
                return Fate::Leaves;
            }
            if send.fin && !self.shut {
                self.shut = true;
                // Refused only if the connection is over.
                let _ = endpoint.shutdown(now, id);
            }
        }
        if send.data.len() <= ROOM / 2 {
            send.tasks.take(woken);
        }
        Fate::Stays
    }

    /// Both directions end.
    fn finish(&self, reason: CloseReason, woken: &mut Vec<Waker>) {
        let kind = match reason {
            CloseReason::Done => None,
            CloseReason::Reset => Some(ErrorKind::ConnectionReset),
            CloseReason::Aborted => Some(ErrorKind::ConnectionAborted),
            CloseReason::TimedOut => Some(ErrorKind::TimedOut),
        };
        let mut recv = self.shared.recv();
        let finished = recv.end.is_some();
        recv.end.get_or_insert(kind.map_or(End::Fin, End::Broken));
        recv.tasks.take(woken);
        drop(recv);
        let mut send = self.shared.send();
        send.fail(match kind {
            // As the kernel has it: the peer closed, and does not want what we still sent.
            Some(ErrorKind::ConnectionReset) if finished => ErrorKind::BrokenPipe,
            Some(kind) => kind,
            None => ErrorKind::BrokenPipe,
        });
        send.tasks.take(woken);
    }
}

/// Received data that nobody will read: the peer is told by an RST (RFC 2525 §2.17).
fn has_unread(endpoint: &Endpoint, id: ConnId) -> bool {
    endpoint.peek(id).is_ok_and(|[a, _]| !a.is_empty())
}

/// The worker ends before the connection does.
impl Drop for Attached {
    fn drop(&mut self) {
        let mut woken = Vec::new();
        self.finish(CloseReason::Aborted, &mut woken);
        for waker in woken {
            waker.wake();
        }
    }
}
