//! What the engine tells the application and the dataplane.

use super::ConnId;
use tcp_common::flow::FlowKey;

/// Polled from [`super::Endpoint::poll_event`] in order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// A new connection is ESTABLISHED.
    Accepted(ConnId),
    /// There is data to read, or the peer closed its half (a read then returns 0).
    Readable(ConnId),
    /// The send buffer has room again after a short write.
    Writable(ConnId),
    /// The connection is gone for the application: nothing more can be read or
    /// written and the id must not be used again. TIME-WAIT may go on below.
    Closed(ConnId, CloseReason),
    /// The 4-tuple has a handshake under way. The dataplane enters it into `FLOWS`.
    FlowBegan(FlowKey),
    /// The 4-tuple is free: no connection and no TIME-WAIT entry is left. The
    /// dataplane removes it from `FLOWS`.
    FlowEnded(FlowKey),
}

/// Why a connection ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CloseReason {
    /// Both halves were closed.
    Done,
    /// The peer sent a valid RST.
    Reset,
    /// We aborted.
    Aborted,
    /// Retransmissions (R2, RFC 9293 §3.8.3), probes or keepalive got no answer.
    TimedOut,
}
