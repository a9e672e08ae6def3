//! The synchronized states (RFC 9293 §3.3.2) with the data that only they have.

use crate::proto::{CloseReason, State};

/// Where a connection is. LISTEN and SYN-RECEIVED are XDP's, TIME-WAIT is an entry
/// of [`crate::proto::time_wait`]; neither has a TCB.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::proto) enum Phase {
    /// Both halves are open.
    Established,
    /// The peer closed its half; with `closing` we did, too, and our FIN follows
    /// the queued data. LAST-ACK is entered when it is sent (RFC 9293 §3.10.4).
    CloseWait { closing: bool },
    /// We closed our half; the FIN is queued or sent.
    FinWait1,
    /// Our FIN is acknowledged.
    FinWait2,
    /// Both FINs crossed.
    Closing,
    /// The peer closed first and our FIN is sent.
    LastAck,
    /// Over on the wire, but received data waits to be read.
    Lingering { reason: CloseReason },
}

impl Phase {
    /// The RFC's name.
    pub(in crate::proto) const fn name(self) -> State {
        match self {
            Self::Established => State::Established,
            Self::CloseWait { .. } => State::CloseWait,
            Self::FinWait1 => State::FinWait1,
            Self::FinWait2 => State::FinWait2,
            Self::Closing => State::Closing,
            Self::LastAck => State::LastAck,
            Self::Lingering { .. } => State::Closed,
        }
    }

    /// The application may queue data.
    pub(super) const fn accepts_writes(self) -> bool {
        matches!(self, Self::Established | Self::CloseWait { closing: false })
    }

    /// A FIN stands at the end of the queued data, not yet acknowledged.
    pub(super) const fn has_fin(self) -> bool {
        matches!(
            self,
            Self::FinWait1 | Self::Closing | Self::LastAck | Self::CloseWait { closing: true }
        )
    }

    /// The peer's half is open.
    pub(super) const fn receives(self) -> bool {
        matches!(self, Self::Established | Self::FinWait1 | Self::FinWait2)
    }
}

/// How the client's state moves, as far as its segments and our ACKs show it.
pub(in crate::proto) trait Inferred {
    /// The client sent a FIN.
    fn sent_fin(&mut self);
    /// We sent a FIN, which the client will see.
    fn saw_our_fin(&mut self);
    /// The client sent a FIN before it saw ours, which is on its way.
    fn crossed_fin(&mut self);
    /// We acknowledged the client's FIN.
    fn fin_acknowledged(&mut self);
}

impl Inferred for State {
    fn sent_fin(&mut self) {
        *self = match *self {
            Self::Established => Self::FinWait1,
            Self::CloseWait => Self::LastAck,
            other => other,
        };
    }

    fn saw_our_fin(&mut self) {
        *self = match *self {
            Self::Established => Self::CloseWait,
            Self::FinWait1 => Self::Closing,
            Self::FinWait2 => Self::TimeWait,
            other => other,
        };
    }

    fn crossed_fin(&mut self) {
        *self = Self::Closing;
    }

    fn fin_acknowledged(&mut self) {
        *self = match *self {
            Self::FinWait1 => Self::FinWait2,
            Self::Closing => Self::TimeWait,
            Self::LastAck => Self::Closed,
            other => other,
        };
    }
}
