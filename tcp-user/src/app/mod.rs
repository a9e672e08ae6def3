//! The built-in apps: state machines over an [`Endpoint`], run by its worker.

mod chargen;
mod discard;
mod echo;
mod http;

use crate::dataplane::worker::Application;
use crate::proto::{ConnId, Endpoint, Event, Instant};
use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;

/// The apps by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum App {
    /// Returns every octet.
    Echo,
    /// Reads and drops.
    Discard,
    /// Sends until closed.
    Chargen,
    /// HTTP/1.1.
    Http,
}

impl App {
    const ALL: [(&'static str, Self); 4] = [
        ("echo", Self::Echo),
        ("discard", Self::Discard),
        ("chargen", Self::Chargen),
        ("http", Self::Http),
    ];
}

impl FromStr for App {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL
            .iter()
            .find(|(n, _)| *n == name)
            .map(|(_, app)| *app)
            .ok_or_else(|| format!("unknown app `{name}` (echo, discard, chargen or http)"))
    }
}

impl fmt::Display for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::ALL
            .iter()
            .find(|(_, app)| app == self)
            .map_or("", |(n, _)| n);
        f.write_str(name)
    }
}

/// Which app serves a local address.
pub type Lookup = Arc<dyn Fn(SocketAddr) -> Option<App> + Send + Sync>;

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
}

/// State of one connection's app.
enum Task {
    Echo(echo::Echo),
    Discard(discard::Discard),
    Chargen(chargen::Chargen),
    Http(http::Http),
}

impl Task {
    fn new(app: App) -> Self {
        match app {
            App::Echo => Self::Echo(echo::Echo::default()),
            App::Discard => Self::Discard(discard::Discard::default()),
            App::Chargen => Self::Chargen(chargen::Chargen::default()),
            App::Http => Self::Http(http::Http::default()),
        }
    }

    /// Goes on as far as data and buffers allow.
    fn run(&mut self, cx: &mut Context<'_>) {
        match self {
            Self::Echo(app) => app.run(cx),
            Self::Discard(app) => app.run(cx),
            Self::Chargen(app) => app.run(cx),
            Self::Http(app) => app.run(cx),
        }
    }
}

/// The apps of one worker.
pub struct Apps {
    lookup: Lookup,
    tasks: HashMap<ConnId, Task, BuildHasherDefault<IdHasher>>,
    shared: Shared,
    draining: bool,
}

impl Apps {
    /// Without connections.
    pub fn new(lookup: Lookup) -> Self {
        Self {
            lookup,
            tasks: HashMap::default(),
            shared: Shared {
                scratch: Box::new([0; SCRATCH]),
                chargen: chargen::Pattern::new(),
                content: http::Content::new(),
            },
            draining: false,
        }
    }

    fn run(&mut self, now: Instant, endpoint: &mut Endpoint, id: ConnId) {
        if let Some(task) = self.tasks.get_mut(&id) {
            task.run(&mut Context {
                now,
                endpoint,
                id,
                shared: &mut self.shared,
                draining: self.draining,
            });
        }
    }
}

impl Application for Apps {
    fn handle_event(&mut self, now: Instant, endpoint: &mut Endpoint, event: Event) {
        match event {
            Event::Accepted(id) => {
                let app = endpoint
                    .flow(id)
                    .and_then(|flow| (self.lookup)(flow.local()));
                let Some(app) = app else {
                    endpoint.abort(now, id);
                    return;
                };
                self.tasks.insert(id, Task::new(app));
                self.run(now, endpoint, id);
            }
            Event::Readable(id) | Event::Writable(id) => self.run(now, endpoint, id),
            Event::Closed(id, _) => {
                self.tasks.remove(&id);
            }
            Event::FlowEnded(_) => {}
        }
    }

    fn handle_drain(&mut self, now: Instant, endpoint: &mut Endpoint) {
        self.draining = true;
        let ids: Vec<ConnId> = self.tasks.keys().copied().collect();
        for id in ids {
            self.run(now, endpoint, id);
        }
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
