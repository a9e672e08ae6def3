//! The XDP program: answers SYNs on served ports with cookies, sends known flows
//! and ACKs with a valid cookie to userspace, leaves everything else alone.
//!
//! `judge` reads top to bottom as the way of a frame; every way out names the one
//! counter that the frame is counted under.
#![no_std]
#![no_main]
// Both toolchains that build it allow features; this one is for one atomic instruction.
#![feature(asm_experimental_arch)]
#![expect(
    missing_docs,
    reason = "the function that the macro `xdp` makes has none"
)]

mod ack;
mod classify;
mod icmp;
mod maps;
mod options;
mod packet;
mod reset;
mod shield;
mod synack;

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_REDIRECT, XDP_TX};
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use classify::{Other, Segment};
use tcp_common::abi::policy;
use tcp_common::counters::{Counter, Verdict};
use tcp_common::wire::Flags;

/// What becomes of a frame: the counter in the low half, the XDP action in the high
/// one. One register, so that no way out has to look its action up.
#[derive(Clone, Copy)]
struct Outcome(u32);

impl From<Counter> for Outcome {
    #[inline(always)]
    fn from(counter: Counter) -> Self {
        let action = match counter.verdict() {
            Verdict::Pass => XDP_PASS,
            Verdict::Answered => XDP_TX,
            Verdict::Redirected => XDP_REDIRECT,
            Verdict::Dropped => XDP_DROP,
        };
        Self(counter as u32 | action << 16)
    }
}

/// The program's entry.
#[xdp]
pub fn tcp_xdp(ctx: XdpContext) -> u32 {
    let Outcome(word) = judge(&ctx);
    maps::count(word & 0xffff);
    word >> 16
}

#[inline(always)]
fn judge(ctx: &XdpContext) -> Outcome {
    let seg = match Segment::read(ctx) {
        Ok(seg) => seg,
        Err(Other::Icmp) => return Outcome(icmp::judge_icmp(ctx.ctx)),
        Err(Other::Pass(outcome)) => return outcome,
    };
    let port = maps::port(seg.flow.local_port_be);
    if port == 0 {
        return Counter::PassNotServed.into();
    }
    let control = seg.flags().control();
    if maps::is_known(&seg.flow) {
        if seg.is_fragment() {
            return Counter::DropFragment.into();
        }
        return maps::to_userspace(ctx, Counter::ToFlow);
    }
    match maps::listen(port, &seg.flow) {
        policy::COOKIE => {}
        policy::ADAPTIVE if control != Flags::SYN => {}
        policy::ADAPTIVE => return synack::judge_adaptive(ctx, &seg),
        policy::OBSERVE if control == Flags::SYN => return Counter::PassObservedSyn.into(),
        policy::OBSERVE => return Counter::PassObserved.into(),
        policy::KERNEL => return shield::judge(ctx, &seg, control),
        _ => return Counter::PassNotServed.into(),
    }
    if let Err(outcome) = seg.check() {
        return outcome;
    }
    if control == Flags::SYN {
        Outcome(synack::answer_syn(ctx.ctx, &seg))
    } else if control.has(Flags::RST) {
        Counter::DropRst.into()
    } else if control.without(Flags::FIN) == Flags::ACK {
        Outcome(ack::judge_ack(ctx.ctx, &seg))
    } else {
        Counter::DropFlags.into()
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
