//! The ACK field: RFC 9293 §3.10.7.4 fifth, with RFC 5681, 6298 and 6582.
//!
//! Loss recovery is that of RFC 6675 where the peer sends SACK, else NewReno. What
//! goes out again is decided in `send`.

use super::state::Phase;
use super::{Connection, Env, NEVER, Step};
use crate::proto::congestion::Congestion;
use crate::proto::segment::Segment;
use crate::proto::{CloseReason, Instant};
use std::time::Duration;
use tcp_common::seq::SeqNum;

/// Duplicate ACKs that mean a loss (RFC 5681 §3.2).
const DUP_THRESHOLD: u8 = 3;

/// A round-trip time above this is no sample but a broken echo.
const MAX_RTT: Duration = Duration::from_mins(2);

impl Connection {
    /// RFC 5961 §5.2: SND.UNA - MAX.SND.WND <= SEG.ACK <= SND.NXT.
    pub(super) fn ack_is_acceptable(&self, ack: SeqNum) -> bool {
        ack.before_eq(self.snd.max)
            && (ack.after_eq(self.snd.una) || self.snd.una.distance_from(ack) <= self.snd.max_wnd)
    }

    pub(super) fn acknowledge(
        &mut self,
        now: Instant,
        seg: &Segment<'_>,
        env: &mut Env<'_>,
    ) -> Step {
        let window = u32::from(seg.window) << self.snd.shift;
        // RFC 5681 §2; with SACK, a new block says the same even if the window moved
        // (RFC 6675 §2). An answer to a zero-window probe says nothing of the kind.
        let duplicate =
            seg.ack == self.snd.una && self.is_outstanding() && seg.len() == 0 && window > 0;
        let same_window = window == self.snd.wnd;
        let advances = seg.ack.after(self.snd.una);
        let fin_acknowledged = advances && self.advance(now, seg);
        let told = self.read_sack(seg);
        self.update_window(now, seg, window, advances);
        if told || (duplicate && same_window) {
            if duplicate {
                env.note = "duplicate ACK";
            }
            self.loss_signal(now, duplicate);
        }
        if fin_acknowledged {
            match self.phase {
                Phase::FinWait1 => {
                    self.phase = Phase::FinWait2;
                    if self.orphan {
                        self.start_fin_wait_2(now);
                    }
                }
                Phase::Closing => return Step::TimeWait,
                Phase::LastAck => return Step::Closed(CloseReason::Done),
                _ => {}
            }
        }
        Step::Open
    }

    /// New data is acknowledged. Whether our FIN is, too.
    fn advance(&mut self, now: Instant, seg: &Segment<'_>) -> bool {
        let flight = self.snd.max.distance_from(self.snd.una);
        let octets = seg.ack.distance_from(self.snd.una);
        let data = (octets as usize).min(self.send_buffer.len());
        self.send_buffer.ack(data);
        self.sample_rtt(now, seg);
        self.snd.una = seg.ack;
        self.snd.nxt = self.snd.nxt.max(seg.ack);
        self.retries = 0;
        self.probe = false;
        self.resend_head = false;

        if self.scoreboard.as_mut().is_some_and(|b| b.advance(seg.ack)) {
            self.scoreboard = None;
        }
        if self.in_recovery {
            let left = self.snd.max.distance_from(seg.ack);
            if seg.ack.after_eq(self.recover) {
                self.in_recovery = false;
                self.congestion.exit_recovery(left);
            } else {
                // RFC 6582 §3.2 step 3, partial acknowledgment: the next segment is
                // lost, too. With SACK it may have been sent again already.
                self.congestion.on_partial_ack(octets);
                let resent = self.scoreboard.as_ref().map_or(seg.ack, |b| b.resent);
                if resent.before_eq(seg.ack) {
                    self.resend();
                }
            }
        } else {
            self.congestion
                .on_ack(now, data as u32, flight, self.cwnd_limited);
        }
        self.dup_acks = 0;
        self.restart_retransmit(now);
        if self.want_write && self.send_buffer.room() >= self.send_buffer.capacity() / 4 {
            self.want_write = false;
            self.writable = true;
        }
        octets as usize > data && self.phase.has_fin()
    }

    /// RFC 6298 §3: one segment at a time is timed, and never one that was sent
    /// twice. Where that leaves no sample, the timestamp echo gives one
    /// (RFC 7323 §4.1): it says which of the copies arrived.
    fn sample_rtt(&mut self, now: Instant, seg: &Segment<'_>) {
        if self.timed_at != NEVER {
            if seg.ack.after_eq(self.timed) {
                self.rtt.sample(now.saturating_since(self.timed_at));
                self.timed_at = NEVER;
            }
            return;
        }
        if let (Some(stamps), Some(ts)) = (&self.stamps, seg.timestamps) {
            let millis = stamps.at(now).val.wrapping_sub(ts.ecr);
            let rtt = Duration::from_millis(u64::from(millis));
            if rtt <= MAX_RTT {
                self.rtt.sample(rtt);
            }
        }
    }

    /// SND.WL1 and SND.WL2 keep old segments from changing the window. An ACK that
    /// advances SND.UNA is no old one, whatever its sequence number: a peer that went
    /// back after a timeout sends lower ones than before. Its window must count,
    /// or the right edge would move with SND.UNA beyond what the peer offers.
    fn update_window(&mut self, now: Instant, seg: &Segment<'_>, window: u32, advances: bool) {
        if seg.ack != self.snd.una {
            return;
        }
        let newer = advances
            || self.snd.wl1.before(seg.seq)
            || (self.snd.wl1 == seg.seq && self.snd.wl2.before_eq(seg.ack));
        if newer {
            let opened = self.snd.wnd == 0 && window > 0;
            self.snd.wnd = window;
            self.snd.wl1 = seg.seq;
            self.snd.wl2 = seg.ack;
            self.snd.max_wnd = self.snd.max_wnd.max(window);
            if opened {
                self.retries = 0;
                self.probe = false;
                self.rtt.reset_backoff();
                self.restart_retransmit(now);
            }
        }
        if self.snd.wnd == 0 {
            // A peer that answers probes may keep its window shut for ever
            // (RFC 9293 §3.8.6.1, MUST-37).
            self.retries = 0;
        }
    }

    /// Enters the SACK blocks; whether they tell anything new.
    fn read_sack(&mut self, seg: &Segment<'_>) -> bool {
        if !self.sack {
            return false;
        }
        let una = self.snd.una;
        let outstanding = self.snd.max.distance_from(una);
        let mut told = false;
        for &(left, right) in seg.sack.as_slice() {
            // A D-SACK lies below SND.UNA and is left out, as is nonsense.
            // Distances, not `before`: these may lie half the space apart.
            let (from, to) = (left.distance_from(una), right.distance_from(una));
            if from < to && to <= outstanding {
                let board = self.scoreboard.get_or_insert_default();
                if board.ranges_are_empty() {
                    board.resent = una;
                }
                told |= board.insert(left, right);
            }
        }
        told
    }

    /// A duplicate ACK, or SACK blocks that tell of a gap.
    fn loss_signal(&mut self, now: Instant, duplicate: bool) {
        if duplicate {
            self.dup_acks = self.dup_acks.saturating_add(1);
        }
        if self.in_recovery {
            if duplicate {
                self.congestion.on_dup_ack_in_recovery();
            }
            return;
        }
        let mss = u32::from(self.snd.mss);
        let lost = self.dup_acks >= DUP_THRESHOLD
            || self
                .scoreboard
                .as_ref()
                .and_then(|b| b.lost_below(mss))
                .is_some_and(|edge| edge.after(self.snd.una));
        if lost && self.snd.una.after_eq(self.recover) {
            // RFC 6582 §3.2 step 2, RFC 6675 §5 step 4.
            let flight = self.snd.nxt.distance_from(self.snd.una);
            self.congestion.enter_recovery(now, flight);
            self.recover = self.snd.max;
            self.in_recovery = true;
            if let Some(board) = &mut self.scoreboard {
                board.resent = self.snd.una;
            }
            self.resend();
        }
    }

    /// Lets the first segment be sent again.
    fn resend(&mut self) {
        self.resend_head = true;
        self.timed_at = NEVER;
    }
}
