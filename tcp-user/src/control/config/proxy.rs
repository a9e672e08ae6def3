//! `proxy.*`: connections that `proxy:HOST:PORT` carries to backends.

use super::{Error, duration};
use crate::app::proxy::header::Version;
use crate::app::proxy::pool::{Balance, Settings};
use documented::DocumentedFields;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// `proxy.*`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(deny_unknown_fields, default)]
pub struct Proxy {
    /// `proxy.connect_timeout`, duration, default `"3s"`: how long connecting to one backend
    /// may take. Another is tried then, three at most; after the last the client gets an
    /// RST. Between 1ms and 10m.
    #[serde(with = "duration")]
    pub connect_timeout: Duration,
    /// `proxy.idle_timeout`, duration, default `"0s"` (off): after so long without an octet
    /// in either direction both sides get an RST. It is looked at every 15 s, or four times
    /// within the timeout if that is more often. At least 10ms if it is not off.
    #[serde(with = "duration")]
    pub idle_timeout: Duration,
    /// `proxy.balance`, default `"round-robin"`: how a backend is chosen among those that are
    /// up: `"round-robin"` each in turn, `"least-connections"` the one with the fewest open
    /// connections. A listen may say otherwise: `proxy:…?balance=least-connections`.
    #[serde(with = "parsed")]
    pub balance: Balance,
    /// `proxy.proxy_protocol`, default `"off"`: the PROXY protocol header that tells a backend
    /// the client's address, `"v1"` (text), `"v2"` (binary) or `"off"`. A listen may say
    /// otherwise: `proxy:…?proxy_protocol=v2`.
    #[serde(with = "parsed")]
    pub proxy_protocol: Version,
    /// `proxy.health_interval`, duration, default `"2s"`: time between checks of a backend, each
    /// of which connects and closes. Zero: no checks, and every backend counts as up.
    #[serde(with = "duration")]
    pub health_interval: Duration,
    /// `proxy.health_rise`, checks, default 2: successes in a row that bring a backend back. At
    /// least 1.
    pub health_rise: u16,
    /// `proxy.health_fall`, checks, default 3: failures in a row, of checks and of clients'
    /// connections, that take a backend out. At least 1.
    pub health_fall: u16,
    /// `proxy.resolve_interval`, duration, default `"30s"`: time between look-ups of backends
    /// that are given by name. A name stands for all its addresses; as long as it cannot be
    /// looked up those of before are used. Zero: only at the start, when a name without an
    /// address is an error.
    #[serde(with = "duration")]
    pub resolve_interval: Duration,
}

impl Default for Proxy {
    fn default() -> Self {
        let Settings {
            connect_timeout,
            idle_timeout,
            balance,
            header,
            health_interval,
            health_rise,
            health_fall,
            resolve_interval,
        } = Settings::default();
        Self {
            connect_timeout,
            idle_timeout,
            balance,
            proxy_protocol: header,
            health_interval,
            health_rise,
            health_fall,
            resolve_interval,
        }
    }
}

impl Proxy {
    /// What the app gets to know.
    pub fn settings(&self) -> Settings {
        Settings {
            connect_timeout: self.connect_timeout,
            idle_timeout: self.idle_timeout,
            balance: self.balance,
            header: self.proxy_protocol,
            health_interval: self.health_interval,
            health_rise: self.health_rise,
            health_fall: self.health_fall,
            resolve_interval: self.resolve_interval,
        }
    }

    pub(super) fn check(&self) -> Result<(), Error> {
        let ms = Duration::from_millis;
        let zero_or = |least: Duration, value: Duration| value.is_zero() || value >= least;
        for (key, ok, message) in [
            (
                "proxy.connect_timeout",
                (ms(1)..=ms(600_000)).contains(&self.connect_timeout),
                "must be between 1ms and 10m",
            ),
            (
                "proxy.idle_timeout",
                zero_or(ms(10), self.idle_timeout),
                "must be at least 10ms, or 0s for none",
            ),
            (
                "proxy.health_interval",
                zero_or(ms(10), self.health_interval),
                "must be at least 10ms, or 0s for no checks",
            ),
            (
                "proxy.health_rise",
                self.health_rise > 0,
                "must be between 1 and 65535",
            ),
            (
                "proxy.health_fall",
                self.health_fall > 0,
                "must be between 1 and 65535",
            ),
            (
                "proxy.resolve_interval",
                zero_or(ms(10), self.resolve_interval),
                "must be at least 10ms, or 0s for never",
            ),
        ] {
            if !ok {
                return Err(Error::Range {
                    key,
                    message: message.to_owned(),
                });
            }
        }
        Ok(())
    }
}

/// Values as they are written behind `?` in a listen.
mod parsed {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<T, S>(value: &T, to: S) -> Result<S::Ok, S::Error>
    where
        T: std::fmt::Display,
        S: Serializer,
    {
        to.collect_str(value)
    }

    pub(super) fn deserialize<'de, T, D>(from: D) -> Result<T, D::Error>
    where
        T: std::str::FromStr<Err = String>,
        D: Deserializer<'de>,
    {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}
