//! What an operator can set: the TOML file of `--config`, with `--set key=value` on top.
//!
//! Every key stands here once, with its unit and its default. Durations are text
//! with a unit (`"200ms"`, `"30s"`, `"2m"`); a bare number means seconds. Sizes are
//! octets.

mod load;
mod proxy;
mod reload;
mod text;

pub use load::{Checked, Origin};
pub use proxy::Proxy;
pub use reload::{Changes, LIVE};
pub use text::default_text;

use super::listen::Listen;
use super::sources::{self, Prefix, Sources};
use crate::proto;
use documented::DocumentedFields;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

/// The whole configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// `listen`, list of `ADDR:PORT=APP[@POLICY]`, default empty: what is served, as with
    /// `--listen`, whose listens come on top.
    pub listen: Vec<Listen>,
    /// `tcp.*`: the engine.
    pub tcp: Tcp,
    /// `cookie.*`: the handshake.
    pub cookie: Cookie,
    /// `xdp.*`: the XDP program.
    pub xdp: Xdp,
    /// `proxy.*`: connections to backends.
    pub proxy: Proxy,
    /// `shutdown.*`: the end.
    pub shutdown: Shutdown,
}

/// `tcp.*`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(deny_unknown_fields, default)]
pub struct Tcp {
    /// `tcp.msl`, duration, default `"30s"`: maximum segment lifetime. TIME-WAIT lasts
    /// twice as long (RFC 9293 §3.4.2).
    #[serde(with = "duration")]
    pub msl: Duration,
    /// `tcp.rto_min`, duration, default `"200ms"`: lower bound of the retransmission
    /// timeout (RFC 6298 §2.4 says 1 s; every system in use goes lower).
    #[serde(with = "duration")]
    pub rto_min: Duration,
    /// `tcp.keepalive`, duration, default `"0s"` (off): idle time before the first
    /// keepalive probe (RFC 9293 §3.8.4).
    #[serde(with = "duration")]
    pub keepalive: Duration,
    /// `tcp.congestion`, default `"cubic"`: congestion control, `"cubic"` (RFC 9438),
    /// `"reno"` (RFC 5681, RFC 6582) or `"bbr"` (version 1; for paths that lose segments without
    /// being congested; without ECN).
    pub congestion: Congestion,
    /// `tcp.segmentation_offload`, default `true`: runs of full segments are handed to the kernel as
    /// one and cut apart there, or by the NIC (GSO). Not with `--pcap`.
    pub segmentation_offload: bool,
    /// `tcp.recv_buffer`, octets, default 1048576: receive buffer of one connection at
    /// most; it bounds the window that we announce. At least 4096.
    pub recv_buffer: usize,
    /// `tcp.send_buffer`, octets, default 1048576: send buffer of one connection at
    /// most; a slow connection has a smaller one. At least 4096.
    pub send_buffer: usize,
    /// `tcp.memory`, octets, default 1073741824: buffers of all connections together at
    /// most, shared evenly by the workers. When they are used up windows stop growing and
    /// writes take less; 4 KiB per buffer are always granted. At least 65536.
    pub memory: usize,
    /// `tcp.keepalive_interval`, duration, default `"75s"`: time between keepalive probes;
    /// nine without an answer end the connection.
    #[serde(with = "duration")]
    pub keepalive_interval: Duration,
    /// `tcp.max_retries`, count, default 15: retransmissions in a row without an answer
    /// before a connection ends, R2 of RFC 9293 §3.8.3. 15 take over 7 minutes. Between
    /// 1 and 255.
    pub max_retries: u8,
    /// `tcp.fin_timeout`, duration, default `"60s"`: how long a client that got our FIN
    /// (FIN-WAIT-2) may take for its own, where the app has nothing more to say or hear.
    #[serde(with = "duration")]
    pub fin_timeout: Duration,
    /// `tcp.ecn`, default `true`: explicit congestion notification (RFC 3168) for clients
    /// that offer it together with timestamps.
    pub ecn: bool,
    /// `tcp.max_connections`, connections, default 131072: at most so many at a time,
    /// TIME-WAIT included. XDP refuses the next one.
    pub max_connections: u32,
    /// `tcp.half_open`, handshakes, default 4096: so many are kept at a time for listens with the
    /// policy `adaptive`, shared evenly by the workers. More go the way of a flood: the oldest
    /// is forgotten, and its cookie has to do. While more than half of the room is taken no
    /// SYN-ACK is sent again. Zero keeps none.
    pub half_open: u32,
    /// `tcp.syn_ack_retries`, count, default 5: how often a SYN-ACK of such a handshake is sent
    /// again, after 1 s and then twice as long each time. Between 0 and 9.
    pub syn_ack_retries: u8,
}

impl Default for Tcp {
    fn default() -> Self {
        Self {
            msl: Duration::from_secs(30),
            rto_min: Duration::from_millis(200),
            keepalive: Duration::ZERO,
            congestion: Congestion::Cubic,
            segmentation_offload: true,
            recv_buffer: 1 << 20,
            send_buffer: 1 << 20,
            memory: 1 << 30,
            keepalive_interval: Duration::from_secs(75),
            max_retries: 15,
            fin_timeout: Duration::from_mins(1),
            ecn: true,
            max_connections: 1 << 17,
            half_open: 4096,
            syn_ack_retries: 5,
        }
    }
}

/// Values of `tcp.congestion`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Congestion {
    /// CUBIC with `HyStart++` (RFC 9438, RFC 9406).
    Cubic,
    /// The windows of `NewReno` (RFC 5681, RFC 6582).
    Reno,
    /// BBR, version 1.
    Bbr,
}

/// `cookie.*`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(deny_unknown_fields, default)]
pub struct Cookie {
    /// `cookie.slot`, duration in whole seconds, default `"64s"`: how long one key makes cookies. It then
    /// still accepts them for another slot. Slots are counted along the wall clock with
    /// `cookie.secret_file`, else along `CLOCK_BOOTTIME`. Between 1 and 86400.
    #[serde(with = "duration")]
    pub slot: Duration,
    /// `cookie.secret_file`, path, default none: a file with the 128-bit master secret,
    /// as 32 hexadecimal digits or as 16 octets, readable by its owner only
    /// (`tcp-user secret new` makes one). Servers that share it accept each other's
    /// cookies. Without it the secret is random at each start.
    pub secret_file: Option<PathBuf>,
    /// `cookie.require_timestamps`, default `"never"`: refuse clients that do not offer
    /// timestamps, whose cookies have fewer bits of MAC.
    pub require_timestamps: RequireTimestamps,
    /// `cookie.attack_rate`, frames per second, default 20000: SYNs and bad cookies
    /// from which on `cookie.require_timestamps = "under-attack"` refuses clients
    /// without timestamps. It ends when the rate stays below half of it for ten
    /// seconds. Handshakes without timestamps that are half done then fail. Between 1
    /// and 4294967295.
    pub attack_rate: u32,
}

impl Default for Cookie {
    fn default() -> Self {
        Self {
            slot: Duration::from_secs(64),
            secret_file: None,
            require_timestamps: RequireTimestamps::Never,
            attack_rate: 20_000,
        }
    }
}

/// Values of `cookie.require_timestamps`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RequireTimestamps {
    /// Serve every client.
    Never,
    /// Only clients that offer timestamps, while more than `cookie.attack_rate` SYNs
    /// and bad cookies arrive per second.
    UnderAttack,
    /// Only clients that offer timestamps.
    Always,
}

/// `xdp.*`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(deny_unknown_fields, default)]
pub struct Xdp {
    /// `xdp.on_invalid_ack`, default `"rst"`: what a segment without a connection and
    /// without a valid cookie gets, an RST or nothing.
    pub on_invalid_ack: OnInvalidAck,
    /// `xdp.allow`, list of prefixes (`["192.0.2.0/24", "2001:db8::/32"]`, or text with
    /// commas), default empty: sources that may connect. If there is any, sources that
    /// neither list matches may not. Of several matches the longest prefix counts.
    /// Connections that exist go on.
    #[serde(deserialize_with = "sources::list")]
    pub allow: Vec<Prefix>,
    /// `xdp.deny`, list of prefixes, default empty: sources that may not connect.
    #[serde(deserialize_with = "sources::list")]
    pub deny: Vec<Prefix>,
    /// `xdp.syn_ack_rate`, SYN-ACKs per second and source prefix (IPv4 /24, IPv6 /64),
    /// default 0 (no limit): more SYNs than that are dropped, after a burst of 64. So
    /// SYNs with forged sources cannot turn this machine on a victim. At most 5000.
    pub syn_ack_rate: u32,
    /// `xdp.rst_rate`, RSTs per second and CPU, default 0 (no limit): more than that
    /// are not sent, after a burst of 64. At most 5000.
    pub rst_rate: u32,
    /// `xdp.adaptive_rate`, SYNs per second, default 1000: from so many on, listens with the policy
    /// `adaptive` are answered for by cookies alone. Those of the kernel are counted apart
    /// from the others. It ends when the rate stays below half of it for ten seconds. Between 1
    /// and 4294967295.
    pub adaptive_rate: u32,
}

/// Rates above it are finer than the XDP program's clock (a tick of the kernel's).
const MAX_RATE: u32 = 5000;

impl Xdp {
    /// Both lists together.
    pub fn sources(&self) -> Result<Sources, Error> {
        Sources::new(&self.allow, &self.deny).map_err(|prefix| Error::Range {
            key: "xdp.deny",
            message: format!("{prefix} is in xdp.allow, too"),
        })
    }
}

impl Default for Xdp {
    fn default() -> Self {
        Self {
            on_invalid_ack: OnInvalidAck::Rst,
            allow: Vec::new(),
            deny: Vec::new(),
            syn_ack_rate: 0,
            rst_rate: 0,
            adaptive_rate: 1000,
        }
    }
}

/// Values of `xdp.on_invalid_ack`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnInvalidAck {
    /// Answer RST (RFC 9293 §3.10.7.1).
    Rst,
    /// Drop.
    Drop,
}

/// `shutdown.*`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(deny_unknown_fields, default)]
pub struct Shutdown {
    /// `shutdown.grace`, duration, default `"5s"`: how long connections may go on after
    /// SIGINT or SIGTERM before they get an RST.
    #[serde(with = "duration")]
    pub grace: Duration,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(5),
        }
    }
}

/// Why a configuration was refused; one line that names the key.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("{}: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("{}: line {line}: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// Key and reason.
        message: String,
    },
    /// `--set` is not `key=value`.
    #[error("--set {0}: expected key=value")]
    NotAnAssignment(String),
    /// A key does not exist or its value is wrong.
    #[error("--set {assignment}: {message}")]
    Assignment {
        /// As given.
        assignment: String,
        /// The reason.
        message: String,
    },
    /// A value is out of its range.
    #[error("{key}: {message}")]
    Range {
        /// The key.
        key: &'static str,
        /// The range.
        message: String,
    },
}

impl Config {
    fn check(&self) -> Result<(), Error> {
        let range = |key, ok: bool, message: &str| {
            if ok {
                Ok(())
            } else {
                Err(Error::Range {
                    key,
                    message: message.to_owned(),
                })
            }
        };
        let (sec, ms) = (Duration::from_secs, Duration::from_millis);
        range(
            "tcp.msl",
            (ms(1)..=sec(600)).contains(&self.tcp.msl),
            "must be between 1ms and 10m",
        )?;
        range(
            "tcp.rto_min",
            (ms(1)..=sec(60)).contains(&self.tcp.rto_min),
            "must be between 1ms and 60s",
        )?;
        range(
            "tcp.recv_buffer",
            (4096..=1 << 30).contains(&self.tcp.recv_buffer),
            "must be between 4096 and 1073741824 octets",
        )?;
        range(
            "tcp.send_buffer",
            (4096..=1 << 30).contains(&self.tcp.send_buffer),
            "must be between 4096 and 1073741824 octets",
        )?;
        range(
            "tcp.memory",
            self.tcp.memory >= 1 << 16,
            "must be at least 65536 octets",
        )?;
        range(
            "tcp.keepalive_interval",
            (ms(1)..=sec(86_400)).contains(&self.tcp.keepalive_interval),
            "must be between 1ms and 1d",
        )?;
        range(
            "tcp.max_retries",
            self.tcp.max_retries > 0,
            "must be between 1 and 255",
        )?;
        range(
            "tcp.fin_timeout",
            (ms(1)..=sec(86_400)).contains(&self.tcp.fin_timeout),
            "must be between 1ms and 1d",
        )?;
        range(
            "tcp.max_connections",
            (1..=1 << 27).contains(&self.tcp.max_connections),
            "must be between 1 and 134217728",
        )?;
        range(
            "tcp.half_open",
            self.tcp.half_open <= 1 << 20,
            "must be between 0 and 1048576",
        )?;
        range(
            "tcp.syn_ack_retries",
            self.tcp.syn_ack_retries <= proto::Config::MAX_SYN_ACK_RETRIES,
            "must be between 0 and 9",
        )?;
        range(
            "cookie.slot",
            (sec(1)..=sec(86_400)).contains(&self.cookie.slot)
                && self.cookie.slot.subsec_nanos() == 0,
            "must be whole seconds between 1 and 86400",
        )?;
        range(
            "cookie.attack_rate",
            self.cookie.attack_rate > 0,
            "must be between 1 and 4294967295 per second",
        )?;
        range(
            "xdp.syn_ack_rate",
            self.xdp.syn_ack_rate <= MAX_RATE,
            "must be between 0 (no limit) and 5000 per second",
        )?;
        range(
            "xdp.rst_rate",
            self.xdp.rst_rate <= MAX_RATE,
            "must be between 0 (no limit) and 5000 per second",
        )?;
        range(
            "xdp.adaptive_rate",
            self.xdp.adaptive_rate > 0,
            "must be between 1 and 4294967295 per second",
        )?;
        self.xdp.sources()?;
        self.proxy.check()
    }

    /// What the engine of one of so many workers gets to know. The rest (MTU, checksums) depends on
    /// the interface.
    pub fn engine(&self, workers: u32) -> proto::Config {
        let workers = workers.max(1) as usize;
        let recv_buffer = self.tcp.recv_buffer;
        proto::Config {
            msl: self.tcp.msl,
            rto_min: self.tcp.rto_min,
            keepalive: (!self.tcp.keepalive.is_zero()).then_some(self.tcp.keepalive),
            congestion: match self.tcp.congestion {
                Congestion::Cubic => proto::Algorithm::Cubic,
                Congestion::Reno => proto::Algorithm::Reno,
                Congestion::Bbr => proto::Algorithm::Bbr,
            },
            recv_buffer,
            send_buffer: self.tcp.send_buffer,
            memory: self.tcp.memory / workers,
            keepalive_interval: self.tcp.keepalive_interval,
            max_retries: self.tcp.max_retries,
            fin_timeout: self.tcp.fin_timeout,
            // BBR would not heed the marks.
            ecn: self.tcp.ecn && self.tcp.congestion != Congestion::Bbr,
            max_connections: self.tcp.max_connections as usize,
            half_open: (self.tcp.half_open as usize).div_ceil(workers),
            syn_ack_retries: self.tcp.syn_ack_retries,
            initial_window: u16::try_from(recv_buffer).unwrap_or(u16::MAX),
            window_scale: window_scale(recv_buffer),
            ..proto::Config::default()
        }
    }
}

/// The smallest shift count with which the window covers the buffer (RFC 7323 §2.3).
fn window_scale(recv_buffer: usize) -> u8 {
    (0..14)
        .find(|shift| u16::try_from(recv_buffer >> shift).is_ok())
        .unwrap_or(14)
}

/// Durations as text with a unit.
mod duration {
    use serde::{Deserializer, Serializer};
    use std::fmt;
    use std::time::Duration;

    /// `"90s"` or `"200ms"`; parts of a millisecond as well.
    pub(super) fn serialize<S: Serializer>(value: &Duration, to: S) -> Result<S::Ok, S::Error> {
        match (value.subsec_nanos(), value.subsec_micros() % 1000) {
            (0, _) => to.collect_str(&format_args!("{}s", value.as_secs())),
            (_, 0) => to.collect_str(&format_args!("{}ms", value.as_millis())),
            _ => to.collect_str(&humantime::format_duration(*value)),
        }
    }

    /// Accepts `"1m 30s"`, a whole number of seconds or a fraction of them.
    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Duration;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration such as \"200ms\" or \"30s\"")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Duration, E> {
                humantime::parse_duration(text)
                    .map_err(|e| E::custom(format!("\"{text}\" is no duration ({e})")))
            }

            fn visit_i64<E: serde::de::Error>(self, seconds: i64) -> Result<Duration, E> {
                u64::try_from(seconds)
                    .map(Duration::from_secs)
                    .map_err(|_| E::custom("a duration is not negative"))
            }

            fn visit_f64<E: serde::de::Error>(self, seconds: f64) -> Result<Duration, E> {
                Duration::try_from_secs_f64(seconds).map_err(E::custom)
            }
        }
        from.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests;
