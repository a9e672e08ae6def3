//! What carrying a request to a backend and its answer back costs, beside haproxy in TCP mode and
//! nginx `stream`.
//!
//! The proxy has a CPU to itself, together with the NAPI thread of its interface; `wrk` and the
//! backend, an nginx on the loopback of the proxy's namespace, share another. Each proxy has one
//! thread. A request's cost is the CPU time of the proxy and of that NAPI thread: what the kernel does
//! for it between a frame's arrival and the socket, or XDP. Offloads are off, but for GRO at the
//! proxy's end.

mod bed;
mod others;

use std::{thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::{
    Programs,
    report::{self, median},
    server::Server,
};
use bed::{BACKEND, Bed};
use others::Daemon;

/// From the start of the load to the first look.
const WARM_UP: Duration = Duration::from_millis(700);
/// From the first look to the second.
const WINDOW: Duration = Duration::from_secs(2);
/// What `wrk` is told; somewhat longer than both.
const DURATION: &str = "3s";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Proxy {
    Ours,
    Haproxy,
    Nginx,
}

impl Proxy {
    const ALL: [Self; 3] = [Self::Ours, Self::Haproxy, Self::Nginx];

    const fn name(self) -> &'static str {
        match self {
            Self::Ours => "tcp-xdp",
            Self::Haproxy => "haproxy, mode tcp",
            Self::Nginx => "nginx stream",
        }
    }

    fn start(self, bed: &Bed, programs: &Programs) -> Result<Running> {
        match self {
            Self::Ours => {
                let listen = format!("*:80=proxy:{BACKEND}");
                let args = ["--mode", "native", "--listen", &listen];
                let server = Server::start(&bed.proxy, &programs.server, &bed.proxy_if, &args)?;
                Ok(Running::Ours(server))
            }
            Self::Haproxy => Daemon::haproxy(bed).map(Running::Other),
            Self::Nginx => Daemon::nginx_stream(bed).map(Running::Other),
        }
    }
}

enum Running {
    Ours(Server),
    Other(Daemon),
}

impl Running {
    fn pid(&self) -> u32 {
        match self {
            Self::Ours(server) => server.pid(),
            Self::Other(daemon) => daemon.pid(),
        }
    }
}

/// What `wrk` asks for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Load {
    /// One request after the other on each of 200 connections, 1 kB back.
    Requests,
    /// A connection per request.
    Connections,
    /// 1 MB per request on 8 connections.
    Bulk,
}

impl Load {
    const ALL: [Self; 3] = [Self::Requests, Self::Connections, Self::Bulk];

    const fn name(self) -> &'static str {
        match self {
            Self::Requests => "200 connections, 1 kB",
            Self::Connections => "a connection per request",
            Self::Bulk => "8 connections, 1 MB",
        }
    }

    fn args(self) -> &'static [&'static str] {
        match self {
            Self::Requests => &["-c200", "http://192.0.2.2/"],
            Self::Connections => &["-c200", "-HConnection: close", "http://192.0.2.2/"],
            Self::Bulk => &["-c8", "http://192.0.2.2/bulk"],
        }
    }
}

/// What happened in a window.
struct Window {
    /// Requests per second.
    requests: f64,
    /// Microseconds of CPU per request.
    cost: f64,
    /// Microseconds of all CPUs per request, `wrk` and backend included.
    machine: f64,
    /// Milliseconds.
    p50: f64,
    p99: f64,
}

struct Row {
    proxy: Proxy,
    load: Load,
    windows: Vec<Window>,
}

impl Row {
    fn of(&self, what: impl Fn(&Window) -> f64) -> Vec<f64> {
        self.windows.iter().map(what).collect()
    }
}

pub(super) fn measure(programs: &Programs, rounds: u32, quick: bool) -> Result<()> {
    let bed = Bed::new()?;
    let _backend = Daemon::backend(&bed)?;
    let loads = if quick { &Load::ALL[..1] } else { &Load::ALL };
    let mut rows: Vec<Row> = loads
        .iter()
        .flat_map(|&load| {
            Proxy::ALL.map(|proxy| Row {
                proxy,
                load,
                windows: Vec::new(),
            })
        })
        .collect();
    for round in 1..=rounds {
        report::progress(round, rounds);
        for proxy in Proxy::ALL {
            let running = proxy.start(&bed, programs)?;
            bed.pin(running.pid())?;
            for row in rows.iter_mut().filter(|row| row.proxy == proxy) {
                let window = window(&bed, running.pid(), row.load)
                    .with_context(|| format!("{}, {}", proxy.name(), row.load.name()))?;
                row.windows.push(window);
            }
        }
    }
    show(&rows, rounds);
    let value = json!({
        "bench": "proxy",
        "machine": report::machine(),
        "rounds": rounds,
        "rows": rows.iter().map(row_json).collect::<Vec<_>>(),
    });
    report::write(&programs.results, "proxy", &value)
}

fn window(bed: &Bed, pid: u32, load: Load) -> Result<Window> {
    let mut args = vec!["-t1", "-d", DURATION, "--latency"];
    args.extend(load.args());
    let wrk = thread::scope(|scope| {
        let wrk = scope.spawn(|| bed.wrk(&args));
        thread::sleep(WARM_UP);
        let before = bed.look(pid);
        thread::sleep(WINDOW);
        let after = bed.look(pid);
        let wrk = wrk.join().unwrap_or_else(|_| anyhow::bail!("wrk panicked"));
        anyhow::Ok((wrk?, before?, after?))
    });
    let (text, before, after) = wrk?;
    let wrk = Wrk::read(&text).with_context(|| text.clone())?;
    ensure!(wrk.errors.is_empty(), "{}", wrk.errors);
    // wrk counts over its whole run, the CPU time is that of the window in it.
    let time = (after.at - before.at).as_secs_f64();
    let requests = wrk.rate * time;
    Ok(Window {
        requests: wrk.rate,
        cost: (after.proxy - before.proxy) as f64 / 1e3 / requests,
        machine: (after.machine - before.machine) as f64 / 1e3 / requests,
        p50: wrk.p50,
        p99: wrk.p99,
    })
}

/// What `wrk --latency` prints.
struct Wrk {
    rate: f64,
    p50: f64,
    p99: f64,
    errors: String,
}

impl Wrk {
    fn read(text: &str) -> Option<Self> {
        let value = |name: &str| {
            let line = text.lines().find(|l| l.trim_start().starts_with(name))?;
            line.trim_start().strip_prefix(name).map(str::trim)
        };
        let errors = text.lines().filter(|line| {
            let line = line.trim_start();
            line.starts_with("Socket errors") || line.starts_with("Non-2xx")
        });
        Some(Self {
            rate: value("Requests/sec:")?.parse().ok()?,
            p50: milliseconds(value("50%")?)?,
            p99: milliseconds(value("99%")?)?,
            errors: errors.collect::<Vec<_>>().join(", "),
        })
    }
}

/// `612.00us`, `1.25ms`, `1.02s`.
fn milliseconds(text: &str) -> Option<f64> {
    let units = [("us", 1e-3), ("ms", 1.0), ("s", 1e3)];
    let (number, unit) = units
        .iter()
        .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)))?;
    Some(number.parse::<f64>().ok()? * unit)
}

fn show(rows: &[Row], rounds: u32) {
    let cells: Vec<_> = rows
        .iter()
        .map(|row| {
            let ours = rows
                .iter()
                .find(|other| other.load == row.load && other.proxy == Proxy::Ours);
            let cost = median(&row.of(|w| w.cost));
            let ratio = ours.map(|ours| {
                let pairs = row.windows.iter().zip(&ours.windows);
                median(&pairs.map(|(a, b)| a.cost / b.cost).collect::<Vec<_>>())
            });
            vec![
                format!("{}: {}", row.load.name(), row.proxy.name()),
                format!("{:.0}", median(&row.of(|w| w.requests))),
                format!("{cost:.1}"),
                format!("{:.0}", 1e6 / cost),
                ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}")),
                format!("{:.1}", median(&row.of(|w| w.machine))),
                format!("{:.2}", median(&row.of(|w| w.p50))),
                format!("{:.2}", median(&row.of(|w| w.p99))),
            ]
        })
        .collect();
    println!(
        "\nA proxy on one CPU, wrk and nginx behind it on another; medians of {rounds} rounds. µs of the \
         proxy's CPU per request, requests per second of it, µs of both CPUs per request, milliseconds\n"
    );
    let heading = [
        "",
        "requests/s",
        "µs each",
        "per CPU s",
        "µs/ours",
        "both CPUs",
        "p50",
        "p99",
    ];
    print!("{}", report::table(&heading, &cells));
}

fn row_json(row: &Row) -> Value {
    json!({
        "proxy": row.proxy.name(),
        "load": row.load.name(),
        "requests_per_s": median(&row.of(|w| w.requests)),
        "requests_per_cpu_s": 1e6 / median(&row.of(|w| w.cost)),
        "cpu_us": median(&row.of(|w| w.cost)),
        "machine_us": median(&row.of(|w| w.machine)),
        "p50_ms": median(&row.of(|w| w.p50)),
        "p99_ms": median(&row.of(|w| w.p99)),
        "requests_per_s_rounds": row.of(|w| w.requests),
        "cpu_us_rounds": row.of(|w| w.cost),
        "p99_ms_rounds": row.of(|w| w.p99),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_wrk_prints_is_read() {
        let text = "Running 2s test @ http://192.0.2.2/\n  1 threads and 200 connections\n  \
                    Latency Distribution\n     50%    1.25ms\n     75%  3.00ms\n     99%  612.00us\n  \
                    100 requests in 2.00s, 1MB read\n  Socket errors: connect 0, read 3\n\
                    Requests/sec:  50123.45\nTransfer/sec:  1MB\n";
        let wrk = Wrk::read(text).expect("all there");
        assert!((wrk.rate - 50_123.45).abs() < 1e-6);
        assert!((wrk.p50 - 1.25).abs() < 1e-9 && (wrk.p99 - 0.612).abs() < 1e-9);
        assert_eq!(wrk.errors, "  Socket errors: connect 0, read 3");
        assert!(Wrk::read("nothing").is_none());
    }
}
