//! Paths with a narrow link, and paths with congestion that says so: Linux as the router
//! and as the peer.

use crate::abuse::{ask, read_exact, skip_head};
use crate::lab::{Lab, PATIENCE, Server, V4, noise};
use crate::raw::Wire;
use etherparse::{PacketHeaders, TcpHeader, TransportHeader};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;
use xtask::netns::{Namespace, VethEnd, VethPair};

const OCTETS: usize = 5_000_000;
/// The narrow link's, octets.
const MTU: u16 = 1400;

/// A client behind a router; the link between them is narrow in its direction.
struct Behind {
    far: Namespace,
    _far_pair: VethPair,
    /// Its client is the router.
    lab: Lab,
}

impl Behind {
    fn new() -> Self {
        let lab = Lab::new();
        let router = &lab.client;
        let far = Namespace::unique("far").unwrap();
        let pair = VethPair::create(
            &VethEnd::new(router, "far0")
                .address("198.51.100.1/24")
                .address("2001:db8:1::1/64"),
            &VethEnd::new(&far, "eth0")
                .address("198.51.100.2/24")
                .address("2001:db8:1::2/64"),
        )
        .unwrap();
        // Only the router knows: the client's MSS and route are those of 1500.
        let mtu = MTU.to_string();
        router
            .run("ip", &["link", "set", "far0", "mtu", &mtu])
            .unwrap();
        router.sysctl("ipv4/ip_forward", "1").unwrap();
        router.sysctl("ipv6/conf/all/forwarding", "1").unwrap();
        for (net, via) in [
            ("192.0.2.0/24", "198.51.100.1"),
            ("2001:db8::/64", "2001:db8:1::1"),
        ] {
            far.run("ip", &["route", "add", net, "via", via]).unwrap();
        }
        Self {
            far,
            _far_pair: pair,
            lab,
        }
    }

    fn connect(&self, host: &str) -> TcpStream {
        let to: SocketAddr = format!("{host}:80").parse().unwrap();
        let stream = self.far.enter(|| TcpStream::connect_timeout(&to, PATIENCE));
        let stream = stream.unwrap().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// A download from each of [`HOSTS`] at the same time; returns the server's segment
    /// sizes in the middle of them.
    fn download(&self, server: &Server) -> Vec<u16> {
        let streams = HOSTS.map(|(host, _)| {
            let stream = self.connect(host);
            ask(&stream, OCTETS);
            stream
        });
        let each = streams.iter();
        each.map(|stream| {
            skip_head(stream);
            let at = read_exact(stream, 0, OCTETS / 10);
            let from = stream.local_addr().unwrap();
            let conns = server.conns();
            let conn = conns.iter().find(|c| c.remote == from).unwrap();
            assert_eq!(read_exact(stream, at, usize::MAX), OCTETS);
            conn.mss
        })
        .collect()
    }
}

/// And the octets of their IP headers, to which come 32 of TCP with timestamps.
const HOSTS: [(&str, u16); 2] = [(V4, 20), ("[2001:db8::2]", 40)];

#[test]
#[ignore = "needs root"]
fn a_router_with_a_narrow_link_is_heeded() {
    let behind = Behind::new();
    let server = behind.lab.serve(&[]);
    let sizes = HOSTS.map(|(_, ip)| MTU - ip - 32);
    assert_eq!(behind.download(&server), sizes);
    let stats = server.stats();
    assert!(stats.xdp["to_icmp"] >= 2);
    assert_eq!(stats.workers[0].frames["icmp"], stats.xdp["to_icmp"]);
}

#[test]
#[ignore = "needs root"]
fn a_router_that_says_nothing_is_found_out() {
    let behind = Behind::new();
    let rules = "table inet hole { chain out { type filter hook output priority 0; \
                 icmp type destination-unreachable drop; icmpv6 type packet-too-big drop; } ; }";
    behind.lab.client.run("nft", &[rules]).unwrap();
    let server = behind.lab.serve(&[]);
    // The sizes tried are few: the next below is 1280.
    let sizes = HOSTS.map(|(_, ip)| 1280 - ip - 32);
    assert_eq!(behind.download(&server), sizes);
    assert_eq!(server.stats().xdp["to_icmp"], 0);
}

/// Segments with a flag, by who sent them.
#[derive(Default, Debug)]
struct Echoes {
    /// ECE: of the server, and of the client.
    ece: (u32, u32),
    cwr: (u32, u32),
}

impl Echoes {
    /// From all frames of a connection but its handshake.
    fn of(wire: &Wire, port: u16) -> Self {
        let mut all = Self::default();
        let mut frame = [0; 2048];
        while let Some(len) = wire.receive(&mut frame, Duration::from_millis(50)) {
            let Ok(parsed) = PacketHeaders::from_ethernet_slice(&frame[..len]) else {
                continue;
            };
            let Some(TransportHeader::Tcp(tcp)) = parsed.transport else {
                continue;
            };
            if !tcp.syn && [tcp.source_port, tcp.destination_port].contains(&port) {
                all.add(&tcp, tcp.destination_port == port);
            }
        }
        all
    }

    fn add(&mut self, tcp: &TcpHeader, from_server: bool) {
        let of = |pair: &mut (u32, u32), set: bool| {
            let count = if from_server {
                &mut pair.0
            } else {
                &mut pair.1
            };
            *count += u32::from(set);
        };
        of(&mut self.ece, tcp.ece);
        of(&mut self.cwr, tcp.cwr);
    }
}

/// Marks one of so many that can be marked, to the client or from it.
fn congest(lab: &Lab, hook: &str, of: u32) {
    let rules = format!(
        "flush ruleset ; table inet marks {{ chain some {{ type filter hook {hook} priority 0; \
         ip ecn ect0 numgen inc mod {of} == 0 ip ecn set ce ; \
         ip6 ecn ect0 numgen inc mod {of} == 0 ip6 ecn set ce ; }} ; }}"
    );
    lab.client.run("nft", &[&rules]).unwrap();
}

#[test]
#[ignore = "needs root"]
fn congestion_that_is_marked_is_answered_both_ways() {
    let lab = Lab::new();
    lab.client.sysctl("ipv4/tcp_ecn", "1").unwrap();
    let _server = lab.serve(&[]);
    for (host, _) in HOSTS {
        // Down: the client echoes what the server is to reduce and confirm.
        congest(&lab, "input", 200);
        let wire = Wire::hearing(&lab);
        let stream = lab.connect(&format!("{host}:80"));
        ask(&stream, OCTETS);
        skip_head(&stream);
        assert_eq!(read_exact(&stream, 0, usize::MAX), OCTETS);
        let down = Echoes::of(&wire, stream.local_addr().unwrap().port());
        println!("{host} down: {down:?}");
        assert!(down.ece.1 > 0 && down.cwr.0 > 0, "{down:?}");
        assert_eq!((down.ece.0, down.cwr.1), (0, 0), "{down:?}");
        // One reduction stands for all ECEs of its window.
        assert!(down.cwr.0 <= down.ece.1, "{down:?}");

        // Up: the server echoes, the client reduces and confirms.
        // There the kernel has not cut its packets into segments yet.
        congest(&lab, "output", 10);
        let wire = Wire::hearing(&lab);
        let stream = lab.connect(&format!("{host}:9"));
        (&stream).write_all(&noise(OCTETS)).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!((&stream).read(&mut [0]).unwrap(), 0);
        let up = Echoes::of(&wire, stream.local_addr().unwrap().port());
        println!("{host} up: {up:?}");
        assert!(up.ece.0 > 0 && up.cwr.1 > 0, "{up:?}");
        assert_eq!((up.ece.1, up.cwr.0), (0, 0), "{up:?}");
    }
    lab.assert_no_resets();

    // Who does not offer it is not marked.
    lab.client.sysctl("ipv4/tcp_ecn", "0").unwrap();
    congest(&lab, "input", 200);
    let wire = Wire::hearing(&lab);
    let stream = lab.connect(&format!("{V4}:80"));
    ask(&stream, OCTETS);
    skip_head(&stream);
    assert_eq!(read_exact(&stream, 0, usize::MAX), OCTETS);
    let none = Echoes::of(&wire, stream.local_addr().unwrap().port());
    assert_eq!((none.ece, none.cwr), ((0, 0), (0, 0)));
}
