//! Our server, as a bench starts it.

use std::{
    io::{BufRead as _, BufReader},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use xtask::netns::Namespace;

/// How long it may take to start or to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// `tcp-user run`.
pub(crate) struct Server(Child);

impl Server {
    /// Starts it in a namespace and waits until it is ready.
    pub(crate) fn start(
        namespace: &Namespace,
        binary: &Path,
        interface: &str,
        args: &[&str],
    ) -> Result<Self> {
        let all = [&["run", "--iface", interface], args].concat();
        Self::spawn(namespace, binary, &all)
    }

    /// Starts another program that says when it is ready.
    pub(crate) fn spawn(namespace: &Namespace, binary: &Path, args: &[&str]) -> Result<Self> {
        let mut command = namespace.command(&binary.to_string_lossy());
        command.args(args);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        // In a group of its own, so that Ctrl-C reaches it by way of this process.
        command.process_group(0);
        // SAFETY: between fork and exec only `prctl` is called, which is async-signal-safe.
        unsafe {
            command.pre_exec(|| Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?));
        }
        let mut child = command.spawn().context("cannot start the server")?;
        let output = child.stdout.take();
        let server = Self(child);
        let mut output = BufReader::new(output.context("the server has no output")?);
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            let mut line = String::new();
            let _ = output.read_line(&mut line);
            let _ = sender.send(line);
            // Reads on, so that the server can write.
            let _ = std::io::copy(&mut output, &mut std::io::sink());
        });
        let line = receiver.recv_timeout(PATIENCE).unwrap_or_default();
        if !line.starts_with("ready ") {
            bail!("the server does not start: {}", line.trim());
        }
        Ok(server)
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Connections are over; what is left of them may go.
        let pid = Pid::from_raw(self.0.id() as i32);
        for signal in [Signal::SIGINT, Signal::SIGINT, Signal::SIGKILL] {
            let _ = kill(pid, signal);
            let start = Instant::now();
            while start.elapsed() < PATIENCE / 5 {
                if !matches!(self.0.try_wait(), Ok(None)) {
                    return;
                }
                thread::sleep(Duration::from_millis(10));
            }
        }
        let _ = self.0.wait();
    }
}
