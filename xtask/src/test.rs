//! `cargo xtask test`: every tier, from the cheapest to the one that needs most.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use xtask::{process, workspace};

use crate::lint;

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Tier {
    /// Format, clippy, and the rule that the protocol core does no I/O
    Lint,
    /// Unit and property tests, and the simulations of the protocol core
    Unit,
    /// The XDP program in the kernel, frame by frame; as root
    #[value(name = "prog_run", alias = "prog-run")]
    ProgRun,
    /// The server against the kernel's TCP in network namespaces; as root
    Netns,
}

/// Runs all tiers, or one.
pub(crate) fn test(only: Option<Tier>) -> Result<()> {
    let wanted = |tier| only.is_none_or(|only| only == tier);
    if wanted(Tier::Lint) {
        lint::lint()?;
    }
    if wanted(Tier::Unit) {
        headline("unit, property and simulation tests");
        process::run_shown(workspace::cargo().args([
            "test",
            "--workspace",
            "--exclude",
            "tcp-ebpf",
        ]))?;
    }
    if wanted(Tier::Netns) {
        // Its tests start them.
        headline("examples");
        process::run_shown(workspace::cargo().args(["build", "-p", "tcp-user", "--examples"]))?;
    }
    let mut tests = Vec::new();
    for package in ["tcp-user", "xtask"] {
        tests.extend(
            integration_tests(package)?
                .into_iter()
                .map(|name| (package, name)),
        );
    }
    // Each stands on the ones before: the XDP program, the namespaces, the server in them.
    tests.sort_by_key(|(package, name)| (name != "prog_run", *package != "xtask", name.clone()));
    for (package, name) in tests {
        let tier = match name.as_str() {
            // Needs nobody's rights and has run.
            "conformance" | "fuzz_corpus" => continue,
            "prog_run" => Tier::ProgRun,
            _ => Tier::Netns,
        };
        if wanted(tier) {
            headline(&format!("{package}, test {name}, as root"));
            run_as_root(package, &name)?;
        }
    }
    Ok(())
}

pub(crate) fn headline(text: &str) {
    eprintln!("\n=== {text} ===");
}

/// The names of the integration tests of a package.
fn integration_tests(package: &str) -> Result<Vec<String>> {
    let Ok(directory) = fs::read_dir(workspace::root().join(package).join("tests")) else {
        return Ok(Vec::new());
    };
    let mut names = Vec::new();
    for entry in directory {
        let path = entry?.path();
        let is_test = path.extension().is_some_and(|extension| extension == "rs")
            || path.join("main.rs").exists();
        if let Some(name) = path.file_stem().filter(|_| is_test) {
            names.push(name.to_string_lossy().into_owned());
        }
    }
    Ok(names)
}

/// Runs an integration test with those of its cases that need root.
fn run_as_root(package: &str, name: &str) -> Result<()> {
    let mut args = vec!["--include-ignored"];
    if name != "prog_run" {
        // They share the machine: its processors, its memory for UMEM.
        args.push("--test-threads=1");
    }
    let mut cargo = workspace::cargo();
    cargo.args(["test", "--package", package, "--test", name]);
    if process::is_root() {
        return process::run_shown(cargo.arg("--").args(args));
    }
    // Cargo itself would leave files of root's in the target directory.
    cargo.args(["--no-run", "--message-format=json-render-diagnostics"]);
    let output = cargo
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    ensure!(output.status.success(), "building the test {name} failed");
    let test = executable(&output.stdout).context("cargo named no test executable")?;
    let mut sudo: Command = process::as_root(test, "run the tests that need root")?;
    process::run_shown(sudo.args(args).current_dir(workspace::root().join(package)))
}

/// The test executable among cargo's messages, which are one JSON value a line.
fn executable(messages: &[u8]) -> Option<PathBuf> {
    messages
        .split(|&byte| byte == b'\n')
        .rev()
        .find_map(|line| {
            let message: serde_json::Value = serde_json::from_slice(line).ok()?;
            let is_test = message["target"]["kind"]
                .as_array()?
                .iter()
                .any(|kind| kind == "test");
            let path = message["executable"].as_str().filter(|_| is_test)?;
            Some(PathBuf::from(path))
        })
}
