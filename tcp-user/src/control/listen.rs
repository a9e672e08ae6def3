//! `--listen ADDR:PORT=APP`: what is served where.

use crate::app::App;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// One `--listen`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen {
    /// `None` is `*`: every address of the interface.
    pub addr: Option<IpAddr>,
    /// Host order, not 0.
    pub port: u16,
    /// What answers there.
    pub app: App,
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
    let (host, port) = place
        .rsplit_once(':')
        .ok_or_else(|| format!("no port in `{place}`"))?;
    let port: u16 = port
        .parse()
        .ok()
        .filter(|p| *p != 0)
        .ok_or_else(|| format!("`{port}` is not a port (1 to 65535)"))?;
    let addr = if host == "*" {
        None
    } else if let Some(inner) = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        let v6: Ipv6Addr = inner
            .parse()
            .map_err(|_| format!("`{inner}` is not an IPv6 address"))?;
        if v6.to_ipv4_mapped().is_some() || v6.is_multicast() || v6.is_unspecified() {
            return Err(format!("`{inner}` cannot be served; `*` is every address"));
        }
        Some(IpAddr::V6(v6))
    } else if host.parse::<Ipv6Addr>().is_ok() {
        return Err(format!("write the IPv6 address in brackets: [{host}]"));
    } else {
        let v4: Ipv4Addr = host.parse().map_err(|_| {
            format!("`{host}` is not an address (IPv4, [IPv6] or * for every address)")
        })?;
        if v4.is_multicast() || v4.is_broadcast() || v4.is_unspecified() {
            return Err(format!("`{host}` cannot be served; `*` is every address"));
        }
        Some(IpAddr::V4(v4))
    };
    Ok(Listen {
        addr,
        port,
        app: app.parse()?,
    })
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.addr {
            None => write!(f, "*:{}={}", self.port, self.app),
            Some(ip) => write!(f, "{}={}", SocketAddr::new(ip, self.port), self.app),
        }
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
    for (i, listen) in listens.iter().enumerate() {
        let twice = listens[..i]
            .iter()
            .any(|l| (l.addr, l.port) == (listen.addr, listen.port));
        if twice {
            return Err(Error {
                text: listen.to_string(),
                reason: "this address and port are given twice".into(),
            });
        }
    }
    Ok(())
}

/// Which app serves a local address: the exact listen, else the wildcard.
pub fn find(listens: &[Listen], local: SocketAddr) -> Option<App> {
    let of = |addr| {
        listens
            .iter()
            .find(|l| l.addr == addr && l.port == local.port())
            .map(|l| l.app)
    };
    of(Some(local.ip())).or_else(|| of(None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_forms() {
        for text in ["*:80=http", "192.0.2.1:7=echo", "[fd77::2]:19=chargen"] {
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
        let at = |a: &str| find(&both, a.parse().expect("literal"));
        assert_eq!(at("192.0.2.1:80"), Some(App::Echo));
        assert_eq!(at("192.0.2.2:80"), Some(App::Http));
        assert_eq!(at("192.0.2.2:81"), None);
        assert!(check(&[]).is_err());
    }
}
