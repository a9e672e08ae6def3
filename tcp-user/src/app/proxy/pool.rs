//! The backends of a listen, which workers choose from and health checks watch.

use super::header::Version;
use super::target::{Place, Target};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

/// How a backend is chosen among those that are up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Balance {
    /// Each in turn.
    #[default]
    RoundRobin,
    /// The one with the fewest open connections.
    LeastConnections,
}

/// What an operator can set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long connecting to one backend may take.
    pub connect_timeout: Duration,
    /// How long nothing may pass in either direction; zero: forever.
    pub idle_timeout: Duration,
    /// How a backend is chosen.
    pub balance: Balance,
    /// The header in front of each stream.
    pub header: Version,
    /// Time between checks of a backend; zero: no checks, and every backend counts as up.
    pub health_interval: Duration,
    /// Checks in a row that bring a backend back.
    pub health_rise: u16,
    /// Failures in a row, of checks and of connections, that take a backend out.
    pub health_fall: u16,
    /// Time between look-ups of names.
    pub resolve_interval: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(3),
            idle_timeout: Duration::ZERO,
            balance: Balance::default(),
            header: Version::default(),
            health_interval: Duration::from_secs(2),
            health_rise: 2,
            health_fall: 3,
            resolve_interval: Duration::from_secs(30),
        }
    }
}

/// How a client's connection ended; each is counted once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Both halves were closed, in either order.
    Done,
    /// No backend was up: RST.
    NoBackend,
    /// The backends that were tried refused: RST.
    Refused,
    /// The last backend that was tried did not answer the SYN in time: RST.
    ConnectTimedOut,
    /// The last backend that was tried could not be reached: RST.
    Unreachable,
    /// No descriptor or port was left for a connection to a backend: RST.
    NoResources,
    /// The backend sent an RST, and the client got one.
    BackendReset,
    /// The backend stopped acknowledging: RST to the client.
    BackendTimedOut,
    /// The client sent an RST, and the backend got one.
    ClientReset,
    /// The client stopped acknowledging: RST to the backend.
    ClientTimedOut,
    /// Nothing passed for too long: RST to both.
    Idle,
    /// The server ended: RST to both.
    Shutdown,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Done,
        Self::NoBackend,
        Self::Refused,
        Self::ConnectTimedOut,
        Self::Unreachable,
        Self::NoResources,
        Self::BackendReset,
        Self::BackendTimedOut,
        Self::ClientReset,
        Self::ClientTimedOut,
        Self::Idle,
        Self::Shutdown,
    ];

    /// Stable name, `snake_case`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::NoBackend => "no_backend",
            Self::Refused => "refused",
            Self::ConnectTimedOut => "connect_timed_out",
            Self::Unreachable => "unreachable",
            Self::NoResources => "no_resources",
            Self::BackendReset => "backend_reset",
            Self::BackendTimedOut => "backend_timed_out",
            Self::ClientReset => "client_reset",
            Self::ClientTimedOut => "client_timed_out",
            Self::Idle => "idle",
            Self::Shutdown => "shutdown",
        }
    }
}

/// One backend address.
#[derive(Debug)]
pub struct Backend {
    addr: SocketAddr,
    up: AtomicBool,
    draining: AtomicBool,
    /// Good results in a row, or bad ones below zero.
    streak: AtomicI32,
    active: AtomicUsize,
    connected: AtomicU64,
    failed: AtomicU64,
}

impl Backend {
    fn new(addr: SocketAddr) -> Self {
        Self {
            addr,
            up: AtomicBool::new(true),
            draining: AtomicBool::new(false),
            streak: AtomicI32::new(0),
            active: AtomicUsize::new(0),
            connected: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }
    }

    /// Where it is.
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Whether it answers, as far as is known.
    pub fn is_up(&self) -> bool {
        self.up.load(Relaxed)
    }

    /// Whether connections go there.
    fn is_usable(&self) -> bool {
        self.is_up() && !self.draining.load(Relaxed)
    }

    /// The result of a check.
    pub(super) fn checked(&self, good: bool, settings: &Settings) {
        let add = |streak: i32| match (good, streak > 0) {
            (true, true) => streak.saturating_add(1),
            (true, false) => 1,
            (false, true) => -1,
            (false, false) => streak.saturating_sub(1),
        };
        let before = self
            .streak
            .fetch_update(Relaxed, Relaxed, |streak| Some(add(streak)));
        let streak = add(before.unwrap_or_else(|streak| streak));
        if streak >= i32::from(settings.health_rise) && !self.up.swap(true, Relaxed) {
            tracing::info!(backend = %self.addr, "up");
        }
        if streak <= -i32::from(settings.health_fall) && self.up.swap(false, Relaxed) {
            tracing::warn!(backend = %self.addr, "down");
        }
    }
}

/// A connection's hold on its backend, which is counted as long as this lives.
#[derive(Debug)]
pub(super) struct Lease(Arc<Backend>);

impl Lease {
    fn new(backend: &Arc<Backend>) -> Self {
        backend.active.fetch_add(1, Relaxed);
        Self(Arc::clone(backend))
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.0.addr
    }

    /// The connection came about.
    pub(super) fn connected(&self) {
        self.0.connected.fetch_add(1, Relaxed);
        // Bad results are forgotten; good ones only count when they are checks.
        if self.0.streak.load(Relaxed) < 0 && self.0.is_up() {
            self.0.streak.store(0, Relaxed);
        }
    }

    /// It did not.
    pub(super) fn failed(&self, settings: &Settings) {
        self.0.failed.fetch_add(1, Relaxed);
        if !settings.health_interval.is_zero() {
            self.0.checked(false, settings);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Relaxed);
    }
}

/// What `stats` shows of a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendInfo {
    /// Where it is.
    pub addr: SocketAddr,
    /// Whether it answers, as far as is known.
    pub up: bool,
    /// An operator lets its connections end.
    pub draining: bool,
    /// Connections open or being opened.
    pub active: usize,
    /// Connections that came about.
    pub connected: u64,
    /// Connections that did not.
    pub failed: u64,
}

type Backends = Arc<[Arc<Backend>]>;

/// The backends of one listen.
pub struct Pool {
    target: Target,
    settings: OnceLock<Settings>,
    backends: RwLock<Backends>,
    turn: AtomicUsize,
    accepted: AtomicU64,
    to_backend: AtomicU64,
    to_client: AtomicU64,
    outcomes: [AtomicU64; Outcome::ALL.len()],
}

impl PartialEq for Pool {
    fn eq(&self, other: &Self) -> bool {
        self.target == other.target
    }
}

impl Eq for Pool {}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pool({})", self.target)
    }
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.target.fmt(f)
    }
}

impl Pool {
    /// Without backends until [`Self::open`].
    pub fn new(target: Target) -> Self {
        Self {
            target,
            settings: OnceLock::new(),
            backends: RwLock::new(Arc::from([])),
            turn: AtomicUsize::new(0),
            accepted: AtomicU64::new(0),
            to_backend: AtomicU64::new(0),
            to_client: AtomicU64::new(0),
            outcomes: [const { AtomicU64::new(0) }; Outcome::ALL.len()],
        }
    }

    /// Finds the backends for the first time. An error names the one whose name has no address.
    pub fn open(&self, settings: &Settings) -> Result<(), String> {
        let mut settings = settings.clone();
        settings.balance = self.target.balance.unwrap_or(settings.balance);
        settings.header = self.target.header.unwrap_or(settings.header);
        let _ = self.settings.set(settings);
        let mut all = Vec::new();
        for place in &self.target.places {
            let found = place.resolve().map_err(|e| format!("{place}: {e}"))?;
            if found.is_empty() {
                return Err(format!("{place}: no address"));
            }
            all.extend(found);
        }
        self.set_addresses(all);
        Ok(())
    }

    /// Whether any backend is known by name.
    pub fn has_names(&self) -> bool {
        self.target.places.iter().any(Place::is_name)
    }

    /// Looks the names up again. As long as one cannot be looked up, all stays as it is.
    pub(super) fn resolve(&self) -> io::Result<()> {
        let mut all = Vec::new();
        for place in &self.target.places {
            all.extend(place.resolve()?);
        }
        if !all.is_empty() {
            self.set_addresses(all);
        }
        Ok(())
    }

    /// Backends that stay keep their state; connections to those that go end as they would.
    fn set_addresses(&self, mut addresses: Vec<SocketAddr>) {
        let mut seen = std::collections::HashSet::new();
        addresses.retain(|addr| seen.insert(*addr));
        let old = self.backends();
        if old.iter().map(|b| b.addr).eq(addresses.iter().copied()) {
            return;
        }
        let new: Vec<Arc<Backend>> = addresses
            .iter()
            .map(|addr| {
                let known = old.iter().find(|b| b.addr == *addr);
                known.map_or_else(|| Arc::new(Backend::new(*addr)), Arc::clone)
            })
            .collect();
        tracing::debug!(target = %self.target, ?addresses, "backends");
        *self
            .backends
            .write()
            .unwrap_or_else(PoisonError::into_inner) = new.into();
    }

    /// From now on a backend gets no new connections, or gets them again; those that it has
    /// go on. False if it is none of these.
    pub fn drain(&self, addr: SocketAddr, on: bool) -> bool {
        let backends = self.backends();
        let found = backends.iter().find(|b| b.addr == addr);
        if let Some(backend) = found {
            backend.draining.store(on, Relaxed);
        }
        found.is_some()
    }

    /// All of them.
    pub(super) fn backends(&self) -> Backends {
        let backends = self.backends.read();
        Arc::clone(&backends.unwrap_or_else(PoisonError::into_inner))
    }

    /// What was set; the defaults before [`Self::open`].
    pub fn settings(&self) -> &Settings {
        self.settings.get_or_init(Settings::default)
    }

    /// Chooses a backend, another one than `not` if there is one that is up.
    pub(super) fn choose(&self, not: Option<SocketAddr>) -> Option<Lease> {
        let backends = self.backends();
        let usable = |b: &&Arc<Backend>| b.is_usable() && Some(b.addr) != not;
        let count = backends.iter().filter(usable).count();
        if count == 0 {
            return None;
        }
        let turn = self.turn.fetch_add(1, Relaxed) % count;
        let mut in_turn = backends
            .iter()
            .filter(usable)
            .cycle()
            .skip(turn)
            .take(count);
        let chosen = match self.settings().balance {
            Balance::RoundRobin => in_turn.next(),
            // Of equals the first is taken: turns keep it from always being the same.
            Balance::LeastConnections => in_turn.min_by_key(|b| b.active.load(Relaxed)),
        };
        chosen.map(Lease::new)
    }

    pub(super) fn count_accepted(&self) {
        self.accepted.fetch_add(1, Relaxed);
    }

    pub(super) fn count_outcome(&self, outcome: Outcome) {
        self.outcomes[outcome as usize].fetch_add(1, Relaxed);
    }

    pub(super) fn count_octets(&self, to_backend: u64, to_client: u64) {
        if to_backend > 0 {
            self.to_backend.fetch_add(to_backend, Relaxed);
        }
        if to_client > 0 {
            self.to_client.fetch_add(to_client, Relaxed);
        }
    }

    /// Connections accepted so far.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Relaxed)
    }

    /// Connections ended so far, by how.
    pub fn outcomes(&self) -> impl Iterator<Item = (Outcome, u64)> + '_ {
        Outcome::ALL
            .into_iter()
            .zip(self.outcomes.iter().map(|n| n.load(Relaxed)))
    }

    /// Octets carried to backends and to clients.
    pub fn octets(&self) -> (u64, u64) {
        (self.to_backend.load(Relaxed), self.to_client.load(Relaxed))
    }

    /// The backends as they are now.
    pub fn infos(&self) -> Vec<BackendInfo> {
        let info = |b: &Arc<Backend>| BackendInfo {
            addr: b.addr,
            up: b.is_up(),
            draining: b.draining.load(Relaxed),
            active: b.active.load(Relaxed),
            connected: b.connected.load(Relaxed),
            failed: b.failed.load(Relaxed),
        };
        self.backends().iter().map(info).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(target: &str, settings: &Settings) -> Pool {
        let pool = Pool::new(target.parse().expect("a target"));
        pool.open(settings).expect("addresses");
        pool
    }

    fn ports(pool: &Pool, n: usize) -> Vec<u16> {
        (0..n)
            .filter_map(|_| pool.choose(None).map(|lease| lease.addr().port()))
            .collect()
    }

    #[test]
    fn round_robin_takes_each_in_turn_and_leaves_out_those_that_are_down() {
        let pool = pool("10.0.0.1:1,10.0.0.1:2,10.0.0.1:3", &Settings::default());
        assert_eq!(ports(&pool, 6), [1, 2, 3, 1, 2, 3]);
        pool.backends()[1].up.store(false, Relaxed);
        // No neighbour carries the load of two.
        let mut some = ports(&pool, 100);
        some.sort_unstable();
        assert_eq!((some[49], some[50]), (1, 3));
        for backend in &*pool.backends() {
            backend.up.store(false, Relaxed);
        }
        assert!(ports(&pool, 1).is_empty());
    }

    #[test]
    fn least_connections_follows_what_is_open() {
        let pool = pool(
            "10.0.0.1:1,10.0.0.1:2?balance=least-connections",
            &Settings::default(),
        );
        let first = pool.choose(None).expect("up");
        let second = pool.choose(None).expect("up");
        assert_ne!(first.addr(), second.addr());
        let third = pool.choose(None).expect("up");
        drop(if third.addr() == first.addr() {
            second
        } else {
            first
        });
        // Two and none are open: the next two go to the idle one, then they are even.
        let busy = third.addr();
        let next: Vec<_> = (0..2).filter_map(|_| pool.choose(None)).collect();
        assert!(next[..1].iter().all(|lease| lease.addr() != busy));
        let open: usize = pool.infos().iter().map(|b| b.active).sum();
        assert_eq!(open, 4);
    }

    #[test]
    fn another_backend_is_preferred_and_the_only_one_is_not_tried_again() {
        let both = pool("10.0.0.1:1,10.0.0.1:2", &Settings::default());
        let one = both.backends()[0].addr;
        assert!((0..10).all(|_| both.choose(Some(one)).expect("other").addr() != one));
        let single = pool("10.0.0.1:1", &Settings::default());
        assert!(single.choose(Some(one)).is_none());
    }

    #[test]
    fn failures_in_a_row_take_a_backend_out_and_checks_bring_it_back() {
        let settings = Settings::default();
        let pool = pool("10.0.0.1:1", &settings);
        let backend = Arc::clone(&pool.backends()[0]);
        let fail = || pool.choose(None).expect("up").failed(&settings);
        fail();
        fail();
        pool.choose(None).expect("up").connected();
        fail();
        fail();
        assert!(backend.is_up(), "not three in a row");
        fail();
        assert!(!backend.is_up());
        backend.checked(true, &settings);
        backend.checked(false, &settings);
        backend.checked(true, &settings);
        assert!(!backend.is_up(), "not two in a row");
        backend.checked(true, &settings);
        assert!(backend.is_up());
        assert_eq!(pool.infos()[0].failed, 5);
    }

    #[test]
    fn a_backend_that_drains_keeps_what_it_has() {
        let pool = pool("10.0.0.1:1,10.0.0.1:2", &Settings::default());
        let first = pool.choose(None).expect("up");
        assert!(pool.drain(first.addr(), true));
        assert!(!ports(&pool, 4).contains(&first.addr().port()));
        assert_eq!(
            (pool.infos()[0].active, pool.infos()[0].draining),
            (1, true)
        );
        assert!(pool.drain(first.addr(), false));
        assert_eq!(ports(&pool, 4).len(), 4);
        assert!(ports(&pool, 4).contains(&first.addr().port()));
        assert!(!pool.drain("10.0.0.1:3".parse().expect("literal"), true));
    }

    #[test]
    fn without_checks_every_backend_stays_up() {
        let settings = Settings {
            health_interval: Duration::ZERO,
            ..Settings::default()
        };
        let pool = pool("10.0.0.1:1", &settings);
        for _ in 0..10 {
            pool.choose(None).expect("up").failed(&settings);
        }
        assert!(pool.infos()[0].up);
    }

    #[test]
    fn backends_that_stay_keep_their_state() {
        let pool = pool("10.0.0.1:1,10.0.0.2:1", &Settings::default());
        let lease = pool.choose(None).expect("up");
        let stays = lease.addr();
        pool.set_addresses(vec!["10.0.0.9:1".parse().expect("literal"), stays, stays]);
        let infos = pool.infos();
        assert_eq!(infos.len(), 2);
        assert_eq!((infos[0].active, infos[1].active), (0, 1));
        drop(lease);
        assert_eq!(pool.infos()[1].active, 0);
    }

    #[test]
    fn each_outcome_has_a_name_and_a_place() {
        for (i, outcome) in Outcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, i, "{}", outcome.name());
        }
    }
}
