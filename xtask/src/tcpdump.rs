//! A tcpdump inside a namespace.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, ChildStderr, ChildStdout, Stdio},
};

use anyhow::{Context as _, Result, ensure};

use crate::netns::Namespace;

/// A tcpdump that sees frames. Dropping it ends it.
#[derive(Debug)]
pub struct Tcpdump {
    child: Child,
    /// It may have more to say, and would end if nobody listened.
    stderr: BufReader<ChildStderr>,
}

impl Tcpdump {
    /// Starts it on an interface, without names for addresses and without waiting for more frames
    /// before it tells of one. `args` is what it writes, where to, and which frames; what it writes
    /// to stdout is in [`Self::stdout`]. Returns once it sees frames; it is an error if it ends
    /// before that.
    pub fn start(namespace: &Namespace, interface: &str, args: &[&str]) -> Result<Self> {
        // Files are root's, as the directories that they are in.
        let mut child = namespace
            .command("tcpdump")
            .args(["-i", interface, "-nn", "--immediate-mode", "-Z", "root"])
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot run tcpdump")?;
        let stderr = child.stderr.take().context("its stderr is a pipe")?;
        let mut tcpdump = Self {
            child,
            stderr: BufReader::new(stderr),
        };
        let (mut said, mut from) = (String::new(), 0);
        while !said[from..].contains("listening on") {
            from = said.len();
            let octets = tcpdump.stderr.read_line(&mut said)?;
            ensure!(octets > 0, "tcpdump on {interface} has ended: {said}");
        }
        Ok(tcpdump)
    }

    /// What it writes to stdout; once.
    pub fn stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }
}

impl Drop for Tcpdump {
    fn drop(&mut self) {
        // It may have ended by itself meanwhile.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
