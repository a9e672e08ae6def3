//! As much netlink as it takes to ask for an interface's XDP programs and abilities, to
//! detach a program that was attached that way, and to list sockets.

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Octets of a message's header.
const HEADER: usize = 16;
/// Octets of `struct ifinfomsg`.
const IFINFO: usize = 16;
/// Octets of `struct genlmsghdr`.
const GENL: usize = 4;

const IFLA_LINK: u16 = 5;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_XDP: u16 = 43;
const IFLA_XDP_FD: u16 = 1;
const IFLA_XDP_FLAGS: u16 = 3;
const IFLA_XDP_DRV_PROG_ID: u16 = 5;
const IFLA_XDP_SKB_PROG_ID: u16 = 6;
const IFLA_XDP_HW_PROG_ID: u16 = 7;
const IFLA_XDP_EXPECTED_FD: u16 = 8;
const XDP_FLAGS_REPLACE: u32 = 1 << 4;

const GENL_ID_CTRL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;

/// Where a program sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// In the driver.
    Native,
    /// In the network stack.
    Generic,
    /// On the card.
    Offload,
}

impl Hook {
    /// As `XDP_FLAGS_*_MODE`.
    const fn flag(self) -> u32 {
        match self {
            Self::Generic => 1 << 1,
            Self::Native => 1 << 2,
            Self::Offload => 1 << 3,
        }
    }

    /// As `ip link` and we call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Offload => "offload",
        }
    }
}

/// What rtnetlink tells of an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Program ids by hook.
    pub programs: Vec<(Hook, u32)>,
    /// Index of the other end of a pair.
    pub peer: Option<u32>,
    /// The other end is in another network namespace.
    pub peer_elsewhere: bool,
}

/// Bits of `enum netdev_xdp_act`.
pub mod feature {
    /// The driver runs XDP programs.
    pub const BASIC: u64 = 1;
    /// `XDP_REDIRECT` from here.
    pub const REDIRECT: u64 = 2;
    /// AF_XDP without copies.
    pub const ZERO_COPY: u64 = 8;
}

/// Asks for an interface by index.
pub fn link(index: u32) -> io::Result<Link> {
    let mut link = Link::default();
    for message in ask(
        SockProtocol::NetlinkRoute,
        libc::RTM_GETLINK,
        0,
        &ifinfo(index),
    )? {
        for (kind, value) in attributes(message.get(IFINFO..).unwrap_or_default()) {
            match kind {
                IFLA_LINK => link.peer = word(value),
                IFLA_LINK_NETNSID => link.peer_elsewhere = true,
                IFLA_XDP => link.programs = programs(value),
                _ => {}
            }
        }
    }
    Ok(link)
}

fn programs(nested: &[u8]) -> Vec<(Hook, u32)> {
    attributes(nested)
        .filter_map(|(kind, value)| {
            let hook = match kind {
                IFLA_XDP_DRV_PROG_ID => Hook::Native,
                IFLA_XDP_SKB_PROG_ID => Hook::Generic,
                IFLA_XDP_HW_PROG_ID => Hook::Offload,
                _ => return None,
            };
            Some((hook, word(value)?))
        })
        .collect()
}

/// Detaches the program from the hook, unless it is another one by now.
pub fn detach_xdp(index: u32, hook: Hook, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut nested = Vec::new();
    put(&mut nested, IFLA_XDP_FD, &(-1_i32).to_ne_bytes());
    let flags = hook.flag() | XDP_FLAGS_REPLACE;
    put(&mut nested, IFLA_XDP_FLAGS, &flags.to_ne_bytes());
    let expected = program.as_raw_fd();
    put(&mut nested, IFLA_XDP_EXPECTED_FD, &expected.to_ne_bytes());
    let mut body = ifinfo(index);
    put(&mut body, IFLA_XDP | libc::NLA_F_NESTED as u16, &nested);
    ask(
        SockProtocol::NetlinkRoute,
        libc::RTM_SETLINK,
        libc::NLM_F_ACK as u16,
        &body,
    )
    .map(|_| ())
}

/// [`feature`] bits of an interface. An error is a kernel before 6.3.
pub fn xdp_features(index: u32) -> io::Result<u64> {
    let protocol = SockProtocol::NetlinkGeneric;
    let mut body = vec![CTRL_CMD_GETFAMILY, 1, 0, 0];
    put(&mut body, CTRL_ATTR_FAMILY_NAME, b"netdev\0");
    let family = ask(protocol, GENL_ID_CTRL, 0, &body)?
        .iter()
        .flat_map(|m| attributes(m.get(GENL..).unwrap_or_default()))
        .find(|(kind, _)| *kind == CTRL_ATTR_FAMILY_ID)
        .and_then(|(_, value)| Some(u16::from_ne_bytes(value.get(..2)?.try_into().ok()?)))
        .ok_or(io::ErrorKind::NotFound)?;
    let mut body = vec![NETDEV_CMD_DEV_GET, 1, 0, 0];
    put(&mut body, NETDEV_A_DEV_IFINDEX, &index.to_ne_bytes());
    ask(protocol, family, 0, &body)?
        .iter()
        .flat_map(|m| attributes(m.get(GENL..).unwrap_or_default()))
        .find(|(kind, _)| *kind == NETDEV_A_DEV_XDP_FEATURES)
        .and_then(|(_, value)| Some(u64::from_ne_bytes(value.get(..8)?.try_into().ok()?)))
        .ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// A `struct ifinfomsg` that names an interface.
fn ifinfo(index: u32) -> Vec<u8> {
    let mut body = vec![0; IFINFO];
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    body
}

/// Sends one request; the bodies of the messages that answer it.
fn ask(protocol: SockProtocol, kind: u16, flags: u16, body: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        protocol,
    )?;
    let mut message = Vec::with_capacity(HEADER + body.len());
    message.extend(((HEADER + body.len()) as u32).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend((libc::NLM_F_REQUEST as u16 | flags).to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    sendto(
        socket.as_raw_fd(),
        &message,
        &NetlinkAddr::new(0, 0),
        MsgFlags::empty(),
    )?;
    let mut buffer = vec![0; 64 << 10];
    let mut bodies = Vec::new();
    loop {
        let len = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let done = answers(&buffer[..len], &mut bodies)?;
        if done || flags & libc::NLM_F_DUMP as u16 == 0 {
            return Ok(bodies);
        }
    }
}

/// Whom to ask for a list.
#[derive(Clone, Copy, Debug)]
pub enum Family {
    /// Interfaces, addresses, routes.
    Route,
    /// Sockets.
    SockDiag,
}

/// The bodies of all messages of a list.
pub fn dump(family: Family, kind: u16, body: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    let protocol = match family {
        Family::Route => SockProtocol::NetlinkRoute,
        Family::SockDiag => SockProtocol::NetlinkSockDiag,
    };
    ask(protocol, kind, libc::NLM_F_DUMP as u16, body)
}

/// Adds the bodies in one datagram; true if the list ends with it.
fn answers(mut rest: &[u8], bodies: &mut Vec<Vec<u8>>) -> io::Result<bool> {
    while let Some(len) = word(rest).map(|len| len as usize)
        && (HEADER..=rest.len()).contains(&len)
    {
        let kind = u16::from_ne_bytes([rest[4], rest[5]]);
        let body = &rest[HEADER..len];
        if i32::from(kind) == libc::NLMSG_ERROR {
            match word(body).map_or(0, |code| code as i32) {
                0 => {}
                code => return Err(io::Error::from_raw_os_error(-code)),
            }
        } else if i32::from(kind) == libc::NLMSG_DONE {
            return Ok(true);
        } else {
            bodies.push(body.to_vec());
        }
        rest = &rest[aligned(len).min(rest.len())..];
    }
    Ok(false)
}

/// Attributes one after the other, flags cut off their kinds.
pub(super) fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::from(u16::from_ne_bytes([*rest.first()?, *rest.get(1)?]));
        let kind = u16::from_ne_bytes([*rest.get(2)?, *rest.get(3)?]);
        let value = rest.get(4..len)?;
        rest = &rest[aligned(len).min(rest.len())..];
        Some((kind & libc::NLA_TYPE_MASK as u16, value))
    })
}

pub(super) fn put(to: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let len = 4 + value.len();
    to.extend((len as u16).to_ne_bytes());
    to.extend(kind.to_ne_bytes());
    to.extend(value);
    to.resize(to.len() + aligned(len) - len, 0);
}

const fn aligned(len: usize) -> usize {
    len.next_multiple_of(4)
}

/// The first word.
pub(super) fn word(octets: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(octets.get(..4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_go_there_and_back() {
        let mut body = Vec::new();
        put(&mut body, 7, b"abc");
        put(&mut body, 9 | libc::NLA_F_NESTED as u16, &[]);
        put(&mut body, 1, &[1, 2, 3, 4]);
        let all: Vec<_> = attributes(&body).collect();
        assert_eq!(all, [(7, &b"abc"[..]), (9, &[][..]), (1, &[1, 2, 3, 4])]);
        assert_eq!(attributes(&body[..5]).count(), 0);
    }

    #[test]
    fn loopback_is_a_link_without_a_program_of_ours() {
        let index = nix::net::if_::if_nametoindex("lo").expect("every namespace has lo");
        let link = link(index).expect("no privileges needed");
        assert_eq!(link.programs, []);
        let gone = super::link(u32::MAX / 2).expect_err("no such interface");
        assert_eq!(gone.raw_os_error(), Some(libc::ENODEV));
    }
}
