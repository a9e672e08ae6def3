//! Frames of any content, put on the wire at the client's end.
//!
//! Nothing of it leaves the two namespaces: see [`assert_isolated`].

use crate::frames::Spec;
use crate::lab::{IFACE, Lab, PATIENCE, PEER};
use etherparse::{PacketHeaders, TcpHeader, TransportHeader};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::sockopt::RcvBufForce;
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};
use tcp_common::flow::FlowKey;
use tcp_common::wire::{Sum, checksum};
use xtask::netns::Namespace;

/// A packet socket on the client's interface.
pub struct Wire {
    socket: Socket,
    /// Destination and source.
    macs: [u8; 12],
}

impl Wire {
    /// Only sends.
    pub fn new(lab: &Lab) -> Self {
        Self::open(lab, 0)
    }

    /// Also hears what passes the client's interface, both ways.
    pub fn listening(lab: &Lab) -> Self {
        let wire = Self::open(lab, libc::ETH_P_ALL as u16);
        let timeout = Some(PATIENCE);
        wire.socket.set_read_timeout(timeout).unwrap();
        wire
    }

    /// Hears what arrives at the client, IPv4 only, and many frames of it before it is asked.
    pub fn receiving(lab: &Lab) -> Self {
        Self::patient(lab, libc::ETH_P_IP as u16)
    }

    /// Hears all that passes the client's interface, both ways, in the same manner.
    pub fn hearing(lab: &Lab) -> Self {
        Self::patient(lab, libc::ETH_P_ALL as u16)
    }

    fn patient(lab: &Lab, protocol: u16) -> Self {
        let wire = Self::open(lab, protocol);
        nix::sys::socket::setsockopt(&wire.socket, RcvBufForce, &(64 << 20)).unwrap();
        wire
    }

    fn open(lab: &Lab, protocol: u16) -> Self {
        assert_isolated(lab);
        let mut macs = [0; 12];
        macs[..6].copy_from_slice(&mac(&lab.server, IFACE));
        macs[6..].copy_from_slice(&mac(&lab.client, PEER));
        let socket = lab.client.enter(|| bound(PEER, protocol)).unwrap();
        Self { socket, macs }
    }

    /// Sends a frame, with the link addresses put right; false if the wire was full.
    pub fn send(&self, frame: &mut [u8]) -> bool {
        frame[..12].copy_from_slice(&self.macs);
        match self.socket.send(frame) {
            Ok(sent) => {
                assert_eq!(sent, frame.len());
                true
            }
            Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => false,
            Err(e) => panic!("{e}"),
        }
    }

    /// The same, as often as it takes.
    pub fn put(&self, mut frame: Vec<u8>) {
        let start = Instant::now();
        while !self.send(&mut frame) {
            assert!(start.elapsed() < PATIENCE, "the wire stays full");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The next frame that arrives at the client within `wait`, into `frame`.
    pub fn receive(&self, frame: &mut [u8], wait: Duration) -> Option<usize> {
        let timeout = PollTimeout::try_from(wait).unwrap();
        let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            Ok(0) | Err(nix::Error::EINTR) => None,
            other => {
                other.unwrap();
                Some((&self.socket).read(frame).unwrap())
            }
        }
    }

    /// The next TCP header from or to a port of the client that `wanted` accepts.
    pub fn hear(&self, port: u16, wanted: impl Fn(&TcpHeader) -> bool) -> TcpHeader {
        let mut frame = [0; 2048];
        loop {
            let len = match (&self.socket).read(&mut frame) {
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                other => other.unwrap(),
            };
            if let Ok(parsed) = PacketHeaders::from_ethernet_slice(&frame[..len])
                && let Some(TransportHeader::Tcp(tcp)) = parsed.transport
                && [tcp.source_port, tcp.destination_port].contains(&port)
                && wanted(&tcp)
            {
                return tcp;
            }
        }
    }
}

fn bound(interface: &str, protocol: u16) -> Socket {
    let protocol = protocol.to_be();
    let socket = Socket::new(
        Domain::PACKET,
        Type::RAW,
        Some(Protocol::from(i32::from(protocol))),
    )
    .unwrap();
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: protocol,
        sll_ifindex: nix::net::if_::if_nametoindex(interface).unwrap() as i32,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: the address is a whole `sockaddr_ll`, and its length is that of one.
    let result = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as u32,
        )
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    socket
}

fn mac(namespace: &Namespace, interface: &str) -> [u8; 6] {
    let path = format!("/sys/class/net/{interface}/address");
    let text = namespace.run("cat", &[&path]).unwrap();
    let octets: Vec<u8> = text
        .trim()
        .split(':')
        .map(|octet| u8::from_str_radix(octet, 16).unwrap())
        .collect();
    octets.try_into().unwrap()
}

/// Panics unless the two namespaces have no other interfaces than `lo` and their ends
/// of the wire, no default route, and no forwarding.
pub fn assert_isolated(lab: &Lab) {
    for (namespace, interface) in [(&lab.client, PEER), (&lab.server, IFACE)] {
        let links = namespace.run("ls", &["/sys/class/net"]).unwrap();
        for link in links.split_whitespace() {
            assert!(["lo", interface].contains(&link), "{link}");
        }
        for family in ["-4", "-6"] {
            let args = [family, "route", "show", "default"];
            assert_eq!(namespace.run("ip", &args).unwrap(), "");
        }
        for family in ["ipv4", "ipv6"] {
            let path = format!("/proc/sys/net/{family}/conf/{interface}/forwarding");
            assert_eq!(namespace.run("cat", &[&path]).unwrap().trim(), "0");
        }
    }
}

/// xorshift.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub fn next(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 24) as u32
    }
}

/// A frame to be sent from many sources.
pub struct Template {
    frame: Vec<u8>,
    /// Where the TCP header begins.
    tcp: usize,
}

const IP: usize = 14;
const TCP: usize = IP + 20;

impl Template {
    pub fn new(spec: &Spec) -> Self {
        assert!(spec.vlans.is_empty());
        Self {
            frame: spec.build(),
            tcp: spec.l4(),
        }
    }

    /// Another source of the networks for benchmarks, 198.18.0.0/15 (RFC 2544) or
    /// `2001:2::/48` (RFC 5180), port, sequence number and acknowledgment number; and where
    /// the options are padded timestamps, other timestamps.
    pub fn spoof(&mut self, random: &mut Random) -> &mut [u8] {
        let (frame, tcp) = (&mut self.frame, self.tcp);
        if tcp == TCP {
            let source = 0xc612_0000 | (random.next() & 0x1_ffff);
            frame[IP + 12..IP + 16].copy_from_slice(&source.to_be_bytes());
        } else {
            let source = 0x2001_0002_u128 << 96 | u128::from(random.next());
            frame[IP + 8..IP + 24].copy_from_slice(&source.to_be_bytes());
        }
        let port = 1024 + (random.next() % 64_000) as u16;
        frame[tcp..tcp + 2].copy_from_slice(&port.to_be_bytes());
        frame[tcp + 4..tcp + 8].copy_from_slice(&random.next().to_be_bytes());
        frame[tcp + 8..tcp + 12].copy_from_slice(&random.next().to_be_bytes());
        if frame.get(tcp + 20..tcp + 24) == Some(&[1, 1, 8, 10]) {
            frame[tcp + 24..tcp + 28].copy_from_slice(&random.next().to_be_bytes());
            frame[tcp + 28..tcp + 32].copy_from_slice(&random.next().to_be_bytes());
        }
        if tcp == TCP {
            fix_ip_checksum(frame);
        }
        fix_tcp_checksum(frame, tcp);
        frame
    }
}

/// Makes the IPv4 header's checksum right, unless there is no whole header.
pub fn fix_ip_checksum(frame: &mut [u8]) {
    frame[IP + 10..IP + 12].fill(0);
    let len = usize::from(frame[IP] & 0xf) * 4;
    let sum = Sum::new().add_slice(&frame[IP..IP + len]).finish();
    frame[IP + 10..IP + 12].copy_from_slice(&sum.to_ne_bytes());
}

/// Makes the checksum right of a segment that fills the rest of a frame.
fn fix_tcp_checksum(frame: &mut [u8], tcp: usize) {
    let flow = if tcp == TCP {
        let address = |at: usize| {
            let octets = [0, 1, 2, 3].map(|i| frame[at + i]);
            std::net::IpAddr::from(octets).into()
        };
        FlowKey {
            remote: address(IP + 12),
            local: address(IP + 16),
            ..FlowKey::default()
        }
    } else {
        let address = |at: usize| {
            let octets: [u8; 16] = frame[at..at + 16].try_into().unwrap();
            std::net::IpAddr::from(octets).into()
        };
        FlowKey {
            remote: address(IP + 8),
            local: address(IP + 24),
            ..FlowKey::default()
        }
    };
    let segment = &mut frame[tcp..];
    segment[16..18].fill(0);
    let sum = checksum::pseudo_header(&flow, segment.len() as u16)
        .add_sum(Sum::new().add_slice(segment))
        .finish();
    segment[16..18].copy_from_slice(&sum.to_ne_bytes());
}
