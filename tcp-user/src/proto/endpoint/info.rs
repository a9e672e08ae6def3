//! What the endpoint tells of its connections.

use super::super::{Instant, State};
use super::{ConnId, Endpoint};
use std::time::Duration;
use tcp_common::flow::FlowKey;

/// What `conns` shows of a connection.
#[derive(Clone, Copy, Debug)]
pub struct ConnInfo {
    /// `None` for a TIME-WAIT entry and for a handshake under way.
    pub id: Option<ConnId>,
    /// Its 4-tuple.
    pub flow: FlowKey,
    /// Its state; `Closed` if only unread data is left of it.
    pub state: State,
    /// Octets written and not acknowledged.
    pub send_queue: usize,
    /// Octets received and not read.
    pub recv_queue: usize,
    /// Smoothed round-trip time, once measured.
    pub srtt: Option<Duration>,
    /// Variation of the round-trip time; zero before it was measured.
    pub rttvar: Duration,
    /// Retransmission timeout, backoff included.
    pub rto: Duration,
    /// Octets believed to be in the network: those outstanding less what is lost or
    /// received (RFC 6675 §4).
    pub in_flight: u32,
    /// Congestion window, octets.
    pub cwnd: u32,
    /// Slow start threshold, octets.
    pub ssthresh: u32,
    /// Octets of text in a segment at most.
    pub mss: u16,
    /// What was negotiated, and what the application has set.
    pub options: Options,
    /// Window that the peer announces, octets.
    pub snd_wnd: u32,
    /// Window that we announced and that is not used, octets.
    pub rcv_wnd: u32,
    /// Retransmissions or probes in a row without an answer.
    pub backoff: u8,
    /// Since the last valid segment came.
    pub heard: Duration,
    /// Since text was last sent.
    pub sent: Duration,
    /// Segments sent more than once.
    pub retransmits: u64,
    /// Octets of text received in order.
    pub bytes_in: u64,
    /// Octets of sequence space sent, retransmissions included.
    pub bytes_out: u64,
    /// Since the cookie came back; in SYN-RECEIVED, since the SYN came.
    pub age: Duration,
}

/// Options of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Options {
    /// Timestamps (RFC 7323 §3).
    pub timestamps: bool,
    /// Selective acknowledgment (RFC 2018).
    pub sack: bool,
    /// Explicit congestion notification (RFC 3168).
    pub ecn: bool,
    /// Shift counts of the windows that the peer announces, and of ours (RFC 7323 §2).
    pub shifts: (u8, u8),
    /// Nagle's algorithm is off.
    pub nodelay: bool,
    /// Keepalive probes are sent.
    pub keepalive: bool,
}

impl ConnInfo {
    /// Of what is no more than a 4-tuple and a state.
    pub(crate) fn bare(flow: FlowKey, state: State) -> Self {
        Self {
            id: None,
            flow,
            state,
            send_queue: 0,
            recv_queue: 0,
            srtt: None,
            rttvar: Duration::ZERO,
            rto: Duration::ZERO,
            in_flight: 0,
            cwnd: 0,
            ssthresh: 0,
            mss: 0,
            options: Options::default(),
            snd_wnd: 0,
            rcv_wnd: 0,
            backoff: 0,
            heard: Duration::ZERO,
            sent: Duration::ZERO,
            retransmits: 0,
            bytes_in: 0,
            bytes_out: 0,
            age: Duration::ZERO,
        }
    }
}

impl Endpoint {
    /// Every connection, TIME-WAIT entry and handshake under way, for `conns`.
    pub fn infos(&self, now: Instant) -> Vec<ConnInfo> {
        self.each_info(now).collect()
    }

    /// The same one by one.
    pub fn each_info(&self, now: Instant) -> impl Iterator<Item = ConnInfo> {
        let connections = self.connections.iter().map(move |(index, c)| ConnInfo {
            id: self.id(index),
            ..c.info(now)
        });
        let time_waits = self.time_waits.iter();
        let time_waits = time_waits.map(|entry| ConnInfo::bare(entry.flow, State::TimeWait));
        let half_opens = self.half_opens.iter().map(move |entry| ConnInfo {
            rto: entry.rto(),
            mss: entry.negotiated.mss,
            options: Options {
                timestamps: entry.negotiated.timestamps,
                sack: entry.negotiated.sack,
                ecn: entry.negotiated.ecn,
                shifts: entry
                    .negotiated
                    .window_scale
                    .map_or((0, 0), |shift| (shift, self.config.window_scale)),
                ..Options::default()
            },
            backoff: entry.retries,
            retransmits: entry.retries.into(),
            age: Duration::from_secs((now - entry.created).as_secs()),
            ..ConnInfo::bare(entry.flow, State::SynReceived)
        });
        connections.chain(time_waits).chain(half_opens)
    }

    /// State and local end of each, which is all that counting takes: one cache line.
    pub fn states(&self) -> impl Iterator<Item = (State, &FlowKey)> {
        let connections = self
            .connections
            .iter()
            .map(|(_, c)| (c.phase().name(), &c.flow));
        let time_waits = self.time_waits.iter();
        let half_opens = self.half_opens.iter();
        connections
            .chain(time_waits.map(|entry| (State::TimeWait, &entry.flow)))
            .chain(half_opens.map(|entry| (State::SynReceived, &entry.flow)))
    }
}
