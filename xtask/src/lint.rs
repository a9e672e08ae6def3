//! The lint tier: rustfmt, clippy, and what `proto/` may not do.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use xtask::{process, workspace};

use crate::test::headline;

/// Crates that do I/O, and the modules that build on the protocol core.
const FORBIDDEN_CRATES: &[&str] = &["aya", "libc", "nix", "socket2", "tokio"];
const FORBIDDEN_PATHS: &[&str] = &[
    "Instant::now",
    "SystemTime",
    "crate::app",
    "crate::control",
    "crate::dataplane",
    "crate::net",
    "std::fs",
    "std::net::TcpListener",
    "std::net::TcpStream",
    "std::net::UdpSocket",
    "std::thread",
];

/// Runs every lint.
pub(crate) fn lint() -> Result<()> {
    headline("cargo fmt");
    process::run_shown(workspace::cargo().args(["fmt", "--all", "--check"]))?;
    headline("cargo clippy");
    process::run_shown(workspace::cargo().args([
        "clippy",
        "--workspace",
        "--exclude",
        "tcp-ebpf",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]))?;
    headline("the protocol core does no I/O");
    let mut findings = 0;
    let proto = workspace::root().join("tcp-user/src/proto");
    let files = rust_files(&proto)?;
    for file in &files {
        let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
        for (line, what) in forbidden(&text) {
            findings += 1;
            let file = file.strip_prefix(workspace::root()).unwrap_or(file);
            eprintln!("{}:{line}: {what}", file.display());
        }
    }
    ensure!(
        findings == 0,
        "{findings} places in tcp-user/src/proto reach outside"
    );
    eprintln!("{} files, ok", files.len());
    Ok(())
}

/// The Rust files below a directory that need not exist yet.
fn rust_files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut directories = vec![directory.to_path_buf()];
    while let Some(directory) = directories.pop() {
        let Ok(entries) = fs::read_dir(&directory) else {
            continue;
        };
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

/// The lines that use what the protocol core must not, with what they use.
fn forbidden(source: &str) -> Vec<(usize, &'static str)> {
    let mut found = Vec::new();
    for (index, line) in source.lines().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        let crates = FORBIDDEN_CRATES
            .iter()
            .filter(|name| names_crate(code, name));
        let paths = FORBIDDEN_PATHS.iter().filter(|path| has_word(code, path));
        found.extend(crates.chain(paths).map(|&what| (index + 1, what)));
    }
    found
}

/// Whether code says `name::...`, `use name` or `extern crate name`.
fn names_crate(code: &str, name: &str) -> bool {
    words(code, name).any(|(before, after)| {
        let before = before.trim_end();
        let path = after.starts_with("::") && !before.ends_with("::");
        path || before.ends_with("use") || before.ends_with("crate")
    })
}

fn has_word(code: &str, word: &str) -> bool {
    words(code, word).next().is_some()
}

/// What stands before and after each place where `word` is not part of a longer word.
fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
    let joins = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word)
        .map(move |(at, _)| (&code[..at], &code[at + word.len()..]))
        .filter(move |(before, after)| !before.ends_with(joins) && !after.starts_with(joins))
}

#[cfg(test)]
mod tests {
    use super::forbidden;

    #[test]
    fn io_is_found() {
        for (code, what) in [
            ("use tokio::io;", "tokio"),
            ("let x = libc::c_int;", "libc"),
            ("use aya;", "aya"),
            ("let now = std::time::Instant::now();", "Instant::now"),
            ("use std::time::SystemTime;", "SystemTime"),
            ("use crate::net::TcpStream;", "crate::net"),
        ] {
            assert_eq!(forbidden(&format!("\n{code}\n")), [(2, what)], "{code}");
        }
    }

    #[test]
    fn the_rest_is_not() {
        for code in [
            "// tokio::spawn would be wrong here",
            "use std::time::{Duration, Instant};",
            "use std::net::{IpAddr, Ipv4Addr};",
            "use crate::network;",
            "let nix = 1; my::nix::f();",
        ] {
            assert_eq!(forbidden(code), [], "{code}");
        }
    }
}
