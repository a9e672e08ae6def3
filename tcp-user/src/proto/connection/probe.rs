//! Loss probes: a segment that makes the peer say what it has, where silence would else
//! last until the retransmission timer.
//!
//! The first is the tail loss probe of RFC 8985 §7. That RFC allows one, and none in recovery,
//! where the loss of the last retransmission, or of the one ACK that answers it, means a
//! timeout. RFC 9002 §6.2 shows the way out for QUIC: probe in every state, with
//! exponential backoff, before anything drastic is done. Here the probes after the first, and
//! those in recovery, are the first segment again. The peer must answer that at once,
//! whether it has it or not (RFC 5681 §4.2), so no delayed ACK has to be waited for, and
//! what it answers tells everything. The retransmission timer goes on meanwhile; a
//! timeout that is not answered is followed by no probe but by RFC 6298's backoff.

use super::flight::{Arrival, Flight, Recovery};
use super::timer::NEVER;
use super::{Connection, Instant, Segment};
use crate::proto::congestion::Congestion;
use std::time::Duration;
use tcp_common::seq::SeqNum;

/// `TLP.max_ack_delay` (RFC 8985 §7.2): how long a peer may sit on the ACK of one segment. Most sit
/// on it for 40 ms or less, and who sits on it longer is told by the first probe that was not
/// needed: it costs a segment, where waiting costs everybody whose last segment is lost.
const MAX_ACK_DELAY: Duration = Duration::from_millis(50);
/// The same for those who do.
const SLOW_ACK_DELAY: Duration = Duration::from_millis(200);
/// What timers and schedulers on both sides may add to a round trip.
const SLACK: Duration = Duration::from_millis(2);
/// Probes in a row at most.
const MAX_PROBES: u8 = 4;

/// A tail loss probe that was sent (RFC 8985 §7.1).
#[derive(Clone, Copy, Debug)]
struct TailProbe {
    /// `TLP.end_seq`.
    end: SeqNum,
    /// `TLP.is_retrans`.
    again: bool,
    /// Of a single segment, whose ACK was waited for.
    alone: bool,
}

/// The probes of a flight.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Probes {
    /// One is to be sent.
    pub(super) due: bool,
    /// Sent without an answer.
    unanswered: u8,
    tail: Option<TailProbe>,
}

impl Probes {
    /// One was sent, and nothing has come since.
    pub(super) const fn is_unanswered(&self) -> bool {
        self.unanswered > 0
    }

    /// An ACK brought news.
    pub(super) fn on_answer(&mut self) {
        self.due = false;
        self.unanswered = 0;
    }

    /// A recovery begins. A tail loss probe of new octets stays the only one until it is
    /// acknowledged: the recovery may turn out to have been needless.
    pub(super) fn restart(&mut self) {
        *self = Self {
            tail: self.tail.filter(|probe| !probe.again),
            ..Self::default()
        };
    }

    /// It is not known yet whether the tail loss probe repaired a loss.
    pub(super) const fn is_undecided(&self) -> bool {
        self.tail.is_some()
    }
}

impl Flight {
    /// The next probe is a tail loss probe, else the first segment again.
    pub(super) fn probes_tail(&self) -> bool {
        self.recovery == Recovery::None
            && self.board.sacked() == 0
            && self.board.lost() == 0
            && self.probes.unanswered == 0
            && self.probes.tail.is_none()
    }

    /// A probe was sent; `again`: octets that had been sent before; `alone`:
    /// there are no others.
    pub(super) fn on_probe(&mut self, tail: bool, again: bool, alone: bool) {
        self.probes.due = false;
        self.probes.unanswered += 1;
        if tail {
            self.probes.tail = Some(TailProbe {
                end: self.board.nxt(),
                again,
                alone,
            });
        }
    }
}

impl Connection {
    /// What became of a tail loss probe (RFC 8985 §7.4.2).
    pub(super) fn judge_probe(
        &mut self,
        f: &mut Flight,
        dsack: Option<(SeqNum, SeqNum)>,
        seg: &Segment<'_>,
        arrival: Arrival,
    ) {
        let Some(probe) = f.probes.tail else { return };
        if seg.ack.before(probe.end) {
            return;
        }
        if !probe.again {
            f.probes.tail = None;
        } else if dsack.is_some_and(|(_, right)| right == probe.end) {
            f.probes.tail = None;
            self.probed_for_nothing(probe);
        } else if seg.ack.after(probe.end) {
            // It repaired a loss, which has to count as one.
            f.probes.tail = None;
            if f.recovery == Recovery::None {
                self.congestion.on_loss(arrival.flight);
                self.congestion.on_recovered();
            }
        } else if arrival.acked == 0 && seg.sack.as_slice().is_empty() {
            // Two ACKs: the original arrived as well.
            f.probes.tail = None;
            self.probed_for_nothing(probe);
        }
    }

    /// The original had arrived: its ACK was only kept back, if it was the only one.
    fn probed_for_nothing(&mut self, probe: TailProbe) {
        if probe.alone {
            self.rtt.note_slow_acks();
        }
    }

    /// Starts the probe timer anew, or stops it, unless RACK needs it (RFC 8985 §7.2).
    pub(super) fn schedule_probe(&self, now: Instant, f: &mut Flight) {
        if f.reorder_timer || f.probes.due {
            return;
        }
        f.deadline = NEVER;
        if !self.sack
            || f.board.is_empty()
            || f.probes.unanswered >= MAX_PROBES
            || self.snd.wnd == 0
            || self.retries > 0
        {
            return;
        }
        let rto = self.rtt.rto();
        if !f.probes_tail() {
            // RFC 9002 §6.2.1.
            let Some(srtt) = self.rtt.srtt() else { return };
            let timeout = srtt + (4 * self.rtt.rttvar()).max(srtt) + SLACK;
            let at = now + timeout * (1 << f.probes.unanswered);
            if at < self.timers.retransmit.min(now + rto) {
                f.deadline = at;
            }
            return;
        }
        let timeout = match self.rtt.srtt() {
            Some(srtt) if f.board.pipe() <= u32::from(self.snd.mss) => {
                let delay = if self.rtt.acks_are_slow() {
                    SLOW_ACK_DELAY
                } else {
                    MAX_ACK_DELAY
                };
                2 * srtt + delay
            }
            Some(srtt) => 2 * srtt + SLACK,
            None => Duration::from_secs(1),
        };
        f.deadline = now + timeout.min(rto);
    }
}
