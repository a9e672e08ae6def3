//! The SYN generator of `cargo xtask bench syn`. It is never part of the server.
//!
//! `syn_flood` is run on live frames (`BPF_F_TEST_XDP_LIVE_FRAMES`) and sends each
//! out of the interface that it pretends to have come from; `take_answers` sits on
//! that interface, counts what comes back and drops it. Sources are random in
//! 198.18.0.0/15; frames to or from other addresses pass.
#![no_std]
#![no_main]
#![expect(
    missing_docs,
    reason = "the function that the macro `xdp` makes has none"
)]

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_TX};
use aya_ebpf::helpers::generated::{
    bpf_get_prandom_u32, bpf_ktime_get_coarse_ns, bpf_ktime_get_ns, bpf_xdp_adjust_tail,
};
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::{Array, PerCpuArray};
use aya_ebpf::programs::XdpContext;
use tcp_common::flood::{Flood, SOURCE_BITS, SOURCES, answer};
use tcp_common::wire::{Flags, Sum};

#[map]
static FLOOD: Array<Flood> = Array::with_max_entries(1, 0);
#[map]
static SENT: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);
#[map]
static ANSWERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(answer::COUNT, 0);
/// When the next frame is due.
#[map]
static DUE: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// A flood that fell behind does not catch up more than this, nanoseconds.
const BEHIND: u64 = 100_000;
/// Offsets in a frame with an IPv4 header without options.
const IP_SUM: usize = 24;
const SOURCE: usize = 26;
const DESTINATION: usize = 30;
const PORT: usize = 34;
const SEQ: usize = 38;
const ACK: usize = 42;
const FLAGS: usize = 47;
const TCP_SUM: usize = 50;
const HEADERS: usize = 54;

/// Makes and sends one frame.
#[xdp]
pub fn syn_flood(ctx: XdpContext) -> u32 {
    let Some(flood) = FLOOD.get(0) else {
        return XDP_DROP;
    };
    if !is_due(flood) {
        return XDP_DROP;
    }
    let (start, end) = (ctx.data(), ctx.data_end());
    if start + size_of_val(&flood.template) > end {
        return XDP_DROP;
    }
    // SAFETY: the helper takes no arguments.
    let (r, seq) = unsafe { (bpf_get_prandom_u32(), bpf_get_prandom_u32()) };
    let source = (SOURCES | r & SOURCE_BITS).to_be();
    // 1024 and up, so never zero.
    let port = (1024 + (r >> 17)) as u16;
    let ack = seq.rotate_left(16) & flood.ack_bits;
    let ip_sum = Sum::new().add32(flood.ip_sum).add32(source).finish();
    let tcp_sum = Sum::new()
        .add32(flood.tcp_sum)
        .add32(source)
        .add16(port)
        .add32(seq)
        .add32(ack)
        .finish();
    // SAFETY: inside the template's octets, which are inside the frame by the check above;
    // BPF stores unaligned words on the architectures we build for.
    unsafe {
        let words = start as *mut u64;
        for (i, word) in flood.template.iter().enumerate() {
            *words.add(i) = *word;
        }
        *((start + IP_SUM) as *mut u16) = ip_sum;
        *((start + SOURCE) as *mut u32) = source;
        *((start + PORT) as *mut u16) = port;
        *((start + SEQ) as *mut u32) = seq;
        *((start + ACK) as *mut u32) = ack;
        *((start + TCP_SUM) as *mut u16) = tcp_sum;
    }
    let delta = flood.len as i32 - (end - start) as i32;
    // SAFETY: `ctx` is the context of this run.
    if unsafe { bpf_xdp_adjust_tail(ctx.ctx, delta) } != 0 {
        return XDP_DROP;
    }
    count(&SENT, 0);
    XDP_TX
}

/// Counts and drops what the responder sends to the sources.
#[xdp]
pub fn take_answers(ctx: XdpContext) -> u32 {
    let (start, end) = (ctx.data(), ctx.data_end());
    if start + HEADERS > end {
        return XDP_PASS;
    }
    // SAFETY: inside the frame by the check above; alignment as above.
    let (source, destination, flags) = unsafe {
        (
            u32::from_be(*((start + SOURCE) as *const u32)),
            u32::from_be(*((start + DESTINATION) as *const u32)),
            *((start + FLAGS) as *const u8),
        )
    };
    let ours = |address: u32| address & !SOURCE_BITS == SOURCES;
    let what = if ours(destination) {
        match Flags(flags).control() {
            control if control == Flags::SYN.with(Flags::ACK) => answer::SYN_ACK,
            control if control.has(Flags::RST) => answer::RST,
            _ => answer::OTHER,
        }
    } else if ours(source) {
        answer::OTHER
    } else {
        return XDP_PASS;
    };
    count(&ANSWERS, what);
    XDP_DROP
}

#[inline(always)]
fn is_due(flood: &Flood) -> bool {
    if flood.interval == 0 {
        // SAFETY: the helper takes no arguments.
        return unsafe { bpf_ktime_get_coarse_ns() } < flood.until;
    }
    // SAFETY: the helper takes no arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    let Some(due) = DUE.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: the slot belongs to this CPU, and one run ends before the next begins.
    unsafe {
        if now < *due || now >= flood.until {
            return false;
        }
        let from = if now - *due > BEHIND {
            now - BEHIND
        } else {
            *due
        };
        *due = from + flood.interval;
    }
    true
}

#[inline(always)]
fn count(map: &PerCpuArray<u64>, index: u32) {
    if let Some(slot) = map.get_ptr_mut(index) {
        // SAFETY: the slot belongs to this CPU, and XDP does not preempt itself.
        unsafe { *slot += 1 };
    }
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier proves that it is never reached.
    loop {}
}

/// GPL-compatible, as the kernel's helpers ask.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
