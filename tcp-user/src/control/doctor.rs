//! `tcp-user doctor`: what an interface and this system are fit for, what would hurt,
//! and what to do about it. Changes nothing.

use super::attached;
use super::netlink::{self, feature};
use super::shield::{self, sysctls::Sysctls};
use crate::dataplane::nic::Nic;
use crate::dataplane::offloads::Offloads;
use crate::dataplane::xsk;
use anyhow::{Context, Result, anyhow};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::Write as _;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// It works, with less speed or under a condition.
    Warn,
    /// The server cannot run so.
    Fail,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What was looked at.
    pub check: Cow<'static, str>,
    /// How it is.
    pub level: Level,
    /// What was found.
    pub found: String,
    /// What to do; empty if nothing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub advice: String,
}

impl Check {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self {
            check: check.into(),
            level: Level::Ok,
            found: found.into(),
            advice: String::new(),
        }
    }

    fn warn(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            level: Level::Warn,
            advice: advice.into(),
            ..Self::ok(check, found)
        }
    }

    fn fail(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            level: Level::Fail,
            ..Self::warn(check, found, advice)
        }
    }
}

/// Looks at everything and prints it; true if nothing fails.
pub fn run(interface: &str, json: bool) -> Result<bool> {
    print(&checks(interface)?, json)
}

/// Looks at everything.
pub fn checks(interface: &str) -> Result<Vec<Check>> {
    let nic = Nic::find(interface)
        .with_context(|| format!("--iface {interface}"))?
        .ok_or_else(|| anyhow!("--iface {interface}: no such interface"))?;
    Ok(examine(&nic))
}

/// What a server finds about itself: what takes privileges that it has dropped since, it
/// has looked at when it started.
pub fn again(interface: &str, at_start: &[Check]) -> Result<Vec<Check>> {
    const PRIVILEGED: [&str; 5] = ["capabilities", "bpf", "af_xdp", "memlock", "xdp"];
    let mut checks = checks(interface)?;
    for check in &mut checks {
        let before = at_start.iter().find(|c| c.check == check.check);
        if let Some(before) = before.filter(|c| PRIVILEGED.contains(&c.check.as_ref())) {
            check.clone_from(before);
        }
    }
    Ok(checks)
}

/// The checks at the start, with the server's own program in place.
pub(super) fn at_start(nic: &Nic) -> Vec<Check> {
    let mut checks = examine(nic);
    for check in checks.iter_mut().filter(|c| c.check == "xdp") {
        let programs: Vec<String> = attached::find(nic.index)
            .iter()
            .map(ToString::to_string)
            .collect();
        *check = Check::ok("xdp", format!("this server's: {}", programs.join(", ")));
    }
    checks
}

/// Prints what was found; true if nothing fails.
pub fn print(checks: &[Check], json: bool) -> Result<bool> {
    let text = if json {
        serde_json::to_string(checks)? + "\n"
    } else {
        format(checks)
    };
    // Nobody reads: the exit code still tells.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(checks.iter().all(|c| c.level != Level::Fail))
}

fn format(checks: &[Check]) -> String {
    checks.iter().fold(String::new(), |mut out, c| {
        let level = match c.level {
            Level::Ok => "ok",
            Level::Warn => "warn",
            Level::Fail => "FAIL",
        };
        let _ = writeln!(out, "{level:<5} {:<13} {}", c.check, c.found);
        if !c.advice.is_empty() {
            let _ = writeln!(out, "{:19} → {}", "", c.advice);
        }
        out
    })
}

fn examine(nic: &Nic) -> Vec<Check> {
    let release = read("/proc/sys/kernel/osrelease");
    let status = read("/proc/self/status");
    let features = netlink::xdp_features(nic.index).ok();
    let offloads = Offloads::find(&nic.name).unwrap_or_default();
    let driver = driver(&nic.driver, features);
    let may_lock = has_capability(&status, 14);
    let mut all = vec![
        kernel(&release),
        capabilities(&status),
        bpf(),
        af_xdp(),
        btf(),
        memory(nic.queues, memlock(), may_lock),
        driver,
        zero_copy(features),
        queues(nic.queues, offloads.queues),
        mtu(nic.mtu as usize),
        occupied(nic),
        shield(),
    ];
    all.extend(hurting(&nic.driver, &offloads));
    if nic.driver == "veth" {
        all.push(peer(nic));
    }
    if !nic.addresses().is_ok_and(|a| !a.is_empty()) {
        all.push(Check::warn(
            "addresses",
            "none",
            format!("ip address add ADDR/LEN dev {}", nic.name),
        ));
    }
    all
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path)
        .unwrap_or_default()
        .trim()
        .to_owned()
}

/// Major and minor number.
pub(super) fn version(release: &str) -> (u32, u32) {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn kernel(release: &str) -> Check {
    match version(release) {
        // bpf_ktime_get_coarse_ns is the youngest thing that the program calls.
        v if v < (5, 11) => Check::fail(
            "kernel",
            format!("Linux {release}"),
            "Linux 5.11 or newer: BPF links for XDP, memory by cgroup, coarse clock",
        ),
        v if v < (6, 3) => Check::warn(
            "kernel",
            format!("Linux {release}"),
            "before 6.3 a driver does not say what it can; the server finds out by trying",
        ),
        _ => Check::ok("kernel", format!("Linux {release}, BPF links for XDP")),
    }
}

fn has_capability(status: &str, number: u32) -> bool {
    status
        .lines()
        .find_map(|l| l.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .is_some_and(|set| set >> number & 1 == 1)
}

fn capabilities(status: &str) -> Check {
    // CAP_SYS_ADMIN stands for CAP_BPF.
    let bpf = has_capability(status, 39) || has_capability(status, 21);
    let missing: Vec<&str> = [
        ("CAP_BPF", bpf),
        ("CAP_NET_ADMIN", has_capability(status, 12)),
        ("CAP_NET_RAW", has_capability(status, 13)),
    ]
    .iter()
    .filter(|(_, has)| !has)
    .map(|(name, _)| *name)
    .collect();
    if missing.is_empty() {
        return Check::ok("capabilities", "CAP_BPF, CAP_NET_ADMIN, CAP_NET_RAW");
    }
    Check::fail(
        "capabilities",
        format!("without {}", missing.join(", ")),
        "run as root, or give the process these capabilities",
    )
}

fn bpf() -> Check {
    match attached::probe_bpf() {
        Ok(()) => {
            if read("/proc/sys/net/core/bpf_jit_enable") == "0" {
                return Check::warn(
                    "bpf",
                    "interpreted: the JIT is off",
                    "sysctl net.core.bpf_jit_enable=1",
                );
            }
            Check::ok("bpf", "there, compiled by the JIT")
        }
        Err(e) if e.raw_os_error() == Some(libc::ENOSYS) => {
            Check::fail("bpf", "none", "a kernel with CONFIG_BPF_SYSCALL")
        }
        Err(e) => Check::warn("bpf", format!("cannot be asked: {e}"), "see capabilities"),
    }
}

fn af_xdp() -> Check {
    // SAFETY: no pointers; the descriptor is closed at once.
    let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if fd >= 0 {
        // SAFETY: ours, and used no more.
        unsafe { libc::close(fd) };
        return Check::ok("af_xdp", "sockets can be opened");
    }
    let error = std::io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            Check::warn("af_xdp", "not permitted to ask", "see capabilities")
        }
        _ => Check::fail(
            "af_xdp",
            error.to_string(),
            "a kernel with CONFIG_XDP_SOCKETS",
        ),
    }
}

fn btf() -> Check {
    if std::path::Path::new("/sys/kernel/btf/vmlinux").exists() {
        return Check::ok("btf", "the kernel describes its types");
    }
    Check::warn(
        "btf",
        "the kernel does not describe its types",
        "the server runs without; tools such as bpftool show less (CONFIG_DEBUG_INFO_BTF)",
    )
}

/// Octets; `None` is no limit.
fn memlock() -> Option<u64> {
    nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_MEMLOCK)
        .ok()
        .map(|(soft, _)| soft)
        .filter(|soft| *soft != libc::RLIM_INFINITY)
}

fn memory(queues: u32, limit: Option<u64>, may_lock: bool) -> Check {
    let needs = u64::from(queues) * xsk::MEMORY as u64;
    let mib = |octets: u64| octets.div_ceil(1 << 20);
    let found = format!(
        "AF_XDP needs {} MiB ({queues} × {})",
        mib(needs),
        mib(xsk::MEMORY as u64)
    );
    match limit {
        _ if may_lock => Check::ok("memlock", format!("{found}; CAP_IPC_LOCK, no limit")),
        None => Check::ok("memlock", format!("{found}; no limit")),
        Some(limit) if needs <= limit => {
            Check::ok("memlock", format!("{found}, of {} MiB", mib(limit)))
        }
        Some(limit) => Check::fail(
            "memlock",
            format!("{found}, the limit is {} MiB", mib(limit)),
            format!(
                "CAP_IPC_LOCK, or ulimit -l {} (LimitMEMLOCK= of a unit)",
                needs.div_ceil(1024)
            ),
        ),
    }
}

fn driver(name: &str, features: Option<u64>) -> Check {
    let name = if name.is_empty() {
        "unknown driver"
    } else {
        name
    };
    match features {
        Some(f) if f & feature::BASIC != 0 => Check::ok("driver", format!("{name}, native XDP")),
        Some(_) => Check::warn(
            "driver",
            format!("{name}, no native XDP"),
            "--mode auto goes generic, which works with every driver and is slower",
        ),
        None => Check::warn(
            "driver",
            format!("{name}; it does not say whether it has native XDP"),
            "`ready mode=` of the running server does",
        ),
    }
}

fn zero_copy(features: Option<u64>) -> Check {
    match features {
        Some(f) if f & feature::ZERO_COPY != 0 => Check::ok("zero-copy", "AF_XDP without copies"),
        Some(_) => Check::warn(
            "zero-copy",
            "not in this driver: AF_XDP copies each frame",
            "nothing to do; a card whose driver has it is faster",
        ),
        None => Check::warn(
            "zero-copy",
            "unknown",
            "`ready zerocopy=` of the running server says",
        ),
    }
}

fn queues(used: u32, channels: Option<(u32, u32)>) -> Check {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    match channels {
        Some((rx, tx)) if tx < rx => Check::fail(
            "queues",
            format!("{rx} RX, {tx} TX"),
            "each RX queue answers on the TX queue of its number: ethtool -L IF rx N tx N",
        ),
        Some((rx, tx)) if rx as usize > cpus => Check::warn(
            "queues",
            format!("{rx} RX, {tx} TX, for {cpus} CPUs"),
            format!("one worker a queue, so not more than CPUs: ethtool -L IF combined {cpus}"),
        ),
        Some((rx, tx)) => Check::ok("queues", format!("{rx} RX, {tx} TX; one worker each")),
        None => Check::ok("queues", format!("{used}; one worker each")),
    }
}

fn mtu(mtu: usize) -> Check {
    if mtu <= xsk::MAX_PACKET {
        return Check::ok(
            "mtu",
            format!("{mtu}, a frame of the UMEM holds {}", xsk::MAX_PACKET),
        );
    }
    Check::warn(
        "mtu",
        format!("{mtu}, but a frame of the UMEM holds {}", xsk::MAX_PACKET),
        format!(
            "the MSS is announced for {0}; a driver may refuse native XDP: ip link set IF mtu {0}",
            xsk::MAX_PACKET
        ),
    )
}

fn occupied(nic: &Nic) -> Check {
    let there = attached::find(nic.index);
    if there.is_empty() {
        return Check::ok("xdp", "no program on the interface");
    }
    let names: Vec<String> = there.iter().map(ToString::to_string).collect();
    Check::fail(
        "xdp",
        format!("a program is there: {}", names.join(", ")),
        "end what attached it, or run with --replace",
    )
}

/// What a listen with `=kernel` would find. Not a warning: there may be none.
fn shield() -> Check {
    match Sysctls::read() {
        Ok(sysctls) => shielded(&sysctls),
        Err(error) => Check::warn("shield", error.to_string(), ""),
    }
}

fn shielded(sysctls: &Sysctls) -> Check {
    let lost = shield::findings(sysctls);
    if lost.is_empty() {
        let found = "tcp_syncookies and tcp_timestamps are 2, fit for =kernel";
        return Check::ok("shield", found);
    }
    Check {
        advice: "for =kernel: run with --tune, or set both to 2".into(),
        ..Check::ok("shield", lost.join("; "))
    }
}

/// Offloads that XDP does not go with.
fn hurting(driver: &str, offloads: &Offloads) -> Vec<Check> {
    let mut all = Vec::new();
    for (name, short) in [("rx-lro", "lro"), ("rx-gro-hw", "rx-gro-hw")] {
        if offloads.has(name) {
            all.push(Check::warn(
                "offloads",
                format!("{name} is on: the card joins segments before XDP sees them"),
                format!("ethtool -K IF {short} off"),
            ));
        }
    }
    // veth takes no tag out of a frame that carries one.
    if offloads.has("rx-vlan-hw-parse") && driver != "veth" {
        all.push(Check::warn(
            "offloads",
            "rx-vlan-hw-parse is on: the card takes VLAN tags off, and answers go out without",
            "if there are VLANs: ethtool -K IF rxvlan off",
        ));
    }
    if all.is_empty() {
        all.push(Check::ok("offloads", "none that would hurt"));
    }
    all
}

/// The other end of a veth.
fn peer(nic: &Nic) -> Check {
    let link = netlink::link(nic.index).unwrap_or_default();
    let advice = "there: ethtool -K PEER tx off, and an XDP program (a passing one will do)";
    let here = link
        .peer
        .filter(|_| !link.peer_elsewhere)
        .and_then(|index| Some((index, nix::net::if_::if_indextoname(index).ok()?)));
    let Some((index, name)) = here else {
        return Check::warn(
            "peer",
            "the other end is in another namespace and cannot be seen",
            advice,
        );
    };
    let name = name.to_string_lossy().into_owned();
    let partial = Offloads::find(&name).is_ok_and(|o| o.has("tx-checksum-ip-generic"));
    let program = attached::find(index)
        .iter()
        .any(|p| p.hook == netlink::Hook::Native);
    if partial {
        return Check::warn(
            "peer",
            format!("{name} leaves TCP checksums to an offload that never runs"),
            format!("ethtool -K {name} tx off"),
        );
    }
    if !program {
        return Check::warn(
            "peer",
            format!("{name} has no native XDP program: what ours sends back is lost"),
            format!("attach a passing one to {name}, or --mode generic"),
        );
    }
    Check::ok(
        "peer",
        format!("{name}: whole checksums, native XDP program"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_read() {
        assert_eq!(version("6.18.44-fc-v669"), (6, 18));
        assert_eq!(version("5.4"), (5, 4));
        assert_eq!(version(""), (0, 0));
        assert_eq!(kernel("5.10.1").level, Level::Fail);
        assert_eq!(kernel("5.15.0").level, Level::Warn);
        assert_eq!(kernel("6.12.0").level, Level::Ok);
    }

    #[test]
    fn what_is_missing_is_named() {
        let none = "Name:\tx\nCapEff:\t0000000000000000\n";
        let check = capabilities(none);
        assert_eq!(check.level, Level::Fail);
        assert!(check.found.contains("CAP_NET_ADMIN"), "{check:?}");
        assert_eq!(capabilities("CapEff:\t000001ffffffffff").level, Level::Ok);
        let raw_only = capabilities("CapEff:\t0000000000002000");
        assert!(!raw_only.found.contains("CAP_NET_RAW"), "{raw_only:?}");
    }

    #[test]
    fn memory_is_counted_by_queue() {
        let one = xsk::MEMORY as u64;
        assert_eq!(memory(1, Some(one), false).level, Level::Ok);
        assert_eq!(memory(2, Some(one), false).level, Level::Fail);
        assert_eq!(memory(2, Some(one), true).level, Level::Ok);
        assert_eq!(memory(64, None, false).level, Level::Ok);
    }

    #[test]
    fn abilities_and_offloads() {
        assert_eq!(driver("veth", Some(feature::BASIC)).level, Level::Ok);
        assert_eq!(driver("dummy", Some(0)).level, Level::Warn);
        assert_eq!(driver("", None).level, Level::Warn);
        assert_eq!(queues(1, Some((4, 2))).level, Level::Fail);
        assert_eq!(mtu(1500).level, Level::Ok);
        assert_eq!(mtu(9000).level, Level::Warn);
        let mut offloads = Offloads::default();
        assert_eq!(hurting("ixgbe", &offloads)[0].level, Level::Ok);
        offloads.on.insert("rx-lro".into());
        offloads.on.insert("rx-vlan-hw-parse".into());
        assert_eq!(hurting("ixgbe", &offloads).len(), 2);
        assert_eq!(hurting("veth", &offloads).len(), 1);
    }

    #[test]
    fn a_line_each_and_what_to_do_below() {
        let text = format(&[
            Check::ok("mtu", "1500"),
            Check::fail("kernel", "Linux 4.4", "a newer one"),
        ]);
        assert_eq!(
            text,
            "ok    mtu           1500\nFAIL  kernel        Linux 4.4\n                    → a newer one\n"
        );
    }
}
