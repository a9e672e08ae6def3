//! The configuration as TOML with comments, made from the declarations.

use super::{Config, Cookie, Proxy, Shutdown, Tcp, Xdp};
use documented::DocumentedFields;
use std::fmt::Write as _;

/// Columns of a comment.
const WIDTH: usize = 96;

/// What stands in place of a default for keys that have none.
const EXAMPLES: &[(&str, &str)] = &[("cookie.secret_file", "\"/etc/tcp-xdp/secret\"")];

/// A key as it is declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Key {
    /// With its section: `tcp.msl`.
    pub(super) name: String,
    /// Its documentation, of several lines.
    pub(super) docs: &'static str,
}

/// All keys in the order of their declaration; those without a section first.
pub(super) fn keys() -> Vec<Key> {
    let sections: Vec<_> = sections().into_iter().map(|(name, ..)| name).collect();
    let top = Config::FIELD_NAMES.iter().zip(Config::FIELD_DOCS);
    let top = top
        .filter(|(name, _)| !sections.contains(name))
        .map(|(name, docs)| Key {
            name: (*name).to_owned(),
            docs,
        });
    let inner = sections_keys();
    top.chain(inner).collect()
}

type Section = (
    &'static str,
    &'static [&'static str],
    &'static [&'static str],
);

fn sections() -> Vec<Section> {
    fn of<T: DocumentedFields>(name: &'static str) -> Section {
        (name, T::FIELD_NAMES, T::FIELD_DOCS)
    }
    vec![
        of::<Tcp>("tcp"),
        of::<Cookie>("cookie"),
        of::<Xdp>("xdp"),
        of::<Proxy>("proxy"),
        of::<Shutdown>("shutdown"),
    ]
}

fn sections_keys() -> Vec<Key> {
    let mut keys = Vec::new();
    for (section, names, docs) in sections() {
        keys.extend(names.iter().zip(docs).map(|(name, docs)| Key {
            name: format!("{section}.{name}"),
            docs,
        }));
    }
    keys
}

/// `tcp-user config default`: every key with its documentation and its default, which is
/// commented out, so that a later version's default comes into force.
pub fn default_text() -> String {
    let defaults = super::reload::flat(&Config::default());
    let mut out = String::from(
        "# tcp-xdp, all keys. What is commented out is the default.\n\
         # Durations are text with a unit (\"200ms\", \"30s\", \"2m\"), sizes are octets.\n\
         # Keys marked `live` change when the server gets SIGHUP or `tcp-user config reload`,\n\
         # the others when it starts.\n",
    );
    let mut section = "";
    for key in &keys() {
        let (of, name) = key.name.split_once('.').unwrap_or(("", &key.name));
        if of != section {
            section = of;
            let _ = write!(out, "\n[{section}]\n");
        }
        out.push('\n');
        comment(&mut out, key);
        let value = match defaults.iter().find(|(known, _)| *known == key.name) {
            Some((_, value)) => value.to_string(),
            None => EXAMPLES
                .iter()
                .find(|(of, _)| *of == key.name)
                .map_or_else(String::new, |(_, example)| (*example).to_owned()),
        };
        let _ = writeln!(out, "#{name} = {value}");
    }
    out
}

/// The documentation as comment lines, words wrapped.
fn comment(out: &mut String, key: &Key) {
    let live = if super::LIVE.contains(&key.name.as_str()) {
        " (live)"
    } else {
        ""
    };
    let text = format!("{}{live}", key.docs.trim());
    let mut column = WIDTH;
    for word in text.split_whitespace() {
        let width = word.chars().count();
        if column + 1 + width > WIDTH {
            if !out.ends_with('\n') {
                out.push('\n');
            }
            out.push('#');
            column = 1;
        }
        out.push(' ');
        out.push_str(word);
        column += 1 + width;
    }
    out.push('\n');
}
