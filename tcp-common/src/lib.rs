//! What the XDP program and userspace must agree on: header parsing, sequence
//! arithmetic, the SYN cookie, map layouts and counters.
//!
//! `no_std`, no allocation. Everything here is compiled twice, for
//! `bpfel-unknown-none` and for the host, so that a frame means the same on both
//! sides of the AF_XDP ring.
#![cfg_attr(not(test), no_std)]

pub mod abi;
pub mod cookie;
pub mod counters;
pub mod flood;
pub mod flow;
pub mod seq;
pub mod wire;
