//! Offloads and channels of an interface, by ethtool's ioctls.

use super::nic::{Channels, channels, ethtool};
use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;

const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GSSET_INFO: u32 = 0x37;
const ETHTOOL_GFEATURES: u32 = 0x3a;
const ETH_SS_FEATURES: u32 = 4;
/// Features that we have room for; kernels have some 70.
const MOST: usize = 256;

/// `struct ethtool_sset_info` with one set.
#[repr(C)]
struct SetInfo {
    cmd: u32,
    reserved: u32,
    mask: u64,
    count: u32,
}

/// `struct ethtool_gstrings`.
#[repr(C)]
struct Strings {
    cmd: u32,
    set: u32,
    len: u32,
    data: [[u8; 32]; MOST],
}

/// `struct ethtool_gfeatures`; each block is available, requested, active, never changed.
#[repr(C)]
struct Features {
    cmd: u32,
    blocks: u32,
    data: [[u32; 4]; MOST / 32],
}

/// What ethtool tells of an interface.
#[derive(Clone, Debug, Default)]
pub struct Offloads {
    /// Features that are on, by the kernel's names (`rx-lro`, `tx-checksum-ip-generic`).
    pub on: BTreeSet<String>,
    /// RX queues, and TX queues.
    pub queues: Option<(u32, u32)>,
}

impl Offloads {
    /// Asks for the interface called `name`.
    pub fn find(name: &str) -> io::Result<Self> {
        let socket = nix::sys::socket::socket(
            nix::sys::socket::AddressFamily::Inet,
            nix::sys::socket::SockType::Datagram,
            nix::sys::socket::SockFlag::SOCK_CLOEXEC,
            None,
        )?;
        let queues = channels(&socket, name).ok().map(|c: Channels| c.queues());
        Ok(Self {
            on: features(&socket, name)?,
            queues,
        })
    }

    /// Whether the feature is on.
    pub fn has(&self, feature: &str) -> bool {
        self.on.contains(feature)
    }
}

fn features(socket: &OwnedFd, name: &str) -> io::Result<BTreeSet<String>> {
    let mut info = SetInfo {
        cmd: ETHTOOL_GSSET_INFO,
        reserved: 0,
        mask: 1 << ETH_SS_FEATURES,
        count: 0,
    };
    ethtool(socket, name, &mut info)?;
    let count = info.count as usize;
    if count > MOST {
        return Err(io::Error::other("more offloads than can be asked for"));
    }
    let mut strings = Box::new(Strings {
        cmd: ETHTOOL_GSTRINGS,
        set: ETH_SS_FEATURES,
        len: info.count,
        data: [[0; 32]; MOST],
    });
    ethtool(socket, name, &mut *strings)?;
    let mut features = Features {
        cmd: ETHTOOL_GFEATURES,
        blocks: (MOST / 32) as u32,
        data: [[0; 4]; MOST / 32],
    };
    ethtool(socket, name, &mut features)?;
    Ok((0..count)
        .filter(|i| features.data[i / 32][2] & 1 << (i % 32) != 0)
        .map(|i| {
            let text = &strings.data[i];
            let end = text.iter().position(|b| *b == 0).unwrap_or(text.len());
            String::from_utf8_lossy(&text[..end]).into_owned()
        })
        .filter(|name| !name.is_empty())
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_has_features() {
        let lo = Offloads::find("lo").expect("ioctl");
        assert!(lo.has("loopback"), "{lo:?}");
        assert!(Offloads::find("no-such-if").is_err());
    }
}
