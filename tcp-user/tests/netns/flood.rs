//! Floods from the client's namespace: SYNs and blind ACKs cost no userspace.

use crate::lab::{Lab, Server, V4, read_all};
use std::io::Write;
use std::process::{Child, Stdio};
use std::time::Duration;

/// `hping3` with these arguments, for some seconds; answers stay in the namespace.
fn flood(lab: &Lab, seconds: u32, args: &[&str]) -> Child {
    lab.client
        .command("timeout")
        .args([
            "-s",
            "INT",
            &seconds.to_string(),
            "hping3",
            "-q",
            "-p",
            "80",
            "--flood",
        ])
        .args(args)
        .arg(V4)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn memory_kb(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
#[ignore = "needs root"]
fn a_syn_flood_costs_no_userspace_and_no_connection() {
    let lab = Lab::new();
    let server = lab.serve(&[]);
    let get = || {
        let mut stream = lab.connect(&format!("{V4}:80"));
        stream
            .write_all(b"GET /bytes/1000 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .unwrap();
        assert!(read_all(&stream).len() > 1000);
    };
    get();
    let (cpu, memory) = (server.cpu(), memory_kb(&server));
    flood(&lab, 3, &["-S"]).wait().unwrap();
    let used = server.cpu().saturating_sub(cpu);
    assert!(used <= Duration::from_millis(50), "{used:?} in 3 s");
    assert!(server.stats().xdp["syn_ack"] > 10_000);

    let mut flood = flood(&lab, 10, &["-S"]);
    for _ in 0..100 {
        get();
    }
    let _ = flood.kill();
    let _ = flood.wait();
    let grown = memory_kb(&server).saturating_sub(memory);
    assert!(grown < 2048, "{grown} kB more");
    let stats = server.stats();
    assert_eq!(stats.xdp.values().sum::<u64>(), stats.xdp_frames);
}

#[test]
#[ignore = "needs root"]
fn a_blind_ack_flood_never_reaches_userspace() {
    let lab = Lab::new();
    let server = lab.serve(&["--set", "xdp.on_invalid_ack=drop"]);
    let before = server.stats();
    flood(&lab, 2, &["-A"]).wait().unwrap();
    let after = server.stats();
    assert!(after.xdp["drop_bad_cookie"] > 10_000, "{after:?}");
    assert_eq!(after.xdp["to_accept"], 0);
    assert_eq!(after.xdp["to_flow"], 0);
    assert_eq!(after.workers[0].received, before.workers[0].received);
    assert_eq!(server.conns(), []);
}
