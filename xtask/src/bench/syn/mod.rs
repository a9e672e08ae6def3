//! A flood of SYNs, and what each answer costs: ours, the least that is possible, and the kernel's.
//!
//! Generator and responder are the two ends of a veth pair in namespaces of their own, and each has a
//! CPU. The responder's work is that of one kernel thread, its end's NAPI, so the CPU time per SYN is
//! that thread's, over the frames that the end received. The generator's end counts the answers and
//! drops them.
//!
//! Where the responder is faster than the generator, its thread sleeps between batches, and waking up
//! is part of what a SYN costs it.

mod bed;
mod clients;
mod flood;
mod responder;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::{
    Programs,
    report::{self, median},
};
use bed::Bed;
use flood::{Counted, Generator, Shape};
use responder::Responder;

/// The port that is flooded, and whose service is echo.
const PORT: u16 = 7;
/// From the start of a flood to the first look, for everything to be under way.
const WARM_UP: Duration = Duration::from_millis(300);
/// From the first look to the second.
const WINDOW: Duration = Duration::from_secs(1);
/// SYNs per second while clients connect; zero is none, `None` as many as there can be.
const CLIENT_RATES: [Option<u32>; 4] = [Some(0), Some(400_000), Some(800_000), None];

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
        format!("{}, {}", self.responder.name(), shape_name(self.shape))
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
    rate: Option<u32>,
    /// What the generator sent, per second.
    sent: f64,
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

pub(super) fn measure(programs: &Programs, rounds: u32, quick: bool) -> Result<()> {
    let mut responders = Responder::ALL.to_vec();
    responders.retain(|responder| match responder {
        Responder::Native | Responder::Bounce => true,
        Responder::Against => programs.against.is_some(),
        _ => !quick,
    });
    let asked = Asked::new()?;
    let bed = Bed::new()?;
    let mut generator = Generator::new(&programs.flood, &bed)?;
    let mut rows: Vec<Row> = Vec::new();
    for shape in [Shape::Options, Shape::Bare] {
        let row = |responder| Row {
            responder,
            shape,
            windows: Vec::new(),
        };
        rows.extend(responders.iter().copied().map(row));
    }
    for responder in [Responder::Native, Responder::Against] {
        if responders.contains(&responder) {
            rows.push(Row {
                responder,
                shape: Shape::Ack,
                windows: Vec::new(),
            });
        }
    }

    eprintln!(
        "SYN floods: generator on CPU {}, responder on CPU {}",
        bed.cpus.generator, bed.cpus.responder
    );
    for round in 1..=rounds {
        report::progress(round, rounds);
        for &responder in &responders {
            let running = responder.start(&bed, programs)?;
            bed.pin()?;
            for row in rows.iter_mut().filter(|row| row.responder == responder) {
                asked.check()?;
                row.windows.push(window(&bed, &mut generator, row.shape)?);
            }
            drop(running);
        }
    }

    let mut crowds = Vec::new();
    for &responder in responders.iter().filter(|r| !quick && r.serves()) {
        eprintln!("clients among floods: {}", responder.name());
        let running = responder.start(&bed, programs)?;
        bed.pin()?;
        for rate in CLIENT_RATES {
            asked.check()?;
            crowds.push(crowd(
                &bed,
                &mut generator,
                responder,
                Shape::Options,
                rate,
            )?);
        }
        if responder == Responder::Native {
            for rate in &CLIENT_RATES[1..] {
                asked.check()?;
                crowds.push(crowd(&bed, &mut generator, responder, Shape::Ack, *rate)?);
            }
        }
        drop(running);
    }

    show(&rows, &crowds, rounds);
    let value = json!({
        "bench": "syn",
        "machine": report::machine(),
        "rounds": rounds,
        "rows": rows.iter().map(row_json).collect::<Vec<_>>(),
        "clients": crowds.iter().map(crowd_json).collect::<Vec<_>>(),
    });
    report::write(&programs.results, "syn", &value)
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
    rate: Option<u32>,
) -> Result<Crowd> {
    let (sent, outcome) = if rate == Some(0) {
        (0.0, clients::connect(bed)?)
    } else {
        generator.during(bed, shape, rate, |counted| {
            thread::sleep(WARM_UP);
            let (before, start) = (counted()?, Instant::now());
            let outcome = clients::connect(bed)?;
            let sent = (counted()?.sent - before.sent) as f64 / start.elapsed().as_secs_f64();
            Ok((sent, outcome))
        })?
    };
    Ok(Crowd {
        responder,
        shape,
        rate,
        sent,
        outcome,
    })
}

fn shape_name(shape: Shape) -> &'static str {
    match shape {
        Shape::Options => "all options",
        Shape::Bare => "no options",
        Shape::Ack => "bad ACKs",
    }
}

/// The row of a responder that has the same shape as `row`; SYNs with options for ACKs.
fn beside<'a>(rows: &'a [Row], row: &Row, responder: Responder) -> Option<&'a Row> {
    let shape = match row.shape {
        Shape::Ack => Shape::Options,
        shape => shape,
    };
    rows.iter()
        .find(|other| other.responder == responder && other.shape == shape)
}

fn show(rows: &[Row], crowds: &[Crowd], rounds: u32) {
    let cells: Vec<_> = rows
        .iter()
        .map(|row| {
            let answered = median(&row.of(|w| w.answered));
            let ratio = |to: Option<&Row>, what: fn(&Window) -> f64| {
                to.map_or_else(String::new, |to| format!("{:.2}", row.over(to, what)))
            };
            vec![
                row.name(),
                format!("{:.0}", median(&row.of(|w| w.received)) / 1e3),
                format!("{:.0}", answered / 1e3),
                format!("{:.0}", median(&row.of(|w| w.cost))),
                format!("{:.0} %", median(&row.of(|w| w.busy)) * 100.0),
                ratio(beside(rows, row, Responder::Bounce), |w| w.cost),
                ratio(beside(rows, row, Responder::Native), |w| w.cost),
                ratio(beside(rows, row, Responder::Native), |w| w.answered),
            ]
        })
        .collect();
    println!(
        "\nA flood as fast as it gets; medians of {rounds} rounds. Thousands of frames per second, ns of \
         CPU per frame\n"
    );
    let heading = [
        "",
        "received k/s",
        "answers k/s",
        "ns each",
        "CPU",
        "ns/bounce",
        "ns/ours",
        "answers/ours",
    ];
    print!("{}", report::table(&heading, &cells));

    let cells: Vec<_> = crowds
        .iter()
        .map(|crowd| {
            let quiet = crowds
                .iter()
                .find(|other| other.responder == crowd.responder && other.rate == Some(0));
            let outcome = &crowd.outcome;
            vec![
                crowd.responder.name().to_owned(),
                match crowd.rate {
                    Some(0) => "quiet".to_owned(),
                    _ => shape_name(crowd.shape).to_owned(),
                },
                format!("{:.0}", crowd.sent / 1e3),
                format!("{} of {}", outcome.succeeded, outcome.tried),
                format!("{:.2}", outcome.p50),
                format!("{:.2}", outcome.p99),
                quiet.map_or_else(String::new, |quiet| {
                    format!("{:.1}", outcome.p99 / quiet.outcome.p99)
                }),
            ]
        })
        .collect();
    if crowds.is_empty() {
        return;
    }
    println!("\nClients that connect and get 64 octets echoed, one every 4 ms; milliseconds\n");
    let heading = ["", "flood", "sent k/s", "echoed", "p50", "p99", "p99/quiet"];
    print!("{}", report::table(&heading, &cells));
}

fn row_json(row: &Row) -> Value {
    json!({
        "responder": row.responder.name(),
        "frames": shape_name(row.shape),
        "received_per_s": median(&row.of(|w| w.received)),
        "answers_per_s": median(&row.of(|w| w.answered)),
        "cpu_ns": median(&row.of(|w| w.cost)),
        "cpu_busy": median(&row.of(|w| w.busy)),
        "received_per_s_rounds": row.of(|w| w.received),
        "answers_per_s_rounds": row.of(|w| w.answered),
        "cpu_ns_rounds": row.of(|w| w.cost),
    })
}

fn crowd_json(crowd: &Crowd) -> Value {
    json!({
        "responder": crowd.responder.name(),
        "flood": shape_name(crowd.shape),
        "rate_asked": crowd.rate,
        "rate_sent": crowd.sent,
        "tried": crowd.outcome.tried,
        "succeeded": crowd.outcome.succeeded,
        "p50_ms": crowd.outcome.p50,
        "p99_ms": crowd.outcome.p99,
    })
}
