//! The server as a process in a network namespace, against the kernel's TCP (and curl)
//! in another; between them a veth pair.
//!
//! Needs root: `cargo xtask test`, or `cargo test --test netns -- --ignored` as root.
#![expect(clippy::unwrap_used, reason = "a test that fails may panic")]

mod abuse;
mod adaptive;
mod apps;
mod attach;
mod capture;
mod cli;
mod config;
mod control;
mod crowd;
mod draw;
mod flood;
#[path = "../prog_run/frames.rs"]
#[expect(dead_code, reason = "here nobody reads answers")]
mod frames;
mod lab;
mod lifecycle;
mod live;
mod loss;
mod malformed;
mod metrics;
mod net;
mod operate;
mod path;
mod policy;
mod privileges;
mod programs;
mod proxy;
mod proxy_backends;
mod proxy_ends;
mod raw;
mod scale;
mod secret;
mod shield;
mod shield_listeners;
mod shield_servers;
mod streams;
mod vanish;
