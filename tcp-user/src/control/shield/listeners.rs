//! The kernel's listening TCP sockets in this namespace, as `ss -tlm` asks for them.

use super::super::netlink::{self, attributes};
use std::io;
use std::net::IpAddr;
use tcp_common::flow::Addr;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const LISTEN: u32 = 10;
/// Octets of `inet_diag_sockid`.
const SOCKET_ID: usize = 48;
/// Octets of `inet_diag_msg`.
const MESSAGE: usize = 72;
const INET_DIAG_SKMEMINFO: u16 = 7;
const INET_DIAG_SKV6ONLY: u16 = 11;

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Bound to this address; `None`: to any of its family.
    pub addr: Option<IpAddr>,
    /// An IPv6 socket.
    pub v6: bool,
    /// Port, host order.
    pub port: u16,
    /// An IPv6 socket that takes no IPv4.
    pub v6_only: bool,
    /// Bound to the interface with this index; zero: to none.
    pub interface: u32,
    /// Its number among all sockets.
    pub inode: u32,
    /// Receive buffer, octets.
    pub buffer: u32,
}

/// All of them.
pub fn find() -> io::Result<Vec<Listener>> {
    let mut all = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let mut body = vec![
            family as u8,
            libc::IPPROTO_TCP as u8,
            1 << (INET_DIAG_SKMEMINFO - 1),
            0,
        ];
        body.extend((1_u32 << LISTEN).to_ne_bytes());
        body.resize(body.len() + SOCKET_ID, 0);
        match netlink::dump(netlink::Family::SockDiag, SOCK_DIAG_BY_FAMILY, &body) {
            Ok(messages) => all.extend(messages.iter().filter_map(|m| read(m))),
            // No IPv6 here.
            Err(error) if family == libc::AF_INET6 => tracing::debug!(%error, "IPv6 sockets"),
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

fn read(message: &[u8]) -> Option<Listener> {
    let word = |at: usize| netlink::word(message.get(at..)?);
    let v6 = i32::from(*message.first()?) == libc::AF_INET6;
    let address: [u8; 16] = message.get(8..24)?.try_into().ok()?;
    let addr: IpAddr = if v6 {
        address.into()
    } else {
        [address[0], address[1], address[2], address[3]].into()
    };
    let mut listener = Listener {
        addr: (!addr.is_unspecified()).then_some(addr),
        v6,
        port: u16::from_be_bytes([*message.get(4)?, *message.get(5)?]),
        v6_only: false,
        interface: word(40)?,
        inode: word(68)?,
        buffer: 0,
    };
    for (kind, value) in attributes(message.get(MESSAGE..)?) {
        match kind {
            INET_DIAG_SKMEMINFO => listener.buffer = netlink::word(value.get(4..)?)?,
            INET_DIAG_SKV6ONLY => listener.v6_only = *value.first()? != 0,
            _ => {}
        }
    }
    (listener.buffer != 0).then_some(listener)
}

impl Listener {
    /// The addresses that it is found by: its own, or the unspecified ones of the families
    /// that it takes.
    pub fn addresses(&self) -> Vec<Addr> {
        match self.addr {
            // An IPv4 address in an IPv6 socket is an IPv4 listener.
            Some(addr) => vec![addr.to_canonical().into()],
            None if !self.v6 => vec![Addr::v4(0)],
            None if self.v6_only => vec![Addr::default()],
            None => vec![Addr::default(), Addr::v4(0)],
        }
    }

    /// Whether segments to the address are its own.
    pub fn takes(&self, addr: IpAddr) -> bool {
        match self.addr {
            Some(own) => own.to_canonical() == addr,
            None if addr.is_ipv4() => !self.v6 || !self.v6_only,
            None => self.v6,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_listener_of_each_family_is_found() {
        for place in ["127.0.0.1:0", "[::1]:0", "[::]:0", "0.0.0.0:0"] {
            let open = TcpListener::bind(place).expect(place);
            let local = open.local_addr().expect("bound");
            let all = find().expect("no privileges needed");
            let found: Vec<_> = all.iter().filter(|l| l.port == local.port()).collect();
            let [found] = found[..] else {
                panic!("{place}: {found:?}");
            };
            assert_eq!(found.addr.is_none(), local.ip().is_unspecified());
            assert_eq!(found.v6, local.is_ipv6());
            assert_eq!(found.v6_only, local.is_ipv6() && found.addr.is_some());
            assert!(found.inode != 0 && found.buffer > 2000);
            assert!(found.takes(local.ip()) || found.addr.is_none());
        }
    }

    #[test]
    fn families_are_told_apart() {
        let any = Listener {
            addr: None,
            v6: true,
            port: 80,
            v6_only: false,
            interface: 0,
            inode: 1,
            buffer: 1,
        };
        let (v4, v6) = (
            [192, 0, 2, 1].into(),
            IpAddr::from([0x2001, 0, 0, 0, 0, 0, 0, 1]),
        );
        assert!(any.takes(v4) && any.takes(v6));
        let only = Listener {
            v6_only: true,
            ..any
        };
        assert!(!only.takes(v4) && only.takes(v6));
        assert_eq!(only.addresses(), [Addr::default()]);
        let four = Listener { v6: false, ..any };
        assert!(four.takes(v4) && !four.takes(v6));
        assert_eq!(four.addresses(), [Addr::v4(0)]);
        let mapped = Listener {
            addr: "::ffff:192.0.2.1".parse().ok(),
            ..any
        };
        assert!(mapped.takes(v4) && !mapped.takes(v6));
        assert_eq!(mapped.addresses(), [Addr::from(v4)]);
    }
}
