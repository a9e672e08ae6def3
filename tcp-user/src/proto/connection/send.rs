//! What to send next, and sending it.
//!
//! [`Connection::plan`] decides without changing anything, so that the endpoint can
//! ask whether a connection has output; [`Connection::transmit`] carries it out.

use super::state::{Inferred, Phase};
use super::timer::NEVER;
use super::{Connection, Env, Instant, Scoreboard};
use crate::proto::congestion::Congestion;
use crate::proto::frame::{Outgoing, sack_len};
use crate::proto::segment::SackList;
use crate::proto::trace::TraceEvent;
use tcp_common::seq::SeqNum;
use tcp_common::wire::Flags;

/// SACK blocks go on segments with text only if those are at least this large.
const SACK_ON_TEXT: u16 = 256;

/// Why a segment is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// The next octets: new, or again after a timeout.
    Text,
    /// The first octets again, in fast recovery.
    Head,
    /// Octets that the peer's SACK blocks leave out, in fast recovery.
    Hole,
    /// A zero-window probe.
    Probe,
    Keepalive,
    Ack,
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
        self.snd.una != self.snd.max
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
                return Some(Plan::empty(Kind::Keepalive, self.snd.max - 1));
            }
            (self.ack_now || self.dup_acks_due > 0).then(|| Plan::empty(Kind::Ack, self.ack_seq()))
        })
    }

    pub(super) fn has_text(&self) -> bool {
        self.plan_text().is_some()
    }

    fn plan_text(&self) -> Option<Plan> {
        if self.queued() == 0 {
            return None;
        }
        let mss = self.text_limit();
        let buffered = self.send_buffer.len();
        let open = self.snd.wnd as usize;
        if self.resend_head && self.is_outstanding() && open > 0 {
            let sent = self.snd.max.distance_from(self.snd.una) as usize;
            let len = buffered.min(mss).min(sent).min(open);
            return Some(Plan {
                kind: Kind::Head,
                seq: self.snd.una,
                len,
                fin: self.phase.has_fin() && len == buffered && sent > len && open > len,
            });
        }
        let in_flight = self.snd.nxt.distance_from(self.snd.una) as usize;
        if self.probe && self.snd.wnd == 0 {
            // One octet beyond the window, or the FIN if that is next.
            let len = buffered.min(1);
            return Some(Plan {
                kind: Kind::Probe,
                seq: self.snd.una,
                len,
                fin: len == 0,
            });
        }
        if let Some(plan) = self.plan_hole(mss) {
            return Some(plan);
        }
        let unsent = buffered.saturating_sub(in_flight);
        let fin_unsent = self.phase.has_fin() && in_flight <= buffered;
        if unsent == 0 && !fin_unsent {
            return None;
        }
        let window = (self.snd.wnd as usize).saturating_sub(in_flight);
        let len = unsent.min(mss).min(window);
        // The FIN takes a sequence number of the window, too.
        let fin = fin_unsent && len == unsent && window > len;
        if len == 0 {
            return fin.then_some(Plan {
                kind: Kind::Text,
                seq: self.snd.nxt,
                len,
                fin,
            });
        }
        if in_flight > 0 && !self.congestion_allows(len) {
            return None;
        }
        // Sender's SWS avoidance (RFC 9293 §3.8.6.2.1) with Nagle's algorithm in
        // Minshall's variant: only a small segment holds the next one back, so a
        // response whose last segment is short goes out at once.
        let last = len == unsent;
        let small_outstanding = self.snd.small.after(self.snd.una);
        let worth = len == mss
            || self.snd.nxt.before(self.snd.max)
            || (last && (self.phase.has_fin() || !self.nagle || !small_outstanding))
            || len * 2 >= self.snd.max_wnd as usize
            || self.probe;
        worth.then_some(Plan {
            kind: Kind::Text,
            seq: self.snd.nxt,
            len,
            fin,
        })
    }

    /// RFC 6675 §5 (C): the first hole that was not filled yet, as long as less than
    /// ssthresh is in the network.
    fn plan_hole(&self, mss: usize) -> Option<Plan> {
        let board = self.scoreboard.as_ref().filter(|_| self.in_recovery)?;
        let lost = board.lost_below(u32::from(self.snd.mss))?;
        let from = self.snd.una.max(board.resent);
        let (seq, octets) = board.hole(from, lost)?;
        let offset = seq.distance_from(self.snd.una) as usize;
        let open = (self.snd.wnd as usize).saturating_sub(offset);
        let hole = (octets as usize).min(open);
        let text = self.send_buffer.len().saturating_sub(offset);
        let len = text.min(hole).min(mss);
        let fin = self.phase.has_fin() && len == text && hole > len;
        ((len > 0 || fin) && self.congestion_allows(len)).then_some(Plan {
            kind: Kind::Hole,
            seq,
            len,
            fin,
        })
    }

    /// Whether `len` octets more may be in the network.
    fn congestion_allows(&self, len: usize) -> bool {
        self.in_flight() as usize + len <= self.congestion_limit() as usize
    }

    /// Octets that are believed to be in the network.
    pub(super) fn in_flight(&self) -> u32 {
        match &self.scoreboard {
            Some(board) if self.in_recovery => self.pipe(board),
            _ => self.snd.nxt.distance_from(self.snd.una),
        }
    }

    /// Octets that may be in the network: cwnd, and a segment more for each of the first
    /// two duplicate ACKs (limited transmit, RFC 3042). In recovery with SACK nothing
    /// is inflated: cwnd is ssthresh.
    pub(super) fn congestion_limit(&self) -> u32 {
        if !self.in_recovery {
            let extra = u32::from(self.dup_acks.min(2)) * u32::from(self.snd.mss);
            self.congestion.cwnd().saturating_add(extra)
        } else if self.scoreboard.is_some() {
            self.congestion.ssthresh()
        } else {
            self.congestion.cwnd()
        }
    }

    /// RFC 6675 §4, `SetPipe`: octets in the network. What is lost is not there, unless
    /// it was sent again.
    fn pipe(&self, board: &Scoreboard) -> u32 {
        let (una, max) = (self.snd.una, self.snd.max);
        let lost = board.lost_below(u32::from(self.snd.mss)).unwrap_or(una);
        board.missing(lost, max) + board.missing(una, board.resent.min(lost))
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
        self.snd.max.min(edge)
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
        let idle = now.millis().wrapping_sub(self.sent);
        if !self.is_outstanding() && u128::from(idle) > self.rtt.rto().as_millis() {
            // RFC 5681 §4.1.
            self.congestion.on_idle_restart();
        }
        let plan = self.plan()?;
        let with_sack = plan.len == 0 || self.snd.mss >= SACK_ON_TEXT;
        let (window, octets) = self.window_to_announce();
        let offset = plan.seq.distance_from(self.snd.una) as usize;
        let mut flags = Flags::ACK;
        if plan.fin {
            flags = flags.with(Flags::FIN);
        }
        if plan.len > 0 && offset + plan.len == self.send_buffer.len() {
            // RFC 9293 §3.9.1.2: at the end of what was written.
            flags = flags.with(Flags::PSH);
        }
        let segment = Outgoing {
            link: &self.link,
            flow: &self.flow,
            hop_limit: env.config.hop_limit,
            seq: plan.seq,
            ack: self.rcv.nxt,
            flags,
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
        };
        let len = segment.write(buf)?;
        let again = plan.seq.before(self.snd.max);
        let note = match plan.kind {
            Kind::Probe => "window probe",
            Kind::Keepalive => "keepalive",
            Kind::Text | Kind::Head | Kind::Hole if again => "retransmission",
            Kind::Text | Kind::Head | Kind::Hole | Kind::Ack => "",
        };
        let record = trace.map(|sink| {
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

    /// The TCB after the planned segment was sent.
    fn sent_plan(&mut self, now: Instant, plan: Plan, window: u32) {
        self.note_acknowledged(window);
        if plan.kind == Kind::Keepalive {
            self.keepalive_due = false;
        }
        if plan.len == 0 && !plan.fin {
            return;
        }
        let end = plan.seq + plan.len as u32 + u32::from(plan.fin);
        if plan.seq.before(self.snd.max) {
            self.retransmits = self.retransmits.saturating_add(1);
            self.timed_at = NEVER;
        } else if self.timed_at == NEVER {
            self.timed = end;
            self.timed_at = now;
        }
        let idle = !self.is_outstanding();
        self.bytes_out += u64::from(end.distance_from(plan.seq));
        match plan.kind {
            Kind::Head | Kind::Hole => {
                self.resend_head &= plan.kind != Kind::Head;
                if let Some(board) = &mut self.scoreboard {
                    board.resent = board.resent.max(end);
                }
            }
            Kind::Probe => self.probe = false,
            Kind::Text | Kind::Keepalive | Kind::Ack => {
                self.probe = false;
                self.snd.nxt = end;
                if plan.len < usize::from(self.snd.mss) {
                    self.snd.small = end;
                }
            }
        }
        self.snd.max = self.snd.max.max(end);
        if plan.fin {
            self.client.saw_our_fin();
        }
        if plan.fin && self.phase == (Phase::CloseWait { closing: true }) {
            self.phase = Phase::LastAck;
        }
        let in_flight = self.snd.nxt.distance_from(self.snd.una);
        self.cwnd_limited = in_flight + u32::from(self.snd.mss) > self.congestion.cwnd()
            || (self.congestion.cwnd() < self.congestion.ssthresh()
                && in_flight * 2 > self.congestion.cwnd());
        self.sent = now.millis();
        // RFC 6298 §5.1; what was armed while nothing was outstanding starts now.
        if idle && plan.kind == Kind::Text {
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
    const fn empty(kind: Kind, seq: SeqNum) -> Self {
        Self {
            kind,
            seq,
            len: 0,
            fin: false,
        }
    }
}
