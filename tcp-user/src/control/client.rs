//! `tcp-user stats`, `conns`, `trace`, `listen` and `secret`: what a client of the
//! control socket prints.

use super::ladder::Ladder;
use super::records::{
    Connection, ListenInfo, Refusal, Reloaded, Request, SecretInfo, Segment, Stats,
};
use super::server::{self, DIRECTORY};
use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tcp_common::counters::{Counter, Verdict};

/// How to print.
#[derive(Clone, Copy, Debug, Default)]
pub struct Output {
    /// The server's JSON as it is.
    pub json: bool,
    /// Sequence numbers from the ISNs on.
    pub relative: bool,
}

/// A connection to a server.
struct Server {
    name: String,
    lines: BufReader<UnixStream>,
}

impl Server {
    fn connect(control: Option<&Path>) -> Result<Self> {
        let path = match control {
            Some(path) => path.to_owned(),
            None => find(Path::new(DIRECTORY))?,
        };
        let name = path.display().to_string();
        let stream = UnixStream::connect(&path)
            .with_context(|| format!("--control {name}: no server answers"))?;
        Ok(Self {
            name,
            lines: BufReader::new(stream),
        })
    }

    fn send(&mut self, request: &Request) -> Result<()> {
        let mut line = serde_json::to_vec(request)?;
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
        if let Ok(refusal) = serde_json::from_str::<Refusal>(&line) {
            bail!("{}", refusal.error);
        }
        Ok((!line.is_empty()).then_some(line))
    }

    fn ask(&mut self, request: &Request) -> Result<String> {
        self.send(request)?;
        self.line()?
            .with_context(|| format!("--control {}: the server has gone", self.name))
    }

    fn stats(&mut self) -> Result<(Instant, Stats)> {
        let line = self.ask(&Request::Stats)?;
        Ok((Instant::now(), serde_json::from_str(&line)?))
    }
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
    if *request == Request::Trace {
        return follow(server, output);
    }
    let line = server.ask(request)?;
    let text = if output.json {
        line
    } else {
        match request {
            Request::Stats => stats(&serde_json::from_str(&line)?, None),
            Request::Conns => connections(&serde_json::from_str::<Vec<_>>(&line)?),
            Request::Listens | Request::Policy { .. } => {
                listens(&serde_json::from_str::<Vec<_>>(&line)?)
            }
            Request::Secret | Request::Rotate => secret(&serde_json::from_str(&line)?),
            Request::Reload => {
                let reloaded: Reloaded = serde_json::from_str(&line)?;
                format!("{reloaded}\n")
            }
            Request::Trace => line,
        }
    };
    print(&text).map(|_| ())
}

fn follow(mut server: Server, output: Output) -> Result<()> {
    server.send(&Request::Trace)?;
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
            format!("\x1b[H\x1b[2J{}", stats(&next.1, Some(&rates)))
        } else {
            stats(&next.1, Some(&rates))
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

/// Growth of the counters, per second.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
struct Rates {
    interval_s: f64,
    xdp_frames: f64,
    xdp: BTreeMap<String, f64>,
    /// By [`Verdict::name`].
    verdicts: BTreeMap<String, f64>,
    /// By queue.
    workers: Vec<WorkerRates>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
struct WorkerRates {
    received: f64,
    sent: f64,
    frames: BTreeMap<String, f64>,
}

impl Rates {
    fn between(before: &Stats, after: &Stats, time: Duration) -> Self {
        let seconds = time.as_secs_f64().max(1e-9);
        let rate = |before: u64, after: u64| after.saturating_sub(before) as f64 / seconds;
        let all = |before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>| {
            after
                .iter()
                .map(|(name, n)| {
                    let then = before.get(name).copied().unwrap_or(0);
                    (name.clone(), rate(then, *n))
                })
                .collect::<BTreeMap<_, _>>()
        };
        let xdp = all(&before.xdp, &after.xdp);
        let mut verdicts = BTreeMap::new();
        for counter in Counter::ALL {
            *verdicts
                .entry(counter.verdict().name().to_owned())
                .or_default() += xdp.get(counter.name()).copied().unwrap_or(0.0);
        }
        Self {
            interval_s: seconds,
            xdp_frames: rate(before.xdp_frames, after.xdp_frames),
            verdicts,
            workers: before
                .workers
                .iter()
                .zip(&after.workers)
                .map(|(before, after)| WorkerRates {
                    received: rate(before.received, after.received),
                    sent: rate(before.sent, after.sent),
                    frames: all(&before.frames, &after.frames),
                })
                .collect(),
            xdp,
        }
    }
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

/// One line of a table: total, rate, name.
fn row(out: &mut String, indent: &str, total: u64, rate: Option<f64>, name: &str) {
    let rate = rate.map_or_else(String::new, |r| format!(" {r:>11.0}/s"));
    let _ = writeln!(out, "{indent}{total:>12}{rate}  {name}");
}

fn stats(stats: &Stats, rates: Option<&Rates>) -> String {
    let mut out = String::new();
    match rates {
        Some(r) => {
            let _ = writeln!(
                out,
                "XDP: {} frames, {:.0}/s over {:.1} s",
                stats.xdp_frames, r.xdp_frames, r.interval_s
            );
        }
        None => {
            let _ = writeln!(out, "XDP: {} frames", stats.xdp_frames);
        }
    }
    for verdict in [
        Verdict::Answered,
        Verdict::Redirected,
        Verdict::Dropped,
        Verdict::Pass,
    ] {
        let of = |c: &&Counter| c.verdict() == verdict;
        let total = |c: &Counter| stats.xdp.get(c.name()).copied().unwrap_or(0);
        let sum = Counter::ALL.iter().filter(of).map(total).sum();
        if sum == 0 {
            continue;
        }
        let rate = rates.and_then(|r| r.verdicts.get(verdict.name()).copied());
        row(&mut out, "  ", sum, rate, verdict.name());
        for counter in Counter::ALL.iter().filter(of).filter(|c| total(c) > 0) {
            let rate = rates.and_then(|r| r.xdp.get(counter.name()).copied());
            row(&mut out, "    ", total(counter), rate, counter.name());
        }
    }
    for (i, worker) in stats.workers.iter().enumerate() {
        let rates = rates.and_then(|r| r.workers.get(i));
        let per_second = |rate: fn(&WorkerRates) -> f64| {
            rates.map_or_else(String::new, |r| format!(" ({:.0}/s)", rate(r)))
        };
        let _ = writeln!(
            out,
            "queue {}: {} connections, {} frames in{}, {} out{}, {} dropped, {} not sendable",
            worker.queue,
            worker.connections,
            worker.received,
            per_second(|r| r.received),
            worker.sent,
            per_second(|r| r.sent),
            worker.receive_dropped,
            worker.send_invalid,
        );
        for (name, n) in worker.frames.iter().filter(|(_, n)| **n > 0) {
            let rate = rates.and_then(|r| r.frames.get(name).copied());
            row(&mut out, "    ", *n, rate, name);
        }
    }
    if stats.trace_dropped > 0 {
        let _ = writeln!(out, "trace records dropped: {}", stats.trace_dropped);
    }
    out
}

fn listens(listens: &[ListenInfo]) -> String {
    let width = listens.iter().map(|l| l.place.len()).max().unwrap_or(0);
    listens.iter().fold(String::new(), |mut out, l| {
        let policy = l.policy.to_string();
        let _ = writeln!(out, "{:<width$}  {policy:<8}  {}", l.place, l.app);
        out
    })
}

fn secret(secret: &SecretInfo) -> String {
    if secret.in_s > 0.0 {
        format!("{} in {:.0} s\n", secret.id, secret.in_s.ceil())
    } else {
        format!("{}\n", secret.id)
    }
}

fn connections(connections: &[Connection]) -> String {
    let mut out = format!(
        "{:<12} {:<28} {:<28} {:>7} {:>7} {:>8} {:>8} {:>9} {:>6}\n",
        "state", "client", "local", "recv-q", "send-q", "in", "out", "srtt", "retx"
    );
    for c in connections {
        let srtt = c
            .srtt_ms
            .map_or_else(|| "-".to_owned(), |t| format!("{t:.3}ms"));
        let _ = writeln!(
            out,
            "{:<12} {:<28} {:<28} {:>7} {:>7} {:>8} {:>8} {:>9} {:>6}",
            c.state,
            c.remote.to_string(),
            c.local.to_string(),
            c.recv_queue,
            c.send_queue,
            c.bytes_in,
            c.bytes_out,
            srtt,
            c.retransmits,
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(syn_ack: u64, denied: u64) -> Stats {
        let counters: Vec<_> = Counter::ALL
            .iter()
            .map(|c| match c {
                Counter::SynAck => (*c, syn_ack),
                Counter::DropDenied => (*c, denied),
                _ => (*c, 0),
            })
            .collect();
        Stats::new(&counters, &[])
    }

    #[test]
    fn rates_are_grouped_by_verdict_and_leave_zeros_out() {
        let (before, after) = (counted(100, 7), counted(1100, 7));
        let rates = Rates::between(&before, &after, Duration::from_millis(500));
        assert_eq!(
            stats(&after, Some(&rates)),
            "XDP: 1107 frames, 2000/s over 0.5 s\n          \
             1100        2000/s  answered\n            \
             1100        2000/s  syn_ack\n             \
             7           0/s  dropped\n               \
             7           0/s  drop_denied\n"
        );
        assert_eq!(
            stats(&after, None),
            "XDP: 1107 frames\n          \
             1100  answered\n            \
             1100  syn_ack\n             \
             7  dropped\n               \
             7  drop_denied\n"
        );
        let json = serde_json::to_value(WithRates {
            stats: &after,
            rates: &rates,
        })
        .expect("plain data");
        assert_eq!(json["xdp"]["syn_ack"], 1100);
        assert_eq!(json["rates"]["xdp"]["syn_ack"], 2000.0);
        assert_eq!(json["rates"]["verdicts"]["answered"], 2000.0);
    }

    #[test]
    fn a_server_that_started_anew_has_no_negative_rates() {
        let rates = Rates::between(&counted(5, 0), &counted(2, 0), Duration::from_secs(1));
        assert_eq!(rates.xdp["syn_ack"].to_string(), "0");
    }
}
