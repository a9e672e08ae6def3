//! The XDP program, run by the kernel on frames from a table
//! (`BPF_PROG_TEST_RUN`): frame in, verdict, counter, exact frame out.
//!
//! Needs `CAP_BPF` and `CAP_NET_ADMIN`; no interface is touched. Frames are built
//! and answers judged with `etherparse`, so that our own parser is not its own
//! oracle.
#![expect(clippy::unwrap_used, reason = "a test that fails may panic")]

mod ack;
mod differential;
mod frames;
mod harness;
mod icmp;
mod malformed;
mod pass;
mod policy;
mod shield;
mod syn;
