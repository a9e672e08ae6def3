//! nginx and haproxy.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use xtask::process::which;

use super::bed::{BACKEND, Bed, PROXY};

/// How long one may take to start or to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// A running one; ended and its files removed when dropped.
pub(super) struct Daemon {
    child: Child,
    directory: PathBuf,
}

impl Daemon {
    /// nginx with a page of 1 kB and a file of 1 MB.
    pub(super) fn backend(bed: &Bed) -> Result<Self> {
        let directory = directory("backend")?;
        fs::write(directory.join("index.html"), [b'x'; 1000])?;
        fs::write(directory.join("bulk"), vec![b'x'; 1_000_000])?;
        let dir = directory.display();
        let servers = format!(
            "http {{ access_log off; root {dir}; sendfile on; tcp_nopush on;\n\
             keepalive_requests 1000000000; open_file_cache max=10;\n\
             client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy;\n\
             fastcgi_temp_path {dir}/fastcgi; uwsgi_temp_path {dir}/uwsgi;\n\
             scgi_temp_path {dir}/scgi;\n\
             server {{ listen {BACKEND} backlog=4096; }} }}"
        );
        let backend = Self::nginx(bed, directory, "", &servers, BACKEND)?;
        bed.pin_backend(backend.pid())?;
        Ok(backend)
    }

    pub(super) fn nginx_stream(bed: &Bed) -> Result<Self> {
        // Where the distribution builds it apart.
        let module = PathBuf::from("/usr/lib/nginx/modules/ngx_stream_module.so");
        let load = if module.exists() {
            format!("load_module {};", module.display())
        } else {
            String::new()
        };
        let servers = format!(
            "stream {{ server {{ listen {PROXY} backlog=4096; proxy_pass {BACKEND}; \
             tcp_nodelay on; }} }}"
        );
        Self::nginx(bed, directory("stream")?, &load, &servers, PROXY)
    }

    fn nginx(bed: &Bed, directory: PathBuf, load: &str, servers: &str, addr: &str) -> Result<Self> {
        let dir = directory.display();
        let config = format!(
            "{load} daemon off; worker_processes 1; user root; pid {dir}/pid;\n\
             worker_rlimit_nofile 65536; error_log {dir}/error.log;\n\
             events {{ worker_connections 16384; }}\n{servers}\n"
        );
        let path = directory.join("nginx.conf");
        fs::write(&path, config)?;
        let nginx = which("nginx").context("no nginx")?;
        let mut command = bed.proxy.command(&nginx.display().to_string());
        command.arg("-e").arg(directory.join("error.log"));
        command.arg("-p").arg(&directory).arg("-c").arg(&path);
        Self::start(bed, command, directory, addr)
    }

    pub(super) fn haproxy(bed: &Bed) -> Result<Self> {
        let directory = directory("haproxy")?;
        let path = directory.join("haproxy.cfg");
        let config = format!(
            "global\n  nbthread 1\n  maxconn 4000\n\
             defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1m\n  timeout server 1m\n\
             listen proxy\n  bind {PROXY} backlog 4096\n  server backend {BACKEND}\n"
        );
        fs::write(&path, config)?;
        let haproxy = which("haproxy").context("no haproxy")?;
        let mut command = bed.proxy.command(&haproxy.display().to_string());
        command.args(["-q", "-db", "-f"]).arg(&path);
        Self::start(bed, command, directory, PROXY)
    }

    fn start(bed: &Bed, mut command: Command, directory: PathBuf, addr: &str) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null());
        // In a group of its own, so that Ctrl-C reaches it by way of this process.
        command.process_group(0);
        let mut daemon = Self {
            child: command.spawn()?,
            directory,
        };
        let addr: SocketAddr = addr.parse()?;
        let start = Instant::now();
        while bed.proxy.enter(|| TcpStream::connect(addr))?.is_err() {
            let ended = daemon.child.try_wait()?;
            ensure!(
                ended.is_none() && start.elapsed() < PATIENCE,
                "{addr} does not start ({ended:?})"
            );
            thread::sleep(Duration::from_millis(20));
        }
        Ok(daemon)
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let pid = Pid::from_raw(self.child.id() as i32);
        let _ = kill(pid, Signal::SIGTERM);
        let start = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) {
            if start.elapsed() > PATIENCE / 5 {
                let _ = self.child.kill();
                let _ = self.child.wait();
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn directory(name: &str) -> Result<PathBuf> {
    let path = std::env::temp_dir().join(format!("tcp-xdp-bench-{}-{name}", std::process::id()));
    fs::create_dir_all(&path)?;
    Ok(path)
}
