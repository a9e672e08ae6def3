//! What a server waits for: a signal, a word of the program that it is part of, an order.

use super::orders;
use anyhow::Result;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

/// What ends a server: once for its connections to end, twice for them to be ended.
pub(super) enum Stop {
    Signals(SignalFd),
    /// A semaphore.
    Told(Arc<EventFd>),
}

impl Stop {
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Signals(signals) => signals.as_fd(),
            Self::Told(told) => told.as_fd(),
        }
    }

    /// Takes one off.
    pub(super) fn take(&self) -> Result<Option<Told>> {
        Ok(match self {
            Self::Signals(signals) => signals.read_signal()?.map(|info| {
                if info.ssi_signo == Signal::SIGHUP as u32 {
                    Told::Reload
                } else {
                    Told::Stop
                }
            }),
            Self::Told(told) => told.read().is_ok().then_some(Told::Stop),
        })
    }
}

/// What a server is told.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    Stop,
    Reload,
}

/// Waits until something is told, or for an order.
pub(super) fn told(
    stop: &Stop,
    orders: Option<&orders::Inbox>,
    timeout: Duration,
) -> Result<Option<Told>> {
    let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
    let fd = stop.fd();
    let mut fds = [
        PollFd::new(fd, PollFlags::POLLIN),
        PollFd::new(orders.map_or(fd, AsFd::as_fd), PollFlags::POLLIN),
    ];
    match poll(&mut fds, timeout) {
        Ok(0) | Err(nix::Error::EINTR) => Ok(None),
        Ok(_) => stop.take(),
        Err(e) => Err(e.into()),
    }
}
