//! The files of `deploy/` against the tools that read them.
#![expect(clippy::unwrap_used, reason = "a test that fails may panic")]

use std::path::PathBuf;
use std::process::Command;
use tcp_user::control::config::Config;

fn file(name: &str) -> PathBuf {
    let path = format!("{}/../deploy/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::canonicalize(path).unwrap()
}

#[test]
fn the_example_configuration_is_right() {
    let checked = Config::check_file(&file("tcp-xdp.toml"), &[]).unwrap();
    assert!(checked.keys >= 5 && checked.listens == 2, "{checked:?}");
}

#[test]
fn the_unit_runs_commands_and_options_that_exist() {
    use clap::Parser as _;
    let unit = std::fs::read_to_string(file("tcp-xdp.service")).unwrap();
    let mut commands = 0;
    for line in unit.lines().filter(|l| l.starts_with("Exec")) {
        let (_, command) = line.split_once('=').unwrap();
        let args = command.split(' ').filter(|a| *a != "${IFACE}");
        // The interface is an argument of its own.
        let args = args.flat_map(|a| {
            if a == "--iface" {
                vec![a, "eth0"]
            } else {
                vec![a]
            }
        });
        tcp_user::cli::Cli::try_parse_from(args).unwrap();
        commands += 1;
    }
    assert_eq!(commands, 3);
    // What `cli::without_privileges` names, and nothing more.
    let bounding = unit
        .lines()
        .find(|l| l.starts_with("CapabilityBoundingSet="))
        .unwrap();
    assert!(
        bounding.ends_with("=CAP_BPF CAP_NET_ADMIN CAP_NET_RAW"),
        "{bounding}"
    );
}

#[test]
#[ignore = "needs promtool"]
fn promtool_accepts_rules_and_configuration() {
    for (what, name) in [("rules", "alerts.yml"), ("config", "prometheus.yml")] {
        let output = Command::new(xtask::process::tool("promtool").unwrap())
            .args(["check", what])
            .arg(file(name))
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    }
}
