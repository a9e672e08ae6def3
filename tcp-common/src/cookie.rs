//! The SYN cookie: what a SYN-ACK must say so that the final ACK alone is enough
//! to build the connection. Pure functions of key, 4-tuple, client ISN and options.
//!
//! # Formats
//!
//! Both formats carry options in the clear and a MAC over them, the 4-tuple and
//! the client's ISN. One bit tells the parity of the time slot, so that a check
//! costs one MAC and not one per accepted slot.
//!
//! ```text
//! with timestamps     ISS    [ MAC 32                                         ]
//!                     TSval  [ MSS 12 | scale 4 | SACK | ECN | slot | MAC 13  ]
//! without             ISS    [ MAC 27                          | slot | code 4 ]
//! ```
//!
//! - *MSS 12*: exact below 2048, above it rounded down to a multiple of 32. An MSS
//!   is an upper bound (RFC 9293 §3.7.1), so rounding down is always allowed.
//! - *scale 4*: the client's shift count 0 to 14, or 15 for "not offered".
//! - *code 4*: an index into 16 combinations of MSS, shift count and SACK, see
//!   [`Code`]. MSS and shift count are rounded down: a smaller shift makes us see a
//!   smaller window than there is, which is safe. What does not fit is not offered
//!   in the SYN-ACK, so both sides agree.
//!
//! # MAC
//!
//! SipHash-1-3 with a 128-bit key over 4-tuple, ISN and options, with the key of
//! one time slot. A key lives for two slots (minutes) and an attacker sees at most
//! what one machine answers in that time; SipHash-1-3 has no known attack that is
//! better than guessing. One round less per word than SipHash-2-4 is what keeps
//! a SYN-ACK within its budget. Every input passes through the PRF: shifting
//! sequence and acknowledgment number alike, as in Linux's `cookie = MAC + ISN +
//! counter`, gives an unrelated cookie, so a segment of an old connection does not
//! validate (the chance is that of a guess).
//!
//! # Forgery bounds
//!
//! A blind forger must hit the MAC of the one slot that the parity bit selects:
//! 2^-27 per guess without timestamps, 2^-45 with. Which format is judged depends
//! only on whether the ACK has the timestamps option, so a forger picks the
//! weaker; `cookie.require_timestamps` refuses that one. At 10^6 guesses/s, one
//! in about 134 s then makes an empty connection that userspace still has to see
//! speak; it carries no data the forger did not send blindly.
//!
//! The check reveals nothing: whatever fails, the answer (RST or drop) is the same.

use crate::flow::FlowKey;
use crate::wire::options::SynOptions;

/// Key of one time slot.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Key {
    /// First half.
    pub k0: u64,
    /// Second half.
    pub k1: u64,
}

/// What both sides agreed on in the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// Largest segment that the client accepts, octets, options not counted off.
    pub mss: u16,
    /// Shift count for windows that the client announces; `None`: no scaling
    /// in either direction.
    pub window_scale: Option<u8>,
    /// Both sides may send SACK.
    pub sack: bool,
    /// Both sides send timestamps.
    pub timestamps: bool,
    /// Both sides do ECN (RFC 3168).
    pub ecn: bool,
}

/// A made cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cookie {
    /// Initial send sequence number.
    pub iss: u32,
    /// `TSval` of the SYN-ACK; counts only if timestamps were negotiated.
    pub tsval: u32,
}

/// MSS assumed when a SYN names none: 536 for IPv4, 1220 for IPv6 (RFC 9293 §3.7.1).
pub const DEFAULT_MSS_V4: u16 = 536;
/// See [`DEFAULT_MSS_V4`].
pub const DEFAULT_MSS_V6: u16 = 1220;
/// Smallest MSS that we honour, so that a peer cannot make us send dust.
pub const MIN_MSS: u16 = 64;

const TS_MAC_BITS: u32 = 13;
const SCALE_NONE: u8 = 15;

/// Bits of MAC in an ISS without timestamps.
pub const MAC_BITS_PLAIN: u32 = 27;
/// Bits of MAC in ISS and `TSval` together.
pub const MAC_BITS_TIMESTAMPS: u32 = 32 + TS_MAC_BITS;

/// Makes the cookie for a SYN and says what it carries. `parity` is the lowest bit
/// of the current slot's number, `key` that slot's key, `irs` the client's ISN,
/// `our_mss` what we could send at most, `ecn` whether to agree to ECN (only
/// possible with timestamps).
#[inline(always)]
pub fn make(
    key: &Key,
    parity: u32,
    flow: &FlowKey,
    irs: u32,
    offered: &SynOptions,
    ecn: bool,
) -> (Cookie, Negotiated) {
    let default = if flow.is_v4() {
        DEFAULT_MSS_V4
    } else {
        DEFAULT_MSS_V6
    };
    let mss = match offered.mss {
        Some(mss) if mss < MIN_MSS => MIN_MSS,
        Some(mss) => mss,
        None => default,
    };
    if offered.timestamps.is_some() {
        let info = TsInfo {
            mss: mss_to_12_bits(mss),
            scale: match offered.window_scale {
                Some(shift) => shift,
                None => SCALE_NONE,
            },
            sack: offered.sack_permitted,
            ecn,
        };
        let bits = info.bits();
        let mac = mac(key, flow, irs, bits << 1 | 1);
        let cookie = Cookie {
            iss: mac as u32,
            tsval: bits << (TS_MAC_BITS + 1)
                | (parity & 1) << TS_MAC_BITS
                | (mac >> 32) as u32 & ((1 << TS_MAC_BITS) - 1),
        };
        (cookie, info.negotiated())
    } else {
        let code = Code::best(
            flow.is_v4(),
            mss,
            offered.window_scale,
            offered.sack_permitted,
        );
        let mac = mac(key, flow, irs, u32::from(code.0) << 1);
        let cookie = Cookie {
            iss: (mac as u32) << 5 | (parity & 1) << 4 | u32::from(code.0),
            tsval: 0,
        };
        (cookie, code.negotiated(flow.is_v4()))
    }
}

/// The parity bit of the slot that a cookie claims to be from.
#[inline(always)]
pub const fn slot_parity(iss: u32, tsecr: Option<u32>) -> u32 {
    match tsecr {
        Some(ts) => ts >> TS_MAC_BITS & 1,
        None => iss >> 4 & 1,
    }
}

/// Checks a cookie that came back: `iss` is SEG.ACK - 1, `irs` SEG.SEQ - 1,
/// `tsecr` the echo if the segment has timestamps, `key` that of the slot with
/// parity [`slot_parity`]. `None` if it is not ours.
#[inline(always)]
pub fn check(
    key: &Key,
    flow: &FlowKey,
    irs: u32,
    iss: u32,
    tsecr: Option<u32>,
) -> Option<Negotiated> {
    if let Some(ts) = tsecr {
        let bits = ts >> (TS_MAC_BITS + 1);
        let mac = mac(key, flow, irs, bits << 1 | 1);
        let wrong = (mac as u32 ^ iss) | ((mac >> 32) as u32 ^ ts) & ((1 << TS_MAC_BITS) - 1);
        if wrong != 0 {
            return None;
        }
        Some(TsInfo::from_bits(bits).negotiated())
    } else {
        let code = Code((iss & 0xf) as u8);
        let mac = mac(key, flow, irs, u32::from(code.0) << 1);
        if (mac as u32) << 5 != iss & !0x1f {
            return None;
        }
        Some(code.negotiated(flow.is_v4()))
    }
}

/// Segments behind the first: those of an initial window (RFC 6928), and what a sender probes
/// with beyond it (RFC 8985 §7, RFC 3042).
pub const MAX_EARLY: u32 = 12;

/// Whether a segment that [`check`] refuses is data of a new connection whose ACK
/// and first data were lost or overtaken: with `len` octets in each segment before
/// it, the cookie must fit a client ISN that many segments back. Such a segment
/// opens nothing, or the forgery bound would suffer; it is only not worth an RST,
/// which would end the connection before it has begun.
#[inline(always)]
pub fn is_early(
    key: &Key,
    flow: &FlowKey,
    irs: u32,
    iss: u32,
    tsecr: Option<u32>,
    len: u32,
) -> bool {
    let mut irs = irs;
    for _ in 0..MAX_EARLY {
        irs = irs.wrapping_sub(len);
        if check(key, flow, irs, iss, tsecr).is_some() {
            return true;
        }
    }
    false
}

/// What `TSval` carries.
#[derive(Clone, Copy)]
struct TsInfo {
    mss: u16,
    scale: u8,
    sack: bool,
    ecn: bool,
}

impl TsInfo {
    #[inline(always)]
    const fn bits(self) -> u32 {
        (self.mss as u32) << 6
            | (self.scale as u32 & 0xf) << 2
            | (self.sack as u32) << 1
            | self.ecn as u32
    }

    #[inline(always)]
    const fn from_bits(bits: u32) -> Self {
        Self {
            mss: (bits >> 6 & 0xfff) as u16,
            scale: (bits >> 2 & 0xf) as u8,
            sack: bits & 2 != 0,
            ecn: bits & 1 != 0,
        }
    }

    #[inline(always)]
    const fn negotiated(self) -> Negotiated {
        Negotiated {
            mss: mss_from_12_bits(self.mss),
            window_scale: if self.scale == SCALE_NONE {
                None
            } else {
                Some(self.scale)
            },
            sack: self.sack,
            timestamps: true,
            ecn: self.ecn,
        }
    }
}

#[inline(always)]
const fn mss_to_12_bits(mss: u16) -> u16 {
    if mss < 2048 {
        mss
    } else {
        2048 + ((mss - 2048) >> 5)
    }
}

#[inline(always)]
const fn mss_from_12_bits(bits: u16) -> u16 {
    if bits < 2048 {
        bits
    } else {
        2048 + ((bits & 0x7ff) << 5)
    }
}

/// Index of a combination that an ISS without timestamps carries: two bits of
/// MSS, two bits of shift count and SACK.
///
/// MSS steps are those that real paths have (Alcock and Nelson, "An Analysis of
/// TCP Maximum Segment Sizes", 2011): the default, tunnels, `PPPoE`, Ethernet.
/// Clients without timestamps are mostly Windows (shift 8, SACK) and very small
/// stacks (nothing).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Code(pub u8);

const MSS_V4: [u16; 4] = [536, 1300, 1440, 1460];
const MSS_V6: [u16; 4] = [1220, 1340, 1420, 1440];

/// How many steps above the first `mss` reaches.
#[inline(always)]
const fn steps(mss: u16, table: &[u16; 4]) -> u8 {
    (mss >= table[1]) as u8 + (mss >= table[2]) as u8 + (mss >= table[3]) as u8
}

impl Code {
    /// The largest combination within what the client offered. An MSS below the
    /// table's first is carried as the first, as every cookie of this size does.
    #[inline(always)]
    pub const fn best(v4: bool, mss: u16, window_scale: Option<u8>, sack: bool) -> Self {
        // Spelled out: a table chosen at run time would be a look-up in memory for BPF.
        let m = if v4 {
            steps(mss, &MSS_V4)
        } else {
            steps(mss, &MSS_V6)
        };
        let rest = match (sack, window_scale) {
            (true, Some(8..)) => 3,
            (true, Some(6..)) => 2,
            (true, _) => 1,
            (false, _) => 0,
        };
        Self(m << 2 | rest)
    }

    /// What the combination means.
    #[inline(always)]
    pub const fn negotiated(self, v4: bool) -> Negotiated {
        let t = if v4 { &MSS_V4 } else { &MSS_V6 };
        let mss = match self.0 >> 2 & 3 {
            0 => t[0],
            1 => t[1],
            2 => t[2],
            _ => t[3],
        };
        let (window_scale, sack) = match self.0 & 3 {
            0 => (None, false),
            1 => (None, true),
            2 => (Some(6), true),
            _ => (Some(8), true),
        };
        Negotiated {
            mss,
            window_scale,
            sack,
            timestamps: false,
            ecn: false,
        }
    }
}

/// SipHash-1-3 over the message `addresses ‖ ports ‖ ISN ‖ tag`, 19 octets for
/// IPv4 and 43 for IPv6 (SipHash's last block holds the length, so the two are
/// apart). `tag` has at most 24 bits.
#[inline(always)]
fn mac(key: &Key, flow: &FlowKey, irs: u32, tag: u32) -> u64 {
    let mut h = SipState::new(key);
    let (r, l) = (&flow.remote.0, &flow.local.0);
    let len: u64 = if flow.is_v4() {
        h.word(join(r[3], l[3]));
        19
    } else {
        h.word(join(r[0], r[1]));
        h.word(join(r[2], r[3]));
        h.word(join(l[0], l[1]));
        h.word(join(l[2], l[3]));
        43
    };
    h.word(join(
        (flow.remote_port_be as u32) | (flow.local_port_be as u32) << 16,
        irs,
    ));
    h.word(len << 56 | tag as u64);
    h.finish()
}

#[inline(always)]
const fn join(low: u32, high: u32) -> u64 {
    low as u64 | (high as u64) << 32
}

/// SipHash (Aumasson and Bernstein, 2012) with one round per word and three at the end.
struct SipState {
    v0: u64,
    v1: u64,
    v2: u64,
    v3: u64,
}

impl SipState {
    #[inline(always)]
    const fn new(key: &Key) -> Self {
        Self {
            v0: key.k0 ^ 0x736f_6d65_7073_6575,
            v1: key.k1 ^ 0x646f_7261_6e64_6f6d,
            v2: key.k0 ^ 0x6c79_6765_6e65_7261,
            v3: key.k1 ^ 0x7465_6462_7974_6573,
        }
    }

    #[inline(always)]
    const fn round(&mut self) {
        self.v0 = self.v0.wrapping_add(self.v1);
        self.v2 = self.v2.wrapping_add(self.v3);
        self.v1 = self.v1.rotate_left(13) ^ self.v0;
        self.v3 = self.v3.rotate_left(16) ^ self.v2;
        self.v0 = self.v0.rotate_left(32);
        self.v2 = self.v2.wrapping_add(self.v1);
        self.v0 = self.v0.wrapping_add(self.v3);
        self.v1 = self.v1.rotate_left(17) ^ self.v2;
        self.v3 = self.v3.rotate_left(21) ^ self.v0;
        self.v2 = self.v2.rotate_left(32);
    }

    #[inline(always)]
    const fn word(&mut self, m: u64) {
        self.v3 ^= m;
        self.round();
        self.v0 ^= m;
    }

    #[inline(always)]
    const fn finish(mut self) -> u64 {
        self.v2 ^= 0xff;
        self.round();
        self.round();
        self.round();
        self.v0 ^ self.v1 ^ self.v2 ^ self.v3
    }
}

#[cfg(test)]
mod tests;
