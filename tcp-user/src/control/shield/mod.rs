//! `ADDR:PORT=kernel`: a shield before listeners of the kernel's own TCP.
//!
//! The XDP program answers SYNs to them with cookies that the kernel makes, and lets through
//! what the kernel will accept; this module tells it what to say. That is looked up again
//! every second, so listeners may come, go and move to other processes. One that is not known
//! yet answers by itself, for a second at most.
//!
//! A cookie carries the client's MSS and no other option. The kernel reads the others from the
//! timestamp that the client echoes, which it can only with `net.ipv4.tcp_timestamps = 2`:
//! with 1 it takes an offset away first that nobody else knows. So without 2 nothing but the
//! MSS is offered, no window scale and no SACK. And a window scale must be the one that the
//! kernel will use, or the client misreads every window: [`settings`] derives it as the kernel
//! does.

pub mod listeners;
mod peek;
pub mod routes;
pub mod settings;
pub mod sysctls;
mod tune;

use super::attack;
use super::listen::{Listen, Policy};
use crate::app::App;
use listeners::Listener;
use peek::Options;
use routes::Routes;
use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;
use sysctls::Sysctls;
use tcp_common::abi::{ListenKey, Shield, shield};
use tcp_common::counters::Counter;
use tune::Tune;

/// What the XDP program is to be told.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// By listener.
    pub shields: HashMap<ListenKey, Shield>,
    /// MSS by route.
    pub routes: Routes,
}

/// How long clients that got our last cookies may take to answer.
pub const LAST_ACKS: Duration = Duration::from_millis(500);

/// Keeps watch over the listeners that are shielded.
#[derive(Debug)]
pub struct Watch {
    tune: Option<Tune>,
    /// By inode, with the buffer at that time.
    asked: HashMap<u32, (u32, Option<Options>)>,
    rate: attack::Watch,
    flooded: bool,
    last_error: String,
}

/// Whether a listen is for the kernel, and its SYNs may be answered by us.
fn is_shielded(listen: &Listen) -> bool {
    matches!(listen.app, App::Kernel) && matches!(listen.policy, Policy::Cookie | Policy::Adaptive)
}

impl Watch {
    /// `record` is given with `--tune`, see `Tune::new`; `rate` is `xdp.adaptive_rate`.
    pub fn new(record: Option<PathBuf>, rate: u32) -> Self {
        Self {
            tune: record.map(Tune::new),
            asked: HashMap::new(),
            rate: attack::Watch::new(rate),
            flooded: false,
            last_error: String::new(),
        }
    }

    /// Another `xdp.adaptive_rate`, from the next reading on.
    pub const fn set_rate(&mut self, rate: u32) {
        self.rate.set_threshold(rate);
    }

    /// Counts SYNs to shielded listeners, by a steady clock.
    pub fn count(&mut self, now: Duration, counters: &[(Counter, u64)]) {
        let syns = counters
            .iter()
            .filter(|(counter, _)| {
                matches!(
                    counter,
                    Counter::PassKernelSyn | Counter::SynAckKernel | Counter::DropListenerFull
                )
            })
            .map(|(_, n)| n)
            .sum();
        if let Some(flooded) = self.rate.read(now, syns) {
            self.flooded = flooded;
            tracing::warn!(flooded, "SYNs to the kernel's listeners");
        }
    }

    /// What the program is to be told now. Sets sysctls first, with `--tune`.
    pub fn look(&mut self, listens: &[Listen], interface: u32, mtu: u32) -> Table {
        let shielded: Vec<&Listen> = listens.iter().filter(|l| is_shielded(l)).collect();
        if shielded.is_empty() {
            return Table::default();
        }
        self.set_sysctls(&shielded);
        let found = Sysctls::read().and_then(|s| Ok((s, listeners::find()?)));
        let (sysctls, mut all) = match found {
            Ok(found) => found,
            Err(error) => {
                self.complain(&format!("the kernel's listeners: {error}"));
                return Table::default();
            }
        };
        let routes = routes::find().unwrap_or_else(|error| {
            self.complain(&format!("the MTUs of routes: {error}"));
            Routes::new()
        });
        all.retain(|l| {
            (l.interface == 0 || l.interface == interface)
                && shielded.iter().any(|s| s.place.ports().contains(&l.port))
        });
        self.ask(&all);
        let asked = |l: &Listener| self.asked.get(&l.inode).and_then(|(_, options)| *options);
        let mut best: HashMap<ListenKey, (u8, Shield)> = HashMap::new();
        for listen in &shielded {
            for listener in &all {
                for key in keys(listen, listener) {
                    let v4 = key.addr.is_v4();
                    let mut shield = settings::derive(&sysctls, listener, asked(listener), v4, mtu);
                    if self.is_quiet(listen, &sysctls) {
                        shield.flags |= shield::QUIET;
                    }
                    if !routes.is_empty() {
                        shield.flags |= shield::ROUTES;
                    }
                    let rank = rank(listen, listener, v4);
                    best.entry(key)
                        .and_modify(|(before, there)| {
                            if *before == rank {
                                *there = settings::both(*there, shield);
                            } else if *before < rank {
                                (*before, *there) = (rank, shield);
                            }
                        })
                        .or_insert((rank, shield));
                }
            }
        }
        let best = best.into_iter();
        Table {
            shields: best.map(|(key, (_, shield))| (key, shield)).collect(),
            routes,
        }
    }

    /// Whether SYNs to it are left to the kernel. With `tcp_syncookies = 1` that need not be
    /// said: the kernel makes no cookies unless a queue is full.
    fn is_quiet(&self, listen: &Listen, sysctls: &Sysctls) -> bool {
        listen.policy == Policy::Adaptive && !self.flooded && sysctls.syncookies != 1
    }

    fn set_sysctls(&mut self, shielded: &[&Listen]) {
        let Some(tune) = &mut self.tune else { return };
        let always = self.flooded || shielded.iter().any(|l| l.policy == Policy::Cookie);
        let wanted = [
            (sysctls::SYNCOOKIES, if always { 2 } else { 1 }),
            (sysctls::TIMESTAMPS, 2),
        ];
        for (path, value) in wanted {
            if let Err(error) = tune.set(path, value) {
                self.complain(&format!("--tune: /proc/sys/net/{path}: {error}"));
                return;
            }
        }
    }

    /// Asks the processes of listeners that are new, or whose buffer is another.
    fn ask(&mut self, all: &[Listener]) {
        self.asked.retain(|inode, (buffer, _)| {
            all.iter().any(|l| l.inode == *inode && l.buffer == *buffer)
        });
        let new: Vec<&Listener> = all
            .iter()
            .filter(|l| !self.asked.contains_key(&l.inode))
            .collect();
        if new.is_empty() {
            return;
        }
        let inodes: Vec<u32> = new.iter().map(|l| l.inode).collect();
        let found = peek::options(&inodes);
        for listener in new {
            let options = found.get(&listener.inode).copied();
            tracing::debug!(?listener, ?options, "a listener of the kernel's");
            self.asked
                .insert(listener.inode, (listener.buffer, options));
        }
    }

    /// Once for each reason.
    fn complain(&mut self, error: &str) {
        if self.last_error != error {
            eprintln!("tcp-user: {error}");
            error.clone_into(&mut self.last_error);
        }
    }

    /// Sets the sysctls back. No answer of ours may be on its way any more.
    pub fn restore(&mut self) {
        if let Some(tune) = &mut self.tune {
            tune.restore();
        }
    }

    /// Whether there is anything to set back.
    pub fn is_tuned(&self) -> bool {
        self.tune.is_some()
    }
}

/// The keys under which a listener is found by those who come to a listen.
fn keys(listen: &Listen, listener: &Listener) -> Vec<ListenKey> {
    if !listen.place.ports().contains(&listener.port) {
        return Vec::new();
    }
    let addresses = match listen.place.addr {
        Some(addr) if listener.takes(addr) => vec![addr.into()],
        Some(_) => Vec::new(),
        None => listener.addresses(),
    };
    addresses
        .into_iter()
        .map(|addr| ListenKey {
            addr,
            port_be: listener.port.to_be(),
            reserved: 0,
        })
        .collect()
}

/// Who goes before whom: the listen on the exact address, then as the kernel scores sockets.
fn rank(listen: &Listen, listener: &Listener, v4: bool) -> u8 {
    u8::from(listen.place.addr.is_some()) << 3
        | u8::from(listener.addr.is_some()) << 2
        | u8::from(listener.interface != 0) << 1
        | u8::from(listener.v6 != v4)
}

/// What the ready line says of the shield; `None` without a listen for the kernel. And what
/// is to be said about it on stderr. `tuned`: with `--tune`.
pub fn describe(listens: &[Listen], tuned: bool) -> Option<(&'static str, Vec<String>)> {
    if !listens.iter().any(is_shielded) {
        return None;
    }
    Some(Sysctls::read().map_or(("unknown", Vec::new()), |s| {
        describe_with(listens, &s, tuned)
    }))
}

fn describe_with(
    listens: &[Listen],
    sysctls: &Sysctls,
    tuned: bool,
) -> (&'static str, Vec<String>) {
    let mut shielded = listens.iter().filter(|listen| is_shielded(listen));
    let adaptive = shielded.all(|listen| listen.policy == Policy::Adaptive);
    // By rate, too, if cookies can be had at any time, now or when we say so.
    let by_rate = adaptive && (sysctls.syncookies >= 2 || tuned);
    let mode = match (sysctls.syncookies, sysctls.timestamps) {
        (0, _) => "off",
        (_, 2) if by_rate => "adaptive",
        _ if by_rate => "adaptive,no-options",
        (1, 2) => "when-full",
        (1, _) => "when-full,no-options",
        (_, 2) => "full",
        _ => "no-options",
    };
    let meant = by_rate && sysctls.syncookies == 1;
    let syncookies = if meant { 2 } else { sysctls.syncookies };
    let all = findings(&Sysctls {
        syncookies,
        ..*sysctls
    });
    (mode, all)
}

/// What is not as a shield would have it, and what comes of it, a line each.
pub fn findings(sysctls: &Sysctls) -> Vec<String> {
    let mut all = Vec::new();
    match sysctls.syncookies {
        0 => all.push(
            "net.ipv4.tcp_syncookies is 0: a listener of the kernel's gets all SYNs".to_owned(),
        ),
        1 => all.push(
            "net.ipv4.tcp_syncookies is 1: a listener of the kernel's gets all SYNs until its \
             queue is full"
                .to_owned(),
        ),
        _ => {}
    }
    if sysctls.timestamps != 2 {
        all.push(format!(
            "net.ipv4.tcp_timestamps is {}: clients of the kernel's listeners get no timestamps, \
             window scale or SACK",
            sysctls.timestamps
        ));
    }
    all
}

#[cfg(test)]
mod tests;
