//! `proxy:HOST:PORT[,HOST:PORT...][?KEY=VALUE[&KEY=VALUE]]`: where a listen's connections go.

use super::header::Version;
use super::pool::Balance;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::str::FromStr;

/// Backends of one listen at most.
const MAX_BACKENDS: usize = 256;

/// A host, by address or by name.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    Ip(IpAddr),
    Name(String),
}

/// A host and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    host: Host,
    port: u16,
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (host, port) = text
            .rsplit_once(':')
            .ok_or_else(|| format!("no port in backend `{text}`"))?;
        let port = port
            .parse()
            .ok()
            .filter(|port| *port != 0)
            .ok_or_else(|| format!("`{port}` is not a port (1 to 65535)"))?;
        let host = if let Some(inner) = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
            let ip: Ipv6Addr = inner
                .parse()
                .map_err(|_| format!("`{inner}` is not an IPv6 address"))?;
            Host::Ip(ip.into())
        } else if let Ok(ip) = host.parse::<IpAddr>() {
            if ip.is_ipv6() {
                return Err(format!("write the IPv6 address in brackets: [{host}]"));
            }
            Host::Ip(ip)
        } else if is_name(host) {
            Host::Name(host.to_ascii_lowercase())
        } else {
            return Err(format!("`{host}` is neither an address nor a name"));
        };
        Ok(Self { host, port })
    }
}

/// Letters, digits and `-._`, and not what looks like an IPv4 address.
fn is_name(host: &str) -> bool {
    (1..=253).contains(&host.len())
        && host
            .bytes()
            .all(|c| c.is_ascii_alphanumeric() || b"-._".contains(&c))
        && host.bytes().any(|c| c.is_ascii_alphabetic())
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(ip) => write!(f, "{}", SocketAddr::new(*ip, self.port)),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

impl Place {
    /// Whether it is a name.
    pub fn is_name(&self) -> bool {
        matches!(self.host, Host::Name(_))
    }

    /// Its address, or all addresses of the name. Asks the system's resolver, which takes its time.
    pub fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        match &self.host {
            Host::Ip(ip) => Ok(vec![SocketAddr::new(*ip, self.port)]),
            Host::Name(name) => {
                let mut all: Vec<_> = (name.as_str(), self.port).to_socket_addrs()?.collect();
                all.sort_unstable();
                all.dedup();
                Ok(all)
            }
        }
    }
}

/// What stands behind `proxy:`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Where the backends are.
    pub places: Vec<Place>,
    /// Instead of `proxy.balance`.
    pub balance: Option<Balance>,
    /// Instead of `proxy.proxy_protocol`.
    pub header: Option<Version>,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (places, options) = match text.split_once('?') {
            Some((places, options)) => (places, Some(options)),
            None => (text, None),
        };
        let mut target = Self {
            places: Vec::new(),
            balance: None,
            header: None,
        };
        for place in places.split(',') {
            let place: Place = place.trim().parse()?;
            if target.places.contains(&place) {
                return Err(format!("backend {place} is given twice"));
            }
            target.places.push(place);
        }
        if target.places.len() > MAX_BACKENDS {
            return Err(format!("more than {MAX_BACKENDS} backends"));
        }
        for option in options.into_iter().flat_map(|all| all.split('&')) {
            let (key, value) = option
                .split_once('=')
                .ok_or_else(|| format!("`{option}` is not KEY=VALUE"))?;
            match key {
                "balance" => target.balance = Some(value.parse()?),
                "proxy_protocol" => target.header = Some(value.parse()?),
                _ => {
                    return Err(format!("unknown key `{key}` (balance or proxy_protocol)"));
                }
            }
        }
        Ok(target)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, place) in self.places.iter().enumerate() {
            write!(f, "{}{place}", if i == 0 { "" } else { "," })?;
        }
        let mut between = '?';
        if let Some(balance) = self.balance {
            write!(f, "{between}balance={balance}")?;
            between = '&';
        }
        if let Some(header) = self.header {
            write!(f, "{between}proxy_protocol={header}")?;
        }
        Ok(())
    }
}

/// Names as they are written and printed.
macro_rules! named {
    ($type:ty, $what:literal, $($name:literal => $value:expr),+) => {
        impl FromStr for $type {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($name => Ok($value),)+
                    _ => Err(format!(
                        concat!("unknown ", $what, " `{}` (", $("`", $name, "` ",)+ "exist)"),
                        text
                    )),
                }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                $(if *self == $value {
                    return f.write_str($name);
                })+
                Ok(())
            }
        }
    };
}

named!(Version, "PROXY protocol", "off" => Self::Off, "v1" => Self::V1, "v2" => Self::V2);
named!(
    Balance, "way to balance",
    "round-robin" => Self::RoundRobin, "least-connections" => Self::LeastConnections
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_reads_and_prints() {
        for text in [
            "10.0.0.1:80",
            "10.0.0.1:80,10.0.0.2:8080,[fd00::1]:80",
            "backend.example:443",
            "a:1,b:2?balance=least-connections",
            "a:1?balance=round-robin&proxy_protocol=v2",
            "a:1?proxy_protocol=v1",
        ] {
            let target: Target = text.parse().expect(text);
            assert_eq!(target.to_string(), text);
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (bad, names) in [
            ("", "no port"),
            ("10.0.0.1", "no port"),
            ("10.0.0.1:0", "`0`"),
            ("10.0.0.1:99999", "99999"),
            ("10.0.0.300:80", "10.0.0.300"),
            ("fd00::1:80", "brackets"),
            ("[fd00::x]:80", "fd00::x"),
            ("a b:80", "a b"),
            ("a:80,", "no port"),
            ("a:80,a:80", "a:80"),
            ("a:80?x=1", "`x`"),
            ("a:80?balance", "balance"),
            ("a:80?balance=fair", "fair"),
            ("a:80?proxy_protocol=v3", "v3"),
        ] {
            let message = bad.parse::<Target>().expect_err(bad);
            assert!(message.contains(names), "{bad}: {message}");
        }
    }

    #[test]
    fn a_name_stands_for_all_its_addresses() {
        let place: Place = "localhost:80".parse().expect("a name");
        assert!(place.is_name());
        let all = place.resolve().expect("every system knows it");
        assert!(all.iter().all(|a| a.ip().is_loopback() && a.port() == 80));
        assert!(!all.is_empty());
    }
}
