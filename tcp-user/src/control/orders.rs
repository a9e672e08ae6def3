//! What clients of the control socket may change: their orders go to the server's main
//! thread, which alone writes to the XDP program's maps.

use super::listen::{Listen, Place, Policy};
use super::records::{ListenInfo, Reloaded, SecretInfo, SourcesInfo};
use super::sources::Change;
use crate::net::Acceptor;
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// The main thread answers within a turn; longer means that it is stopping.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Where an answer goes: a value, or one line that says why not.
pub type Answer<T> = Sender<Result<T, String>>;

/// An order.
#[derive(Debug)]
pub enum Order {
    /// What is served, and how.
    Listens(Answer<Vec<ListenInfo>>),
    /// Another policy for a place.
    Policy(Place, Policy, Answer<Vec<ListenInfo>>),
    /// Serves one more place.
    AddListen(Listen, Answer<Vec<ListenInfo>>),
    /// Serves a place no more.
    RemoveListen(Place, Answer<Vec<ListenInfo>>),
    /// The allow and deny lists, changed first if there is a change.
    Sources(Option<Change>, Answer<SourcesInfo>),
    /// Which secret is in use.
    Secret(Answer<SecretInfo>),
    /// A listener of this process: connections go to it.
    Bind(SocketAddr, Acceptor, Sender<io::Result<()>>),
    /// It is gone.
    Unbind(SocketAddr),
    /// Reads `cookie.secret_file` again, or draws a new secret.
    Rotate(Answer<SecretInfo>),
    /// Lets the connections of these places end, or of all; answered with the places.
    Drain(Vec<Place>, Answer<Vec<String>>),
    /// Reads the configuration again.
    Reload(Answer<Reloaded>),
}

/// The clients' end; clones go to the same server.
#[derive(Clone, Debug)]
pub struct Desk {
    orders: Sender<Order>,
    wake: Arc<EventFd>,
}

/// The main thread's end.
#[derive(Debug)]
pub struct Inbox {
    orders: Receiver<Order>,
    wake: Arc<EventFd>,
}

/// Both ends.
pub fn pair() -> nix::Result<(Desk, Inbox)> {
    let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
    let wake = Arc::new(EventFd::from_value_and_flags(0, flags)?);
    let (to, from) = channel();
    let desk = Desk {
        orders: to,
        wake: Arc::clone(&wake),
    };
    Ok((desk, Inbox { orders: from, wake }))
}

impl Desk {
    /// Places an order and waits for its answer.
    pub fn order<T>(&self, order: impl FnOnce(Answer<T>) -> Order) -> Result<T, String> {
        let stopping = || "the server is stopping".to_owned();
        let (to, from) = channel();
        if !self.place(order(to)) {
            return Err(stopping());
        }
        from.recv_timeout(ANSWER_WITHIN).unwrap_or_else(|e| {
            Err(match e {
                RecvTimeoutError::Disconnected => stopping(),
                RecvTimeoutError::Timeout => "the server does not answer".to_owned(),
            })
        })
    }

    /// Places an order; false: the server is stopping.
    pub fn place(&self, order: Order) -> bool {
        // The write can only fail when billions of orders are waiting.
        self.orders.send(order).is_ok() && self.wake.write(1).is_ok()
    }
}

impl Inbox {
    /// The next order, if any.
    pub fn next(&self) -> Option<Order> {
        // Only resets it; it cannot block.
        let _ = self.wake.read();
        self.orders.try_recv().ok()
    }
}

impl AsFd for Inbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}
