//! One record per segment, for the ladder.

use super::{Instant, State};
use tcp_common::flow::FlowKey;
use tcp_common::wire::{Flags, Timestamps};

/// Which way a segment went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// Client to server.
    In,
    /// Server to client.
    Out,
}

/// How a state is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// The client's state, inferred from the segments seen.
    Client,
    /// Our own state.
    Server,
}

/// A segment and the states of both sides once it has reached the other end, as
/// in the figures of RFC 9293 §3.5 and §3.6.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TraceEvent {
    /// When it was handled or sent.
    pub at: Instant,
    /// Its connection.
    pub flow: FlowKey,
    /// Which way it went.
    pub direction: Direction,
    /// Not seen in userspace: a SYN or SYN-ACK that XDP handled, reconstructed from
    /// the cookie ACK.
    pub reconstructed: bool,
    /// Control bits.
    pub flags: Flags,
    /// SEG.SEQ.
    pub seq: u32,
    /// SEG.ACK.
    pub ack: u32,
    /// Octets of data.
    pub len: usize,
    /// Window in octets, scaled.
    pub window: u32,
    /// MSS option.
    pub mss: Option<u16>,
    /// Window scale option.
    pub window_scale: Option<u8>,
    /// SACK-permitted option.
    pub sack_permitted: bool,
    /// Timestamps option.
    pub timestamps: Option<Timestamps>,
    /// SACK blocks, left and right edge; only the first [`Self::sack_blocks`] count.
    pub sack: [(u32, u32); 4],
    /// Number of SACK blocks.
    pub sack_blocks: usize,
    /// The client's state after the segment, inferred.
    pub client: State,
    /// Our state after the segment.
    pub server: State,
    /// What is worth a word: "retransmission", "out of order", "challenge ACK", ...; empty if nothing.
    pub note: &'static str,
}
