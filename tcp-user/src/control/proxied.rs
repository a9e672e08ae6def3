//! What `stats` says of proxied connections.

#[cfg(doc)]
use crate::app::proxy::pool::Outcome;
use crate::app::proxy::{Pool, Pools};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;

/// Counters of the connections that a listen proxies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proxied {
    /// What stands behind `proxy:` in the listen.
    pub target: String,
    /// Connections accepted: those that ended and those that are open.
    pub accepted: u64,
    /// Connections that ended, by [`Outcome::name`]; each is in one of them.
    pub ended: BTreeMap<String, u64>,
    /// Octets carried to backends, headers apart.
    pub to_backend: u64,
    /// Octets carried to clients.
    pub to_client: u64,
    /// The backends, by address.
    pub backends: Vec<Backend>,
}

/// A backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    /// Where it is.
    pub addr: SocketAddr,
    /// Whether it answers, as far as is known.
    pub up: bool,
    /// It gets no new connections: `tcp-user backend drain`.
    #[serde(default)]
    pub draining: bool,
    /// Connections open or being opened.
    pub active: usize,
    /// Connections that came about.
    pub connected: u64,
    /// Connections that did not.
    pub failed: u64,
}

impl Proxied {
    /// From the counters of the listen's pool.
    pub fn new(pool: &Pool) -> Self {
        let (to_backend, to_client) = pool.octets();
        let ended = pool.outcomes();
        Self {
            target: pool.to_string(),
            ended: ended.map(|(o, n)| (o.name().to_owned(), n)).collect(),
            accepted: pool.accepted(),
            to_backend,
            to_client,
            backends: pool
                .infos()
                .into_iter()
                .map(|info| Backend {
                    addr: info.addr,
                    up: info.up,
                    draining: info.draining,
                    active: info.active,
                    connected: info.connected,
                    failed: info.failed,
                })
                .collect(),
        }
    }
}

/// All listens that are proxied.
pub fn all(pools: &Pools) -> Vec<Proxied> {
    pools.list().iter().map(|pool| Proxied::new(pool)).collect()
}

/// `tcp-user backend drain` and `use`, for every listen that has the backend. The error is
/// one line.
pub fn drain(pools: &Pools, addr: SocketAddr, on: bool) -> Result<Vec<Proxied>, String> {
    // Each of them, not the first.
    let found = pools.list().iter().filter(|p| p.drain(addr, on)).count();
    if found == 0 {
        return Err(format!("{addr} is no backend of any listen"));
    }
    tracing::info!(backend = %addr, draining = on, "backend");
    Ok(all(pools))
}

/// As `stats` prints it.
impl fmt::Display for Proxied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ended: u64 = self.ended.values().sum();
        writeln!(
            f,
            "proxy to {}: {} accepted, {} open, {} octets to backends, {} to clients",
            self.target,
            self.accepted,
            self.accepted.saturating_sub(ended),
            self.to_backend,
            self.to_client,
        )?;
        for (name, n) in self.ended.iter().filter(|(_, n)| **n > 0) {
            writeln!(f, "    {n:>12}  {name}")?;
        }
        for backend in &self.backends {
            writeln!(
                f,
                "    {} {}{}: {} open, {} connected, {} failed",
                backend.addr,
                if backend.up { "up" } else { "down" },
                if backend.draining { ", draining" } else { "" },
                backend.active,
                backend.connected,
                backend.failed,
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_printed_with_its_backends() {
        let proxied = Proxied {
            target: "a:1".into(),
            accepted: 7,
            ended: [("done".to_owned(), 3), ("idle".to_owned(), 0)].into(),
            to_backend: 10,
            to_client: 20,
            backends: vec![Backend {
                addr: ([10, 0, 0, 1], 1).into(),
                up: false,
                draining: true,
                active: 4,
                connected: 7,
                failed: 2,
            }],
        };
        assert_eq!(
            proxied.to_string(),
            "proxy to a:1: 7 accepted, 4 open, 10 octets to backends, 20 to clients\n    \
             \u{20}          3  done\n    \
             10.0.0.1:1 down, draining: 4 open, 7 connected, 2 failed\n"
        );
    }
}
