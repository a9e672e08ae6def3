//! `xdp.allow` and `xdp.deny`: which sources may connect.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use tcp_common::abi::source;
use tcp_common::flow::Addr;

/// Bits before an IPv4 address in its IPv4-mapped form.
const MAPPED: u8 = 96;

/// An address prefix, `192.0.2.0/24` or `2001:db8::/32`; a bare address is a whole one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Prefix {
    addr: IpAddr,
    len: u8,
}

impl FromStr for Prefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (addr, len) = match text.split_once('/') {
            Some((addr, len)) => (addr, Some(len)),
            None => (text, None),
        };
        let addr: IpAddr = addr
            .parse()
            .map_err(|_| format!("`{text}` is no prefix such as 192.0.2.0/24 or 2001:db8::/32"))?;
        let most = if addr.is_ipv4() { 32 } else { 128 };
        let len = match len {
            None => most,
            Some(len) => len
                .parse()
                .ok()
                .filter(|len| *len <= most)
                .ok_or_else(|| format!("`{text}`: the length is not between 0 and {most}"))?,
        };
        let prefix = Self { addr, len };
        if prefix.masked() != addr {
            return Err(format!(
                "`{text}` has bits behind its length; write {}/{len}",
                prefix.masked()
            ));
        }
        if let IpAddr::V6(v6) = addr
            && len >= MAPPED
            && v6.to_ipv4_mapped().is_some()
        {
            return Err(format!("`{text}`: write the IPv4 prefix itself"));
        }
        Ok(prefix)
    }
}

impl Prefix {
    fn masked(self) -> IpAddr {
        match self.addr {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.len)).unwrap_or(0);
                Ipv4Addr::from_bits(v4.to_bits() & mask).into()
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX
                    .checked_shl(128 - u32::from(self.len))
                    .unwrap_or(0);
                Ipv6Addr::from_bits(v6.to_bits() & mask).into()
            }
        }
    }

    /// Whether an address is in it.
    pub fn contains(self, addr: IpAddr) -> bool {
        let addr = addr.to_canonical();
        addr.is_ipv4() == self.addr.is_ipv4() && Self { addr, ..self }.masked() == self.addr
    }

    /// Length in the trie, where IPv4 addresses are IPv4-mapped.
    const fn trie_len(self) -> u32 {
        match self.addr {
            IpAddr::V4(_) => (MAPPED + self.len) as u32,
            IpAddr::V6(_) => self.len as u32,
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.len)
    }
}

impl<'de> Deserialize<'de> for Prefix {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for Prefix {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// A list in TOML, or text with commas (`--set xdp.deny=192.0.2.0/24,2001:db8::/32`).
pub fn list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Prefix>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a list of prefixes")]
    enum List {
        Text(String),
        Items(Vec<String>),
    }
    let items = match List::deserialize(deserializer)? {
        List::Text(text) => text
            .split(',')
            .map(|item| item.trim().to_owned())
            .filter(|item| !item.is_empty())
            .collect(),
        List::Items(items) => items,
    };
    items
        .iter()
        .map(|item| item.parse().map_err(serde::de::Error::custom))
        .collect()
}

/// A change of the lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// What is meant, exactly as it is listed.
    pub prefix: Prefix,
    /// The list that it goes to.
    pub to: To,
}

/// Where a prefix goes; it leaves the other list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum To {
    /// `xdp.allow`.
    Allow,
    /// `xdp.deny`.
    Deny,
    /// Neither.
    Nowhere,
}

impl Change {
    /// Changes the lists. An error names the prefix that was to go and is in neither.
    pub fn apply(&self, allow: &mut Vec<Prefix>, deny: &mut Vec<Prefix>) -> Result<(), String> {
        let before = allow.len() + deny.len();
        for list in [&mut *allow, &mut *deny] {
            list.retain(|prefix| *prefix != self.prefix);
        }
        match self.to {
            To::Allow => allow.push(self.prefix),
            To::Deny => deny.push(self.prefix),
            To::Nowhere if allow.len() + deny.len() == before => {
                return Err(format!("{} is in neither list", self.prefix));
            }
            To::Nowhere => {}
        }
        Ok(())
    }
}

/// Both lists as the XDP program wants them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// Prefix length, prefix and [`source`] value.
    pub entries: Vec<(u32, Addr, u32)>,
    /// What no entry matches is dropped.
    pub default_deny: bool,
}

impl Sources {
    /// From `xdp.allow` and `xdp.deny`; an error is the prefix that is in both.
    pub fn new(allow: &[Prefix], deny: &[Prefix]) -> Result<Self, Prefix> {
        let mut all = BTreeMap::new();
        all.extend(deny.iter().map(|prefix| (*prefix, source::DENY)));
        for prefix in allow {
            if all.insert(*prefix, source::ALLOW) == Some(source::DENY) {
                return Err(*prefix);
            }
        }
        let default_deny = !allow.is_empty();
        // A short IPv6 prefix such as ::/0 is not about IPv4, but covers it in the trie.
        let v4 = Prefix {
            addr: Ipv4Addr::UNSPECIFIED.into(),
            len: 0,
        };
        if !all.is_empty() {
            all.entry(v4).or_insert(if default_deny {
                source::DENY
            } else {
                source::ALLOW
            });
        }
        Ok(Self {
            entries: all
                .into_iter()
                .map(|(prefix, what)| (prefix.trie_len(), prefix.addr.into(), what))
                .collect(),
            default_deny,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefixes(list: &[&str]) -> Vec<Prefix> {
        list.iter().map(|t| t.parse().expect(t)).collect()
    }

    #[test]
    fn prefixes_read_and_print() {
        for (text, prints) in [
            ("192.0.2.0/24", "192.0.2.0/24"),
            ("192.0.2.1", "192.0.2.1/32"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("::/0", "::/0"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("2001:db8::1", "2001:db8::1/128"),
        ] {
            assert_eq!(text.parse::<Prefix>().expect(text).to_string(), prints);
        }
        for (bad, names) in [
            ("192.0.2.0/33", "33"),
            ("192.0.2.1/24", "192.0.2.0/24"),
            ("2001:db8::1/32", "2001:db8::/32"),
            ("example.org", "example.org"),
            ("::ffff:192.0.2.0/120", "IPv4"),
            ("", "prefix"),
        ] {
            let message = bad.parse::<Prefix>().expect_err(bad);
            assert!(message.contains(names), "{bad}: {message}");
        }
    }

    #[test]
    fn nothing_listed_lets_everyone_in() {
        assert_eq!(Sources::new(&[], &[]), Ok(Sources::default()));
    }

    #[test]
    fn an_allow_list_keeps_everyone_else_out() {
        let s = Sources::new(&prefixes(&["192.0.2.0/24"]), &[]).expect("no conflict");
        assert!(s.default_deny);
        let at = |text: &str| Addr::from(text.parse::<IpAddr>().expect(text));
        assert!(s.entries.contains(&(120, at("192.0.2.0"), source::ALLOW)));
        assert!(s.entries.contains(&(96, at("0.0.0.0"), source::DENY)));
        let s = Sources::new(&[], &prefixes(&["::/0"])).expect("no conflict");
        assert!(!s.default_deny);
        assert!(
            s.entries.contains(&(96, at("0.0.0.0"), source::ALLOW)),
            "::/0 is not about IPv4"
        );
        let both = prefixes(&["10.0.0.0/8"]);
        assert_eq!(Sources::new(&both, &both), Err(both[0]));
    }

    #[test]
    fn a_prefix_is_on_one_list_at_most() {
        let (mut allow, mut deny) = (Vec::new(), prefixes(&["10.0.0.0/8", "::/0"]));
        let mut change = |prefix: &str, to| {
            let prefix = prefix.parse().expect(prefix);
            Change { prefix, to }.apply(&mut allow, &mut deny)?;
            Ok::<_, String>((allow.len(), deny.len()))
        };
        assert_eq!(change("10.0.0.0/8", To::Allow), Ok((1, 1)));
        assert_eq!(change("10.0.0.0/8", To::Allow), Ok((1, 1)));
        assert_eq!(change("10.0.0.0/9", To::Deny), Ok((1, 2)));
        assert_eq!(change("10.0.0.0/8", To::Nowhere), Ok((0, 2)));
        let unknown = change("10.0.0.0/8", To::Nowhere).expect_err("gone already");
        assert!(unknown.contains("10.0.0.0/8"), "{unknown}");
    }
}
