//! A frame's way to its connection, and what happens to one that has none.

use super::super::connection::{Connection, Env, Opening, Step};
use super::super::segment::Segment;
use super::super::table::Place;
use super::super::trace::{Direction, TraceEvent};
use super::super::{Event, Instant, Keys, State};
use super::reply::Reply;
use super::{Disposition, Endpoint};
use tcp_common::cookie::{self, Negotiated};
use tcp_common::seq::SeqNum;
use tcp_common::wire::{Flags, Timestamps, icmp, link};

impl Endpoint {
    /// Takes one received frame.
    pub fn handle_frame(&mut self, now: Instant, frame: &[u8]) -> Disposition {
        let disposition = match Segment::parse(frame, self.config.partial_checksums) {
            Ok(seg) => self.handle_segment(now, &seg),
            Err(Disposition::NotTcp) => self.handle_icmp(now, frame),
            Err(refusal) => refusal,
        };
        if let Some(count) = self.counts.get_mut(disposition as usize) {
            *count += 1;
        }
        disposition
    }

    /// ICMP errors are soft: none ends a connection (RFC 9293 §3.9.2.2, RFC 5927 §5.2). That
    /// a packet was too big is acted on.
    fn handle_icmp(&mut self, now: Instant, frame: &[u8]) -> Disposition {
        let Some((link, error)) =
            link::parse(frame).and_then(|l| Some((l, icmp::parse(frame, l)?)))
        else {
            return Disposition::NotTcp;
        };
        if !icmp::checksum_ok(frame, link, &error) {
            return Disposition::BadChecksum;
        }
        let hash = self.table.hash(&error.flow);
        if let Some(Place::Connection(index)) = self.place(hash, &error.flow)
            && error.too_big
            && let Some(c) = self.connections.get_mut(index)
        {
            c.packet_too_big(now, SeqNum(error.seq), error.mtu, error.quoted_len);
            self.settle(now, index, Step::Open);
        }
        Disposition::Icmp
    }

    fn handle_segment(&mut self, now: Instant, seg: &Segment<'_>) -> Disposition {
        let hash = self.table.hash(&seg.flow);
        match self.place(hash, &seg.flow) {
            Some(Place::Connection(index)) => {
                self.on_connection(now, index, seg);
                Disposition::Segment
            }
            Some(Place::TimeWait(index)) => self.on_time_wait(now, hash, index, seg),
            Some(Place::HalfOpen(index)) => self.on_half_open(now, hash, index, seg),
            None => self.on_nothing(now, hash, seg),
        }
    }

    pub(super) fn on_connection(&mut self, now: Instant, index: u32, seg: &Segment<'_>) {
        let Some(c) = self.connections.get_mut(index) else {
            return;
        };
        let mut env = Env {
            config: &self.config,
            limit: &mut self.limit,
            memory: &mut self.memory,
            note: "",
        };
        let step = c.receive(now, seg, &mut env);
        if self.config.trace {
            let note = env.note;
            let (client, server) = match step {
                Step::Open => (c.client, c.phase().name()),
                Step::TimeWait => (c.client, State::TimeWait),
                Step::Closed(_) if seg.flags.has(Flags::RST) => (State::Closed, State::Closed),
                Step::Closed(_) | Step::Abort(_) => (c.client, State::Closed),
            };
            let window = u32::from(seg.window) << c.peer_shift();
            self.record(seg.trace(now, window, client, server, note));
        }
        self.settle(now, index, step);
    }

    /// RFC 9293 §3.10.7.1 (CLOSED), where a valid cookie opens a connection.
    fn on_nothing(&mut self, now: Instant, hash: u32, seg: &Segment<'_>) -> Disposition {
        if self.accepting
            && let Some(negotiated) = check_cookie(&self.keys, seg)
        {
            if self.table.len() >= self.config.max_connections && !self.make_room() {
                self.forget(seg, "too many connections");
                return Disposition::TooMany;
            }
            let index = self.open(now, seg, negotiated);
            self.table.insert(hash, Place::Connection(index));
            self.on_connection(now, index, seg);
            return Disposition::Accepted;
        }
        if seg.flags.control() == Flags::SYN {
            // It is for us to answer, or XDP took the flow for known.
            self.on_syn(now, hash, seg);
            return Disposition::Syn;
        }
        let holds_something = !seg.payload.is_empty() || seg.flags.has(Flags::FIN);
        let is_strange = seg.flags.has(Flags::SYN) || seg.flags.has(Flags::RST);
        if self.accepting && seg.flags.has(Flags::ACK) && holds_something && !is_strange {
            // XDP saw this flow's cookie. An RST would end a connection before it has begun; an
            // entry that stays without one is swept, and XDP answers from then on.
            return Disposition::Early;
        }
        self.forget(seg, "no connection");
        Disposition::NoFlow
    }

    /// An RST, and a `FLOWS` entry less.
    pub(super) fn forget(&mut self, seg: &Segment<'_>, note: &'static str) {
        if !seg.flags.has(Flags::RST) {
            self.replies.push(Reply::reset(seg, note));
        }
        self.events.push_back(Event::FlowEnded(seg.flow));
    }

    /// Makes the connection; the table is the caller's.
    fn open(&mut self, now: Instant, seg: &Segment<'_>, negotiated: Negotiated) -> u32 {
        let opening = Opening::of_cookie(seg, negotiated);
        let connection = Connection::open(now, seg, &opening, &self.config);
        let index = self.add(connection);
        if self.config.trace {
            self.trace_handshake(now, seg, negotiated);
        }
        index
    }

    /// Stores a connection, and tells the application of it.
    pub(super) fn add(&mut self, connection: Connection) -> u32 {
        let (index, _) = self.connections.insert(connection);
        if let Some(id) = self.id(index) {
            self.events.push_back(Event::Accepted(id));
        }
        index
    }

    /// TIME-WAIT: RFC 9293 §3.10.7.4 with RFC 1337 and RFC 6191.
    fn on_time_wait(
        &mut self,
        now: Instant,
        hash: u32,
        index: u32,
        seg: &Segment<'_>,
    ) -> Disposition {
        let Some(entry) = self.time_waits.get(index) else {
            return Disposition::TimeWait;
        };
        let (snd_nxt, rcv_nxt) = (entry.snd_nxt, entry.rcv_nxt);
        let recent = entry.timestamps.map(|(_, recent)| recent);
        if seg.flags.control() == Flags::SYN && admits(seg, seg.seq, rcv_nxt, recent) {
            self.answer_new_incarnation(now, seg, snd_nxt);
            return Disposition::Syn;
        }
        if self.accepting
            && (seg.ack - 1).after(snd_nxt)
            && admits(seg, seg.seq - 1, rcv_nxt, recent)
            && let Some(negotiated) = check_cookie(&self.keys, seg)
        {
            // The peer of a new connection proved that it got our SYN-ACK, whose ISS lies above
            // what the old one sent. The cookie of the old one may be valid still, too: in a late
            // copy of its first segment.
            self.time_waits.remove(index);
            let new = self.open(now, seg, negotiated);
            self.table
                .replace(hash, Place::TimeWait(index), Place::Connection(new));
            self.on_connection(now, new, seg);
            return Disposition::Accepted;
        }
        let repeated_fin = seg.flags.has(Flags::FIN) && seg.seq + seg.len() == rcv_nxt;
        let expected = seg.seq == rcv_nxt && seg.ack == snd_nxt && seg.len() == 0;
        let (answer, note) = if seg.flags.has(Flags::RST) {
            // RFC 1337: a TIME-WAIT is not assassinated.
            (false, "RST ignored")
        } else if repeated_fin {
            self.time_waits.restart(index, now + self.config.msl * 2);
            (true, "repeated FIN")
        } else if expected {
            (false, "")
        } else if seg.payload.is_empty() {
            (self.limit.allow(now), "not acceptable")
        } else {
            (true, "not acceptable")
        };
        if let Some(entry) = self.time_waits.get_mut(index) {
            let record = seg.trace(
                now,
                u32::from(seg.window) << entry.shifts.1,
                entry.client,
                State::TimeWait,
                note,
            );
            if repeated_fin && let (Some(kept), Some(ts)) = (&mut entry.timestamps, seg.timestamps)
            {
                kept.1 = ts.val;
            }
            if answer {
                let reply = Reply::time_wait(now, seg.reply_link(), entry, "");
                self.replies.push(reply);
            }
            if self.config.trace {
                self.record(record);
            }
        }
        Disposition::TimeWait
    }

    pub(super) fn record(&mut self, record: TraceEvent) {
        super::recorder(&mut self.trace)(record);
    }

    /// The SYN and SYN-ACK that XDP handled, as far as the ACK shows them. The
    /// window of the SYN is not known and stands as zero, its `TSval` as that of the
    /// ACK.
    fn trace_handshake(&mut self, now: Instant, seg: &Segment<'_>, negotiated: Negotiated) {
        let ts = seg.timestamps.filter(|_| negotiated.timestamps);
        let syn = TraceEvent {
            at: now,
            flow: seg.flow,
            direction: Direction::In,
            reconstructed: true,
            flags: Flags::SYN,
            seq: (seg.seq - 1).0,
            ack: 0,
            len: 0,
            window: 0,
            mss: Some(negotiated.mss),
            window_scale: negotiated.window_scale,
            sack_permitted: negotiated.sack,
            timestamps: ts.map(|ts| Timestamps {
                val: ts.val,
                ecr: 0,
            }),
            sack: [(0, 0); 4],
            sack_blocks: 0,
            client: State::SynSent,
            server: State::SynReceived,
            note: "",
        };
        let syn_ack = TraceEvent {
            direction: Direction::Out,
            flags: Flags::SYN.with(Flags::ACK),
            seq: (seg.ack - 1).0,
            ack: seg.seq.0,
            window: u32::from(self.config.initial_window),
            mss: Some(self.our_mss(&seg.flow)),
            window_scale: negotiated.window_scale.map(|_| self.config.window_scale),
            timestamps: ts.map(|ts| Timestamps {
                val: ts.ecr,
                ecr: ts.val,
            }),
            client: State::Established,
            ..syn.clone()
        };
        self.record(syn);
        self.record(syn_ack);
    }
}

/// Whether the segment follows a SYN-ACK of ours: the first ACK, or the first
/// text where that ACK was lost.
pub(in crate::proto) fn check_cookie(keys: &Keys, seg: &Segment<'_>) -> Option<Negotiated> {
    let unwanted = Flags::SYN.with(Flags::RST);
    if !seg.flags.has(Flags::ACK) || seg.flags.without(unwanted) != seg.flags {
        return None;
    }
    let (iss, irs) = ((seg.ack - 1).0, (seg.seq - 1).0);
    let tsecr = seg.timestamps.map(|ts| ts.ecr);
    let parity = cookie::slot_parity(iss, tsecr);
    let key = keys.keys.get(parity as usize & 1)?;
    cookie::check(key, &seg.flow, irs, iss, tsecr)
}

/// Whether a SYN with the sequence number `irs`, or what follows it, may open a new incarnation of
/// a connection in TIME-WAIT: a later timestamp, or where timestamps do not tell, a later
/// sequence number (RFC 6191 §2).
fn admits(seg: &Segment<'_>, irs: SeqNum, rcv_nxt: SeqNum, recent: Option<u32>) -> bool {
    match (recent, seg.timestamps) {
        (Some(recent), Some(ts)) if ts.val != recent => (ts.val.wrapping_sub(recent) as i32) > 0,
        _ => irs.after(rcv_nxt),
    }
}
