//! The server inside another program: the interface is served by a thread of its own, and
//! [`crate::net::TcpListener`]s take the connections.

use super::config::Config;
use super::listen::Policy;
use super::loader::Mode;
use super::orders::{Desk, Order};
use super::{Options, Server as Inner, Stop};
use crate::net::{Acceptor, Binder, Stack};
use anyhow::{Result, anyhow};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// The server's thread answers within a turn; longer means that it is stopping.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// A running server. Dropping it ends it at once: open connections are reset.
#[derive(Debug)]
pub struct Server {
    stack: Stack,
    stop: Arc<EventFd>,
    ready: String,
    thread: Option<JoinHandle<Result<()>>>,
}

/// What a server is to be.
#[derive(Debug)]
pub struct Builder(Options);

impl Server {
    /// A server on an interface.
    pub fn builder(interface: impl Into<String>) -> Builder {
        Builder(Options {
            interface: interface.into(),
            mode: Mode::default(),
            origin: None,
            config: Config::default(),
            replace: false,
            tune: false,
            control: None,
            privileges: None,
            metrics: None,
            trace: false,
            pcap: None,
            faults: None,
            streams: Policy::default(),
        })
    }

    /// For [`crate::net::TcpListener::bind`].
    pub fn stack(&self) -> &Stack {
        &self.stack
    }

    /// Interface, mode and queues, as `tcp-user run` prints them.
    pub fn ready(&self) -> &str {
        &self.ready
    }

    /// Answers no SYNs any more, lets connections end for `shutdown.grace`, resets those
    /// that have not, and detaches. Blocks as long.
    ///
    /// An error says why the server had ended before, or what did not end well.
    pub fn shutdown(mut self) -> Result<()> {
        self.end(1)
    }

    fn end(&mut self, times: u64) -> Result<()> {
        let Some(thread) = self.thread.take() else {
            return Ok(());
        };
        self.stop.write(times)?;
        thread
            .join()
            .unwrap_or_else(|_| Err(anyhow!("the server panicked")))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = self.end(2) {
            tracing::warn!(error = format!("{error:#}"), "server");
        }
    }
}

impl Builder {
    /// Native or generic XDP; at first native where the driver has it.
    pub fn mode(mut self, mode: Mode) -> Self {
        self.0.mode = mode;
        self
    }

    /// The configuration; at first every key's default.
    pub fn config(mut self, config: Config) -> Self {
        self.0.config = config;
        self
    }

    /// How handshakes of its listeners are treated; at first by cookies.
    /// [`Policy::Adaptive`] is for protocols in which the server speaks first.
    pub fn policy(mut self, policy: Policy) -> Self {
        self.0.streams = policy;
        self
    }

    /// Takes the place of an XDP program that is there.
    pub fn replace(mut self, replace: bool) -> Self {
        self.0.replace = replace;
        self
    }

    /// Path of the control socket; at first as that of `tcp-user run`.
    pub fn control(mut self, path: impl Into<PathBuf>) -> Self {
        self.0.control = Some(path.into());
        self
    }

    /// Loads the XDP program, attaches it and starts the workers, in this thread's network
    /// namespace. Blocks for some 100 ms.
    ///
    /// The error is one line that says what to do: a missing capability, no such
    /// interface, another program there.
    pub fn start(self) -> Result<Server> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_SEMAPHORE;
        let stop = Arc::new(EventFd::from_flags(flags)?);
        let told = Stop::Told(Arc::clone(&stop));
        let (to, from) = sync_channel(1);
        // A new thread has the network namespace of the one that makes it.
        let thread = std::thread::Builder::new()
            .name("server".into())
            .spawn(move || {
                let mut server = Inner::start(self.0)?;
                let _ = to.send((server.desk.clone(), server.ready.clone()));
                drop(to);
                server.wait(&told)?;
                server.stop(&told)
            })?;
        let Ok((desk, ready)) = from.recv() else {
            let failed = thread.join().unwrap_or(Ok(()));
            return Err(failed
                .err()
                .unwrap_or_else(|| anyhow!("the server panicked")));
        };
        Ok(Server {
            stack: Stack::new(Embedded(desk)),
            stop,
            ready,
            thread: Some(thread),
        })
    }
}

/// Orders to the server's thread.
struct Embedded(Desk);

impl Binder for Embedded {
    fn bind(&self, local: SocketAddr, acceptor: Acceptor) -> io::Result<()> {
        let stopped = || io::Error::new(io::ErrorKind::NotConnected, "the stack has stopped");
        let (to, from) = channel();
        if !self.0.place(Order::Bind(local, acceptor, to)) {
            return Err(stopped());
        }
        match from.recv_timeout(ANSWER_WITHIN) {
            Ok(answer) => answer,
            Err(RecvTimeoutError::Disconnected) => Err(stopped()),
            Err(RecvTimeoutError::Timeout) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    fn unbind(&self, local: SocketAddr) {
        // If the server has stopped, so has the listen.
        self.0.place(Order::Unbind(local));
    }
}
