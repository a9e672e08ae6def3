//! `--config`, `tcp-user config` and reloads.

use crate::lab::{Lab, PATIENCE, SHORT, V4, read_all, wait_for};
use nix::sys::signal::Signal;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::Command;

/// A file that goes when the test ends.
struct File(PathBuf);

impl File {
    fn new(lab: &Lab, text: &str) -> Self {
        let file = Self(std::env::temp_dir().join(format!("{}.toml", lab.server.name())));
        file.write(text);
        file
    }

    fn write(&self, text: &str) {
        std::fs::write(&self.0, text).unwrap();
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn tcp_user(args: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_tcp-user"))
        .args(args)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[test]
#[ignore = "needs root"]
fn the_default_file_serves_with_listens_of_its_own() {
    let (code, text, _) = tcp_user(&["config", "default"]);
    assert_eq!(code, Some(0));
    let lab = Lab::new();
    let file = File::new(
        &lab,
        &text.replace("#listen = []", "listen = [\"*:7=echo\"]"),
    );
    let (code, out, err) = tcp_user(&["config", "check", file.path()]);
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("ok, 1 keys, 1 listens"), "{out}");
    let server = lab.run(&["--config", file.path(), "--listen", "*:80=http"]);
    let listens = server.client("listen", &["list"]);
    assert!(
        listens.contains("*:7") && listens.contains("*:80"),
        "{listens}"
    );
    let mut stream = lab.connect(&format!("{V4}:7"));
    stream.write_all(b"ping").unwrap();
    stream.read_exact(&mut [0; 4]).unwrap();

    file.write("[tcp]\nmsl = \"1s\"\nmls = \"2s\"\n");
    let (code, out, err) = tcp_user(&["config", "check", file.path()]);
    assert_eq!((code, out.as_str()), (Some(2), ""));
    let names = format!("{}: line 3: tcp.mls: ", file.path());
    assert!(err.contains(&names) && err.lines().count() == 1, "{err}");
}

#[test]
#[ignore = "needs root"]
fn a_reload_changes_what_can_change() {
    let lab = Lab::new();
    let head = "listen = [\"*:7=echo\", \"*:80=http\"]\n";
    let file = File::new(&lab, &format!("{head}[tcp]\nmsl = \"30s\"\n"));
    let server = lab.run(&["--config", file.path()]);
    let mut open = lab.connect(&format!("{V4}:7"));
    open.write_all(b"ping").unwrap();
    open.read_exact(&mut [0; 4]).unwrap();

    // TIME-WAIT of 2 · MSL is over at once, what cannot change is named.
    file.write(&format!(
        "{head}[tcp]\nmsl = \"50ms\"\nmemory = 100000000\n"
    ));
    let said = server.client("config", &["reload"]);
    assert_eq!(said, "changed: tcp.msl; only after a restart: tcp.memory\n");
    let mut http = lab.connect(&format!("{V4}:80"));
    http.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .unwrap();
    read_all(&http);
    drop(http);
    wait_for("the end of TIME-WAIT", || server.conns().len() == 1);

    // By signal: a policy; the connection goes on.
    file.write(&head.replace("=echo", "=echo@off"));
    server.signal(Signal::SIGHUP);
    lab.wait_until_refused(&format!("{V4}:7"));
    open.write_all(b"pong").unwrap();
    open.read_exact(&mut [0; 4]).unwrap();

    // What is wrong changes nothing.
    file.write("listen = [\"*:7=gopher\"]\n");
    let (code, _, err) = tcp_user(&["config", "reload", "--control", &server.control]);
    assert_eq!(code, Some(2));
    assert!(
        err.contains("line 1: listen: ") && err.contains("gopher"),
        "{err}"
    );
    open.write_all(b"once").unwrap();
    open.read_exact(&mut [0; 4]).unwrap();
}

#[test]
#[ignore = "needs root"]
fn a_reload_changes_what_xdp_answers() {
    let lab = Lab::new();
    let head = "listen = [\"*:7=echo\"]\n[cookie]\nrequire_timestamps = ";
    let file = File::new(&lab, &format!("{head}\"never\"\n"));
    let server = lab.run(&["--config", file.path()]);
    lab.client
        .run("sysctl", &["-qw", "net.ipv4.tcp_timestamps=0"])
        .unwrap();
    let try_it = |within| lab.try_connect(&format!("{V4}:7"), within);
    assert!(try_it(PATIENCE).is_ok());
    file.write(&format!("{head}\"always\"\n"));
    let said = server.client("config", &["reload"]);
    assert_eq!(said, "changed: cookie.require_timestamps\n");
    assert!(try_it(SHORT).is_err());
    file.write(&format!("{head}\"never\"\n"));
    server.client("config", &["reload"]);
    assert!(try_it(PATIENCE).is_ok());
    assert_eq!(server.client("config", &["reload"]), "nothing changes\n");
}
