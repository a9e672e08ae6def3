//! All connections of one worker.

use super::config::Keys;
use super::{Config, Event, Instant, State, TraceEvent};
use std::time::Duration;
use tcp_common::flow::FlowKey;

/// Names a connection for the application. Ids of closed connections are not
/// reused for others (a generation is part of it).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct ConnId {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

/// What [`Endpoint::handle_frame`] did with a frame; each frame is counted once by it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[expect(missing_docs, reason = "E1 documents")]
pub enum Disposition {
    Accepted,
    Segment,
    TimeWait,
    Malformed,
    BadChecksum,
    NoFlow,
    TooMany,
}

/// An application verb on a connection that is closed, closing or reset.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the connection is closed")]
pub struct Refused;

/// What `conns` shows of a connection.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "E1 documents")]
pub struct ConnInfo {
    pub id: Option<ConnId>,
    pub flow: FlowKey,
    pub state: State,
    pub send_queue: usize,
    pub recv_queue: usize,
    pub srtt: Option<Duration>,
    pub rto: Duration,
    pub cwnd: u32,
    pub ssthresh: u32,
    pub mss: u16,
    pub retransmits: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub age: Duration,
}

/// All connections of one worker.
pub struct Endpoint {}

impl Endpoint {
    /// An endpoint without connections. `seed` feeds the RNG.
    pub fn new(_config: Config, _keys: Keys, _seed: u64) -> Self {
        unimplemented!()
    }
    /// Replaces the cookie keys after a rotation.
    pub fn set_keys(&mut self, _keys: Keys) {
        unimplemented!()
    }
    /// Starts or stops recording [`TraceEvent`]s.
    pub fn set_trace(&mut self, _on: bool) {
        unimplemented!()
    }
    /// Takes one received frame.
    pub fn handle_frame(&mut self, _now: Instant, _frame: &[u8]) -> Disposition {
        unimplemented!()
    }
    /// Fires the timers that are due.
    pub fn handle_timeout(&mut self, _now: Instant) {
        unimplemented!()
    }
    /// When [`Self::handle_timeout`] wants to be called next.
    pub fn poll_deadline(&mut self) -> Option<Instant> {
        unimplemented!()
    }
    /// Writes the next frame to send into `buf` and returns its length; `None`: nothing to send.
    pub fn poll_transmit(&mut self, _now: Instant, _buf: &mut [u8]) -> Option<usize> {
        unimplemented!()
    }
    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        unimplemented!()
    }
    /// The next trace record.
    pub fn poll_trace(&mut self) -> Option<TraceEvent> {
        unimplemented!()
    }
    /// Copies received data into `buf`. `Ok(0)` with a non-empty `buf` means either
    /// nothing now (see [`Self::is_read_closed`]) or the end.
    pub fn read(&mut self, _id: ConnId, _buf: &mut [u8]) -> Result<usize, Refused> {
        unimplemented!()
    }
    /// The received data as up to two slices, without copying; followed by [`Self::consume`].
    pub fn peek(&self, _id: ConnId) -> Result<[&[u8]; 2], Refused> {
        unimplemented!()
    }
    /// Drops the first `octets` of the received data.
    pub fn consume(&mut self, _id: ConnId, _octets: usize) -> Result<(), Refused> {
        unimplemented!()
    }
    /// Whether the peer's FIN was reached and all data before it was read.
    pub fn is_read_closed(&self, _id: ConnId) -> bool {
        unimplemented!()
    }
    /// Queues data; returns how much was taken (less than given: wait for [`Event::Writable`]).
    pub fn write(&mut self, _now: Instant, _id: ConnId, _data: &[u8]) -> Result<usize, Refused> {
        unimplemented!()
    }
    /// Room in the send buffer, octets.
    pub fn send_room(&self, _id: ConnId) -> usize {
        unimplemented!()
    }
    /// Closes our half after the queued data (RFC 9293 §3.10.4): FIN. Data may still be read.
    pub fn shutdown(&mut self, _now: Instant, _id: ConnId) -> Result<(), Refused> {
        unimplemented!()
    }
    /// Full close: FIN, and what still arrives is answered with RST (RFC 9293 §3.6.1).
    pub fn close(&mut self, _now: Instant, _id: ConnId) {
        unimplemented!()
    }
    /// RST (RFC 9293 §3.10.5).
    pub fn abort(&mut self, _now: Instant, _id: ConnId) {
        unimplemented!()
    }
    /// The connection's 4-tuple.
    pub fn flow(&self, _id: ConnId) -> Option<FlowKey> {
        unimplemented!()
    }
    /// The connection's state.
    pub fn state(&self, _id: ConnId) -> Option<State> {
        unimplemented!()
    }
    /// Whether this 4-tuple has a connection or a TIME-WAIT entry.
    pub fn knows(&self, _flow: &FlowKey) -> bool {
        unimplemented!()
    }
    /// Connections and TIME-WAIT entries.
    pub fn len(&self) -> usize {
        unimplemented!()
    }
    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Every connection and TIME-WAIT entry, for `conns`.
    pub fn infos(&self, _now: Instant) -> Vec<ConnInfo> {
        unimplemented!()
    }
    /// Counts by [`Disposition`] in its order, for `stats`.
    pub fn dispositions(&self) -> Vec<(Disposition, u64)> {
        unimplemented!()
    }
}
