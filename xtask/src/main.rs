//! The project's tasks: `cargo xtask --help`.

mod bench;
mod build;
mod lint;
mod run;
mod setup;
mod test;

use std::{ffi::OsString, os::unix::process::CommandExt as _, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand, ValueEnum, builder::PossibleValue, error::ErrorKind};
use xtask::{lab, process};

use crate::setup::Scope;

/// Sets up, builds, runs and tests tcp-xdp.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what is missing to build, run and test
    Setup,
    /// Build target/release/tcp-user, with the XDP program inside
    Build,
    /// Run the server: in the lab, or with arguments after `--` as `tcp-user run` takes them
    Run {
        /// Arguments of `tcp-user run`; without any, the lab is brought up
        #[arg(last = true)]
        args: Vec<OsString>,
    },
    /// Run the tests: lint, unit, XDP program runs, network namespaces
    Test {
        /// Run only this tier
        #[arg(long)]
        only: Option<test::Tier>,
    },
    /// Measure beside what others do on this machine; as root
    Bench(bench::Options),
    /// The namespace `tcplab` with the server's side of a veth pair
    Lab {
        /// Bring it up afresh, or take it down
        action: Action,
        /// The tools that it takes are there
        #[arg(long, hide = true)]
        is_set_up: bool,
    },
    /// What `run` does as root
    #[command(hide = true)]
    ServeLab {
        /// The server
        binary: PathBuf,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Action {
    Up,
    Down,
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    match perform(cli.task) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(task: Task) -> Result<ExitCode> {
    match task {
        Task::Setup => drop(setup::setup(Scope::Test)?),
        Task::Build => {
            setup::setup(Scope::Build)?;
            println!("{}", build::server()?.display());
        }
        Task::Run { args } => return run::run(&args),
        Task::Test { only } => {
            setup::setup(Scope::Test)?;
            test::test(only)?;
        }
        Task::Bench(options) => bench::bench(&options)?,
        Task::Lab { action, is_set_up } => perform_lab(action, is_set_up)?,
        Task::ServeLab { binary } => return run::serve_lab(&binary),
    }
    Ok(ExitCode::SUCCESS)
}

fn perform_lab(action: Action, is_set_up: bool) -> Result<()> {
    if action == Action::Up && !is_set_up {
        setup::lab()?;
    }
    if !process::is_root() {
        let word = action.to_possible_value();
        let word = word.as_ref().map(PossibleValue::get_name);
        let mut sudo = process::as_root(std::env::current_exe()?, "make a network namespace")?;
        return Err(sudo.args(["lab", "--is-set-up"]).args(word).exec()).context("cannot run sudo");
    }
    match action {
        Action::Up => lab::Lab::up()?.keep(),
        Action::Down => lab::down()?,
    }
    Ok(())
}

/// What was asked for (`--help`), or one line that says what is wrong and exit code 2.
fn usage(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            ExitCode::from(u8::from(error.use_stderr()) * 2)
        }
        _ => {
            let text = error.to_string();
            // The lines after the first paragraph are a tip and the usage.
            let line = text.lines().take_while(|line| !line.is_empty());
            let line = line.map(str::trim).collect::<Vec<_>>().join(" ");
            eprintln!("{line} (see cargo xtask --help)");
            ExitCode::from(2)
        }
    }
}
