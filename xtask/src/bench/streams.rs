//! What an echo of 64 octets costs the server: in the worker, in a tokio task over our streams, and in
//! the same task over the kernel's TCP.
//!
//! The client keeps all connections busy: each has one message under way. CPU time of the server's
//! process leaves out what the kernel does for it in interrupts; that of the whole machine has it, and
//! the client, which is the same in every row.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use xtask::netns::{Namespace, VethEnd, VethPair};

use super::{
    Programs,
    report::{self, median},
    server::Server,
};

const ADDRESS: &str = "198.18.3.2";
const PORT: u16 = 7;
const CONNECTIONS: usize = 64;
const MESSAGE: usize = 64;
const WARM_UP: Duration = Duration::from_millis(500);
const MEASURED: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(5);
/// `USER_HZ`, everywhere.
const TICKS: f64 = 100.0;

const ROWS: [&str; 3] = [
    "tcp-xdp, in the worker",
    "tcp-xdp, tokio task",
    "kernel, tokio task",
];

/// One run of a row.
struct Run {
    /// Echoes per second.
    rate: f64,
    /// µs of the server's process per echo.
    process: f64,
    /// µs of the machine per echo.
    machine: f64,
}

pub(crate) fn measure(programs: &Programs, rounds: u32) -> Result<()> {
    let mut runs: [Vec<Run>; ROWS.len()] = [const { Vec::new() }; ROWS.len()];
    for round in 1..=rounds {
        report::progress(round, rounds);
        for (row, runs) in runs.iter_mut().enumerate() {
            runs.push(run(programs, row).context(ROWS[row])?);
        }
    }
    let of =
        |runs: &[Run], what: fn(&Run) -> f64| median(&runs.iter().map(what).collect::<Vec<_>>());
    let base = of(&runs[2], |r| r.machine);
    let table: Vec<Vec<String>> = runs
        .iter()
        .zip(ROWS)
        .map(|(runs, name)| {
            let machine = of(runs, |r| r.machine);
            vec![
                name.to_owned(),
                format!("{:.0}", of(runs, |r| r.rate)),
                format!("{:.2}", of(runs, |r| r.process)),
                format!("{machine:.2}"),
                format!("{:.2}", machine / base),
            ]
        })
        .collect();
    let heading = [
        "64 octets, 64 connections",
        "echoes/s",
        "server µs",
        "machine µs",
        "of the kernel",
    ];
    print!("{}", report::table(&heading, &table));
    let rows: Vec<_> = runs
        .iter()
        .zip(ROWS)
        .map(|(runs, name)| {
            let each = |what: fn(&Run) -> f64| runs.iter().map(what).collect::<Vec<_>>();
            json!({
                "row": name,
                "rate": each(|r| r.rate),
                "server_us": each(|r| r.process),
                "machine_us": each(|r| r.machine),
            })
        })
        .collect();
    let value = json!({ "machine": report::machine(), "rows": rows });
    report::write(&programs.results, "streams", &value)
}

fn run(programs: &Programs, row: usize) -> Result<Run> {
    let client = Namespace::unique("client")?;
    let server = Namespace::unique("server")?;
    let _pair = VethPair::create(
        &VethEnd::new(&client, "eth0")
            .address("198.18.3.1/24")
            .pass_program(),
        &VethEnd::new(&server, "eth0").address("198.18.3.2/24"),
    )?;
    let listen = format!("{ADDRESS}:{PORT}");
    let server = match row {
        0 => Server::start(&server, &programs.server, "eth0", &["--listen", "*:7=echo"])?,
        1 => Server::start(
            &server,
            &programs.server,
            "eth0",
            &["--listen", "*:7=tokio-echo"],
        )?,
        _ => {
            let echo = programs.server.with_file_name("examples").join("echo");
            Server::spawn(&server, &echo, &["--kernel", &listen])?
        }
    };
    let address: SocketAddr = listen.parse()?;
    let mut streams = client.enter(|| {
        (0..CONNECTIONS)
            .map(|_| connect(address))
            .collect::<std::io::Result<Vec<_>>>()
    })??;
    for stream in &mut streams {
        stream.write_all(&[7; MESSAGE])?;
    }
    echo(&mut streams, WARM_UP)?;
    let (process, machine) = (ticks_of(server.pid())?, ticks()?);
    let start = Instant::now();
    let echoes = echo(&mut streams, MEASURED)? as f64;
    let seconds = start.elapsed().as_secs_f64();
    let (process, machine) = (ticks_of(server.pid())? - process, ticks()? - machine);
    // What is under way, so that nothing is unread when they close.
    for stream in &mut streams {
        stream.read_exact(&mut [0; MESSAGE])?;
    }
    let spent = |ticks: u64| ticks as f64 / TICKS * 1e6 / echoes;
    Ok(Run {
        rate: echoes / seconds,
        process: spent(process),
        machine: spent(machine),
    })
}

fn connect(address: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Each stream in turn: the answer, and the next message. How many.
fn echo(streams: &mut [TcpStream], time: Duration) -> Result<u64> {
    let start = Instant::now();
    let mut echoes = 0;
    let mut message = [0; MESSAGE];
    while start.elapsed() < time {
        for stream in &mut *streams {
            stream.read_exact(&mut message)?;
            ensure!(message == [7; MESSAGE], "not what was sent");
            stream.write_all(&message)?;
            echoes += 1;
        }
    }
    Ok(echoes)
}

/// User and system time of a process, ticks.
fn ticks_of(pid: u32) -> Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ');
    sum(fields.skip(11).take(2))
}

/// Time in which the machine was not idle, ticks.
fn ticks() -> Result<u64> {
    let stat = fs::read_to_string("/proc/stat")?;
    let fields: Vec<&str> = stat
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    // cpu user nice system idle iowait irq softirq
    sum([1, 2, 3, 6, 7]
        .iter()
        .filter_map(|i| fields.get(*i).copied()))
}

fn sum<'a>(fields: impl Iterator<Item = &'a str>) -> Result<u64> {
    let numbers = fields.map(str::parse::<u64>);
    Ok(numbers.collect::<Result<Vec<_>, _>>()?.iter().sum())
}
