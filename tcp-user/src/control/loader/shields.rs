//! The maps of the shield.

use super::{Error, Program, explain};
use crate::control::shield;
use aya::maps::HashMap as BpfMap;
use aya::maps::lpm_trie::{Key as Prefix, LpmTrie};
use tcp_common::abi::{self, ListenKey, Shield};
use tcp_common::flow::Addr;

impl Program {
    /// What to answer for the kernel's listeners. Writes what is different.
    pub fn set_shields(&mut self, now: shield::Table) -> Result<(), Error> {
        if now == self.shields {
            return Ok(());
        }
        let step = "set what the kernel's listeners need";
        let before = std::mem::take(&mut self.shields);
        let mut map = LpmTrie::<_, Addr, u32>::try_from(self.map(abi::ROUTE_MSS)?)
            .map_err(|e| explain(step, &e))?;
        let prefix = |(len, addr): &(u32, [u32; 4])| Prefix::new(*len, Addr(*addr));
        for (to, _) in before
            .routes
            .iter()
            .filter(|(to, _)| !now.routes.contains_key(*to))
        {
            if let Err(error) = map.remove(&prefix(to)) {
                tracing::debug!(%error, "route");
            }
        }
        for (to, mss) in now
            .routes
            .iter()
            .filter(|(to, mss)| before.routes.get(*to) != Some(mss))
        {
            map.insert(&prefix(to), u32::from(*mss), 0)
                .map_err(|e| explain(step, &e))?;
        }
        let mut map = BpfMap::<_, ListenKey, Shield>::try_from(self.map(abi::SHIELDS)?)
            .map_err(|e| explain(step, &e))?;
        for gone in before
            .shields
            .keys()
            .filter(|key| !now.shields.contains_key(key))
        {
            if let Err(error) = map.remove(gone) {
                tracing::debug!(%error, "shield");
            }
        }
        for (key, new) in &now.shields {
            if before.shields.get(key) != Some(new) {
                map.insert(key, new, 0).map_err(|e| explain(step, &e))?;
            }
        }
        self.shields = now;
        Ok(())
    }
}
