//! One client and its backend.

use super::header::Header;
use super::pool::{Lease, Outcome, Pool};
use super::{BUFFER, Shared, Signal, socket};
use crate::app::Context;
use crate::proto::{CloseReason, Instant};
use nix::sys::epoll::EpollFlags;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;

/// Octets carried to a client in one turn, so that the others have theirs.
const TURN: usize = 256 << 10;
/// Backends tried for one client.
const TRIES: u8 = 3;

/// State of a proxied connection.
pub(in crate::app) struct Splice {
    pool: Arc<Pool>,
    lease: Option<Lease>,
    stream: Option<TcpStream>,
    /// Octets from the backend that the engine had no memory for.
    rest: Option<Box<[u8]>>,
    /// When octets last passed; while connecting, when that began.
    active: Instant,
    connecting: bool,
    /// The end was counted, and there is no socket any more.
    over: bool,
    /// It will get [`Signal::Again`].
    queued: bool,
    tries: u8,
    /// Octets of the header still to be sent.
    header: u8,
    /// What the socket is ready for, as far as is known.
    readable: bool,
    writable: bool,
    /// The end of the backend's octets, or an error, is there to be read.
    ending: bool,
    /// The client's FIN was passed on, the backend's was.
    to_backend_done: bool,
    to_client_done: bool,
}

impl Splice {
    pub(in crate::app) fn new(pool: Arc<Pool>) -> Self {
        pool.count_accepted();
        Self {
            pool,
            lease: None,
            stream: None,
            rest: None,
            active: Instant(0),
            connecting: false,
            over: false,
            queued: false,
            tries: 0,
            header: 0,
            readable: false,
            writable: false,
            ending: false,
            to_backend_done: false,
            to_client_done: false,
        }
    }

    /// The client is there: connects to a backend.
    pub(in crate::app) fn start(&mut self, cx: &mut Context<'_>) {
        self.active = cx.now;
        // The backend's segments decide what is sent together.
        let _ = cx.endpoint.set_nagle(cx.now, cx.id, false);
        if !self.pool.settings().idle_timeout.is_zero() {
            let at = cx.now + Shared::look_every(self.pool.settings());
            cx.shared.proxy.looks.push_back((at, cx.id));
        }
        let result = self
            .connect(cx, None, Outcome::NoBackend)
            .and_then(|()| self.pump(cx));
        self.settle(cx, result);
    }

    /// Something happened on the client's side.
    pub(in crate::app) fn run(&mut self, cx: &mut Context<'_>) {
        let result = self.pump(cx);
        self.settle(cx, result);
    }

    /// Something else happened.
    pub(in crate::app) fn signal(&mut self, cx: &mut Context<'_>, signal: Signal) {
        let result = self.take(cx, signal);
        self.settle(cx, result);
    }

    /// The client is gone.
    pub(in crate::app) fn closed(&mut self, reason: CloseReason) {
        let outcome = match reason {
            CloseReason::Done => Outcome::Done,
            CloseReason::Reset => Outcome::ClientReset,
            CloseReason::TimedOut => Outcome::ClientTimedOut,
            CloseReason::Aborted => Outcome::Shutdown,
        };
        self.end(outcome);
    }

    fn settle(&mut self, cx: &mut Context<'_>, result: Result<(), Outcome>) {
        match result {
            Ok(()) if self.to_backend_done && self.to_client_done => self.end(Outcome::Done),
            Ok(()) => {}
            Err(outcome) => {
                self.end(outcome);
                cx.endpoint.abort(cx.now, cx.id);
            }
        }
    }

    /// Counts the end, once, and closes the socket: after both FINs, or with an RST.
    fn end(&mut self, outcome: Outcome) {
        if std::mem::replace(&mut self.over, true) {
            return;
        }
        // An end that is counted is no open connection of the backend's any more.
        self.lease = None;
        self.pool.count_outcome(outcome);
        self.rest = None;
        if let Some(stream) = self.stream.take()
            && outcome != Outcome::Done
        {
            socket::reset(stream);
        }
    }

    fn take(&mut self, cx: &mut Context<'_>, signal: Signal) -> Result<(), Outcome> {
        if self.over {
            return Ok(());
        }
        let settings = self.pool.settings();
        match signal {
            Signal::Ready(flags) => self.ready(cx, flags)?,
            Signal::Again => self.queued = false,
            Signal::ConnectTimeout => {
                // It may have been meant for an earlier attempt.
                if self.connecting && cx.now >= self.active + settings.connect_timeout {
                    self.failed(cx, Outcome::ConnectTimedOut)?;
                }
            }
            Signal::Look => {
                if !self.connecting && cx.now >= self.active + settings.idle_timeout {
                    return Err(Outcome::Idle);
                }
                let at = cx.now + Shared::look_every(settings);
                cx.shared.proxy.looks.push_back((at, cx.id));
                return Ok(());
            }
        }
        self.pump(cx)
    }

    /// Begins a connection to a backend other than `not`. Where there is none the client's
    /// end is for the reason that `failure` says.
    fn connect(
        &mut self,
        cx: &mut Context<'_>,
        mut not: Option<SocketAddr>,
        mut failure: Outcome,
    ) -> Result<(), Outcome> {
        while self.tries < TRIES {
            let Some(lease) = self.pool.choose(not) else {
                break;
            };
            self.tries += 1;
            match socket::connect(lease.addr()) {
                Ok((stream, there)) => {
                    let watched = cx.shared.proxy.watch(&stream, cx.id);
                    if let Err(error) = watched {
                        tracing::debug!(%error, "epoll");
                        return Err(Outcome::NoResources);
                    }
                    self.stream = Some(stream);
                    self.lease = Some(lease);
                    self.active = cx.now;
                    self.connecting = true;
                    if there {
                        self.connected(cx);
                    } else {
                        let at = cx.now + self.pool.settings().connect_timeout;
                        cx.shared.proxy.connects.push_back((at, cx.id));
                    }
                    return Ok(());
                }
                Err(error) if socket::is_shortage(&error) => {
                    tracing::debug!(%error, backend = %lease.addr(), "connect");
                    return Err(Outcome::NoResources);
                }
                Err(error) => {
                    lease.failed(self.pool.settings());
                    not = Some(lease.addr());
                    failure = failed_to_connect(&error);
                }
            }
        }
        Err(failure)
    }

    fn connected(&mut self, cx: &mut Context<'_>) {
        self.connecting = false;
        self.writable = true;
        self.active = cx.now;
        self.header = self.header(cx).octets().len() as u8;
        if let Some(lease) = &self.lease {
            lease.connected();
        }
    }

    /// An attempt failed: the next, if there is one.
    fn failed(&mut self, cx: &mut Context<'_>, why: Outcome) -> Result<(), Outcome> {
        self.stream = None;
        self.connecting = false;
        let lease = self.lease.take();
        if let Some(lease) = &lease {
            lease.failed(self.pool.settings());
        }
        self.connect(cx, lease.map(|lease| lease.addr()), why)
    }

    /// The socket has something to say.
    fn ready(&mut self, cx: &mut Context<'_>, flags: EpollFlags) -> Result<(), Outcome> {
        let Some(stream) = &self.stream else {
            return Ok(());
        };
        if self.connecting {
            match stream.take_error() {
                Ok(None) if flags.contains(EpollFlags::EPOLLOUT) => self.connected(cx),
                Ok(None) => return Ok(()),
                Ok(Some(error)) | Err(error) => {
                    return self.failed(cx, failed_to_connect(&error));
                }
            }
        }
        let ending = EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR;
        self.ending |= flags.intersects(ending);
        self.readable |= flags.intersects(ending | EpollFlags::EPOLLIN);
        self.writable |= flags.contains(EpollFlags::EPOLLOUT);
        // Where octets are still read the error comes after them.
        if self.to_client_done
            && flags.contains(EpollFlags::EPOLLERR)
            && let Some(stream) = &self.stream
            && let Ok(Some(error)) = stream.take_error()
        {
            return Err(broken(&error));
        }
        Ok(())
    }

    /// Carries what can be carried.
    fn pump(&mut self, cx: &mut Context<'_>) -> Result<(), Outcome> {
        if self.connecting || self.over {
            return Ok(());
        }
        self.feed_backend(cx)?;
        self.feed_client(cx)
    }

    fn header(&self, cx: &Context<'_>) -> Header {
        match cx.endpoint.flow(cx.id) {
            Some(flow) => Header::new(self.pool.settings().header, flow.remote(), flow.local()),
            None => Header::local(self.pool.settings().header),
        }
    }

    fn feed_backend(&mut self, cx: &mut Context<'_>) -> Result<(), Outcome> {
        let Some(mut stream) = self.stream.as_ref() else {
            return Ok(());
        };
        while self.writable && !self.to_backend_done {
            // A client that is gone is told by an event.
            let Ok([a, b]) = cx.endpoint.peek(cx.id) else {
                return Ok(());
            };
            let left = usize::from(self.header);
            let len = left + a.len() + b.len();
            if len == 0 {
                break;
            }
            let written = if left > 0 {
                let header = self.header(cx);
                let header = header.octets();
                let header = &header[header.len() - left..];
                stream.write_vectored(&[header, a, b].map(IoSlice::new))
            } else if b.is_empty() {
                stream.write(a)
            } else {
                stream.write_vectored(&[a, b].map(IoSlice::new))
            };
            match written {
                Ok(n) => {
                    self.header -= left.min(n) as u8;
                    let octets = n - left.min(n);
                    cx.consume(octets);
                    self.pool.count_octets(octets as u64, 0);
                    self.active = cx.now;
                    self.writable = n == len;
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => self.writable = false,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(broken(&e)),
            }
        }
        if !self.to_backend_done
            && self.header == 0
            && cx.endpoint.state(cx.id).is_some()
            && cx.endpoint.is_read_closed(cx.id)
        {
            self.to_backend_done = true;
            self.active = cx.now;
            // An error shows when reading.
            let _ = stream.shutdown(Shutdown::Write);
        }
        Ok(())
    }

    fn feed_client(&mut self, cx: &mut Context<'_>) -> Result<(), Outcome> {
        if let Some(rest) = self.rest.take() {
            let Ok(taken) = cx.endpoint.write(cx.now, cx.id, &rest) else {
                return Ok(());
            };
            if taken < rest.len() {
                self.rest = Some(rest[taken..].into());
                return Ok(());
            }
        }
        let mut budget = TURN;
        while self.readable && !self.to_client_done {
            let Some(mut stream) = self.stream.as_ref() else {
                return Ok(());
            };
            let room = cx.endpoint.send_room(cx.id).min(BUFFER);
            if room == 0 {
                // Takes nothing; `Writable` comes when it would again.
                let _ = cx.endpoint.write(cx.now, cx.id, &[0]);
                return Ok(());
            }
            let buffer = &mut cx.shared.proxy.buffer[..room];
            match stream.read(buffer) {
                Ok(0) => {
                    self.to_client_done = true;
                    self.active = cx.now;
                    cx.shutdown();
                }
                Ok(n) => {
                    self.active = cx.now;
                    self.pool.count_octets(0, n as u64);
                    let Ok(taken) = cx.endpoint.write(cx.now, cx.id, &buffer[..n]) else {
                        return Ok(());
                    };
                    if taken < n {
                        self.rest = Some(buffer[taken..n].into());
                        return Ok(());
                    }
                    // A short read took all there was; what comes next is told.
                    self.readable = n == room || self.ending;
                    budget = budget.saturating_sub(n);
                    if budget == 0 {
                        self.queue(cx);
                        return Ok(());
                    }
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => self.readable = false,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(broken(&e)),
            }
        }
        Ok(())
    }

    /// Goes on in the next turn.
    fn queue(&mut self, cx: &mut Context<'_>) {
        if !std::mem::replace(&mut self.queued, true) {
            cx.shared.proxy.again.push_back(cx.id);
        }
    }
}

impl Drop for Splice {
    fn drop(&mut self) {
        self.end(Outcome::Shutdown);
    }
}

fn failed_to_connect(error: &io::Error) -> Outcome {
    match error.kind() {
        ErrorKind::ConnectionRefused => Outcome::Refused,
        ErrorKind::TimedOut => Outcome::ConnectTimedOut,
        _ => Outcome::Unreachable,
    }
}

/// Why an open connection to a backend broke.
fn broken(error: &io::Error) -> Outcome {
    match error.kind() {
        ErrorKind::TimedOut | ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => {
            Outcome::BackendTimedOut
        }
        _ => Outcome::BackendReset,
    }
}
