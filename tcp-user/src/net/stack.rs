//! The stack that listeners are bound to.

use super::listener::Acceptor;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

/// Makes places served: whoever has the XDP program. May block for a moment.
pub trait Binder: Send + Sync {
    /// Connections to `local` go to `acceptor` from now on. An unspecified address is every
    /// address of the interface.
    ///
    /// `AddrInUse`: it is served already; `AddrNotAvailable`: not an address of the
    /// interface; `InvalidInput`: port 0; `NotConnected`: the stack has stopped.
    fn bind(&self, local: SocketAddr, acceptor: Acceptor) -> io::Result<()>;

    /// The place is served no more; connections go on. Does not wait.
    fn unbind(&self, local: SocketAddr);
}

/// A running stack: an interface with the XDP program and its workers. Clones are the same
/// stack.
#[derive(Clone)]
pub struct Stack(Arc<dyn Binder>);

impl Stack {
    /// A stack whose places `binder` serves.
    pub fn new(binder: impl Binder + 'static) -> Self {
        Self(Arc::new(binder))
    }

    pub(super) fn bind(&self, local: SocketAddr, acceptor: Acceptor) -> io::Result<()> {
        self.0.bind(local, acceptor)
    }

    pub(super) fn unbind(&self, local: SocketAddr) {
        self.0.unbind(local);
    }
}

impl fmt::Debug for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stack").finish_non_exhaustive()
    }
}
