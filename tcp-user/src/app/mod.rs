//! What answers: the built-in apps, state machines over an [`Endpoint`] that its worker runs,
//! and those that are tasks over [`crate::net`].

mod chargen;
mod discard;
mod echo;
mod http;
pub mod proxy;
pub mod task;

use crate::dataplane::query::Drained;
use crate::dataplane::worker::Application;
use crate::net::{Acceptor, Attached, Fate, Streams};
use crate::proto::{ConnId, Endpoint, Event, Instant};
use nix::sys::eventfd::EventFd;
use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::str::FromStr;
use std::sync::Arc;

/// The apps by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum App {
    /// Returns every octet.
    Echo,
    /// Reads and drops.
    Discard,
    /// Sends until closed.
    Chargen,
    /// HTTP/1.1.
    Http,
    /// Returns every octet, as a tokio task: to see what that costs.
    TokioEcho,
    /// Not here: whoever listens on a socket of the kernel's.
    Kernel,
    /// A [`crate::net::TcpListener`] of this process; not for `--listen`.
    Stream,
    /// Splices to a backend.
    Proxy(Arc<proxy::Pool>),
}

/// What the name of [`App::Proxy`] begins with.
const PROXY: &str = "proxy:";

impl App {
    const ALL: [(&'static str, Self); 7] = [
        ("echo", Self::Echo),
        ("discard", Self::Discard),
        ("chargen", Self::Chargen),
        ("http", Self::Http),
        ("kernel", Self::Kernel),
        ("tokio-echo", Self::TokioEcho),
        ("stream", Self::Stream),
    ];

    /// Whether it is a task that accepts streams: `task::serve`.
    pub const fn is_task(&self) -> bool {
        matches!(self, Self::TokioEcho)
    }
}

impl FromStr for App {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        if let Some(target) = name.strip_prefix(PROXY) {
            return Ok(Self::Proxy(Arc::new(proxy::Pool::new(target.parse()?))));
        }
        Self::ALL
            .iter()
            .find(|(n, app)| *n == name && *app != Self::Stream)
            .map(|(_, app)| app.clone())
            .ok_or_else(|| {
                format!(
                    "unknown app `{name}` (echo, discard, chargen, http, tokio-echo, \
                     kernel or proxy:HOST:PORT)"
                )
            })
    }
}

impl fmt::Display for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Self::Proxy(pool) = self {
            return write!(f, "{PROXY}{pool}");
        }
        let name = Self::ALL
            .iter()
            .find(|(_, app)| app == self)
            .map_or("", |(n, _)| n);
        f.write_str(name)
    }
}

/// What serves a place.
#[derive(Clone, Debug)]
pub enum Service {
    /// An app in the worker.
    App(App),
    /// A listener of [`crate::net`].
    Streams(Acceptor),
}

/// What serves a local address.
pub type Lookup = Arc<dyn Fn(SocketAddr) -> Option<Service> + Send + Sync>;

/// What an app may touch while it runs, beside its own state.
struct Context<'a> {
    now: Instant,
    endpoint: &'a mut Endpoint,
    id: ConnId,
    shared: &'a mut Shared,
    draining: bool,
}

/// Memory that the apps of a worker share, so that idle connections hold none.
struct Shared {
    /// For data on its way from the receive to the send buffer, and for heads.
    scratch: Box<[u8; SCRATCH]>,
    chargen: chargen::Pattern,
    content: http::Content,
    proxy: proxy::Shared,
}

/// Octets moved at a time.
const SCRATCH: usize = 16 << 10;

impl Context<'_> {
    /// Copies the front of the received data into the scratch buffer.
    fn peek(&mut self) -> usize {
        let Ok(parts) = self.endpoint.peek(self.id) else {
            return 0;
        };
        let mut len = 0;
        for part in parts {
            let n = part.len().min(SCRATCH - len);
            self.shared.scratch[len..len + n].copy_from_slice(&part[..n]);
            len += n;
        }
        len
    }

    /// Drops received data. A connection that is gone has none.
    fn consume(&mut self, octets: usize) {
        let _ = self.endpoint.consume(self.id, octets);
    }

    /// Drops all received data.
    fn discard(&mut self) {
        while let Ok([a, b]) = self.endpoint.peek(self.id) {
            let len = a.len() + b.len();
            if len == 0 {
                break;
            }
            self.consume(len);
        }
    }

    /// Sends our FIN after what is queued.
    fn shutdown(&mut self) {
        let _ = self.endpoint.shutdown(self.now, self.id);
    }

    /// The same, where all that is left is to wait for the peer's FIN: not without end.
    fn finish(&mut self) {
        let _ = self.endpoint.finish(self.now, self.id);
    }
}

/// State of one connection's app.
enum Task {
    Echo(echo::Echo),
    Discard(discard::Discard),
    Chargen(chargen::Chargen),
    Http(http::Http),
    Stream(Attached),
    Proxy(Box<proxy::Splice>),
}

impl Task {
    /// `None`: not an app that runs in a worker.
    fn new(app: App) -> Option<Self> {
        Some(match app {
            App::Echo => Self::Echo(echo::Echo::default()),
            App::Discard => Self::Discard(discard::Discard::default()),
            App::Chargen => Self::Chargen(chargen::Chargen::default()),
            App::Http => Self::Http(http::Http::default()),
            App::Proxy(pool) => Self::Proxy(Box::new(proxy::Splice::new(pool))),
            App::TokioEcho | App::Stream | App::Kernel => return None,
        })
    }

    /// The connection is there.
    fn start(&mut self, cx: &mut Context<'_>) {
        match self {
            Self::Proxy(app) => app.start(cx),
            _ => self.run(cx),
        }
    }

    /// Goes on as far as data and buffers allow.
    fn run(&mut self, cx: &mut Context<'_>) {
        match self {
            Self::Echo(app) => app.run(cx),
            Self::Discard(app) => app.run(cx),
            Self::Chargen(app) => app.run(cx),
            Self::Http(app) => app.run(cx),
            Self::Proxy(app) => app.run(cx),
            // It has events of its own.
            Self::Stream(_) => {}
        }
    }
}

/// The apps of one worker.
pub struct Apps {
    lookup: Lookup,
    tasks: HashMap<ConnId, Task, BuildHasherDefault<IdHasher>>,
    shared: Shared,
    streams: Streams,
    draining: bool,
    drained: Option<Drained>,
    /// Scratch for `handle_ready`.
    signals: Vec<(ConnId, proxy::Signal)>,
}

impl Apps {
    /// Without connections; `wake` ends the worker's sleep.
    pub fn new(lookup: Lookup, wake: Arc<EventFd>) -> Self {
        Self {
            lookup,
            tasks: HashMap::default(),
            shared: Shared {
                scratch: Box::new([0; SCRATCH]),
                chargen: chargen::Pattern::new(),
                content: http::Content::new(),
                proxy: proxy::Shared::new(),
            },
            streams: Streams::new(wake),
            draining: false,
            signals: Vec::new(),
            drained: None,
        }
    }

    fn is_draining(&self, endpoint: &Endpoint, id: ConnId) -> bool {
        self.draining
            || self
                .drained
                .as_ref()
                .is_some_and(|drained| endpoint.flow(id).is_some_and(|flow| drained(flow.local())))
    }

    fn run_all(&mut self, now: Instant, endpoint: &mut Endpoint) {
        let ids: Vec<ConnId> = self.tasks.keys().copied().collect();
        for id in ids {
            self.run(now, endpoint, id);
        }
    }

    fn accept(&mut self, now: Instant, endpoint: &mut Endpoint, id: ConnId) {
        let service = endpoint
            .flow(id)
            .and_then(|flow| (self.lookup)(flow.local()));
        let task = match service {
            Some(Service::App(app)) => Task::new(app),
            Some(Service::Streams(acceptor)) => {
                Attached::accept(now, endpoint, id, &acceptor, &mut self.streams).map(Task::Stream)
            }
            None => None,
        };
        let Some(task) = task else {
            endpoint.abort(now, id);
            return;
        };
        self.tasks.insert(id, task);
        self.with(now, endpoint, id, Task::start);
    }

    fn run(&mut self, now: Instant, endpoint: &mut Endpoint, id: ConnId) {
        self.with(now, endpoint, id, Task::run);
    }

    fn with(
        &mut self,
        now: Instant,
        endpoint: &mut Endpoint,
        id: ConnId,
        verb: impl FnOnce(&mut Task, &mut Context<'_>),
    ) {
        let draining = self.is_draining(endpoint, id);
        if let Some(task) = self.tasks.get_mut(&id) {
            let mut cx = Context {
                now,
                endpoint,
                id,
                shared: &mut self.shared,
                draining,
            };
            verb(task, &mut cx);
        }
    }
}

impl Application for Apps {
    fn handle_event(&mut self, now: Instant, endpoint: &mut Endpoint, event: Event) {
        match event {
            Event::Accepted(id) => self.accept(now, endpoint, id),
            Event::Readable(id) | Event::Writable(id) => {
                let Some(Task::Stream(stream)) = self.tasks.get_mut(&id) else {
                    self.run(now, endpoint, id);
                    return;
                };
                let streams = &mut self.streams;
                let fate = if matches!(event, Event::Readable(_)) {
                    stream.handle_readable(now, endpoint, streams)
                } else {
                    stream.handle_writable(now, endpoint, streams)
                };
                if fate == Fate::Leaves {
                    self.tasks.remove(&id);
                }
            }
            Event::Closed(id, reason) => match self.tasks.remove(&id) {
                Some(Task::Stream(mut stream)) => {
                    stream.handle_closed(reason, &mut self.streams);
                }
                Some(Task::Proxy(mut app)) => app.closed(reason),
                _ => {}
            },
            Event::FlowBegan(_) | Event::FlowEnded(_) => {}
        }
    }

    fn finish_events(&mut self) {
        self.streams.wake();
    }

    fn handle_requests(&mut self, now: Instant, endpoint: &mut Endpoint) {
        let ready = self.streams.take_ready();
        for id in &ready {
            // Gone: its end is on the way to the task, or the task had let go.
            if let Some(Task::Stream(stream)) = self.tasks.get_mut(id)
                && stream.handle_ready(now, endpoint, &mut self.streams) == Fate::Leaves
            {
                self.tasks.remove(id);
            }
        }
        self.streams.done(ready);
        self.streams.wake();
    }

    fn may_sleep(&mut self) -> bool {
        self.streams.may_sleep()
    }

    fn handle_drain(&mut self, now: Instant, endpoint: &mut Endpoint) {
        self.draining = true;
        self.run_all(now, endpoint);
    }

    fn handle_drained(&mut self, now: Instant, endpoint: &mut Endpoint, drained: Drained) {
        self.drained = Some(drained);
        self.run_all(now, endpoint);
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.shared.proxy.fd()
    }

    fn deadline(&self) -> Option<Instant> {
        self.shared.proxy.deadline()
    }

    fn handle_ready(&mut self, now: Instant, endpoint: &mut Endpoint) {
        let mut signals = std::mem::take(&mut self.signals);
        self.shared.proxy.signals(now, &mut signals);
        for (id, signal) in signals.drain(..) {
            self.with(now, endpoint, id, |task, cx| {
                if let Task::Proxy(app) = task {
                    app.signal(cx, signal);
                }
            });
        }
        self.signals = signals;
    }

    fn shrink(&mut self) {
        self.tasks.shrink_to_fit();
    }
}

/// Connection ids are dense small numbers: one multiplication spreads them.
#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, word: u32) {
        self.0 = (self.0.rotate_left(32) ^ u64::from(word)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

#[cfg(test)]
mod tests;
