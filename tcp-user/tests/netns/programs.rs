//! Other people's programs, as backends.

use crate::lab::PATIENCE;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use xtask::netns::Namespace;
use xtask::process::which;

/// A directory that goes when the test ends.
pub struct Directory(PathBuf);

impl Directory {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("tcp-xdp-{}-{count}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file and returns its path.
    pub fn write(&self, name: &str, content: &[u8]) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, content).unwrap();
        path.display().to_string()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A program in a namespace; killed when dropped. What it started ends with the namespace.
pub struct Program {
    child: Child,
    /// Its configuration and its files.
    _directory: Directory,
}

impl Program {
    /// Starts it and waits until it accepts at `addr`.
    fn start(
        namespace: &Namespace,
        addr: &str,
        directory: Directory,
        command: &mut Command,
    ) -> Self {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut program = Self {
            child,
            _directory: directory,
        };
        let addr: SocketAddr = addr.parse().unwrap();
        let start = Instant::now();
        while namespace
            .enter(|| TcpStream::connect(addr))
            .unwrap()
            .is_err()
        {
            let ended = program.child.try_wait().unwrap();
            assert!(
                ended.is_none() && start.elapsed() < PATIENCE,
                "{command:?}: {ended:?}"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        program
    }
}

impl Program {
    /// Kills it and what it started, so that the kernel closes its connections.
    pub fn kill(self) {
        let pid = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        let kill = |pid: i32| {
            let _ = nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(pid),
                nix::sys::signal::Signal::SIGKILL,
            );
        };
        kill(pid as i32);
        for child in children.unwrap_or_default().split_whitespace() {
            kill(child.parse().unwrap());
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn program(namespace: &Namespace, name: &str) -> Command {
    let path = which(name).unwrap_or_else(|| panic!("{name} is not installed: cargo xtask setup"));
    namespace.command(&path.display().to_string())
}

/// nginx with these `server` blocks, the first of which listens at `addr`. Files are served
/// from the directory.
pub fn nginx(namespace: &Namespace, addr: &str, servers: &str) -> Program {
    nginx_in(namespace, addr, servers, Directory::new())
}

/// The same with files that are there already.
pub fn nginx_in(namespace: &Namespace, addr: &str, servers: &str, directory: Directory) -> Program {
    let dir = directory.path().display().to_string();
    let config = format!(
        "daemon off; worker_processes 1; user root; pid {dir}/pid; error_log {dir}/error.log;\n\
         events {{ worker_connections 4096; }}\n\
         http {{\n\
           access_log off; default_type text/plain; root {dir};\n\
           client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy;\n\
           fastcgi_temp_path {dir}/fastcgi; uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;\n\
           keepalive_requests 1000000;\n\
           {servers}\n\
         }}\n"
    );
    let path = directory.write("nginx.conf", config.as_bytes());
    let mut command = program(namespace, "nginx");
    command.args(["-e", &format!("{dir}/error.log"), "-p", &dir, "-c", &path]);
    Program::start(namespace, addr, directory, &mut command)
}

/// haproxy with these sections, one of which listens at `addr`.
pub fn haproxy(namespace: &Namespace, addr: &str, sections: &str) -> Program {
    let directory = Directory::new();
    let config = format!(
        "global\n  maxconn 100\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client 1m\n  \
         timeout server 1m\n{sections}\n"
    );
    let path = directory.write("haproxy.cfg", config.as_bytes());
    let mut command = program(namespace, "haproxy");
    command.args(["-q", "-db", "-f", &path]);
    Program::start(namespace, addr, directory, &mut command)
}

/// Redis, nothing kept on disk.
pub fn redis(namespace: &Namespace, port: u16) -> Program {
    let directory = Directory::new();
    // Debian's `redis-tools` has the server, too: it is what it is called.
    let server = which("redis-server").or_else(|| which("redis-check-rdb"));
    let link = directory.path().join("redis-server");
    std::os::unix::fs::symlink(server.expect("redis is not installed"), &link).unwrap();
    let mut command = namespace.command(&link.display().to_string());
    let dir = directory.path().display().to_string();
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1"]);
    command.args(["--save", "", "--dir", &dir, "--loglevel", "warning"]);
    Program::start(
        namespace,
        &format!("127.0.0.1:{port}"),
        directory,
        &mut command,
    )
}

/// What `wrk` says about a run.
#[derive(Debug, PartialEq, Eq)]
pub struct Wrk {
    pub requests: u64,
    /// Socket errors and answers other than 2xx and 3xx, as it prints them.
    pub errors: Vec<String>,
}

/// An answer that takes longer than two seconds is no error here, as it is by default.
pub fn wrk(namespace: &Namespace, args: &[&str]) -> Wrk {
    let all = [&["--timeout", "90s"], args].concat();
    let text = namespace.run("wrk", &all).unwrap();
    let requests = text
        .lines()
        .find_map(|line| line.trim().split_once(" requests in ")?.0.parse().ok())
        .unwrap_or_else(|| panic!("no requests: {text}"));
    let errors = text
        .lines()
        .filter(|line| line.contains("Socket errors") || line.contains("Non-2xx"))
        .map(ToOwned::to_owned)
        .collect();
    Wrk { requests, errors }
}
