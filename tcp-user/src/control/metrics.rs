//! `--metrics`: the counters for Prometheus, in the `OpenMetrics` text format.

mod http;
mod process;
mod proxy;

pub use http::{Address, Server};

use super::records::Stats;
use process::Process;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};
use std::fmt;
use tcp_common::counters::Counter;

/// What every name begins with, but for those of the process.
const PREFIX: &str = "tcpxdp";

/// A server at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The counters.
    pub stats: Stats,
    /// The interface.
    pub interface: String,
}

impl Snapshot {
    /// As text.
    pub fn encode(self) -> Result<String, fmt::Error> {
        let process = Process::read();
        let mut registry = Registry::default();
        registry
            .sub_registry_with_prefix(PREFIX)
            .register_collector(Box::new(self));
        registry.register_collector(Box::new(process));
        let mut text = String::new();
        encode(&mut text, &registry)?;
        Ok(text)
    }
}

/// A label set and its value.
type Sample<'a, const N: usize> = ([(&'static str, &'a str); N], u64);

/// One counter with all its label sets; `_total` is added to the name.
fn counters<'a, const N: usize>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    samples: impl IntoIterator<Item = Sample<'a, N>>,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, value) in samples {
        if labels.is_empty() {
            return ConstCounter::new(value).encode(metric);
        }
        ConstCounter::new(value).encode(metric.encode_family(&labels)?)?;
    }
    Ok(())
}

/// The same for gauges.
fn gauges<'a, const N: usize>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    samples: impl IntoIterator<Item = Sample<'a, N>>,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, value) in samples {
        if labels.is_empty() {
            return ConstGauge::new(value).encode(metric);
        }
        ConstGauge::new(value).encode(metric.encode_family(&labels)?)?;
    }
    Ok(())
}

impl Collector for Snapshot {
    fn encode(&self, mut to: DescriptorEncoder<'_>) -> fmt::Result {
        let to = &mut to;
        let version = env!("CARGO_PKG_VERSION");
        gauges(
            to,
            "build_info",
            "Version and interface of the server; always 1.",
            [([("version", version), ("interface", &self.interface)], 1)],
        )?;
        counters(
            to,
            "xdp_frames",
            "Frames that the XDP program saw, each under one verdict and reason.",
            Counter::ALL.iter().map(|counter| {
                let verdict = counter.verdict().name();
                let n = self.stats.xdp.get(counter.name()).copied().unwrap_or(0);
                ([("verdict", verdict), ("reason", counter.name())], n)
            }),
        )?;
        let states = self.stats.states.iter();
        gauges(
            to,
            "connections",
            "Connections, TIME-WAIT entries and handshakes that are kept, by state.",
            states.map(|(state, n)| ([("state", state.as_str())], *n)),
        )?;
        gauges(
            to,
            "under_attack",
            "1 while more SYNs and bad cookies arrive than cookie.attack_rate.",
            [([], u64::from(self.stats.under_attack))],
        )?;
        gauges(
            to,
            "flooded",
            "1 while more SYNs arrive than xdp.adaptive_rate: adaptive listens have cookies only.",
            [([], u64::from(self.stats.flooded))],
        )?;
        self.listens(to)?;
        self.proxies(to)?;
        self.workers(to)?;
        counters(
            to,
            "trace_records_dropped",
            "Trace records dropped because their reader was slow.",
            [([], self.stats.trace_dropped)],
        )
    }
}

impl Snapshot {
    fn listens(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let labels = |i: usize| {
            let l = &self.stats.listens[i].listen;
            [("listen", l.place.as_str()), ("app", l.app.as_str())]
        };
        let all = 0..self.stats.listens.len();
        counters(
            to,
            "listen_accepted",
            "Connections accepted, by listen.",
            all.clone()
                .map(|i| (labels(i), self.stats.listens[i].accepted)),
        )?;
        gauges(
            to,
            "listen_connections",
            "Open connections by listen, TIME-WAIT left out.",
            all.map(|i| (labels(i), self.stats.listens[i].open)),
        )
    }

    fn workers(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        type Field = fn(&super::records::Worker) -> u64;
        const FIELDS: [(&str, &str, Field); 5] = [
            (
                "worker_frames_received",
                "Frames received from the AF_XDP socket of a queue.",
                |w| w.received,
            ),
            (
                "worker_frames_sent",
                "Frames sent to the AF_XDP socket of a queue.",
                |w| w.sent,
            ),
            (
                "worker_frames_handed_over",
                "Frames that came on another queue than their connection's.",
                |w| w.handed_over,
            ),
            (
                "worker_frames_receive_dropped",
                "Frames that found the ring of a queue full.",
                |w| w.receive_dropped,
            ),
            (
                "worker_frames_send_invalid",
                "Frames that the kernel refused to send.",
                |w| w.send_invalid,
            ),
        ];
        let queues: Vec<String> = self
            .stats
            .workers
            .iter()
            .map(|w| w.queue.to_string())
            .collect();
        let workers = || queues.iter().map(String::as_str).zip(&self.stats.workers);
        for (name, help, field) in FIELDS {
            let samples = workers().map(|(queue, w)| ([("queue", queue)], field(w)));
            counters(to, name, help, samples)?;
        }
        gauges(
            to,
            "worker_buffered_bytes",
            "Memory of the buffers of a worker's connections.",
            workers().map(|(queue, w)| ([("queue", queue)], w.buffered as u64)),
        )?;
        counters(
            to,
            "segments",
            "Frames that a worker handled, by what its TCP engine did with them.",
            workers().flat_map(|(queue, w)| {
                w.frames.iter().map(move |(disposition, n)| {
                    (
                        [("queue", queue), ("disposition", disposition.as_str())],
                        *n,
                    )
                })
            }),
        )
    }
}

impl Collector for Process {
    fn encode(&self, mut to: DescriptorEncoder<'_>) -> fmt::Result {
        let seconds = Some(&Unit::Seconds);
        let cpu = to.encode_descriptor(
            "process_cpu",
            "User and system time of the process.",
            seconds,
            MetricType::Counter,
        )?;
        ConstCounter::new(self.cpu).encode(cpu)?;
        let start = to.encode_descriptor(
            "process_start_time",
            "When the process started, since the epoch.",
            seconds,
            MetricType::Gauge,
        )?;
        ConstGauge::new(self.start).encode(start)?;
        let memory = to.encode_descriptor(
            "process_resident_memory",
            "Memory of the process, UMEM included.",
            Some(&Unit::Bytes),
            MetricType::Gauge,
        )?;
        ConstGauge::new(self.resident).encode(memory)
    }
}

#[cfg(test)]
mod tests;
