//! What is proxied, and the backends.

use super::{Snapshot, counters, gauges};
use prometheus_client::encoding::DescriptorEncoder;
use std::fmt;

impl Snapshot {
    pub(super) fn proxies(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let proxies = || self.stats.proxies.iter();
        if proxies().next().is_none() {
            return Ok(());
        }
        counters(
            to,
            "proxy_accepted",
            "Connections accepted for backends.",
            proxies().map(|p| ([("target", p.target.as_str())], p.accepted)),
        )?;
        counters(
            to,
            "proxy_ended",
            "Proxied connections that ended, each in one outcome.",
            proxies().flat_map(|p| {
                p.ended.iter().map(|(outcome, n)| {
                    let labels = [("target", p.target.as_str()), ("outcome", outcome.as_str())];
                    (labels, *n)
                })
            }),
        )?;
        counters(
            to,
            "proxy_bytes",
            "Bytes carried, by where they went.",
            proxies().flat_map(|p| {
                let target = ("target", p.target.as_str());
                [
                    ([target, ("to", "backend")], p.to_backend),
                    ([target, ("to", "client")], p.to_client),
                ]
            }),
        )?;
        let backends: Vec<_> = proxies()
            .flat_map(|p| p.backends.iter().map(|b| (p.target.as_str(), b)))
            .map(|(target, backend)| (target, backend.addr.to_string(), backend))
            .collect();
        let each = || {
            backends.iter().map(|(target, addr, backend)| {
                ([("target", *target), ("backend", addr.as_str())], *backend)
            })
        };
        gauges(
            to,
            "backend_up",
            "Whether a backend answers, as far as is known.",
            each().map(|(labels, b)| (labels, u64::from(b.up))),
        )?;
        gauges(
            to,
            "backend_connections",
            "Connections to a backend that are open or being opened.",
            each().map(|(labels, b)| (labels, b.active as u64)),
        )?;
        counters(
            to,
            "backend_connected",
            "Connections to a backend that came about.",
            each().map(|(labels, b)| (labels, b.connected)),
        )?;
        counters(
            to,
            "backend_failed",
            "Connections to a backend that did not come about.",
            each().map(|(labels, b)| (labels, b.failed)),
        )
    }
}
