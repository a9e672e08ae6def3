//! Connections and their segments, as `conns` and `trace` have them.

use crate::proto::{ConnInfo, Direction, Options, TraceEvent};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use tcp_common::wire::Flags;

/// One connection or TIME-WAIT entry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Connection {
    /// The client.
    pub remote: SocketAddr,
    /// The served address.
    pub local: SocketAddr,
    /// State by RFC 9293's name.
    pub state: String,
    /// Octets not yet acknowledged or sent.
    pub send_queue: usize,
    /// Octets not yet read.
    pub recv_queue: usize,
    /// Smoothed round-trip time, milliseconds.
    pub srtt_ms: Option<f64>,
    /// Variation of the round-trip time, milliseconds.
    #[serde(default)]
    pub rttvar_ms: f64,
    /// Retransmission timeout, milliseconds.
    pub rto_ms: f64,
    /// Congestion window, octets.
    pub cwnd: u32,
    /// Slow start threshold, octets.
    pub ssthresh: u32,
    /// Largest segment that we send, octets.
    pub mss: u16,
    /// What was negotiated and set, by name: `ts`, `sack`, `ecn`, `nodelay`, `keepalive`.
    #[serde(default)]
    pub options: Vec<String>,
    /// Shift counts of the client's windows and of ours.
    #[serde(default)]
    pub window_scale: (u8, u8),
    /// Window that the client announces, octets.
    #[serde(default)]
    pub snd_wnd: u32,
    /// Window that we announced and that is not used, octets.
    #[serde(default)]
    pub rcv_wnd: u32,
    /// Octets in the network.
    #[serde(default)]
    pub in_flight: u32,
    /// Retransmissions or probes in a row without an answer.
    #[serde(default)]
    pub backoff: u8,
    /// Milliseconds since the last valid segment came.
    #[serde(default)]
    pub last_rcv_ms: u64,
    /// Milliseconds since data was last sent.
    #[serde(default)]
    pub last_snd_ms: u64,
    /// Segments sent again.
    pub retransmits: u64,
    /// Octets received.
    pub bytes_in: u64,
    /// Octets sent and acknowledged.
    pub bytes_out: u64,
    /// Seconds since it was accepted.
    pub age_s: f64,
}

impl From<&ConnInfo> for Connection {
    fn from(info: &ConnInfo) -> Self {
        Self {
            remote: info.flow.remote(),
            local: info.flow.local(),
            state: info.state.to_string(),
            send_queue: info.send_queue,
            recv_queue: info.recv_queue,
            srtt_ms: info.srtt.map(|t| t.as_secs_f64() * 1e3),
            rttvar_ms: info.rttvar.as_secs_f64() * 1e3,
            rto_ms: info.rto.as_secs_f64() * 1e3,
            cwnd: info.cwnd,
            ssthresh: info.ssthresh,
            mss: info.mss,
            options: option_names(info.options),
            window_scale: info.options.shifts,
            snd_wnd: info.snd_wnd,
            rcv_wnd: info.rcv_wnd,
            in_flight: info.in_flight,
            backoff: info.backoff,
            last_rcv_ms: info.heard.as_millis() as u64,
            last_snd_ms: info.sent.as_millis() as u64,
            retransmits: info.retransmits,
            bytes_in: info.bytes_in,
            bytes_out: info.bytes_out,
            age_s: info.age.as_secs_f64(),
        }
    }
}

fn option_names(options: Options) -> Vec<String> {
    let names = [
        ("ts", options.timestamps),
        ("sack", options.sack),
        ("ecn", options.ecn),
        ("nodelay", options.nodelay),
        ("keepalive", options.keepalive),
    ];
    let set = names.iter().filter(|(_, on)| *on);
    set.map(|(name, _)| (*name).to_owned()).collect()
}

/// One segment of a trace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Segment {
    /// Seconds of `CLOCK_MONOTONIC`.
    pub at: f64,
    /// The client.
    pub remote: SocketAddr,
    /// The served address.
    pub local: SocketAddr,
    /// `in` is client to server.
    pub direction: Way,
    /// Answered by XDP and reconstructed from the cookie's ACK.
    pub by_xdp: bool,
    /// Control bits by name, joined by `,`.
    pub flags: String,
    /// SEG.SEQ.
    pub seq: u32,
    /// SEG.ACK.
    pub ack: u32,
    /// Octets of data.
    pub len: usize,
    /// Window, octets.
    pub window: u32,
    /// MSS option.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mss: Option<u16>,
    /// Window scale option.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window_scale: Option<u8>,
    /// SACK-permitted option.
    #[serde(default)]
    pub sack_permitted: bool,
    /// `TSval` and `TSecr`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamps: Option<(u32, u32)>,
    /// SACK blocks, left and right edge.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sack: Vec<(u32, u32)>,
    /// The client's state after it, inferred.
    pub client: String,
    /// Our state after it.
    pub server: String,
    /// What is worth a word.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// Which way a segment goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// Client to server.
    In,
    /// Server to client.
    Out,
}

impl From<&TraceEvent> for Segment {
    fn from(event: &TraceEvent) -> Self {
        Self {
            at: event.at.0 as f64 / 1e9,
            remote: event.flow.remote(),
            local: event.flow.local(),
            direction: match event.direction {
                Direction::In => Way::In,
                Direction::Out => Way::Out,
            },
            by_xdp: event.reconstructed,
            flags: flag_names(event.flags),
            seq: event.seq,
            ack: event.ack,
            len: event.len,
            window: event.window,
            mss: event.mss,
            window_scale: event.window_scale,
            sack_permitted: event.sack_permitted,
            timestamps: event.timestamps.map(|t| (t.val, t.ecr)),
            sack: event.sack[..event.sack_blocks.min(event.sack.len())].to_vec(),
            client: event.client.to_string(),
            server: event.server.to_string(),
            note: event.note.to_owned(),
        }
    }
}

fn flag_names(flags: Flags) -> String {
    let names = [
        (Flags::SYN, "SYN"),
        (Flags::FIN, "FIN"),
        (Flags::RST, "RST"),
        (Flags::PSH, "PSH"),
        (Flags::ACK, "ACK"),
        (Flags::URG, "URG"),
        (Flags::ECE, "ECE"),
        (Flags::CWR, "CWR"),
    ];
    let set: Vec<&str> = names
        .iter()
        .filter(|(bit, _)| flags.has(*bit))
        .map(|(_, name)| *name)
        .collect();
    set.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_joined_by_commas() {
        assert_eq!(flag_names(Flags::SYN.with(Flags::ACK)), "SYN,ACK");
    }
}
