//! All connections of one worker.
//!
//! - this file: the public verbs, and `settle`, which turns a [`Step`] of a
//!   connection into events, TIME-WAIT entries, answers and timers
//! - `demux`: a frame to its connection, the cookie, what has no connection
//! - `syn`: SYNs, and handshakes under way
//! - `reply`: answers that need no connection

mod demux;
pub(super) use demux::check_cookie;
mod info;
mod reply;
mod syn;

pub use info::{ConnInfo, Options};

use self::reply::{Replies, Reply};
use super::config::Keys;
use super::connection::state::Phase;
use super::connection::{Connection, Env, NEVER, Step};
use super::half_open::HalfOpens;
use super::limit::AckLimit;
use super::memory::Memory;
use super::slab::Slab;
use super::table::{Place, Table};
use super::time_wait::TimeWaits;
use super::wheel::Wheel;
use super::{CloseReason, Config, Event, Instant, State, TraceEvent, Train};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use std::collections::VecDeque;
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
pub enum Disposition {
    /// A valid cookie: made a connection.
    Accepted,
    /// A segment of a connection.
    Segment,
    /// A segment of a 4-tuple in TIME-WAIT.
    TimeWait,
    /// Headers cut short or contradicting each other, or a bad option length.
    Malformed,
    /// A wrong IPv4 or TCP checksum.
    BadChecksum,
    /// No connection and no valid cookie: answered with RST, if it was none itself.
    NoFlow,
    /// No connection and no valid cookie, yet XDP let it through: text or FIN of a connection whose
    /// first segment, the one with the cookie, was lost behind XDP. It comes again.
    Early,
    /// A valid cookie, but [`Config::max_connections`] are reached: answered with RST.
    TooMany,
    /// Not TCP over IPv4 or IPv6.
    NotTcp,
    /// A fragment.
    Fragment,
    /// A SYN without a connection, or to one in TIME-WAIT: answered with a cookie, as XDP
    /// would have.
    Syn,
    /// An ICMP error about a segment of ours.
    Icmp,
}

impl Disposition {
    /// All of them, in the order of [`Endpoint::dispositions`].
    pub const ALL: [Self; 12] = [
        Self::Accepted,
        Self::Segment,
        Self::TimeWait,
        Self::Malformed,
        Self::BadChecksum,
        Self::NoFlow,
        Self::Early,
        Self::TooMany,
        Self::NotTcp,
        Self::Fragment,
        Self::Syn,
        Self::Icmp,
    ];

    /// Stable name, `snake_case`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Segment => "segment",
            Self::TimeWait => "time_wait",
            Self::Malformed => "malformed",
            Self::BadChecksum => "bad_checksum",
            Self::NoFlow => "no_flow",
            Self::Early => "early",
            Self::TooMany => "too_many",
            Self::NotTcp => "not_tcp",
            Self::Fragment => "fragment",
            Self::Syn => "syn",
            Self::Icmp => "icmp",
        }
    }
}

/// An application verb on a connection that is closed, closing or reset.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the connection is closed")]
pub struct Refused;

/// Trace records kept when nobody polls them.
const MAX_TRACE: usize = 1 << 16;

/// All connections of one worker.
pub struct Endpoint {
    config: Config,
    keys: Keys,
    /// Cookies are honoured and SYNs answered.
    accepting: bool,
    table: Table,
    connections: Slab<Connection>,
    time_waits: TimeWaits,
    half_opens: HalfOpens,
    wheel: Wheel,
    /// Connections that have something to send, in turn.
    senders: VecDeque<u32>,
    replies: Replies,
    events: VecDeque<Event>,
    trace: VecDeque<TraceEvent>,
    limit: AckLimit,
    memory: Memory,
    counts: [u64; Disposition::ALL.len()],
    /// Scratch for `handle_timeout`.
    due: Vec<u32>,
}

impl Endpoint {
    /// An endpoint without connections. `seed` feeds the RNG.
    pub fn new(config: Config, keys: Keys, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        Self {
            memory: Memory::new(config.memory),
            config,
            keys,
            accepting: true,
            table: Table::new((rng.next_u64(), rng.next_u64())),
            connections: Slab::new(),
            time_waits: TimeWaits::new(),
            half_opens: HalfOpens::new(),
            wheel: Wheel::new(Instant(0)),
            senders: VecDeque::new(),
            replies: Replies::new(),
            events: VecDeque::new(),
            trace: VecDeque::new(),
            limit: AckLimit::new(rng),
            counts: [0; Disposition::ALL.len()],
            due: Vec::new(),
        }
    }

    /// Replaces the cookie keys after a rotation.
    pub fn set_keys(&mut self, keys: Keys) {
        self.keys = keys;
    }

    /// Takes over what may change while connections exist: timers count from their next
    /// use, send buffers and congestion control are those of new connections. What was
    /// announced to clients, or shares memory out, stays.
    pub fn set_config(&mut self, new: &Config) {
        self.config = Config {
            msl: new.msl,
            rto_min: new.rto_min,
            keepalive: new.keepalive,
            keepalive_interval: new.keepalive_interval,
            max_retries: new.max_retries,
            fin_timeout: new.fin_timeout,
            congestion: new.congestion,
            send_buffer: new.send_buffer,
            half_open: new.half_open,
            syn_ack_retries: new.syn_ack_retries,
            ..self.config.clone()
        };
    }

    /// Stops making connections, or goes on with it; those that exist are not touched.
    /// For a server that lets its connections end: SYNs get no answer, a first ACK an RST.
    pub fn set_accepting(&mut self, on: bool) {
        self.accepting = on;
    }

    /// Starts or stops recording [`TraceEvent`]s.
    pub fn set_trace(&mut self, on: bool) {
        self.config.trace = on;
        if !on {
            self.trace.clear();
        }
    }

    /// Fires the timers that are due.
    pub fn handle_timeout(&mut self, now: Instant) {
        let mut due = std::mem::take(&mut self.due);
        self.wheel.expire(now, &mut due);
        for index in due.drain(..) {
            let mut env = Env {
                config: &self.config,
                limit: &mut self.limit,
                memory: &mut self.memory,
                note: "",
            };
            if let Some(c) = self.connections.get_mut(index) {
                c.timers.armed = NEVER;
                let step = c.handle_timeout(now, &mut env);
                self.settle(now, index, step);
            }
        }
        self.due = due;
        while let Some(index) = self.time_waits.expired(now) {
            if let Some(entry) = self.time_waits.remove(index) {
                let hash = self.table.hash(&entry.flow);
                self.table.remove(hash, Place::TimeWait(index));
                self.events.push_back(Event::FlowEnded(entry.flow));
            }
        }
        while let Some(index) = self.half_opens.expired(now) {
            self.on_syn_ack_timeout(now, index);
        }
    }

    /// When [`Self::handle_timeout`] wants to be called next; it may be early by
    /// the lifetime of a timer that was put off since.
    pub fn poll_deadline(&mut self) -> Option<Instant> {
        let wheel = self.wheel.next_deadline();
        let time_wait = self.time_waits.deadline();
        let half_open = self.half_opens.deadline();
        wheel.into_iter().chain(time_wait).chain(half_open).min()
    }

    /// Writes the next frame to send into `buf` and returns its length; `None`:
    /// nothing to send. Connections take turns, a segment each.
    pub fn poll_transmit(&mut self, now: Instant, buf: &mut [u8]) -> Option<usize> {
        while let Some(reply) = self.replies.pop() {
            let out = reply.outgoing(self.config.hop_limit);
            if let Some(len) = out.write(buf) {
                if self.config.trace {
                    self.record(reply.trace(now, &out));
                }
                return Some(len);
            }
        }
        while let Some(index) = self.senders.pop_front() {
            let Some(c) = self.connections.get_mut(index) else {
                continue;
            };
            c.send_queued = false;
            let mut env = Env {
                config: &self.config,
                limit: &mut self.limit,
                memory: &mut self.memory,
                note: "",
            };
            let mut sink = recorder(&mut self.trace);
            let sink = self.config.trace.then_some(&mut sink as &mut dyn FnMut(_));
            let sent = c.transmit(now, buf, &mut env, sink);
            if sent.is_some() && c.has_output() {
                c.send_queued = true;
                self.senders.push_back(index);
            }
            arm(&mut self.wheel, index, c);
            if sent.is_some() {
                return sent;
            }
        }
        None
    }

    /// Hands the next run of full segments to `send`, which says whether the device took it.
    /// `None`: something else is next, and [`Self::poll_transmit`] has it.
    pub fn poll_train(
        &mut self,
        now: Instant,
        send: impl FnOnce(&Train<'_>) -> bool,
    ) -> Option<bool> {
        if !self.replies.is_empty() {
            return None;
        }
        let index = *self.senders.front()?;
        let c = self.connections.get_mut(index)?;
        if !c.has_train() {
            return None;
        }
        let env = Env {
            config: &self.config,
            limit: &mut self.limit,
            memory: &mut self.memory,
            note: "",
        };
        let mut sink = recorder(&mut self.trace);
        let sink = self.config.trace.then_some(&mut sink as &mut dyn FnMut(_));
        let sent = c.transmit_train(now, &env, send, sink)?;
        if sent {
            self.senders.pop_front();
            c.send_queued = c.has_output();
            if c.send_queued {
                self.senders.push_back(index);
            }
            arm(&mut self.wheel, index, c);
        }
        Some(sent)
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        let event = self.events.pop_front()?;
        if let Event::Readable(id) = event
            && let Some(c) = self.connection_mut(id)
        {
            c.readable_queued = false;
        }
        Some(event)
    }

    /// The next trace record.
    pub fn poll_trace(&mut self) -> Option<TraceEvent> {
        self.trace.pop_front()
    }

    /// Copies received data into `buf`. `Ok(0)` with a non-empty `buf` means either
    /// nothing now (see [`Self::is_read_closed`]) or the end. When both halves are
    /// closed, reading the last octet ends the connection: [`Event::Closed`] follows.
    pub fn read(&mut self, id: ConnId, buf: &mut [u8]) -> Result<usize, Refused> {
        let octets = self.with_memory(id, |c, memory| c.read(buf, memory))?;
        self.after_read(id.index);
        Ok(octets)
    }

    /// The received data as up to two slices, without copying; followed by [`Self::consume`].
    pub fn peek(&self, id: ConnId) -> Result<[&[u8]; 2], Refused> {
        self.connection(id).ok_or(Refused)?.peek()
    }

    /// Drops the first `octets` of the received data.
    pub fn consume(&mut self, id: ConnId, octets: usize) -> Result<(), Refused> {
        self.with_memory(id, |c, memory| c.consume(octets, memory))?;
        self.after_read(id.index);
        Ok(())
    }

    /// Whether the peer's FIN was reached and all data before it was read. True
    /// also for a connection that is gone.
    pub fn is_read_closed(&self, id: ConnId) -> bool {
        self.connection(id).is_none_or(Connection::is_read_closed)
    }

    /// Queues data; returns how much was taken (less than given: wait for [`Event::Writable`]).
    pub fn write(&mut self, now: Instant, id: ConnId, data: &[u8]) -> Result<usize, Refused> {
        let octets = self.with_memory(id, |c, memory| c.write(now, data, memory))?;
        self.settle(now, id.index, Step::Open);
        Ok(octets)
    }

    /// Room in the send buffer, octets.
    pub fn send_room(&self, id: ConnId) -> usize {
        self.connection(id).map_or(0, Connection::send_room)
    }

    /// Switches Nagle's algorithm (RFC 9293 §3.7.4) off or on again. It is on at
    /// first, in Minshall's variant: only a short segment holds the next one back.
    pub fn set_nagle(&mut self, now: Instant, id: ConnId, on: bool) -> Result<(), Refused> {
        self.connection_mut(id).ok_or(Refused)?.set_nagle(on);
        self.settle(now, id.index, Step::Open);
        Ok(())
    }

    /// Switches keepalive (RFC 9293 §3.8.4) on or off for this connection: probes after
    /// [`Config::keepalive`] of silence, or two hours where that is not set.
    pub fn set_keepalive(&mut self, now: Instant, id: ConnId, on: bool) -> Result<(), Refused> {
        let config = &self.config;
        match self.connections.generation(id.index) {
            Some(generation) if generation == id.generation => {}
            _ => return Err(Refused),
        }
        let c = self.connections.get_mut(id.index).ok_or(Refused)?;
        c.set_keepalive(now, on, config);
        self.settle(now, id.index, Step::Open);
        Ok(())
    }

    /// How many retransmissions in a row go unanswered before the connection ends: R2 (RFC
    /// 9293 §3.8.3, MUST-21). At first 15, which take over 7 minutes.
    pub fn set_max_retries(&mut self, id: ConnId, retries: u8) -> Result<(), Refused> {
        self.connection_mut(id)
            .ok_or(Refused)?
            .set_max_retries(retries);
        Ok(())
    }

    /// Closes our half after the queued data (RFC 9293 §3.10.4): FIN. Data may still be read.
    pub fn shutdown(&mut self, now: Instant, id: ConnId) -> Result<(), Refused> {
        self.connection_mut(id).ok_or(Refused)?.shutdown(now)?;
        self.settle(now, id.index, Step::Open);
        Ok(())
    }

    /// [`Self::shutdown`] for an application that only waits for the peer to close as well:
    /// once our FIN is acknowledged the peer has [`Config::fin_timeout`] for its own. Until
    /// then its data can be read (RFC 9112 §9.6 wants a server to do so); a full close would
    /// answer it with RST.
    pub fn finish(&mut self, now: Instant, id: ConnId) -> Result<(), Refused> {
        if self.connections.generation(id.index) != Some(id.generation) {
            return Err(Refused);
        }
        let c = self.connections.get_mut(id.index).ok_or(Refused)?;
        c.finish(now, &self.config)?;
        self.settle(now, id.index, Step::Open);
        Ok(())
    }

    /// Full close: FIN, and what still arrives is answered with RST (RFC 9293 §3.6.1).
    /// If received data was left unread, an RST goes out at once (RFC 2525 §2.17).
    /// The id refuses every verb from now on; [`Event::Closed`] follows when the
    /// connection ends.
    pub fn close(&mut self, now: Instant, id: ConnId) {
        if self.connections.generation(id.index) != Some(id.generation) {
            return;
        }
        let Some(c) = self.connections.get_mut(id.index) else {
            return;
        };
        if let Phase::Lingering { reason } = c.phase() {
            self.release(id.index, reason);
            return;
        }
        let step = c.close(now, &self.config);
        self.settle(now, id.index, step);
    }

    /// RST (RFC 9293 §3.10.5).
    pub fn abort(&mut self, now: Instant, id: ConnId) {
        let Some(c) = self.connection_mut(id) else {
            return;
        };
        if matches!(c.phase(), Phase::Lingering { .. }) {
            self.release(id.index, CloseReason::Aborted);
            return;
        }
        let step = c.abort();
        self.settle(now, id.index, step);
    }

    /// The connection's 4-tuple.
    pub fn flow(&self, id: ConnId) -> Option<FlowKey> {
        self.connection(id).map(|c| c.flow)
    }

    /// The connection's state; `Closed` if only unread data is left of it.
    pub fn state(&self, id: ConnId) -> Option<State> {
        self.connection(id).map(|c| c.phase().name())
    }

    /// Whether this 4-tuple has a connection, a TIME-WAIT entry or a handshake under way.
    pub fn knows(&self, flow: &FlowKey) -> bool {
        self.place(self.table.hash(flow), flow).is_some()
    }

    /// Connections, TIME-WAIT entries and handshakes under way.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Counts by [`Disposition`] in its order, for `stats`.
    pub fn dispositions(&self) -> Vec<(Disposition, u64)> {
        Disposition::ALL.into_iter().zip(self.counts).collect()
    }

    /// Octets of memory that buffers hold.
    pub const fn buffered(&self) -> usize {
        self.memory.used()
    }

    /// Octets of memory that connections, TIME-WAIT entries and buffers hold, roughly: to
    /// see when [`Self::shrink`] is worth its while.
    pub const fn footprint(&self) -> usize {
        self.connections.len() * size_of::<Connection>()
            + self.time_waits.len() * TimeWaits::ENTRY
            + self.half_opens.len() * HalfOpens::ENTRY
            + self.memory.used()
    }

    /// Gives memory that connections do not need any more back to the allocator. Takes time in
    /// proportion to the connections that are left; for when many have ended.
    pub fn shrink(&mut self) {
        self.connections.shrink();
        self.time_waits.shrink();
        self.half_opens.shrink();
        self.table.shrink();
        self.wheel.shrink(self.connections.end());
        self.memory.shrink();
        self.senders.shrink_to_fit();
        self.replies.shrink();
        self.events.shrink_to_fit();
        self.trace.shrink_to_fit();
        self.due.shrink_to_fit();
    }

    // What follows is shared by the parts of the endpoint.

    fn with_memory<T>(
        &mut self,
        id: ConnId,
        verb: impl FnOnce(&mut Connection, &mut Memory) -> Result<T, Refused>,
    ) -> Result<T, Refused> {
        if self.connections.generation(id.index) != Some(id.generation) {
            return Err(Refused);
        }
        let c = self.connections.get_mut(id.index).ok_or(Refused)?;
        verb(c, &mut self.memory)
    }

    fn id(&self, index: u32) -> Option<ConnId> {
        let generation = self.connections.generation(index)?;
        Some(ConnId { index, generation })
    }

    fn connection(&self, id: ConnId) -> Option<&Connection> {
        if self.connections.generation(id.index)? != id.generation {
            return None;
        }
        self.connections.get(id.index)
    }

    fn connection_mut(&mut self, id: ConnId) -> Option<&mut Connection> {
        if self.connections.generation(id.index)? != id.generation {
            return None;
        }
        self.connections.get_mut(id.index)
    }

    fn place(&self, hash: u32, flow: &FlowKey) -> Option<Place> {
        self.table.find(hash, |place| match place {
            Place::Connection(i) => self.connections.get(i).is_some_and(|c| c.flow == *flow),
            Place::TimeWait(i) => self.time_waits.get(i).is_some_and(|e| e.flow == *flow),
            Place::HalfOpen(i) => self.half_opens.get(i).is_some_and(|e| e.flow == *flow),
        })
    }

    /// Draws the consequences of a step: signals become events, output is queued,
    /// the timer is armed, and a connection that is over leaves the table.
    fn settle(&mut self, now: Instant, index: u32, step: Step) {
        let Some(id) = self.id(index) else { return };
        let Some(c) = self.connections.get_mut(index) else {
            return;
        };
        let (readable, writable) = c.take_signals();
        if readable && !c.readable_queued {
            c.readable_queued = true;
            self.events.push_back(Event::Readable(id));
        }
        if writable {
            self.events.push_back(Event::Writable(id));
        }
        match step {
            Step::Open => {
                if !c.send_queued && c.has_output() {
                    c.send_queued = true;
                    self.senders.push_back(index);
                }
                arm(&mut self.wheel, index, c);
            }
            Step::TimeWait => {
                let mut entry = c.time_wait();
                if c.ack_due() {
                    self.replies
                        .push_own(Reply::time_wait(now, *c.link(), &mut entry, ""));
                }
                let hash = self.table.hash(&entry.flow);
                let expires = now + self.config.msl * 2;
                let place = Place::TimeWait(self.time_waits.insert(entry, expires));
                self.table.replace(hash, Place::Connection(index), place);
                self.end(index, CloseReason::Done);
            }
            Step::Closed(reason) => {
                self.leave_table(index);
                self.end(index, reason);
            }
            Step::Abort(seq) => {
                let stamps = c.timestamps(now);
                let reply = Reply::abort(*c.link(), c.flow, seq, c.rcv_nxt(), stamps);
                self.replies.push_own(reply);
                self.leave_table(index);
                self.release(index, CloseReason::Aborted);
            }
        }
    }

    /// The 4-tuple is free again.
    fn leave_table(&mut self, index: u32) {
        let Some(flow) = self.connections.get(index).map(|c| c.flow) else {
            return;
        };
        self.table
            .remove(self.table.hash(&flow), Place::Connection(index));
        self.events.push_back(Event::FlowEnded(flow));
    }

    /// A connection that is over goes, unless the application has yet to read what
    /// arrived before the end.
    fn end(&mut self, index: u32, reason: CloseReason) {
        let Some(c) = self.connections.get_mut(index) else {
            return;
        };
        if reason == CloseReason::Done && c.unread() > 0 && !c.is_orphan() {
            c.linger(reason);
            self.wheel.cancel(index);
        } else {
            self.release(index, reason);
        }
    }

    /// The application hears of the end, and the slot is free.
    fn release(&mut self, index: u32, reason: CloseReason) {
        if let Some(id) = self.id(index) {
            self.events.push_back(Event::Closed(id, reason));
        }
        self.wheel.cancel(index);
        if let Some(mut c) = self.connections.remove(index) {
            c.release(&mut self.memory);
        }
    }

    fn after_read(&mut self, index: u32) {
        let Some(c) = self.connections.get_mut(index) else {
            return;
        };
        if let Phase::Lingering { reason } = c.phase() {
            if c.unread() == 0 {
                self.release(index, reason);
            }
        } else if !c.send_queued && c.has_output() {
            c.send_queued = true;
            self.senders.push_back(index);
        }
    }
}

/// Moves the wheel's entry if the connection's earliest deadline came nearer.
fn arm(wheel: &mut Wheel, index: u32, c: &mut Connection) {
    let next = c.next_deadline();
    if next < c.timers.armed {
        wheel.schedule(index, next);
        c.timers.armed = next;
    }
}

/// Keeps trace records while there is room.
fn recorder(trace: &mut VecDeque<TraceEvent>) -> impl FnMut(TraceEvent) + '_ {
    |record| {
        if trace.len() < MAX_TRACE {
            trace.push_back(record);
        }
    }
}

#[cfg(test)]
mod tests;
