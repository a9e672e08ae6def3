//! How fast octets arrive over a path that loses segments, both ways, beside the kernel's own server.
//!
//! Client and server are namespaces with a router between them, which drops at random what it
//! forwards. So the loss is silent to both, as on a real path: a rule at the client's own hooks would
//! tell its TCP at once. Offloads are off, the MTU is 1500. The client is the kernel's TCP in every row;
//! for an upload it is the sender, with the congestion control that the machine has by default.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    os::fd::AsFd as _,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::{self, sockopt};
use serde_json::json;
use xtask::netns::{Namespace, VethEnd, VethPair};

use super::{
    Programs,
    report::{self, median},
    server::Server,
};

const CLIENT_NET: &str = "198.18.1.0/24";
const SERVER_NET: &str = "198.18.2.0/24";
const SERVER: &str = "198.18.2.2";
const DOWN: u16 = 80;
const UP: u16 = 9;
/// A transfer that takes longer is reported as one that did not end.
const LIMIT: Duration = Duration::from_secs(90);
/// `GET /bytes/N` repeats itself after so many octets.
const PERIOD: usize = 65_521;

/// Who serves, and with which congestion control.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Peer {
    Ours(&'static str),
    Kernel(&'static str),
}

impl Peer {
    const ALL: [Self; 5] = [
        Self::Ours("cubic"),
        Self::Ours("bbr"),
        Self::Kernel("cubic"),
        Self::Kernel("bbr"),
        Self::Kernel("reno"),
    ];

    fn name(self) -> String {
        match self {
            Self::Ours(congestion) => format!("tcp-xdp, {congestion}"),
            Self::Kernel(congestion) => format!("kernel, {congestion}"),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Download,
    Upload,
}

/// What a transfer came to.
struct Transfer {
    /// Seconds; infinite if it did not end in time.
    took: f64,
    /// The longest time in which nothing arrived, seconds.
    pause: f64,
}

struct Row {
    peer: Peer,
    direction: Direction,
    /// Losses per 1000 frames, each way.
    loss: u32,
    transfers: Vec<Transfer>,
}

/// Client, router, server.
struct Path3 {
    _near: VethPair,
    _far: VethPair,
    client: Namespace,
    router: Namespace,
    server: Namespace,
}

impl Path3 {
    fn new() -> Result<Self> {
        let client = Namespace::unique("client")?;
        let router = Namespace::unique("router")?;
        let server = Namespace::unique("server")?;
        let near = VethPair::create(
            &VethEnd::new(&client, "eth0").address("198.18.1.1/24"),
            &VethEnd::new(&router, "near").address("198.18.1.2/24"),
        )?;
        let far = VethPair::create(
            &VethEnd::new(&router, "far")
                .address("198.18.2.1/24")
                .pass_program(),
            &VethEnd::new(&server, "eth0").address("198.18.2.2/24"),
        )?;
        for interface in ["near", "far"] {
            router.sysctl(&format!("ipv4/conf/{interface}/forwarding"), "1")?;
        }
        client.run("ip", &["route", "add", SERVER_NET, "via", "198.18.1.2"])?;
        server.run("ip", &["route", "add", CLIENT_NET, "via", "198.18.2.1"])?;
        Ok(Self {
            _near: near,
            _far: far,
            client,
            router,
            server,
        })
    }

    fn lose(&self, per_mille: u32) -> Result<()> {
        let rule = if per_mille > 0 {
            format!("numgen random mod 1000 < {per_mille} drop")
        } else {
            String::new()
        };
        let rules = format!(
            "flush ruleset ; table ip loss {{ chain forward {{ \
             type filter hook forward priority 0 ; {rule} ; }} ; }}"
        );
        self.router.run("nft", &[&rules]).map(drop)
    }
}

/// Congestion control in the kernel's server, by connection.
struct KernelServer(Vec<TcpListener>);

impl KernelServer {
    fn start(path: &Path3, congestion: &'static str) -> Result<Self> {
        let listeners = path.server.enter(|| {
            [DOWN, UP]
                .iter()
                .map(|port| TcpListener::bind((SERVER, *port)))
                .collect::<std::io::Result<Vec<_>>>()
        })??;
        for listener in &listeners {
            let name = congestion.to_owned().into();
            socket::setsockopt(&listener.as_fd(), sockopt::TcpCongestion, &name)
                .with_context(|| format!("the kernel has no {congestion}"))?;
            let listener = listener.try_clone()?;
            thread::spawn(move || {
                let pattern = pattern();
                while let Ok((stream, address)) = listener.accept() {
                    let _ = address;
                    let pattern = pattern.clone();
                    thread::spawn(move || serve(stream, &pattern));
                }
            });
        }
        Ok(Self(listeners))
    }
}

impl Drop for KernelServer {
    fn drop(&mut self) {
        for listener in &self.0 {
            // Ends the `accept` that the other thread is in.
            let fd = std::os::fd::AsRawFd::as_raw_fd(listener);
            let _ = socket::shutdown(fd, socket::Shutdown::Both);
        }
    }
}

/// `GET /bytes/N` without a head, or whatever comes until it ends.
fn serve(mut stream: TcpStream, pattern: &[u8]) {
    let _ = stream.set_write_timeout(Some(LIMIT));
    let _ = stream.set_read_timeout(Some(LIMIT));
    let mut buffer = vec![0; 64 * 1024];
    if stream.local_addr().is_ok_and(|a| a.port() == UP) {
        while let Ok(1..) = stream.read(&mut buffer) {}
        return;
    }
    // The request may come in pieces.
    let mut len = 0;
    while !buffer[..len].ends_with(b"\r\n\r\n") {
        match stream.read(&mut buffer[len..]) {
            Ok(more @ 1..) => len += more,
            _ => return,
        }
    }
    let request = String::from_utf8_lossy(&buffer[..len]).into_owned();
    let octets = request
        .strip_prefix("GET /bytes/")
        .and_then(|rest| rest.split(' ').next()?.parse::<usize>().ok());
    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
    let mut left = octets.unwrap_or(0);
    while left > 0 {
        let len = left.min(PERIOD);
        if stream.write_all(&pattern[..len]).is_err() {
            return;
        }
        left -= len;
    }
}

/// What `GET /bytes/N` sends, twice its period.
fn pattern() -> Vec<u8> {
    (0..2 * PERIOD)
        .map(|i| {
            let place = (i % PERIOD) as u32 + 1;
            (place.wrapping_mul(2_654_435_761) >> 24) as u8
        })
        .collect()
}

fn transfer(path: &Path3, direction: Direction, octets: usize) -> Result<Transfer> {
    let port = if direction == Direction::Download {
        DOWN
    } else {
        UP
    };
    let stream = path.client.enter(|| {
        let address = std::net::SocketAddr::from((SERVER.parse::<std::net::Ipv4Addr>()?, port));
        anyhow::Ok(TcpStream::connect_timeout(&address, LIMIT)?)
    })??;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    let start = Instant::now();
    let result = match direction {
        Direction::Download => download(stream, octets, start),
        Direction::Upload => upload(&stream, octets, start),
    };
    match result {
        Ok(pause) => Ok(Transfer {
            took: start.elapsed().as_secs_f64(),
            pause: pause.as_secs_f64(),
        }),
        // The time is up, here or there.
        Err(_) if start.elapsed() >= LIMIT => Ok(Transfer {
            took: f64::INFINITY,
            pause: f64::INFINITY,
        }),
        Err(error) => Err(error),
    }
}

/// Compares every octet; the longest pause.
fn download(mut stream: TcpStream, octets: usize, start: Instant) -> Result<Duration> {
    write!(
        stream,
        "GET /bytes/{octets} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )?;
    let pattern = pattern();
    let mut buffer = vec![0; PERIOD];
    let mut head = Vec::new();
    let (mut at, mut pause, mut last) = (0, Duration::ZERO, Instant::now());
    loop {
        let len = stream.read(&mut buffer)?;
        pause = pause.max(last.elapsed());
        last = Instant::now();
        if len == 0 {
            break;
        }
        let mut data = &buffer[..len];
        if at == 0 && !head.ends_with(b"\r\n\r\n") {
            let end = data.windows(4).position(|w| w == b"\r\n\r\n");
            let end = end.context("no head in the first octets")? + 4;
            head.extend_from_slice(&data[..end]);
            data = &data[end..];
        }
        let from = at % PERIOD;
        ensure!(
            data.len() <= PERIOD && data == &pattern[from..from + data.len()],
            "wrong octets after {at}"
        );
        at += data.len();
        ensure!(start.elapsed() < LIMIT, "too slow");
    }
    ensure!(at == octets, "{at} octets instead of {octets}");
    Ok(pause)
}

fn upload(stream: &TcpStream, octets: usize, start: Instant) -> Result<Duration> {
    let pattern = pattern();
    let (mut left, mut pause, mut last) = (octets, Duration::ZERO, Instant::now());
    while left > 0 {
        let len = (&mut &*stream).write(&pattern[..left.min(PERIOD)])?;
        pause = pause.max(last.elapsed());
        last = Instant::now();
        left -= len;
        ensure!(start.elapsed() < LIMIT, "too slow");
    }
    stream.shutdown(Shutdown::Write)?;
    // The server has it all when it closes, too.
    let rest = (&mut &*stream).read(&mut [0; 1])?;
    ensure!(rest == 0, "an answer to an upload");
    Ok(pause.max(last.elapsed()))
}

/// Measures each row once a round.
pub(super) fn measure(
    programs: &Programs,
    rounds: u32,
    octets: usize,
    losses: &[u32],
    only: Option<&str>,
) -> Result<()> {
    let path = Path3::new()?;
    let mut rows = Vec::new();
    for &loss in losses {
        for direction in [Direction::Download, Direction::Upload] {
            for peer in Peer::ALL {
                // The client's congestion control is at work in an upload.
                let first = matches!(peer, Peer::Ours("cubic") | Peer::Kernel("cubic"));
                if (direction == Direction::Download || first)
                    && only.is_none_or(|only| peer.name().contains(only))
                {
                    rows.push(Row {
                        peer,
                        direction,
                        loss,
                        transfers: Vec::new(),
                    });
                }
            }
        }
    }
    for round in 1..=rounds {
        report::progress(round, rounds);
        for peer in Peer::ALL {
            if rows.iter().all(|row| row.peer != peer) {
                continue;
            }
            let _server: Box<dyn std::any::Any> = match peer {
                Peer::Ours(congestion) => Box::new(start(programs, &path, congestion)?),
                Peer::Kernel(congestion) => Box::new(KernelServer::start(&path, congestion)?),
            };
            for row in rows.iter_mut().filter(|row| row.peer == peer) {
                path.lose(row.loss)?;
                let transfer = transfer(&path, row.direction, octets)
                    .with_context(|| format!("{} at {}", row.peer.name(), row.loss))?;
                row.transfers.push(transfer);
            }
            path.lose(0)?;
        }
    }
    let resets = path.client.run("grep", &["^Tcp:", "/proc/net/snmp"])?;
    print(&rows, octets);
    let (names, values) = resets.split_once('\n').unwrap_or_default();
    let of = |name: &str| {
        let at = names.split(' ').position(|n| n == name)?;
        values.split_whitespace().nth(at)?.parse::<u64>().ok()
    };
    println!(
        "the client's kernel got {} resets and sent {}",
        of("EstabResets").unwrap_or(0),
        of("OutRsts").unwrap_or(0)
    );
    let rows: Vec<_> = rows
        .iter()
        .map(|row| {
            json!({
                "server": row.peer.name(),
                "direction": if row.direction == Direction::Download { "download" } else { "upload" },
                "loss_per_mille": row.loss,
                "octets": octets,
                "seconds": row.transfers.iter().map(|t| t.took).collect::<Vec<_>>(),
                "longest_pause": row.transfers.iter().map(|t| t.pause).collect::<Vec<_>>(),
            })
        })
        .collect();
    report::write(
        &programs.results,
        "goodput",
        &json!({ "machine": report::machine(), "rows": rows }),
    )
}

fn start(programs: &Programs, path: &Path3, congestion: &str) -> Result<Server> {
    let set = format!("tcp.congestion={congestion}");
    let listens = [format!("*:{DOWN}=http"), format!("*:{UP}=discard")];
    let args = [
        "--listen",
        &listens[0],
        "--listen",
        &listens[1],
        "--set",
        &set,
    ];
    Server::start(&path.server, Path::new(&programs.server), "eth0", &args)
}

fn print(rows: &[Row], octets: usize) {
    println!("{octets} octets, seconds (longest pause), median of the rounds");
    for direction in [Direction::Download, Direction::Upload] {
        let mut losses: Vec<u32> = rows.iter().map(|row| row.loss).collect();
        losses.dedup();
        losses.sort_unstable();
        losses.dedup();
        let mut heading = vec![match direction {
            Direction::Download => "download".to_owned(),
            Direction::Upload => "upload".to_owned(),
        }];
        heading.extend(
            losses
                .iter()
                .map(|l| format!("{:.1} %", f64::from(*l) / 10.0)),
        );
        let lines: Vec<Vec<String>> = Peer::ALL
            .iter()
            .filter_map(|peer| {
                let cells: Vec<String> = rows
                    .iter()
                    .filter(|row| row.peer == *peer && row.direction == direction)
                    .map(|row| {
                        let took: Vec<_> = row.transfers.iter().map(|t| t.took).collect();
                        let pause: Vec<_> = row.transfers.iter().map(|t| t.pause).collect();
                        format!("{:.2} ({:.2})", median(&took), median(&pause))
                    })
                    .collect();
                (!cells.is_empty()).then(|| [vec![peer.name()], cells].concat())
            })
            .collect();
        if !lines.is_empty() {
            let heading: Vec<&str> = heading.iter().map(String::as_str).collect();
            println!("{}", report::table(&heading, &lines));
        }
    }
}
