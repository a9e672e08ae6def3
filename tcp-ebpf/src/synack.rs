//! A SYN is answered in place: SYN-ACK with a cookie, no state kept.

use crate::Outcome;
use crate::classify::Segment;
use crate::maps;
use crate::packet::Packet;
use crate::reset::{Reply, write_headers};
use aya_ebpf::bindings::xdp_md;
use aya_ebpf::programs::XdpContext;
use tcp_common::abi::{Config, flag};
use tcp_common::cookie;
use tcp_common::counters::Counter;
use tcp_common::wire::options::{self, SynAckOptions, SynOptions, Timestamps};
use tcp_common::wire::{Flags, Sum};

/// Answers the SYN; the word of an [`Outcome`]. A global function: the kernel
/// verifies it once, on its own.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn answer_syn(ctx: *mut xdp_md, seg: *const Segment) -> u32 {
    let ctx = XdpContext::new(ctx);
    // SAFETY: the verifier holds callers to a pointer to a whole `Segment`, or null.
    let Some(seg) = (unsafe { seg.as_ref() }) else {
        return Outcome::from(Counter::DropStopping).0;
    };
    let Some(config) = maps::config() else {
        return Outcome::from(Counter::DropStopping).0;
    };
    match try_answer(&ctx, seg, config) {
        Ok(()) => Outcome::from(Counter::SynAck).0,
        Err(Outcome(word)) => word,
    }
}

/// A SYN to an adaptive listen: to userspace while there are few.
#[inline(always)]
pub fn judge_adaptive(ctx: &XdpContext, seg: &Segment) -> Outcome {
    if let Err(outcome) = seg.check() {
        return outcome;
    }
    let word = hand_up(ctx.ctx, seg);
    if word != Outcome::from(Counter::SynAck).0 {
        return Outcome(word);
    }
    Outcome(answer_syn(ctx.ctx, seg))
}

/// Hands the SYN to userspace; the word of an [`Outcome`]. That of [`Counter::SynAck`] stands
/// for: it is to be answered here. A global function as [`answer_syn`] is.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn hand_up(ctx: *mut xdp_md, seg: *const Segment) -> u32 {
    let answer = Outcome::from(Counter::SynAck).0;
    let ctx = XdpContext::new(ctx);
    // SAFETY: the verifier holds callers to a pointer to a whole `Segment`, or null.
    let Some(seg) = (unsafe { seg.as_ref() }) else {
        return answer;
    };
    let Some(config) = maps::config() else {
        return answer;
    };
    if !maps::may_hand_up(config.limits.syn_interval) {
        return answer;
    }
    if let Err(Outcome(word)) = check(&ctx, seg, config) {
        return word;
    }
    if !maps::may_answer(config.limits.syn_ack_interval, &seg.flow.remote) {
        return Outcome::from(Counter::DropSynLimit).0;
    }
    maps::to_userspace(&ctx, Counter::ToHandshake).0
}

/// What is wrong with the SYN, or what it offers.
#[inline(always)]
fn check(ctx: &XdpContext, seg: &Segment, config: &Config) -> Result<SynOptions, Outcome> {
    if !maps::is_allowed(config.flags, &seg.flow.remote) {
        return Err(Counter::DropDenied.into());
    }
    let packet = Packet::new(ctx);
    // Data on a SYN is neither acknowledged nor kept, so its octets need not be
    // summed: they come again, with a checksum of their own.
    if seg.is_bare() && !seg.checksum_ok(&packet, config.flags & flag::PARTIAL_CHECKSUMS != 0) {
        return Err(Counter::DropTcpChecksum.into());
    }
    let offered = crate::options::parse(ctx, &packet, seg)
        .map_err(|_| Outcome::from(Counter::DropOptions))?;
    if config.flags & flag::STOPPING != 0 {
        return Err(Counter::DropStopping.into());
    }
    if config.flags & flag::REQUIRE_TIMESTAMPS != 0 && offered.timestamps.is_none() {
        return Err(Counter::DropNoTimestamps.into());
    }
    Ok(offered)
}

#[inline(always)]
fn try_answer(ctx: &XdpContext, seg: &Segment, config: &Config) -> Result<(), Outcome> {
    let offered = check(ctx, seg, config)?;
    if !maps::may_answer(config.limits.syn_ack_interval, &seg.flow.remote) {
        return Err(Counter::DropSynLimit.into());
    }
    let ecn = config.flags & flag::ECN != 0 && seg.flags().has(Flags::ECE.with(Flags::CWR));
    let secrets = maps::secrets().ok_or(Outcome::from(Counter::DropStopping))?;
    let parity = secrets.current & 1;
    let key = if parity == 0 {
        &secrets.keys[0]
    } else {
        &secrets.keys[1]
    };
    let (cookie, agreed) = cookie::make(key, parity, &seg.flow, seg.seq, &offered, ecn);
    let timestamps = offered.timestamps.map(|ts| Timestamps {
        val: cookie.tsval,
        ecr: ts.val,
    });
    let laid = options::syn_ack(
        if seg.is_v6() {
            config.mss_v6
        } else {
            config.mss_v4
        },
        agreed.window_scale.map(|_| config.window_scale),
        agreed.sack,
        timestamps,
    );
    send(
        ctx,
        seg,
        &laid,
        &Fields {
            iss: cookie.iss,
            ecn: agreed.ecn,
            window: config.window,
            hop_limit: config.hop_limit,
        },
    )
}

/// What a SYN-ACK says beside its options.
pub struct Fields {
    /// Initial send sequence number.
    pub iss: u32,
    /// ECN is agreed on.
    pub ecn: bool,
    /// Window, octets, not scaled.
    pub window: u16,
    /// Time to live or hop limit.
    pub hop_limit: u8,
}

/// Turns the SYN into its SYN-ACK.
#[inline(always)]
pub fn send(
    ctx: &XdpContext,
    seg: &Segment,
    laid: &SynAckOptions,
    fields: &Fields,
) -> Result<(), Outcome> {
    let flags = if fields.ecn {
        Flags::SYN.with(Flags::ACK).with(Flags::ECE)
    } else {
        Flags::SYN.with(Flags::ACK)
    };
    let mut options_sum = Sum::new();
    for word in laid.word {
        options_sum = options_sum.add32(word.to_be());
    }
    let mut packet = write_headers(
        ctx,
        seg,
        &Reply {
            seq: fields.iss,
            ack: seg.seq.wrapping_add(1),
            flags,
            window: fields.window,
            hop_limit: fields.hop_limit,
            options_len: laid.words * 4,
            options_sum,
        },
    )?;
    let at = seg.link_len() + if seg.is_v6() { 60 } else { 40 };
    if laid.words == 5 {
        let mut w = packet
            .window_mut::<20>(at)
            .ok_or(Outcome::from(Counter::DropResize))?;
        w.put_be32::<0>(laid.word[0]);
        w.put_be32::<4>(laid.word[1]);
        w.put_be32::<8>(laid.word[2]);
        w.put_be32::<12>(laid.word[3]);
        w.put_be32::<16>(laid.word[4]);
        return Ok(());
    }
    for (i, word) in laid.word.iter().enumerate().take(4) {
        if i >= laid.words {
            break;
        }
        packet
            .window_mut::<4>(at + i * 4)
            .ok_or(Outcome::from(Counter::DropResize))?
            .put_be32::<0>(*word);
    }
    Ok(())
}
