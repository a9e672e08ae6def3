//! What the engine can be told. The TOML keys of `control::config` map onto this.

use super::congestion::Algorithm;
use std::time::Duration;
use tcp_common::abi::Secrets;

/// Limits and timers of an [`super::Endpoint`].
#[derive(Clone, Debug)]
pub struct Config {
    /// Maximum segment lifetime; TIME-WAIT lasts twice as long (RFC 9293 §3.4.2). Default 30 s.
    pub msl: Duration,
    /// Lower bound of the retransmission timeout (RFC 6298 §2.4). Default 200 ms.
    pub rto_min: Duration,
    /// Idle time before the first keepalive probe (RFC 9293 §3.8.4); `None`: no probes.
    pub keepalive: Option<Duration>,
    /// Time between keepalive probes.
    pub keepalive_interval: Duration,
    /// Retransmissions in a row without an answer that end a connection: R2 of RFC 9293
    /// §3.8.3, at first; see [`super::Endpoint::set_max_retries`].
    pub max_retries: u8,
    /// How long FIN-WAIT-2 lasts after [`super::Endpoint::close`] and
    /// [`super::Endpoint::finish`].
    pub fin_timeout: Duration,
    /// Agree to ECN (RFC 3168) where a SYN comes here; XDP has its own flag.
    pub ecn: bool,
    /// Congestion control of new connections.
    pub congestion: Algorithm,
    /// Octets of receive buffer per connection at most; bounds RCV.WND. A connection
    /// starts with [`Self::initial_window`] and grows as its application reads.
    pub recv_buffer: usize,
    /// Octets of send buffer per connection at most. It starts with 64 KiB and is then
    /// twice the congestion window.
    pub send_buffer: usize,
    /// Octets of all buffers at most. When they are used up windows stop growing, writes
    /// take less and segments are dropped beyond 4 KiB per buffer.
    pub memory: usize,
    /// Connections at most, TIME-WAIT included.
    pub max_connections: usize,
    /// SYNs without an ACK yet that are kept, where XDP leaves SYNs to us; zero: none, SYNs are
    /// answered and forgotten. The last eighth of [`Self::max_connections`] is not for them.
    pub half_open: usize,
    /// How often a SYN-ACK is sent again, after 1 s and then twice as long each time (RFC 6298
    /// §5.5); at most [`Self::MAX_SYN_ACK_RETRIES`].
    pub syn_ack_retries: u8,
    /// Window that XDP announces in the SYN-ACK, octets, not scaled: the first RCV.WND.
    pub initial_window: u16,
    /// Our shift count where the client scales, as XDP announces it.
    pub window_scale: u8,
    /// Largest IP packet that the interface sends, octets: bounds the MSS.
    pub mtu: u16,
    /// Time to live, or hop limit, of what we send.
    pub hop_limit: u8,
    /// Accept a TCP checksum that covers only the pseudo-header
    /// (`CHECKSUM_PARTIAL` from a veth peer on this machine).
    pub partial_checksums: bool,
    /// Record [`super::TraceEvent`]s.
    pub trace: bool,
}

impl Config {
    /// A client that has not heard of us after 1,000 seconds has gone.
    pub const MAX_SYN_ACK_RETRIES: u8 = 9;
}

impl Default for Config {
    fn default() -> Self {
        Self {
            msl: Duration::from_secs(30),
            rto_min: Duration::from_millis(200),
            keepalive: None,
            keepalive_interval: Duration::from_secs(75),
            max_retries: 15,
            fin_timeout: Duration::from_mins(1),
            ecn: true,
            congestion: Algorithm::Cubic,
            recv_buffer: 1 << 20,
            send_buffer: 1 << 20,
            memory: 1 << 30,
            max_connections: 1 << 17,
            half_open: 0,
            syn_ack_retries: 5,
            initial_window: 65_535,
            window_scale: 7,
            mtu: 1500,
            hop_limit: 64,
            partial_checksums: false,
            trace: false,
        }
    }
}

/// Keys with which cookies are checked; the same as XDP has.
pub type Keys = Secrets;
