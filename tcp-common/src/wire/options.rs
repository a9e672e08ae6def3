//! TCP options: MSS (RFC 9293 §3.2), window scale and timestamps (RFC 7323),
//! SACK-permitted and SACK (RFC 2018).

use super::Bytes;

/// Kind 0: end of option list.
pub const END: u8 = 0;
/// Kind 1: no operation.
pub const NOP: u8 = 1;
/// Kind 2: maximum segment size.
pub const MSS: u8 = 2;
/// Kind 3: window scale.
pub const WINDOW_SCALE: u8 = 3;
/// Kind 4: SACK permitted.
pub const SACK_PERMITTED: u8 = 4;
/// Kind 5: SACK.
pub const SACK: u8 = 5;
/// Kind 8: timestamps.
pub const TIMESTAMPS: u8 = 8;

/// Largest shift count; larger ones are used as 14 (RFC 7323 §2.3).
pub const MAX_WINDOW_SCALE: u8 = 14;

/// The timestamps option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timestamps {
    /// The sender's clock.
    pub val: u32,
    /// Echo of the receiver's clock; counts only with ACK.
    pub ecr: u32,
}

/// Where the SACK blocks of a segment lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SackBlocks {
    /// Offset of the first block in the frame.
    pub offset: usize,
    /// Number of blocks of 8 octets, 1 to 4.
    pub count: usize,
}

/// The options of one segment. An option that came twice has its last value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Options {
    /// Maximum segment size, as sent.
    pub mss: Option<u16>,
    /// Window scale, at most [`MAX_WINDOW_SCALE`].
    pub window_scale: Option<u8>,
    /// SACK permitted.
    pub sack_permitted: bool,
    /// Timestamps.
    pub timestamps: Option<Timestamps>,
    /// SACK blocks.
    pub sack: Option<SackBlocks>,
}

/// What a SYN offers; [`Options`] without what has no meaning there.
pub type SynOptions = Options;

/// An option's length is shorter than its kind demands, or passes the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadOption;

/// Takes options as [`walk`] meets them.
pub trait Sink {
    /// Maximum segment size.
    fn mss(&mut self, mss: u16);
    /// Window scale, at most [`MAX_WINDOW_SCALE`].
    fn window_scale(&mut self, shift: u8);
    /// SACK permitted.
    fn sack_permitted(&mut self);
    /// Timestamps.
    fn timestamps(&mut self, timestamps: Timestamps);
    /// SACK blocks.
    fn sack(&mut self, blocks: SackBlocks);
    /// The cursor after an option. The XDP program passes it through memory that
    /// the verifier does not track: it would otherwise follow every sequence of
    /// option lengths apart.
    #[inline(always)]
    fn settle(&mut self, at: usize) -> usize {
        at
    }
}

impl Sink for Options {
    #[inline(always)]
    fn mss(&mut self, mss: u16) {
        self.mss = Some(mss);
    }
    #[inline(always)]
    fn window_scale(&mut self, shift: u8) {
        self.window_scale = Some(shift);
    }
    #[inline(always)]
    fn sack_permitted(&mut self) {
        self.sack_permitted = true;
    }
    #[inline(always)]
    fn timestamps(&mut self, timestamps: Timestamps) {
        self.timestamps = Some(timestamps);
    }
    #[inline(always)]
    fn sack(&mut self, blocks: SackBlocks) {
        self.sack = Some(blocks);
    }
}

/// Parses the options in `[start, end)` of `frame`, `end - start` at most 40 and
/// `start` past a header.
#[inline(always)]
pub fn parse<B: Bytes + ?Sized>(frame: &B, start: usize, end: usize) -> Result<Options, BadOption> {
    let mut out = Options::default();
    if !common(frame, start, end - start, &mut out) {
        walk(frame, start, end, &mut out)?;
    }
    Ok(out)
}

/// Hands the options to `sink` if they are laid out as in nearly all segments: none,
/// timestamps alone, or the SYN of Linux, Windows or Apple's systems. `false`: anything
/// else, for [`walk`]; `sink` has seen nothing.
#[inline(always)]
pub fn common<B: Bytes + ?Sized, S: Sink>(
    frame: &B,
    start: usize,
    len: usize,
    sink: &mut S,
) -> bool {
    match len {
        0 => true,
        12 => match padded_timestamps(frame, start) {
            Some(ts) => {
                sink.timestamps(ts);
                true
            }
            None => windows_syn(frame, start, sink),
        },
        20 => linux_syn(frame, start, sink),
        24 => apple_syn(frame, start, sink),
        _ => false,
    }
}

/// Hands each option in `[start, end)` to `sink`. Unknown kinds are skipped by
/// their length (RFC 9293 §3.1, MUST-6).
#[inline(always)]
pub fn walk<B: Bytes + ?Sized, S: Sink>(
    frame: &B,
    start: usize,
    end: usize,
    sink: &mut S,
) -> Result<(), BadOption> {
    let mut at = start;
    // Every option takes at least one octet.
    for _ in 0..super::tcp::MAX_OPTIONS_LEN {
        if at >= end {
            break;
        }
        let kind = octet(frame, at).ok_or(BadOption)?;
        if kind == END {
            break;
        }
        if kind == NOP {
            at = sink.settle(at + 1);
            continue;
        }
        if at + 1 >= end {
            return Err(BadOption);
        }
        let len = usize::from(octet(frame, at + 1).ok_or(BadOption)?);
        if len < 2 || at + len > end {
            return Err(BadOption);
        }
        match kind {
            MSS => {
                if len != 4 {
                    return Err(BadOption);
                }
                sink.mss(frame.window::<2>(at + 2).ok_or(BadOption)?.be16::<0>());
            }
            WINDOW_SCALE => {
                if len != 3 {
                    return Err(BadOption);
                }
                let shift = octet(frame, at + 2).ok_or(BadOption)?;
                sink.window_scale(clamp_scale(shift));
            }
            SACK_PERMITTED => {
                if len != 2 {
                    return Err(BadOption);
                }
                sink.sack_permitted();
            }
            TIMESTAMPS => {
                if len != 10 {
                    return Err(BadOption);
                }
                let w = frame.window::<8>(at + 2).ok_or(BadOption)?;
                sink.timestamps(Timestamps {
                    val: w.be32::<0>(),
                    ecr: w.be32::<4>(),
                });
            }
            SACK => {
                if len < 10 || (len - 2) & 7 != 0 {
                    return Err(BadOption);
                }
                sink.sack(SackBlocks {
                    offset: at + 2,
                    count: (len - 2) >> 3,
                });
            }
            _ => {}
        }
        at = sink.settle(at + len);
    }
    Ok(())
}

/// One octet, looked at together with the one before it: of a check for a single
/// octet LLVM makes `pointer >= end`, from which the verifier learns nothing.
#[inline(always)]
fn octet<B: Bytes + ?Sized>(frame: &B, at: usize) -> Option<u8> {
    frame.window::<2>(at.wrapping_sub(1)).map(|w| w.u8::<1>())
}

#[inline(always)]
const fn clamp_scale(shift: u8) -> u8 {
    if shift > MAX_WINDOW_SCALE {
        MAX_WINDOW_SCALE
    } else {
        shift
    }
}

/// The layout that Linux sends on a SYN: MSS, SACK-permitted, timestamps, NOP,
/// window scale. Most SYNs of the world, floods among them.
#[inline(always)]
fn linux_syn<B: Bytes + ?Sized, S: Sink>(frame: &B, start: usize, sink: &mut S) -> bool {
    const SACK_TS: u32 = u32::from_be_bytes([SACK_PERMITTED, 2, TIMESTAMPS, 10]);
    let Some(w) = frame.window::<20>(start) else {
        return false;
    };
    let scale = w.be32::<16>();
    if w.be16::<0>() != MSS_KIND || w.be32::<4>() != SACK_TS || scale >> 8 != SCALE_KIND {
        return false;
    }
    sink.mss(w.be16::<2>());
    sink.window_scale(clamp_scale(scale as u8));
    sink.sack_permitted();
    sink.timestamps(Timestamps {
        val: w.be32::<8>(),
        ecr: w.be32::<12>(),
    });
    true
}

/// What Windows sends on a SYN: MSS, NOP, window scale, two NOPs, SACK-permitted.
#[inline(always)]
fn windows_syn<B: Bytes + ?Sized, S: Sink>(frame: &B, start: usize, sink: &mut S) -> bool {
    const SACK: u32 = u32::from_be_bytes([NOP, NOP, SACK_PERMITTED, 2]);
    let Some(w) = frame.window::<12>(start) else {
        return false;
    };
    let scale = w.be32::<4>();
    if w.be16::<0>() != MSS_KIND || scale >> 8 != SCALE_KIND || w.be32::<8>() != SACK {
        return false;
    }
    sink.mss(w.be16::<2>());
    sink.window_scale(clamp_scale(scale as u8));
    sink.sack_permitted();
    true
}

/// What macOS and iOS send on a SYN: MSS, NOP, window scale, two NOPs, timestamps,
/// SACK-permitted, two ENDs.
#[inline(always)]
fn apple_syn<B: Bytes + ?Sized, S: Sink>(frame: &B, start: usize, sink: &mut S) -> bool {
    const TS: u32 = u32::from_be_bytes([NOP, NOP, TIMESTAMPS, 10]);
    const SACK: u32 = u32::from_be_bytes([SACK_PERMITTED, 2, END, END]);
    let Some(w) = frame.window::<24>(start) else {
        return false;
    };
    let scale = w.be32::<4>();
    let scale_there = scale >> 8 == SCALE_KIND;
    if w.be16::<0>() != MSS_KIND || !scale_there || w.be32::<8>() != TS || w.be32::<20>() != SACK {
        return false;
    }
    sink.mss(w.be16::<2>());
    sink.window_scale(clamp_scale(scale as u8));
    sink.sack_permitted();
    sink.timestamps(Timestamps {
        val: w.be32::<12>(),
        ecr: w.be32::<16>(),
    });
    true
}

/// Kind and length of MSS.
const MSS_KIND: u16 = u16::from_be_bytes([MSS, 4]);
/// A NOP, and kind and length of window scale.
const SCALE_KIND: u32 = u32::from_be_bytes([0, NOP, WINDOW_SCALE, 3]);

/// `NOP NOP timestamps`, the layout of RFC 7323 appendix A.
#[inline(always)]
pub fn padded_timestamps<B: Bytes + ?Sized>(frame: &B, start: usize) -> Option<Timestamps> {
    let w = frame.window::<12>(start)?;
    if w.be32::<0>() != u32::from_be_bytes([NOP, NOP, TIMESTAMPS, 10]) {
        return None;
    }
    Some(Timestamps {
        val: w.be32::<4>(),
        ecr: w.be32::<8>(),
    })
}

/// Options of a SYN-ACK as words in the order they are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SynAckOptions {
    /// The words as numbers; stored big-endian. Only the first [`Self::words`] count.
    pub word: [u32; 5],
    /// How many words, 1 to 5.
    pub words: usize,
}

/// Lays out the options of a SYN-ACK: MSS always, the others if given.
#[inline(always)]
pub fn syn_ack(
    mss: u16,
    window_scale: Option<u8>,
    sack_permitted: bool,
    timestamps: Option<Timestamps>,
) -> SynAckOptions {
    let scale = match window_scale {
        Some(shift) => u32::from_be_bytes([NOP, WINDOW_SCALE, 3, shift]),
        None => 0,
    };
    let mut out = SynAckOptions {
        word: [u32::from_be_bytes([MSS, 4, 0, 0]) | mss as u32, 0, 0, 0, 0],
        words: 1,
    };
    if let Some(ts) = timestamps {
        out.word[1] = if sack_permitted {
            u32::from_be_bytes([SACK_PERMITTED, 2, TIMESTAMPS, 10])
        } else {
            u32::from_be_bytes([NOP, NOP, TIMESTAMPS, 10])
        };
        out.word[2] = ts.val;
        out.word[3] = ts.ecr;
        out.words = 4;
        if window_scale.is_some() {
            out.word[4] = scale;
            out.words = 5;
        }
    } else if sack_permitted {
        out.word[1] = u32::from_be_bytes([NOP, NOP, SACK_PERMITTED, 2]);
        out.words = 2;
        if window_scale.is_some() {
            out.word[2] = scale;
            out.words = 3;
        }
    } else if window_scale.is_some() {
        out.word[1] = scale;
        out.words = 2;
    }
    out
}

#[cfg(test)]
mod tests;
