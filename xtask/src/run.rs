//! `cargo xtask run`: the server in the lab, or on a real interface.

use std::{
    env,
    ffi::OsString,
    io::{self, BufReader, Write as _},
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::Path,
    process::{Command, ExitCode, Stdio},
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering},
    },
    thread,
};

use anyhow::{Context as _, Result};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};
use xtask::{
    lab::{Lab, SERVER_INTERFACE},
    process,
};

use crate::{
    build,
    setup::{Scope, setup},
};

/// What the server in the lab listens on.
const LISTEN: &[&str] = &["*:80=http", "*:7=echo", "*:9=discard", "*:19=chargen"];

/// Three things to try.
fn hints() -> String {
    // This process is root in any case; the user may be another.
    let sudo = env::var_os("SUDO_USER").map_or("", |_| "sudo ");
    format!(
        "
The lab is up. Three things to try from another shell:

  curl http://10.77.0.2/             and over IPv6: curl -g 'http://[fd77::2]/'
  echo hello | nc -N 10.77.0.2 7     an echo, with a half-close
  {sudo}timeout 5 hping3 --flood -S -p 80 --ttl 1 10.77.0.2
                                     a SYN flood for five seconds; curl goes on working

Connections show up below. Ctrl-C ends the server and removes the lab.

"
    )
}

/// Runs the server with these arguments, or in the lab if there are none.
pub(crate) fn run(args: &[OsString]) -> Result<ExitCode> {
    if !args.is_empty() {
        setup(Scope::Build)?;
        let binary = build::server()?;
        let mut server = process::as_root(&binary, "attach an XDP program")?;
        say_why_sudo("attaching an XDP program");
        // In place of this process: its signals and its exit code are the server's own.
        let error = server.arg("run").args(args).exec();
        return Err(error).with_context(|| format!("cannot run {}", binary.display()));
    }
    setup(Scope::Run)?;
    let binary = build::server()?;
    if process::is_root() {
        return serve_lab(&binary);
    }
    let this = env::current_exe()?;
    let mut sudo = process::as_root(this, "make a network namespace")?;
    say_why_sudo("making the lab and attaching an XDP program");
    Err(sudo.arg("serve-lab").arg(&binary).exec()).context("cannot run sudo")
}

fn say_why_sudo(what: &str) {
    if !process::is_root() {
        eprintln!("{what} needs root: going on through sudo");
    }
}

/// The lab and the server in it, until the server ends; as root.
pub(crate) fn serve_lab(binary: &Path) -> Result<ExitCode> {
    // From here on there is something to clean up, so no signal may just end this process.
    let server = Arc::new(Server::default());
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("cannot catch signals")?;
    let stopper = Arc::clone(&server);
    thread::spawn(move || signals.forever().for_each(|_| stopper.stop()));

    let lab = Lab::up().context("cannot bring the lab up")?;
    let mut command = lab.namespace().command(&binary.to_string_lossy());
    command.args(["run", "--iface", SERVER_INTERFACE, "--trace"]);
    for listen in LISTEN {
        command.args(["--listen", listen]);
    }
    let status = server.run(&mut command)?;
    drop(lab);
    Ok(match (status.code(), status.signal()) {
        (Some(code), _) => ExitCode::from(code as u8),
        (None, signal) => {
            eprintln!(
                "error: the server was ended by signal {}",
                signal.unwrap_or(0)
            );
            ExitCode::FAILURE
        }
    })
}

/// The server process, as the thread that takes signals sees it.
#[derive(Default)]
struct Server {
    /// The process id; 0 before it starts, -1 if it must not start any more.
    pid: AtomicI32,
    /// How often it was asked to stop.
    asked: AtomicI32,
}

impl Server {
    /// Asks the server to stop: kindly, and the third time not.
    fn stop(&self) {
        let pid = self
            .pid
            .compare_exchange(0, -1, Ordering::SeqCst, Ordering::SeqCst);
        if let Err(pid @ 1..) = pid {
            let signal = match self.asked.fetch_add(1, Ordering::SeqCst) {
                0 | 1 => Signal::SIGINT,
                _ => Signal::SIGKILL,
            };
            // It may have ended by itself.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    /// Runs the server and shows what it prints; once it is ready, also what to try.
    fn run(&self, command: &mut Command) -> Result<std::process::ExitStatus> {
        // In a process group of its own, so that Ctrl-C reaches it once, by way of `stop`.
        command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        // SAFETY: between fork and exec only `prctl` is called, which is async-signal-safe.
        unsafe {
            command.pre_exec(|| Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGINT)?));
        }
        let mut child = command.spawn().context("cannot start the server")?;
        let early =
            self.pid
                .compare_exchange(0, child.id() as i32, Ordering::SeqCst, Ordering::SeqCst);
        if early.is_err() {
            kill(Pid::from_raw(child.id() as i32), Signal::SIGINT)?;
        }
        if let Some(output) = child.stdout.take() {
            self.show(BufReader::new(output));
        }
        let status = child.wait()?;
        self.pid.store(-1, Ordering::SeqCst);
        Ok(status)
    }

    /// Passes the output on; when nobody reads it any more, asks the server to stop.
    fn show(&self, mut output: impl io::BufRead) {
        let mut line = Vec::new();
        let mut shown = true;
        while output.read_until(b'\n', &mut line).is_ok_and(|len| len > 0) {
            let mut stdout = io::stdout().lock();
            let mut written = stdout.write_all(&line);
            if line.starts_with(b"ready iface=") {
                written = written.and_then(|()| stdout.write_all(hints().as_bytes()));
            }
            if shown && written.and_then(|()| stdout.flush()).is_err() {
                shown = false;
                self.stop();
            }
            line.clear();
        }
    }
}
