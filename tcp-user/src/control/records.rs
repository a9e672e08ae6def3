//! What goes over the control socket: one JSON object a line.

mod flow;

pub use self::flow::{Connection, Segment, Way};
use super::config::Xdp;
use super::filter::{Filter, Sort};
use super::listen::{Listen, Place, Policy};
use super::proxied::Proxied;
use super::sources::{Prefix, To};
use crate::dataplane::DeviceStats;
use crate::dataplane::query::Census;
use crate::dataplane::worker::WorkerStats;
use crate::proto::Disposition;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use tcp_common::counters::Counter;

/// Version of what goes over the socket. It grows when a client of before would
/// misunderstand; fields that are added do not change it.
pub const VERSION: u32 = 1;

/// The first line that a server sends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Greeting {
    /// [`VERSION`] of the server.
    pub tcp_xdp: u32,
    /// The program's version, for people.
    pub server: String,
    /// The interface.
    pub iface: String,
}

impl Greeting {
    /// What this server says.
    pub fn new(interface: &str) -> Self {
        Self {
            tcp_xdp: VERSION,
            server: env!("CARGO_PKG_VERSION").to_owned(),
            iface: interface.to_owned(),
        }
    }

    /// Reads a server's first line. An error names both versions.
    pub fn check(line: &str) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Any {
            tcp_xdp: u32,
        }
        let other = |version: &str| {
            format!(
                "the server speaks {version} of the control protocol, this tcp-user version \
                 {VERSION}: use the one that belongs to the server"
            )
        };
        let any: Any = serde_json::from_str(line).map_err(|_| other("an unknown version"))?;
        if any.tcp_xdp != VERSION {
            return Err(other(&format!("version {}", any.tcp_xdp)));
        }
        serde_json::from_str(line).map_err(|_| other("an unknown version"))
    }
}

/// Reads a client's line: a [`Request`], with the version that it is written in as `v`
/// (or without).
pub fn request(line: &str) -> Result<Request, String> {
    let mut value: serde_json::Value = serde_json::from_str(line).map_err(|e| e.to_string())?;
    if let Some(version) = value.as_object_mut().and_then(|o| o.remove("v"))
        && version != VERSION
    {
        return Err(format!(
            "version {version} of the control protocol is unknown here, this is version {VERSION}"
        ));
    }
    serde_json::from_value(value).map_err(|e| e.to_string())
}

/// A client's request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "cmd", rename_all = "lowercase", deny_unknown_fields)]
pub enum Request {
    /// Answered with one [`Stats`].
    Stats,
    /// Answered with one list of [`Connection`]s.
    Conns {
        /// Which.
        #[serde(default)]
        filter: Filter,
        /// In which order.
        #[serde(default)]
        sort: Sort,
        /// So many at most.
        #[serde(default)]
        limit: Option<usize>,
    },
    /// Answered with a [`Segment`] a line, until the client goes.
    Trace {
        /// Of which connections.
        #[serde(default)]
        filter: Filter,
    },
    /// Answered with a list of [`super::doctor::Check`]s.
    Doctor,
    /// Lets the connections of some places end, or of all if there is none; answered
    /// with a list of the places.
    Drain {
        /// `ADDR:PORT` or `ADDR:PORT-PORT`.
        #[serde(default)]
        places: Vec<String>,
    },
    /// Answered with a list of [`Proxied`]s.
    Backends,
    /// Lets the connections to a backend end, or uses it again; answered as
    /// [`Self::Backends`].
    Backend {
        /// Its address.
        addr: SocketAddr,
        /// No new connections.
        drain: bool,
    },
    /// Answered with a list of [`ListenInfo`]s.
    Listens,
    /// Gives a place another policy; answered as [`Self::Listens`].
    Policy {
        /// `ADDR:PORT` or `ADDR:PORT-PORT`.
        place: String,
        /// The policy.
        policy: Policy,
    },
    /// Serves one more place; answered as [`Self::Listens`].
    Add {
        /// `ADDR:PORT=APP[@POLICY]`.
        listen: String,
    },
    /// Serves a place no more; answered as [`Self::Listens`].
    Remove {
        /// `ADDR:PORT` or `ADDR:PORT-PORT`.
        place: String,
    },
    /// Answered with [`SourcesInfo`].
    Sources,
    /// Puts a prefix on the allow or the deny list, or takes it off both; answered as
    /// [`Self::Sources`].
    Source {
        /// `192.0.2.0/24` or `2001:db8::/32`.
        prefix: String,
        /// The list.
        to: To,
    },
    /// Answered with the [`SecretInfo`] of the secret in use.
    Secret,
    /// Reads the secret file again or draws a new secret; answered with its
    /// [`SecretInfo`].
    Rotate,
    /// Reads the configuration file again; answered with [`Reloaded`].
    Reload,
}

/// A listen as it is now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenInfo {
    /// `ADDR:PORT` or `ADDR:PORT-PORT`.
    pub place: String,
    /// The app.
    pub app: String,
    /// How handshakes are treated.
    pub policy: Policy,
}

impl From<&Listen> for ListenInfo {
    fn from(listen: &Listen) -> Self {
        Self {
            place: listen.place.to_string(),
            app: listen.app.to_string(),
            policy: listen.policy,
        }
    }
}

/// The allow and deny lists.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourcesInfo {
    /// Prefixes that may connect; if there is one, all others may not.
    pub allow: Vec<String>,
    /// Prefixes that may not connect.
    pub deny: Vec<String>,
}

impl From<&Xdp> for SourcesInfo {
    fn from(xdp: &Xdp) -> Self {
        let texts = |list: &[Prefix]| list.iter().map(ToString::to_string).collect();
        Self {
            allow: texts(&xdp.allow),
            deny: texts(&xdp.deny),
        }
    }
}

/// A master secret.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SecretInfo {
    /// Its fingerprint, see [`crate::control::secrets::Master::id`].
    pub id: String,
    /// Seconds until it makes cookies.
    pub in_s: f64,
}

/// What a reload of the configuration changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// Keys that have changed.
    pub live: Vec<String>,
    /// Keys whose new values wait for the next start.
    pub restart: Vec<String>,
}

impl fmt::Display for Reloaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.live.as_slice() {
            [] => f.write_str("nothing changes")?,
            keys => write!(f, "changed: {}", keys.join(", "))?,
        }
        if !self.restart.is_empty() {
            write!(f, "; only after a restart: {}", self.restart.join(", "))?;
        }
        Ok(())
    }
}

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refusal {
    /// One line.
    pub error: String,
}

/// Counters of XDP and userspace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Frames that XDP saw, by [`Counter::name`]; each is in one of them.
    pub xdp: BTreeMap<String, u64>,
    /// The sum of them.
    pub xdp_frames: u64,
    /// More SYNs and bad cookies arrive than `cookie.attack_rate`, or did some seconds ago.
    #[serde(default)]
    pub under_attack: bool,
    /// More SYNs than `xdp.adaptive_rate` arrive, or did some seconds ago: adaptive listens have
    /// cookies only.
    #[serde(default)]
    pub flooded: bool,
    /// One per queue.
    pub workers: Vec<Worker>,
    /// Connections by state, TIME-WAIT entries among them.
    #[serde(default)]
    pub states: BTreeMap<String, u64>,
    /// What is served.
    #[serde(default)]
    pub listens: Vec<ListenStats>,
    /// Trace records dropped because their reader was slow.
    pub trace_dropped: u64,
    /// One per listen that is proxied.
    #[serde(default)]
    pub proxies: Vec<Proxied>,
}

/// Counters of one listen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenStats {
    /// Where and what.
    #[serde(flatten)]
    pub listen: ListenInfo,
    /// Connections accepted since the start.
    pub accepted: u64,
    /// Connections now, TIME-WAIT left out.
    pub open: u64,
}

/// Adds up what local ends of a census belong to each listen: the exact one, else the
/// wildcard.
pub fn listen_stats(listens: Vec<ListenInfo>, census: &Census) -> Vec<ListenStats> {
    let places: Vec<Option<Place>> = listens.iter().map(|l| l.place.parse().ok()).collect();
    let mut all: Vec<ListenStats> = listens
        .into_iter()
        .map(|listen| ListenStats {
            listen,
            accepted: 0,
            open: 0,
        })
        .collect();
    let find = |local: SocketAddr| {
        let fits = |place: &Option<Place>| place.is_some_and(|p| p.has(local));
        let exact = |place: &Option<Place>| place.is_some_and(|p| p.addr.is_some());
        let fitting = places.iter().enumerate().filter(|(_, p)| fits(p));
        fitting.max_by_key(|(_, p)| exact(p)).map(|(i, _)| i)
    };
    for (local, n) in &census.accepted {
        if let Some(at) = find(*local) {
            all[at].accepted += n;
        }
    }
    for (local, n) in &census.open {
        if let Some(at) = find(*local) {
            all[at].open += n;
        }
    }
    all
}

/// Counters of one worker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worker {
    /// RX queue.
    pub queue: usize,
    /// Connections and TIME-WAIT entries.
    pub connections: usize,
    /// Octets of memory that send and receive buffers hold.
    #[serde(default)]
    pub buffered: usize,
    /// Frames received, by what the engine did with them.
    pub frames: BTreeMap<String, u64>,
    /// Frames received from the AF_XDP socket.
    pub received: u64,
    /// Frames sent.
    pub sent: u64,
    /// Frames handed to another worker, whose connection they belong to.
    #[serde(default)]
    pub handed_over: u64,
    /// Frames that the kernel dropped before the socket.
    pub receive_dropped: u64,
    /// Frames that the kernel refused to send.
    pub send_invalid: u64,
}

impl Stats {
    /// From the counters of both sides.
    pub fn new(xdp: &[(Counter, u64)], workers: &[WorkerStats]) -> Self {
        Self {
            xdp: xdp.iter().map(|(c, n)| (c.name().to_owned(), *n)).collect(),
            xdp_frames: xdp.iter().map(|(_, n)| n).sum(),
            trace_dropped: workers.iter().map(|w| w.trace_dropped).max().unwrap_or(0),
            proxies: Vec::new(),
            workers: workers
                .iter()
                .enumerate()
                .map(|(queue, w)| Worker::new(queue, w))
                .collect(),
            ..Self::default()
        }
    }
}

impl Worker {
    fn new(queue: usize, stats: &WorkerStats) -> Self {
        let DeviceStats {
            received,
            sent,
            receive_dropped,
            send_invalid,
        } = stats.device;
        Self {
            queue,
            connections: stats.connections,
            buffered: stats.buffered,
            frames: stats
                .dispositions
                .iter()
                .map(|(d, n)| (disposition_name(*d), *n))
                .collect(),
            received,
            sent,
            handed_over: stats.handed_over,
            receive_dropped,
            send_invalid,
        }
    }
}

/// `BadChecksum` as `bad_checksum`.
fn disposition_name(disposition: Disposition) -> String {
    let mut name = String::new();
    for c in format!("{disposition:?}").chars() {
        if c.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(c.to_ascii_lowercase());
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_small_objects() {
        assert_eq!(request(r#"{"cmd":"stats"}"#), Ok(Request::Stats));
        let trace = Request::Trace {
            filter: Filter::default(),
        };
        assert_eq!(request(r#"{"v":1,"cmd":"trace"}"#), Ok(trace));
        let conns = r#"{"cmd":"conns","filter":{"port":80},"sort":"send-q","limit":3}"#;
        let Ok(Request::Conns {
            filter,
            sort: Sort::SendQ,
            limit: Some(3),
        }) = request(conns)
        else {
            panic!("{:?}", request(conns));
        };
        assert_eq!(filter.port, Some(80));
        assert!(request(r#"{"cmd":"reboot"}"#).is_err());
        assert!(request("stats").is_err());
    }

    #[test]
    fn another_version_is_one_clear_error() {
        let error = request(r#"{"v":2,"cmd":"stats","more":1}"#).expect_err("unknown");
        assert!(
            error.contains("version 2") && error.contains("version 1"),
            "{error}"
        );
        let line = serde_json::to_string(&Greeting::new("eth0")).expect("plain data");
        assert_eq!(Greeting::check(&line), Ok(Greeting::new("eth0")));
        let line = line.replace("\"tcp_xdp\":1", "\"tcp_xdp\":7");
        let error = Greeting::check(&line).expect_err("unknown");
        assert!(
            error.contains("version 7") && !error.contains('\n'),
            "{error}"
        );
        assert!(Greeting::check("SSH-2.0").is_err());
    }

    #[test]
    fn listens_add_up_what_is_theirs() {
        let info = |text: &str| ListenInfo::from(&text.parse::<Listen>().expect("valid"));
        let local = |text: &str| text.parse::<SocketAddr>().expect("literal");
        let census = Census {
            accepted: [
                (local("10.0.0.1:80"), 5),
                (local("10.0.0.2:80"), 7),
                (local("10.0.0.2:443"), 1),
            ]
            .into(),
            open: [(local("10.0.0.2:80"), 2)].into(),
            ..Census::default()
        };
        let listens = vec![info("*:80=http"), info("10.0.0.1:80=echo")];
        let all: Vec<(u64, u64)> = listen_stats(listens, &census)
            .iter()
            .map(|l| (l.accepted, l.open))
            .collect();
        assert_eq!(all, [(7, 2), (5, 0)]);
    }

    #[test]
    fn names_are_snake_case() {
        assert_eq!(disposition_name(Disposition::BadChecksum), "bad_checksum");
        assert_eq!(disposition_name(Disposition::Segment), "segment");
    }
}
