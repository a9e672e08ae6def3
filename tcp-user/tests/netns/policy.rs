//! Who may connect, where, and what becomes of it on a running server.

use crate::flood::{Hping, LONG};
use crate::lab::{Lab, PATIENCE, SHORT, Server, V4, V6, cpus, wait_for};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

fn ping(mut stream: &TcpStream) {
    stream.write_all(b"ping").unwrap();
    let mut back = [0; 4];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"ping");
}

fn is_served(lab: &Lab, addr: &str) -> bool {
    let stream = lab.try_connect(addr, PATIENCE);
    stream.inspect(ping).is_ok()
}

/// Refused, or no answer for a while.
fn is_not_served(lab: &Lab, addr: &str) -> bool {
    lab.try_connect(addr, SHORT).is_err()
}

/// A source address more at the client's end.
fn add_source(lab: &Lab, addr: &str) {
    lab.client
        .run("ip", &["address", "add", addr, "dev", "peer0"])
        .unwrap();
}

/// Connects from a given source address.
fn is_served_from(lab: &Lab, source: &str, addr: &str, within: Duration) -> bool {
    let (source, addr) = (format!("{source}:0"), addr.to_owned());
    lab.client
        .enter(move || {
            let source: std::net::SocketAddr = source.parse().unwrap();
            let addr: std::net::SocketAddr = addr.parse().unwrap();
            let socket =
                socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            socket.bind(&source.into()).unwrap();
            socket.connect_timeout(&addr.into(), within).is_ok()
        })
        .unwrap()
}

#[test]
#[ignore = "needs root"]
fn allow_and_deny_lists() {
    let lab = Lab::new();
    add_source(&lab, "192.0.2.130/24");
    add_source(&lab, "192.0.2.131/24");
    let here = format!("{V4}:7");
    {
        let server = lab.serve(&[
            "--set",
            "xdp.deny=192.0.2.128/25",
            "--set",
            "xdp.allow=192.0.2.131,192.0.2.0/25",
        ]);
        assert!(is_served_from(&lab, "192.0.2.1", &here, PATIENCE));
        assert!(!is_served_from(&lab, "192.0.2.130", &here, SHORT));
        assert!(is_served_from(&lab, "192.0.2.131", &here, PATIENCE));
        assert!(is_not_served(&lab, &format!("[{V6}]:7")), "not on the list");
        assert!(server.stats().xdp["drop_denied"] >= 2);
    }
    let server = lab.serve(&["--set", "xdp.deny=::/0"]);
    assert!(is_served(&lab, &here), "::/0 is not about IPv4");
    assert!(is_not_served(&lab, &format!("[{V6}]:7")));
    assert!(server.stats().xdp["drop_denied"] >= 1);
}

#[test]
#[ignore = "needs root"]
fn answers_are_limited() {
    let lab = Lab::new();
    let server = lab.serve(&["--set", "xdp.syn_ack_rate=50", "--set", "xdp.rst_rate=50"]);
    assert!(is_served(&lab, &format!("{V4}:7")));
    // At most what is allowed at once and per second, until the rest has come.
    let start = Instant::now();
    let allowed = || 64 + 50 * (start.elapsed().as_secs() + 2);
    for (flag, answered, limited, cpus) in [
        ("-S", "syn_ack", "drop_syn_limit", 1),
        ("-A", "rst_bad_cookie", "drop_rst_limit", cpus()),
    ] {
        let flood = Hping::start(&lab, LONG, &[flag]);
        let counts = || {
            let xdp = server.stats().xdp;
            (xdp[answered], xdp[limited])
        };
        // More than what is allowed at once: it goes on, slowly.
        wait_for("answers, and those that are not given", || {
            let (answered, limited) = counts();
            answered >= 64 + 50 && limited > 1000
        });
        drop(flood);
        let answered = counts().0;
        assert!(answered <= cpus * allowed(), "{flag}: {answered}");
    }
}

#[test]
#[ignore = "needs root"]
fn ranges_and_hundreds_of_listens() {
    let lab = Lab::new();
    let many: Vec<String> = (3001..=3500).map(|p| format!("{V4}:{p}=echo")).collect();
    let mut args = vec![
        "--listen",
        "*:1000-2000=echo",
        "--listen",
        "192.0.2.2:1500=discard@off",
    ];
    for listen in &many {
        args.extend(["--listen", listen]);
    }
    let server = lab.run(&args);
    for (port, served) in [
        (999, false),
        (1000, true),
        (1499, true),
        (1500, false),
        (2000, true),
        (2001, false),
        (3000, false),
        (3001, true),
        (3333, true),
        (3500, true),
    ] {
        let so = if served { is_served } else { is_not_served };
        assert!(so(&lab, &format!("{V4}:{port}")), "{port}");
    }
    assert!(
        is_served(&lab, &format!("[{V6}]:1500")),
        "off for IPv4 only"
    );
    assert_eq!(listens(&server).len(), 502);
}

fn listens(server: &Server) -> Vec<tcp_user::control::records::ListenInfo> {
    serde_json::from_str(&server.client("listen", &["list", "--json"])).unwrap()
}

fn set_policy(server: &Server, place: &str, policy: &str) -> String {
    server.client("listen", &["policy", place, policy])
}

#[test]
#[ignore = "needs root"]
fn a_policy_changes_under_connections_that_go_on() {
    let lab = Lab::new();
    let server = lab.run(&[
        "--listen",
        "*:7=echo",
        "--listen",
        "192.0.2.2:1000-2000=echo",
    ]);
    // What the kernel has on the same ports.
    let kernel: Vec<TcpListener> = ["0.0.0.0:7", "0.0.0.0:1500"]
        .iter()
        .map(|a| lab.server.enter(|| TcpListener::bind(a).unwrap()).unwrap())
        .collect();
    for (port, listener) in [(7, &kernel[0]), (1500, &kernel[1])] {
        let addr = format!("{V4}:{port}");
        let place = if port == 7 { "*:7" } else { "192.0.2.2:1500" };
        let old: Vec<TcpStream> = (0..20).map(|_| lab.connect(&addr)).collect();
        old.iter().for_each(ping);
        for policy in ["observe", "off", "cookie", "off", "observe"] {
            let printed = set_policy(&server, place, policy);
            assert!(printed.contains(policy), "{printed}");
            // Those from before go on; a new one is the kernel's or ours.
            old.iter().for_each(ping);
            let before = server.stats().xdp["pass_observed_syn"];
            let new = lab.connect(&addr);
            if policy == "cookie" {
                ping(&new);
            } else {
                let (mut theirs, _) = listener.accept().unwrap();
                theirs.write_all(b"kernel").unwrap();
                let mut word = [0; 6];
                (&new).read_exact(&mut word).unwrap();
                assert_eq!(&word, b"kernel");
            }
            let observed = server.stats().xdp["pass_observed_syn"] - before;
            // A SYN may come twice.
            assert_eq!(observed > 0, policy == "observe", "{policy}: {observed}");
            old.iter().for_each(ping);
        }
        assert!(lab.is_attached());
        set_policy(&server, place, "cookie");
    }
    assert_eq!(lab.client_resets(), 0);
    assert_eq!(listens(&server).len(), 4, "the range is in three parts");

    let refused = std::process::Command::new(env!("CARGO_BIN_EXE_tcp-user"))
        .args([
            "listen",
            "policy",
            "*:8",
            "off",
            "--control",
            &server.control,
        ])
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("*:8"));
}

#[test]
#[ignore = "needs root"]
fn policies_change_all_the_time_under_data_in_flight() {
    let lab = Lab::new();
    let server = lab.run(&["--listen", "*:7=echo", "--listen", "192.0.2.2:7=echo"]);
    let stream = lab.connect(&format!("{V4}:7"));
    let (rounds, over) = (AtomicU32::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                ping(&stream);
                rounds.fetch_add(1, Ordering::Relaxed);
            }
        });
        let (start, mut toggles) = (Instant::now(), 0);
        while start.elapsed() < PATIENCE && (toggles < 100 || rounds.load(Ordering::Relaxed) < 100)
        {
            for place in ["*:7", "192.0.2.2:7"] {
                for policy in ["off", "observe", "cookie"] {
                    set_policy(&server, place, policy);
                    toggles += 1;
                }
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    assert!(rounds.into_inner() >= 100);
    assert_eq!(lab.client_resets(), 0);
    // Each frame of the connection came through, whatever the policy was.
    let mut xdp = server.stats().xdp;
    for expected in [
        "syn_ack",
        "to_accept",
        "to_flow",
        "pass_not_ip",
        "pass_not_tcp",
    ] {
        xdp.remove(expected);
    }
    xdp.retain(|_, n| *n > 0);
    assert!(xdp.is_empty(), "{xdp:?}");
}

#[test]
#[ignore = "needs root"]
fn timestamps_are_required_while_under_attack() {
    let lab = Lab::new();
    let server = lab.serve(&[
        "--set",
        "cookie.require_timestamps=under-attack",
        "--set",
        "cookie.attack_rate=1000",
    ]);
    lab.client.sysctl("ipv4/tcp_timestamps", "0").unwrap();
    let addr = format!("{V4}:7");
    assert!(is_served(&lab, &addr), "at peace all are served");
    let flood = Hping::start(&lab, LONG, &["-S"]);
    wait_for("the attack", || server.stats().under_attack);
    assert!(is_not_served(&lab, &addr), "refused without");
    lab.client.sysctl("ipv4/tcp_timestamps", "1").unwrap();
    assert!(is_served(&lab, &addr), "served with");
    wait_for("SYNs without", || {
        server.stats().xdp["drop_no_timestamps"] > 1000
    });
    lab.client.sysctl("ipv4/tcp_timestamps", "0").unwrap();
    drop(flood);
    // It takes ten seconds.
    assert!(server.stats().under_attack, "not over at once");
    assert!(is_not_served(&lab, &addr), "not over at once");
    wait_for("peace", || !server.stats().under_attack);
    assert!(is_served(&lab, &addr), "over");
}

#[test]
#[ignore = "needs root"]
fn stats_show_rates() {
    let lab = Lab::new();
    let server = lab.serve(&[]);
    let _flood = Hping::start(&lab, LONG, &["-S"]);
    wait_for("SYNs", || server.stats().xdp["syn_ack"] > 100);
    let json = server.client("stats", &["--interval", "500ms", "--json"]);
    let text = server.client("stats", &["--interval", "500ms"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert!(
        json["rates"]["xdp"]["syn_ack"].as_f64().unwrap() > 100.0,
        "{json}"
    );
    assert!(text.contains("/s  syn_ack"), "{text}");
}
