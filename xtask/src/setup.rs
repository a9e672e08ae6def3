//! `cargo xtask setup`: installs what is missing, and nothing else.
//!
//! Each step says what it found or the command it runs. Debian 12 needs no second rustup toolchain:
//! its `rustc-web` packages hold a compiler with a BPF `core`, and LLVM to build `bpf-linker` with.
//! Elsewhere rustup's nightly does, and the other tools are named for the user to install.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context as _, Result, bail, ensure};

use xtask::{
    process::{self, which},
    toolchain::{self, Compiler, Toolchain},
    workspace,
};

/// The compiler for BPF, as Debian 12 packages it.
const COMPILER_PACKAGES: &[&str] = &["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf"];
/// What building `bpf-linker` against the LLVM of that compiler takes.
const LINKER_PACKAGES: &[&str] = &["llvm-22-dev", "libpolly-22-dev"];
const LINKER_VERSION: &str = "0.13.0";
/// The LLVM releases that this version of `bpf-linker` can be built on, newest first.
const LINKER_LLVMS: &[u32] = &[23, 22, 21];

/// A program and the Debian package that has it.
type Tool = (&'static str, &'static str);

const LAB_TOOLS: &[Tool] = &[
    ("ip", "iproute2"),
    ("ethtool", "ethtool"),
    ("curl", "curl"),
    ("nc.openbsd", "netcat-openbsd"),
    ("hping3", "hping3"),
];
const TEST_TOOLS: &[Tool] = &[
    ("tcpdump", "tcpdump"),
    ("socat", "socat"),
    ("python3", "python3"),
    ("ps", "procps"),
    ("nft", "nftables"),
    ("iperf3", "iperf3"),
    ("wrk", "wrk"),
    ("nginx", "nginx"),
    ("sshd", "openssh-server"),
    ("ssh", "openssh-client"),
    (
        "/usr/lib/nginx/modules/ngx_stream_module.so",
        "libnginx-mod-stream",
    ),
    ("haproxy", "haproxy"),
    ("redis-benchmark", "redis-tools"),
    ("openssl", "openssl"),
    ("tshark", "tshark"),
    ("tmux", "tmux"),
    ("script", "bsdutils"),
    ("setpriv", "util-linux"),
];

/// Packages that start a service, which nobody has asked for, and the service's name.
const DAEMONS: &[(&str, &str)] = &[
    ("nginx", "nginx"),
    ("haproxy", "haproxy"),
    ("openssh-server", "ssh"),
];
/// Debian asks this program whether a service may start.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// For what the machine is set up; each includes the one before.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scope {
    /// To build the server.
    Build,
    /// To run it in the lab.
    Run,
    /// To run every test.
    Test,
}

/// Sets the machine up and returns the BPF toolchain.
pub(crate) fn setup(scope: Scope) -> Result<Toolchain> {
    let mut setup = Setup::new(match scope {
        Scope::Build => 2,
        Scope::Run => 3,
        Scope::Test => 6,
    })?;
    let toolchain = setup.toolchain()?;
    if scope >= Scope::Run {
        setup.tools("lab tools", LAB_TOOLS)?;
    }
    if scope >= Scope::Test {
        setup.tools("test tools", TEST_TOOLS)?;
        setup.prometheus()?;
        setup.lints()?;
    }
    Ok(toolchain)
}

/// Sets up what the lab takes, without a server in it.
pub(crate) fn lab() -> Result<()> {
    Setup::new(1)?.tools("lab tools", LAB_TOOLS)
}

/// Debian's package manager, and whether it knows this day's packages.
enum Apt {
    /// Not Debian 12.
    Absent,
    Stale,
    Updated,
}

impl Apt {
    fn find() -> Self {
        let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let has = |line| release.lines().any(|l| l.replace('"', "") == line);
        if has("ID=debian") && has("VERSION_ID=12") && which("apt-get").is_some() {
            Self::Stale
        } else {
            Self::Absent
        }
    }
}

struct Setup {
    step: u32,
    steps: u32,
    log: PathBuf,
    apt: Apt,
}

impl Setup {
    fn new(steps: u32) -> Result<Self> {
        Ok(Self {
            step: 0,
            steps,
            log: workspace::target_dir()?.join("setup.log"),
            apt: Apt::find(),
        })
    }

    fn say(&self, what: &str) {
        eprintln!("[setup {}/{}] {what}", self.step, self.steps);
    }

    /// Runs one command of a step.
    fn run(&self, name: &str, command: &mut Command) -> Result<()> {
        self.say(&format!("{name}: $ {}", process::line(command)));
        let start = Instant::now();
        process::run_logged(command, &self.log, |elapsed, last| {
            self.say(&format!("{name}: {} s: {last}", elapsed.as_secs()));
        })?;
        self.say(&format!("{name}: done in {} s", start.elapsed().as_secs()));
        Ok(())
    }

    /// Installs Debian packages; the caller has made sure that this is Debian.
    fn install(&mut self, name: &str, packages: &[&str]) -> Result<()> {
        let absent = packages.iter().filter(|name| !is_installed(name));
        let names: Vec<_> = absent.copied().collect();
        if names.is_empty() {
            return Ok(());
        }
        let why = format!("install {}", names.join(" "));
        let apt_get = || -> Result<Command> {
            let mut command = process::as_root("env", &why)?;
            command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-y"]);
            command.args(["-o", "DPkg::Lock::Timeout=300"]);
            Ok(command)
        };
        if matches!(self.apt, Apt::Stale) {
            // One unreachable source of many is no reason to stop; a missing package will be.
            if let Err(error) = self.run(name, apt_get()?.arg("update")) {
                self.say(&format!("{name}: {error}; going on with the old lists"));
            }
            self.apt = Apt::Updated;
        }
        // `--no-remove`: rustc-web replaces Debian's rustc, and that is the user's decision.
        let mut command = apt_get()?;
        command.args(["install", "--no-install-recommends", "--no-remove"]);
        self.without_services(name, &names, command.args(&names))
    }

    /// Runs an installation so that no service of these packages starts, now or later.
    fn without_services(&self, name: &str, packages: &[&str], install: &mut Command) -> Result<()> {
        let daemons = DAEMONS.iter().filter(|(name, _)| packages.contains(name));
        let daemons: Vec<_> = daemons.map(|(_, service)| *service).collect();
        if daemons.is_empty() {
            return self.run(name, install);
        }
        let shell = |script: &str| -> Result<Command> {
            let mut command = process::as_root("sh", "keep services from starting")?;
            command.args(["-c", script]);
            Ok(command)
        };
        let forbid = !Path::new(POLICY).exists();
        if forbid {
            let script = format!(r"printf '#!/bin/sh\nexit 101\n' >{POLICY} && chmod 755 {POLICY}");
            self.run(name, &mut shell(&script)?)?;
        }
        let installed = self.run(name, install);
        if forbid {
            self.run(name, &mut shell(&format!("rm {POLICY}"))?)?;
        }
        installed?;
        if Path::new("/run/systemd/system").exists() {
            let mut systemctl = process::as_root("systemctl", "keep services from starting")?;
            self.run(name, systemctl.arg("disable").args(daemons))?;
        }
        Ok(())
    }

    fn toolchain(&mut self) -> Result<Toolchain> {
        self.step += 1;
        let compiler = self.compiler()?;
        self.say(&format!("BPF compiler: ok ({compiler})"));
        self.step += 1;
        let linker = self.linker(&compiler)?;
        self.say(&format!("bpf-linker: ok ({})", linker.linker.display()));
        Ok(linker)
    }

    fn compiler(&mut self) -> Result<Compiler> {
        if let Some(compiler) = toolchain::find_compiler() {
            return Ok(compiler);
        }
        if !matches!(self.apt, Apt::Absent) {
            self.install("BPF compiler", COMPILER_PACKAGES)?;
            return toolchain::find_compiler().context(
                "Debian's rustc-web is too old for the XDP program; bookworm-security has one that is not",
            );
        }
        if process::run(toolchain::nightly("rustc").arg("--version")).is_ok() {
            let mut rustup = Command::new("rustup");
            rustup.args(["component", "add", "rust-src", "--toolchain", "nightly"]);
            self.run("BPF compiler", &mut rustup)?;
            if let Some(compiler) = toolchain::find_compiler() {
                return Ok(compiler);
            }
        }
        bail!(
            "no Rust compiler for BPF: this is not Debian 12, so run \
             `rustup toolchain install nightly --component rust-src` first"
        );
    }

    fn linker(&mut self, compiler: &Compiler) -> Result<Toolchain> {
        let root = workspace::root();
        let scratch = workspace::target_dir()?.join("setup");
        let fits = |linker: PathBuf| {
            let compiler = compiler.clone();
            let toolchain = Toolchain { compiler, linker };
            toolchain.links(&scratch).then_some(toolchain)
        };
        let found = toolchain::find_linker(root);
        let other = found.is_some();
        if let Some(toolchain) = found.and_then(fits) {
            return Ok(toolchain);
        }
        let (prefix, llvm) = self.llvm(compiler)?;
        // A bpf-linker of the user's that does not fit stays where it is.
        let place = if other {
            root.join("target/tools")
        } else {
            toolchain::cargo_home().context("neither CARGO_HOME nor HOME is set")?
        };
        let mut cargo = toolchain::bare("cargo");
        cargo
            .env("LLVM_PREFIX", prefix)
            .args(["install", "bpf-linker", "--version", LINKER_VERSION])
            .args(["--locked", "--force", "--no-default-features", "--features"])
            .arg(format!("llvm-{llvm}"))
            .arg("--root")
            .arg(place);
        self.run("bpf-linker", &mut cargo)?;
        toolchain::find_linker(root)
            .and_then(fits)
            .context("the bpf-linker just installed does not link what the BPF compiler makes")
    }

    /// The prefix and the release of an LLVM to build `bpf-linker` on.
    fn llvm(&mut self, compiler: &Compiler) -> Result<(PathBuf, u32)> {
        if !matches!(self.apt, Apt::Absent) && *compiler == Compiler::System {
            self.install("bpf-linker", LINKER_PACKAGES)?;
            return Ok((PathBuf::from("/usr/lib/llvm-22"), 22));
        }
        let oldest = toolchain::llvm_of(compiler).unwrap_or(0);
        let candidates = LINKER_LLVMS.iter().filter(|&&llvm| llvm >= oldest);
        for &llvm in candidates {
            let at = PathBuf::from(format!("/usr/lib/llvm-{llvm}/bin/llvm-config"));
            for config in [
                Some(at),
                which(&format!("llvm-config-{llvm}")),
                which("llvm-config"),
            ] {
                let Some(config) = config else { continue };
                if let Some(prefix) = llvm_prefix(&config, llvm) {
                    return Ok((prefix, llvm));
                }
            }
        }
        bail!(
            "no LLVM to build bpf-linker on: install the development files of LLVM {oldest} or newer \
             (llvm-config must be in PATH)"
        );
    }

    fn tools(&mut self, name: &str, tools: &[Tool]) -> Result<()> {
        self.step += 1;
        let apt = !matches!(self.apt, Apt::Absent);
        // Debian has two netcats, and tells them apart by the longer name; elsewhere `nc` will do.
        let program = |tool: &Tool| {
            if apt {
                tool.0
            } else {
                tool.0.split('.').next().unwrap_or(tool.0)
            }
        };
        let missing = |tools: &[Tool]| -> Vec<Tool> {
            let absent = tools.iter().filter(|tool| which(program(tool)).is_none());
            // A file is in its place only on Debian; elsewhere it may be part of the program.
            absent
                .filter(|tool| apt || !tool.0.starts_with('/'))
                .copied()
                .collect()
        };
        let absent = missing(tools);
        if !absent.is_empty() {
            let names: Vec<_> = absent.iter().map(program).collect();
            ensure!(apt, "{name}: install {} first", names.join(", "));
            let packages: Vec<_> = absent.iter().map(|tool| tool.1).collect();
            self.install(name, &packages)?;
            let still: Vec<_> = missing(tools).iter().map(program).collect();
            ensure!(still.is_empty(), "{name}: still no {}", still.join(", "));
        }
        self.say(&format!("{name}: ok"));
        Ok(())
    }

    /// Prometheus and promtool. Debian's package starts a service when it is installed, so
    /// it is only unpacked.
    fn prometheus(&mut self) -> Result<()> {
        const PROGRAMS: [&str; 2] = ["prometheus", "promtool"];
        self.step += 1;
        let absent = || PROGRAMS.iter().any(|name| process::tool(name).is_err());
        if absent() {
            ensure!(
                !matches!(self.apt, Apt::Absent),
                "prometheus: install prometheus and promtool first"
            );
            let place = process::tools_dir()?;
            fs::create_dir_all(&place)?;
            for command in [
                "apt-get download prometheus",
                "dpkg -x prometheus_*.deb .",
                "rm prometheus_*.deb",
            ] {
                let mut shell = Command::new("sh");
                shell.current_dir(&place).args(["-c", command]);
                self.run("prometheus", &mut shell)?;
            }
            ensure!(!absent(), "prometheus: not in Debian's package");
        }
        self.say("prometheus: ok");
        Ok(())
    }

    fn lints(&mut self) -> Result<()> {
        self.step += 1;
        let absent = || {
            let pairs = [("fmt", "rustfmt"), ("clippy", "clippy")];
            let gone = pairs.into_iter().filter(|(command, _)| {
                process::run(workspace::cargo().args([*command, "--version"])).is_err()
            });
            gone.map(|(_, component)| component).collect::<Vec<_>>()
        };
        let components = absent();
        if !components.is_empty() {
            let names = components.join(" and ");
            ensure!(
                which("rustup").is_some(),
                "lint tools: install {names} for the cargo that runs this"
            );
            let mut rustup = Command::new("rustup");
            rustup.args(["component", "add"]).args(&components);
            self.run("lint tools", &mut rustup)?;
            ensure!(absent().is_empty(), "lint tools: still no {names}");
        }
        self.say("lint tools: ok");
        Ok(())
    }
}

fn is_installed(package: &str) -> bool {
    let mut query = Command::new("dpkg-query");
    query.args(["--show", "--showformat=${db:Status-Status}", package]);
    process::run(&mut query).is_ok_and(|status| status == "installed")
}

/// The prefix of an LLVM installation if it is of this release.
fn llvm_prefix(config: &Path, release: u32) -> Option<PathBuf> {
    let ask = |flag| process::run(Command::new(config).arg(flag)).ok();
    let version = ask("--version")?;
    let major = version.split('.').next()?.trim().parse::<u32>().ok()?;
    (major == release).then_some(PathBuf::from(ask("--prefix")?.trim()))
}
