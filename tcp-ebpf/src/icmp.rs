//! ICMP errors about our connections go to userspace: path MTU discovery (RFC 1191,
//! RFC 8201) is the engine's, and the kernel knows of no such connection.

use crate::Outcome;
use crate::maps;
use crate::packet::Packet;
use aya_ebpf::bindings::xdp_md;
use aya_ebpf::programs::XdpContext;
use tcp_common::counters::Counter;
use tcp_common::wire::{icmp, link};

/// Judges a packet that is not TCP; the word of an [`Outcome`]. A global function: the
/// kernel verifies it once, on its own.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn judge_icmp(ctx: *mut xdp_md) -> u32 {
    let ctx = XdpContext::new(ctx);
    let packet = Packet::new(&ctx);
    let Some(link) = link::parse(&packet) else {
        return Outcome::from(Counter::PassNotIp).0;
    };
    match icmp::parse(&packet, link) {
        // Only what quotes a known 4-tuple (RFC 5927 §4.1); the engine looks at the
        // sequence number.
        Some(error) if maps::is_known(&error.flow) => maps::to_userspace(&ctx, Counter::ToIcmp).0,
        _ => Outcome::from(Counter::PassNotTcp).0,
    }
}
