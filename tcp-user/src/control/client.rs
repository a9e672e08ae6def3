//! The commands for a running server: clients of the control socket.

mod text;

use super::doctor;
use super::draw::Drawing;
use super::filter::Filter;
use super::ladder::Ladder;
use super::listen::Place;
use super::proxied::Proxied;
use super::rates::Rates;
use super::records::{Greeting, ListenStats, Refusal, Reloaded, Request, Segment, Stats, VERSION};
use super::server::{self, DIRECTORY};
use anyhow::{Context, Result, bail};
use nix::sys::signal::{SigSet, Signal};
use serde::Serialize;
use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

/// How to print.
#[derive(Clone, Copy, Debug, Default)]
pub struct Output {
    /// The server's JSON as it is.
    pub json: bool,
    /// Sequence numbers from the ISNs on.
    pub relative: bool,
    /// One line for a connection.
    pub brief: bool,
}

/// A connection to a server.
pub(super) struct Server {
    name: String,
    /// Its first line.
    pub(super) greeting: Greeting,
    lines: BufReader<UnixStream>,
}

impl Server {
    pub(super) fn connect(control: Option<&Path>) -> Result<Self> {
        let path = match control {
            Some(path) => path.to_owned(),
            None => find(Path::new(DIRECTORY))?,
        };
        let name = path.display().to_string();
        let stream = UnixStream::connect(&path)
            .with_context(|| format!("--control {name}: no server answers"))?;
        let mut lines = BufReader::new(stream);
        let mut line = String::new();
        lines
            .read_line(&mut line)
            .with_context(|| format!("--control {name}"))?;
        let greeting =
            Greeting::check(&line).map_err(|e| anyhow::anyhow!("--control {name}: {e}"))?;
        Ok(Self {
            name,
            greeting,
            lines,
        })
    }

    /// Path of its socket.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    fn gone(&self) -> String {
        format!("--control {}: the server has gone", self.name)
    }

    fn send(&mut self, request: &Request) -> Result<()> {
        let mut line = serde_json::to_vec(&Versioned {
            v: VERSION,
            request,
        })?;
        line.push(b'\n');
        let sent = self.lines.get_mut().write_all(&line);
        sent.with_context(|| format!("--control {}", self.name))
    }

    /// The next line, if the server sends one more.
    fn line(&mut self) -> Result<Option<String>> {
        let mut line = String::new();
        self.lines
            .read_line(&mut line)
            .with_context(|| format!("--control {}", self.name))?;
        // A list of one would pass for one.
        if line.starts_with('{')
            && let Ok(refusal) = serde_json::from_str::<Refusal>(&line)
        {
            bail!("{}", refusal.error);
        }
        Ok((!line.is_empty()).then_some(line))
    }

    pub(super) fn ask(&mut self, request: &Request) -> Result<String> {
        self.send(request)?;
        self.line()?.with_context(|| self.gone())
    }

    pub(super) fn stats(&mut self) -> Result<(Instant, Stats)> {
        let line = self.ask(&Request::Stats)?;
        Ok((Instant::now(), serde_json::from_str(&line)?))
    }
}

#[derive(Serialize)]
struct Versioned<'a> {
    v: u32,
    #[serde(flatten)]
    request: &'a Request,
}

/// Prints; false when nobody reads any more.
fn print(text: &str) -> Result<bool> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// Sends the request to the server and prints its answer.
pub fn run(control: Option<&Path>, request: &Request, output: Output) -> Result<()> {
    let mut server = Server::connect(control)?;
    let line = server.ask(request)?;
    let text = if output.json {
        line
    } else {
        match request {
            Request::Stats => text::stats(&serde_json::from_str(&line)?, None),
            Request::Conns { .. } => {
                text::connections(&serde_json::from_str::<Vec<_>>(&line)?, !output.brief)
            }
            Request::Sources | Request::Source { .. } => {
                text::sources(&serde_json::from_str(&line)?)
            }
            Request::Listens
            | Request::Policy { .. }
            | Request::Add { .. }
            | Request::Remove { .. } => text::listens(&serde_json::from_str::<Vec<_>>(&line)?),
            Request::Backends | Request::Backend { .. } => {
                let all: Vec<Proxied> = serde_json::from_str(&line)?;
                all.iter().map(ToString::to_string).collect()
            }
            Request::Secret | Request::Rotate => text::secret(&serde_json::from_str(&line)?),
            Request::Reload => {
                let reloaded: Reloaded = serde_json::from_str(&line)?;
                format!("{reloaded}\n")
            }
            Request::Doctor | Request::Drain { .. } | Request::Trace { .. } => line,
        }
    };
    print(&text).map(|_| ())
}

/// `tcp-user doctor` without an interface: what the server finds; true if nothing fails.
pub fn doctor(control: Option<&Path>, json: bool) -> Result<bool> {
    let line = Server::connect(control)?.ask(&Request::Doctor)?;
    doctor::print(&serde_json::from_str::<Vec<doctor::Check>>(&line)?, json)
}

/// `tcp-user drain`: lets connections end and waits for it; true if none is left.
pub fn drain(control: Option<&Path>, places: &[Place], wait: Duration, json: bool) -> Result<bool> {
    let mut server = Server::connect(control)?;
    let places = places.iter().map(ToString::to_string).collect();
    let line = server.ask(&Request::Drain { places })?;
    let drained: Vec<String> = serde_json::from_str(&line)?;
    let end = Instant::now() + wait;
    loop {
        let (_, stats) = server.stats()?;
        let ours = |l: &&ListenStats| drained.contains(&l.listen.place);
        let open: u64 = stats.listens.iter().filter(ours).map(|l| l.open).sum();
        let left = end.saturating_duration_since(Instant::now());
        if open == 0 || left.is_zero() {
            let text = if json {
                serde_json::to_string(&Drained {
                    places: drained,
                    open,
                })? + "\n"
            } else {
                format!("{}: {open} connections left\n", drained.join(" "))
            };
            print(&text)?;
            return Ok(open == 0);
        }
        std::thread::sleep(left.min(Duration::from_millis(200)));
    }
}

#[derive(Serialize)]
struct Drained {
    places: Vec<String>,
    open: u64,
}

/// `tcp-user trace`: a ladder of what the server sees from now on.
pub fn trace(control: Option<&Path>, filter: &Filter, output: Output) -> Result<()> {
    let mut server = Server::connect(control)?;
    server.send(&Request::Trace {
        filter: filter.clone(),
    })?;
    let mut ladder = Ladder::new(io::stdout().is_terminal(), output.relative);
    while let Some(line) = server.line()? {
        let text = if output.json {
            line
        } else {
            ladder.format(&serde_json::from_str::<Segment>(&line)?)
        };
        if !print(&text)? {
            break;
        }
    }
    Ok(())
}

/// `tcp-user stats --interval`: the counters and how fast they grow, once or, with
/// `watch`, until nobody reads.
pub fn rates(control: Option<&Path>, interval: Duration, watch: bool, json: bool) -> Result<()> {
    let mut server = Server::connect(control)?;
    let clear = watch && !json && io::stdout().is_terminal();
    let mut last = server.stats()?;
    loop {
        std::thread::sleep(interval);
        let next = server.stats()?;
        let rates = Rates::between(&last.1, &next.1, next.0 - last.0);
        let text = if json {
            serde_json::to_string(&WithRates {
                stats: &next.1,
                rates: &rates,
            })? + "\n"
        } else if clear {
            format!("\x1b[H\x1b[2J{}", text::stats(&next.1, Some(&rates)))
        } else {
            text::stats(&next.1, Some(&rates))
        };
        if !print(&text)? || !watch {
            return Ok(());
        }
        last = next;
    }
}

#[derive(Serialize)]
struct WithRates<'a> {
    #[serde(flatten)]
    stats: &'a Stats,
    rates: &'a Rates,
}

/// What `tcp-user trace` draws, and where to.
#[derive(Clone, Debug)]
pub struct Picture {
    /// `--svg FILE`.
    pub svg: Option<PathBuf>,
    /// `--mermaid`, on stdout.
    pub mermaid: bool,
    /// `--conns N`.
    pub connections: usize,
    /// `--for DURATION`.
    pub at_most: Option<Duration>,
}

/// Draws the next connections once they have ended, or what there is of them when the
/// time is over or SIGINT or SIGTERM comes.
pub fn draw(control: Option<&Path>, filter: &Filter, picture: &Picture) -> Result<()> {
    /// Segments may come a little behind the one that ends a connection.
    const LATE: Duration = Duration::from_millis(200);
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    signals.thread_block()?;
    let mut server = Server::connect(control)?;
    server.send(&Request::Trace {
        filter: filter.clone(),
    })?;
    // `None` ends it.
    let (to, lines) = sync_channel(1024);
    let stop = to.clone();
    std::thread::spawn(move || {
        while let Ok(Some(line)) = server.line() {
            if to.send(Some(line)).is_err() {
                return;
            }
        }
        let _ = to.send(None);
    });
    std::thread::spawn(move || {
        let _ = signals.wait();
        let _ = stop.send(None);
    });
    let mut drawing = Drawing::new(picture.connections);
    let start = Instant::now();
    loop {
        let left = picture
            .at_most
            .map(|most| most.saturating_sub(start.elapsed()));
        let wait = match left {
            _ if drawing.is_complete() => LATE,
            Some(left) => left,
            None => Duration::from_hours(1),
        };
        match lines.recv_timeout(wait) {
            Ok(Some(line)) => drawing.push(serde_json::from_str(&line)?),
            Err(RecvTimeoutError::Timeout) if left.is_none() && !drawing.is_complete() => {}
            Ok(None) | Err(_) => break,
        }
    }
    if drawing.is_empty() {
        bail!("no connection has begun");
    }
    if picture.mermaid {
        print(&drawing.mermaid())?;
    }
    if let Some(path) = &picture.svg {
        std::fs::write(path, drawing.svg()).with_context(|| format!("--svg {}", path.display()))?;
        let (connections, segments) = drawing.len();
        eprintln!(
            "tcp-user: {}: {segments} segments, {connections} connections",
            path.display()
        );
    }
    Ok(())
}

/// The only server's socket; of several, the only one in this network namespace.
fn find(directory: &Path) -> Result<PathBuf> {
    let mut alive = Vec::new();
    if let Ok(entries) = std::fs::read_dir(directory) {
        for entry in entries.flatten() {
            let path = entry.path();
            if UnixStream::connect(&path).is_ok() {
                alive.push(path);
            }
        }
    }
    alive.sort();
    let here = server::namespace_suffix();
    let is_here = |path: &PathBuf| path.to_string_lossy().ends_with(&here);
    if alive.iter().filter(|p| is_here(p)).count() == 1 {
        alive.retain(is_here);
    }
    match alive.as_slice() {
        [] => bail!(
            "no server is running (no socket in {})",
            directory.display()
        ),
        [one] => Ok(one.clone()),
        several => {
            let names: Vec<String> = several.iter().map(|p| p.display().to_string()).collect();
            bail!(
                "several servers are running, choose with --control: {}",
                names.join(" ")
            )
        }
    }
}
