//! Explicit congestion notification (RFC 3168).

use super::flight::Recovery;
use super::{Connection, Segment};
use crate::proto::congestion::Congestion;
use tcp_common::seq::SeqNum;
use tcp_common::wire::Flags;

/// ECT(0) in the IP header (RFC 3168 §5).
pub(super) const ECT_0: u8 = 2;
/// Congestion experienced.
const CE: u8 = 3;

/// State of both directions.
pub(super) struct Ecn {
    /// The SYN offered it and our SYN-ACK agreed; the cookie remembers (§6.1.1).
    pub(super) agreed: bool,
    /// CE was received, and no CWR since: ACKs carry ECE (§6.1.3).
    pub(super) echo: bool,
    /// cwnd was reduced: the next new text carries CWR (§6.1.2).
    pub(super) reduced: bool,
    /// ACKs up to here are of the window that was reduced.
    until: SeqNum,
}

impl Ecn {
    pub(super) const fn new(agreed: bool, una: SeqNum) -> Self {
        Self {
            agreed,
            echo: false,
            reduced: false,
            until: una,
        }
    }

    /// A valid segment arrived (§6.1.3). CWR is from before this segment met a queue.
    pub(super) fn on_segment(&mut self, seg: &Segment<'_>) {
        if !self.agreed {
            return;
        }
        if seg.flags.has(Flags::CWR) {
            self.echo = false;
        }
        // Only text is sent with ECT (§6.1.4).
        if seg.ecn == CE && !seg.payload.is_empty() {
            self.echo = true;
        }
    }

    /// Codepoint and flags of a segment that is sent: ECT(0) only on new text (§6.1.4,
    /// §6.1.5, §6.1.6).
    pub(super) fn mark(&self, new_text: bool) -> (u8, Flags) {
        let mut flags = Flags::default();
        if self.echo {
            flags = flags.with(Flags::ECE);
        }
        if !self.agreed || !new_text {
            return (0, flags);
        }
        if self.reduced {
            flags = flags.with(Flags::CWR);
        }
        (ECT_0, flags)
    }
}

impl Connection {
    /// Which recovery goes on.
    pub(super) fn recovery(&self) -> Recovery {
        self.flight.as_ref().map_or(Recovery::None, |f| f.recovery)
    }

    /// After an ACK was taken into account: what ECE says, and whether a loss reduced cwnd.
    /// `before` is the recovery that went on before it, `flight` the octets that were out.
    pub(super) fn heed_echo(&mut self, seg: &Segment<'_>, before: Recovery, flight: u32) {
        if !self.ecn.agreed {
            return;
        }
        let recovery = self.recovery();
        if recovery != Recovery::None {
            if before != recovery {
                // §6.1.2: CWR, for whatever reason.
                self.ecn.reduced = true;
            }
            // A window is reduced once.
            self.ecn.until = self.snd.nxt;
        } else if seg.flags.has(Flags::ECE) && seg.ack.after(self.ecn.until) {
            self.congestion.on_loss(flight);
            self.congestion.on_recovered();
            self.ecn.until = self.snd.nxt;
            self.ecn.reduced = true;
        }
    }
}
