//! What is served and to whom changes on a running server, and connections go on.

use crate::flood::{Hping, LONG};
use crate::lab::{Lab, PATIENCE, SHORT, Server, V4, V6, wait_for};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};

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

/// What a client that must fail says.
fn refused(server: &Server, args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_tcp-user"))
        .args(args)
        .args(["--control", &server.control])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{args:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said.lines().count(), 1, "{said}");
    said
}

#[test]
#[ignore = "needs root"]
fn listens_come_and_go_and_connections_go_on() {
    let lab = Lab::new();
    let server = lab.run(&["--listen", "*:7=echo"]);
    let at = |port: u16| format!("{V4}:{port}");
    let old = lab.connect(&at(7));
    assert!(is_not_served(&lab, &at(9005)));
    let said = server.client("listen", &["add", "*:9000-9010=echo"]);
    assert!(said.contains("*:9000-9010"), "{said}");
    let range = lab.connect(&at(9005));
    assert!(is_served(&lab, &at(9010)) && is_not_served(&lab, &at(9011)));

    // A part goes, and comes back as something else.
    server.client("listen", &["remove", "*:9005"]);
    assert!(is_not_served(&lab, &at(9005)));
    assert!(is_served(&lab, &at(9004)) && is_served(&lab, &at(9006)));
    ping(&range);
    server.client("listen", &["add", "192.0.2.2:9005=http"]);
    let mut web = lab.connect(&at(9005));
    web.write_all(b"GET /bytes/3 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut page = [0; 12];
    web.read_exact(&mut page).unwrap();
    assert_eq!(&page, b"HTTP/1.1 200");
    ping(&range);

    // An exact listen in front of a wildcard leaves nothing behind.
    server.client("listen", &["add", "192.0.2.2:7=echo@off"]);
    assert!(is_not_served(&lab, &at(7)));
    server.client("listen", &["remove", "192.0.2.2:7"]);
    assert!(is_served(&lab, &at(7)));

    // What is in several pieces by now goes as one.
    server.client("listen", &["add", "*:9005=echo"]);
    server.client("listen", &["policy", "*:9002", "off"]);
    server.client("listen", &["remove", "*:9000-9010"]);
    assert!(is_not_served(&lab, &at(9004)) && is_not_served(&lab, &at(9010)));
    ping(&range);
    ping(&old);
    let list = server.client("listen", &["list"]);
    assert_eq!(list.lines().count(), 2, "{list}");
    assert!(lab.is_attached());

    for (args, names) in [
        (&["listen", "add", "*:7=http"][..], "*:7"),
        (&["listen", "add", "192.0.2.77:80=http"], "192.0.2.77"),
        (&["listen", "remove", "*:9000"], "*:9000"),
        (&["listen", "remove", "*:7-8"], "*:7-8"),
    ] {
        let said = refused(&server, args);
        assert!(said.contains(names), "{said}");
    }
}

#[test]
#[ignore = "needs root"]
fn sources_change_and_connections_go_on() {
    let lab = Lab::new();
    let server = lab.serve(&[]);
    let (v4, v6) = (format!("{V4}:7"), format!("[{V6}]:7"));
    let old = lab.connect(&v4);
    drop(lab.connect(&v6));
    assert_eq!(server.client("sources", &["list"]), "");

    server.client("sources", &["deny", "192.0.2.0/24"]);
    assert!(is_not_served(&lab, &v4) && is_served(&lab, &v6));
    // The longest prefix counts.
    let list = server.client("sources", &["allow", "192.0.2.1"]);
    assert_eq!(list, "allow 192.0.2.1/32\ndeny  192.0.2.0/24\n");
    assert!(is_served(&lab, &v4));
    assert!(
        is_not_served(&lab, &v6),
        "an allow list keeps all others out"
    );
    // From one list to the other.
    server.client("sources", &["deny", "192.0.2.1"]);
    assert!(is_not_served(&lab, &v4) && is_served(&lab, &v6));
    server.client("sources", &["remove", "192.0.2.0/24"]);
    assert!(is_not_served(&lab, &v4));
    let list = server.client("sources", &["remove", "192.0.2.1/32", "--json"]);
    assert_eq!(list, "{\"allow\":[],\"deny\":[]}\n");
    assert!(is_served(&lab, &v4) && is_served(&lab, &v6));
    ping(&old);
    assert!(server.stats().xdp["drop_denied"] >= 4);

    let said = refused(&server, &["sources", "remove", "10.0.0.0/8"]);
    assert!(said.contains("10.0.0.0/8"), "{said}");
}

#[test]
#[ignore = "needs root"]
fn a_reload_changes_listens_and_sources() {
    let lab = Lab::new();
    let path = std::env::temp_dir().join(format!("tcp-xdp-live-{}.toml", std::process::id()));
    let file = path.to_str().unwrap();
    let write = |text: &str| std::fs::write(&path, text).unwrap();
    write("listen = [\"*:7=echo\", \"*:8=echo\"]\n");
    let server = lab.run(&["--config", file]);
    let at = |port: u16| format!("{V4}:{port}");
    let (kept, gone) = (lab.connect(&at(7)), lab.connect(&at(8)));
    // Over the socket, until the file is read again.
    server.client("listen", &["add", "*:10=echo"]);
    assert!(is_served(&lab, &at(10)));

    write("listen = [\"*:7=echo\", \"*:9=echo\"]\n[xdp]\ndeny = [\"2001:db8::/32\"]\n");
    let said = server.client("config", &["reload"]);
    assert_eq!(said, "changed: listen, xdp.deny\n");
    for (port, served) in [(7, true), (8, false), (9, true), (10, false)] {
        let so = if served { is_served } else { is_not_served };
        assert!(so(&lab, &at(port)), "{port}");
    }
    assert_eq!(server.client("sources", &["list"]), "deny  2001:db8::/32\n");
    ping(&kept);
    ping(&gone);
    std::fs::remove_file(&path).unwrap();
}

#[test]
#[ignore = "needs root"]
fn an_attack_shows_in_stats() {
    let lab = Lab::new();
    let server = lab.serve(&["--set", "cookie.attack_rate=1000"]);
    assert!(!server.stats().under_attack);
    let _flood = Hping::start(&lab, LONG, &["-S"]);
    wait_for("the attack", || server.stats().under_attack);
    let text = server.client("stats", &[]);
    assert!(text.contains("\nunder attack: "), "{text}");
}

#[test]
#[ignore = "needs root"]
fn stats_are_watched_until_nobody_reads() {
    let lab = Lab::new();
    let server = lab.serve(&[]);
    let mut watch = Command::new(env!("CARGO_BIN_EXE_tcp-user"))
        .args(["stats", "--watch", "--interval", "50ms"])
        .args(["--control", &server.control])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let heads = lines
        .map_while(Result::ok)
        .filter(|line| line.starts_with("XDP: "))
        .take(3)
        .collect::<Vec<_>>();
    assert!(heads.iter().all(|head| head.contains("/s over ")));
    assert_eq!(heads.len(), 3);
    // The pipe is closed: it ends by itself, in peace.
    assert!(watch.wait().unwrap().success());
}

#[test]
#[ignore = "needs root"]
fn a_link_local_address_is_served_like_any_other() {
    let lab = Lab::new();
    // The kernel makes it a moment after the interface has come up.
    let mut local = None;
    wait_for("the link-local address of the interface", || {
        let args = [
            "-o", "-6", "address", "show", "dev", "eth0", "scope", "link",
        ];
        let text = lab.server.run("ip", &args).unwrap();
        local = text.split_whitespace().find_map(|word| {
            let (address, _) = word.split_once('/')?;
            address.parse::<std::net::Ipv6Addr>().ok()
        });
        local.is_some()
    });
    let local = local.unwrap();
    let server = lab.run(&["--listen", "*:7=echo"]);
    let stream = lab
        .client
        .enter(|| {
            let scope = nix::net::if_::if_nametoindex("peer0").unwrap();
            let to = std::net::SocketAddrV6::new(local, 7, 0, scope);
            let mut stream = None;
            // The client's own address is not usable for a moment.
            wait_for("a connection", || {
                stream = TcpStream::connect_timeout(&to.into(), SHORT).ok();
                stream.is_some()
            });
            stream.unwrap()
        })
        .unwrap();
    ping(&stream);
    let conns = server.conns();
    assert_eq!(conns[0].local.ip(), std::net::IpAddr::from(local));
}
