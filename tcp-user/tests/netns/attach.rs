//! An XDP program that is there already, and what the doctor says.

use crate::lab::{IFACE, LISTENS, Lab, V4, finish};
use std::io::{Read, Write};
use std::process::Command;

const BIN: &str = env!("CARGO_BIN_EXE_tcp-user");

fn run(lab: &Lab) -> (Option<i32>, String) {
    lab.refused(&[&["run", "--iface", IFACE][..], &LISTENS].concat())
}

fn ping(lab: &Lab) {
    let mut stream = lab.connect(&format!("{V4}:7"));
    stream.write_all(b"x").unwrap();
    stream.read_exact(&mut [0]).unwrap();
}

#[test]
#[ignore = "needs root"]
fn another_server_is_named_and_holds_its_queues() {
    let lab = Lab::new();
    let first = lab.serve(&[]);
    let (code, line) = run(&lab);
    assert_eq!(code, Some(2), "{line}");
    assert!(
        line.contains("tcp_xdp (id ") && line.contains("native, held by BPF link"),
        "{line}"
    );
    let replace = ["run", "--iface", IFACE, "--replace"];
    let (code, line) = lab.refused(&[&replace[..], &LISTENS].concat());
    assert_eq!(code, Some(2), "{line}");
    assert!(line.contains("AF_XDP on queue 0"), "{line}");
    ping(&lab);
    drop(first);
}

/// The server takes the place of what is there, which is named as `held`.
fn replaces(lab: &Lab, held: &str) {
    let (code, line) = run(lab);
    assert_eq!(code, Some(2), "{line}");
    assert!(line.contains(held) && line.contains("--replace"), "{line}");
    let mut server = lab.serve(&["--replace"]);
    ping(lab);
    server.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(server.ended().code(), Some(0));
    assert!(!lab.is_attached());
}

#[test]
#[ignore = "needs root"]
fn a_program_attached_by_netlink_is_replaced() {
    let lab = Lab::new();
    lab.server
        .enter(|| xtask::xdp_pass::attach(IFACE).unwrap())
        .unwrap();
    replaces(&lab, "native, attached by netlink");
}

#[test]
#[ignore = "needs root"]
fn a_program_held_by_a_link_is_replaced() {
    let lab = Lab::new();
    let _held = lab
        .server
        .enter(|| {
            let object = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/tcp-ebpf"));
            let mut ebpf = aya::Ebpf::load(object).unwrap();
            let xdp: &mut aya::programs::Xdp =
                ebpf.program_mut("tcp_xdp").unwrap().try_into().unwrap();
            xdp.load().unwrap();
            xdp.attach(IFACE, aya::programs::XdpMode::Skb).unwrap();
            ebpf
        })
        .unwrap();
    replaces(&lab, "generic, held by BPF link");
}

#[test]
#[ignore = "needs root"]
fn the_doctor_finds_what_is_there() {
    let lab = Lab::new();
    let examine = |lab: &Lab| {
        let output = lab
            .server
            .command(BIN)
            .args(["doctor", "--iface", IFACE, "--json"])
            .output()
            .unwrap();
        let checks: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        (output.status.code(), checks)
    };
    let level = |checks: &serde_json::Value, name: &str| {
        let check = checks
            .as_array()
            .unwrap()
            .iter()
            .find(|c| c["check"] == name)
            .unwrap();
        check["level"].as_str().unwrap().to_owned()
    };
    let (code, checks) = examine(&lab);
    assert_eq!(code, Some(0), "{checks}");
    for (name, is) in [
        ("driver", "ok"),
        ("zero-copy", "warn"),
        ("queues", "ok"),
        ("mtu", "ok"),
        ("xdp", "ok"),
        ("af_xdp", "ok"),
        ("capabilities", "ok"),
        ("peer", "warn"),
        ("shield", "ok"),
    ] {
        assert_eq!(level(&checks, name), is, "{name}: {checks}");
    }
    let server = lab.serve(&[]);
    let (code, checks) = examine(&lab);
    assert_eq!((code, level(&checks, "xdp").as_str()), (Some(1), "fail"));
    assert!(checks.to_string().contains("tcp_xdp (id "), "{checks}");
    drop(server);
    let mut nowhere = Command::new(BIN);
    let (code, line) = finish(nowhere.args(["doctor", "--iface", "nope0"]));
    assert_eq!((code, line.lines().count()), (Some(2), 1), "{line}");
}
