//! `--listen ADDR:PORT[-PORT]=APP[@POLICY]`: what is served where, and how.

use crate::app::App;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use tcp_common::abi;

/// Address and port pairs that are served by address, the size of `LISTENS`.
const MAX_PAIRS: usize = 65_536;

/// What happens to segments that belong to no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// SYNs are answered with cookies.
    #[default]
    Cookie,
    /// The kernel gets them; the SYNs among them are counted as `pass_observed_syn`.
    Observe,
    /// The kernel gets them, as if the port were not served.
    Off,
    /// [`Self::Cookie`] in a flood of SYNs, else handshakes are kept until they are done, and
    /// SYN-ACKs sent again: in userspace, or for [`App::Kernel`] by the kernel, which cookies
    /// then also help out when its queue is full.
    Adaptive,
}

impl Policy {
    const ALL: [(&'static str, Self); 4] = [
        ("cookie", Self::Cookie),
        ("observe", Self::Observe),
        ("off", Self::Off),
        ("adaptive", Self::Adaptive),
    ];
}

impl FromStr for Policy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .iter()
            .find(|(name, _)| *name == text)
            .map(|(_, policy)| *policy)
            .ok_or_else(|| format!("unknown policy `{text}` (cookie, observe, off or adaptive)"))
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cookie => "cookie",
            Self::Observe => "observe",
            Self::Off => "off",
            Self::Adaptive => "adaptive",
        })
    }
}

/// `ADDR:PORT` or `ADDR:PORT-PORT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// `None` is `*`: every address of the interface.
    pub addr: Option<IpAddr>,
    /// First port, host order, not 0.
    pub first: u16,
    /// Last port, not below the first.
    pub last: u16,
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (host, ports) = text
            .rsplit_once(':')
            .ok_or_else(|| format!("no port in `{text}`"))?;
        let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
        let (first, last) = (parse_port(first)?, parse_port(last)?);
        if first > last {
            return Err(format!("`{ports}` is no range of ports: {first} > {last}"));
        }
        Ok(Self {
            addr: parse_host(host)?,
            first,
            last,
        })
    }
}

fn parse_port(text: &str) -> Result<u16, String> {
    text.parse()
        .ok()
        .filter(|p| *p != 0)
        .ok_or_else(|| format!("`{text}` is not a port (1 to 65535)"))
}

fn parse_host(host: &str) -> Result<Option<IpAddr>, String> {
    if host == "*" {
        return Ok(None);
    }
    if let Some(inner) = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        let v6: Ipv6Addr = inner
            .parse()
            .map_err(|_| format!("`{inner}` is not an IPv6 address"))?;
        if v6.to_ipv4_mapped().is_some() || v6.is_multicast() || v6.is_unspecified() {
            return Err(format!("`{inner}` cannot be served; `*` is every address"));
        }
        return Ok(Some(IpAddr::V6(v6)));
    }
    if host.parse::<Ipv6Addr>().is_ok() {
        return Err(format!("write the IPv6 address in brackets: [{host}]"));
    }
    let v4: Ipv4Addr = host
        .parse()
        .map_err(|_| format!("`{host}` is not an address (IPv4, [IPv6] or * for every address)"))?;
    if v4.is_multicast() || v4.is_broadcast() || v4.is_unspecified() {
        return Err(format!("`{host}` cannot be served; `*` is every address"));
    }
    Ok(Some(IpAddr::V4(v4)))
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.addr {
            None => write!(f, "*:{}", self.first)?,
            Some(ip) => write!(f, "{}", SocketAddr::new(ip, self.first))?,
        }
        if self.last > self.first {
            write!(f, "-{}", self.last)?;
        }
        Ok(())
    }
}

impl Place {
    /// The ports.
    pub fn ports(self) -> std::ops::RangeInclusive<u16> {
        self.first..=self.last
    }

    /// Whether a local end is there.
    pub fn has(self, local: SocketAddr) -> bool {
        self.addr.is_none_or(|addr| addr == local.ip()) && self.ports().contains(&local.port())
    }

    /// What is left without the ports of `other`: nothing, a part, two parts, or all.
    pub fn without(self, other: Self) -> impl Iterator<Item = Self> {
        let part = move |first: u16, last: u16| {
            (first <= last).then_some(Self {
                first,
                last,
                ..self
            })
        };
        let parts = if self.overlaps(other) {
            let before = other.first.checked_sub(1).and_then(|p| part(self.first, p));
            let behind = other.last.checked_add(1).and_then(|p| part(p, self.last));
            [before, behind]
        } else {
            [Some(self), None]
        };
        parts.into_iter().flatten()
    }

    fn overlaps(self, other: Self) -> bool {
        self.addr == other.addr && self.first <= other.last && other.first <= self.last
    }

    fn contains(self, other: Self) -> bool {
        self.addr == other.addr && self.first <= other.first && other.last <= self.last
    }
}

/// One `--listen`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Where.
    pub place: Place,
    /// What answers there.
    pub app: App,
    /// How its handshakes are treated.
    pub policy: Policy,
}

impl Listen {
    /// Its policy as a value of `LISTENS`.
    pub fn abi(&self) -> u32 {
        match self.policy {
            Policy::Cookie | Policy::Adaptive if matches!(self.app, App::Kernel) => {
                abi::policy::KERNEL
            }
            Policy::Cookie => abi::policy::COOKIE,
            Policy::Adaptive => abi::policy::ADAPTIVE,
            Policy::Observe => abi::policy::OBSERVE,
            Policy::Off => abi::policy::OFF,
        }
    }
}

/// Why a `--listen` was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("--listen {text}: {reason}")]
pub struct Error {
    text: String,
    reason: String,
}

impl FromStr for Listen {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        parse(text).map_err(|reason| Error {
            text: text.to_owned(),
            reason,
        })
    }
}

fn parse(text: &str) -> Result<Listen, String> {
    let (place, app) = text
        .split_once('=')
        .ok_or("expected ADDR:PORT=APP, for example *:80=http")?;
    let (app, policy) = match app.rsplit_once('@') {
        Some((app, policy)) => (app, policy.parse()?),
        None => (app, Policy::default()),
    };
    let (place, app) = (place.parse()?, app.parse()?);
    Ok(Listen { place, app, policy })
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.place, self.app)?;
        if self.policy != Policy::default() {
            write!(f, "@{}", self.policy)?;
        }
        Ok(())
    }
}

impl Serialize for Listen {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Listen {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        parse(&text).map_err(|reason| serde::de::Error::custom(format!("{text}: {reason}")))
    }
}

/// All `--listen`s: no place twice. `*:80` beside `192.0.2.1:80` is allowed, the
/// exact address wins.
pub fn check(listens: &[Listen]) -> Result<(), Error> {
    if listens.is_empty() {
        return Err(Error {
            text: "ADDR:PORT=APP".into(),
            reason: "at least one is needed".into(),
        });
    }
    check_places(listens)
}

/// As [`check`], of a server that may have none.
pub fn check_places(listens: &[Listen]) -> Result<(), Error> {
    let mut pairs = 0;
    for (i, listen) in listens.iter().enumerate() {
        let refuse = |reason: String| {
            Err(Error {
                text: listen.to_string(),
                reason,
            })
        };
        let other = listens[..i].iter().find(|l| l.place.overlaps(listen.place));
        match other {
            Some(other) if other.place == listen.place => {
                return refuse("this address and port are given twice".into());
            }
            Some(other) => return refuse(format!("a port is given twice, see {other}")),
            None => {}
        }
        if listen.place.addr.is_some() {
            pairs += listen.place.ports().len();
        }
        if pairs > MAX_PAIRS {
            return refuse(format!("more than {MAX_PAIRS} pairs of address and port"));
        }
    }
    Ok(())
}

/// Gives a place another policy; the rest of a range that it is a part of keeps its
/// own. An error names the place that no listen covers.
pub fn set_policy(listens: &mut Vec<Listen>, place: Place, policy: Policy) -> Result<(), String> {
    let Some(at) = listens.iter().position(|l| l.place.contains(place)) else {
        return Err(format!(
            "{place} is not (or not as a whole) served by a listen"
        ));
    };
    let whole = listens[at].clone();
    let part = |first: u16, last: u16, policy| Listen {
        place: Place {
            first,
            last,
            ..place
        },
        policy,
        app: whole.app.clone(),
    };
    let mut parts = Vec::with_capacity(3);
    if whole.place.first < place.first {
        parts.push(part(whole.place.first, place.first - 1, whole.policy));
    }
    parts.push(part(place.first, place.last, policy));
    if place.last < whole.place.last {
        parts.push(part(place.last + 1, whole.place.last, whole.policy));
    }
    listens.splice(at..=at, parts);
    Ok(())
}

/// Takes a place out; the rest of a range that it is a part of stays. An error names
/// the place that the listens do not cover.
pub fn cut(listens: &mut Vec<Listen>, place: Place) -> Result<(), String> {
    let ports = |listens: &[Listen]| listens.iter().map(|l| l.place.ports().len()).sum::<usize>();
    let left: Vec<Listen> = listens
        .iter()
        .flat_map(|l| {
            l.place
                .without(place)
                .map(|place| Listen { place, ..l.clone() })
        })
        .collect();
    // No two listens have a port in common.
    if ports(listens) - ports(&left) != place.ports().len() {
        return Err(format!(
            "{place} is not (or not as a whole) served by listens"
        ));
    }
    *listens = left;
    Ok(())
}

/// Finds what serves a local address among any number of places.
#[derive(Debug)]
pub struct Table<T> {
    /// First port, last port and what serves them, sorted, by address.
    places: HashMap<Option<IpAddr>, Vec<(u16, u16, T)>>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self {
            places: HashMap::new(),
        }
    }
}

impl<T: Clone> Table<T> {
    /// From places that [`check`] let through.
    pub fn new(all: impl IntoIterator<Item = (Place, T)>) -> Self {
        let mut places: HashMap<_, Vec<_>> = HashMap::new();
        for (place, service) in all {
            let ranges = places.entry(place.addr).or_default();
            ranges.push((place.first, place.last, service));
        }
        for ranges in places.values_mut() {
            ranges.sort_unstable_by_key(|(first, ..)| *first);
        }
        Self { places }
    }

    /// What serves a local address: the exact place, else the wildcard.
    pub fn find(&self, local: SocketAddr) -> Option<T> {
        self.of(Some(local.ip()), local.port())
            .or_else(|| self.of(None, local.port()))
    }

    fn of(&self, addr: Option<IpAddr>, port: u16) -> Option<T> {
        let ranges = self.places.get(&addr)?;
        let behind = ranges.partition_point(|(first, ..)| *first <= port);
        let (_, last, service) = ranges[..behind].last()?;
        (port <= *last).then(|| service.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_reads_and_prints() {
        for text in [
            "*:80=http",
            "192.0.2.1:7=echo",
            "[fd77::2]:19=chargen",
            "*:1000-2000=echo",
            "[fd77::2]:1-65535=discard@observe",
            "192.0.2.1:7=echo@off",
            "*:443=kernel",
            "*:443=kernel@adaptive",
            "*:22=proxy:127.0.0.1:22@adaptive",
        ] {
            let listen: Listen = text.parse().expect(text);
            assert_eq!(listen.to_string(), text);
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (bad, names) in [
            ("80=http", "no port"),
            ("*:80", "ADDR:PORT=APP"),
            ("*:0=http", "`0`"),
            ("*:65536=http", "65536"),
            ("10.0.0.300:80=http", "10.0.0.300"),
            ("fd77::2:80=http", "brackets"),
            ("[fd77::x]:80=http", "fd77::x"),
            ("*:80=htpp", "htpp"),
            ("224.0.0.1:80=http", "224.0.0.1"),
            ("[::ffff:1.2.3.4]:80=http", "::ffff:1.2.3.4"),
            ("*:90-80=http", "90-80"),
            ("*:0-80=http", "`0`"),
            ("*:80-=http", "port"),
            ("*:80=http@maybe", "maybe"),
        ] {
            let message = bad.parse::<Listen>().expect_err(bad).to_string();
            assert!(message.contains(names), "{bad}: {message}");
        }
    }

    #[test]
    fn a_place_is_served_once_and_the_exact_one_wins() {
        let parse = |list: &[&str]| -> Vec<Listen> {
            list.iter().map(|t| t.parse().expect("literal")).collect()
        };
        let twice = parse(&["*:80=http", "*:7=echo", "*:80=echo"]);
        assert!(
            check(&twice)
                .expect_err("twice")
                .to_string()
                .contains("*:80")
        );
        let both = parse(&["*:80=http", "192.0.2.1:80=echo"]);
        check(&both).expect("different places");
        let table = Table::new(both.iter().map(|l| (l.place, l.app.clone())));
        let at = |a: &str| table.find(a.parse().expect("literal"));
        assert_eq!(at("192.0.2.1:80"), Some(App::Echo));
        assert_eq!(at("192.0.2.2:80"), Some(App::Http));
        assert_eq!(at("192.0.2.2:81"), None);
        assert!(check(&[]).is_err());
    }

    #[test]
    fn ranges_are_served_and_do_not_overlap() {
        let parse = |list: &[&str]| -> Vec<Listen> {
            list.iter().map(|t| t.parse().expect("literal")).collect()
        };
        let listens = parse(&[
            "*:1000-2000=echo",
            "*:80=http",
            "192.0.2.1:1500-1600=discard",
        ]);
        check(&listens).expect("no overlap");
        let table = Table::new(listens.iter().map(|l| (l.place, l.app.clone())));
        let at = |a: &str| table.find(a.parse().expect("literal"));
        for (addr, app) in [
            ("192.0.2.2:999", None),
            ("192.0.2.2:1000", Some(App::Echo)),
            ("192.0.2.2:2000", Some(App::Echo)),
            ("192.0.2.2:2001", None),
            ("192.0.2.1:1499", Some(App::Echo)),
            ("192.0.2.1:1500", Some(App::Discard)),
            ("192.0.2.1:1601", Some(App::Echo)),
            ("[fd77::2]:80", Some(App::Http)),
        ] {
            assert_eq!(at(addr), app, "{addr}");
        }
        for (list, names) in [
            (
                &["*:1-9=echo", "*:9-12=http"][..],
                "*:9-12=http: a port is given twice, see *:1-9",
            ),
            (&["*:1-9=echo", "*:5=http"], "*:5=http"),
            (&["192.0.2.1:1-65535=echo", "192.0.2.2:1-2=echo"], "65536"),
        ] {
            let message = check(&parse(list)).expect_err("twice").to_string();
            assert!(message.contains(names), "{message}");
        }
        let many: Vec<Listen> = (1..=1000)
            .map(|p| format!("*:{p}=echo").parse().expect("literal"))
            .collect();
        check(&many).expect("hundreds");
    }

    #[test]
    fn a_part_of_a_range_gets_a_policy_of_its_own() {
        let mut listens: Vec<Listen> = vec!["*:10-20=echo".parse().expect("literal")];
        let mut set = |place: &str, policy| {
            set_policy(&mut listens, place.parse().expect(place), policy)?;
            let all: Vec<String> = listens.iter().map(ToString::to_string).collect();
            Ok::<_, String>(all.join(" "))
        };
        assert_eq!(
            set("*:10-20", Policy::Observe).expect("whole"),
            "*:10-20=echo@observe"
        );
        assert_eq!(
            set("*:12", Policy::Off).expect("inside"),
            "*:10-11=echo@observe *:12=echo@off *:13-20=echo@observe"
        );
        assert_eq!(
            set("*:20", Policy::Cookie).expect("end"),
            "*:10-11=echo@observe *:12=echo@off *:13-19=echo@observe *:20=echo"
        );
        assert!(set("*:21", Policy::Off).expect_err("none").contains("*:21"));
        assert!(set("192.0.2.1:12", Policy::Off).is_err());
    }

    #[test]
    fn a_part_is_cut_out_of_what_covers_it() {
        let all = ["*:10-20=echo", "*:21=http", "192.0.2.1:10=discard"];
        let mut listens: Vec<Listen> = all.iter().map(|t| t.parse().expect("valid")).collect();
        let mut cut = |place: &str| {
            cut(&mut listens, place.parse().expect(place))?;
            let texts: Vec<String> = listens.iter().map(ToString::to_string).collect();
            Ok::<_, String>(texts.join(" "))
        };
        let exact = "192.0.2.1:10=discard";
        assert_eq!(
            cut("*:12").expect("inside"),
            format!("*:10-11=echo *:13-20=echo *:21=http {exact}")
        );
        assert!(cut("*:11-13").expect_err("a gap").contains("*:11-13"));
        assert_eq!(
            cut("*:20-21").expect("of two"),
            format!("*:10-11=echo *:13-19=echo {exact}")
        );
        assert_eq!(
            cut("*:10-11").expect("whole"),
            format!("*:13-19=echo {exact}")
        );
        assert!(cut("*:1-65535").is_err());
        assert_eq!(cut("192.0.2.1:10").expect("exact"), "*:13-19=echo");
    }
}
