//! What to send next, and sending it.
//!
//! [`Connection::plan`] decides without changing anything, so that the endpoint can
//! ask whether a connection has output; [`Connection::transmit`] carries it out.

use super::flight::Flight;
use super::state::{Inferred, Phase};
use super::timer::NEVER;
use super::{Connection, Env, Instant};
use crate::proto::congestion::Congestion;
use crate::proto::frame::{Outgoing, sack_len};
use crate::proto::segment::SackList;
use crate::proto::trace::TraceEvent;
use crate::proto::train::Train;
use tcp_common::seq::SeqNum;
use tcp_common::wire::Flags;

/// SACK blocks go on segments with text only if those are at least this large.
const SACK_ON_TEXT: u16 = 256;

/// Why a segment is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// New octets.
    Text,
    /// Lost octets again.
    Again,
    /// New octets, or the last ones or the first ones again, to make the peer speak.
    LossProbe,
    /// A zero-window probe.
    Probe,
    Keepalive,
    Ack,
}

impl Kind {
    /// What a trace says of it.
    const fn note(self) -> &'static str {
        match self {
            Self::Probe => "window probe",
            Self::LossProbe => "loss probe",
            Self::Keepalive => "keepalive",
            Self::Again => "retransmission",
            Self::Text | Self::Ack => "",
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Plan {
    kind: Kind,
    seq: SeqNum,
    len: usize,
    fin: bool,
}

impl Connection {
    /// Sequence space from SND.UNA on that is queued or sent: text and FIN.
    fn queued(&self) -> u32 {
        self.send_buffer.len() as u32 + u32::from(self.phase.has_fin())
    }

    /// Something was sent and is not acknowledged.
    pub(super) fn is_outstanding(&self) -> bool {
        self.snd.una != self.snd.nxt
    }

    /// Text or the FIN waits to be sent for the first time.
    fn has_unsent(&self) -> bool {
        self.queued() > self.snd.nxt.distance_from(self.snd.una)
    }

    /// When pacing lets the next segment out, if that is what it waits for.
    pub(super) fn paced_until(&self) -> Option<Instant> {
        let flight = self.flight.as_ref()?;
        let waits = flight.board.lost() > 0 || self.has_unsent();
        self.congestion.credit_at().filter(|_| waits)
    }

    /// Something was sent and is not acknowledged, or waits to be sent.
    pub(super) fn has_unacknowledged(&self) -> bool {
        self.is_outstanding() || self.queued() > 0
    }

    /// Whether [`Self::transmit`] has something to send.
    pub(in crate::proto) fn has_output(&self) -> bool {
        self.plan().is_some()
    }

    fn plan(&self) -> Option<Plan> {
        if matches!(self.phase, Phase::Lingering { .. }) {
            return None;
        }
        self.plan_text().or_else(|| {
            if self.keepalive_due {
                // RFC 9293 §3.8.4: SEG.SEQ = SND.NXT-1.
                return Some(Plan::empty(Kind::Keepalive, self.snd.nxt - 1));
            }
            (self.ack_now || self.dup_acks_due > 0).then(|| Plan::empty(Kind::Ack, self.ack_seq()))
        })
    }

    /// New octets of two full segments or more, if that is what comes next and nothing but
    /// the sequence number tells the segments apart.
    fn plan_train(&self) -> Option<Plan> {
        let mut plan = self.plan_text()?;
        let mss = usize::from(self.snd.mss);
        if plan.kind != Kind::Text
            || plan.len != mss
            || plan.fin
            || self.text_limit() != mss
            || self.ecn.reduced
            || !self.link.is_plain()
        {
            return None;
        }
        let in_flight = self.snd.nxt.distance_from(self.snd.una) as usize;
        let unsent = self.send_buffer.len().saturating_sub(in_flight);
        let window = (self.snd.wnd as usize).saturating_sub(in_flight);
        let pipe = self.pipe();
        let cwnd = self.congestion.cwnd().saturating_sub(pipe) as usize;
        // The one segment that may always be in flight is no run.
        let paced = self.congestion.piece() as usize;
        let most = unsent.min(window).min(cwnd).min(paced);
        let most = most.min(Train::limit(mss));
        plan.len = most / mss * mss;
        (plan.len >= 2 * mss).then_some(plan)
    }

    /// Whether [`Self::transmit_train`] has something to send.
    pub(in crate::proto) fn has_train(&self) -> bool {
        self.plan_train().is_some()
    }

    pub(super) fn has_text(&self) -> bool {
        self.plan_text().is_some()
    }

    fn plan_text(&self) -> Option<Plan> {
        if self.queued() == 0 {
            return None;
        }
        if self.probe && self.snd.wnd == 0 {
            // One octet beyond the window, or the FIN if that is next.
            let len = self.send_buffer.len().min(1);
            return Some(Plan {
                kind: Kind::Probe,
                seq: self.snd.una,
                len,
                fin: len == 0,
            });
        }
        if let Some(flight) = &self.flight {
            if flight.probes.due {
                return if flight.probes_tail() {
                    self.plan_tail_probe(flight)
                } else {
                    self.plan_head_probe(flight)
                };
            }
            if let Some((start, end)) = flight.board.next_lost() {
                let plan = self.plan_again(Kind::Again, start, end)?;
                return self.fits(plan.len).then_some(plan);
            }
        }
        self.plan_new()
    }

    /// Whether the congestion window has room, and pacing lets it out. One segment may always be in flight.
    fn fits(&self, len: usize) -> bool {
        let Some(flight) = &self.flight else {
            return true;
        };
        let pipe = flight.pipe();
        pipe == 0
            || flight.force
            || (pipe + len as u32 <= self.congestion.cwnd() && self.congestion.has_credit())
    }

    /// Octets of `[start, end)` once more, as many as a segment takes.
    fn plan_again(&self, kind: Kind, start: SeqNum, end: SeqNum) -> Option<Plan> {
        let buffered = self.send_buffer.len();
        let offset = start.distance_from(self.snd.una) as usize;
        let octets = end.distance_from(start) as usize;
        let room = (self.snd.wnd as usize).saturating_sub(offset);
        let text = buffered.saturating_sub(offset).min(octets);
        let len = text.min(self.text_limit()).min(room);
        let fin = self.phase.has_fin()
            && octets > text
            && offset + len == buffered.max(offset)
            && room > len;
        (len > 0 || fin).then_some(Plan {
            kind,
            seq: start,
            len,
            fin,
        })
    }

    /// RFC 8985 §7.3: a new segment if there is one, whatever cwnd and Nagle say,
    /// else the last one again.
    fn plan_tail_probe(&self, flight: &Flight) -> Option<Plan> {
        let in_flight = self.snd.nxt.distance_from(self.snd.una) as usize;
        let buffered = self.send_buffer.len();
        let room = (self.snd.wnd as usize).saturating_sub(in_flight);
        let unsent = buffered.saturating_sub(in_flight);
        let len = unsent.min(self.text_limit()).min(room);
        if len > 0 {
            return Some(Plan {
                kind: Kind::LossProbe,
                seq: self.snd.nxt,
                len,
                fin: self.phase.has_fin() && len == unsent && room > len,
            });
        }
        let last = flight.board.last()?;
        let fin = u32::from(in_flight > buffered);
        let most = (self.text_limit() as u32 + fin).min(last.len());
        self.plan_again(Kind::LossProbe, last.end - most, last.end)
    }

    /// The first octets again, as a probe.
    fn plan_head_probe(&self, flight: &Flight) -> Option<Plan> {
        let first = flight.board.first()?;
        self.plan_again(Kind::LossProbe, first.start, first.end)
    }

    fn plan_new(&self) -> Option<Plan> {
        let mss = self.text_limit();
        let buffered = self.send_buffer.len();
        let in_flight = self.snd.nxt.distance_from(self.snd.una) as usize;
        let unsent = buffered.saturating_sub(in_flight);
        let fin_unsent = self.phase.has_fin() && in_flight <= buffered;
        if unsent == 0 && !fin_unsent {
            return None;
        }
        let window = (self.snd.wnd as usize).saturating_sub(in_flight);
        let len = unsent.min(mss).min(window);
        // The FIN takes a sequence number of the window, too.
        let fin = fin_unsent && len == unsent && window > len;
        let plan = Plan {
            kind: Kind::Text,
            seq: self.snd.nxt,
            len,
            fin,
        };
        if len == 0 {
            return fin.then_some(plan);
        }
        if !self.fits(len) {
            return None;
        }
        // Sender's SWS avoidance (RFC 9293 §3.8.6.2.1) with Nagle's algorithm in
        // Minshall's variant: only a small segment holds the next one back, so a
        // response whose last segment is short goes out at once.
        let last = len == unsent;
        let small_outstanding = self.snd.small.after(self.snd.una);
        let worth = len == mss
            || (last && (self.phase.has_fin() || !self.nagle || !small_outstanding))
            || len * 2 >= self.snd.max_wnd as usize
            || self.probe;
        worth.then_some(plan)
    }

    /// Octets of text in the next segment at most.
    fn text_limit(&self) -> usize {
        let mss = usize::from(self.snd.mss);
        if self.assembler.is_empty() && self.rcv.duplicate.1 == 0 {
            return mss;
        }
        mss - self.sack_octets(self.snd.mss >= SACK_ON_TEXT)
    }

    fn sack_octets(&self, wanted: bool) -> usize {
        if wanted {
            sack_len(self.sack_list().as_slice().len())
        } else {
            0
        }
    }

    /// RFC 2018 §4: the block with the latest arrival first, before it a duplicate
    /// (RFC 2883 §4).
    fn sack_list(&self) -> SackList {
        let mut list = SackList::default();
        if !self.sack {
            return list;
        }
        let most = if self.stamps.is_some() { 3 } else { 4 };
        let (start, octets) = self.rcv.duplicate;
        if octets > 0 {
            list.push(start, start + u32::from(octets));
        }
        for &(start, end) in self.assembler.recent::<4>().iter() {
            if list.as_slice().len() >= most {
                break;
            }
            list.push(self.rcv.nxt + start, self.rcv.nxt + end);
        }
        list
    }

    /// Sequence number of a segment without text: SND.NXT, but not beyond a window
    /// that was shrunk or probed, where the peer would not take it.
    fn ack_seq(&self) -> SeqNum {
        let edge = self.snd.una + self.snd.wnd;
        self.snd.nxt.min(edge)
    }

    /// The window as the buffer would allow, in whole units of its scale.
    pub(super) fn open_window(&self) -> usize {
        let unit = 1_usize << self.rcv.shift;
        let room = self.recv_buffer.window().saturating_sub(unit) & !(unit - 1);
        room.min(usize::from(u16::MAX) << self.rcv.shift)
    }

    /// The window field of the next segment, and what it means in octets.
    pub(super) fn window_to_announce(&self) -> (u16, u32) {
        let promised = self.rcv.window();
        let room = self.open_window() as u32;
        let shift = self.rcv.shift;
        // Receiver's SWS avoidance (RFC 9293 §3.8.6.2.2).
        let step = u32::from(self.rcv.mss.max(536)).min(self.recv_buffer.capacity() as u32 / 2);
        let field = if room >= promised.saturating_add(step) {
            room >> shift
        } else {
            // The edge stays. Rounding down would move it left by part of a unit;
            // the buffer has one unit more for rounding up.
            let up = promised.div_ceil(1 << shift);
            if (up << shift) as usize <= self.recv_buffer.window() {
                up
            } else {
                promised >> shift
            }
        };
        let field = field.min(u32::from(u16::MAX));
        (field as u16, field << shift)
    }

    /// Writes the next segment into `buf`; returns the frame's length. `trace` gets
    /// its record.
    pub(in crate::proto) fn transmit(
        &mut self,
        now: Instant,
        buf: &mut [u8],
        env: &mut Env<'_>,
        trace: Option<&mut dyn FnMut(TraceEvent)>,
    ) -> Option<usize> {
        self.restart(now);
        let plan = self.plan()?;
        let (window, octets) = self.window_to_announce();
        let segment = self.outgoing(now, plan, window, env);
        let len = segment.write(buf)?;
        let record = trace.map(|sink| {
            let note = plan.kind.note();
            let record = segment.trace(now, octets, self.client, self.phase.name(), note);
            (sink, record)
        });
        self.sent_plan(now, plan, octets);
        if let Some((sink, mut record)) = record {
            record.client = self.client;
            record.server = self.phase.name();
            sink(record);
        }
        Some(len)
    }

    /// Hands the next run of full segments to `send`, which says whether it took it. `None`: there
    /// is none.
    pub(in crate::proto) fn transmit_train(
        &mut self,
        now: Instant,
        env: &Env<'_>,
        send: impl FnOnce(&Train<'_>) -> bool,
        trace: Option<&mut dyn FnMut(TraceEvent)>,
    ) -> Option<bool> {
        self.restart(now);
        let plan = self.plan_train()?;
        let (window, octets) = self.window_to_announce();
        let segment = self.outgoing(now, plan, window, env);
        if !send(&Train::new(&segment, self.snd.mss)?) {
            return Some(false);
        }
        let record = trace.map(|sink| {
            let record = segment.trace(now, octets, self.client, self.phase.name(), "");
            (sink, record)
        });
        self.sent_plan(now, plan, octets);
        if let Some((sink, record)) = record {
            // Each segment as it will be on the wire.
            let mss = usize::from(self.snd.mss);
            for at in (0..plan.len).step_by(mss) {
                let mut one = record.clone();
                one.seq = one.seq.wrapping_add(at as u32);
                one.len = mss;
                if at + mss < plan.len {
                    one.flags = one.flags.without(Flags::PSH);
                }
                one.client = self.client;
                one.server = self.phase.name();
                sink(one);
            }
        }
        Some(true)
    }

    /// Before anything is sent: what the time since the last segment means.
    fn restart(&mut self, now: Instant) {
        let idle = now.millis().wrapping_sub(self.sent);
        if !self.is_outstanding() && u128::from(idle) > self.rtt.rto().as_millis() {
            // RFC 5681 §4.1.
            self.congestion.on_idle_restart();
        }
        self.raise_mss(now);
    }

    fn outgoing(&self, now: Instant, plan: Plan, window: u16, env: &Env<'_>) -> Outgoing<'_> {
        let with_sack = plan.len == 0 || self.snd.mss >= SACK_ON_TEXT;
        let offset = plan.seq.distance_from(self.snd.una) as usize;
        let mut flags = Flags::ACK;
        if plan.fin {
            flags = flags.with(Flags::FIN);
        }
        if plan.len > 0 && offset + plan.len == self.send_buffer.len() {
            // RFC 9293 §3.9.1.2: at the end of what was written.
            flags = flags.with(Flags::PSH);
        }
        let (ecn, marks) = self.ecn.mark(plan.is_new_text());
        Outgoing {
            link: &self.link,
            flow: &self.flow,
            hop_limit: env.config.hop_limit,
            ecn,
            seq: plan.seq,
            ack: self.rcv.nxt,
            flags: flags.with(marks),
            window,
            syn_ack: None,
            timestamps: self.stamps.map(|s| s.at(now)),
            sack: if with_sack {
                self.sack_list()
            } else {
                SackList::default()
            },
            payload: if plan.len == 0 {
                [&[], &[]]
            } else {
                self.send_buffer.slices_at(offset, plan.len)
            },
        }
    }

    /// The TCB after the planned segment was sent.
    fn sent_plan(&mut self, now: Instant, plan: Plan, window: u32) {
        self.note_acknowledged(window);
        if plan.is_new_text() {
            self.ecn.reduced = false;
        }
        if plan.kind == Kind::Keepalive {
            self.keepalive_due = false;
        }
        if plan.len == 0 && !plan.fin {
            return;
        }
        let end = plan.seq + plan.len as u32 + u32::from(plan.fin);
        let idle = !self.is_outstanding();
        let again = plan.seq.before(self.snd.nxt);
        let tail = self.flight.as_ref().is_some_and(|f| f.probes_tail());
        let srtt = self.rtt.srtt();
        let una = self.snd.una;
        self.bytes_out += u64::from(end.distance_from(plan.seq));
        let mut flight = self
            .flight
            .take()
            .unwrap_or_else(|| Box::new(Flight::new(una, srtt)));
        if let Some(model) = self.congestion.model() {
            model.on_sent(now, end.distance_from(plan.seq), flight.pipe());
        }
        if again {
            self.retransmits = self.retransmits.saturating_add(1);
            flight.on_retransmit(plan.seq, end, now);
        } else {
            flight.on_new(end, now);
            self.snd.nxt = end;
        }
        self.probe = false;
        match plan.kind {
            Kind::Probe => flight.window_probed = true,
            Kind::LossProbe => {
                let octets = self.snd.nxt.distance_from(self.snd.una);
                flight.on_probe(tail, again, octets <= u32::from(self.snd.mss));
            }
            Kind::Text | Kind::Again | Kind::Keepalive | Kind::Ack => {}
        }
        if !again && plan.kind != Kind::Probe && plan.len < usize::from(self.snd.mss) {
            self.snd.small = end;
        }
        if plan.kind != Kind::Probe {
            self.schedule_probe(now, &mut flight);
        }
        let pipe = flight.pipe();
        let is_all = flight.board.lost() == 0 && !self.has_unsent();
        if let Some(model) = self.congestion.model()
            && is_all
            && pipe < model.cwnd()
        {
            model.on_app_limited(pipe);
        }
        self.flight = Some(flight);
        if plan.fin {
            self.client.saw_our_fin();
        }
        if plan.fin && self.phase == (Phase::CloseWait { closing: true }) {
            self.phase = Phase::LastAck;
        }
        let cwnd = self.congestion.cwnd();
        self.cwnd_limited = pipe + u32::from(self.snd.mss) > cwnd
            || (cwnd < self.congestion.ssthresh() && pipe.saturating_mul(2) > cwnd);
        self.sent = now.millis();
        // RFC 6298 §5.1; what was armed while nothing was outstanding starts now. RFC 6675 §6:
        // anew with the first segment; RFC 8985 §7.3: after a probe.
        let first = again && plan.seq == self.snd.una && plan.kind == Kind::Again;
        if (idle && plan.kind == Kind::Text) || first || (tail && plan.kind == Kind::LossProbe) {
            self.timers.retransmit = NEVER;
        }
        self.arm_retransmit(now);
    }

    /// Every segment acknowledges and announces a window.
    fn note_acknowledged(&mut self, window: u32) {
        if self.dup_acks_due > 0 {
            self.dup_acks_due -= 1;
        }
        if !self.phase.receives() {
            self.client.fin_acknowledged();
        }
        self.ack_now = false;
        self.rcv.duplicate.1 = 0;
        self.timers.ack = NEVER;
        self.rcv.acked = self.rcv.nxt;
        self.rcv.edge = self.rcv.edge.max(self.rcv.nxt + window);
    }
}

impl Plan {
    const fn is_new_text(&self) -> bool {
        matches!(self.kind, Kind::Text) && self.len > 0
    }

    const fn empty(kind: Kind, seq: SeqNum) -> Self {
        Self {
            kind,
            seq,
            len: 0,
            fin: false,
        }
    }
}
