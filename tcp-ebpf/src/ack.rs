//! A segment without a flow: a new connection if its ACK has a valid cookie.

use crate::classify::Segment;
use crate::packet::Packet;
use crate::{Outcome, maps, options, reset};
use aya_ebpf::bindings::xdp_md;
use aya_ebpf::programs::XdpContext;
use tcp_common::abi::{Config, flag};
use tcp_common::cookie;
use tcp_common::counters::Counter;

/// Judges the segment; the word of an [`Outcome`]. A global function: the kernel
/// verifies it once, on its own.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn judge_ack(ctx: *mut xdp_md, seg: *const Segment) -> u32 {
    let ctx = XdpContext::new(ctx);
    // SAFETY: the verifier holds callers to a pointer to a whole `Segment`, or null.
    let Some(seg) = (unsafe { seg.as_ref() }) else {
        return Outcome::from(Counter::DropStopping).0;
    };
    let Some(config) = maps::config() else {
        return Outcome::from(Counter::DropStopping).0;
    };
    judge(&ctx, seg, config).0
}

#[inline(always)]
fn judge(ctx: &XdpContext, seg: &Segment, config: &Config) -> Outcome {
    if !maps::is_allowed(config.flags, &seg.flow.remote) {
        return Counter::DropDenied.into();
    }
    let packet = Packet::new(ctx);
    // A segment with data is summed in userspace, while it is copied.
    if seg.is_bare() && !seg.checksum_ok(&packet, config.flags & flag::PARTIAL_CHECKSUMS != 0) {
        return Counter::DropTcpChecksum.into();
    }
    let Ok(found) = options::find(ctx, &packet, seg) else {
        return Counter::DropOptions.into();
    };
    if config.flags & flag::STOPPING != 0 {
        return Counter::DropStopping.into();
    }
    if config.flags & flag::REQUIRE_TIMESTAMPS != 0 && !found.has_timestamps() {
        return Counter::DropNoTimestamps.into();
    }
    let (drop, rst) = match age(config, seg, &found) {
        Age::Fresh if maps::add_flow(&seg.flow, ctx.rx_queue_index()) => {
            return maps::to_userspace(ctx, Counter::ToAccept);
        }
        Age::Fresh => (Counter::DropFlowTableFull, Counter::RstFlowTableFull),
        Age::Early => return Counter::DropEarly.into(),
        Age::TooOld => (Counter::DropOldCookie, Counter::RstOldCookie),
        Age::None => (Counter::DropBadCookie, Counter::RstBadCookie),
    };
    if config.flags & flag::DROP_INVALID != 0 {
        return drop.into();
    }
    if !maps::may_reset(config.limits.rst_interval) {
        return Counter::DropRstLimit.into();
    }
    reset::answer(ctx, seg, rst)
}

enum Age {
    /// Of this slot or the last.
    Fresh,
    /// Fresh, but on data that is not the first.
    Early,
    /// Of one of the two slots before.
    TooOld,
    /// Not a cookie of ours, as far as we know.
    None,
}

#[inline(always)]
fn age(config: &Config, seg: &Segment, found: &options::Found) -> Age {
    let Some(secrets) = maps::secrets() else {
        return Age::None;
    };
    let iss = seg.ack.wrapping_sub(1);
    let irs = seg.seq.wrapping_sub(1);
    let tsecr = found.has_timestamps().then_some(found.tsecr);
    let (key, old) = if cookie::slot_parity(iss, tsecr) == 0 {
        (&secrets.keys[0], &secrets.old[0])
    } else {
        (&secrets.keys[1], &secrets.old[1])
    };
    if cookie::check(key, &seg.flow, irs, iss, tsecr).is_some() {
        Age::Fresh
    } else if !seg.is_bare() && cookie::is_early(key, &seg.flow, irs, iss, tsecr, seg.payload_len())
    {
        Age::Early
    } else if config.flags & flag::UNDER_ATTACK == 0
        && cookie::check(old, &seg.flow, irs, iss, tsecr).is_some()
    {
        Age::TooOld
    } else {
        Age::None
    }
}
