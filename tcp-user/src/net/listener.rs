//! Connections that wait to be accepted.

use super::stack::Stack;
use super::stream::TcpStream;
use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use tokio::net::{ToSocketAddrs, lookup_host};

/// Connections that may wait to be accepted, as `listen(2)` of the kernel has it.
pub const BACKLOG: usize = 4096;

/// Accepts connections to one place, as `tokio::net::TcpListener` does.
///
/// Dropping it ends the service: waiting connections are reset, accepted ones go on.
#[derive(Debug)]
pub struct TcpListener {
    backlog: Arc<Backlog>,
    local: SocketAddr,
    /// Where it is to be unbound.
    stack: Option<Stack>,
}

/// The workers' end of a listener. The listener ends when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Acceptor(Arc<Source>);

#[derive(Debug)]
struct Source(Arc<Backlog>);

struct Backlog {
    queue: Mutex<Queue>,
    limit: usize,
    refused: AtomicU64,
}

#[derive(Default)]
struct Queue {
    streams: VecDeque<TcpStream>,
    tasks: Vec<Waker>,
    /// No listener, or no stack.
    closed: bool,
}

/// Both ends of a listener on `local`: what workers offer comes out of `accept`. At most
/// `backlog` connections wait.
pub fn listener(local: SocketAddr, backlog: usize) -> (Acceptor, TcpListener) {
    let backlog = Arc::new(Backlog {
        queue: Mutex::default(),
        limit: backlog,
        refused: AtomicU64::new(0),
    });
    let listener = TcpListener {
        backlog: Arc::clone(&backlog),
        local,
        stack: None,
    };
    (Acceptor(Arc::new(Source(backlog))), listener)
}

impl TcpListener {
    /// Serves an address and port of the stack's interface; `0.0.0.0` or `[::]` is every
    /// address, in both families. At most 4096 connections wait to be accepted.
    ///
    /// `AddrInUse`: it is served already; `AddrNotAvailable`: the interface has no such
    /// address; `InvalidInput`: port 0, or no address at all; `NotConnected`: the stack
    /// has stopped.
    pub async fn bind(stack: &Stack, addr: impl ToSocketAddrs) -> io::Result<Self> {
        Self::bind_with_backlog(stack, addr, BACKLOG).await
    }

    /// As [`Self::bind`], with another number of connections that may wait.
    pub async fn bind_with_backlog(
        stack: &Stack,
        addr: impl ToSocketAddrs,
        backlog: usize,
    ) -> io::Result<Self> {
        let mut error = None;
        for local in lookup_host(addr).await? {
            let (acceptor, mut listener) = listener(local, backlog);
            let binder = stack.clone();
            let bound = tokio::task::spawn_blocking(move || binder.bind(local, acceptor))
                .await
                .map_err(io::Error::other)?;
            match bound {
                Ok(()) => {
                    listener.stack = Some(stack.clone());
                    return Ok(listener);
                }
                Err(e) => error = Some(e),
            }
        }
        Err(error.unwrap_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, "the name has no address")
        }))
    }

    /// The next connection. Cancel safe.
    ///
    /// `NotConnected`: the stack has stopped, there will be none.
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        poll_fn(|cx| self.poll_accept(cx)).await
    }

    /// The next connection; any number of tasks may wait.
    pub fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
        let coop = std::task::ready!(tokio::task::coop::poll_proceed(cx));
        let mut queue = self.backlog.lock();
        if let Some(stream) = queue.streams.pop_front() {
            coop.made_progress();
            let peer = stream.peer();
            return Poll::Ready(Ok((stream, peer)));
        }
        if queue.closed {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::NotConnected,
                "the stack has stopped",
            )));
        }
        if !queue.tasks.iter().any(|w| w.will_wake(cx.waker())) {
            queue.tasks.push(cx.waker().clone());
        }
        Poll::Pending
    }

    /// What it is bound to.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }

    /// Connections that were reset because too many waited.
    pub fn refused(&self) -> u64 {
        self.backlog.refused.load(Ordering::Relaxed)
    }
}

impl Drop for TcpListener {
    fn drop(&mut self) {
        if let Some(stack) = &self.stack {
            stack.unbind(self.local);
        }
        for stream in self.backlog.close() {
            stream.reset_on_drop();
        }
    }
}

impl Acceptor {
    /// Queues a stream; false, and the stream is gone, if there is no room. The tasks to
    /// wake are added to `woken`.
    pub(super) fn offer(&self, stream: TcpStream, woken: &mut Vec<Waker>) -> bool {
        let backlog = &self.0.0;
        let mut queue = backlog.lock();
        if queue.closed || queue.streams.len() >= backlog.limit {
            drop(queue);
            backlog.refused.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        queue.streams.push_back(stream);
        woken.append(&mut queue.tasks);
        true
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        // What waits can still be accepted.
        let mut queue = self.0.lock();
        queue.closed = true;
        let tasks = std::mem::take(&mut queue.tasks);
        drop(queue);
        tasks.into_iter().for_each(Waker::wake);
    }
}

impl Backlog {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes nothing any more; what waits.
    fn close(&self) -> VecDeque<TcpStream> {
        let mut queue = self.lock();
        queue.closed = true;
        std::mem::take(&mut queue.streams)
    }
}

impl fmt::Debug for Backlog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backlog")
            .field("waiting", &self.lock().streams.len())
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}
