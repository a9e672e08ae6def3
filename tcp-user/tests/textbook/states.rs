//! The states of both sides, told from segments alone by RFC 9293 figure 5. Knows
//! nothing of our engine.

use crate::capture::{Segment, Side};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    Listen,
    SynSent,
    SynReceived,
    Established,
    FinWait1,
    FinWait2,
    CloseWait,
    Closing,
    LastAck,
    TimeWait,
    Closed,
}

impl State {
    pub fn name(self) -> &'static str {
        match self {
            Self::Listen => "LISTEN",
            Self::SynSent => "SYN-SENT",
            Self::SynReceived => "SYN-RECEIVED",
            Self::Established => "ESTABLISHED",
            Self::FinWait1 => "FIN-WAIT-1",
            Self::FinWait2 => "FIN-WAIT-2",
            Self::CloseWait => "CLOSE-WAIT",
            Self::Closing => "CLOSING",
            Self::LastAck => "LAST-ACK",
            Self::TimeWait => "TIME-WAIT",
            Self::Closed => "CLOSED",
        }
    }

    /// After sending a FIN.
    fn sent_fin(self) -> Self {
        match self {
            Self::Established => Self::FinWait1,
            Self::CloseWait => Self::LastAck,
            other => other,
        }
    }

    /// After the ACK of the own FIN came.
    fn fin_acked(self) -> Self {
        match self {
            Self::FinWait1 => Self::FinWait2,
            Self::Closing => Self::TimeWait,
            Self::LastAck => Self::Closed,
            other => other,
        }
    }

    /// After the peer's FIN came.
    fn received_fin(self) -> Self {
        match self {
            Self::Established => Self::CloseWait,
            Self::FinWait1 => Self::Closing,
            Self::FinWait2 => Self::TimeWait,
            other => other,
        }
    }
}

/// Both sides, on a link that neither loses nor delays.
#[derive(Clone, Copy, Debug)]
pub struct Pair {
    pub client: State,
    pub server: State,
    client_fin: Option<u32>,
    server_fin: Option<u32>,
}

impl Pair {
    pub fn start() -> Self {
        Self {
            client: State::Closed,
            server: State::Listen,
            client_fin: None,
            server_fin: None,
        }
    }

    /// Advances both sides past one segment.
    pub fn step(&mut self, s: &Segment) {
        if s.flags.contains('S') {
            (self.client, self.server) = match s.from {
                Side::Client => (State::SynSent, State::SynReceived),
                Side::Server => (State::Established, State::SynReceived),
            };
            return;
        }
        let (sender, receiver, own_fin, peer_fin) = match s.from {
            Side::Client => (
                &mut self.client,
                &mut self.server,
                &mut self.client_fin,
                self.server_fin,
            ),
            Side::Server => (
                &mut self.server,
                &mut self.client,
                &mut self.server_fin,
                self.client_fin,
            ),
        };
        if *receiver == State::SynReceived {
            *receiver = State::Established;
        }
        if s.flags.contains('F') && own_fin.is_none() {
            *sender = sender.sent_fin();
            *own_fin = Some(s.end());
        }
        if peer_fin.is_some_and(|fin| s.ack == fin.wrapping_add(1)) {
            *receiver = receiver.fin_acked();
        }
        if s.flags.contains('F') {
            *receiver = receiver.received_fin();
        }
    }
}
