//! Segments that belong to no TCB: RST, SYN-ACK, and the ACKs of TIME-WAIT.

use super::super::connection::state::Inferred;
use super::super::frame::{LinkHeader, Outgoing};
use super::super::half_open::HalfOpen;
use super::super::segment::{SackList, Segment};
use super::super::time_wait::TimeWait;
use super::super::{Instant, State, TraceEvent};
use std::collections::VecDeque;
use tcp_common::flow::FlowKey;
use tcp_common::seq::SeqNum;
use tcp_common::wire::options::SynAckOptions;
use tcp_common::wire::{Flags, Timestamps};

/// Answers to strangers that wait for a free frame. More are not worth waiting for:
/// the peer will ask again.
const MAX_REPLIES: usize = 1024;

/// A segment to send once.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    link: LinkHeader,
    flow: FlowKey,
    seq: SeqNum,
    ack: SeqNum,
    flags: Flags,
    window: u16,
    shift: u8,
    timestamps: Option<Timestamps>,
    syn_ack: Option<SynAckOptions>,
    client: State,
    server: State,
    note: &'static str,
}

impl Reply {
    fn new(link: LinkHeader, flow: FlowKey, seq: SeqNum, ack: SeqNum, flags: Flags) -> Self {
        Self {
            link,
            flow,
            seq,
            ack,
            flags,
            window: 0,
            shift: 0,
            timestamps: None,
            syn_ack: None,
            client: State::Closed,
            server: State::Closed,
            note: "",
        }
    }

    /// The RST of a connection that we end; with timestamps if those were negotiated
    /// (RFC 7323 §3.2).
    pub(super) fn abort(
        link: LinkHeader,
        flow: FlowKey,
        seq: SeqNum,
        ack: SeqNum,
        timestamps: Option<Timestamps>,
    ) -> Self {
        Self {
            timestamps,
            ..Self::new(link, flow, seq, ack, Flags::RST.with(Flags::ACK))
        }
    }

    /// The RST to a segment without a connection (RFC 9293 §3.10.7.1).
    pub(super) fn reset(seg: &Segment<'_>, note: &'static str) -> Self {
        let (seq, ack, flags) = if seg.flags.has(Flags::ACK) {
            (seg.ack, SeqNum(0), Flags::RST)
        } else {
            (SeqNum(0), seg.seq + seg.len(), Flags::RST.with(Flags::ACK))
        };
        Self {
            note,
            ..Self::new(seg.reply_link(), seg.flow, seq, ack, flags)
        }
    }

    /// The ACK that TIME-WAIT answers with.
    pub(super) fn time_wait(
        now: Instant,
        link: LinkHeader,
        entry: &mut TimeWait,
        note: &'static str,
    ) -> Self {
        entry.client.fin_acknowledged();
        Self {
            window: entry.window,
            shift: entry.shifts.0,
            timestamps: entry.timestamps.map(|(offset, recent)| Timestamps {
                val: offset.wrapping_add(now.millis()),
                ecr: recent,
            }),
            client: entry.client,
            server: State::TimeWait,
            note,
            ..Self::new(link, entry.flow, entry.snd_nxt, entry.rcv_nxt, Flags::ACK)
        }
    }

    /// A SYN-ACK like those that XDP sends.
    pub(super) fn syn_ack(
        entry: &HalfOpen,
        window: u16,
        options: SynAckOptions,
        note: &'static str,
    ) -> Self {
        let mut flags = Flags::SYN.with(Flags::ACK);
        if entry.negotiated.ecn {
            // RFC 3168 §6.1.1: an ECN-setup SYN-ACK.
            flags = flags.with(Flags::ECE);
        }
        Self {
            window,
            syn_ack: Some(options),
            client: State::Established,
            server: State::SynReceived,
            note,
            ..Self::new(entry.link, entry.flow, entry.iss, entry.irs + 1, flags)
        }
    }

    /// The ACK to what is not acceptable in SYN-RECEIVED.
    pub(super) fn challenge(entry: &HalfOpen, window: u16) -> Self {
        Self {
            window,
            timestamps: entry.stamps(),
            client: State::SynSent,
            server: State::SynReceived,
            ..Self::new(
                entry.link,
                entry.flow,
                entry.iss + 1,
                entry.irs + 1,
                Flags::ACK,
            )
        }
    }

    pub(super) fn outgoing(&self, hop_limit: u8) -> Outgoing<'_> {
        Outgoing {
            link: &self.link,
            flow: &self.flow,
            hop_limit,
            // Neither SYN-ACK nor RST nor a pure ACK is ECT (RFC 3168 §6.1.1, §6.1.4).
            ecn: 0,
            seq: self.seq,
            ack: self.ack,
            flags: self.flags,
            window: self.window,
            syn_ack: self.syn_ack,
            timestamps: self.timestamps,
            sack: SackList::default(),
            payload: [&[], &[]],
        }
    }

    pub(super) fn trace(&self, now: Instant, out: &Outgoing<'_>) -> TraceEvent {
        out.trace(
            now,
            u32::from(self.window) << self.shift,
            self.client,
            self.server,
            self.note,
        )
    }
}

/// The queue of replies.
pub(super) struct Replies {
    queue: VecDeque<Reply>,
}

impl Replies {
    pub(super) const fn new() -> Self {
        Self {
            queue: VecDeque::new(),
        }
    }

    /// Queues an answer to a stranger, if there is room.
    pub(super) fn push(&mut self, reply: Reply) {
        if self.queue.len() < MAX_REPLIES {
            self.queue.push_back(reply);
        }
    }

    /// Queues the last segment of a connection, of which there are no more than
    /// connections.
    pub(super) fn push_own(&mut self, reply: Reply) {
        self.queue.push_back(reply);
    }

    pub(super) fn shrink(&mut self) {
        self.queue.shrink_to_fit();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn pop(&mut self) -> Option<Reply> {
        self.queue.pop_front()
    }
}
