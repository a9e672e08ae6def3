//! A small TCP client, written for the simulation and independent of the engine: active open,
//! sliding window, go-back-N retransmission, out-of-order queue, both kinds of close.
//!
//! It counts in 64-bit offsets from the initial sequence numbers: offset 0 is the SYN, octet
//! `i` of the stream has offset `1 + i`, the FIN follows the last octet.

use super::network::{CWR, ECE, Ecn};
use super::rng::{Rng, mix};
use super::wire::{ACK, FIN, Options, PSH, RST, SYN, Segment};
use crate::proto::Instant;
use std::collections::BTreeMap;
use std::time::Duration;

/// Octet `position` of the stream that `seed` names.
pub(super) fn octet(seed: u64, position: u64) -> u8 {
    (mix(seed ^ (position >> 3)) >> (8 * (position & 7))) as u8
}

/// Octets `[from, from + len)` of a stream.
pub(super) fn octets(seed: u64, from: u64, len: usize) -> Vec<u8> {
    (from..from + len as u64).map(|i| octet(seed, i)).collect()
}

/// When the client closes its half.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Close {
    /// After all is sent.
    AfterSending,
    /// After all is sent and the server's FIN has arrived.
    AfterFin,
    /// After all is sent and this many octets have arrived.
    AfterReceiving(u64),
    /// RST when this many octets have arrived.
    Abort(u64),
    /// The client falls silent when this many octets have arrived.
    Vanish(u64),
}

#[derive(Clone, Debug)]
pub(super) struct Config {
    pub(super) mss: u16,
    pub(super) window_scale: Option<u8>,
    pub(super) timestamps: bool,
    pub(super) sack: bool,
    /// Octets of receive buffer.
    pub(super) buffer: u64,
    pub(super) delayed_ack: Option<Duration>,
    /// Octets read at a time and the pause between; `None`: all at once.
    pub(super) slow_reader: Option<(u64, Duration)>,
    /// Octets to send in all.
    pub(super) send: u64,
    /// Octets written at a time and the pause between.
    pub(super) writes: (u64, Duration),
    pub(super) close: Close,
    pub(super) rto: Duration,
    /// Retransmissions in a row before the client gives up.
    pub(super) retries: u32,
    pub(super) time_wait: Duration,
    /// Data and ACK of the handshake go together: the pure ACK is left out.
    pub(super) ack_with_data: bool,
    /// Offers ECN.
    pub(super) ecn: bool,
    /// What the client sends, and what it expects.
    pub(super) sends: u64,
    pub(super) expects: u64,
}

/// How the connection ended for the client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    Done,
    Reset,
    Aborted,
    GaveUp,
    Vanished,
}

#[derive(Debug)]
pub(super) struct Client {
    pub(super) config: Config,
    pub(super) iss: u32,
    pub(super) irs: u32,
    established: bool,
    pub(super) outcome: Option<Outcome>,
    /// In TIME-WAIT until then.
    time_wait: Option<Instant>,

    una: u64,
    nxt: u64,
    /// Highest offset that was ever sent, exclusive.
    pub(super) max_sent: u64,
    right: u64,
    wl: (u64, u64),
    peer_scale: u8,
    peer_mss: u64,
    cwnd: u64,
    dup_acks: u32,
    /// Octets that the client's user has written.
    written: u64,
    closed: bool,
    next_write: Instant,
    retransmit_at: Option<Instant>,
    backoff: u32,
    was_closed: bool,

    pub(super) rcv_nxt: u64,
    out_of_order: BTreeMap<u64, u64>,
    last_block: Option<u64>,
    fin_at: Option<u64>,
    unread: u64,
    next_read: Instant,
    advertised: u64,
    ack_now: bool,
    ack_at: Option<Instant>,
    unacked_segments: u32,
    ts_recent: u32,
    ts_offset: u32,
    last_ack_sent: u64,
    pub(super) ecn: Ecn,
    out: Vec<Segment>,
    /// Segments sent again, window probes apart.
    pub(super) repeats: u64,
}

/// The 64-bit offset near `near` that `seq` stands for.
pub(super) fn unwrap(seq: u32, initial: u32, near: u64) -> i64 {
    let low = seq.wrapping_sub(initial);
    near as i64 + i64::from(low.wrapping_sub(near as u32) as i32)
}

impl Client {
    pub(super) fn new(config: Config, rng: &mut Rng, now: Instant) -> Self {
        let random = rng.u32();
        Self {
            iss: rng.pick(&[0, u32::MAX, u32::MAX - 1000, 0x7fff_ff00, random]),
            irs: 0,
            established: false,
            outcome: None,
            time_wait: None,
            una: 0,
            nxt: 0,
            max_sent: 0,
            right: 0,
            wl: (0, 0),
            peer_scale: 0,
            peer_mss: 536,
            cwnd: 10 * u64::from(config.mss),
            dup_acks: 0,
            written: 0,
            closed: false,
            next_write: now,
            retransmit_at: Some(now),
            backoff: 0,
            was_closed: false,
            rcv_nxt: 0,
            out_of_order: BTreeMap::new(),
            last_block: None,
            fin_at: None,
            unread: 0,
            next_read: now,
            advertised: 0,
            ack_now: false,
            ack_at: None,
            unacked_segments: 0,
            ts_recent: 0,
            ts_offset: rng.u32(),
            last_ack_sent: 0,
            ecn: Ecn::default(),
            out: Vec::new(),
            repeats: 0,
            config,
        }
    }

    /// Stream octets received in order.
    pub(super) fn received(&self) -> u64 {
        let fin = u64::from(self.fin_received());
        self.rcv_nxt.saturating_sub(1 + fin)
    }

    pub(super) fn fin_received(&self) -> bool {
        self.fin_at.is_some_and(|at| self.rcv_nxt > at)
    }

    /// Nothing more will come of itself.
    pub(super) fn is_finished(&self) -> bool {
        self.outcome.is_some() && self.time_wait.is_none()
    }

    pub(super) fn is_established(&self) -> bool {
        self.established
    }

    fn fin_offset(&self) -> u64 {
        1 + self.config.send
    }

    fn options(&self, now: Instant) -> Options {
        let mut options = Options::default();
        if self.config.timestamps {
            let val = now.millis().wrapping_add(self.ts_offset);
            options.timestamps = Some((val, self.ts_recent));
        }
        if self.established && self.config.sack && !self.out_of_order.is_empty() {
            let last = self.last_block.and_then(|at| {
                let (s, e) = self.out_of_order.range(..=at).next_back()?;
                (at < *e).then_some((*s, *e))
            });
            let others = self.out_of_order.iter().map(|(s, e)| (*s, *e));
            let blocks = last
                .into_iter()
                .chain(others.filter(|block| Some(*block) != last));
            options.sack = blocks
                .take(3)
                .map(|(s, e)| (self.wire_ack(s), self.wire_ack(e)))
                .collect();
        }
        options
    }

    fn wire_seq(&self, offset: u64) -> u32 {
        self.iss.wrapping_add(offset as u32)
    }

    fn wire_ack(&self, offset: u64) -> u32 {
        self.irs.wrapping_add(offset as u32)
    }

    /// The window field; the right edge never moves left.
    fn window(&mut self) -> u16 {
        let shift = self.config.window_scale.unwrap_or(0);
        let free = self.config.buffer.saturating_sub(self.unread);
        let open = self.advertised.saturating_sub(self.rcv_nxt);
        let field = (free.max(open) >> shift).min(0xffff);
        self.advertised = self.advertised.max(self.rcv_nxt + (field << shift));
        field as u16
    }

    fn emit(&mut self, now: Instant, flags: u8, offset: u64, data: Vec<u8>) {
        let options = self.options(now);
        let window = self.window();
        let end = offset + data.len() as u64 + u64::from(flags & FIN != 0);
        if end > offset && end <= self.max_sent && !self.window_closed() {
            self.repeats += 1;
        }
        let new = offset >= self.max_sent;
        self.max_sent = self.max_sent.max(end);
        self.ack_now = false;
        self.ack_at = None;
        self.unacked_segments = 0;
        self.last_ack_sent = self.rcv_nxt;
        let mut segment = Segment {
            flags,
            seq: self.wire_seq(offset),
            ack: self.wire_ack(self.rcv_nxt),
            window,
            options,
            data,
            ..Segment::default()
        };
        self.ecn.mark(&mut segment, new);
        self.out.push(segment);
    }

    fn end(&mut self, outcome: Outcome) {
        self.outcome = Some(outcome);
        self.retransmit_at = None;
        self.ack_at = None;
        self.ack_now = false;
    }

    /// Takes a segment from the server; the frame was intact.
    pub(super) fn handle(&mut self, now: Instant, seg: &Segment) {
        if self.outcome == Some(Outcome::Vanished) {
            return;
        }
        if self.is_finished() {
            // CLOSED (RFC 9293 §3.10.7.1).
            if !seg.has(RST) {
                self.out.push(Segment {
                    flags: if seg.has(ACK) { RST } else { RST | ACK },
                    seq: if seg.has(ACK) { seg.ack } else { 0 },
                    ack: seg.seq.wrapping_add(seg.len()),
                    ..Segment::default()
                });
            }
            return;
        }
        if self.established {
            self.handle_synchronised(now, seg);
        } else {
            self.handle_syn_sent(now, seg);
        }
        self.run(now);
    }

    fn handle_syn_sent(&mut self, now: Instant, seg: &Segment) {
        if !seg.has(ACK) || seg.ack != self.iss.wrapping_add(1) {
            return;
        }
        if seg.has(RST) {
            self.end(Outcome::Reset);
            return;
        }
        if !seg.has(SYN) {
            return;
        }
        self.established = true;
        self.ecn.shake_hands(self.config.ecn, seg);
        self.irs = seg.seq;
        self.rcv_nxt = 1;
        (self.una, self.nxt, self.max_sent) = (1, 1, 1);
        self.right = 1 + u64::from(seg.window);
        self.wl = (0, 1);
        let o = &seg.options;
        self.peer_mss = u64::from(o.mss.unwrap_or(536));
        if let (Some(scale), true) = (o.window_scale, self.config.window_scale.is_some()) {
            self.peer_scale = scale;
        } else {
            self.config.window_scale = None;
        }
        self.config.sack &= o.sack_permitted;
        self.config.timestamps &= o.timestamps.is_some();
        self.ts_recent = o.timestamps.map_or(0, |(val, _)| val);
        self.retransmit_at = None;
        self.backoff = 0;
        self.next_write = now;
        self.ack_now = !(self.config.ack_with_data && self.config.send > 0);
        self.advertised = 1 + self.config.buffer.min(0xffff);
    }

    fn handle_synchronised(&mut self, now: Instant, seg: &Segment) {
        let start = unwrap(seg.seq, self.irs, self.rcv_nxt);
        let end = start + i64::from(seg.len());
        let (nxt, right) = (self.rcv_nxt as i64, self.advertised as i64);
        self.ecn.hear(seg);
        if seg.has(RST) {
            if start == nxt {
                self.time_wait = None;
                if self.outcome.is_none() {
                    self.end(Outcome::Reset);
                }
            }
            return;
        }
        if let (Some((val, _)), true) = (seg.options.timestamps, self.config.timestamps) {
            if (val.wrapping_sub(self.ts_recent) as i32) < 0 {
                // PAWS (RFC 7323 §5.3).
                self.ack_now = true;
                return;
            }
            if start <= self.last_ack_sent as i64 {
                self.ts_recent = val;
            }
        }
        let acceptable = if seg.len() == 0 {
            start >= nxt && start <= right
        } else {
            end > nxt && start <= right
        };
        if !acceptable || seg.has(SYN) {
            self.ack_now = true;
            if seg.has(FIN)
                && let Some(until) = &mut self.time_wait
            {
                *until = now + self.config.time_wait;
            }
            // An old segment's acknowledgment may still be news.
            if start > nxt || seg.has(SYN) {
                return;
            }
        }
        if !seg.has(ACK) || !self.handle_ack(now, seg, start) {
            return;
        }
        if !acceptable {
            return;
        }
        self.handle_text(now, seg, start);
    }

    fn handle_ack(&mut self, now: Instant, seg: &Segment, start: i64) -> bool {
        let ack = unwrap(seg.ack, self.iss, self.una);
        if ack > self.max_sent as i64 {
            self.ack_now = true;
            return false;
        }
        if ack < self.una as i64 {
            return true;
        }
        let ack = ack as u64;
        let right = ack + (u64::from(seg.window) << self.peer_scale);
        let old_right = self.right;
        if self.wl <= (start.max(0) as u64, ack) {
            self.right = right;
            self.wl = (start.max(0) as u64, ack);
        }
        if ack > self.una {
            self.una = ack;
            self.nxt = self.nxt.max(ack);
            self.cwnd = (self.cwnd + self.peer_mss).min(64 * self.peer_mss);
            self.dup_acks = 0;
            self.backoff = 0;
            self.retransmit_at = (ack < self.max_sent).then(|| now + self.config.rto);
        } else if seg.len() == 0 && self.una < self.max_sent && right == old_right {
            self.dup_acks += 1;
            if self.dup_acks == 3 {
                self.resend_first(now);
            }
        }
        if self.was_closed && !self.window_closed() {
            // Go on where the window had stopped us.
            self.backoff = 0;
            self.nxt = self.una;
            self.retransmit_at = None;
        }
        self.was_closed = self.window_closed();
        if self.was_closed {
            // A probe that is answered may go on for ever (RFC 9293 §3.8.6.1).
            self.backoff = self.backoff.min(4);
        }
        true
    }

    /// Data waits and the window takes none of it.
    fn window_closed(&self) -> bool {
        self.right <= self.una && self.una < 1 + self.written
    }

    fn resend_first(&mut self, now: Instant) {
        let data_end = (1 + self.written).min(self.max_sent);
        if self.una < data_end {
            let room = self.right.saturating_sub(self.una).max(1);
            let len = (data_end - self.una).min(self.segment_size()).min(room);
            let data = octets(self.config.sends, self.una - 1, len as usize);
            self.emit(now, ACK, self.una, data);
        } else if self.closed && self.una == self.fin_offset() {
            self.emit(now, ACK | FIN, self.una, Vec::new());
        }
    }

    fn handle_text(&mut self, now: Instant, seg: &Segment, start: i64) {
        let data_end = start + seg.data.len() as i64;
        for (i, got) in seg.data.iter().enumerate() {
            let at = start + i as i64 - 1;
            if at >= 0 {
                let expected = octet(self.config.expects, at as u64);
                assert_eq!(*got, expected, "octet {at} from the server is wrong");
            }
        }
        if seg.has(FIN) {
            if let Some(at) = self.fin_at {
                assert_eq!(at as i64, data_end, "the FIN moved");
            }
            self.fin_at = Some(data_end as u64);
        }
        if let Some(at) = self.fin_at {
            assert!(
                seg.data.is_empty() || data_end <= at as i64,
                "data beyond the FIN"
            );
        }
        if seg.len() == 0 {
            return;
        }
        let end = (data_end as u64).min(self.advertised);
        let start = start.max(self.rcv_nxt as i64) as u64;
        let before = self.rcv_nxt;
        let had_gap = !self.out_of_order.is_empty();
        if start < end {
            self.out_of_order.insert(
                start,
                end.max(self.out_of_order.get(&start).copied().unwrap_or(0)),
            );
            self.last_block = Some(start);
            self.merge();
        }
        self.unread += self.rcv_nxt - before;
        if self.fin_at == Some(self.rcv_nxt) {
            self.rcv_nxt += 1;
            self.ack_now = true;
        }
        let in_order = self.rcv_nxt > before;
        match self.config.delayed_ack {
            Some(delay) if in_order && !had_gap && !self.ack_now => {
                self.unacked_segments += 1;
                if self.unacked_segments >= 2 {
                    self.ack_now = true;
                } else {
                    self.ack_at.get_or_insert(now + delay);
                }
            }
            _ => self.ack_now = true,
        }
    }

    fn merge(&mut self) {
        let mut merged: BTreeMap<u64, u64> = BTreeMap::new();
        for (s, e) in std::mem::take(&mut self.out_of_order) {
            match merged.last_entry() {
                Some(mut last) if *last.get() >= s => {
                    let joined = e.max(*last.get());
                    last.insert(joined);
                }
                _ => {
                    merged.insert(s, e);
                }
            }
        }
        if let Some((s, e)) = merged.first_key_value().map(|(s, e)| (*s, *e))
            && s <= self.rcv_nxt
        {
            merged.remove(&s);
            self.rcv_nxt = self.rcv_nxt.max(e);
        }
        self.out_of_order = merged;
    }

    fn segment_size(&self) -> u64 {
        let options = if self.config.timestamps { 12 } else { 0 };
        let sack = if self.config.sack && !self.out_of_order.is_empty() {
            28
        } else {
            0
        };
        self.peer_mss.min(self.config.mss.into()) - options - sack
    }

    /// Timers, the client's user, and what may be sent.
    pub(super) fn run(&mut self, now: Instant) {
        if self.time_wait.is_some_and(|until| until <= now) {
            self.time_wait = None;
        }
        if self.outcome.is_some() {
            if self.time_wait.is_some() && self.ack_now {
                self.emit(now, ACK, self.nxt, Vec::new());
            }
            return;
        }
        if !self.established {
            if self.retransmit_at.is_some_and(|at| at <= now) {
                self.send_syn(now);
            }
            return;
        }
        self.run_user(now);
        if self.outcome.is_some() {
            return;
        }
        if self.retransmit_at.is_some_and(|at| at <= now) {
            self.on_retransmit_timer(now);
            if self.outcome.is_some() {
                return;
            }
        }
        self.send_new(now);
        if self.ack_at.is_some_and(|at| at <= now) {
            self.ack_now = true;
        }
        // A window that was small and is not any more (RFC 9293 §3.8.6.2.2), in units of its
        // scale: what the field cannot say is no window.
        let shift = self.config.window_scale.unwrap_or(0);
        let free = self.config.buffer.saturating_sub(self.unread) >> shift << shift;
        let open = self.advertised.saturating_sub(self.rcv_nxt);
        let mss = u64::from(self.config.mss);
        if free >= open + (2 * mss).min(self.config.buffer / 2).max(1) && open < 2 * mss {
            self.ack_now = true;
        }
        if self.ack_now {
            self.emit(now, ACK, self.nxt, Vec::new());
        }
        if self.fin_received() && self.closed && self.una > self.fin_offset() {
            self.end(Outcome::Done);
            self.time_wait = Some(now + self.config.time_wait);
        }
    }

    fn send_syn(&mut self, now: Instant) {
        self.backoff += 1;
        if self.backoff > self.config.retries {
            self.end(Outcome::GaveUp);
            return;
        }
        self.retransmit_at = Some(now + self.config.rto * 2u32.pow(self.backoff.min(5)));
        let c = &self.config;
        let options = Options {
            mss: Some(c.mss),
            window_scale: c.window_scale,
            sack_permitted: c.sack,
            timestamps: c
                .timestamps
                .then(|| (now.millis().wrapping_add(self.ts_offset), 0)),
            ..Options::default()
        };
        self.out.push(Segment {
            flags: if c.ecn { SYN | ECE | CWR } else { SYN },
            seq: self.iss,
            window: c.buffer.min(0xffff) as u16,
            options,
            ..Segment::default()
        });
    }

    fn run_user(&mut self, now: Instant) {
        while self.next_write <= now && self.written < self.config.send {
            let (size, pause) = self.config.writes;
            self.written = (self.written + size).min(self.config.send);
            if !pause.is_zero() {
                self.next_write = now + pause;
            }
        }
        if let Some((size, pause)) = self.config.slow_reader {
            if self.next_read <= now {
                self.unread = self.unread.saturating_sub(size);
                self.next_read = now + pause;
            }
        } else {
            self.unread = 0;
        }
        let all_written = self.written == self.config.send;
        self.closed |= match self.config.close {
            Close::AfterSending => all_written,
            Close::AfterFin => all_written && self.fin_received(),
            Close::AfterReceiving(n) => all_written && self.received() >= n,
            Close::Abort(n) => {
                if self.received() >= n && self.una > 1 {
                    self.emit(now, RST | ACK, self.nxt, Vec::new());
                    self.end(Outcome::Aborted);
                }
                false
            }
            Close::Vanish(n) => {
                if self.received() >= n && self.una > 1 {
                    self.end(Outcome::Vanished);
                }
                false
            }
        };
    }

    fn on_retransmit_timer(&mut self, now: Instant) {
        self.backoff += 1;
        let rto = self.config.rto * 2u32.pow(self.backoff.min(4));
        self.retransmit_at = Some(now + rto);
        if self.backoff > self.config.retries {
            self.end(Outcome::GaveUp);
        } else if self.window_closed() {
            self.was_closed = true;
            let data = octets(self.config.sends, self.una - 1, 1);
            self.nxt = self.nxt.max(self.una);
            self.emit(now, ACK, self.una, data);
        } else {
            self.nxt = self.una;
            self.cwnd = self.peer_mss;
            self.dup_acks = 0;
        }
    }

    fn send_new(&mut self, now: Instant) {
        loop {
            let limit = self.right.min(self.una + self.cwnd);
            let data_end = 1 + self.written;
            if self.nxt < data_end && self.nxt < limit {
                let len = (data_end - self.nxt)
                    .min(limit - self.nxt)
                    .min(self.segment_size());
                let data = octets(self.config.sends, self.nxt - 1, len as usize);
                let at = self.nxt;
                self.nxt += len;
                let last = self.nxt == data_end;
                let fin = last && self.closed;
                let flags = ACK | if last { PSH } else { 0 } | if fin { FIN } else { 0 };
                self.nxt += u64::from(fin);
                self.emit(now, flags, at, data);
            } else if self.closed && self.nxt == self.fin_offset() {
                self.nxt += 1;
                self.emit(now, ACK | FIN, self.nxt - 1, Vec::new());
            } else {
                break;
            }
            self.retransmit_at.get_or_insert(now + self.config.rto);
        }
        if self.window_closed() {
            self.retransmit_at.get_or_insert(now + self.config.rto);
        }
    }

    /// When [`Self::run`] wants to be called next.
    pub(super) fn deadline(&self, now: Instant) -> Option<Instant> {
        if self.outcome.is_some() {
            return self.time_wait;
        }
        let write =
            (self.established && self.written < self.config.send).then_some(self.next_write);
        let read = (self.config.slow_reader.is_some() && self.unread > 0)
            .then_some(self.next_read.max(now));
        [self.retransmit_at, self.ack_at, write, read]
            .into_iter()
            .flatten()
            .min()
    }

    /// What the client sends now.
    pub(super) fn take_output(&mut self) -> Vec<Segment> {
        std::mem::take(&mut self.out)
    }
}
