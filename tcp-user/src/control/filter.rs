//! Which connections `conns` and `trace` are about, and in which order.

use super::sources::Prefix;
use crate::proto::{ConnInfo, State};
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// Everything that is given must match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Filter {
    /// Only in this state, for example ESTABLISHED or time-wait. Repeatable
    #[arg(long = "state", value_name = "STATE", value_parser = state)]
    pub states: Vec<String>,
    /// Only with this local port
    #[arg(long, value_name = "PORT")]
    pub port: Option<u16>,
    /// Only clients of this prefix, for example 192.0.2.0/24
    #[arg(long, value_name = "PREFIX")]
    pub peer: Option<Prefix>,
    /// Only clients with this port
    #[arg(long, value_name = "PORT")]
    pub peer_port: Option<u16>,
}

impl Filter {
    /// Whether a connection is meant.
    pub fn matches(&self, remote: SocketAddr, local: SocketAddr, state: &str) -> bool {
        (self.states.is_empty() || self.states.iter().any(|s| s == state))
            && self.port.is_none_or(|port| port == local.port())
            && self.peer.is_none_or(|prefix| prefix.contains(remote.ip()))
            && self.peer_port.is_none_or(|port| port == remote.port())
    }

    /// The same for what the engine tells.
    pub fn matches_info(&self, info: &ConnInfo) -> bool {
        self.matches(
            info.flow.remote(),
            info.flow.local(),
            &info.state.to_string(),
        )
    }

    /// States may come from anyone who writes to the socket: in the RFC's words.
    pub fn normalize(mut self) -> Result<Self, String> {
        for name in &mut self.states {
            *name = state(name)?;
        }
        Ok(self)
    }
}

/// A state's name as the RFC writes it, from any case, with `-`, `_` or nothing between.
fn state(text: &str) -> Result<String, String> {
    let plain = |text: &str| {
        let letters = text.chars().filter(char::is_ascii_alphanumeric);
        letters.collect::<String>().to_ascii_lowercase()
    };
    State::ALL
        .iter()
        .map(ToString::to_string)
        .find(|name| plain(name) == plain(text))
        .ok_or_else(|| format!("unknown state `{text}`"))
}

/// What comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sort {
    /// As they lie in memory
    #[default]
    None,
    /// The oldest
    Age,
    /// The longest round trip
    Rtt,
    /// The largest congestion window
    Cwnd,
    /// Most octets not acknowledged
    SendQ,
    /// Most octets not read
    RecvQ,
    /// Most segments sent again
    Retransmits,
    /// Most octets received
    In,
    /// Most octets sent
    Out,
    /// Most octets both ways
    Bytes,
    /// The longest without a segment
    Idle,
}

impl Sort {
    /// The larger, the earlier.
    pub fn rank(self) -> fn(&ConnInfo) -> u64 {
        match self {
            Self::None => |_| 0,
            Self::Age => |i| i.age.as_secs(),
            Self::Rtt => |i| i.srtt.map_or(0, |t| t.as_nanos() as u64),
            Self::Cwnd => |i| u64::from(i.cwnd),
            Self::SendQ => |i| i.send_queue as u64,
            Self::RecvQ => |i| i.recv_queue as u64,
            Self::Retransmits => |i| i.retransmits,
            Self::In => |i| i.bytes_in,
            Self::Out => |i| i.bytes_out,
            Self::Bytes => |i| i.bytes_in.saturating_add(i.bytes_out),
            Self::Idle => |i| i.heard.as_nanos() as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_read_in_any_spelling() {
        for text in ["FIN-WAIT-1", "fin_wait_1", "FinWait1"] {
            assert_eq!(state(text).as_deref(), Ok("FIN-WAIT-1"));
        }
        assert!(state("open").is_err());
    }

    #[test]
    fn everything_given_must_match() {
        let filter = Filter {
            states: vec!["ESTABLISHED".into()],
            port: Some(80),
            peer: Some("192.0.2.0/24".parse().expect("valid")),
            peer_port: None,
        };
        let matches = |remote: &str, local: &str, state| {
            let parse = |text: &str| text.parse().expect("literal");
            filter.matches(parse(remote), parse(local), state)
        };
        assert!(matches("192.0.2.9:5", "10.0.0.1:80", "ESTABLISHED"));
        assert!(!matches("192.0.3.9:5", "10.0.0.1:80", "ESTABLISHED"));
        assert!(!matches("192.0.2.9:5", "10.0.0.1:81", "ESTABLISHED"));
        assert!(!matches("192.0.2.9:5", "10.0.0.1:80", "TIME-WAIT"));
        assert!(!matches("[2001:db8::1]:5", "10.0.0.1:80", "ESTABLISHED"));
        assert!(Filter::default().matches_any());
    }

    impl Filter {
        fn matches_any(&self) -> bool {
            let any = "[2001:db8::1]:5".parse().expect("literal");
            self.matches(any, any, "CLOSED")
        }
    }
}
