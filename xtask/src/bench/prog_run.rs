//! What one frame costs the XDP program: `BPF_PROG_TEST_RUN`.
//!
//! *once*: the mean of many calls with one run each, less that of a program that only says
//! `XDP_PASS`, measured the same way in the same round. It is the cost of a frame that comes alone,
//! with caches as a system call leaves them. *repeat*: the mean of many runs in one call, less that of
//! `XDP_PASS`, and so the cost of a frame among many; only of frames that the program leaves as they
//! are, since each run sees what the one before left.
//!
//! Where frames go to userspace, the figure ends with the redirect to an AF_XDP socket, and does not
//! hold what the kernel does then.

use std::{
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};
use serde_json::json;
use tcp_common::{counters::Counter, flow::FlowKey, wire::Flags};
use xtask::bpf::{self, Instruction, Verdict};

use super::{
    Programs, frames,
    frames::{LINUX, Segment, WINDOWS},
    ours::{self, ADDRESS4, ADDRESS6, PORT, Program, client},
    report::{self, median, undisturbed_mean},
};

/// Calls with one run each, per row and round.
const CALLS: usize = 2000;
/// Runs of one call, per row and round.
const REPEAT: u32 = 200_000;
/// Connections in the small table.
const FEW: u32 = 2000;
/// Connections in the large table.
const MANY: u32 = 1_000_000;

/// Which program a row is run by.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    /// `XDP_PASS` and nothing else.
    Empty,
    /// The answer that costs least.
    Bounce,
    /// Ours with a table for a million connections that has one.
    Ours,
    /// Ours with a small table that is full.
    OursSmall,
    /// Ours with a million connections.
    OursFull,
}

struct Row {
    name: &'static str,
    by: By,
    /// Taken in turns.
    frames: Vec<Vec<u8>>,
    /// How ours must count it.
    counter: Option<Counter>,
    /// A flow that the run makes, and that is removed again.
    makes: Option<FlowKey>,
    /// Nanoseconds.
    goal: Option<f64>,
    once: Vec<f64>,
    repeat: Vec<f64>,
}

impl Row {
    fn new(name: &'static str, by: By, frame: Vec<u8>) -> Self {
        Self {
            name,
            by,
            frames: vec![frame],
            counter: None,
            makes: None,
            goal: None,
            once: Vec::new(),
            repeat: Vec::new(),
        }
    }

    fn counted(mut self, counter: Counter) -> Self {
        self.counter = Some(counter);
        self
    }

    fn goal(mut self, nanoseconds: f64) -> Self {
        self.goal = Some(nanoseconds);
        self
    }

    /// Whether a run leaves frame and tables as they were.
    fn repeats(&self) -> bool {
        match self.counter.map(Counter::verdict) {
            Some(tcp_common::counters::Verdict::Answered) => false,
            // The bounce undoes itself.
            _ => self.makes.is_none(),
        }
    }
}

struct Bed {
    empty: OwnedFd,
    bounce: OwnedFd,
    ours: Program,
    small: Program,
    full: Program,
}

impl Bed {
    fn fd(&self, by: By) -> Result<BorrowedFd<'_>> {
        match by {
            By::Empty => Ok(self.empty.as_fd()),
            By::Bounce => Ok(self.bounce.as_fd()),
            By::Ours => self.ours.fd(),
            By::OursSmall => self.small.fd(),
            By::OursFull => self.full.fd(),
        }
    }

    /// Runs the row's frame once and makes sure that it is the case that it stands for.
    fn check(&mut self, row: &Row) -> Result<()> {
        let Some(expected) = row.counter else {
            return Ok(());
        };
        let program = match row.by {
            By::OursSmall => &mut self.small,
            By::OursFull => &mut self.full,
            _ => &mut self.ours,
        };
        for frame in &row.frames {
            let before = program.counters()?;
            bpf::test_run(program.fd()?, frame, &mut [], 1)?;
            let counter = ours::counted(&before, &program.counters()?);
            ensure!(
                counter == Some(expected),
                "{}: counted as {counter:?}, not as {expected:?}",
                row.name
            );
            if let Some(flow) = &row.makes {
                program.remove_flow(flow)?;
            }
        }
        Ok(())
    }

    /// Nanoseconds of a call with one run, mean.
    fn once(&mut self, row: &Row) -> Result<f64> {
        let mut times = Vec::with_capacity(CALLS);
        for frame in row.frames.iter().cycle().take(CALLS) {
            let ran = bpf::test_run(self.fd(row.by)?, frame, &mut [], 1)?;
            times.push(ran.time.as_nanos() as u32);
            if let Some(flow) = &row.makes {
                self.ours.remove_flow(flow)?;
            }
        }
        Ok(undisturbed_mean(&mut times))
    }

    /// Nanoseconds of a run among many, mean of the frames.
    fn repeat(&self, row: &Row) -> Result<f64> {
        // The kernel says whole nanoseconds: ten calls see between them.
        const PARTS: u32 = 10;
        let mut sum = 0.0;
        for frame in row.frames.iter().cycle().take(PARTS as usize) {
            let ran = bpf::test_run(self.fd(row.by)?, frame, &mut [], REPEAT / PARTS)?;
            sum += ran.time.as_nanos() as f64;
        }
        Ok(sum / f64::from(PARTS))
    }
}

pub(super) fn measure(programs: &Programs, rounds: u32) -> Result<()> {
    pin()?;
    eprintln!("program runs: {MANY} flows are put into a table");
    let object = &programs.ebpf;
    let mut bed = Bed {
        empty: bpf::load(&Instruction::always(Verdict::Pass))?,
        bounce: bpf::load(&Instruction::bounce())?,
        ours: Program::load(object, MANY + 1)?,
        small: Program::load(object, FEW)?,
        full: Program::load(object, MANY + 1)?,
    };
    let local = SocketAddr::new(ADDRESS4.into(), PORT);
    bed.ours.add_flow(&FlowKey::new(client(0), local))?;
    for index in 0..FEW {
        bed.small.add_flow(&FlowKey::new(client(index), local))?;
    }
    for index in 0..MANY {
        bed.full.add_flow(&FlowKey::new(client(index), local))?;
    }

    let mut rows = rows(&bed)?;
    for row in &rows {
        bed.check(row)?;
    }
    for round in 1..=rounds {
        report::progress(round, rounds);
        let mut empty = (0.0, 0.0);
        for row in &mut rows {
            let once = bed.once(row)?;
            if row.by == By::Empty {
                empty = (once, bed.repeat(row)?);
                row.once.push(once);
                row.repeat.push(empty.1);
                continue;
            }
            row.once.push(once - empty.0);
            if row.repeats() {
                let repeat = bed.repeat(row)?;
                row.repeat.push(repeat - empty.1);
            }
        }
    }
    show(&rows, rounds);
    report::write(&programs.results, "prog-run", &json(&rows, rounds))
}

/// To one CPU, so that its caches are the same for all rows.
fn pin() -> Result<()> {
    let here = Pid::from_raw(0);
    let allowed = sched_getaffinity(here)?;
    let last = (0..CpuSet::count()).rfind(|cpu| allowed.is_set(*cpu).unwrap_or(false));
    let mut set = CpuSet::new();
    set.set(last.context("no CPU to run on")?)?;
    Ok(sched_setaffinity(here, &set)?)
}

/// The client of all frames that are no known flow's.
fn peer(local: IpAddr) -> SocketAddr {
    let address = match local {
        IpAddr::V4(_) => IpAddr::from([192, 0, 2, 99]),
        IpAddr::V6(_) => IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x99]),
    };
    SocketAddr::new(address, 40_000)
}

fn segment(local: IpAddr, flags: Flags, seq: u32, ack: u32, options: &[u8]) -> Segment<'_> {
    Segment {
        from: peer(local),
        to: SocketAddr::new(local, PORT),
        flags,
        seq,
        ack,
        options,
    }
}

fn rows(bed: &Bed) -> Result<Vec<Row>> {
    let syn = |local: IpAddr, options| segment(local, Flags::SYN, 1000, 0, options).frame();
    let (v4, v6) = (IpAddr::from(ADDRESS4), IpAddr::from(ADDRESS6));
    let linux = syn(v4, LINUX);

    // The ACK to the answer that this SYN gets.
    let mut answer = [0; 256];
    bpf::test_run(bed.ours.fd()?, &linux, &mut answer, 1)?;
    let word = |at: usize| answer[at..at + 4].try_into().map(u32::from_be_bytes);
    // Behind Ethernet and IPv4: the ISS at 4, and TSval behind MSS, SACK-permitted and the kind.
    let (iss, tsval) = (word(34 + 4)?, word(34 + 20 + 8)?);
    let echo = |value: u32| {
        let mut options = vec![1, 1, 8, 10, 1, 2, 3, 5];
        options.extend(value.to_be_bytes());
        options
    };
    let ack = |ack: u32, options: &[u8]| segment(v4, Flags::ACK, 1001, ack, options).frame();
    let valid = ack(iss.wrapping_add(1), &echo(tsval));
    let bad = ack(iss.wrapping_add(2), &echo(tsval));
    let known = |client| {
        Segment {
            from: client,
            to: SocketAddr::new(v4, PORT),
            flags: Flags::ACK,
            seq: 5,
            ack: 6,
            options: &echo(7),
        }
        .frame()
    };
    let other_port = Segment {
        to: SocketAddr::new(v4, 22),
        ..segment(v4, Flags::ACK, 1, 2, &[])
    };
    // As many different ones from either table, so that only the table's size differs.
    let few = (0..FEW).map(|i| known(client(i * 797 % FEW)));
    let many = (0..FEW).map(|i| known(client(i * 7919 % MANY)));

    Ok(vec![
        Row::new(
            "XDP_PASS (whole; taken off below)",
            By::Empty,
            linux.clone(),
        ),
        Row::new("raw XDP_TX bounce", By::Bounce, linux.clone()),
        Row::new("SYN, all options (Linux)", By::Ours, linux)
            .counted(Counter::SynAck)
            .goal(120.0),
        Row::new("SYN, MSS WS SACK (Windows)", By::Ours, syn(v4, WINDOWS)).counted(Counter::SynAck),
        Row::new("SYN, no options", By::Ours, syn(v4, &[])).counted(Counter::SynAck),
        Row::new("SYN, IPv6, all options", By::Ours, syn(v6, LINUX)).counted(Counter::SynAck),
        Row {
            makes: Some(FlowKey::new(peer(v4), SocketAddr::new(v4, PORT))),
            ..Row::new("ACK, valid cookie: a new flow", By::Ours, valid)
        }
        .counted(Counter::ToAccept),
        Row::new("ACK, bad cookie: RST", By::Ours, bad).counted(Counter::RstBadCookie),
        Row::new("known flow, of 1", By::Ours, known(client(0)))
            .counted(Counter::ToFlow)
            .goal(100.0),
        Row::new("known flow, of 1,000,000", By::OursFull, known(client(1)))
            .counted(Counter::ToFlow)
            .goal(100.0),
        Row {
            frames: few.collect(),
            ..Row::new("2,000 known flows, of 2,000", By::OursSmall, Vec::new())
        }
        .counted(Counter::ToFlow),
        Row {
            frames: many.collect(),
            ..Row::new("2,000 known flows, of 1,000,000", By::OursFull, Vec::new())
        }
        .counted(Counter::ToFlow),
        Row::new("not ours: ARP", By::Ours, frames::arp())
            .counted(Counter::PassNotIp)
            .goal(25.0),
        Row::new(
            "not ours: UDP",
            By::Ours,
            frames::udp(peer(v4), SocketAddr::new(v4, 53)),
        )
        .counted(Counter::PassNotTcp)
        .goal(25.0),
        Row::new("not ours: TCP, another port", By::Ours, other_port.frame())
            .counted(Counter::PassNotServed)
            .goal(25.0),
    ])
}

fn show(rows: &[Row], rounds: u32) {
    let number = |values: &[f64]| {
        if values.is_empty() {
            "-".to_owned()
        } else {
            format!("{:.1}", median(values))
        }
    };
    let cells: Vec<_> = rows
        .iter()
        .map(|row| {
            let range = row
                .once
                .iter()
                .copied()
                .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
                    (low.min(value), high.max(value))
                });
            vec![
                row.name.to_owned(),
                number(&row.once),
                format!("{:.0}..{:.0}", range.0, range.1),
                number(&row.repeat),
                row.goal
                    .map_or_else(String::new, |goal| format!("{goal:.0}")),
                row.goal.map_or_else(String::new, |goal| {
                    let met = median(&row.once) <= goal;
                    if met { "met" } else { "missed" }.to_owned()
                }),
            ]
        })
        .collect();
    println!("\nns per frame by program run, median of {rounds} rounds, less an empty program's\n");
    let heading = ["", "once", "range", "repeat", "goal", ""];
    print!("{}", report::table(&heading, &cells));
}

fn json(rows: &[Row], rounds: u32) -> serde_json::Value {
    let rows: Vec<_> = rows
        .iter()
        .map(|row| {
            let repeat = row.repeat.first().map(|_| median(&row.repeat));
            json!({
                "name": row.name,
                "ns": median(&row.once),
                "ns_rounds": row.once,
                "ns_repeat": repeat,
                "ns_repeat_rounds": row.repeat,
                "goal_ns": row.goal,
                "met": row.goal.map(|goal| median(&row.once) <= goal),
            })
        })
        .collect();
    json!({ "bench": "prog-run", "machine": report::machine(), "rounds": rounds, "rows": rows })
}
