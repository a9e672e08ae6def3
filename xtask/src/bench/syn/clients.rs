//! Connections that are meant: does a client still get through?

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::fd::AsRawFd as _,
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use nix::unistd::Pid;

use super::{
    super::report::quantile,
    PORT,
    bed::{self, Bed, RESPONDER},
};

/// How many connect, one after the other.
const COUNT: u32 = 1000;
/// The time from one to the next.
const INTERVAL: Duration = Duration::from_millis(4);
/// A client that has not got its echo by then has failed. Linux sends a SYN again after 1, 2, 3
/// and 4 s, or, before 6.5, after 1, 3 and 7 s.
const PATIENCE: Duration = Duration::from_secs(8);

/// What became of them.
#[derive(Default)]
pub(super) struct Outcome {
    pub(super) tried: u32,
    pub(super) succeeded: u32,
    /// Those that did not have to send anything again.
    pub(super) at_once: u32,
    /// Milliseconds from the first SYN to the echo, of those that succeeded.
    pub(super) p50: f64,
    pub(super) p99: f64,
    /// The same, of those that sent nothing again.
    pub(super) p99_at_once: f64,
}

/// A client that got its echo.
struct Echoed {
    /// Milliseconds from the first SYN.
    took: f64,
    /// Segments that it sent again, SYNs too.
    sent_again: u32,
}

/// Connects, sends 64 octets, reads them back, closes; over and over.
///
/// The clients are on the generator's CPU, as those of a real flood are on other machines: on the
/// responder's they would send just when its NAPI thread does not run, and find the ring full.
pub(super) fn connect(bed: &Bed) -> Result<Outcome> {
    let to: SocketAddr = format!("{RESPONDER}:{PORT}").parse()?;
    bed.change_client()?;
    let mut echoed = bed.generator.enter(|| {
        bed::pin(Pid::from_raw(0), bed.cpus.generator)?;
        let start = Instant::now();
        let clients: Vec<_> = (0..COUNT)
            .filter_map(|index| {
                let due = INTERVAL * index;
                thread::sleep(due.saturating_sub(start.elapsed()));
                // Threads are born in the namespace, and on the CPU, of the one that makes them.
                let builder = thread::Builder::new().stack_size(64 * 1024);
                builder.spawn(move || exchange(to)).ok()
            })
            .collect();
        let outcomes = clients.into_iter().map(thread::JoinHandle::join);
        anyhow::Ok(outcomes.filter_map(|o| o.ok()?.ok()).collect::<Vec<_>>())
    })??;
    echoed.sort_by(|a, b| a.took.total_cmp(&b.took));
    let all: Vec<f64> = echoed.iter().map(|e| e.took).collect();
    let at_once = echoed.iter().filter(|e| e.sent_again == 0);
    let at_once: Vec<f64> = at_once.map(|e| e.took).collect();
    Ok(Outcome {
        tried: COUNT,
        succeeded: all.len() as u32,
        at_once: at_once.len() as u32,
        p50: quantile(&all, 0.5),
        p99: quantile(&all, 0.99),
        p99_at_once: quantile(&at_once, 0.99),
    })
}

fn exchange(to: SocketAddr) -> io::Result<Echoed> {
    let start = Instant::now();
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    let left = PATIENCE.saturating_sub(start.elapsed());
    stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
    stream.write_all(&[0x55; 64])?;
    let mut answer = [0; 64];
    stream.read_exact(&mut answer)?;
    Ok(Echoed {
        took: start.elapsed().as_secs_f64() * 1e3,
        sent_again: sent_again(&stream)?,
    })
}

/// How many segments the kernel has sent again on a connection, SYNs too.
fn sent_again(stream: &TcpStream) -> io::Result<u32> {
    // SAFETY: integers; all zero is a value.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut len = size_of_val(&info) as libc::socklen_t;
    // SAFETY: the structure and its length live until the call returns, which writes no more.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut len,
        )
    };
    nix::errno::Errno::result(result)?;
    Ok(info.tcpi_total_retrans)
}
