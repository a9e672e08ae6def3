//! The XDP program: answers SYNs on served ports with cookies, sends known flows
//! and ACKs with a valid cookie to userspace, leaves everything else alone.
//!
//! `judge` reads top to bottom as the way of a frame; every way out names the one
//! counter that the frame is counted under.
#![no_std]
#![no_main]

mod ack;
mod classify;
mod maps;
mod options;
mod packet;
mod reset;
mod synack;

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_REDIRECT, XDP_TX};
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use classify::Segment;
use tcp_common::counters::{Counter, Verdict};
use tcp_common::wire::Flags;

/// The program's entry.
#[xdp]
pub fn tcp_xdp(ctx: XdpContext) -> u32 {
    let counter = judge(&ctx);
    maps::count(counter);
    match counter.verdict() {
        Verdict::Pass => XDP_PASS,
        Verdict::Answered => XDP_TX,
        Verdict::Redirected => XDP_REDIRECT,
        Verdict::Dropped => XDP_DROP,
    }
}

#[inline(always)]
fn judge(ctx: &XdpContext) -> Counter {
    let seg = match Segment::read(ctx) {
        Ok(seg) => seg,
        Err(counter) => return counter,
    };
    let port = maps::port(seg.flow.local_port_be);
    if port == 0 {
        return Counter::PassNotServed;
    }
    if maps::is_known(&seg.flow) {
        if seg.is_fragment() {
            return Counter::DropFragment;
        }
        return maps::to_userspace(ctx, Counter::ToFlow);
    }
    if !maps::is_served(port, &seg.flow) {
        return Counter::PassNotServed;
    }
    if let Err(counter) = seg.check() {
        return counter;
    }
    let control = seg.flags().control();
    let index = if control == Flags::SYN {
        synack::answer_syn(ctx.ctx, &seg)
    } else if control.has(Flags::RST) {
        return Counter::DropRst;
    } else if control.without(Flags::FIN) == Flags::ACK {
        ack::judge_ack(ctx.ctx, &seg)
    } else {
        return Counter::DropFlags;
    };
    Counter::from_index(index)
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
