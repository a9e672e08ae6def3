//! Finds a toolchain that can build the XDP program, and builds it.
//!
//! Two toolchains will do (the second is for systems other than Debian 12):
//!
//! 1. Debian's `rustc-web` packages: `/usr/bin/rustc` with a prebuilt `core` for BPF;
//! 2. rustup's nightly with the `rust-src` component, which builds `core` itself.
//!
//! Both link with `bpf-linker`, whose LLVM must be at least as new as the compiler's.
//!
//! Only `std` is used here: `tcp-user/build.rs` includes this file as it is.

use std::{
    env,
    ffi::OsString,
    fmt, fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

/// The target triple of the XDP program on a little-endian host.
pub const TARGET: &str = "bpfel-unknown-none";
/// The oldest compiler that builds the XDP program, as (major, minor).
pub const MIN_RUSTC: (u32, u32) = (1, 95);

/// A compiler that has, or can build, `core` for BPF.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compiler {
    /// `/usr/bin/rustc` and `/usr/bin/cargo` with a prebuilt BPF `core`.
    System,
    /// rustup's nightly toolchain; `core` is built from the `rust-src` component.
    Nightly,
}

impl fmt::Display for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::System => "/usr/bin/rustc",
            Self::Nightly => "rustup nightly",
        })
    }
}

/// A compiler and a linker for BPF.
#[derive(Debug, Clone)]
pub struct Toolchain {
    /// What compiles.
    pub compiler: Compiler,
    /// The path of `bpf-linker`.
    pub linker: PathBuf,
}

/// Finds the whole toolchain; the error is one line that names what is missing.
pub fn find(workspace: &Path) -> Result<Toolchain, String> {
    let missing = |what| format!("{what} is missing: run `cargo xtask setup`");
    Ok(Toolchain {
        compiler: find_compiler().ok_or_else(|| missing("a Rust compiler for BPF"))?,
        linker: find_linker(workspace).ok_or_else(|| missing("bpf-linker"))?,
    })
}

/// Finds a compiler: the system's if it will do, else rustup's nightly.
pub fn find_compiler() -> Option<Compiler> {
    if system_compiler_fits() {
        Some(Compiler::System)
    } else if nightly_fits() {
        Some(Compiler::Nightly)
    } else {
        None
    }
}

fn system_compiler_fits() -> bool {
    let rustc = Path::new("/usr/bin/rustc");
    rustc.exists()
        && Path::new("/usr/bin/cargo").exists()
        && version(&mut bare(rustc)).is_some_and(|v| v >= MIN_RUSTC)
        && sysroot(&mut bare(rustc)).is_some_and(|root| {
            fs::read_dir(root.join("lib/rustlib").join(TARGET).join("lib")).is_ok_and(|dir| {
                dir.flatten()
                    .any(|file| file.file_name().to_string_lossy().starts_with("libcore-"))
            })
        })
}

fn nightly_fits() -> bool {
    version(&mut nightly("rustc")).is_some_and(|v| v >= MIN_RUSTC)
        && sysroot(&mut nightly("rustc"))
            .is_some_and(|root| root.join("lib/rustlib/src/rust/library/core").is_dir())
}

/// The LLVM release that a compiler uses; `bpf-linker` needs this or a newer one.
#[allow(dead_code, reason = "setup asks, the build script does not")]
pub fn llvm_of(compiler: &Compiler) -> Option<u32> {
    let mut rustc = match compiler {
        Compiler::System => bare("/usr/bin/rustc"),
        Compiler::Nightly => nightly("rustc"),
    };
    let text = stdout_of(rustc.arg("-vV"))?;
    let version = text
        .lines()
        .find_map(|line| line.strip_prefix("LLVM version: "))?;
    version.split('.').next()?.parse().ok()
}

/// A command of rustup's nightly toolchain.
pub fn nightly(program: &str) -> Command {
    let mut command = bare("rustup");
    command.args(["run", "nightly", program]);
    command
}

/// The (major, minor) version that a `rustc` prints.
fn version(rustc: &mut Command) -> Option<(u32, u32)> {
    parse_version(&stdout_of(rustc.arg("--version"))?)
}

fn parse_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.strip_prefix("rustc ")?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn sysroot(rustc: &mut Command) -> Option<PathBuf> {
    let text = stdout_of(rustc.args(["--print", "sysroot"]))?;
    Some(PathBuf::from(text.trim()))
}

fn stdout_of(command: &mut Command) -> Option<String> {
    let Output { status, stdout, .. } = command.stderr(Stdio::null()).output().ok()?;
    status
        .success()
        .then(|| String::from_utf8_lossy(&stdout).into_owned())
}

/// The first `bpf-linker` in `$TCP_XDP_TOOLS`, `target/tools/bin`, cargo's `bin` and `PATH`.
///
/// The project's own directories come first: where another `bpf-linker` on the machine does not fit
/// the compiler, setup puts one that does there.
pub fn find_linker(workspace: &Path) -> Option<PathBuf> {
    let own = env::var_os("TCP_XDP_TOOLS")
        .map(PathBuf::from)
        .into_iter()
        .flat_map(|dir| [dir.join("bin"), dir]);
    let path = env::var_os("PATH").unwrap_or_default();
    own.chain([workspace.join("target/tools/bin")])
        .chain(cargo_home().map(|home| home.join("bin")))
        .chain(env::split_paths(&path))
        .map(|dir| dir.join("bpf-linker"))
        .find(|file| file.is_file())
}

/// Cargo's home directory, where `cargo install` puts programs.
pub fn cargo_home() -> Option<PathBuf> {
    env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")))
}

/// Environment variables that an outer cargo, clippy or build script sets and that would change what
/// an inner one does. Those of the user that say where crates come from stay.
fn disturbs(name: &str) -> bool {
    const EXACT: &[&str] = &[
        "CARGO",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_INCREMENTAL",
        "CARGO_MAKEFLAGS",
        "CLIPPY_ARGS",
        "DEBUG",
        "HOST",
        "LD_LIBRARY_PATH",
        "MAKEFLAGS",
        "NUM_JOBS",
        "OPT_LEVEL",
        "OUT_DIR",
        "PROFILE",
        "RUSTC",
        "RUSTC_LINKER",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTC_WRAPPER",
        "RUSTDOC",
        "RUSTDOCFLAGS",
        "RUSTFLAGS",
        "RUSTUP_TOOLCHAIN",
        "TARGET",
    ];
    const PREFIXES: &[&str] = &[
        "CARGO_BIN_",
        "CARGO_BUILD_",
        "CARGO_CFG_",
        "CARGO_CRATE_",
        "CARGO_FEATURE_",
        "CARGO_MANIFEST_",
        "CARGO_PKG_",
        "CARGO_PRIMARY_",
        "CARGO_PROFILE_",
        "CARGO_TARGET_",
        "DEP_",
    ];
    EXACT.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// A command without what an outer cargo left in the environment.
pub fn bare(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(disturbs) {
            command.env_remove(name);
        }
    }
    command
}

impl Toolchain {
    /// Builds a program of the crate `tcp-ebpf` in release mode under `target_dir` and returns the
    /// object's path.
    ///
    /// `arch` is the architecture of the machine that will run it, by Rust's name.
    /// Cargo's messages go to stderr. The error is one line.
    pub fn build(
        &self,
        workspace: &Path,
        target_dir: &Path,
        arch: &str,
        program: &str,
    ) -> Result<PathBuf, String> {
        let mut cargo = match self.compiler {
            Compiler::System => {
                let mut cargo = bare("/usr/bin/cargo");
                cargo
                    .env("RUSTC", "/usr/bin/rustc")
                    .env("RUSTC_BOOTSTRAP", "1");
                cargo
            }
            Compiler::Nightly => nightly("cargo"),
        };
        cargo
            .current_dir(workspace)
            .args(["build", "--release", "--package", "tcp-ebpf", "--bin"])
            .arg(program)
            .args(["--target", TARGET, "--target-dir"])
            .arg(target_dir)
            .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &self.linker)
            .env("PATH", self.path())
            .env(
                "CARGO_ENCODED_RUSTFLAGS",
                // aya-ebpf picks the layout of the machine's registers by the cfg.
                format!("--cfg=bpf_target_arch=\"{arch}\"\x1f-Cdebuginfo=2\x1f-Clink-arg=--btf"),
            );
        if self.compiler == Compiler::Nightly {
            cargo.args(["-Z", "build-std=core"]);
        }
        let status = cargo
            .stdin(Stdio::null())
            .status()
            .map_err(|e| format!("{}: {e}", cargo.get_program().display()))?;
        let object = target_dir.join(TARGET).join("release").join(program);
        if !status.success() {
            return Err(format!("building {program} with {} failed", self.compiler));
        }
        if !object.is_file() {
            return Err(format!("{} was not built", object.display()));
        }
        Ok(object)
    }

    /// Whether compiler and linker work together: links a few instructions in `scratch`.
    ///
    /// Says so of the system compiler only; the nightly one would have to build `core` for it.
    #[allow(dead_code, reason = "setup asks, the build script does not")]
    pub fn links(&self, scratch: &Path) -> bool {
        const PROBE: &str = "#![no_std]\n\
            #[unsafe(no_mangle)] extern \"C\" fn probe() -> u32 { 2 }\n\
            #[panic_handler] fn panic(_: &core::panic::PanicInfo) -> ! { loop {} }\n";
        if self.compiler == Compiler::Nightly {
            return stdout_of(bare(&self.linker).arg("--version")).is_some();
        }
        let source = scratch.join("probe.rs");
        fs::create_dir_all(scratch).is_ok()
            && fs::write(&source, PROBE).is_ok()
            && bare("/usr/bin/rustc")
                .args(["--crate-type=cdylib", "--edition=2024", "-Cpanic=abort"])
                .args(["--target", TARGET, "-Clink-arg=--btf", "-o"])
                .arg(scratch.join("probe.o"))
                .arg(prefixed("-Clinker=", &self.linker))
                .arg(&source)
                .output()
                .is_ok_and(|output| output.status.success())
    }

    /// `PATH` with the linker's directory in front.
    fn path(&self) -> OsString {
        let old = env::var_os("PATH").unwrap_or_default();
        let dirs = self.linker.parent().map(Path::to_path_buf).into_iter();
        env::join_paths(dirs.chain(env::split_paths(&old))).unwrap_or(old)
    }
}

#[allow(dead_code, reason = "used by `links`")]
fn prefixed(prefix: &str, path: &Path) -> OsString {
    let mut text = OsString::from(prefix);
    text.push(path);
    text
}
