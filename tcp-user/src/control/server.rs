//! The control socket: a client sends one [`Request`] a line and gets JSON lines.

use super::attack;
use super::doctor;
use super::filter::{Filter, Sort};
use super::listen::{self, Place};
use super::loader::Counters;
use super::orders::{Desk, Order};
use super::proxied;
use super::records::{self, Connection, Greeting, Refusal, Request, Stats};
use super::sources::Change;
use super::trace::Hub;
use crate::app::proxy::Pools;
use crate::dataplane::query::{Census, Query};
use crate::dataplane::worker::{Command, Commands, WorkerStats};
use serde::Serialize;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// Where servers put their sockets without `--control`.
pub const DIRECTORY: &str = "/run/tcp-xdp";
/// Clients at a time.
const CLIENTS: usize = 64;
/// Longest request line, octets.
const MAX_REQUEST: u64 = 4096;
/// A worker answers within a turn; longer means that it is gone.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// What the server answers from.
pub struct Sources {
    /// The interface.
    pub interface: String,
    /// What `doctor` found when the server started.
    pub examined: Vec<doctor::Check>,
    /// The XDP program's counters.
    pub counters: Counters,
    /// Whether there is an attack.
    pub threat: Arc<attack::Shared>,
    /// The workers, by queue.
    pub workers: Vec<Commands>,
    /// Traces.
    pub hub: Hub,
    /// Takes orders to the main thread.
    pub desk: Desk,
    /// The backends.
    pub pools: Pools,
}

/// The socket's file; removed when dropped.
#[derive(Debug)]
pub struct Socket {
    path: PathBuf,
    listener: UnixListener,
}

/// Name of a server's socket without `--control`: interface and network namespace.
pub fn default_path(interface: &str) -> PathBuf {
    Path::new(DIRECTORY).join(format!("{interface}{}", namespace_suffix()))
}

/// How the names of this namespace's sockets end.
pub fn namespace_suffix() -> String {
    let namespace = std::fs::metadata("/proc/thread-self/ns/net").map_or(0, |m| m.ino());
    format!("-{namespace}.sock")
}

impl Socket {
    /// Binds the socket, mode 0600. A file that a dead server left is replaced, a
    /// living one is not.
    pub fn bind(path: &Path) -> io::Result<Self> {
        if path.parent() == Some(Path::new(DIRECTORY)) {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(DIRECTORY)?;
        }
        if let Ok(meta) = std::fs::symlink_metadata(path) {
            if !meta.file_type().is_socket() {
                return Err(io::Error::other("exists and is not a socket"));
            }
            if UnixStream::connect(path).is_ok() {
                return Err(io::Error::other("another server listens there"));
            }
            std::fs::remove_file(path)?;
        }
        // Only the owner, from the first moment on: no umask in between.
        let before = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o177));
        let listener = UnixListener::bind(path);
        nix::sys::stat::umask(before);
        let listener = listener?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self {
            path: path.to_owned(),
            listener,
        })
    }

    /// Answers clients in threads of their own from now on.
    pub fn serve(&self, sources: Arc<Sources>) -> io::Result<()> {
        let listener = self.listener.try_clone()?;
        let clients = Arc::new(AtomicUsize::new(0));
        std::thread::Builder::new()
            .name("control".into())
            .spawn(move || {
                for client in listener.incoming().map_while(Result::ok) {
                    if clients.load(Ordering::Relaxed) >= CLIENTS {
                        continue;
                    }
                    clients.fetch_add(1, Ordering::Relaxed);
                    let (sources, count) = (Arc::clone(&sources), Arc::clone(&clients));
                    let spawned =
                        std::thread::Builder::new()
                            .name("client".into())
                            .spawn(move || {
                                if let Err(error) = answer(&client, &sources) {
                                    tracing::debug!(%error, "control client");
                                }
                                count.fetch_sub(1, Ordering::Relaxed);
                            });
                    if let Err(error) = spawned {
                        clients.fetch_sub(1, Ordering::Relaxed);
                        tracing::debug!(%error, "control client");
                    }
                }
            })?;
        Ok(())
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn answer(client: &UnixStream, sources: &Sources) -> io::Result<()> {
    client.set_write_timeout(Some(Duration::from_secs(5)))?;
    send(client, &Greeting::new(&sources.interface))?;
    let mut lines = BufReader::new(io::Read::take(client, MAX_REQUEST));
    let mut line = String::new();
    while lines.read_line(&mut line)? > 0 {
        match records::request(line.trim()) {
            Ok(Request::Stats) => send(client, &stats(sources))?,
            Ok(Request::Conns {
                filter,
                sort,
                limit,
            }) => {
                let found = filter
                    .normalize()
                    .map(|filter| connections(&sources.workers, filter, sort, limit));
                reply(client, found)?;
            }
            Ok(Request::Trace { filter }) => match filter.normalize() {
                Ok(filter) => return stream(client, sources, &filter),
                Err(error) => reply::<()>(client, Err(error))?,
            },
            Ok(Request::Doctor) => {
                let checks = doctor::again(&sources.interface, &sources.examined);
                reply(client, checks.map_err(|e| format!("{e:#}")))?;
            }
            Ok(Request::Drain { places }) => {
                let places: Result<Vec<Place>, _> = places.iter().map(|p| p.parse()).collect();
                let done = places
                    .and_then(|places| sources.desk.order(|answer| Order::Drain(places, answer)));
                reply(client, done)?;
            }
            Ok(Request::Backends) => send(client, &proxied::all(&sources.pools))?,
            Ok(Request::Backend { addr, drain }) => {
                reply(client, proxied::drain(&sources.pools, addr, drain))?;
            }
            Ok(Request::Listens) => reply(client, sources.desk.order(Order::Listens))?,
            Ok(Request::Policy { place, policy }) => {
                let done = place.parse().and_then(|place| {
                    sources
                        .desk
                        .order(|answer| Order::Policy(place, policy, answer))
                });
                reply(client, done)?;
            }
            Ok(Request::Add { listen }) => {
                let listen = listen.parse().map_err(|e: listen::Error| e.to_string());
                let done =
                    listen.and_then(|listen| sources.desk.order(|to| Order::AddListen(listen, to)));
                reply(client, done)?;
            }
            Ok(Request::Remove { place }) => {
                let done = place
                    .parse()
                    .and_then(|place| sources.desk.order(|to| Order::RemoveListen(place, to)));
                reply(client, done)?;
            }
            Ok(Request::Sources) => {
                reply(client, sources.desk.order(|to| Order::Sources(None, to)))?;
            }
            Ok(Request::Source { prefix, to }) => {
                let change = prefix.parse().map(|prefix| Change { prefix, to });
                let done = change.and_then(|change| {
                    let order = |answer| Order::Sources(Some(change), answer);
                    sources.desk.order(order)
                });
                reply(client, done)?;
            }
            Ok(Request::Secret) => reply(client, sources.desk.order(Order::Secret))?,
            Ok(Request::Rotate) => reply(client, sources.desk.order(Order::Rotate))?,
            Ok(Request::Reload) => reply(client, sources.desk.order(Order::Reload))?,
            Err(error) => reply::<()>(client, Err(error))?,
        }
        line.clear();
        lines.get_mut().set_limit(MAX_REQUEST);
    }
    Ok(())
}

fn reply<T: Serialize>(client: &UnixStream, result: Result<T, String>) -> io::Result<()> {
    match result {
        Ok(value) => send(client, &value),
        Err(error) => send(client, &Refusal { error }),
    }
}

fn send(mut client: &UnixStream, value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    client.write_all(&line)
}

fn stream(client: &UnixStream, sources: &Sources, filter: &Filter) -> io::Result<()> {
    let watcher = sources.hub.watch();
    let mut out = io::BufWriter::new(client);
    loop {
        // Quiet for a moment: what was written goes out, and a client that has gone shows.
        let segment = match watcher.recv_timeout(Duration::from_millis(50)) {
            Ok(segment) => segment,
            Err(RecvTimeoutError::Timeout) => {
                out.flush()?;
                if is_gone(client) {
                    return Ok(());
                }
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => return out.flush(),
        };
        // Whichever side is in the state that is asked for.
        let states = [&segment.client, &segment.server];
        if !states
            .iter()
            .any(|state| filter.matches(segment.remote, segment.local, state))
        {
            continue;
        }
        serde_json::to_writer(&mut out, &segment)?;
        out.write_all(b"\n")?;
    }
}

/// Whether the client has closed its end.
fn is_gone(client: &UnixStream) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::fd::AsFd;
    let mut fds = [PollFd::new(client.as_fd(), PollFlags::empty())];
    let polled = poll(&mut fds, PollTimeout::ZERO);
    polled.is_err()
        || fds[0]
            .revents()
            .is_some_and(|r| r.intersects(PollFlags::POLLHUP | PollFlags::POLLERR))
}

/// Asks every worker; who does not answer in time is left out.
fn ask<T>(workers: &[Commands], command: impl Fn(Sender<T>) -> Command) -> Vec<T> {
    let answers: Vec<Receiver<T>> = workers
        .iter()
        .map(|worker| {
            let (to, from) = channel();
            worker.send(command(to));
            from
        })
        .collect();
    answers
        .into_iter()
        .filter_map(|answer| answer.recv_timeout(ANSWER_WITHIN).ok())
        .collect()
}

/// The counters of both sides.
pub fn stats(sources: &Sources) -> Stats {
    let workers: Vec<WorkerStats> = ask(&sources.workers, Command::Stats);
    let mut stats = Stats::new(&sources.counters.read(), &workers);
    stats.trace_dropped = sources.hub.dropped();
    let threat = sources.threat.threat();
    (stats.under_attack, stats.flooded) = (threat.attacked, threat.flooded);
    let census = census(&sources.workers);
    stats.states = census
        .states
        .iter()
        .map(|(state, n)| (state.to_string(), *n))
        .collect();
    // None while the server stops.
    let listens = sources.desk.order(Order::Listens).unwrap_or_default();
    stats.listens = records::listen_stats(listens, &census);
    stats.proxies = proxied::all(&sources.pools);
    stats
}

/// Connections and TIME-WAIT entries.
fn connections(
    workers: &[Commands],
    filter: Filter,
    sort: Sort,
    limit: Option<usize>,
) -> Vec<Connection> {
    let query = Query {
        filter: Arc::new(move |info| filter.matches_info(info)),
        rank: sort.rank(),
        limit: limit.unwrap_or(usize::MAX),
    };
    let found = ask(workers, |to| Command::Connections(query.clone(), to)).concat();
    let best = query.select(found.into_iter());
    best.iter().map(Connection::from).collect()
}

/// How many connections all workers have.
pub fn census(workers: &[Commands]) -> Census {
    let mut sum = Census::default();
    for census in ask(workers, Command::Census) {
        sum.add(&census);
    }
    sum
}
