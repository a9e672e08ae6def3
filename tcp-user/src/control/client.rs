//! `tcp-user stats`, `conns` and `trace`: what a client of the control socket prints.

use super::ladder::Ladder;
use super::records::{Connection, Request, Segment, Stats};
use super::server::{self, DIRECTORY};
use anyhow::{Context, Result, bail};
use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// How to print.
#[derive(Clone, Copy, Debug, Default)]
pub struct Output {
    /// The server's JSON as it is.
    pub json: bool,
    /// Sequence numbers from the ISNs on.
    pub relative: bool,
}

/// Sends the request to the server and prints its answer.
pub fn run(control: Option<&Path>, request: Request, output: Output) -> Result<()> {
    let path = match control {
        Some(path) => path.to_owned(),
        None => find(Path::new(DIRECTORY))?,
    };
    let name = path.display();
    let mut stream = UnixStream::connect(&path)
        .with_context(|| format!("--control {name}: no server answers"))?;
    serde_json::to_writer(&stream, &request)?;
    stream.write_all(b"\n")?;

    let mut out = io::stdout().lock();
    let mut ladder = Ladder::new(out.is_terminal(), output.relative);
    for line in BufReader::new(&stream).lines() {
        let line = line.with_context(|| format!("--control {name}"))?;
        let text = if output.json {
            line + "\n"
        } else {
            match request {
                Request::Stats => stats(&serde_json::from_str(&line)?),
                Request::Conns => connections(&serde_json::from_str::<Vec<_>>(&line)?),
                Request::Trace => ladder.format(&serde_json::from_str::<Segment>(&line)?),
            }
        };
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => break,
            Err(e) => return Err(e.into()),
        }
        if request != Request::Trace {
            break;
        }
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

fn stats(stats: &Stats) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "XDP: {} frames", stats.xdp_frames);
    for (name, n) in stats.xdp.iter().filter(|(_, n)| **n > 0) {
        let _ = writeln!(out, "  {n:>12}  {name}");
    }
    for worker in &stats.workers {
        let _ = writeln!(
            out,
            "queue {}: {} connections, {} frames in, {} out, {} dropped, {} not sendable",
            worker.queue,
            worker.connections,
            worker.received,
            worker.sent,
            worker.receive_dropped,
            worker.send_invalid,
        );
        for (name, n) in worker.frames.iter().filter(|(_, n)| **n > 0) {
            let _ = writeln!(out, "  {n:>12}  {name}");
        }
    }
    if stats.trace_dropped > 0 {
        let _ = writeln!(out, "trace records dropped: {}", stats.trace_dropped);
    }
    out
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
