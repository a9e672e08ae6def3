//! SEGMENT ARRIVES in the synchronized states, in the order of RFC 9293 §3.10.7.4.

use super::state::{Inferred, Phase};
use super::timer::KEEPALIVE;
use super::{Connection, Env, Receive, Step, Tuning, seconds};
use crate::proto::limit::PER_CONNECTION;
use crate::proto::segment::Segment;
use crate::proto::{CloseReason, Instant, State};
use std::time::Duration;
use tcp_common::seq::SeqNum;
use tcp_common::wire::Flags;

/// RFC 9293 §3.8.6.3 allows 500 ms; 40 ms are enough for an answer to carry the ACK.
const DELAYED_ACK: Duration = Duration::from_millis(40);

/// Full segments at the start of a connection that are acknowledged without delay, until the
/// application answers: a request in several small writes waits for that ACK (Nagle), and a
/// sender in slow start grows by it.
const QUICK_ACKS: u32 = 16;
/// Milliseconds by which a round may be longer than two round trips: delayed ACKs, and an
/// application that waits for its turn.
const SLACK: u32 = 50;

/// Octets of buffer for a window of `octets`: a unit of scaling more, so that rounding a
/// window up to the next unit never promises what does not fit.
pub(super) const fn capacity(octets: usize, shift: u8) -> usize {
    octets + (1 << shift)
}

impl Receive {
    /// The window as the peer knows it.
    pub(super) fn window(&self) -> u32 {
        self.edge.distance_from(self.nxt)
    }

    /// The four cases of RFC 9293 §3.10.7.4, table 6.
    fn acceptable(&self, seg: &Segment<'_>) -> bool {
        let (len, window) = (seg.len(), self.window());
        match (len, window) {
            (0, 0) => seg.seq == self.nxt,
            // A peer that filled the window sends its ACKs from the edge. Refusing
            // them would deafen us; the RFC's allowance for valid ACKs covers it.
            (0, _) => {
                seg.seq.in_window(self.nxt, window)
                    || (seg.seq == self.edge && seg.flags.control() == Flags::ACK)
            }
            // "Special allowance should be made to accept valid ACKs, URGs, and
            // RSTs": the text is cut off later.
            (_, 0) => seg.seq == self.nxt,
            _ => {
                seg.seq.in_window(self.nxt, window)
                    || (seg.seq + (len - 1)).in_window(self.nxt, window)
            }
        }
    }
}

impl Connection {
    /// Processes a segment.
    pub(in crate::proto) fn receive(
        &mut self,
        now: Instant,
        seg: &Segment<'_>,
        env: &mut Env<'_>,
    ) -> Step {
        // Before the first: PAWS, R1 of RFC 7323 §5.3.
        if let Some(stamps) = &self.stamps
            && !seg.flags.has(Flags::RST)
        {
            match seg.timestamps {
                Some(ts) if stamps.is_old(now, ts.val) => {
                    env.note = "old timestamp";
                    self.refuse(now, seg, env);
                    return Step::Open;
                }
                // RFC 7323 §3.2: SHOULD silently drop.
                None if !seg.flags.has(Flags::SYN) => {
                    env.note = "no timestamps";
                    return Step::Open;
                }
                _ => {}
            }
        }

        // First, check the sequence number.
        if !self.rcv.acceptable(seg) {
            if !seg.flags.has(Flags::RST) {
                env.note = "not acceptable";
                self.refuse(now, seg, env);
            }
            return Step::Open;
        }

        // Second, check the RST bit: RFC 5961 §3.2.
        if seg.flags.has(Flags::RST) {
            if seg.seq == self.rcv.nxt {
                return Step::Closed(self.reset_reason());
            }
            env.note = "RST not at RCV.NXT";
            self.challenge(now, env);
            return Step::Open;
        }

        // Third, security: none.
        // Fourth, check the SYN bit: RFC 5961 §4.2.
        if seg.flags.has(Flags::SYN) {
            env.note = "SYN in a connection";
            self.challenge(now, env);
            return Step::Open;
        }

        // Fifth, check the ACK field.
        if !seg.flags.has(Flags::ACK) {
            return Step::Open;
        }
        if !self.ack_is_acceptable(seg.ack) {
            env.note = "ACK of what was not sent";
            self.challenge(now, env);
            return Step::Open;
        }
        self.note_valid(now, seg);
        let step = self.acknowledge(now, seg, env);
        if step != Step::Open {
            return step;
        }

        // Sixth, check the URG bit: the urgent pointer is not passed on, the
        // octets are text like any other (RFC 6093).
        // Seventh, process the segment text, and eighth, check the FIN bit.
        self.text(now, seg, env)
    }

    /// What every segment that passes the checks tells.
    fn note_valid(&mut self, now: Instant, seg: &Segment<'_>) {
        self.heard = now.millis();
        self.keepalives &= KEEPALIVE;
        self.ecn.on_segment(seg);
        if seg.seq == self.rcv.nxt {
            self.link = seg.reply_link();
        }
        // R3 of RFC 7323 §5.3.
        if let (Some(stamps), Some(ts)) = (&mut self.stamps, seg.timestamps)
            && seg.seq.before_eq(self.rcv.acked)
        {
            stamps.recent = ts.val;
            stamps.recent_at = seconds(now);
        }
    }

    /// A segment that is not acceptable is answered with an ACK (RFC 9293
    /// §3.10.7.4, first), one without text or FIN only as often as a challenge is.
    fn refuse(&mut self, now: Instant, seg: &Segment<'_>, env: &mut Env<'_>) {
        if seg.payload.is_empty() && !seg.flags.has(Flags::FIN) {
            self.challenge(now, env);
            return;
        }
        self.duplicate_text(seg.seq, seg.payload.len());
        self.ack_now = true;
    }

    /// Notes octets that were received before, for D-SACK (RFC 2883 §4); text from
    /// further back than a window is no retransmission but somebody's guess.
    fn duplicate_text(&mut self, seq: SeqNum, octets: usize) {
        let back = self.rcv.nxt.distance_from(seq) as usize;
        let received = (self.bytes_in as usize).min(self.recv_buffer.capacity());
        if self.sack && octets > 0 && back <= received {
            self.rcv.duplicate = (seq, octets.min(back) as u16);
        }
    }

    /// A challenge ACK, if the limits of RFC 5961 §7 allow one.
    fn challenge(&mut self, now: Instant, env: &mut Env<'_>) {
        let second = (seconds(now) as u16) << 4;
        if self.challenges & !0xf != second {
            self.challenges = second;
        }
        if self.challenges - second < PER_CONNECTION && env.limit.allow(now) {
            self.challenges += 1;
            self.ack_now = true;
        }
    }

    /// A reset after both sides closed and all data arrived takes nothing away.
    fn reset_reason(&self) -> CloseReason {
        match self.phase {
            Phase::Closing | Phase::LastAck if self.send_buffer.is_empty() => CloseReason::Done,
            _ => CloseReason::Reset,
        }
    }

    fn text(&mut self, now: Instant, seg: &Segment<'_>, env: &mut Env<'_>) -> Step {
        if !self.phase.receives() {
            // CLOSE-WAIT, CLOSING, LAST-ACK: a FIN has been received; ignore.
            return Step::Open;
        }
        let (mut seq, mut data) = (seg.seq, seg.payload);
        let mut fin = seg.flags.has(Flags::FIN);

        // Trim what was received before ...
        if seq.before(self.rcv.nxt) {
            self.duplicate_text(seq, data.len());
            let old = self.rcv.nxt.distance_from(seq) as usize;
            data = data.get(old..).unwrap_or(&[]);
            seq = self.rcv.nxt;
            self.ack_now = true;
        }
        // ... and what lies beyond the window, or beyond the peer's own FIN.
        let end = match self.rcv.fin {
            Some(fin) => self.rcv.edge.min(fin),
            None => self.rcv.edge,
        };
        let room = if seq.before(end) {
            end.distance_from(seq) as usize
        } else {
            0
        };
        if data.len() > room {
            data = data.get(..room).unwrap_or(&[]);
            fin = false;
            self.ack_now = true;
            env.note = "beyond the window";
        }

        if !data.is_empty() {
            if self.orphan {
                // RFC 9293 §3.6.1: data after CLOSE is lost, and an RST says so.
                env.note = "data after close";
                return Step::Abort(seg.ack);
            }
            self.store(now, seq, data, self.echo(seg), env);
        }
        if fin {
            if self.rcv.fin.is_none() {
                if self.phase == Phase::FinWait1 && self.client == State::CloseWait {
                    self.client.crossed_fin();
                } else {
                    self.client.sent_fin();
                }
            }
            self.rcv.fin = Some(seq + data.len() as u32);
            self.ack_now = true;
        }
        match self.rcv.fin {
            Some(fin) if fin.before_eq(self.rcv.nxt) => self.peer_closed(),
            _ => Step::Open,
        }
    }

    /// Puts text into the receive buffer, in order or not.
    fn store(
        &mut self,
        now: Instant,
        seq: SeqNum,
        data: &[u8],
        echo: Option<u32>,
        env: &mut Env<'_>,
    ) {
        self.rcv.mss = self.rcv.mss.max(data.len() as u16);
        let offset = seq.distance_from(self.rcv.nxt);
        let gap = !self.assembler.is_empty();
        let advance = if offset == 0 && !gap {
            self.recv_buffer.write_at(0, data, env.memory) as u32
        } else {
            if self.sack && self.assembler.contains(offset, data.len() as u32) {
                self.rcv.duplicate = (seq, data.len() as u16);
            }
            // Entered first, so that the buffer holds nothing unaccounted for.
            let at = offset as usize;
            let room = self.recv_buffer.reserve_at(at, data.len(), env.memory);
            let data = data.get(..room).unwrap_or(&[]);
            if !data.is_empty() && self.assembler.insert(offset, data.len() as u32).is_ok() {
                self.recv_buffer.write_at(at, data, env.memory);
                self.assembler.pop_front()
            } else {
                0
            }
        };
        if advance == 0 {
            // RFC 5681 §4.2: at once, one for each. With SACK one tells all.
            env.note = "out of order";
            self.ack_now = true;
            if !self.sack {
                self.dup_acks_due = self.dup_acks_due.saturating_add(1);
            }
            return;
        }
        self.recv_buffer.commit(advance as usize);
        self.rcv.nxt += advance;
        self.bytes_in += u64::from(advance);
        self.readable = true;
        self.tune_window(now, echo, env);
        let unacked = self.rcv.nxt.distance_from(self.rcv.acked);
        let full = u32::from(self.rcv.mss.max(536));
        let unanswered = self.bytes_out == 0 && self.bytes_in <= u64::from(QUICK_ACKS * full);
        if gap || (advance as usize) < data.len() || unacked >= 2 * full || unanswered {
            // Every second full segment, and whatever fills a gap
            // (RFC 9293 §3.8.6.3, RFC 5681 §4.2).
            self.ack_now = true;
        } else {
            self.timers.ack = self.timers.ack.min(now + DELAYED_ACK);
        }
    }

    /// The buffer grows to twice of what the application reads in a round trip, so that
    /// neither a slow reader nor a slow sender gets more than they use ("Dynamic
    /// Right-Sizing in TCP", Fisk and Feng 2001; the window's edge stays where it was,
    /// RFC 9293 §3.8.6).
    fn tune_window(&mut self, now: Instant, echo: Option<u32>, env: &Env<'_>) {
        let at_most = env
            .config
            .recv_buffer
            .max(usize::from(env.config.initial_window));
        let at_most = capacity(at_most, self.rcv.shift);
        let have = self.recv_buffer.capacity();
        if have >= at_most || self.rcv.nxt.before(self.rcv.tuning.end) {
            return;
        }
        let millis = now.millis();
        let read = (self.bytes_in as u32).wrapping_sub(self.recv_buffer.len() as u32);
        let taken = read.wrapping_sub(self.rcv.tuning.read) as usize;
        let round = millis.wrapping_sub(self.rcv.tuning.start);
        let rtt = match (echo, self.rtt.srtt()) {
            (Some(echo), _) => millis.wrapping_sub(echo),
            (None, Some(srtt)) => srtt.as_millis() as u32,
            // Nothing tells; what is unread does.
            (None, None) => round,
        };
        let reads_along = self.recv_buffer.len() <= have / 2;
        if reads_along && round <= rtt.saturating_mul(2).saturating_add(SLACK) {
            let wanted = taken.saturating_mul(2).min(at_most);
            if wanted > have && !env.memory.is_tight() {
                self.recv_buffer.set_capacity(wanted);
            }
        }
        self.rcv.tuning = Tuning {
            end: self.rcv.edge,
            read,
            start: millis,
        };
    }

    /// Eighth, check the FIN bit: it is reached.
    fn peer_closed(&mut self) -> Step {
        self.rcv.nxt += 1;
        self.rcv.edge = self.rcv.edge.max(self.rcv.nxt);
        self.rcv.fin = None;
        self.ack_now = true;
        self.readable = true;
        match self.phase {
            Phase::Established => self.phase = Phase::CloseWait { closing: false },
            // Had our FIN been acknowledged, this were FIN-WAIT-2 by now.
            Phase::FinWait1 => self.phase = Phase::Closing,
            Phase::FinWait2 => return Step::TimeWait,
            _ => {}
        }
        Step::Open
    }
}
