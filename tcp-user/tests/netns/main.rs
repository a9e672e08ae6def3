//! The server as a process in a network namespace, against the kernel's TCP (and curl)
//! in another; between them a veth pair.
//!
//! Needs root: `cargo xtask test`, or `cargo test --test netns -- --ignored` as root.
#![expect(clippy::unwrap_used, reason = "a test that fails may panic")]

mod apps;
mod cli;
mod control;
mod flood;
mod lab;
mod lifecycle;
mod scale;
