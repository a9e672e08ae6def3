//! `tcp-user top`: a running server on one screen.

mod diagram;
mod view;

use super::client::Server;
use super::filter::{Filter, Sort};
use super::rates::Rates;
use super::records::{Connection, Request, Stats};
use anyhow::Result;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};
use tcp_common::counters::{Counter, Verdict};

/// Values of a sparkline.
const HISTORY: usize = 240;
/// Connections that are asked for: the busiest peers are among those with most octets.
const ASKED: usize = 500;

/// SYNs that get a SYN-ACK, from XDP or from userspace.
const ANSWERED: [Counter; 3] = [Counter::SynAck, Counter::SynAckKernel, Counter::ToHandshake];
/// SYNs that were not answered, beside those that were.
const UNANSWERED: [Counter; 5] = [
    Counter::PassObservedSyn,
    Counter::DropDenied,
    Counter::DropSynLimit,
    Counter::DropNoTimestamps,
    Counter::DropStopping,
];

/// A rate and how it was.
#[derive(Clone, Debug)]
struct Line {
    name: &'static str,
    now: f64,
    history: VecDeque<u64>,
}

/// What the screen shows.
#[derive(Debug)]
struct Model {
    server: String,
    lines: Vec<Line>,
    /// Refused frames per second, by reason, the most first; those of before stay.
    refused: Vec<(String, f64, u64)>,
    /// Octets per second, by client.
    peers: Vec<(IpAddr, f64)>,
    stats: Stats,
    rates: Rates,
    paused: bool,
}

impl Model {
    fn new(server: String) -> Self {
        let line = |name| Line {
            name,
            now: 0.0,
            history: VecDeque::new(),
        };
        Self {
            server,
            lines: [
                "SYN",
                "answered",
                "accepted",
                "refused",
                "frames in",
                "frames out",
            ]
            .map(line)
            .to_vec(),
            refused: Vec::new(),
            peers: Vec::new(),
            stats: Stats::default(),
            rates: Rates::default(),
            paused: false,
        }
    }

    /// A new reading.
    fn update(&mut self, stats: Stats, rates: Rates, peers: Vec<(IpAddr, f64)>) {
        let rate = |c: Counter| rates.xdp.get(c.name()).copied().unwrap_or(0.0);
        let syn_ack: f64 = ANSWERED.map(rate).iter().sum();
        let is_refused = |c: &&Counter| {
            !ANSWERED.contains(c) && matches!(c.verdict(), Verdict::Answered | Verdict::Dropped)
        };
        let refused = || Counter::ALL.iter().filter(is_refused);
        let values = [
            syn_ack + UNANSWERED.map(rate).iter().sum::<f64>(),
            syn_ack,
            rates.listens.values().sum(),
            refused().map(|c| rate(*c)).sum(),
            rates.workers.iter().map(|w| w.received).sum(),
            rates.workers.iter().map(|w| w.sent).sum(),
        ];
        for (line, now) in self.lines.iter_mut().zip(values) {
            line.now = now;
            line.history.push_back(now.round() as u64);
            if line.history.len() > HISTORY {
                line.history.pop_front();
            }
        }
        self.refused = refused()
            .map(|c| {
                let total = stats.xdp.get(c.name()).copied().unwrap_or(0);
                (c.name().to_owned(), rate(*c), total)
            })
            .filter(|(_, _, total)| *total > 0)
            .collect();
        self.refused
            .sort_by(|a, b| b.1.total_cmp(&a.1).then(b.2.cmp(&a.2)));
        self.peers = peers;
        self.stats = stats;
        self.rates = rates;
    }
}

/// Octets by connection, to tell what came since.
#[derive(Debug, Default)]
struct Peers(HashMap<(SocketAddr, SocketAddr), u64>);

impl Peers {
    /// Octets per second by client, the most first.
    fn update(&mut self, connections: &[Connection], time: Duration) -> Vec<(IpAddr, f64)> {
        let seconds = time.as_secs_f64().max(1e-9);
        let before = std::mem::take(&mut self.0);
        let mut sums = HashMap::<IpAddr, f64>::new();
        for c in connections {
            let key = (c.remote, c.local);
            let octets = c.bytes_in + c.bytes_out;
            // What is new may have sent all of it before.
            let then = before.get(&key).copied().unwrap_or(octets);
            let rate = octets.saturating_sub(then) as f64 / seconds;
            *sums.entry(c.remote.ip()).or_default() += rate;
            self.0.insert(key, octets);
        }
        let mut sums: Vec<_> = sums.into_iter().collect();
        sums.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        sums
    }
}

/// Runs until `q`; restores the terminal also when it fails or panics.
pub fn run(control: Option<&Path>, interval: Duration) -> Result<()> {
    let mut server = Server::connect(control)?;
    let mut model = Model::new(format!("{} · {}", server.greeting.iface, server.name()));
    let mut peers = Peers::default();
    let mut last = server.stats()?;
    peers.update(&busiest(&mut server)?, interval);
    model.update(
        last.1.clone(),
        Rates::between(&last.1, &last.1, interval),
        Vec::new(),
    );
    // Sets a hook that restores the terminal before a panic is printed.
    let mut terminal = ratatui::init();
    let result = (|| -> Result<()> {
        loop {
            terminal.draw(|frame| view::draw(frame, &model))?;
            let next = last.0 + interval;
            while let Some(left) = next.checked_duration_since(Instant::now()) {
                if !event::poll(left)? {
                    break;
                }
                match key(&event::read()?) {
                    Key::Quit => return Ok(()),
                    Key::Pause => model.paused = !model.paused,
                    Key::Other => {}
                }
                terminal.draw(|frame| view::draw(frame, &model))?;
            }
            let now = server.stats()?;
            let time = now.0 - last.0;
            let busiest = peers.update(&busiest(&mut server)?, time);
            if !model.paused {
                let rates = Rates::between(&last.1, &now.1, time);
                model.update(now.1.clone(), rates, busiest);
            }
            last = now;
        }
    })();
    ratatui::restore();
    result
}

fn busiest(server: &mut Server) -> Result<Vec<Connection>> {
    let line = server.ask(&Request::Conns {
        filter: Filter::default(),
        sort: Sort::Bytes,
        limit: Some(ASKED),
    })?;
    Ok(serde_json::from_str(&line)?)
}

enum Key {
    Quit,
    Pause,
    Other,
}

fn key(event: &Event) -> Key {
    let Event::Key(key) = event else {
        return Key::Other;
    };
    if key.kind == KeyEventKind::Release {
        return Key::Other;
    }
    match key.code {
        KeyCode::Char('q') | KeyCode::Esc => Key::Quit,
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Key::Quit,
        KeyCode::Char('p' | ' ') => Key::Pause,
        _ => Key::Other,
    }
}

#[cfg(test)]
mod tests;
