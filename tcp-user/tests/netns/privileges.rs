//! What the process may do once it serves, and that this is enough.

use crate::lab::{IFACE, Lab, PATIENCE, Server, V4, wait_for};
use nix::sys::signal::Signal;
use std::io::{Read, Write};
use std::time::Duration;

/// The line of each thread's status that begins so, without that.
fn status(server: &Server, field: &str) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap();
    tasks
        .filter_map(|task| {
            // A thread may end meanwhile.
            let text = std::fs::read_to_string(task.ok()?.path().join("status")).ok()?;
            let line = text.lines().find_map(|l| l.strip_prefix(field))?;
            Some(line.trim().to_owned())
        })
        .collect()
}

fn echo(lab: &Lab, addr: &str) -> std::io::Result<()> {
    let mut stream = lab.try_connect(&format!("{addr}:7"), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"ping")?;
    stream.read_exact(&mut [0; 4])
}

/// `CAP_BPF` is number 39.
const ONLY_BPF: &str = "0000008000000000";

#[test]
#[ignore = "needs root"]
fn capabilities_are_dropped_also_without_another_user() {
    let lab = Lab::new();
    let server = lab.serve(&["--metrics", "127.0.0.1:9477"]);
    for field in ["CapEff:", "CapPrm:", "CapBnd:"] {
        let sets = status(&server, field);
        assert!(sets.len() > 3, "{sets:?}");
        assert!(sets.iter().all(|set| set == ONLY_BPF), "{field} {sets:?}");
    }
    for field in ["CapInh:", "CapAmb:"] {
        let sets = status(&server, field);
        assert!(
            sets.iter().all(|set| set == "0000000000000000"),
            "{field} {sets:?}"
        );
    }
    assert!(status(&server, "NoNewPrivs:").iter().all(|s| s == "1"));
    echo(&lab, V4).unwrap();
}

#[test]
#[ignore = "needs root"]
fn another_user_serves_on() {
    let lab = Lab::new();
    let mut server = lab.serve(&["--user", "nobody", "--set", "cookie.slot=1s"]);
    let users = status(&server, "Uid:");
    assert!(users.len() > 3, "{users:?}");
    assert!(
        users
            .iter()
            .all(|ids| ids.split('\t').all(|id| id == "65534")),
        "{users:?}"
    );
    assert!(status(&server, "CapEff:").iter().all(|set| set == ONLY_BPF));
    echo(&lab, V4).unwrap();

    // Keys of new slots, and of another secret.
    std::thread::sleep(Duration::from_millis(2500));
    echo(&lab, V4).unwrap();
    server.client("secret", &["rotate"]);
    std::thread::sleep(Duration::from_millis(1100));
    echo(&lab, V4).unwrap();
    // Addresses that come, policies, lists, listens.
    let add = ["addr", "add", "192.0.2.77/24", "dev", IFACE];
    lab.server.run("ip", &add).unwrap();
    wait_for("the new address", || echo(&lab, "192.0.2.77").is_ok());
    server.client("listen", &["policy", "*:7", "off"]);
    assert!(echo(&lab, V4).is_err());
    server.client("drain", &["*:7", "--wait", "90s"]);
    server.client("listen", &["policy", "*:7", "cookie"]);
    echo(&lab, V4).unwrap();
    // Flows of connections that end are taken out of the map.
    wait_for("the end of flows", || {
        server.flows() == server.conns().len()
    });

    server.signal(Signal::SIGTERM);
    assert_eq!(server.ended().code(), Some(0));
    assert!(!lab.is_attached());
}

#[test]
#[ignore = "needs root"]
fn a_user_that_does_not_exist_is_named() {
    let lab = Lab::new();
    let args = [
        "run",
        "--iface",
        IFACE,
        "--listen",
        "*:7=echo",
        "--user",
        "no-such-user",
    ];
    let (code, error) = lab.refused(&args);
    assert_eq!(code, Some(2));
    assert!(
        error.contains("--user no-such-user: no such user"),
        "{error}"
    );
    assert!(!lab.is_attached());
}
