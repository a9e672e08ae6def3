//! What may change while the server runs.

use super::Config;

/// Keys that change while the server runs; the others when it starts. Of `tcp.*`, timers
/// count from their next use, the others for new connections.
pub const LIVE: &[&str] = &[
    "listen",
    "tcp.msl",
    "tcp.rto_min",
    "tcp.keepalive",
    "tcp.keepalive_interval",
    "tcp.congestion",
    "tcp.send_buffer",
    "tcp.max_retries",
    "tcp.fin_timeout",
    "tcp.half_open",
    "tcp.syn_ack_retries",
    "cookie.require_timestamps",
    "cookie.attack_rate",
    "cookie.secret_file",
    "xdp.on_invalid_ack",
    "xdp.allow",
    "xdp.deny",
    "xdp.syn_ack_rate",
    "xdp.rst_rate",
    "xdp.adaptive_rate",
    "shutdown.grace",
];

/// A new configuration beside the one in use.
#[derive(Clone, Debug, PartialEq)]
pub struct Changes {
    /// What is in use once [`Self::live`] is done.
    pub config: Config,
    /// Keys that change now.
    pub live: Vec<String>,
    /// Keys that change with the next start.
    pub restart: Vec<String>,
}

impl Config {
    /// What a reload changes, now and later.
    pub fn changes(&self, new: Self) -> Changes {
        let (before, after) = (flat(self), flat(&new));
        let of = |list: &[(String, toml::Value)], key: &str| {
            list.iter().find(|(k, _)| k == key).map(|(_, v)| v.clone())
        };
        let (live, restart): (Vec<String>, Vec<String>) = super::text::keys()
            .into_iter()
            .map(|key| key.name)
            .filter(|key| of(&before, key) != of(&after, key))
            .partition(|key| LIVE.contains(&key.as_str()));
        let mut config = new;
        if !restart.is_empty() {
            let mut table = table(&config);
            for key in &restart {
                put(&mut table, key, of(&before, key));
            }
            // Both were read from such tables.
            config = Self::from_table(&table).unwrap_or_else(|_| self.clone());
        }
        Changes {
            config,
            live,
            restart,
        }
    }
}

/// Every key that has a value.
pub(super) fn flat(config: &Config) -> Vec<(String, toml::Value)> {
    let mut list = Vec::new();
    for (section, value) in table(config) {
        match value {
            toml::Value::Table(inner) => {
                list.extend(
                    inner
                        .into_iter()
                        .map(|(k, v)| (format!("{section}.{k}"), v)),
                );
            }
            other => list.push((section, other)),
        }
    }
    list
}

fn table(config: &Config) -> toml::Table {
    // Plain data: there is nothing that TOML cannot hold.
    toml::Table::try_from(config).unwrap_or_default()
}

fn put(table: &mut toml::Table, key: &str, value: Option<toml::Value>) {
    let (section, name) = key.split_once('.').unwrap_or(("", key));
    let table = if section.is_empty() {
        table
    } else {
        let inner = table
            .entry(section)
            .or_insert_with(|| toml::Value::Table(toml::Table::new()));
        match inner.as_table_mut() {
            Some(inner) => inner,
            None => return,
        }
    };
    match value {
        Some(value) => table.insert(name.to_owned(), value),
        None => table.remove(name),
    };
}
