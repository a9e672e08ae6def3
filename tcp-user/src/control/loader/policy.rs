//! What is served, and to whom, as the XDP program has it.

use super::{Error, Program, errno, explain};
use crate::app::App;
use crate::control::listen::{Listen, Place, Policy};
use crate::control::sources::Sources;
use aya::maps::lpm_trie::{Key as Prefix, LpmTrie};
use aya::maps::{Array, HashMap as BpfMap, MapData, MapError};
use tcp_common::abi::{self, ListenKey, flag, port};
use tcp_common::flow::Addr;

type Trie<'a> = LpmTrie<&'a mut MapData, Addr, u32>;

impl Program {
    /// The allow and deny lists. Each prefix changes at once, the lists as a whole do
    /// not: what is new counts before what is gone has gone.
    pub fn set_sources(&mut self, sources: Sources) -> Result<(), Error> {
        let step = "set the allow and deny lists";
        let trie = |program: &mut Self,
                    f: &mut dyn FnMut(&mut Trie<'_>) -> Result<(), MapError>| {
            LpmTrie::try_from(program.map(abi::SOURCES)?)
                .and_then(|mut map| f(&mut map))
                .map_err(|e| explain(step, &e))
        };
        let before = std::mem::take(&mut self.sources);
        trie(self, &mut |map| {
            let new = sources.entries.iter();
            new.filter(|entry| !before.entries.contains(entry))
                .try_for_each(|(len, addr, what)| map.insert(&Prefix::new(*len, *addr), what, 0))
        })?;
        self.config.flags &= !(flag::CHECK_SOURCES | flag::DEFAULT_DENY);
        if !sources.entries.is_empty() {
            self.config.flags |= flag::CHECK_SOURCES;
        }
        if sources.default_deny {
            self.config.flags |= flag::DEFAULT_DENY;
        }
        self.write_config()?;
        trie(self, &mut |map| {
            let place = |entry: &(u32, Addr, u32)| (entry.0, entry.1);
            let gone = before.entries.iter().filter(|old| {
                let mut now = sources.entries.iter();
                !now.any(|new| place(new) == place(old))
            });
            gone.map(place)
                .try_for_each(|(len, addr)| map.remove(&Prefix::new(len, addr)))
        })?;
        self.sources = sources;
        Ok(())
    }

    /// Starts to answer SYNs.
    pub fn serve(&mut self, listens: &[Listen]) -> Result<(), Error> {
        let everywhere = Place {
            addr: None,
            first: 1,
            last: u16::MAX,
        };
        self.write_listens(listens, everywhere)
    }

    /// Writes what has become of the ports of `place`. Each port changes at once: the
    /// program sees the old policy or the new one. Flows are not asked, they go on: a
    /// port that was served stays on the program's list, so that it looks for them.
    pub fn write_listens(&mut self, listens: &[Listen], place: Place) -> Result<(), Error> {
        let step = "set the served ports";
        let mut ports = std::collections::BTreeMap::<u16, u32>::new();
        for listen in listens {
            let at = listen.place;
            let within = at.first.max(place.first)..=at.last.min(place.last);
            let Some(addr) = at.addr else {
                for port in within {
                    *ports.entry(port).or_default() |= match listen.policy {
                        Policy::Cookie | Policy::Adaptive if matches!(listen.app, App::Kernel) => {
                            port::ANY_ADDR | port::ANY_KERNEL
                        }
                        Policy::Cookie => port::ANY_ADDR,
                        Policy::Adaptive => port::ANY_ADDR | port::ANY_ADAPTIVE,
                        Policy::Observe => port::ANY_ADDR | port::ANY_OBSERVE,
                        // Looked up, found nowhere.
                        Policy::Off => port::SOME_ADDR,
                    };
                }
                continue;
            };
            let mut map = BpfMap::<_, ListenKey, u32>::try_from(self.map(abi::LISTENS)?)
                .map_err(|e| explain(step, &e))?;
            for port in within {
                *ports.entry(port).or_default() |= port::SOME_ADDR;
                let key = ListenKey {
                    addr: addr.into(),
                    port_be: port.to_be(),
                    reserved: 0,
                };
                map.insert(key, listen.abi(), 0)
                    .map_err(|e| explain(step, &e))?;
            }
        }
        let mut map =
            Array::<_, u32>::try_from(self.map(abi::PORTS)?).map_err(|e| explain(step, &e))?;
        for (port, bits) in ports {
            map.set(u32::from(port), bits, 0)
                .map_err(|e| explain(step, &e))?;
        }
        Ok(())
    }

    /// Forgets the listens of `place`; `left` are those that remain. Flows go on: the
    /// ports stay on the program's list.
    pub fn forget_listens(&mut self, left: &[Listen], place: Place) -> Result<(), Error> {
        let step = "set the served ports";
        if let Some(addr) = place.addr {
            let mut map = BpfMap::<_, ListenKey, u32>::try_from(self.map(abi::LISTENS)?)
                .map_err(|e| explain(step, &e))?;
            for port in place.ports() {
                let key = ListenKey {
                    addr: addr.into(),
                    port_be: port.to_be(),
                    reserved: 0,
                };
                match map.remove(&key) {
                    Err(error) if errno(&error) != Some(libc::ENOENT) => {
                        return Err(explain(step, &error));
                    }
                    _ => {}
                }
            }
        }
        let mut map =
            Array::<_, u32>::try_from(self.map(abi::PORTS)?).map_err(|e| explain(step, &e))?;
        let mut ports = place.ports();
        ports
            .try_for_each(|port| {
                if left.iter().any(|l| l.place.ports().contains(&port)) {
                    return Ok(());
                }
                // Looked up, found nowhere.
                map.set(u32::from(port), port::SOME_ADDR, 0)
            })
            .map_err(|e| explain(step, &e))?;
        self.write_listens(left, place)
    }
}
