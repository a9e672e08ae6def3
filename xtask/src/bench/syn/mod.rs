//! A flood of SYNs, and what each answer costs: ours, the least that is possible, and the kernel's.
//!
//! Generator and responder are the two ends of a veth pair in namespaces of their own, and each has a
//! CPU. The responder's work is that of one kernel thread, its end's NAPI, so the CPU time per SYN is
//! that thread's, over the frames that the end received. The generator's end counts the answers and
//! drops them.
//!
//! Where the responder is faster than the generator, its thread sleeps between batches, and waking up
//! is part of what a SYN costs it.

pub(super) mod bed;
mod clients;
mod flood;
mod responder;
mod show;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use clap::ValueEnum;
use serde_json::json;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::{
    Programs,
    report::{self, median},
};
use bed::{Bed, Wire};
use flood::{Counted, Generator, Shape};
pub(super) use responder::Responder;

/// The port that is flooded, and whose service is echo.
const PORT: u16 = 7;
/// From the start of a flood to the first look, for everything to be under way.
const WARM_UP: Duration = Duration::from_millis(300);
/// From the first look to the second.
const WINDOW: Duration = Duration::from_secs(1);
/// The floods while clients connect.
const LEVELS: [Level; 5] = [
    Level::Quiet,
    Level::Rate(400_000),
    Level::Rate(800_000),
    Level::MostTaken,
    Level::MostSent,
];

/// How many frames a flood sends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    /// None.
    Quiet,
    /// So many per second.
    Rate(u32),
    /// Three quarters of what this responder takes when there is more than that: a CPU that is
    /// busy, and a ring before it that is not full.
    MostTaken,
    /// As many as go. The ring before the responder overflows.
    MostSent,
}

/// A half of the bench.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// As many frames as there can be: answers per second, CPU per frame
    Floods,
    /// Clients among floods: how many get through, and how soon
    Clients,
}

impl Part {
    /// What the results are called if nothing else is measured.
    fn file(self) -> &'static str {
        match self {
            Self::Floods => "syn-floods",
            Self::Clients => "syn-clients",
        }
    }
}

/// What is measured.
pub(super) struct Plan<'a> {
    pub(super) rounds: u32,
    pub(super) responders: &'a [Responder],
    /// Both if `None`.
    pub(super) part: Option<Part>,
}

/// What happened in a window.
struct Window {
    /// Frames that the responder's end received, per second.
    received: f64,
    /// Answers that arrived, per second.
    answered: f64,
    /// Nanoseconds of CPU per frame received.
    cost: f64,
    /// The part of a CPU that the responder had.
    busy: f64,
}

struct Row {
    responder: Responder,
    shape: Shape,
    windows: Vec<Window>,
}

impl Row {
    fn name(&self) -> String {
        format!("{}, {}", self.responder.name(), self.shape.name())
    }

    fn of(&self, what: impl Fn(&Window) -> f64) -> Vec<f64> {
        self.windows.iter().map(what).collect()
    }

    /// The medians of the ratios, round by round.
    fn over(&self, base: &Self, what: impl Fn(&Window) -> f64) -> f64 {
        let pairs = self.windows.iter().zip(&base.windows);
        let ratios: Vec<_> = pairs.map(|(a, b)| what(a) / what(b)).collect();
        median(&ratios)
    }
}

/// Clients among a flood.
struct Crowd {
    responder: Responder,
    shape: Shape,
    level: Level,
    /// What the generator sent, per second.
    sent: f64,
    wire: Wire,
    outcome: clients::Outcome,
}

/// Set by the signals that ask this process to end: there is something to clean up.
struct Asked(Arc<AtomicBool>);

impl Asked {
    fn new() -> Result<Self> {
        let asked = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&asked))?;
        }
        Ok(Self(asked))
    }

    fn check(&self) -> Result<()> {
        ensure!(!self.0.load(Ordering::Relaxed), "interrupted");
        Ok(())
    }
}

pub(super) fn measure(programs: &Programs, plan: &Plan) -> Result<()> {
    let mut responders = plan.responders.to_vec();
    responders.retain(|responder| *responder != Responder::Against || programs.against.is_some());
    let asked = Asked::new()?;
    let bed = Bed::new()?;
    let mut generator = Generator::new(&programs.flood, &bed)?;
    eprintln!(
        "SYN floods: generator on CPU {}, responder on CPU {}",
        bed.cpus.generator, bed.cpus.responder
    );
    let wanted = |part| plan.part.is_none_or(|only| only == part);
    let mut bench = Run {
        programs,
        asked,
        bed: &bed,
        generator: &mut generator,
    };
    let mut rows = Vec::new();
    if wanted(Part::Floods) {
        rows = bench.floods(&responders, plan.rounds)?;
    }
    let mut crowds = Vec::new();
    if wanted(Part::Clients) {
        crowds = bench.clients(&responders)?;
    }
    show::floods(&rows, plan.rounds);
    show::clients(&crowds);
    show::goals(&rows, &crowds);
    let value = json!({
        "bench": "syn",
        "machine": report::machine(),
        "rounds": plan.rounds,
        "rows": rows.iter().map(show::row_json).collect::<Vec<_>>(),
        "clients": crowds.iter().map(show::crowd_json).collect::<Vec<_>>(),
    });
    let file = plan.part.map_or("syn", Part::file);
    report::write(&programs.results, file, &value)
}

/// All that a measurement needs.
struct Run<'a> {
    programs: &'a Programs,
    asked: Asked,
    bed: &'a Bed,
    generator: &'a mut Generator,
}

impl Run<'_> {
    fn floods(&mut self, responders: &[Responder], rounds: u32) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        for shape in Shape::ALL {
            let row = |responder| Row {
                responder,
                shape,
                windows: Vec::new(),
            };
            // To bounce or to drop an ACK is the same work as it is for a SYN.
            let some = |responder: &Responder| !shape.is_ack() || responder.serves();
            rows.extend(responders.iter().copied().filter(some).map(row));
        }
        for round in 1..=rounds {
            report::progress(round, rounds);
            for &responder in responders {
                let running = responder.start(self.bed, self.programs)?;
                self.bed.pin()?;
                for row in rows.iter_mut().filter(|row| row.responder == responder) {
                    self.asked.check()?;
                    row.windows
                        .push(window(self.bed, self.generator, row.shape)?);
                }
                drop(running);
            }
        }
        Ok(rows)
    }

    fn clients(&mut self, responders: &[Responder]) -> Result<Vec<Crowd>> {
        let mut crowds = Vec::new();
        for &responder in responders {
            eprintln!("clients among floods: {}", responder.name());
            let running = responder.start(self.bed, self.programs)?;
            self.bed.pin()?;
            let syns = LEVELS.map(|level| (Shape::Options, level));
            let acks = LEVELS[1..].iter().map(|level| (Shape::Ack, *level));
            for (shape, level) in syns.into_iter().chain(acks) {
                self.asked.check()?;
                crowds.push(crowd(self.bed, self.generator, responder, shape, level)?);
            }
            drop(running);
        }
        Ok(crowds)
    }
}

/// What can be read while a flood is on.
struct Look {
    at: Instant,
    cpu: u64,
    received: u64,
    counted: Counted,
}

fn look(bed: &Bed, counted: &mut dyn FnMut() -> Result<Counted>) -> Result<Look> {
    Ok(Look {
        at: Instant::now(),
        cpu: bed.responder_cpu()?,
        received: bed.received()?,
        counted: counted()?,
    })
}

fn window(bed: &Bed, generator: &mut Generator, shape: Shape) -> Result<Window> {
    let (a, b) = generator.during(bed, shape, None, |counted| {
        thread::sleep(WARM_UP);
        let a = look(bed, counted)?;
        thread::sleep(WINDOW);
        Ok((a, look(bed, counted)?))
    })?;
    let time = (b.at - a.at).as_secs_f64();
    let received = (b.received - a.received) as f64;
    let answers = |counted: Counted| counted.syn_acks + counted.resets + counted.others;
    ensure!(received > 0.0, "the responder's end receives nothing");
    Ok(Window {
        received: received / time,
        answered: (answers(b.counted) - answers(a.counted)) as f64 / time,
        cost: (b.cpu - a.cpu) as f64 / received,
        busy: (b.cpu - a.cpu) as f64 / 1e9 / time,
    })
}

fn crowd(
    bed: &Bed,
    generator: &mut Generator,
    responder: Responder,
    shape: Shape,
    level: Level,
) -> Result<Crowd> {
    let rate = match level {
        Level::Quiet => Some(0),
        Level::Rate(rate) => Some(rate),
        Level::MostTaken => {
            let most = window(bed, generator, shape)?.received;
            Some((most * 0.75) as u32)
        }
        Level::MostSent => None,
    };
    // Those that serve nobody show what the wire loses by itself.
    let connect = || {
        if responder.serves() {
            return clients::connect(bed);
        }
        thread::sleep(WINDOW * 4);
        Ok(clients::Outcome::default())
    };
    let before = bed.wire()?;
    let (sent, outcome) = if rate == Some(0) {
        (0.0, connect()?)
    } else {
        generator.during(bed, shape, rate, |counted| {
            thread::sleep(WARM_UP);
            let (before, start) = (counted()?, Instant::now());
            let outcome = connect()?;
            let sent = (counted()?.sent - before.sent) as f64 / start.elapsed().as_secs_f64();
            Ok((sent, outcome))
        })?
    };
    let wire = bed.wire()?.since(before);
    Ok(Crowd {
        responder,
        shape,
        level,
        sent,
        wire,
        outcome,
    })
}
