//! Loads the XDP program, fills its maps and attaches it.
//!
//! The program is held by a BPF link: when this process ends, however it ends, the
//! kernel detaches it.

mod policy;
mod shields;

use super::attached;
use super::attack::Threat;
use super::config::{self, OnInvalidAck, RequireTimestamps};
use super::flows::Flows;
use super::netlink::{self, Hook};
use super::shield;
use super::sources::Sources;
use crate::dataplane::nic::Nic;
use crate::proto;
use aya::maps::{Array, HashMap as BpfMap, Map, MapData, MapError, PerCpuArray, XskMap};
use aya::programs::links::FdLink;
use aya::programs::xdp::XdpLink;
use aya::programs::{ProgramError, Xdp, XdpMode};
use aya::{Ebpf, EbpfError, EbpfLoader};
use std::collections::HashSet;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;
use tcp_common::abi::{self, Limits, Secrets, flag};
use tcp_common::counters::{self, Counter};
use tcp_common::flow::Addr;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/tcp-ebpf"));

/// A link of a process that was just killed goes away within this time.
const LINK_LINGERS: Duration = Duration::from_millis(300);

/// `--mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Mode {
    /// Native where the driver has it, generic otherwise.
    #[default]
    Auto,
    /// In the driver.
    Native,
    /// In the network stack: any driver, slower.
    Generic,
}

impl std::str::FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "native" => Ok(Self::Native),
            "generic" => Ok(Self::Generic),
            _ => Err(format!("unknown mode `{text}` (auto, native or generic)")),
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Native => "native",
            Self::Generic => "generic",
        })
    }
}

/// Why the program is not in place. Each is one line that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A capability is missing.
    #[error("not permitted to {0}: run as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_NET_RAW")]
    NotPermitted(&'static str),
    /// The kernel is too old or built without something.
    #[error("this kernel lacks {0}")]
    KernelFeature(String),
    /// Another program sits there.
    #[error("{interface} already has an XDP program: {program}; --replace takes its place")]
    Occupied {
        /// The interface.
        interface: String,
        /// Name, id, mode, and what holds it.
        program: String,
    },
    /// Another program sits there and does not go.
    #[error("--replace: cannot detach {program} from {interface}: {reason}")]
    Stays {
        /// The interface.
        interface: String,
        /// Name, id, mode, and what holds it.
        program: String,
        /// What the kernel said.
        reason: String,
    },
    /// The driver has no native XDP.
    #[error("{interface} has no native XDP ({reason}); --mode generic works with every driver")]
    NoNative {
        /// The interface.
        interface: String,
        /// What the kernel said.
        reason: String,
    },
    /// Anything else.
    #[error("cannot {step}: {reason}")]
    Other {
        /// What was tried.
        step: &'static str,
        /// What the kernel said, in one line.
        reason: String,
    },
}

/// The loaded program.
pub struct Program {
    ebpf: Ebpf,
    config: abi::Config,
    secrets: Secrets,
    addresses: HashSet<IpAddr>,
    shields: shield::Table,
    sources: Sources,
    link: Option<FdLink>,
}

impl Program {
    /// Loads the program and fills everything but the sockets and ports; until
    /// [`Self::serve`] it passes every frame.
    pub fn load(
        config: &config::Config,
        engine: &proto::Config,
        secrets: Secrets,
        queues: u32,
    ) -> Result<Self, Error> {
        let mut ebpf = EbpfLoader::new()
            .map_max_entries(abi::FLOWS, config.tcp.max_connections)
            .map_max_entries(abi::XSKS, queues)
            .load(OBJECT)
            .map_err(|e| explain("load the XDP maps", &e))?;
        let program = xdp(&mut ebpf)?;
        program.load().map_err(|e| refused(&e))?;

        let mut flags = 0;
        if engine.ecn {
            flags |= flag::ECN;
        }
        if engine.partial_checksums {
            flags |= flag::PARTIAL_CHECKSUMS;
        }
        let mut program = Self {
            ebpf,
            config: abi::Config {
                flags,
                window: engine.initial_window,
                mss_v4: engine.mtu.saturating_sub(40),
                mss_v6: engine.mtu.saturating_sub(60),
                window_scale: engine.window_scale,
                hop_limit: engine.hop_limit,
                own_v4: 0,
                own_v6: Addr::default(),
                limits: Limits::default(),
            },
            secrets,
            addresses: HashSet::new(),
            shields: shield::Table::default(),
            sources: Sources::default(),
            link: None,
        };
        let sources = config.xdp.sources().map_err(|e| Error::Other {
            step: "set the allow and deny lists",
            reason: e.to_string(),
        })?;
        program.set_sources(sources)?;
        program.configure(config, Threat::default())?;
        program.write_secrets(secrets)?;
        Ok(program)
    }

    /// What may change while the program runs, see [`config::LIVE`], and what depends on
    /// how many SYNs there are.
    pub fn configure(&mut self, config: &config::Config, threat: Threat) -> Result<(), Error> {
        let mut set = |flag: u32, on: bool| {
            if on {
                self.config.flags |= flag;
            } else {
                self.config.flags &= !flag;
            }
        };
        set(
            flag::DROP_INVALID,
            config.xdp.on_invalid_ack == OnInvalidAck::Drop,
        );
        let required = match config.cookie.require_timestamps {
            RequireTimestamps::Never => false,
            RequireTimestamps::UnderAttack => threat.attacked,
            RequireTimestamps::Always => true,
        };
        set(flag::REQUIRE_TIMESTAMPS, required);
        set(flag::UNDER_ATTACK, threat.attacked);
        let interval = |rate: u32| 1_000_000_000_u32.checked_div(rate).unwrap_or(0);
        self.config.limits = Limits {
            syn_ack_interval: interval(config.xdp.syn_ack_rate),
            rst_interval: interval(config.xdp.rst_rate),
            syn_interval: if threat.flooded || config.tcp.half_open == 0 {
                0
            } else {
                interval(config.xdp.adaptive_rate).max(1)
            },
        };
        self.write_config()
    }

    /// Attaches to the interface; the mode that came of it. With `replace`, programs
    /// that are there go first, between them and ours a moment without any.
    pub fn attach(&mut self, nic: &Nic, mode: Mode, replace: bool) -> Result<Mode, Error> {
        if replace {
            for program in attached::find(nic.index) {
                program.detach().map_err(|error| Error::Stays {
                    interface: nic.name.clone(),
                    program: program.to_string(),
                    reason: error.to_string(),
                })?;
                eprintln!("tcp-user: {}: replaces {program}", nic.name);
            }
        }
        if mode != Mode::Generic {
            match self.attach_as(nic, XdpMode::Driver) {
                Ok(()) => return Ok(Mode::Native),
                Err(Error::NoNative { reason, .. }) if mode == Mode::Auto => {
                    tracing::info!(interface = nic.name, reason, "no native XDP, going generic");
                }
                Err(e) => return Err(e),
            }
        }
        self.attach_as(nic, XdpMode::Skb)?;
        Ok(Mode::Generic)
    }

    fn attach_as(&mut self, nic: &Nic, mode: XdpMode) -> Result<(), Error> {
        let program = xdp(&mut self.ebpf)?;
        let start = std::time::Instant::now();
        let id = loop {
            match program.attach_to_if_index(nic.index, mode) {
                Ok(id) => break id,
                Err(error) => match errno(&error) {
                    Some(libc::EBUSY | libc::EEXIST) if start.elapsed() < LINK_LINGERS => {
                        std::thread::sleep(Duration::from_millis(10));
                    }
                    Some(libc::EBUSY | libc::EEXIST) => {
                        let there = attached::find(nic.index);
                        let names: Vec<String> = there.iter().map(ToString::to_string).collect();
                        return Err(Error::Occupied {
                            interface: nic.name.clone(),
                            program: if names.is_empty() {
                                format!("see `ip link show dev {}`", nic.name)
                            } else {
                                names.join(", ")
                            },
                        });
                    }
                    Some(libc::EPERM | libc::EACCES) => {
                        return Err(Error::NotPermitted("attach an XDP program"));
                    }
                    // Besides a driver without XDP: an MTU or an offload that it cannot have.
                    _ if mode == XdpMode::Driver => {
                        return Err(Error::NoNative {
                            interface: nic.name.clone(),
                            reason: reason(&error),
                        });
                    }
                    _ => return Err(explain("attach the XDP program", &error)),
                },
            }
        };
        let link: XdpLink = program
            .take_link(id)
            .map_err(|e| explain("attach the XDP program", &e))?;
        let Ok(link) = FdLink::try_from(link) else {
            // It went in over netlink, where it would outlive us.
            let hook = match mode {
                XdpMode::Driver => Hook::Native,
                _ => Hook::Generic,
            };
            if let Ok(fd) = program.fd()
                && let Err(error) = netlink::detach_xdp(nic.index, hook, fd.as_fd())
            {
                tracing::warn!(%error, "the XDP program stays attached");
            }
            return Err(Error::KernelFeature("BPF links for XDP (Linux 5.9)".into()));
        };
        self.link = Some(link);
        Ok(())
    }

    /// Sends the flows of a queue to a socket.
    pub fn set_socket(&mut self, queue: u32, socket: BorrowedFd<'_>) -> Result<(), Error> {
        XskMap::try_from(self.map(abi::XSKS)?)
            .and_then(|mut map| map.set(queue, socket, 0))
            .map_err(|e| explain("set the AF_XDP socket", &e))
    }

    /// The interface's addresses, for `*`. Writes what is different; true if anything was.
    pub fn set_addresses(&mut self, now: &[IpAddr]) -> Result<bool, Error> {
        let now: HashSet<IpAddr> = now.iter().copied().collect();
        if now == self.addresses {
            return Ok(false);
        }
        let before = std::mem::take(&mut self.addresses);
        // The program is told one of each family by itself: it looks there first.
        let least = |v4| now.iter().filter(|ip| ip.is_ipv4() == v4).min();
        self.config.own_v4 = least(true).map_or(0, |ip| Addr::from(*ip).0[3]);
        self.config.own_v6 = least(false).map_or(Addr::default(), |ip| Addr::from(*ip));
        self.write_config()?;
        let mut map = BpfMap::<_, Addr, u32>::try_from(self.map(abi::ADDRS)?)
            .map_err(|e| explain("set the served addresses", &e))?;
        for gone in before.difference(&now) {
            if let Err(error) = map.remove(&Addr::from(*gone)) {
                tracing::debug!(%error, "address");
            }
        }
        for new in now.difference(&before) {
            map.insert(Addr::from(*new), 1, 0)
                .map_err(|e| explain("set the served addresses", &e))?;
        }
        self.addresses = now;
        Ok(true)
    }

    /// Keys of a new slot. The new key replaces the one that is two slots old, which
    /// nobody makes cookies with; only then do cookies come from it.
    pub fn write_secrets(&mut self, secrets: Secrets) -> Result<(), Error> {
        let step = "set the cookie keys";
        let before = self.secrets.current;
        let mut map = Array::<_, Secrets>::try_from(self.map(abi::SECRETS)?)
            .map_err(|e| explain(step, &e))?;
        let keys_first = Secrets {
            current: before,
            ..secrets
        };
        map.set(0, keys_first, 0).map_err(|e| explain(step, &e))?;
        map.set(0, secrets, 0).map_err(|e| explain(step, &e))?;
        self.secrets = secrets;
        Ok(())
    }

    /// No new connections from now on.
    pub fn stop(&mut self) -> Result<(), Error> {
        self.config.flags |= flag::STOPPING;
        self.write_config()
    }

    fn write_config(&mut self) -> Result<(), Error> {
        let config = self.config;
        Array::<_, abi::Config>::try_from(self.map(abi::CONFIG)?)
            .and_then(|mut map| map.set(0, config, 0))
            .map_err(|e| explain("configure the XDP program", &e))
    }

    /// Detaches; also done when the value is dropped.
    pub fn detach(&mut self) {
        self.link = None;
    }

    /// A handle for reading the counters.
    pub fn counters(&self) -> Result<Counters, Error> {
        PerCpuArray::try_from(self.second(abi::COUNTERS)?)
            .map(Counters)
            .map_err(|e| explain("read the counters", &e))
    }

    /// A handle on the flow table.
    pub fn flows(&self) -> Result<Flows, Error> {
        let step = "open the flow table";
        let table = BpfMap::try_from(self.second(abi::FLOWS)?).map_err(|e| explain(step, &e))?;
        let Some(Map::Array(filter)) = self.ebpf.map(abi::FLOW_FILTER) else {
            return Err(Error::Other {
                step,
                reason: format!("the XDP program has no {}", abi::FLOW_FILTER),
            });
        };
        Flows::new(table, filter.fd().as_fd()).map_err(|e| explain(step, &e))
    }

    fn map(&mut self, name: &str) -> Result<&mut Map, Error> {
        self.ebpf.map_mut(name).ok_or_else(|| Error::Other {
            step: "find a map",
            reason: format!("the XDP program has no {name}"),
        })
    }

    /// A second handle on a map, to be used from another thread.
    fn second(&self, name: &str) -> Result<Map, Error> {
        let step = "open a map";
        let missing = || Error::Other {
            step,
            reason: format!("the XDP program has no {name}"),
        };
        let again = |data: &MapData| {
            let fd = data
                .fd()
                .as_fd()
                .try_clone_to_owned()
                .map_err(|e| Error::Other {
                    step,
                    reason: e.to_string(),
                })?;
            MapData::from_fd(fd).map_err(|e| explain(step, &e))
        };
        match self.ebpf.map(name).ok_or_else(missing)? {
            Map::PerCpuArray(data) => again(data).map(Map::PerCpuArray),
            Map::HashMap(data) => again(data).map(Map::HashMap),
            _ => Err(missing()),
        }
    }
}

fn xdp(ebpf: &mut Ebpf) -> Result<&mut Xdp, Error> {
    ebpf.program_mut(abi::PROGRAM)
        .and_then(|program| program.try_into().ok())
        .ok_or_else(|| Error::Other {
            step: "find the XDP program",
            reason: format!("the object has no {}", abi::PROGRAM),
        })
}

/// The counters of the XDP program.
pub struct Counters(PerCpuArray<MapData, u64>);

impl Counters {
    /// Each counter summed over the CPUs, in the order of [`Counter::ALL`].
    pub fn read(&self) -> Vec<(Counter, u64)> {
        debug_assert_eq!(self.0.len() as usize, counters::COUNT);
        Counter::ALL
            .iter()
            .map(|counter| {
                let sum = self
                    .0
                    .get(&(*counter as u32), 0)
                    .map_or(0, |values| values.iter().sum());
                (*counter, sum)
            })
            .collect()
    }
}

/// The system's error number, wherever it is in the chain.
pub(super) fn errno(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(number) = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::raw_os_error)
        {
            return Some(number);
        }
        next = error.source();
    }
    None
}

/// The chain of causes in one line.
fn reason(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text.lines().next().unwrap_or_default().to_owned()
}

fn explain(step: &'static str, error: &(dyn std::error::Error + 'static)) -> Error {
    match errno(error) {
        Some(libc::EPERM | libc::EACCES) => Error::NotPermitted(step),
        Some(libc::ENOSYS) => Error::KernelFeature("the bpf system call".into()),
        Some(libc::EINVAL)
            if error.downcast_ref::<EbpfError>().is_some_and(|e| {
                matches!(e, EbpfError::MapError(MapError::CreateError { .. }))
            }) =>
        {
            Error::KernelFeature(format!("a kind of BPF map ({})", reason(error)))
        }
        _ => Error::Other {
            step,
            reason: reason(error),
        },
    }
}

/// Why the verifier said no; its log goes to the debug log.
fn refused(error: &ProgramError) -> Error {
    if let ProgramError::LoadError {
        io_error,
        verifier_log,
    } = error
    {
        tracing::debug!("verifier: {verifier_log}");
        if !matches!(io_error.raw_os_error(), Some(libc::EPERM)) {
            let log = verifier_log.to_string();
            let last = log
                .lines()
                .rev()
                .find(|l| !l.is_empty() && !l.starts_with("processed "))
                .unwrap_or("no log");
            return Error::Other {
                step: "load the XDP program",
                reason: format!("{io_error} ({last})"),
            };
        }
    }
    explain("load the XDP program", error)
}
