//! Servers and clients that people use, with the shield between them, in floods.

use crate::lab::{Lab, V4, V6, wait_for};
use crate::programs::wrk;
use crate::shield::{Flood, Process, connections, counted, curl, wait_for_listeners};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A directory of the test's own; removed when dropped.
struct Directory(PathBuf);

impl Directory {
    fn new(lab: &Lab) -> Self {
        let path = Path::new("/tmp").join(lab.server.name());
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    fn write(&self, name: &str, text: &str) -> String {
        std::fs::write(self.0.join(name), text).unwrap();
        self.path(name)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn nginx(lab: &Lab, directory: &Directory) -> Process {
    let root = directory.path("");
    directory.write("big", &"tcp-xdp ".repeat(1 << 17));
    let configuration = directory.write(
        "nginx.conf",
        &format!(
            "daemon off; pid {root}/pid; error_log {root}/error; worker_processes 2;
             events {{ worker_connections 512; }}
             http {{ access_log off; client_body_temp_path {root}/b; proxy_temp_path {root}/p;
                     fastcgi_temp_path {root}/f; uwsgi_temp_path {root}/u; scgi_temp_path {root}/s;
                     server {{ listen 80 reuseport backlog=4096; listen [::]:80 reuseport backlog=4096;
                               location / {{ root {root}; }} }} }}"
        ),
    );
    // Its workers run as another user.
    std::fs::set_permissions(&directory.0, std::fs::Permissions::from_mode(0o755)).unwrap();
    let process = Process::start(lab, "nginx", &["-c", &configuration]);
    // Of each worker and address family.
    wait_for_listeners(lab, 80, 4);
    process
}

/// A server that speaks first.
fn sshd(lab: &Lab, directory: &Directory) -> Process {
    for key in ["host", "user"] {
        let status = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-f", &directory.path(key)])
            .status();
        assert!(status.unwrap().success());
    }
    std::fs::create_dir_all("/run/sshd").unwrap();
    let configuration = directory.write(
        "sshd_config",
        &format!(
            "HostKey {}\nAuthorizedKeysFile {}\nPidFile none\nStrictModes no\nUsePAM no\n\
             PermitRootLogin yes\nMaxStartups 100\n",
            directory.path("host"),
            directory.path("user.pub"),
        ),
    );
    let process = Process::start(
        lab,
        "/usr/sbin/sshd",
        &["-D", "-p", "2222", "-f", &configuration],
    );
    wait_for_listeners(lab, 2222, 2);
    process
}

fn ssh(lab: &Lab, directory: &Directory, host: &str) -> String {
    let key = directory.path("user");
    let options = [
        "-F/dev/null",
        "-oBatchMode=yes",
        "-oStrictHostKeyChecking=no",
        "-oUserKnownHostsFile=/dev/null",
        "-oLogLevel=ERROR",
        "-oConnectTimeout=90",
        "-p2222",
    ];
    let user = format!("root@{host}");
    let args = [&options[..], &["-i", &key, &user, "echo over ssh"]].concat();
    lab.client.run("ssh", &args).unwrap()
}

/// Every client of each server, over both families; none may see an error.
fn use_all(lab: &Lab, directory: &Directory) {
    for host in [V4.to_owned(), format!("[{V6}]")] {
        for _ in 0..20 {
            assert_eq!(curl(lab, &format!("http://{host}/big")).len(), 1 << 20);
        }
        let url = format!("http://{host}/sshd_config");
        let args = ["-t1", "-c16", "-d1s", "-H", "Connection: close", &url];
        let run = wrk(&lab.client, &args);
        assert_eq!(run.errors, Vec::<String>::new());
        let host = host.trim_matches(['[', ']']);
        assert_eq!(ssh(lab, directory, host), "over ssh\n");
        assert!(curl(lab, &format!("http://{}:8000/Cargo.toml", bracketed(host))).contains("tcp"));
    }
}

/// Connects, and looks at what the server's kernel has made of it.
fn options_are_in_force(lab: &Lab, to: &str) {
    let mut open = lab.connect(to);
    // Its ACK may be lost in the flood; data is sent again.
    open.write_all(b"G").unwrap();
    let port = format!(":{}", open.local_addr().unwrap().port());
    let mut info = String::new();
    wait_for("the accepted socket", || {
        let all = connections(lab, 80);
        let ours = all.lines().find(|line| line.contains(&port));
        ours.unwrap_or_default().clone_into(&mut info);
        ours.is_some()
    });
    assert!(
        info.contains(" ts sack ") && info.contains("wscale:"),
        "{info}"
    );
}

fn bracketed(host: &str) -> String {
    if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    }
}

/// Starts a flood to a port.
type StartFlood = fn(&Lab, u16) -> Flood;

#[test]
#[ignore = "needs root"]
fn nginx_sshd_and_python_in_floods_of_syns_and_acks() {
    let lab = Lab::new();
    // wrk opens connections faster than their ports are free again.
    lab.client.sysctl("ipv4/tcp_tw_reuse", "1").unwrap();
    lab.server.sysctl("core/somaxconn", "4096").unwrap();
    let directory = Directory::new(&lab);
    let (_nginx, _sshd) = (nginx(&lab, &directory), sshd(&lab, &directory));
    let _python = Process::python(&lab, 8000);
    let server = lab.run(&[
        "--listen",
        "*:80=kernel",
        "--listen",
        "*:2222=kernel",
        "--listen",
        "*:8000=kernel",
        "--tune",
    ]);
    use_all(&lab, &directory);
    let floods: [(StartFlood, u16, &str); 4] = [
        (Flood::syns, 80, "syn_ack_kernel"),
        (Flood::syns6, 2222, "syn_ack_kernel"),
        (Flood::acks, 80, "rst_bad_cookie"),
        (Flood::acks6, 80, "rst_bad_cookie"),
    ];
    for (start, port, counter) in floods {
        let before = server.stats().xdp[counter];
        let _flood = start(&lab, port);
        counted(&server, counter, before + 10_000);
        use_all(&lab, &directory);
        for host in [V4, V6] {
            options_are_in_force(&lab, &format!("{}:80", bracketed(host)));
        }
    }
    let xdp = server.stats().xdp;
    assert_eq!(
        xdp["pass_kernel_syn"] + xdp["drop_listener_full"],
        0,
        "{xdp:?}"
    );
    assert_eq!(xdp["rst_no_listener"], 0, "{xdp:?}");
}
