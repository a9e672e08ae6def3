//! Two namespaces and the wire between them: `wrk` in one, proxy and backend in the other.

use std::{fs, process, time::Instant};

use anyhow::{Context as _, Result};
use nix::unistd::{Pid, SysconfVar, sysconf};
use xtask::netns::{Namespace, VethEnd, VethPair};

use super::super::syn::bed::{Cpus, napi_cpu, napi_thread, pin};

/// Where the backend listens.
pub(super) const BACKEND: &str = "127.0.0.1:8080";
/// Where proxies listen.
pub(super) const PROXY: &str = "192.0.2.2:80";

pub(super) struct Bed {
    _pair: VethPair,
    client: Namespace,
    /// Proxy and backend.
    pub(super) proxy: Namespace,
    client_if: String,
    /// The interface in the proxy's namespace.
    pub(super) proxy_if: String,
    cpus: Cpus,
}

/// CPU times so far, nanoseconds.
pub(super) struct Look {
    pub(super) at: Instant,
    /// The proxy's and its NAPI thread's.
    pub(super) proxy: u64,
    /// Everything's.
    pub(super) machine: u64,
}

impl Bed {
    pub(super) fn new() -> Result<Self> {
        let cpus = Cpus::choose()?;
        let client = Namespace::unique("client")?;
        let proxy = Namespace::unique("proxy")?;
        // A NAPI thread is found by its interface's name, which must be the only one on the machine.
        let client_if = format!("p{}c", process::id());
        let proxy_if = format!("p{}p", process::id());
        let pair = VethPair::create(
            &VethEnd::new(&client, &client_if)
                .address("192.0.2.1/24")
                .pass_program(),
            &VethEnd::new(&proxy, &proxy_if).address("192.0.2.2/24"),
        )?;
        // With GRO a veth has a NAPI even without an XDP program.
        proxy.run("ethtool", &["-K", &proxy_if, "gro", "on"])?;
        // Connections that ended must not run out of ports.
        for namespace in [&client, &proxy] {
            namespace.sysctl("ipv4/ip_local_port_range", "1024 65535")?;
            namespace.sysctl("ipv4/tcp_tw_reuse", "1")?;
        }
        Ok(Self {
            _pair: pair,
            client,
            proxy,
            client_if,
            proxy_if,
            cpus,
        })
    }

    /// Gives the proxy and its interface one CPU, and the client's interface the other.
    pub(super) fn pin(&self, proxy: u32) -> Result<()> {
        for (namespace, interface, cpu) in [
            (&self.client, &self.client_if, self.cpus.generator),
            (&self.proxy, &self.proxy_if, self.cpus.responder),
        ] {
            let write = format!("echo 1 > /sys/class/net/{interface}/threaded");
            namespace.run("sh", &["-c", &write])?;
            pin(napi_thread(interface)?, cpu)?;
        }
        for thread in threads(proxy) {
            pin(thread, self.cpus.responder)?;
        }
        Ok(())
    }

    /// Gives a backend the CPU of the clients.
    pub(super) fn pin_backend(&self, backend: u32) -> Result<()> {
        threads(backend)
            .into_iter()
            .try_for_each(|thread| pin(thread, self.cpus.generator))
    }

    /// Runs `wrk` to its end; what it prints.
    pub(super) fn wrk(&self, args: &[&str]) -> Result<String> {
        let cpu = self.cpus.generator.to_string();
        let mut all = vec!["-c", &cpu, "wrk"];
        all.extend(args);
        self.client.run("taskset", &all)
    }

    pub(super) fn look(&self, proxy: u32) -> Result<Look> {
        let mut time = napi_cpu(&self.proxy_if)?;
        for thread in threads(proxy) {
            let text = fs::read_to_string(format!("/proc/{thread}/schedstat"))?;
            let run = text
                .split_whitespace()
                .next()
                .context("an empty schedstat")?;
            time += run.parse::<u64>()?;
        }
        Ok(Look {
            at: Instant::now(),
            proxy: time,
            machine: busy()?,
        })
    }
}

/// The threads of a process and of those that it started.
fn threads(process: u32) -> Vec<Pid> {
    let mut all = Vec::new();
    let Ok(tasks) = fs::read_dir(format!("/proc/{process}/task")) else {
        return all;
    };
    for task in tasks.flatten() {
        let path = task.path();
        all.extend(
            task.file_name()
                .to_str()
                .and_then(|name| name.parse().ok())
                .map(Pid::from_raw),
        );
        let children = fs::read_to_string(path.join("children")).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|c| c.parse().ok()) {
            all.extend(threads(child));
        }
    }
    all
}

/// What all CPUs did, nanoseconds.
fn busy() -> Result<u64> {
    let text = fs::read_to_string("/proc/stat")?;
    let line = text.lines().next().context("an empty /proc/stat")?;
    let ticks: Vec<u64> = line
        .split_whitespace()
        .skip(1)
        .filter_map(|field| field.parse().ok())
        .collect();
    // User, nice, system, idle, iowait, irq, softirq, steal.
    let used: u64 = [0, 1, 2, 5, 6].iter().filter_map(|i| ticks.get(*i)).sum();
    let per_second = sysconf(SysconfVar::CLK_TCK)?.context("no clock tick")?;
    Ok(used * (1_000_000_000 / per_second as u64))
}
