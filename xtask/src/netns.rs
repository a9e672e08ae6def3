//! Network namespaces and veth pairs that remove themselves.
//!
//! ```no_run
//! use xtask::netns::{Namespace, VethEnd, VethPair};
//!
//! # fn main() -> anyhow::Result<()> {
//! let client = Namespace::unique("client")?;
//! let server = Namespace::unique("server")?;
//! let _pair = VethPair::create(
//!     &VethEnd::new(&client, "eth0").address("192.0.2.1/24").pass_program(),
//!     &VethEnd::new(&server, "eth0").address("192.0.2.2/24"),
//! )?;
//! let status = client.command("curl").arg("http://192.0.2.2/").status()?;
//! # Ok(())
//! # }
//! ```
//!
//! Everything here needs root.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{self, Command},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sched::{CloneFlags, setns},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{process::run, xdp_pass};

/// Where `ip netns` keeps the names of namespaces.
const DIRECTORY: &str = "/run/netns";
/// What the names of [`Namespace::unique`] begin with, before the process id.
const PREFIX: &str = "tcpxdp-";
/// How long the processes of a namespace may take to end when they are asked to.
const GRACE: Duration = Duration::from_secs(2);
/// How long the kernel may take to say that both ends of a pair are up: it has a worker for that,
/// which a busy machine keeps waiting.
const CARRIER: Duration = Duration::from_secs(30);

/// A named network namespace. Dropping it ends the processes in it and removes it.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    removed_on_drop: bool,
}

impl Namespace {
    /// Makes a namespace with its loopback up; one of the same name that is there is removed first.
    pub fn create(name: &str) -> Result<Self> {
        remove(name)?;
        run(Command::new("ip").args(["netns", "add", name]))?;
        let namespace = Self {
            name: name.to_owned(),
            removed_on_drop: true,
        };
        run(Command::new("ip").args(["-n", name, "link", "set", "lo", "up"]))?;
        Ok(namespace)
    }

    /// Makes a namespace whose name no other process and no other call uses: `tcpxdp-PID-N-TAG`.
    ///
    /// The leftovers of processes that died are removed on the way.
    pub fn unique(tag: &str) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        remove_leftovers();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        Self::create(&format!("{PREFIX}{}-{count}-{tag}", process::id()))
    }

    /// The name, as `ip netns` knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that is the namespace.
    pub fn path(&self) -> PathBuf {
        Path::new(DIRECTORY).join(&self.name)
    }

    /// Leaves the namespace where it is when this value is dropped.
    pub fn keep(&mut self) {
        self.removed_on_drop = false;
    }

    /// A command that will run inside. The child has the program's process id.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// Runs a program inside and returns what it wrote to stdout.
    ///
    /// If it fails, the error holds the last line that it wrote to stderr.
    pub fn run(&self, program: &str, args: &[&str]) -> Result<String> {
        run(self.command(program).args(args))
    }

    /// Calls `f` on a thread that is inside. Sockets that it opens, interface names that it looks up
    /// and files of `/proc/sys/net` that it opens are the namespace's.
    pub fn enter<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T> {
        let path = self.path();
        let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&file, CloneFlags::CLONE_NEWNET)
                    .with_context(|| format!("cannot enter {}", path.display()))?;
                Ok(f())
            });
            match inside.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Sets a sysctl below `net`, with its path below `/proc/sys/net`.
    pub fn sysctl(&self, path: &str, value: &str) -> Result<()> {
        self.enter(|| write_sysctl(path, value))?
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if self.removed_on_drop
            && let Err(error) = remove(&self.name)
        {
            eprintln!("namespace {}: {error:#}", self.name);
        }
    }
}

fn write_sysctl(path: &str, value: &str) -> Result<()> {
    let path = Path::new("/proc/sys/net").join(path);
    fs::write(&path, value).with_context(|| format!("cannot write {}", path.display()))
}

/// Removes a namespace, if there is one of this name, after ending the processes in it.
///
/// They get a SIGTERM, and a SIGKILL if they take too long. Its interfaces go with it, and so do the
/// other ends of its veth pairs.
pub fn remove(name: &str) -> Result<()> {
    if !Path::new(DIRECTORY).join(name).exists() {
        return Ok(());
    }
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        for pid in pids(name) {
            // It may have ended by itself meanwhile.
            let _ = kill(pid, signal);
        }
        let start = Instant::now();
        while !pids(name).is_empty() && start.elapsed() < GRACE {
            thread::sleep(Duration::from_millis(20));
        }
    }
    // A namespace lives on while something refers to it; its interfaces must not.
    let links = run(Command::new("ip").args(["-n", name, "-o", "link", "show", "type", "veth"]));
    for link in links.unwrap_or_default().lines().filter_map(interface_name) {
        let _ = run(Command::new("ip").args(["-n", name, "link", "delete", link]));
    }
    run(Command::new("ip").args(["netns", "delete", name])).map(drop)
}

/// Removes an interface of this process's namespace, the leftover of an earlier run, if it is there.
pub fn remove_host_interface(name: &str) {
    let _ = run(Command::new("ip").args(["link", "delete", name]));
}

/// The name in a line of `ip -o link`: `2: eth0@if3: <...`.
fn interface_name(line: &str) -> Option<&str> {
    line.split_whitespace().nth(1)?.split(['@', ':']).next()
}

fn pids(name: &str) -> Vec<Pid> {
    run(Command::new("ip").args(["netns", "pids", name]))
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.trim().parse().ok().map(Pid::from_raw))
        .collect()
}

/// Removes the namespaces that processes made with [`Namespace::unique`] and did not live to remove.
fn remove_leftovers() {
    let Ok(directory) = fs::read_dir(DIRECTORY) else {
        return;
    };
    for entry in directory.flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if maker(name).is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            // Another process may be at it too.
            let _ = remove(name);
        }
    }
}

/// The process that made a namespace of this name.
fn maker(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split('-').next()?.parse().ok()
}

/// One end of a veth pair, to be made.
#[derive(Debug, Clone)]
pub struct VethEnd<'a> {
    namespace: Option<&'a Namespace>,
    name: &'a str,
    addresses: Vec<&'a str>,
    pass_program: bool,
}

impl<'a> VethEnd<'a> {
    /// An interface in a namespace; names have at most 15 bytes.
    pub fn new(namespace: &'a Namespace, name: &'a str) -> Self {
        Self {
            namespace: Some(namespace),
            ..Self::on_host(name)
        }
    }

    /// An interface in the namespace of this process.
    pub fn on_host(name: &'a str) -> Self {
        Self {
            namespace: None,
            name,
            addresses: Vec::new(),
            pass_program: false,
        }
    }

    /// Adds an address with its prefix length: `192.0.2.1/24`, `2001:db8::1/64`.
    #[must_use]
    pub fn address(mut self, address: &'a str) -> Self {
        self.addresses.push(address);
        self
    }

    /// Attaches a native XDP program that passes every frame: the end across from a program that
    /// answers with `XDP_TX` needs one.
    #[must_use]
    pub fn pass_program(mut self) -> Self {
        self.pass_program = true;
        self
    }

    fn ip(&self) -> Command {
        let mut ip = Command::new("ip");
        if let Some(namespace) = self.namespace {
            ip.args(["-n", namespace.name()]);
        }
        ip
    }

    fn enter<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T> {
        match self.namespace {
            Some(namespace) => namespace.enter(f),
            None => Ok(f()),
        }
    }

    /// Everything but making the interface.
    fn configure(&self, mtu: u32) -> Result<()> {
        let name = self.name;
        // No duplicate address detection: it would keep every address unusable for a second.
        let sysctls = [
            (format!("ipv6/conf/{name}/accept_dad"), "0"),
            (format!("ipv6/conf/{name}/accept_ra"), "0"),
            (format!("ipv6/conf/{name}/forwarding"), "0"),
            (format!("ipv4/conf/{name}/forwarding"), "0"),
        ];
        self.enter(|| {
            sysctls
                .iter()
                .try_for_each(|(path, value)| write_sysctl(path, value))
        })??;
        // Checksums: those of a frame that stays on this machine are left to a "device" that never
        // computes them. Segmentation and merging: what is on the wire is what one segment is.
        let mut ethtool = match self.namespace {
            Some(namespace) => namespace.command("ethtool"),
            None => Command::new("ethtool"),
        };
        ethtool.args([
            "-K", name, "tx", "off", "tso", "off", "gso", "off", "gro", "off",
        ]);
        run(&mut ethtool)?;
        run(self
            .ip()
            .args(["link", "set", name, "mtu", &mtu.to_string()]))?;
        for address in &self.addresses {
            let mut ip = self.ip();
            ip.args(["address", "add", address, "dev", name]);
            if address.contains(':') {
                ip.arg("nodad");
            }
            run(&mut ip)?;
        }
        run(self.ip().args(["link", "set", name, "up"]))?;
        if self.pass_program {
            self.enter(|| xdp_pass::attach(name))?
                .with_context(|| format!("cannot attach an XDP program to {name}"))?;
        }
        Ok(())
    }
}

/// Two interfaces with a wire between them, up and with their addresses, and without checksum,
/// segmentation and merging offloads. Dropping it removes both.
#[derive(Debug)]
pub struct VethPair {
    /// The namespace and the name of the end that is removed; the other goes with it.
    namespace: Option<String>,
    name: String,
    removed_on_drop: bool,
}

impl VethPair {
    /// Makes a pair with an MTU of 1500 and one queue.
    pub fn create(a: &VethEnd<'_>, b: &VethEnd<'_>) -> Result<Self> {
        Self::with(a, b, 1500, 1)
    }

    /// Makes a pair with this MTU and this number of RX and of TX queues at both ends.
    pub fn with(a: &VethEnd<'_>, b: &VethEnd<'_>, mtu: u32, queues: u32) -> Result<Self> {
        for end in [a, b] {
            ensure!(
                (1..16).contains(&end.name.len()),
                "interface name {:?} is not 1 to 15 bytes long",
                end.name
            );
        }
        // An end that is in a namespace is made there, so that only names on the host can be taken.
        let queues = queues.to_string();
        let mut ip = Command::new("ip");
        ip.args(["link", "add"]);
        for (end, what) in [(a, "veth"), (b, "peer")] {
            if what == "peer" {
                ip.arg(what);
            }
            ip.args(["name", end.name]);
            if let Some(namespace) = end.namespace {
                ip.args(["netns", namespace.name()]);
            }
            ip.args(["numrxqueues", &queues, "numtxqueues", &queues]);
            if what == "veth" {
                ip.args(["type", what]);
            }
        }
        for end in [a, b] {
            if end.namespace.is_none() {
                remove_host_interface(end.name);
            }
        }
        run(&mut ip)?;
        let pair = Self {
            namespace: a.namespace.map(|namespace| namespace.name().to_owned()),
            name: a.name.to_owned(),
            removed_on_drop: true,
        };
        a.configure(mtu)?;
        b.configure(mtu)?;
        pair.wait_for_carrier(a)?;
        Ok(pair)
    }

    /// Leaves the pair where it is when this value is dropped.
    pub fn keep(&mut self) {
        self.removed_on_drop = false;
    }

    /// Both ends are up, but the kernel says so to the network stack a moment later; a frame sent
    /// before that is lost.
    fn wait_for_carrier(&self, end: &VethEnd<'_>) -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < CARRIER {
            let state = run(end.ip().args(["-o", "link", "show", "dev", &self.name]))?;
            if state.contains("state UP") {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(5));
        }
        bail!("{} does not come up", self.name)
    }
}

impl Drop for VethPair {
    fn drop(&mut self) {
        if !self.removed_on_drop {
            return;
        }
        let mut ip = Command::new("ip");
        if let Some(namespace) = &self.namespace {
            ip.args(["-n", namespace]);
        }
        // If a namespace was removed before, the pair went with it.
        let _ = run(ip.args(["link", "delete", &self.name]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_maker_of_a_namespace_is_in_its_name() {
        assert_eq!(maker("tcpxdp-123-0-client"), Some(123));
        assert_eq!(maker("tcpxdp-x"), None);
        assert_eq!(maker("tcplab"), None);
    }

    #[test]
    fn interface_names_are_read() {
        assert_eq!(interface_name("2: eth0@if3: <UP> mtu 1500"), Some("eth0"));
        assert_eq!(interface_name("3: dummy0: <UP> mtu 1500"), Some("dummy0"));
    }
}
