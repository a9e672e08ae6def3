//! `proxy:HOST:PORT`: each connection is spliced to one of the kernel's TCP to a backend.
//!
//! The worker itself does it: its backends' sockets are non-blocking and sit in one epoll
//! instance, whose descriptor the worker sleeps on together with its frames. Octets go from
//! the engine's receive buffer straight into the socket, and from the socket by way of one
//! buffer per worker into the engine's send buffer, within the turn in which they came. With
//! a stream handed to another thread's runtime each would cross a channel and wake a thread,
//! twice per request, and an idle connection would hold a task.
//!
//! - [`target`]: how backends are written, [`header`]: the PROXY protocol
//! - [`pool`]: the backends of a listen, chosen from by workers
//! - [`health`]: the threads that watch them
//! - `splice`: one connection; this file: what the connections of a worker share

pub mod header;
pub mod health;
pub mod pool;
mod socket;
mod splice;
pub mod target;

pub use health::{Pools, Watch};
pub use pool::{Pool, Settings};
pub(super) use splice::Splice;

use crate::proto::{ConnId, Instant};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::collections::VecDeque;
use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

/// Octets read from a backend at a time.
const BUFFER: usize = 64 << 10;
/// Events taken from epoll at a time.
const EVENTS: usize = 256;
/// An idle connection is looked at this often at least.
const IDLE_CHECK: Duration = Duration::from_secs(15);

/// What the proxied connections of a worker share.
pub(super) struct Shared {
    /// Made with the first connection.
    epoll: Option<Epoll>,
    buffer: Box<[u8]>,
    events: Vec<EpollEvent>,
    /// Connections that had more to carry than their turn allowed.
    again: VecDeque<ConnId>,
    /// Ends of attempts to connect. All wait equally long, so they are in order.
    connects: VecDeque<(Instant, ConnId)>,
    /// When to look whether connections are idle; in order as well.
    looks: VecDeque<(Instant, ConnId)>,
}

/// What a connection is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// Its socket is readable or writable.
    Ready(EpollFlags),
    /// It goes on where it stopped.
    Again,
    /// Connecting has taken too long, if it still does.
    ConnectTimeout,
    /// It may have been idle for too long.
    Look,
}

impl Shared {
    pub(super) fn new() -> Self {
        Self {
            epoll: None,
            buffer: vec![0; BUFFER].into(),
            events: vec![EpollEvent::empty(); EVENTS],
            again: VecDeque::new(),
            connects: VecDeque::new(),
            looks: VecDeque::new(),
        }
    }

    /// Readable when a backend's socket is.
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.epoll.as_ref().map(|epoll| epoll.0.as_fd())
    }

    /// When [`Self::signals`] has something, whatever the descriptor says.
    pub(super) fn deadline(&self) -> Option<Instant> {
        if !self.again.is_empty() {
            return Some(Instant(0));
        }
        let first = |queue: &VecDeque<(Instant, ConnId)>| queue.front().map(|(at, _)| *at);
        first(&self.connects)
            .into_iter()
            .chain(first(&self.looks))
            .min()
    }

    /// Adds who is to be told what at `now`.
    pub(super) fn signals(&mut self, now: Instant, out: &mut Vec<(ConnId, Signal)>) {
        out.extend(self.again.drain(..).map(|id| (id, Signal::Again)));
        if let Some(epoll) = &self.epoll {
            // An error (a signal came) means none; the descriptor stays readable.
            let ready = epoll
                .wait(&mut self.events, EpollTimeout::ZERO)
                .unwrap_or(0);
            out.extend(
                self.events[..ready]
                    .iter()
                    .map(|event| (unpack(event.data()), Signal::Ready(event.events()))),
            );
        }
        for (queue, signal) in [
            (&mut self.connects, Signal::ConnectTimeout),
            (&mut self.looks, Signal::Look),
        ] {
            while let Some((_, id)) = queue.pop_front_if(|(at, _)| *at <= now) {
                out.push((id, signal));
            }
        }
    }

    /// Edge-triggered: each change is told once.
    fn watch(&mut self, stream: &TcpStream, id: ConnId) -> io::Result<()> {
        if self.epoll.is_none() {
            self.epoll = Some(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?);
        }
        let flags = EpollFlags::EPOLLIN
            | EpollFlags::EPOLLOUT
            | EpollFlags::EPOLLRDHUP
            | EpollFlags::EPOLLET;
        match &self.epoll {
            Some(epoll) => Ok(epoll.add(stream, EpollEvent::new(flags, pack(id)))?),
            None => Ok(()),
        }
    }

    /// How often idle connections are looked at.
    fn look_every(settings: &Settings) -> Duration {
        (settings.idle_timeout / 4).min(IDLE_CHECK)
    }
}

fn pack(id: ConnId) -> u64 {
    u64::from(id.index) << 32 | u64::from(id.generation)
}

fn unpack(data: u64) -> ConnId {
    ConnId {
        index: (data >> 32) as u32,
        generation: data as u32,
    }
}

#[cfg(test)]
mod tests;
