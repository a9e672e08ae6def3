//! What the kernel tells of an interface: index, MTU, queues, driver, addresses.
//!
//! By ioctl and `getifaddrs`, because `/sys/class/net` shows the namespace in which it
//! was mounted and not the one we are in.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};

const ETHTOOL_GDRVINFO: u32 = 0x3;
const ETHTOOL_GCHANNELS: u32 = 0x3c;

/// An interface as it is now.
#[derive(Clone, Debug)]
pub struct Nic {
    /// Its name.
    pub name: String,
    /// Its index.
    pub index: u32,
    /// Largest packet that it sends, octets.
    pub mtu: u32,
    /// RX queues in use.
    pub queues: u32,
    /// Driver name; empty if unknown.
    pub driver: String,
}

/// `struct ethtool_channels`.
#[repr(C)]
#[derive(Default)]
pub(super) struct Channels {
    cmd: u32,
    max: [u32; 4],
    rx: u32,
    tx: u32,
    other: u32,
    combined: u32,
}

impl Channels {
    /// RX and TX queues in use.
    pub(super) const fn queues(&self) -> (u32, u32) {
        (self.rx + self.combined, self.tx + self.combined)
    }
}

/// Asks for the channels in use. Drivers with one queue often do not implement it.
pub(super) fn channels(socket: &OwnedFd, name: &str) -> io::Result<Channels> {
    let mut channels = Channels {
        cmd: ETHTOOL_GCHANNELS,
        ..Channels::default()
    };
    ethtool(socket, name, &mut channels)?;
    Ok(channels)
}

/// `struct ethtool_drvinfo`.
#[repr(C)]
struct DriverInfo {
    cmd: u32,
    driver: [u8; 32],
    rest: [u8; 160],
}

impl Nic {
    /// Asks for the interface called `name`; `None` if there is none.
    pub fn find(name: &str) -> io::Result<Option<Self>> {
        let index = match nix::net::if_::if_nametoindex(name) {
            Ok(index) => index,
            Err(nix::Error::ENODEV | nix::Error::EINVAL | nix::Error::ENAMETOOLONG) => {
                return Ok(None);
            }
            Err(e) => return Err(e.into()),
        };
        let socket = nix::sys::socket::socket(
            nix::sys::socket::AddressFamily::Inet,
            nix::sys::socket::SockType::Datagram,
            nix::sys::socket::SockFlag::SOCK_CLOEXEC,
            None,
        )?;

        let mut request = request(name);
        // SAFETY: SIOCGIFMTU reads the name and writes ifru_mtu of a valid ifreq.
        if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFMTU, &raw mut request) } < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just written this member.
        let mtu = unsafe { request.ifr_ifru.ifru_mtu } as u32;

        let queues = channels(&socket, name).map_or(1, |c| c.queues().0.max(1));

        let mut info = DriverInfo {
            cmd: ETHTOOL_GDRVINFO,
            driver: [0; 32],
            rest: [0; 160],
        };
        let driver = match ethtool(&socket, name, &mut info) {
            Ok(()) => info
                .driver
                .split(|b| *b == 0)
                .next()
                .map(|b| String::from_utf8_lossy(b).into_owned())
                .unwrap_or_default(),
            Err(_) => String::new(),
        };
        Ok(Some(Self {
            name: name.to_owned(),
            index,
            mtu,
            queues,
            driver,
        }))
    }

    /// The peer may hand over frames whose TCP checksum is left to an offload that
    /// never runs (`CHECKSUM_PARTIAL`): the frame does not leave this machine.
    pub fn partial_checksums(&self) -> bool {
        self.driver == "veth"
    }

    /// The addresses of the interface, link-local ones included.
    pub fn addresses(&self) -> io::Result<Vec<IpAddr>> {
        let mut addresses: Vec<IpAddr> = nix::ifaddrs::getifaddrs()?
            .filter(|a| a.interface_name == self.name)
            .filter_map(|a| {
                let address = a.address?;
                address
                    .as_sockaddr_in()
                    .map(|v4| IpAddr::V4(v4.ip()))
                    .or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
            })
            .collect();
        addresses.sort_unstable();
        addresses.dedup();
        Ok(addresses)
    }
}

/// An `ifreq` that names the interface; `if_nametoindex` accepted the name before.
fn request(name: &str) -> libc::ifreq {
    // SAFETY: ifreq is plain data, zeros are a value of it.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let room = request.ifr_name.len() - 1;
    for (to, from) in request.ifr_name[..room].iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request
}

/// One ethtool command; `T` starts with the command's number.
pub(super) fn ethtool<T>(socket: &OwnedFd, name: &str, data: &mut T) -> io::Result<()> {
    let mut request = request(name);
    request.ifr_ifru.ifru_data = std::ptr::from_mut(data).cast();
    // SAFETY: `data` is a live structure of the size that its command number stands for.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_has_an_address() {
        let lo = Nic::find("lo")
            .expect("ioctl")
            .expect("every namespace has lo");
        assert!(lo.mtu > 0 && lo.queues >= 1);
        assert_eq!(
            Nic::find("no-such-if").expect("no error").map(|n| n.name),
            None
        );
    }
}
