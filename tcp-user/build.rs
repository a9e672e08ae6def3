//! Builds the XDP program and leaves it at `$OUT_DIR/tcp-ebpf`, for the crate to include.

#[path = "../xtask/src/toolchain.rs"]
mod toolchain;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

fn main() -> ExitCode {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the crate stands in a workspace");
    for path in [
        "Cargo.toml",
        "Cargo.lock",
        "tcp-common/Cargo.toml",
        "tcp-common/src",
        "tcp-ebpf",
        "xtask/src/toolchain.rs",
    ] {
        println!("cargo::rerun-if-changed=../{path}");
    }
    println!("cargo::rerun-if-env-changed=TCP_XDP_TOOLS");

    let toolchain = match toolchain::find(workspace) {
        Ok(toolchain) => toolchain,
        Err(line) => {
            // Cargo shows this line and fails the build.
            println!("cargo::error={line}");
            return ExitCode::SUCCESS;
        }
    };
    println!("cargo::rerun-if-changed={}", toolchain.linker.display());

    let out_dir = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let arch = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets CARGO_CFG_TARGET_ARCH");
    let built = toolchain
        .build(workspace, &ebpf_target_dir(&out_dir), &arch, "tcp-ebpf")
        .and_then(|object| {
            fs::copy(&object, out_dir.join("tcp-ebpf"))
                .map_err(|e| format!("{}: {e}", object.display()))
        });
    if let Err(line) = built {
        // The inner cargo has said why on stderr, which cargo shows when a build script fails.
        eprintln!("{line}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// `<target>/ebpf`, so that dev and release builds share one build of the program; `OUT_DIR` is
/// `<target>/<profile>/build/<package>/out`. Where it is not, the inner build stays inside it.
fn ebpf_target_dir(out_dir: &Path) -> PathBuf {
    match out_dir.ancestors().nth(2) {
        Some(build) if build.ends_with("build") => build
            .ancestors()
            .nth(2)
            .map_or_else(|| out_dir.join("ebpf"), |target| target.join("ebpf")),
        _ => out_dir.join("ebpf"),
    }
}
