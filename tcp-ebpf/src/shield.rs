//! A shield before a listener of the kernel's: SYNs are answered here with cookies that
//! the kernel makes, and of the ACKs only those with a valid one reach it. What belongs to
//! a socket that is no listener is the kernel's, untouched.
//!
//! `bpf_tcp_gen_syncookie` also marks the listener as overflowed, without which the kernel
//! would refuse the cookie. Both helpers look at few fields of the headers, so they get
//! headers made for them, of a length that the verifier knows.

use crate::Outcome;
use crate::classify::Segment;
use crate::maps;
use crate::packet::Packet;
use crate::reset::{self, Reply, write_headers};
use crate::synack;
use aya_ebpf::bindings::{bpf_sock, tcphdr, xdp_md};
use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::generated::{
    bpf_sk_release, bpf_skc_lookup_tcp, bpf_tcp_check_syncookie, bpf_tcp_gen_syncookie,
};
use aya_ebpf::programs::XdpContext;
use tcp_common::abi::{Config, Shield, flag, shield};
use tcp_common::cookie;
use tcp_common::counters::Counter;
use tcp_common::wire::Flags;
use tcp_common::wire::link::ETH_LEN;
use tcp_common::wire::options::{self, MSS, Timestamps};

/// `BPF_F_CURRENT_NETNS`.
const THIS_NAMESPACE: u64 = u64::MAX;
/// `TCP_LISTEN` of `enum bpf_tcp_states`.
const LISTEN: u32 = 10;

/// How `cookie_timestamp_decode` reads the options out of the low bits of TSecr.
mod tsval {
    /// Bits in all.
    pub const MASK: u64 = 0x3f;
    /// The peer's shift count; this value is none.
    pub const NO_SCALE: u64 = 0xf;
    pub const SACK: u64 = 0x10;
    pub const ECN: u64 = 0x20;
}

/// A cookie on its way from one function to the next.
#[derive(Clone, Copy)]
pub struct Cookie {
    /// What `bpf_tcp_gen_syncookie` said: the cookie, and above its 32 bits the MSS that the
    /// kernel will read from it.
    made: u64,
    shield: Shield,
}

/// Judges a segment to a listen that is the kernel's.
#[inline(always)]
pub fn judge(ctx: &XdpContext, seg: &Segment, control: Flags) -> Outcome {
    let judged = if control == Flags::SYN {
        shield_syn(ctx.ctx, seg)
    } else {
        shield_other(ctx.ctx, seg)
    };
    if judged == Outcome::from(Counter::SynAckKernel).0 {
        return Outcome(shield_answer(ctx.ctx, seg));
    }
    if judged == Outcome::from(Counter::RstNoListener).0 {
        return Outcome(shield_refuse(ctx.ctx, seg));
    }
    Outcome(judged)
}

/// Judges a SYN; the word of an [`Outcome`]. The answer is made by [`shield_answer`] or
/// [`shield_refuse`]. Global functions: the kernel verifies each once, on its own, and all
/// at once would take more stack than there is.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn shield_syn(ctx: *mut xdp_md, seg: *const Segment) -> u32 {
    begin(ctx, seg, judge_syn)
}

/// Turns the SYN into its answer; the word of an [`Outcome`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn shield_answer(ctx: *mut xdp_md, seg: *const Segment) -> u32 {
    begin(ctx, seg, answer)
}

/// Answers where nothing listens; the word of an [`Outcome`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn shield_refuse(ctx: *mut xdp_md, seg: *const Segment) -> u32 {
    begin(ctx, seg, refuse)
}

/// Judges any other segment; the word of an [`Outcome`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn shield_other(ctx: *mut xdp_md, seg: *const Segment) -> u32 {
    begin(ctx, seg, judge_other)
}

#[inline(always)]
fn begin(
    ctx: *mut xdp_md,
    seg: *const Segment,
    judge: impl FnOnce(&XdpContext, &Segment, &Config) -> Result<Outcome, Outcome>,
) -> u32 {
    let ctx = XdpContext::new(ctx);
    // SAFETY: the verifier holds callers to a pointer to a whole `Segment`, or null.
    let Some(seg) = (unsafe { seg.as_ref() }) else {
        return Outcome::from(Counter::PassNotServed).0;
    };
    let Some(config) = maps::config() else {
        return Outcome::from(Counter::PassNotServed).0;
    };
    if config.flags & flag::STOPPING != 0 {
        return Outcome::from(Counter::PassNotServed).0;
    }
    match judge(&ctx, seg, config) {
        Ok(Outcome(word)) | Err(Outcome(word)) => word,
    }
}

#[inline(always)]
fn judge_syn(ctx: &XdpContext, seg: &Segment, config: &Config) -> Result<Outcome, Outcome> {
    check(ctx, seg, config)?;
    let offered = crate::options::parse(ctx, &Packet::new(ctx), seg)
        .map_err(|_| Outcome::from(Counter::DropOptions))?;
    // Before anything else is done, also for those that are the kernel's to answer.
    if !maps::may_answer(config.limits.syn_ack_interval, &seg.flow.remote) {
        return Err(Counter::DropSynLimit.into());
    }
    let shield = maps::shield(&seg.flow);
    if let Some(Shield { flags, .. }) = shield
        && flags & shield::QUIET != 0
    {
        return Ok(Counter::PassKernelSyn.into());
    }
    let headers = Headers::new(seg, offered.mss.unwrap_or(0));
    let socket = match lookup(ctx, seg, &headers) {
        Found::Listener(socket) => socket,
        Found::Connection => return Ok(Counter::PassKernelSocket.into()),
        Found::Nothing => return Ok(Counter::RstNoListener.into()),
    };
    let Some(shield) = shield else {
        socket.release();
        return Ok(Counter::PassKernelSyn.into());
    };
    let made = socket.make_cookie(&headers);
    if made < 0 {
        return Ok(if shield.flags & shield::ALWAYS != 0 {
            Counter::DropListenerFull.into()
        } else {
            Counter::PassKernelSyn.into()
        });
    }
    let cookie = maps::cookie().ok_or(Outcome::from(Counter::DropStopping))?;
    *cookie = Cookie {
        made: made as u64,
        shield,
    };
    Ok(Counter::SynAckKernel.into())
}

#[inline(always)]
fn answer(ctx: &XdpContext, seg: &Segment, config: &Config) -> Result<Outcome, Outcome> {
    let Cookie { made, shield } = *maps::cookie().ok_or(Outcome::from(Counter::DropStopping))?;
    let offered = crate::options::parse(ctx, &Packet::new(ctx), seg)
        .map_err(|_| Outcome::from(Counter::DropOptions))?;
    let has = |bit| shield.flags & bit != 0;
    let timestamps = offered.timestamps.filter(|_| has(shield::TIMESTAMPS));
    // Without timestamps the kernel takes it that there were no options at all.
    let scale = offered
        .window_scale
        .filter(|_| has(shield::WINDOW_SCALE) && timestamps.is_some());
    let sack = offered.sack_permitted && has(shield::SACK) && timestamps.is_some();
    let wants_ecn = seg.flags().has(Flags::ECE.with(Flags::CWR));
    let ecn = wants_ecn && has(shield::ECN) && timestamps.is_some();
    let timestamps = timestamps.map(|offered| {
        let bits = scale.map_or(tsval::NO_SCALE, u64::from)
            | if sack { tsval::SACK } else { 0 }
            | if ecn { tsval::ECN } else { 0 };
        let now = maps::coarse_now() / 1_000_000;
        let mut val = now & !tsval::MASK | bits;
        // Never ahead of the kernel's clock, which goes on from here.
        if val > now {
            val = val.wrapping_sub(tsval::MASK + 1);
        }
        Timestamps {
            val: val as u32,
            ecr: offered.val,
        }
    });
    let mut announced = shield.mss;
    if has(shield::ROUTES)
        && let Some(mss) = maps::route_mss(&seg.flow.remote)
        && mss < announced
    {
        announced = mss;
    }
    let mss = (made >> 32) as u32 & 0xffff;
    let mut window = shield.space;
    if mss != 0 && window > mss {
        window -= window % mss;
    }
    let laid = options::syn_ack(
        announced,
        scale.map(|_| shield.window_scale),
        sack,
        timestamps,
    );
    synack::send(
        ctx,
        seg,
        &laid,
        &synack::Fields {
            iss: made as u32,
            ecn,
            window: if window > 0xffff {
                0xffff
            } else {
                window as u16
            },
            hop_limit: config.hop_limit,
        },
    )?;
    Ok(Counter::SynAckKernel.into())
}

#[inline(always)]
fn judge_other(ctx: &XdpContext, seg: &Segment, config: &Config) -> Result<Outcome, Outcome> {
    let headers = Headers::new(seg, 0);
    let valid = match lookup(ctx, seg, &headers) {
        Found::Listener(socket) => socket.check_cookie(&headers) == 0,
        Found::Connection => return Ok(Counter::PassKernelSocket.into()),
        Found::Nothing => return Ok(Counter::RstNoListener.into()),
    };
    // More of a fragment's segment follows, which the kernel would put together.
    let control = seg.flags().control();
    if valid && !seg.is_fragment() {
        if !maps::is_allowed(config.flags, &seg.flow.remote) {
            return Err(Counter::DropDenied.into());
        }
        maps::admit(&seg.flow);
        return Ok(Counter::PassKernelAccept.into());
    }
    // Data right behind its ACK comes here before the kernel has made a socket of that.
    if maps::is_admitted(&seg.flow) {
        return Ok(Counter::PassKernelSocket.into());
    }
    if control.has(Flags::RST) {
        return Err(Counter::DropRst.into());
    }
    if control.without(Flags::FIN) != Flags::ACK {
        return Err(Counter::DropFlags.into());
    }
    check(ctx, seg, config)?;
    if config.flags & flag::DROP_INVALID != 0 {
        return Err(Counter::DropBadCookie.into());
    }
    if !maps::may_reset(config.limits.rst_interval) {
        return Err(Counter::DropRstLimit.into());
    }
    Ok(reset::answer(ctx, seg, Counter::RstBadCookie))
}

/// What is wrong with a segment that is to be answered.
#[inline(always)]
fn check(ctx: &XdpContext, seg: &Segment, config: &Config) -> Result<(), Outcome> {
    seg.check()?;
    if !maps::is_allowed(config.flags, &seg.flow.remote) {
        return Err(Counter::DropDenied.into());
    }
    let packet = Packet::new(ctx);
    if seg.is_bare() && !seg.checksum_ok(&packet, config.flags & flag::PARTIAL_CHECKSUMS != 0) {
        return Err(Counter::DropTcpChecksum.into());
    }
    Ok(())
}

/// RST, as the kernel would (RFC 9293 §3.10.7.1), so that a flood at a server that is down
/// costs no more than one at a server that is up.
#[inline(always)]
fn refuse(ctx: &XdpContext, seg: &Segment, config: &Config) -> Result<Outcome, Outcome> {
    if seg.link_len() != ETH_LEN {
        // The look-up was for this interface, not for the one that the tag leads to.
        return Ok(Counter::PassKernelUnknown.into());
    }
    let control = seg.flags().control();
    if control.has(Flags::RST) {
        return Err(Counter::DropRst.into());
    }
    check(ctx, seg, config)?;
    if !maps::may_reset(config.limits.rst_interval) {
        return Err(Counter::DropRstLimit.into());
    }
    let reply = if control.has(Flags::ACK) {
        Reply::reset(seg.ack, 0, Flags::RST)
    } else {
        let len = seg
            .payload_len()
            .wrapping_add(u32::from(control.has(Flags::SYN)))
            .wrapping_add(u32::from(control.has(Flags::FIN)));
        Reply::reset(0, seg.seq.wrapping_add(len), Flags::RST.with(Flags::ACK))
    };
    write_headers(ctx, seg, &reply)?;
    Ok(Counter::RstNoListener.into())
}

/// What the kernel has for a segment.
enum Found {
    /// A socket that listens.
    Listener(Socket),
    /// One of the segment's 4-tuple, in whatever state.
    Connection,
    Nothing,
}

/// A reference to a socket that listens. It has to be given back once, which the verifier
/// sees to.
struct Socket(*mut bpf_sock);

/// The segment's socket: one of its 4-tuple, else one that listens.
#[inline(always)]
fn lookup(ctx: &XdpContext, seg: &Segment, headers: &Headers) -> Found {
    // `bpf_sock_tuple`: the addresses and ports, as they lie there.
    let from = if headers.v6 { 2 } else { TCP - V4_WORDS + 3 };
    // SAFETY: `ctx` is the context of this run; addresses and ports are in the headers.
    let socket = unsafe {
        bpf_skc_lookup_tcp(
            ctx.ctx.cast(),
            (&raw const headers.words[from]).cast_mut().cast(),
            ((TCP + 1 - from) * 4) as u32,
            THIS_NAMESPACE,
            0,
        )
    };
    if socket.is_null() {
        return Found::Nothing;
    }
    // SAFETY: not null, and the kernel reads the fields for us.
    let (listens, device) = unsafe { ((*socket).state == LISTEN, (*socket).bound_dev_if) };
    let socket = Socket(socket);
    if !listens {
        socket.release();
        return Found::Connection;
    }
    if device != 0 && seg.link_len() != ETH_LEN {
        // It is on this device alone, and the tag leads to another.
        socket.release();
        return Found::Nothing;
    }
    Found::Listener(socket)
}

impl Socket {
    #[inline(always)]
    fn release(self) {
        // SAFETY: a reference that was taken, and is given back once.
        unsafe { bpf_sk_release(self.0.cast()) };
    }

    /// A cookie of the kernel for a SYN, and above its 32 bits the MSS in it; negative if
    /// the kernel makes none.
    #[inline(always)]
    fn make_cookie(self, headers: &Headers) -> i64 {
        let (ip, ip_len, tcp, tcp_len) = headers.parts();
        // SAFETY: both headers are there in these lengths.
        let made = unsafe { bpf_tcp_gen_syncookie(self.0.cast(), ip, ip_len, tcp, tcp_len) };
        self.release();
        made
    }

    /// Zero if the kernel would take the segment for the ACK of a cookie.
    #[inline(always)]
    fn check_cookie(self, headers: &Headers) -> i64 {
        let (ip, ip_len, tcp, tcp_len) = headers.parts();
        // SAFETY: both headers are there in these lengths.
        let result = unsafe { bpf_tcp_check_syncookie(self.0.cast(), ip, ip_len, tcp, tcp_len) };
        self.release();
        result
    }
}

/// Where the TCP header begins in [`Headers`], words.
const TCP: usize = 10;
/// Words of an IPv4 header.
const V4_WORDS: usize = 5;
/// Words of the TCP header with an MSS option.
const TCP_WORDS: usize = 6;

/// What the helpers read: version and addresses, ports, sequence numbers, flags, and the MSS
/// option. The TCP header is always in the same place, the IP header right before it.
struct Headers {
    words: [u32; TCP + TCP_WORDS],
    v6: bool,
}

impl Headers {
    /// `mss` is what the segment announces; zero: nothing.
    #[inline(always)]
    fn new(seg: &Segment, mss: u16) -> Self {
        let (r, l) = (&seg.flow.remote.0, &seg.flow.local.0);
        let mut words = [0; TCP + TCP_WORDS];
        let v6 = seg.is_v6();
        if v6 {
            words[0] = u32::from_ne_bytes([0x60, 0, 0, 0]);
            words[2] = r[0];
            words[3] = r[1];
            words[4] = r[2];
            words[6] = l[0];
            words[7] = l[1];
            words[8] = l[2];
            words[5] = r[3];
        } else {
            words[5] = u32::from_ne_bytes([0x45, 0, 0, 0]);
            words[8] = r[3];
        }
        words[9] = l[3];
        let mss = match mss {
            0 if v6 => cookie::DEFAULT_MSS_V6,
            0 => cookie::DEFAULT_MSS_V4,
            mss => mss,
        };
        words[TCP] = u32::from(seg.flow.remote_port_be) | u32::from(seg.flow.local_port_be) << 16;
        words[TCP + 1] = seg.seq.to_be();
        words[TCP + 2] = seg.ack.to_be();
        words[TCP + 3] = u32::from_ne_bytes([(TCP_WORDS as u8) << 4, seg.flags().0, 0, 0]);
        words[TCP + 5] = (u32::from_be_bytes([MSS, 4, 0, 0]) | u32::from(mss)).to_be();
        Self { words, v6 }
    }

    /// Both headers and their lengths.
    #[inline(always)]
    fn parts(&self) -> (*mut c_void, u32, *mut tcphdr, u32) {
        let from = if self.v6 { 0 } else { TCP - V4_WORDS };
        (
            (&raw const self.words[from]).cast_mut().cast(),
            ((TCP - from) * 4) as u32,
            (&raw const self.words[TCP]).cast_mut().cast(),
            (TCP_WORDS * 4) as u32,
        )
    }
}
