//! An XDP program that passes every frame, attached in native mode.
//!
//! A frame that an XDP program on one end of a veth pair sends back with `XDP_TX` is lost unless the
//! other end runs a native XDP program too. This one is two instructions long, so it needs no
//! compiler; it is attached over netlink, so it stays when the process that attached it is gone.

use std::io;

use crate::bpf::{self, Instruction, Verdict};

/// Attaches the program to an interface of the calling thread's network namespace, in native mode.
///
/// The error says what the kernel said: no root, a driver without native XDP, an MTU too large for it.
pub fn attach(interface: &str) -> io::Result<()> {
    bpf::attach(interface, &bpf::load(&Instruction::always(Verdict::Pass))?)
}
