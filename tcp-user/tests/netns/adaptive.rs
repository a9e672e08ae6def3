//! `APP@adaptive`: in quiet times userspace keeps handshakes and sends SYN-ACKs again, in a
//! flood there are cookies. The kernel's TCP is the client.

use crate::frames::Spec;
use crate::lab::{Lab, PATIENCE, Server, V4, V6, cpus, exchange, noise, wait_for};
use crate::raw::{Random, Template, Wire};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};
use tcp_common::abi::SYN_BURST;

fn xdp(server: &Server, counter: &str) -> u64 {
    server.stats().xdp[counter]
}

/// Loses what the client sends to a port and these conditions (of nft) hold for.
pub fn lose(lab: &Lab, port: u16, conditions: &str) {
    let rules = format!(
        "table inet lose {{ chain out {{ type filter hook output priority 0; \
         tcp dport {port} {conditions} drop ; }} ; }}"
    );
    lab.client
        .run("nft", &[&format!("flush ruleset; {rules}")])
        .unwrap();
}

/// The last ACK of the handshake.
pub const FIRST_ACK: &str = "tcp flags & (syn|ack|fin|rst|psh) == ack numgen inc mod 100000 < 1";

fn state_of_all(server: &Server, state: &str) -> usize {
    let conns = server.conns();
    conns.iter().filter(|c| c.state == state).count()
}

#[test]
#[ignore = "needs root"]
fn a_server_that_speaks_first_is_heard_though_the_last_ack_was_lost() {
    let lab = Lab::new();
    let server = lab.run(&[
        "--listen",
        "*:19=chargen@adaptive",
        "--listen",
        "*:20=chargen",
    ]);
    for (host, handshakes) in [(V4.to_owned(), 1), (format!("[{V6}]"), 2)] {
        lose(&lab, 19, FIRST_ACK);
        let mut stream = lab.connect(&format!("{host}:19"));
        assert_eq!(xdp(&server, "to_handshake"), handshakes);
        let mut text = [0; 1000];
        stream.read_exact(&mut text).unwrap();
        assert!(text.starts_with(b" !\"#"), "{text:?}");
        assert_eq!(state_of_all(&server, "ESTABLISHED"), 1);
        drop(stream);
        // A cookie alone cannot do that: the client waits for the server, and the server does
        // not know of it.
        lose(&lab, 20, FIRST_ACK);
        let mut stream = lab.connect(&format!("{host}:20"));
        let wait = Some(Duration::from_secs(3));
        stream.set_read_timeout(wait).unwrap();
        let error = stream.read(&mut text).expect_err("silence");
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        wait_for("the end", || state_of_all(&server, "ESTABLISHED") == 0);
    }
    assert_eq!(xdp(&server, "to_handshake"), 2);
    assert_eq!(xdp(&server, "syn_ack"), 2);
}

/// Without the handshake kept the segments that arrive first look like anybody's, as sizes
/// differ, and get an RST.
#[test]
#[ignore = "needs root"]
fn text_of_any_size_survives_the_loss_of_the_last_ack_and_what_follows_it() {
    let lab = Lab::new();
    let _server = lab.run(&["--listen", "*:7=echo@adaptive"]);
    lose(
        &lab,
        7,
        "tcp flags & (syn|fin|rst) == 0 numgen inc mod 100000 < 3",
    );
    let mut stream = lab.connect(&format!("{V4}:7"));
    stream.set_nodelay(true).unwrap();
    let data = noise(1_500);
    for piece in [
        &data[..100],
        &data[100..333],
        &data[333..335],
        &data[335..1000],
    ] {
        stream.write_all(piece).unwrap();
        std::thread::sleep(Duration::from_millis(2));
    }
    let back = exchange(&stream, &data[1000..]);
    assert!(back == data);
    lab.assert_no_resets();
}

#[test]
#[ignore = "needs root"]
fn quiet_handshakes_are_whole_ones() {
    let lab = Lab::new();
    let server = lab.run(&["--listen", "*:7=echo@adaptive", "--trace"]);
    let data = noise(2_000_000);
    for host in [V4.to_owned(), format!("[{V6}]")] {
        let stream = lab.connect(&format!("{host}:7"));
        let info = lab.client.run("ss", &["-tino", "dport", "= 7"]).unwrap();
        for option in ["wscale:", "sack", "ts"] {
            assert!(info.contains(option), "{option}: {info}");
        }
        wait_for("a round trip that was measured", || {
            server.conns().iter().any(|c| c.srtt_ms.is_some())
        });
        assert!(exchange(&stream, &data) == data);
    }
    lab.assert_no_resets();
    assert_eq!(xdp(&server, "to_handshake"), 2);
    assert_eq!((xdp(&server, "syn_ack"), xdp(&server, "to_accept")), (0, 0));
    // From the first connection's head to the end of the second one.
    let printed = [format!("{V4}:7"), format!("[{V6}]:7"), "LAST-ACK".into()]
        .map(|text| server.printed_until(&text).join("\n"))
        .concat();
    assert!(!printed.contains("by XDP"), "{printed}");
    assert!(printed.contains("SYN-RECEIVED"), "{printed}");
}

#[test]
#[ignore = "needs root"]
fn who_never_answers_is_given_up_and_leaves_nothing() {
    let lab = Lab::new();
    let server = lab.run(&[
        "--listen",
        "*:80=http@adaptive",
        "--set",
        "tcp.syn_ack_retries=1",
        "--set",
        "tcp.half_open=100",
    ]);
    let wire = Wire::new(&lab);
    let mut random = Random::new(7);
    let mut syn = Template::new(&Spec::syn("192.0.2.1:40000", "192.0.2.2:80"));
    let begin = Instant::now();
    let before = loop {
        assert!(begin.elapsed() < PATIENCE, "never in time");
        let (before, start) = (server.stats(), Instant::now());
        for _ in 0..150 {
            wire.put(syn.spoof(&mut random).to_vec());
        }
        wait_for("the SYNs", || {
            server.stats().workers[0].received >= before.workers[0].received + 150
        });
        let kept = (state_of_all(&server, "SYN-RECEIVED"), server.flows());
        // A second later some are given up: then it was looked at too late.
        if start.elapsed() < Duration::from_millis(900) {
            // Those that came first have made room.
            assert_eq!(kept, (100, 100));
            break before;
        }
        wait_for("the end", || server.conns().is_empty());
    };
    // Half of them get one more SYN-ACK after a second, and have two seconds for the answer.
    wait_for("the end", || server.conns().is_empty());
    wait_for("no flows", || server.flows() == 0);
    let after = server.stats();
    let count = after.xdp["to_handshake"] - before.xdp["to_handshake"];
    let out = after.workers[0].sent - before.workers[0].sent;
    assert_eq!(count, 150);
    assert!((200..210).contains(&out), "{out}");
}

#[test]
#[ignore = "needs root"]
fn a_client_that_knows_nothing_of_it_ends_the_handshake() {
    let lab = Lab::new();
    let server = lab.run(&["--listen", "*:80=http@adaptive"]);
    let wire = Wire::new(&lab);
    wire.put(Spec::syn("192.0.2.1:40000", "192.0.2.2:80").build());
    // The client's kernel answers the SYN-ACK with RST.
    wait_for("the RST", || xdp(&server, "to_flow") >= 1);
    wait_for("the end", || server.conns().is_empty());
    wait_for("no flows", || server.flows() == 0);
}

fn answers(mut stream: TcpStream) -> bool {
    stream.write_all(b"ping").unwrap();
    stream.read_exact(&mut [0; 4]).is_ok()
}

#[test]
#[ignore = "needs root"]
fn in_a_flood_there_are_cookies_and_afterwards_handshakes_again() {
    let lab = Lab::new();
    let server = lab.run(&[
        "--listen",
        "*:7=echo@adaptive",
        "--set",
        "xdp.adaptive_rate=500",
    ]);
    let wire = Wire::new(&lab);
    let mut random = Random::new(9);
    let mut syn = Template::new(&Spec::syn("192.0.2.1:40000", "192.0.2.2:7"));
    let start = Instant::now();
    let mut served = 0;
    let counts = || (xdp(&server, "to_handshake"), xdp(&server, "syn_ack"));
    let is_enough = |served| {
        let (kept, answered) = counts();
        served > 20 && answered > 5 * kept
    };
    while start.elapsed() < Duration::from_secs(4) || !is_enough(served) {
        assert!(start.elapsed() < PATIENCE, "{served}, {:?}", counts());
        for _ in 0..500 {
            wire.send(syn.spoof(&mut random));
        }
        assert!(answers(lab.connect(&format!("{V4}:7"))));
        served += 1;
    }
    assert_eq!(lab.client_resets(), 0);
    let kept = counts().0;
    // No more than the rate and the burst of each CPU, in the seconds until it was noticed.
    let most = cpus() * (u64::from(SYN_BURST) + 500 * (start.elapsed().as_secs() + 1));
    assert!((500..=most).contains(&kept), "{kept}, not {most}");
    assert!(state_of_all(&server, "SYN-RECEIVED") <= 4096);
    let before = xdp(&server, "to_handshake");
    wait_for("handshakes that are kept", || {
        assert!(answers(lab.connect(&format!("{V4}:7"))));
        std::thread::sleep(Duration::from_millis(200));
        xdp(&server, "to_handshake") > before
    });
}

#[test]
#[ignore = "needs root"]
fn the_policy_changes_while_the_server_runs() {
    let lab = Lab::new();
    let server = lab.run(&["--listen", "*:7=echo"]);
    for (policy, handshakes) in [("adaptive", 1), ("cookie", 1), ("adaptive", 2)] {
        server.client("listen", &["policy", "*:7", policy]);
        assert!(answers(lab.connect(&format!("{V4}:7"))));
        assert_eq!(xdp(&server, "to_handshake"), handshakes, "{policy}");
    }
}

/// The last ACK may come on another queue than the SYN.
#[test]
#[ignore = "needs root"]
fn handshakes_are_kept_on_every_queue() {
    let lab = Lab::with_queues(2);
    let server = lab.run(&["--listen", "*:7=echo@adaptive"]);
    for _ in 0..100 {
        assert!(answers(lab.connect(&format!("{V4}:7"))));
    }
    assert_eq!(xdp(&server, "to_handshake"), 100);
    assert_eq!(lab.client_resets(), 0);
}
