//! Who may connect, where, and what becomes of it on a running server.

use crate::lab::{Lab, Server, V4, V6};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

const SHORT: Duration = Duration::from_millis(400);

fn ping(mut stream: &TcpStream) {
    stream.write_all(b"ping").unwrap();
    let mut back = [0; 4];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"ping");
}

fn is_served(lab: &Lab, addr: &str) -> bool {
    // A fresh IPv6 address is not usable for a moment.
    let within = if addr.starts_with('[') {
        10 * SHORT
    } else {
        SHORT
    };
    match lab.try_connect(addr, within) {
        Ok(stream) => {
            ping(&stream);
            true
        }
        Err(_) => false,
    }
}

/// A source address more at the client's end.
fn add_source(lab: &Lab, addr: &str) {
    lab.client
        .run("ip", &["address", "add", addr, "dev", "peer0"])
        .unwrap();
}

/// Connects from a given source address.
fn is_served_from(lab: &Lab, source: &str, addr: &str) -> bool {
    let (source, addr) = (format!("{source}:0"), addr.to_owned());
    lab.client
        .enter(move || {
            let source: std::net::SocketAddr = source.parse().unwrap();
            let addr: std::net::SocketAddr = addr.parse().unwrap();
            let socket =
                socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            socket.bind(&source.into()).unwrap();
            socket.connect_timeout(&addr.into(), SHORT).is_ok()
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
        assert!(is_served_from(&lab, "192.0.2.1", &here));
        assert!(!is_served_from(&lab, "192.0.2.130", &here));
        assert!(is_served_from(&lab, "192.0.2.131", &here));
        assert!(!is_served(&lab, &format!("[{V6}]:7")), "not on the list");
        assert!(server.stats().xdp["drop_denied"] >= 2);
    }
    let server = lab.serve(&["--set", "xdp.deny=::/0"]);
    assert!(is_served(&lab, &here), "::/0 is not about IPv4");
    assert!(!is_served(&lab, &format!("[{V6}]:7")));
    assert!(server.stats().xdp["drop_denied"] >= 1);
}

#[test]
#[ignore = "needs root"]
fn answers_are_limited() {
    let lab = Lab::new();
    let server = lab.serve(&["--set", "xdp.syn_ack_rate=50", "--set", "xdp.rst_rate=50"]);
    assert!(is_served(&lab, &format!("{V4}:7")));
    for flag in ["-S", "-A"] {
        lab.client
            .command("timeout")
            .args(["-s", "INT", "2", "hping3", "-q", "-p", "80", "--flood"])
            .args([flag, V4])
            .output()
            .unwrap();
    }
    let xdp = server.stats().xdp;
    // 64 at once and 50 a second, for two seconds; the second limit is per CPU.
    assert!((100..=250).contains(&xdp["syn_ack"]), "{xdp:?}");
    assert!(xdp["drop_syn_limit"] > 1000, "{xdp:?}");
    assert!((1..=4000).contains(&xdp["rst_bad_cookie"]), "{xdp:?}");
    assert!(xdp["drop_rst_limit"] > 1000, "{xdp:?}");
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
        assert_eq!(is_served(&lab, &format!("{V4}:{port}")), served, "{port}");
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
            assert_eq!(observed, u64::from(policy == "observe"), "{policy}");
            old.iter().for_each(ping);
        }
        assert!(lab.is_attached());
        set_policy(&server, place, "cookie");
    }
    assert_eq!(lab.client_resets().0, 0);
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
    let end = Instant::now() + Duration::from_secs(2);
    let toggles = std::thread::scope(|scope| {
        let echo = scope.spawn(|| {
            let mut rounds = 0;
            while Instant::now() < end {
                ping(&stream);
                rounds += 1;
            }
            rounds
        });
        let mut toggles = 0;
        while Instant::now() < end {
            for place in ["*:7", "192.0.2.2:7"] {
                for policy in ["off", "observe", "cookie"] {
                    set_policy(&server, place, policy);
                    toggles += 1;
                }
            }
        }
        assert!(echo.join().unwrap() > 100);
        toggles
    });
    assert!(toggles > 20, "{toggles}");
    assert_eq!(lab.client_resets().0, 0);
    assert_eq!(server.conns()[0].retransmits, 0);
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
    let mut flood = lab
        .client
        .command("timeout")
        .args([
            "-s", "INT", "4", "hping3", "-q", "-p", "80", "--flood", "-S", V4,
        ])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(2500));
    assert!(!is_served(&lab, &addr), "refused without");
    lab.client.sysctl("ipv4/tcp_timestamps", "1").unwrap();
    assert!(is_served(&lab, &addr), "served with");
    let _ = flood.wait();
    assert!(server.stats().xdp["drop_no_timestamps"] > 1000);
    lab.client.sysctl("ipv4/tcp_timestamps", "0").unwrap();
    assert!(!is_served(&lab, &addr), "not over at once");
    std::thread::sleep(Duration::from_secs(12));
    assert!(is_served(&lab, &addr), "over");
}

#[test]
#[ignore = "needs root"]
fn stats_show_rates() {
    let lab = Lab::new();
    let server = lab.serve(&[]);
    let mut flood = lab
        .client
        .command("timeout")
        .args([
            "-s", "INT", "3", "hping3", "-q", "-p", "80", "--flood", "-S", V4,
        ])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let json = server.client("stats", &["--interval", "500ms", "--json"]);
    let text = server.client("stats", &["--interval", "500ms"]);
    let _ = flood.wait();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert!(
        json["rates"]["xdp"]["syn_ack"].as_f64().unwrap() > 100.0,
        "{json}"
    );
    assert!(text.contains("/s  syn_ack"), "{text}");
}
