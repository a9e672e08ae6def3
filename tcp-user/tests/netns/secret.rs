//! Keys of cookies: machines that share a secret, a pause, a new secret.

use crate::lab::{IFACE, LISTENS, Lab, PATIENCE, Server, V4};
use nix::sys::signal::Signal;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};
use tcp_user::control::records::SecretInfo;

fn ping(mut stream: &TcpStream) {
    stream.write_all(b"ping").unwrap();
    let mut back = [0; 4];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"ping");
}

/// `tcp-user secret` with these arguments, in no namespace.
fn secret(args: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_tcp-user"))
        .arg("secret")
        .args(args)
        .output()
        .unwrap();
    let out = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(out).unwrap())
}

/// A path for a file of this test; removed when dropped.
struct File(PathBuf);

impl File {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("tcp-xdp-{name}-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        Self(path)
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

fn rotate(server: &Server) -> SecretInfo {
    serde_json::from_str(&server.client("secret", &["rotate", "--json"])).unwrap()
}

/// Connects and connects until the secret in force is the one of this id.
fn connect_until(lab: &Lab, server: &Server, id: &str) {
    let start = Instant::now();
    while server.client("secret", &["show-id"]).trim() != id {
        assert!(start.elapsed() < PATIENCE, "{id} is not in force");
        ping(&lab.connect(&format!("{V4}:7")));
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
#[ignore = "needs root"]
fn a_paused_server_finds_the_handshakes_of_the_pause() {
    let lab = Lab::new();
    for more in [&[][..], &["--set"]] {
        let file = File::new("pause");
        let key = format!("cookie.secret_file={}", file.path());
        let mut args = vec!["--set", "cookie.slot=1"];
        if !more.is_empty() {
            assert!(secret(&["new", file.path()]).0);
            args.extend(["--set", &key]);
        }
        let server = lab.serve(&args);
        ping(&lab.connect(&format!("{V4}:7")));
        for pause in [3300, 4300] {
            server.signal(Signal::SIGSTOP);
            std::thread::sleep(Duration::from_millis(pause));
            // XDP answers with the key of several slots ago; the data waits in the ring.
            let early: Vec<TcpStream> = (0..20)
                .map(|_| {
                    let stream = lab.connect(&format!("{V4}:7"));
                    (&stream).write_all(b"ping").unwrap();
                    stream
                })
                .collect();
            server.signal(Signal::SIGCONT);
            for mut stream in early {
                let mut back = [0; 4];
                stream.read_exact(&mut back).unwrap();
                assert_eq!(&back, b"ping");
            }
            for _ in 0..50 {
                ping(&lab.connect(&format!("{V4}:7")));
                std::thread::sleep(Duration::from_millis(40));
            }
        }
        assert_eq!(lab.client_resets(), 0, "{args:?}");
    }
}

#[test]
#[ignore = "needs root"]
fn a_new_secret_under_connects() {
    let lab = Lab::new();
    let server = lab.serve(&["--set", "cookie.slot=2"]);
    for _ in 0..4 {
        let new = rotate(&server);
        assert!(new.in_s <= 2.0, "{new:?}");
        // Until it is in force, and the last one's cookies are the old ones for a while.
        connect_until(&lab, &server, &new.id);
        let end = Instant::now() + Duration::from_millis(500);
        while Instant::now() < end {
            ping(&lab.connect(&format!("{V4}:7")));
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    assert_eq!(lab.client_resets(), 0);
    let stats = server.stats().xdp;
    assert_eq!(stats["rst_bad_cookie"] + stats["rst_old_cookie"], 0);
}

#[test]
#[ignore = "needs root"]
fn a_secret_file_is_made_compared_and_read_again() {
    let file = File::new("secret");
    let (made, id) = secret(&["new", file.path()]);
    assert!(made, "{id}");
    assert_eq!(secret(&["show-id", file.path()]), (true, id.clone()));
    let (again, why) = secret(&["new", file.path()]);
    assert!(!again && why.contains(file.path()), "{why}");

    let lab = Lab::new();
    let key = format!("cookie.secret_file={}", file.path());
    let server = lab.serve(&["--set", &key, "--set", "cookie.slot=2"]);
    assert_eq!(server.client("secret", &["show-id"]), id);

    // Another secret, and the server told so.
    std::fs::remove_file(file.path()).unwrap();
    let (_, other) = secret(&["new", file.path()]);
    assert_ne!(other, id);
    let new = rotate(&server);
    assert_eq!(new.id, other.trim());
    assert!(new.in_s <= 2.0);
    connect_until(&lab, &server, &new.id);
    assert_eq!(lab.client_resets(), 0);
    drop(server);

    let open = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(file.path(), open).unwrap();
    let run = ["run", "--iface", IFACE, "--set", &key];
    let (code, line) = lab.refused(&[&run[..], &LISTENS].concat());
    assert_eq!(code, Some(2));
    assert!(
        line.contains("chmod 600") && line.contains(file.path()),
        "{line}"
    );
    assert!(!lab.is_attached());
}
