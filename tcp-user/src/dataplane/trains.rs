//! Runs of full segments, sent through a packet socket: the kernel, or the NIC where it can, cuts
//! them apart (GSO).
//!
//! An AF_XDP frame in copy mode costs a walk through the network stack each; a run costs one for all
//! of it, is copied once, and its checksums are left to the kernel or the NIC. Received is nothing
//! here.

use crate::proto::Train;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Octets that may wait for the device.
const QUEUE: libc::c_int = 4 << 20;
const PACKET_VNET_HDR: libc::c_int = 15;

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM` and `VIRTIO_NET_HDR_GSO_*`.
const NEEDS_CHECKSUM: u8 = 1;
const TCP_V4: u8 = 1;
const TCP_V6: u8 = 4;

/// A packet socket bound to an interface.
#[derive(Debug)]
pub struct TrainSocket(OwnedFd);

impl TrainSocket {
    /// Opens one for interface `index`. Needs `CAP_NET_RAW`.
    pub fn open(index: u32) -> io::Result<Self> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: a call without pointers. Protocol 0: nothing is received.
        let fd = checked(unsafe { libc::socket(libc::AF_PACKET, kind, 0) })?;
        // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        set_option(&socket, libc::SOL_PACKET, PACKET_VNET_HDR, 1)?;
        // Without CAP_NET_ADMIN the default has to do.
        let _ = set_option(&socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, QUEUE);
        // SAFETY: all zeroes is a valid `sockaddr_ll`.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_ifindex = index as libc::c_int;
        // SAFETY: the address lives until the call returns, and its length is given.
        checked(unsafe {
            libc::bind(
                socket.as_raw_fd(),
                (&raw const address).cast(),
                size_of_val(&address) as libc::socklen_t,
            )
        })?;
        Ok(Self(socket))
    }

    /// Sends a run. `Ok(false)`: not now.
    pub fn send(&self, train: &Train<'_>) -> io::Result<bool> {
        let head = train.head();
        let mut about = [0; 10];
        about[0] = NEEDS_CHECKSUM;
        about[1] = if train.is_v4 { TCP_V4 } else { TCP_V6 };
        for (at, value) in [
            (2, head.len() as u16),
            (4, train.segment),
            (6, train.tcp() as u16),
            (8, Train::CHECKSUM as u16),
        ] {
            about[at..at + 2].copy_from_slice(&value.to_ne_bytes());
        }
        let [first, second] = train.payload;
        let parts = [&about[..], head, first, second].map(IoSlice::new);
        // SAFETY: all zeroes is a valid `msghdr`.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        // `IoSlice` is an `iovec` (std guarantees it); the kernel only reads.
        message.msg_iov = parts.as_ptr().cast_mut().cast();
        message.msg_iovlen = parts.len();
        // SAFETY: the parts live until the call returns.
        let sent = unsafe { libc::sendmsg(self.0.as_raw_fd(), &raw const message, 0) };
        if sent >= 0 {
            return Ok(true);
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EAGAIN | libc::ENOBUFS | libc::EINTR | libc::ENETDOWN) => Ok(false),
            _ => Err(error),
        }
    }
}

fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn set_option(
    socket: &OwnedFd,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the value lives until the call returns, and its length is given.
    checked(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    })
    .map(drop)
}
