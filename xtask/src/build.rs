//! `cargo xtask build`: the server, with the XDP program inside.

use std::path::PathBuf;

use anyhow::Result;
use xtask::{process, workspace};

/// Builds the server in release mode and returns its path.
pub(crate) fn server() -> Result<PathBuf> {
    process::run_shown(workspace::cargo().args(["build", "--release", "--package", "tcp-user"]))?;
    workspace::server_binary()
}
