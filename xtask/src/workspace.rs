//! Where things are: the workspace, cargo's target directory, the server's binary.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

/// The workspace root.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("."))
}

/// Cargo's target directory for this workspace.
pub fn target_dir() -> Result<PathBuf> {
    let output = cargo()
        .args(["metadata", "--format-version=1", "--no-deps"])
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    ensure!(output.status.success(), "cargo metadata failed");
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let dir = metadata["target_directory"]
        .as_str()
        .context("cargo metadata names no target directory")?;
    Ok(PathBuf::from(dir))
}

/// The release build of the server.
pub fn server_binary() -> Result<PathBuf> {
    Ok(target_dir()?.join("release/tcp-user"))
}

/// The cargo that runs this task, in the workspace root, without what `cargo run` set for this
/// process: some build scripts would take a changed `CARGO_MANIFEST_DIR` for a reason to rerun.
pub fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| {
            name.starts_with("CARGO_PKG_")
                || name.starts_with("CARGO_MANIFEST_")
                || ["OUT_DIR", "LD_LIBRARY_PATH"].contains(&name)
        }) {
            cargo.env_remove(name);
        }
    }
    cargo.current_dir(root());
    cargo
}
