//! The ACK field: RFC 9293 §3.10.7.4 fifth. What it means for what is in flight is
//! `flight`'s to say.

use super::flight::Arrival;
use super::state::Phase;
use super::{Connection, Env, Step};
use crate::proto::congestion::Congestion;
use crate::proto::segment::Segment;
use crate::proto::{CloseReason, Config, Instant};
use tcp_common::seq::SeqNum;

/// Octets that a connection's send buffer takes before anything was acknowledged, if it
/// may be so large.
pub(super) const FIRST_SEND_BUFFER: usize = 64 << 10;

impl Connection {
    /// RFC 5961 §5.2: SND.UNA - MAX.SND.WND <= SEG.ACK <= SND.NXT.
    pub(super) fn ack_is_acceptable(&self, ack: SeqNum) -> bool {
        ack.before_eq(self.snd.nxt)
            && (ack.after_eq(self.snd.una) || self.snd.una.distance_from(ack) <= self.snd.max_wnd)
    }

    pub(super) fn acknowledge(
        &mut self,
        now: Instant,
        seg: &Segment<'_>,
        env: &mut Env<'_>,
    ) -> Step {
        let window = u32::from(seg.window) << self.snd.shift;
        // RFC 5681 §2; with SACK, a block above SND.UNA says the same even if the
        // window moved. An answer to a zero-window probe says nothing of the kind.
        let duplicate = seg.ack == self.snd.una
            && self.is_outstanding()
            && seg.len() == 0
            && window > 0
            && (window == self.snd.wnd
                || seg
                    .sack
                    .as_slice()
                    .iter()
                    .any(|(_, right)| right.after(self.snd.una)));
        if duplicate {
            env.note = "duplicate ACK";
        }
        let advances = seg.ack.after(self.snd.una);
        let arrival = Arrival {
            acked: if advances {
                seg.ack.distance_from(self.snd.una)
            } else {
                0
            },
            duplicate,
            flight: self.snd.nxt.distance_from(self.snd.una),
        };
        let recovery = self.recovery();
        let fin_acknowledged = advances && self.advance(seg.ack, env);
        self.recover(now, seg, arrival);
        self.heed_echo(seg, recovery, arrival.flight);
        if advances {
            self.restart_retransmit(now);
        }
        self.update_window(now, seg, window, advances);
        if fin_acknowledged {
            match self.phase {
                Phase::FinWait1 => {
                    self.phase = Phase::FinWait2;
                    if self.finishing {
                        self.start_fin_wait_2(now, env.config);
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
    fn advance(&mut self, ack: SeqNum, env: &mut Env<'_>) -> bool {
        let octets = ack.distance_from(self.snd.una) as usize;
        let data = octets.min(self.send_buffer.len());
        self.send_buffer.ack(data, env.memory);
        self.snd.una = ack;
        self.retries = 0;
        self.probe = false;
        self.grow_send_buffer(env.config);
        if self.want_write && self.send_buffer.room() >= self.send_buffer.capacity() / 4 {
            self.want_write = false;
            self.writable = true;
        }
        octets > data && self.phase.has_fin()
    }

    /// A window to be sent while another is in flight: more would only lie there, as it does
    /// where a peer reads slowly. It never shrinks: cwnd may come back.
    fn grow_send_buffer(&mut self, config: &Config) {
        let wanted = (2 * self.congestion.cwnd() as usize).min(config.send_buffer);
        if wanted > self.send_buffer.capacity() {
            self.send_buffer.set_capacity(wanted);
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
                self.on_window_opened();
                self.restart_retransmit(now);
            }
        }
        if self.snd.wnd == 0 {
            // A peer that answers probes may keep its window shut for ever
            // (RFC 9293 §3.8.6.1, MUST-37).
            self.retries = 0;
        }
    }
}
