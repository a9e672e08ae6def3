//! What `cargo xtask bench syn` and its SYN generator agree on. The server has no
//! part in it.

/// `Array<Flood>` with one entry: what to send.
pub const FLOOD: &str = "FLOOD";
/// `PerCpuArray<u64>` with one entry: frames sent.
pub const SENT: &str = "SENT";
/// `PerCpuArray<u64>`: frames that came back, by [`answer`].
pub const ANSWERS: &str = "ANSWERS";
/// The program that makes the frames, run on live frames (`BPF_PROG_TEST_RUN`).
pub const GENERATOR: &str = "syn_flood";
/// The program that counts and drops what comes back.
pub const TAKER: &str = "take_answers";

/// Indices into `ANSWERS`.
pub mod answer {
    /// SYN-ACKs.
    pub const SYN_ACK: u32 = 0;
    /// Resets.
    pub const RST: u32 = 1;
    /// Anything else, such as a frame that was only sent back.
    pub const OTHER: u32 = 2;
    /// How many there are.
    pub const COUNT: u32 = 3;
}

/// First source address: 198.18.0.0/15 is for benchmarks (RFC 2544).
pub const SOURCES: u32 = 0xc612_0000;
/// The bits in which sources differ.
pub const SOURCE_BITS: u32 = 0x0001_ffff;

/// Octets of a frame before it is cut to [`Flood::len`]: recycled frames keep the
/// length that the responder gave them, so each is cut anew.
pub const ROOM: usize = 128;

/// What to send. 120 octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Flood {
    /// The frame: Ethernet, IPv4 without options, TCP; source address, source port,
    /// sequence number, acknowledgment number and checksums are zero.
    pub template: [u64; 10],
    /// Octets of the frame, at most 80.
    pub len: u32,
    /// Sum of the IPv4 header as far as the template has it.
    pub ip_sum: u32,
    /// Sum of pseudo-header and segment as far as the template has them.
    pub tcp_sum: u32,
    /// The bits of the acknowledgment number that are random.
    pub ack_bits: u32,
    /// Nanoseconds from frame to frame; zero: as many as there can be.
    pub interval: u64,
    /// When to send no more, nanoseconds of `CLOCK_MONOTONIC`.
    pub until: u64,
    /// Keeps the size a multiple of eight.
    pub reserved: u64,
}

const _: () = assert!(size_of::<Flood>() == 120);

#[cfg(feature = "user")]
// SAFETY: repr(C) of integers without padding; any bits are a value.
unsafe impl aya::Pod for Flood {}
