//! The PROXY protocol, versions 1 and 2: what tells a backend who the client is, in front of
//! the stream (the specification is `doc/proxy-protocol.txt` of haproxy; sections below are its).

use std::net::{IpAddr, SocketAddr};

/// Which header a backend is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Version {
    /// None.
    #[default]
    Off,
    /// A line of text (§2.1).
    V1,
    /// Binary (§2.2).
    V2,
}

/// The longest header: a line with two IPv6 addresses, `CR LF` included (§2.1).
const MAX: usize = 107;
/// §2.2: what every binary header begins with.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2 in the upper half, below it `LOCAL` or `PROXY`.
const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;
/// Address family and `STREAM`.
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

/// A header on its way.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    octets: [u8; MAX],
    len: u8,
}

impl Header {
    /// Of a connection from `client` to `local`, which are of one address family.
    pub fn new(version: Version, client: SocketAddr, local: SocketAddr) -> Self {
        let mut header = Self::empty();
        match version {
            Version::Off => {}
            Version::V1 => {
                let family = if client.is_ipv4() { "TCP4" } else { "TCP6" };
                let line = format!(
                    "PROXY {family} {} {} {} {}\r\n",
                    client.ip(),
                    local.ip(),
                    client.port(),
                    local.port()
                );
                header.push(line.as_bytes());
            }
            Version::V2 => match (client.ip(), local.ip()) {
                (IpAddr::V4(from), IpAddr::V4(to)) => {
                    header.binary(PROXY, TCP4, &[&from.octets(), &to.octets()], client, local);
                }
                (IpAddr::V6(from), IpAddr::V6(to)) => {
                    header.binary(PROXY, TCP6, &[&from.octets(), &to.octets()], client, local);
                }
                _ => return Self::local(version),
            },
        }
        header
    }

    /// Of a connection that is the proxy's own: a health check (§2.1 `UNKNOWN`, §2.2 `LOCAL`).
    pub fn local(version: Version) -> Self {
        let mut header = Self::empty();
        match version {
            Version::Off => {}
            Version::V1 => header.push(b"PROXY UNKNOWN\r\n"),
            Version::V2 => {
                header.push(&SIGNATURE);
                header.push(&[LOCAL, 0, 0, 0]);
            }
        }
        header
    }

    /// What goes to the backend.
    pub fn octets(&self) -> &[u8] {
        &self.octets[..usize::from(self.len)]
    }

    const fn empty() -> Self {
        Self {
            octets: [0; MAX],
            len: 0,
        }
    }

    fn binary(
        &mut self,
        command: u8,
        family: u8,
        addresses: &[&[u8]; 2],
        client: SocketAddr,
        local: SocketAddr,
    ) {
        let len = addresses[0].len() + addresses[1].len() + 4;
        self.push(&SIGNATURE);
        self.push(&[command, family]);
        self.push(&(len as u16).to_be_bytes());
        self.push(addresses[0]);
        self.push(addresses[1]);
        self.push(&client.port().to_be_bytes());
        self.push(&local.port().to_be_bytes());
    }

    fn push(&mut self, octets: &[u8]) {
        let start = usize::from(self.len);
        self.octets[start..start + octets.len()].copy_from_slice(octets);
        self.len += octets.len() as u8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn addr(text: &str) -> SocketAddr {
        text.parse().expect("a literal")
    }

    #[test]
    fn lines_of_the_specification() {
        // §2.1: the longest forms, and an ordinary one.
        let v4 = Header::new(
            Version::V1,
            addr("192.168.0.1:56324"),
            addr("192.168.0.11:443"),
        );
        assert_eq!(
            v4.octets(),
            b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n"
        );
        let widest = Header::new(
            Version::V1,
            addr("255.255.255.255:65535"),
            addr("255.255.255.255:65535"),
        );
        assert_eq!(widest.octets().len(), 56);
        let ff = "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535";
        let widest = Header::new(Version::V1, addr(ff), addr(ff));
        assert_eq!(
            widest.octets(),
            b"PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff \
              ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n"
        );
        assert_eq!(widest.octets().len(), 104);
        assert_eq!(Header::local(Version::V1).octets(), b"PROXY UNKNOWN\r\n");
    }

    #[test]
    fn octets_of_the_specification() {
        // §2.2: signature, version and command, family, length, addresses, ports.
        let v4 = Header::new(
            Version::V2,
            addr("192.168.0.1:56324"),
            addr("192.168.0.11:443"),
        );
        let mut want = b"\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a\x21\x11\x00\x0c".to_vec();
        want.extend([192, 168, 0, 1, 192, 168, 0, 11, 0xdc, 0x04, 0x01, 0xbb]);
        assert_eq!(v4.octets(), want);
        let v6 = Header::new(
            Version::V2,
            addr("[2001:db8::1]:1024"),
            addr("[2001:db8::2]:80"),
        );
        assert_eq!(v6.octets()[12..16], [0x21, 0x21, 0, 36]);
        assert_eq!(v6.octets().len(), 52);
        assert_eq!(v6.octets()[48..], [4, 0, 0, 80]);
        let local = Header::local(Version::V2);
        assert_eq!(local.octets()[12..], [0x20, 0, 0, 0]);
        assert!(Header::local(Version::Off).octets().is_empty());
    }

    /// What a backend makes of a header: addresses, and where the stream begins.
    fn read(octets: &[u8]) -> (SocketAddr, SocketAddr, usize) {
        if let Some(rest) = octets.strip_prefix(&SIGNATURE) {
            let len = usize::from(u16::from_be_bytes([rest[2], rest[3]]));
            let body = &rest[4..4 + len];
            let port = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
            let (from, to, ports): (IpAddr, IpAddr, usize) = match rest[1] {
                TCP4 => {
                    let ip = |at: usize| <[u8; 4]>::try_from(&body[at..at + 4]).expect("four");
                    (ip(0).into(), ip(4).into(), 8)
                }
                TCP6 => {
                    let ip = |at: usize| <[u8; 16]>::try_from(&body[at..at + 16]).expect("16");
                    (ip(0).into(), ip(16).into(), 32)
                }
                other => panic!("family {other}"),
            };
            assert_eq!(rest[0], PROXY);
            return (
                SocketAddr::new(from, port(ports)),
                SocketAddr::new(to, port(ports + 2)),
                SIGNATURE.len() + 4 + len,
            );
        }
        let end = octets
            .windows(2)
            .position(|w| w == b"\r\n")
            .expect("a line");
        let line = std::str::from_utf8(&octets[..end]).expect("ASCII");
        let words: Vec<&str> = line.split(' ').collect();
        assert_eq!(words.len(), 6, "{line}");
        let ip = |i: usize| words[i].parse::<IpAddr>().expect("an address");
        let port = |i: usize| words[i].parse::<u16>().expect("a port");
        assert_eq!(words[1] == "TCP4", ip(2).is_ipv4());
        (
            SocketAddr::new(ip(2), port(4)),
            SocketAddr::new(ip(3), port(5)),
            end + 2,
        )
    }

    proptest! {
        #[test]
        fn a_backend_reads_what_was_meant(
            v6: bool, from: [u8; 16], to: [u8; 16], ports: (u16, u16), text: bool,
        ) {
            let ip = |o: [u8; 16]| if v6 { IpAddr::from(o) } else { IpAddr::from([o[0], o[1], o[2], o[3]]) };
            let (from, to) = (SocketAddr::new(ip(from), ports.0), SocketAddr::new(ip(to), ports.1));
            let version = if text { Version::V1 } else { Version::V2 };
            let header = Header::new(version, from, to);
            let mut stream = header.octets().to_vec();
            stream.extend(b"GET /");
            let (client, local, start) = read(&stream);
            prop_assert_eq!((client, local), (from, to));
            prop_assert_eq!(&stream[start..], b"GET /");
        }
    }
}
