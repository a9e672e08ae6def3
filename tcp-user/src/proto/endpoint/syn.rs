//! SYNs that come to userspace, and the handshakes that it keeps (SYN-RECEIVED).

use super::super::connection::{Connection, Opening};
use super::super::half_open::HalfOpen;
use super::super::segment::Segment;
use super::super::table::Place;
use super::super::{Event, Instant, State};
use super::reply::Reply;
use super::{Disposition, Endpoint};
use tcp_common::cookie;
use tcp_common::flow::FlowKey;
use tcp_common::seq::SeqNum;
use tcp_common::wire::options::{self, SynOptions};
use tcp_common::wire::{Flags, ip, tcp};

/// Attempts to find a cookie above an old SND.NXT; each succeeds with one half.
const SYN_ACK_ATTEMPTS: u16 = 24;

impl Endpoint {
    /// A SYN without a connection: answered, and kept if there is room.
    pub(super) fn on_syn(&mut self, now: Instant, hash: u32, seg: &Segment<'_>) {
        let entry = self.cookie(now, seg, None);
        let reply = entry.as_ref().map(|entry| self.syn_ack(entry, ""));
        if !entry.is_some_and(|entry| self.keep(hash, entry)) {
            // If XDP took the flow for known, it does so no more.
            self.events.push_back(Event::FlowEnded(seg.flow));
        }
        self.trace_half_open(now, seg, State::SynSent, "");
        if let Some(reply) = reply {
            self.replies.push(reply);
        }
    }

    /// Keeps a handshake. The oldest that was answered most goes for it.
    fn keep(&mut self, hash: u32, entry: HalfOpen) -> bool {
        let most = self.config.max_connections;
        let crowded = self.table.len() >= most - most / 8;
        if self.config.half_open == 0 || crowded && self.half_opens.len() == 0 {
            return false;
        }
        if (crowded || self.half_opens.len() >= self.config.half_open) && !self.make_room() {
            return false;
        }
        self.events.push_back(Event::FlowBegan(entry.flow));
        let index = self.half_opens.insert(entry);
        self.table.insert(hash, Place::HalfOpen(index));
        true
    }

    /// Forgets a handshake, whose cookie stays valid; false: there is none.
    pub(super) fn make_room(&mut self) -> bool {
        let Some(index) = self.half_opens.surplus() else {
            return false;
        };
        self.forget_half_open(index);
        true
    }

    /// Forgets all handshakes: their cookies will do.
    pub fn forget_half_opens(&mut self) {
        while self.make_room() {}
    }

    fn forget_half_open(&mut self, index: u32) {
        if let Some(entry) = self.half_opens.remove(index) {
            let hash = self.table.hash(&entry.flow);
            self.table.remove(hash, Place::HalfOpen(index));
            self.events.push_back(Event::FlowEnded(entry.flow));
        }
    }

    /// The SYN-ACK again, or the end of it (RFC 9293 §3.8.3). Where more than half of the room
    /// is taken most sources are forged, and get no more from us than the first one.
    pub(super) fn on_syn_ack_timeout(&mut self, now: Instant, index: u32) {
        let Some(entry) = self.half_opens.get(index) else {
            return;
        };
        let crowded = self.half_opens.len() > self.config.half_open / 2;
        if crowded || entry.retries >= self.config.syn_ack_retries {
            self.forget_half_open(index);
            return;
        }
        self.repeat_syn_ack(index);
        self.half_opens.retransmitted(index, now);
    }

    fn repeat_syn_ack(&mut self, index: u32) {
        if let Some(entry) = self.half_opens.get(index) {
            let reply = self.syn_ack(entry, "retransmission");
            self.replies.push(reply);
        }
    }

    /// RFC 9293 §3.10.7.4 in SYN-RECEIVED, in its order.
    pub(super) fn on_half_open(
        &mut self,
        now: Instant,
        hash: u32,
        index: u32,
        seg: &Segment<'_>,
    ) -> Disposition {
        let Some(entry) = self.half_opens.get(index) else {
            return Disposition::Segment;
        };
        let (irs, iss) = (entry.irs, entry.iss);
        if seg.flags.control() == Flags::SYN && seg.seq == irs {
            // The client did not get the SYN-ACK.
            if entry.may_repeat(now) {
                self.repeat_syn_ack(index);
                if let Some(entry) = self.half_opens.get_mut(index) {
                    entry.sent = now;
                }
            }
            self.trace_half_open(now, seg, State::SynSent, "repeated SYN");
            return Disposition::Syn;
        }
        let rst = seg.flags.has(Flags::RST);
        // PAWS, R1 of RFC 7323 §5.3; and §3.2: SHOULD silently drop.
        let old = match (entry.timestamps, seg.timestamps) {
            _ if rst => false,
            (Some(_), None) => return Disposition::Segment,
            (Some((_, recent)), Some(ts)) => (ts.val.wrapping_sub(recent) as i32) < 0,
            (None, _) => false,
        };
        // First, check the sequence number.
        let (next, window) = (irs + 1, u32::from(self.config.initial_window));
        let len = seg.len();
        let acceptable = seg.seq.in_window(next, window)
            || len > 0 && (seg.seq + (len - 1)).in_window(next, window);
        // Second, the RST bit (RFC 5961 §3.2): back to LISTEN.
        if rst && acceptable && seg.seq == next {
            self.trace_half_open(now, seg, State::Closed, "");
            self.forget_half_open(index);
            return Disposition::Segment;
        }
        if rst && !acceptable {
            return Disposition::Segment;
        }
        // Fourth, the SYN bit (RFC 5961 §4.2). All of these get a challenge ACK.
        if rst || old || !acceptable || seg.flags.has(Flags::SYN) {
            self.challenge_half_open(now, index, seg);
            return Disposition::Segment;
        }
        // Fifth, the ACK field.
        if !seg.flags.has(Flags::ACK) {
            return Disposition::Segment;
        }
        if seg.ack != iss + 1 {
            self.replies
                .push(Reply::reset(seg, "ACK of what was not sent"));
            return Disposition::Segment;
        }
        let Some(entry) = self.half_opens.remove(index) else {
            return Disposition::Segment;
        };
        let opening = Opening {
            irs,
            iss,
            negotiated: entry.negotiated,
            timestamps: entry.timestamps,
        };
        let mut connection = Connection::open(now, seg, &opening, &self.config);
        connection.measure_handshake((entry.retries == 0).then(|| now - entry.sent));
        let new = self.add(connection);
        self.table
            .replace(hash, Place::HalfOpen(index), Place::Connection(new));
        self.on_connection(now, new, seg);
        Disposition::Accepted
    }

    fn challenge_half_open(&mut self, now: Instant, index: u32, seg: &Segment<'_>) {
        let Some(entry) = self.half_opens.get(index) else {
            return;
        };
        if self.limit.allow(now) {
            let reply = Reply::challenge(entry, self.config.initial_window);
            self.replies.push(reply);
        }
        self.trace_half_open(now, seg, State::SynSent, "not acceptable");
    }

    fn trace_half_open(
        &mut self,
        now: Instant,
        seg: &Segment<'_>,
        client: State,
        note: &'static str,
    ) {
        if self.config.trace {
            let server = if client == State::Closed {
                State::Listen
            } else {
                State::SynReceived
            };
            self.record(seg.trace(now, seg.window.into(), client, server, note));
        }
    }

    pub(super) fn our_mss(&self, flow: &FlowKey) -> u16 {
        let ip = if flow.is_v4() { ip::V4_LEN } else { ip::V6_LEN };
        self.config
            .mtu
            .saturating_sub((ip + tcp::HEADER_LEN) as u16)
    }

    fn syn_ack(&self, entry: &HalfOpen, note: &'static str) -> Reply {
        let negotiated = entry.negotiated;
        let options = options::syn_ack(
            self.our_mss(&entry.flow),
            negotiated.window_scale.map(|_| self.config.window_scale),
            negotiated.sack,
            entry.stamps(),
        );
        Reply::syn_ack(entry, self.config.initial_window, options, note)
    }

    /// Answers the SYN of a new incarnation of a connection in TIME-WAIT. Its ISS must exceed
    /// `floor`, SND.NXT of the old one (RFC 6191 §2, RFC 9293 §3.10.7.4).
    pub(super) fn answer_new_incarnation(
        &mut self,
        now: Instant,
        seg: &Segment<'_>,
        floor: SeqNum,
    ) {
        if let Some(entry) = self.cookie(now, seg, Some(floor)) {
            let reply = self.syn_ack(&entry, "");
            self.replies.push(reply);
        }
    }

    /// The handshake with the cookie that XDP would have made. That cannot be chosen: the MSS that it carries is
    /// lowered until it exceeds `floor`.
    fn cookie(&self, now: Instant, seg: &Segment<'_>, floor: Option<SeqNum>) -> Option<HalfOpen> {
        if !self.accepting {
            return None;
        }
        // RFC 3168 §6.1.1: an ECN-setup SYN.
        let ecn = self.config.ecn && seg.flags.has(Flags::ECE.with(Flags::CWR));
        let parity = self.keys.current & 1;
        let key = self.keys.keys.get(parity as usize)?;
        let mut offer = SynOptions {
            mss: seg.mss,
            window_scale: seg.window_scale,
            sack_permitted: seg.sack_permitted,
            timestamps: seg.timestamps,
            sack: None,
        };
        for _ in 0..SYN_ACK_ATTEMPTS {
            let (made, negotiated) = cookie::make(key, parity, &seg.flow, seg.seq.0, &offer, ecn);
            let iss = SeqNum(made.iss);
            if floor.is_none_or(|f| iss.after(f)) {
                let timestamps = seg.timestamps.filter(|_| negotiated.timestamps);
                return Some(HalfOpen {
                    flow: seg.flow,
                    link: seg.reply_link(),
                    irs: seg.seq,
                    iss,
                    negotiated,
                    timestamps: timestamps.map(|ts| (made.tsval, ts.val)),
                    created: now,
                    sent: now,
                    retries: 0,
                });
            }
            // 32 is the step of the cookie's MSS above 2048; without timestamps
            // only four values exist, hence the larger steps later.
            let lower = negotiated.mss.saturating_sub(32);
            if lower < cookie::MIN_MSS {
                if !offer.sack_permitted {
                    return None;
                }
                offer.sack_permitted = false;
                offer.mss = seg.mss;
            } else {
                offer.mss = Some(lower);
            }
        }
        None
    }
}
