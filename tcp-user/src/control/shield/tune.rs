//! `--tune`: the sysctls that a shield wants, set while it runs.
//!
//! What they were before is also in a file, for the case that we are killed and cannot set
//! them back: the next run with `--tune` does it when it ends.

use super::sysctls;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Sysctls that are not as they were found.
#[derive(Debug)]
pub struct Tune {
    /// Below `/proc/sys/net`, with what they were.
    before: BTreeMap<String, u32>,
    record: PathBuf,
}

impl Tune {
    /// Nothing is changed yet. `record` is where a run that was killed left its changes.
    pub fn new(record: PathBuf) -> Self {
        let left = fs::read_to_string(&record);
        let before = left.map_or_else(|_| BTreeMap::new(), |text| parse(&text, namespace()));
        for (path, value) in &before {
            eprintln!(
                "tcp-user: --tune: net.{} was {value} before a run that was killed; it will be again",
                path.replace('/', ".")
            );
        }
        Self { before, record }
    }

    /// Sets one of ours; what it was is remembered from the first time.
    pub fn set(&mut self, path: &str, value: u32) -> io::Result<()> {
        let Some(now) = sysctls::number(path) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        if now == value {
            return Ok(());
        }
        if !self.before.contains_key(path) {
            self.before.insert(path.to_owned(), now);
            self.write_record();
        }
        write(path, value)
    }

    fn write_record(&self) {
        let lines = self
            .before
            .iter()
            .map(|(path, value)| format!("{path} {value}"));
        let lines = lines.chain([format!("{NAMESPACE} {}", namespace())]);
        let text = lines.collect::<Vec<_>>().join("\n");
        let parent = self.record.parent().unwrap_or(Path::new("/"));
        let written = fs::create_dir_all(parent).and_then(|()| fs::write(&self.record, text));
        if let Err(error) = written {
            eprintln!(
                "tcp-user: --tune: {}: {error}; if we are killed the sysctls stay as they are",
                self.record.display()
            );
        }
    }

    /// Sets everything back.
    pub fn restore(&mut self) {
        for (path, value) in std::mem::take(&mut self.before) {
            if let Err(error) = write(&path, value) {
                eprintln!("tcp-user: --tune: /proc/sys/net/{path}: {error}; it was {value}");
            }
        }
        match fs::remove_file(&self.record) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => eprintln!("tcp-user: --tune: {}: {error}", self.record.display()),
        }
    }
}

impl Drop for Tune {
    fn drop(&mut self) {
        self.restore();
    }
}

/// What the line with the namespace begins with.
const NAMESPACE: &str = "namespace";

/// A number that no other network namespace has had since boot; zero before Linux 5.14.
fn namespace() -> u64 {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    let flags = SockFlag::SOCK_CLOEXEC;
    socket(AddressFamily::Unix, SockType::Datagram, flags, None)
        .map_err(io::Error::from)
        .and_then(|socket| super::peek::namespace(&socket))
        .unwrap_or(0)
}

/// The lines of a record that name one of our sysctls; none if it is about another
/// namespace, whose file had the same name.
fn parse(text: &str, namespace: u64) -> BTreeMap<String, u32> {
    let own = format!("{NAMESPACE} {namespace}");
    if !text.lines().any(|line| line == own) {
        return BTreeMap::new();
    }
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .filter(|(path, _)| [sysctls::SYNCOOKIES, sysctls::TIMESTAMPS].contains(path))
        .filter_map(|(path, value)| Some((path.to_owned(), value.parse().ok()?)))
        .collect()
}

fn write(path: &str, value: u32) -> io::Result<()> {
    fs::write(Path::new("/proc/sys/net").join(path), value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_names_only_our_sysctls() {
        let text = "ipv4/tcp_syncookies 1\n../kernel/panic 1\nipv4/tcp_timestamps x\nnonsense\n\
                    namespace 7\n";
        let parsed = parse(text, 7);
        assert_eq!(parsed.len(), 1);
        assert_eq!(parsed[sysctls::SYNCOOKIES], 1);
        assert!(parse(text, 8).is_empty(), "of another namespace");
    }
}
