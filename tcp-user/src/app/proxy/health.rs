//! Threads that watch the backends of all pools: one connects to each now and then, one
//! looks up names again. Neither is on the path of a segment.

use super::header::Header;
use super::pool::{Backend, Pool, Settings};
use super::socket;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io::{self, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Checks under way at a time.
const AT_A_TIME: usize = 256;

/// The pools of all listens.
#[derive(Clone, Debug, Default)]
pub struct Pools(Arc<Mutex<Vec<Arc<Pool>>>>);

impl Pools {
    /// As they are now.
    pub fn list(&self) -> Vec<Arc<Pool>> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn remove(&self, pool: &Arc<Pool>) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|there| !Arc::ptr_eq(there, pool));
    }

    fn push(&self, pool: Arc<Pool>) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(pool);
    }
}

/// Watches pools until it is dropped.
#[derive(Debug)]
pub struct Watch {
    settings: Settings,
    pools: Pools,
    /// Dropping it ends the threads, at the end of what they are at.
    threads: Vec<Sender<()>>,
}

impl Watch {
    /// Watches nothing yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            pools: Pools::default(),
            threads: Vec::new(),
        }
    }

    /// Finds a pool's backends and watches it from now on. The error is one line.
    pub fn open(&mut self, pool: &Arc<Pool>) -> Result<(), String> {
        pool.open(&self.settings)?;
        self.pools.push(Arc::clone(pool));
        if self.threads.is_empty() {
            let Settings {
                health_interval,
                resolve_interval,
                ..
            } = self.settings;
            self.spawn("proxy-health", health_interval, |pools, settings| {
                check(pools, settings);
            })
            .and_then(|()| self.spawn("proxy-names", resolve_interval, |pools, _| resolve(pools)))
            .map_err(|e| e.to_string())?;
        }
        Ok(())
    }

    /// Watches a pool no more.
    pub fn close(&self, pool: &Arc<Pool>) {
        self.pools.remove(pool);
    }

    /// The pools that are watched.
    pub fn pools(&self) -> Pools {
        self.pools.clone()
    }

    fn spawn(
        &mut self,
        name: &str,
        every: Duration,
        work: impl Fn(&[Arc<Pool>], &Settings) + Send + 'static,
    ) -> io::Result<()> {
        if every.is_zero() {
            return Ok(());
        }
        let (to, stop): (_, Receiver<()>) = channel();
        let (pools, settings) = (self.pools.clone(), self.settings.clone());
        std::thread::Builder::new()
            .name(name.into())
            .spawn(move || {
                while stop.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                    work(&pools.list(), &settings);
                }
            })?;
        self.threads.push(to);
        Ok(())
    }
}

/// Looks up all names.
fn resolve(pools: &[Arc<Pool>]) {
    for pool in pools.iter().filter(|pool| pool.has_names()) {
        if let Err(error) = pool.resolve() {
            tracing::warn!(%pool, %error, "backends stay as they are");
        }
    }
}

/// A connection to a backend that is being made.
struct Attempt {
    pool: Arc<Pool>,
    backend: Arc<Backend>,
    stream: TcpStream,
}

impl Attempt {
    fn end(mut self, good: bool) {
        let good = good && matches!(self.stream.take_error(), Ok(None));
        if good {
            let header = Header::local(self.pool.settings().header);
            let _ = self.stream.write(header.octets());
        }
        self.backend.checked(good, self.pool.settings());
    }
}

/// Connects to every backend once.
fn check(pools: &[Arc<Pool>], settings: &Settings) {
    let all: Vec<_> = pools
        .iter()
        .flat_map(|pool| {
            let backends = pool.backends();
            let pairs: Vec<_> = backends
                .iter()
                .map(|b| (Arc::clone(pool), Arc::clone(b)))
                .collect();
            pairs
        })
        .collect();
    let at_most = settings.connect_timeout.min(settings.health_interval);
    for some in all.chunks(AT_A_TIME) {
        let mut attempts = Vec::new();
        for (pool, backend) in some {
            match socket::connect(backend.addr()) {
                Ok((stream, _)) => attempts.push(Attempt {
                    pool: Arc::clone(pool),
                    backend: Arc::clone(backend),
                    stream,
                }),
                // Our own want says nothing about the backend.
                Err(error) if socket::is_shortage(&error) => {
                    tracing::debug!(%error, backend = %backend.addr(), "no check");
                }
                Err(_) => backend.checked(false, pool.settings()),
            }
        }
        await_all(attempts, Instant::now() + at_most);
    }
}

fn await_all(mut attempts: Vec<Attempt>, end: Instant) {
    while !attempts.is_empty() {
        let left = end.saturating_duration_since(Instant::now());
        let mut fds: Vec<_> = attempts
            .iter()
            .map(|a| PollFd::new(a.stream.as_fd(), PollFlags::POLLOUT))
            .collect();
        // Rounded up, or the last millisecond would be spent polling.
        let timeout = PollTimeout::try_from(left + Duration::from_micros(999));
        let timeout = timeout.unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, timeout) {
            Ok(0) if left.is_zero() => break,
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => {
                tracing::debug!(%error, "checks");
                break;
            }
        }
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        let mut ready = ready.into_iter();
        let done: Vec<Attempt> = attempts
            .extract_if(.., |_| ready.next().unwrap_or(false))
            .collect();
        for attempt in done {
            attempt.end(true);
        }
    }
    for attempt in attempts {
        attempt.end(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::TcpListener;

    fn settings() -> Settings {
        Settings {
            health_interval: Duration::from_millis(20),
            resolve_interval: Duration::from_millis(20),
            ..Settings::default()
        }
    }

    fn wait_for(what: &str, done: impl Fn() -> bool) {
        let start = Instant::now();
        while !done() {
            assert!(start.elapsed() < Duration::from_mins(1), "{what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_backend_that_dies_is_left_out_and_comes_back() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let stays = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let addr = listener.local_addr().expect("bound");
        let target = format!(
            "{addr},{}?proxy_protocol=v1",
            stays.local_addr().expect("bound")
        );
        let pool = Arc::new(Pool::new(target.parse().expect("a target")));
        let mut watch = Watch::new(settings());
        watch.open(&pool).expect("addresses");

        let (mut check, _) = listener.accept().expect("a check");
        let mut said = String::new();
        check.read_to_string(&mut said).expect("it closes");
        assert_eq!(said, "PROXY UNKNOWN\r\n");
        assert!(pool.infos().iter().all(|b| b.up));

        drop(listener);
        wait_for("down", || !pool.infos()[0].up);
        assert!(pool.infos()[1].up);
        let _again = TcpListener::bind(addr).expect("the port is free");
        wait_for("up", || pool.infos()[0].up);
    }

    #[test]
    fn a_backend_that_does_not_answer_a_syn_is_left_out() {
        // Nobody accepts, and the queue is full: SYNs are dropped.
        let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)
            .expect("a socket");
        let any: std::net::SocketAddr = "127.0.0.1:0".parse().expect("literal");
        full.bind(&any.into()).expect("loopback");
        full.listen(0).expect("loopback");
        let addr = full.local_addr().expect("bound").as_socket().expect("IP");
        let _fill: Vec<_> = (0..3)
            .map(|_| TcpStream::connect_timeout(&addr, Duration::from_millis(50)))
            .collect();
        let pool = Arc::new(Pool::new(addr.to_string().parse().expect("a target")));
        let mut watch = Watch::new(settings());
        watch.open(&pool).expect("addresses");
        wait_for("down", || !pool.infos()[0].up);
    }

    #[test]
    fn a_name_without_an_address_is_refused() {
        let pool = Arc::new(Pool::new(
            "no-such-name.invalid:80".parse().expect("a name"),
        ));
        let message = Watch::new(settings()).open(&pool).expect_err("no address");
        assert!(message.contains("no-such-name.invalid:80"), "{message}");
    }
}
