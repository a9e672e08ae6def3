//! Connections that are meant: does a client still get through?

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;

use super::{
    super::report::quantile,
    PORT,
    bed::{Bed, RESPONDER},
};

/// How many connect, one after the other.
const COUNT: u32 = 1000;
/// The time from one to the next.
const INTERVAL: Duration = Duration::from_millis(4);
/// A client that has not got its echo by then has failed.
const PATIENCE: Duration = Duration::from_secs(5);

/// What became of them.
pub(super) struct Outcome {
    pub(super) tried: u32,
    pub(super) succeeded: u32,
    /// Milliseconds from the first SYN to the echo, of those that succeeded.
    pub(super) p50: f64,
    pub(super) p99: f64,
}

/// Connects, sends 64 octets, reads them back, closes; over and over.
pub(super) fn connect(bed: &Bed) -> Result<Outcome> {
    let to: SocketAddr = format!("{RESPONDER}:{PORT}").parse()?;
    let times = bed.generator.enter(|| {
        let start = Instant::now();
        let clients: Vec<_> = (0..COUNT)
            .filter_map(|index| {
                let due = INTERVAL * index;
                thread::sleep(due.saturating_sub(start.elapsed()));
                // Threads are born in the namespace of the one that makes them.
                let builder = thread::Builder::new().stack_size(64 * 1024);
                builder.spawn(move || exchange(to)).ok()
            })
            .collect();
        let times = clients.into_iter().map(thread::JoinHandle::join);
        times.filter_map(|time| time.ok()?.ok()).collect::<Vec<_>>()
    })?;
    let mut times: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1e3).collect();
    times.sort_by(f64::total_cmp);
    Ok(Outcome {
        tried: COUNT,
        succeeded: times.len() as u32,
        p50: quantile(&times, 0.5),
        p99: quantile(&times, 0.99),
    })
}

fn exchange(to: SocketAddr) -> io::Result<Duration> {
    let start = Instant::now();
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    let left = PATIENCE.saturating_sub(start.elapsed());
    stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
    stream.write_all(&[0x55; 64])?;
    let mut answer = [0; 64];
    stream.read_exact(&mut answer)?;
    Ok(start.elapsed())
}
