//! Running other programs: as root, quietly with a log, with one-line errors.

use std::{
    env,
    ffi::OsStr,
    fs,
    io::{self, BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::workspace;

/// How often a long step says that it is still at work.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// Where tools are unpacked that the system does not have.
pub fn tools_dir() -> Result<PathBuf> {
    Ok(workspace::target_dir()?.join("tools"))
}

/// A tool of the system, or one that `cargo xtask setup` has unpacked.
pub fn tool(program: &str) -> Result<PathBuf> {
    if let Some(path) = which(program) {
        return Ok(path);
    }
    let path = tools_dir()?.join("usr/bin").join(program);
    ensure!(path.exists(), "no {program}: `cargo xtask setup` gets it");
    Ok(path)
}

/// Whether this process is root.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Finds `program` in `PATH` and in the directories of system tools, which a user's `PATH` may lack.
pub fn which(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

/// A command that runs as root: as it is for root, through sudo for others.
///
/// `why` completes the error "not root and no sudo: cannot ...".
pub fn as_root(program: impl AsRef<OsStr>, why: &str) -> Result<Command> {
    if is_root() {
        return Ok(Command::new(program));
    }
    ensure!(
        which("sudo").is_some(),
        "not root and no sudo: cannot {why}"
    );
    let mut sudo = Command::new("sudo");
    sudo.arg("--").arg(program);
    Ok(sudo)
}

/// The command as one would type it.
pub fn line(command: &Command) -> String {
    let envs = command
        .get_envs()
        .filter_map(|(name, value)| Some(format!("{}={} ", name.display(), value?.display())));
    let words = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned());
    envs.collect::<String>() + &words.collect::<Vec<_>>().join(" ")
}

/// Runs a command; the error is its last line on stderr.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", command.get_program().display()))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        let last = stderr.lines().last().unwrap_or("no message").trim();
        bail!("`{}`: {last} ({})", line(command), output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command with the terminal as its own; an error if it fails.
pub fn run_shown(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot run {}", command.get_program().display()))?;
    ensure!(status.success(), "`{}`: {status}", line(command));
    Ok(())
}

/// Runs a long command with its output in `log`. Now and then `progress` is told the time so far and
/// the last line of output. If the command fails, the end of its output is shown.
pub fn run_logged(
    command: &mut Command,
    log: &Path,
    mut progress: impl FnMut(Duration, &str),
) -> Result<()> {
    if let Some(dir) = log.parent() {
        fs::create_dir_all(dir)?;
    }
    let mut file = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("cannot write {}", log.display()))?;
    writeln!(file, "$ {}", line(command))?;

    let (reader, writer) = io::pipe()?;
    let mut child = command
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .spawn()
        .with_context(|| format!("cannot run {}", command.get_program().display()))?;
    let shown = line(command);
    // The command holds the pipe's write end, and the reader waits until every copy is closed.
    command.stdout(Stdio::null()).stderr(Stdio::null());

    let (lines, received) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(reader).split(b'\n').map_while(Result::ok) {
            let _ = lines.send(String::from_utf8_lossy(&line).into_owned());
        }
    });
    let start = Instant::now();
    let mut beat = start + HEARTBEAT;
    let mut tail: Vec<String> = Vec::new();
    loop {
        match received.recv_timeout(beat.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                writeln!(file, "{line}")?;
                if !line.trim().is_empty() {
                    tail.push(line);
                    tail.drain(..tail.len().saturating_sub(15));
                }
            }
            Err(RecvTimeoutError::Timeout) => {
                progress(start.elapsed(), tail.last().map_or("", |line| line.trim()));
                beat += HEARTBEAT;
            }
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    let status: ExitStatus = child.wait()?;
    if !status.success() {
        for line in tail {
            eprintln!("    {line}");
        }
        bail!(
            "`{shown}`: {status}; the whole output is in {}",
            log.display()
        );
    }
    Ok(())
}
