//! Two namespaces and the wire between them: the generator's end, where one CPU makes SYNs and counts
//! answers, and the responder's, whose NAPI thread has a CPU to itself.
//!
//! Nothing can leave: neither namespace has another interface, a default route, or forwards.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt as _,
    process,
    sync::atomic::{AtomicU8, Ordering},
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};
use xtask::netns::{Namespace, VethEnd, VethPair};

/// The generator's address; the sources are said to be behind it.
pub(super) const GENERATOR: &str = "192.0.2.1";
/// The responder's address.
pub(super) const RESPONDER: &str = "192.0.2.2";

pub(super) struct Bed {
    _pair: VethPair,
    pub(super) generator: Namespace,
    pub(super) responder: Namespace,
    /// The interface in the generator's namespace.
    pub(super) generator_if: String,
    /// The interface in the responder's namespace.
    pub(super) responder_if: String,
    pub(super) generator_mac: [u8; 6],
    pub(super) responder_mac: [u8; 6],
    pub(super) cpus: Cpus,
    /// `/proc/net/dev` of the responder's namespace.
    devices: File,
    /// Clients have had this many addresses.
    addresses: AtomicU8,
}

/// What the wire has carried, and what it has not: a frame that finds the ring of the other end
/// full is lost, before anybody has looked at it.
#[derive(Clone, Copy, Default)]
pub(super) struct Wire {
    /// Frames of the flood that arrived at the responder.
    pub(super) flood: u64,
    /// Those that did not.
    pub(super) flood_lost: u64,
    /// Frames of clients that arrived.
    pub(super) clients: u64,
    pub(super) clients_lost: u64,
    /// Frames of the responder that did not arrive.
    pub(super) answers_lost: u64,
}

impl Wire {
    pub(super) fn since(self, before: Self) -> Self {
        Self {
            flood: self.flood - before.flood,
            flood_lost: self.flood_lost - before.flood_lost,
            clients: self.clients - before.clients,
            clients_lost: self.clients_lost.saturating_sub(before.clients_lost),
            answers_lost: self.answers_lost - before.answers_lost,
        }
    }
}

/// Who runs where.
#[derive(Clone, Copy)]
pub(in crate::bench) struct Cpus {
    pub(in crate::bench) generator: usize,
    pub(in crate::bench) responder: usize,
}

impl Bed {
    pub(super) fn new() -> Result<Self> {
        let cpus = Cpus::choose()?;
        let generator = Namespace::unique("generator")?;
        let responder = Namespace::unique("responder")?;
        // A NAPI thread is found by its interface's name, which must be the only one on the machine.
        let generator_if = format!("b{}g", process::id());
        let responder_if = format!("b{}r", process::id());
        let pair = VethPair::create(
            &VethEnd::new(&generator, &generator_if).address("192.0.2.1/24"),
            &VethEnd::new(&responder, &responder_if).address("192.0.2.2/24"),
        )?;
        let mac = |namespace: &Namespace, interface: &str| {
            let text = namespace.run("cat", &[&format!("/sys/class/net/{interface}/address")])?;
            parse_mac(text.trim()).with_context(|| format!("{interface} has no address"))
        };
        let devices = responder.enter(|| File::open("/proc/thread-self/net/dev"))??;
        let bed = Self {
            generator_mac: mac(&generator, &generator_if)?,
            responder_mac: mac(&responder, &responder_if)?,
            _pair: pair,
            generator,
            responder,
            generator_if,
            responder_if,
            cpus,
            devices,
            addresses: AtomicU8::new(0),
        };
        // With GRO a veth has a NAPI even without an XDP program.
        let device = bed.responder_if.as_str();
        bed.responder.run("ethtool", &["-K", device, "gro", "on"])?;
        // The sources are behind the generator.
        bed.know(GENERATOR)?;
        let route = [
            "route",
            "add",
            "198.18.0.0/15",
            "via",
            GENERATOR,
            "dev",
            device,
        ];
        bed.responder.run("ip", &route)?;
        Ok(bed)
    }

    /// Makes an address of the generator's known to the responder, and the responder's to the
    /// generator: nobody has to ask for it in a flood.
    fn know(&self, address: &str) -> Result<()> {
        let here = (&self.generator, &self.generator_if, RESPONDER);
        let there = (&self.responder, &self.responder_if, address);
        for ((namespace, device, to), mac) in
            [(here, self.responder_mac), (there, self.generator_mac)]
        {
            let mac = mac.map(|octet| format!("{octet:02x}")).join(":");
            let neighbour = ["neigh", "replace", to, "lladdr", &mac, "nud", "permanent"];
            namespace.run("ip", &[&neighbour[..], &["dev", device]].concat())?;
        }
        Ok(())
    }

    /// Gives the clients from here on an address of their own: what earlier ones left behind at
    /// the responder, if they did not get through, is not in their way.
    pub(super) fn change_client(&self) -> Result<()> {
        let n = self.addresses.fetch_add(1, Ordering::Relaxed) % 100;
        let (address, device) = (format!("192.0.2.{}", 100 + n), &self.generator_if);
        let new = format!("{address}/32");
        let new = ["address", "replace", &new, "dev", device];
        self.generator.run("ip", &new)?;
        self.know(&address)?;
        let to = format!("{RESPONDER}/32");
        let route = ["route", "replace", &to, "dev", device, "src", &address];
        self.generator.run("ip", &route)?;
        Ok(())
    }

    /// What the wire has carried so far; exact only while there is no flood.
    pub(super) fn wire(&self) -> Result<Wire> {
        let text = self.generator.run("ethtool", &["-S", &self.generator_if])?;
        let number = |name: &str| -> Result<u64> {
            let lines = text.lines().filter_map(|line| line.trim().split_once(": "));
            let value = lines.clone().find(|(n, _)| *n == name);
            let (_, value) = value.with_context(|| format!("ethtool -S has no {name}"))?;
            Ok(value.parse()?)
        };
        let statistic = |namespace: &Namespace, interface: &str, name: &str| -> Result<u64> {
            let path = format!("/sys/class/net/{interface}/statistics/{name}");
            Ok(namespace.run("cat", &[&path])?.trim().parse()?)
        };
        let flood = number("tx_queue_0_xdp_xmit")?;
        let flood_lost = number("tx_queue_0_xdp_xmit_errors")?;
        let lost = statistic(&self.generator, &self.generator_if, "tx_dropped")?;
        Ok(Wire {
            flood,
            flood_lost,
            clients: self.received()?.saturating_sub(flood),
            clients_lost: lost.saturating_sub(flood_lost),
            answers_lost: statistic(&self.responder, &self.responder_if, "tx_dropped")?,
        })
    }

    /// Moves the NAPI of both ends to threads and each thread to its CPU. Both must have one, so
    /// there must be an XDP program at the generator's end.
    pub(super) fn pin(&self) -> Result<()> {
        for (namespace, interface, cpu) in [
            (&self.generator, &self.generator_if, self.cpus.generator),
            (&self.responder, &self.responder_if, self.cpus.responder),
        ] {
            let write = format!("echo 1 > /sys/class/net/{interface}/threaded");
            namespace.run("sh", &["-c", &write])?;
            let thread = napi_thread(interface)?;
            pin(thread, cpu)?;
            if namespace.name() == self.generator.name() {
                // Ahead of the generator on the same CPU, so that no answer is lost for want of it.
                set_realtime(thread)?;
            }
        }
        Ok(())
    }

    /// The frames that the responder's end has received.
    pub(super) fn received(&self) -> Result<u64> {
        let mut text = vec![0; 16 * 1024];
        let len = self.devices.read_at(&mut text, 0)?;
        let text = String::from_utf8_lossy(&text[..len]);
        let line = text.lines().find_map(|line| {
            let (name, rest) = line.split_once(':')?;
            (name.trim() == self.responder_if).then_some(rest)
        });
        let line = line.context("the responder's interface is gone")?;
        let packets = line.split_whitespace().nth(1);
        Ok(packets.context("no packet count")?.parse()?)
    }

    /// The CPU time of the responder's NAPI thread, nanoseconds.
    pub(super) fn responder_cpu(&self) -> Result<u64> {
        napi_cpu(&self.responder_if)
    }
}

impl Cpus {
    /// Two that share no core, if there are such.
    pub(in crate::bench) fn choose() -> Result<Self> {
        let allowed = sched_getaffinity(Pid::from_raw(0))?;
        let cpus: Vec<usize> = (0..CpuSet::count())
            .filter(|cpu| allowed.is_set(*cpu).unwrap_or(false))
            .collect();
        ensure!(cpus.len() >= 2, "generator and responder take a CPU each");
        let core = |cpu: &usize| {
            let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
            fs::read_to_string(path).unwrap_or_default()
        };
        let generator = cpus[0];
        let other = cpus[1..].iter().rfind(|cpu| core(cpu) != core(&generator));
        Ok(Self {
            generator,
            responder: *other.unwrap_or(&cpus[cpus.len() - 1]),
        })
    }
}

/// Binds a thread, zero for the calling one, to a CPU.
pub(in crate::bench) fn pin(thread: Pid, cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(thread, &set).with_context(|| format!("cannot bind a thread to CPU {cpu}"))
}

fn set_realtime(thread: Pid) -> Result<()> {
    let parameter = libc::sched_param { sched_priority: 1 };
    // SAFETY: the parameter lives until the call returns.
    let result = unsafe {
        libc::sched_setscheduler(thread.as_raw(), libc::SCHED_FIFO, &raw const parameter)
    };
    nix::errno::Errno::result(result).context("cannot put a NAPI thread first")?;
    Ok(())
}

/// Puts the calling thread behind the others of its CPU.
pub(super) fn put_last() -> Result<()> {
    // SAFETY: a system call without pointers; zero is the calling thread.
    let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 19) };
    nix::errno::Errno::result(result).context("cannot set the priority of a thread")?;
    Ok(())
}

/// The CPU time of an interface's NAPI thread, nanoseconds.
pub(in crate::bench) fn napi_cpu(interface: &str) -> Result<u64> {
    let thread = napi_thread(interface)?;
    let text = fs::read_to_string(format!("/proc/{thread}/schedstat"))?;
    let time = text.split_whitespace().next();
    Ok(time.context("an empty schedstat")?.parse()?)
}

/// The kernel thread `napi/INTERFACE-ID`.
pub(in crate::bench) fn napi_thread(interface: &str) -> Result<Pid> {
    let prefix = format!("napi/{interface}-");
    for entry in fs::read_dir("/proc")? {
        let Ok(pid) = entry?.file_name().to_string_lossy().parse::<i32>() else {
            continue;
        };
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        if name.starts_with(&prefix) {
            return Ok(Pid::from_raw(pid));
        }
    }
    anyhow::bail!("{interface} has no NAPI thread")
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let octets = text.split(':').map(|octet| u8::from_str_radix(octet, 16));
    octets.collect::<Result<Vec<_>, _>>().ok()?.try_into().ok()
}
