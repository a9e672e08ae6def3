//! `cargo xtask bench`: what a frame costs, beside what it costs others on this machine in this run.
//!
//! Everything is measured in rounds, each of which measures every row once, so that what else the
//! machine does meets all rows alike; a row's figure is the median of its rounds. The table goes to
//! stdout, and with the figures of every round to `target/bench/NAME.json`.

mod frames;
mod goodput;
mod ours;
mod prog_run;
mod proxy;
mod report;
mod server;
mod streams;
mod syn;

use std::{
    env,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow};
use clap::{Args, ValueEnum};
use syn::{Part, Responder};
use xtask::{process, toolchain, workspace};

use crate::setup::{Scope, setup};

/// What can be measured.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Bench {
    /// ns per frame of the XDP program alone (`BPF_PROG_TEST_RUN`)
    ProgRun,
    /// SYNs answered per second and CPU per SYN, beside the kernel, and clients among the flood
    Syn,
    /// Seconds for a transfer over a lossy path, beside the kernel's server
    Goodput,
    /// CPU per echo of 64 octets: in the worker, in a tokio task, in one over the kernel's TCP
    Streams,
    /// Requests through a proxy, beside haproxy in TCP mode and nginx `stream`
    Proxy,
}

#[derive(Args)]
pub(crate) struct Options {
    /// Measure only this
    what: Option<Bench>,
    /// Octets of a transfer
    #[arg(long, default_value_t = 50_000_000)]
    octets: usize,
    /// Losses of a transfer's path, of 1000 frames, each way
    #[arg(long, value_delimiter = ',', default_values_t = [0, 1, 10, 50, 100])]
    losses: Vec<u32>,
    /// Transfers only from and to servers that have this in their name
    #[arg(long)]
    only: Option<String>,
    /// How often each row is measured
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..1000))]
    rounds: u32,
    /// Only these answer, of `syn`
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    responders: Vec<Responder>,
    /// Only floods or only clients among floods, of `syn`
    #[arg(long)]
    part: Option<Part>,
    /// The same as --part floods --responders native,against,bounce; of `proxy` only the first load
    #[arg(long, conflicts_with_all = ["responders", "part"])]
    quick: bool,
    /// Another build of tcp-user to flood beside this one
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
    /// Everything is built, in this target directory
    #[arg(long, hide = true)]
    built: Option<PathBuf>,
}

/// Where the programs are.
struct Programs {
    /// The XDP program.
    ebpf: PathBuf,
    /// The SYN generator.
    flood: PathBuf,
    /// `tcp-user`.
    server: PathBuf,
    /// Another build of it.
    against: Option<PathBuf>,
    /// Where the results go.
    results: PathBuf,
}

impl Programs {
    fn new(target: &Path, against: Option<PathBuf>) -> Self {
        let objects = target.join("ebpf").join(toolchain::TARGET).join("release");
        Self {
            ebpf: objects.join("tcp-ebpf"),
            flood: objects.join("syn-flood"),
            server: target.join("release/tcp-user"),
            against,
            results: target.join("bench"),
        }
    }
}

pub(crate) fn bench(options: &Options) -> Result<()> {
    let wanted = |what| options.what.is_none_or(|only| only == what);
    let target = match &options.built {
        Some(target) => target.clone(),
        None => build()?,
    };
    if !process::is_root() {
        eprintln!("measuring runs XDP programs, which needs root: going on through sudo");
        let mut sudo = process::as_root(env::current_exe()?, "run XDP programs")?;
        sudo.args(env::args_os().skip(1)).arg("--built").arg(target);
        return Err(sudo.exec()).context("cannot run sudo");
    }
    let programs = Programs::new(&target, options.against.clone());
    if wanted(Bench::ProgRun) {
        prog_run::measure(&programs, options.rounds)?;
    }
    if wanted(Bench::Syn) {
        let quick = [Responder::Native, Responder::Against, Responder::Bounce];
        let plan = syn::Plan {
            rounds: options.rounds,
            responders: match (options.quick, options.responders.as_slice()) {
                (true, _) => &quick,
                (false, []) => &Responder::ALL,
                (false, some) => some,
            },
            part: options.part.or(options.quick.then_some(Part::Floods)),
        };
        syn::measure(&programs, &plan)?;
    }
    if wanted(Bench::Streams) {
        streams::measure(&programs, options.rounds)?;
    }
    if wanted(Bench::Goodput) {
        let (octets, only) = (options.octets, options.only.as_deref());
        goodput::measure(&programs, options.rounds, octets, &options.losses, only)?;
    }
    if wanted(Bench::Proxy) {
        proxy::measure(&programs, options.rounds, options.quick)?;
    }
    Ok(())
}

/// Builds everything that is measured; the target directory.
fn build() -> Result<PathBuf> {
    let toolchain = setup(Scope::Test)?;
    let target = workspace::target_dir()?;
    for program in ["tcp-ebpf", "syn-flood"] {
        let (root, to) = (workspace::root(), target.join("ebpf"));
        toolchain
            .build(root, &to, env::consts::ARCH, program)
            .map_err(|line| anyhow!(line))?;
    }
    crate::build::server()?;
    // For the rows that are the same program over the kernel's TCP.
    let examples = [
        "build",
        "--release",
        "--package",
        "tcp-user",
        "--example",
        "echo",
    ];
    process::run_shown(workspace::cargo().args(examples))?;
    Ok(target)
}
