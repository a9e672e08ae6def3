//! Maps between the XDP program and userspace: names and value layouts.

use crate::cookie::Key;
use crate::flow::Addr;
#[cfg(doc)]
use crate::flow::FlowKey;

/// `Array<Config>` with one entry: how to answer.
pub const CONFIG: &str = "CONFIG";
/// `Array<Secrets>` with one entry: the keys of this and the last slot.
pub const SECRETS: &str = "SECRETS";
/// `Array<u32>` of 65,536: [`port`] bits for each served port.
pub const PORTS: &str = "PORTS";
/// `HashMap<ListenKey, u32>`: address and port pairs that are served.
pub const LISTENS: &str = "LISTENS";
/// `HashMap<Addr, u32>`: the interface's addresses, for wildcard listens.
pub const ADDRS: &str = "ADDRS";
/// `LpmTrie<Addr, u32>`: what [`source`] prefixes may do.
pub const SOURCES: &str = "SOURCES";
/// `LruHashMap<Addr, u64>`: SYN-ACKs sent to a source prefix, see [`Limits`].
pub const SYN_ACK_LIMIT: &str = "SYN_ACK_LIMIT";
/// `HashMap<FlowKey, Flow>`: known connections.
pub const FLOWS: &str = "FLOWS";
/// `Array<FilterBlock>`, mapped by userspace, too: how many entries of `FLOWS` have
/// this [`FlowKey::filter_slot`]. Where there are none a SYN needs no look-up: a flood
/// of them would each find a place in a large table that no cache holds.
pub const FLOW_FILTER: &str = "FLOW_FILTER";
/// `HashMap<ListenKey, Shield>`: the kernel's listening sockets that are shielded, by the
/// address that they are bound to (unspecified: any of its family) and port.
pub const SHIELDS: &str = "SHIELDS";
/// `LpmTrie<Addr, u32>`: MSS to announce to the prefix behind a route of the kernel's; zero:
/// that of the interface.
pub const ROUTE_MSS: &str = "ROUTE_MSS";
/// `LruHashMap<FlowKey, u64>`: when a connection was let through to a kernel listener.
pub const ADMITTED: &str = "ADMITTED";
/// `PerCpuArray<u64>`: see [`crate::counters`].
pub const COUNTERS: &str = "COUNTERS";
/// `XskMap`: AF_XDP socket by queue.
pub const XSKS: &str = "XSKS";
/// The program to attach.
pub const PROGRAM: &str = "tcp_xdp";

/// Bits of a `PORTS` entry.
pub mod port {
    /// Served on every address in `ADDRS`.
    pub const ANY_ADDR: u32 = 1;
    /// Served on some addresses, see `LISTENS`.
    pub const SOME_ADDR: u32 = 2;
    /// With [`ANY_ADDR`]: only watched, see [`super::policy::OBSERVE`].
    pub const ANY_OBSERVE: u32 = 4;
    /// With [`ANY_ADDR`]: for the kernel's listener, see [`super::policy::KERNEL`].
    pub const ANY_KERNEL: u32 = 8;
    /// With [`ANY_ADDR`]: see [`super::policy::ADAPTIVE`].
    pub const ANY_ADAPTIVE: u32 = 16;
}

/// Values of a `LISTENS` entry: what happens to segments without a flow.
pub mod policy {
    /// Not served: they pass to the kernel.
    pub const OFF: u32 = 0;
    /// SYNs are answered with cookies.
    pub const COOKIE: u32 = 1;
    /// They pass to the kernel, and what would have been answered is counted.
    pub const OBSERVE: u32 = 2;
    /// SYNs are answered with cookies of the kernel, for a socket of its own that listens.
    pub const KERNEL: u32 = 3;
    /// As `COOKIE`, but userspace gets so many SYNs as [`super::Limits::syn_interval`] lets
    /// through.
    pub const ADAPTIVE: u32 = 4;
}

/// Bits of [`Shield::flags`].
pub mod shield {
    /// Timestamps are offered back, and in them the options below: the kernel reads them
    /// from there (`net.ipv4.tcp_timestamps = 2`).
    pub const TIMESTAMPS: u8 = 1;
    /// Window scale may be agreed on (`net.ipv4.tcp_window_scaling`).
    pub const WINDOW_SCALE: u8 = 2;
    /// SACK may be agreed on (`net.ipv4.tcp_sack`).
    pub const SACK: u8 = 4;
    /// ECN may be agreed on (`net.ipv4.tcp_ecn`).
    pub const ECN: u8 = 8;
    /// The kernel always makes cookies (`net.ipv4.tcp_syncookies = 2`), so if it makes none
    /// then there is no room for the connection.
    pub const ALWAYS: u8 = 16;
    /// SYNs are the kernel's for now.
    pub const QUIET: u8 = 32;
    /// `ROUTE_MSS` has entries.
    pub const ROUTES: u8 = 64;
}

/// Values of a `SOURCES` entry; the longest prefix decides.
pub mod source {
    /// May connect.
    pub const ALLOW: u32 = 1;
    /// Is dropped.
    pub const DENY: u32 = 2;
}

/// Bits of [`Config::flags`].
pub mod flag {
    /// Drop what has no valid cookie instead of answering RST (`xdp.on_invalid_ack = "drop"`).
    pub const DROP_INVALID: u32 = 1;
    /// Refuse SYNs and first ACKs without timestamps (`cookie.require_timestamps`).
    pub const REQUIRE_TIMESTAMPS: u32 = 2;
    /// Make no new connections; known flows go on.
    pub const STOPPING: u32 = 4;
    /// Accept a TCP checksum that covers only the pseudo-header: the sender is on
    /// this machine and left the rest to an offload (`CHECKSUM_PARTIAL` over veth).
    pub const PARTIAL_CHECKSUMS: u32 = 8;
    /// Agree to ECN when offered together with timestamps.
    pub const ECN: u32 = 16;
    /// `SOURCES` has entries.
    pub const CHECK_SOURCES: u32 = 32;
    /// A source that no prefix in `SOURCES` matches is dropped.
    pub const DEFAULT_DENY: u32 = 64;
    /// More SYNs and bad cookies than `cookie.attack_rate`: cookies that are too old are
    /// counted as bad ones, which saves the second MAC that tells them apart.
    pub const UNDER_ATTACK: u32 = 128;
}

/// How to answer. 44 octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Config {
    /// [`flag`] bits.
    pub flags: u32,
    /// Window of the SYN-ACK, octets, not scaled (RFC 7323 §2.2).
    pub window: u16,
    /// MSS that we announce over IPv4.
    pub mss_v4: u16,
    /// MSS that we announce over IPv6.
    pub mss_v6: u16,
    /// Our shift count, announced if the client offers one.
    pub window_scale: u8,
    /// Time to live, or hop limit, of answers.
    pub hop_limit: u8,
    /// An entry of `ADDRS` as it lies in an IPv4 header, so that the common case needs
    /// no look-up; zero: none.
    pub own_v4: u32,
    /// The same for IPv6; zero: none.
    pub own_v6: Addr,
    /// How much to answer.
    pub limits: Limits,
}

impl Config {
    /// Whether `addr` is [`Self::own_v4`] or [`Self::own_v6`].
    #[inline(always)]
    pub const fn is_own(&self, addr: &Addr) -> bool {
        let a = &addr.0;
        if addr.is_v4() {
            return a[3] == self.own_v4 && a[3] != 0;
        }
        let own = &self.own_v6.0;
        // No address of an interface begins with 32 zero bits.
        a[0] == own[0] && a[1] == own[1] && a[2] == own[2] && a[3] == own[3] && a[0] != 0
    }
}

/// Limits on answers, so that spoofed sources cannot make a reflector of this
/// machine. Each is a virtual scheduler (GCRA, ITU-T I.371): an answer takes
/// `interval` nanoseconds of a budget of [`BURST`] intervals, which time refills.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Limits {
    /// Nanoseconds per SYN-ACK to one source prefix (IPv4 /24, IPv6 /64); zero: no limit.
    pub syn_ack_interval: u32,
    /// Nanoseconds per RST on one CPU; zero: no limit.
    pub rst_interval: u32,
    /// Nanoseconds per SYN that one CPU hands to userspace, of a budget of [`SYN_BURST`]; zero:
    /// it hands up none.
    pub syn_interval: u32,
}

/// Answers that a limit lets through at once after a pause.
pub const BURST: u32 = 64;
/// SYNs handed to userspace at once after a pause.
pub const SYN_BURST: u32 = 512;

/// Keys of two slots, each at the index of its slot number's lowest bit.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Secrets {
    /// Key of the even and of the odd slot.
    pub keys: [Key; 2],
    /// Keys of the slots two before those: their cookies are refused, but counted
    /// as too old and not as forged.
    pub old: [Key; 2],
    /// Lowest bit of the current slot's number.
    pub current: u32,
    /// Keeps the size a multiple of eight.
    pub reserved: u32,
}

/// Key of `LISTENS`. 20 octets.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(C)]
pub struct ListenKey {
    /// Served address.
    pub addr: Addr,
    /// Served port in network order.
    pub port_be: u16,
    /// Zero.
    pub reserved: u16,
}

/// Value of `FLOW_FILTER`, a cache line of counts. XDP adds a flow before it enters it, and
/// userspace takes it off after it removed it, so no count ever goes below zero.
pub type FilterBlock = [u32; FILTER_BLOCK];
/// Counts in a [`FilterBlock`].
pub const FILTER_BLOCK: usize = 16;
/// Counts in `FLOW_FILTER`: 256 KiB, so that the caches hold it.
pub const FILTER_SLOTS: usize = 1 << FILTER_BITS;
/// Bits of a slot's number.
pub const FILTER_BITS: u32 = 16;

/// Value of `FLOWS`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Flow {
    /// When the entry was made, see [`Self::age_unit`]. An entry that userspace never
    /// heard of (its first segment was lost on the way) is removed by age.
    pub created: u32,
    /// RX queue of the first segment: the connection is that worker's, wherever the
    /// others arrive.
    pub queue: u32,
}

impl Flow {
    /// `CLOCK_MONOTONIC` in units of 2^30 ns (about a second), from nanoseconds.
    #[inline(always)]
    pub const fn age_unit(nanoseconds: u64) -> u32 {
        (nanoseconds >> 30) as u32
    }
}

/// Value of `SHIELDS`: what an answer must agree with in the socket that the kernel will
/// make of the connection. 8 octets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Shield {
    /// Octets that the new socket can receive, before they are rounded down to a
    /// multiple of its MSS.
    pub space: u32,
    /// MSS to announce.
    pub mss: u16,
    /// The new socket's shift count.
    pub window_scale: u8,
    /// [`shield`] bits.
    pub flags: u8,
}

const _: () = assert!(size_of::<Config>() == 44);
const _: () = assert!(size_of::<Shield>() == 8);
const _: () = assert!(size_of::<Secrets>() == 72);
const _: () = assert!(size_of::<ListenKey>() == 20);
const _: () = assert!(size_of::<Flow>() == 8);

#[cfg(feature = "user")]
mod pod {
    // SAFETY (all): repr(C) of integers without padding; any bits are a value.
    macro_rules! pod {
        ($($t:ty),*) => {$(
            // SAFETY: see above.
            unsafe impl aya::Pod for $t {}
        )*};
    }
    pod!(
        super::Config,
        super::Secrets,
        super::ListenKey,
        super::Flow,
        super::Shield,
        crate::flow::Addr,
        crate::flow::FlowKey
    );
}
