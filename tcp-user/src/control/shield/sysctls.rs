//! What the kernel does with a handshake, from `/proc/sys/net` of this namespace.

use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

/// Below `/proc/sys/net`.
pub const SYNCOOKIES: &str = "ipv4/tcp_syncookies";
/// Below `/proc/sys/net`.
pub const TIMESTAMPS: &str = "ipv4/tcp_timestamps";

/// The settings that count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sysctls {
    /// `tcp_syncookies`: 0 never, 1 when a queue is full, 2 always.
    pub syncookies: u32,
    /// `tcp_timestamps`: 0 none, 1 with an offset for each connection, 2 without.
    pub timestamps: u32,
    /// `tcp_sack`.
    pub sack: bool,
    /// `tcp_window_scaling`.
    pub window_scaling: bool,
    /// `tcp_ecn` is not 0.
    pub ecn: bool,
    /// `tcp_rmem`: receive buffer of a new socket, octets.
    pub buffer: u32,
    /// `tcp_rmem`: receive buffer that grows, at most, octets.
    pub max_buffer: u32,
    /// `rmem_max`, octets.
    pub rmem_max: u32,
    /// How much of a buffer is window.
    pub share: Share,
}

/// How much of a receive buffer the kernel offers as window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// So many of 256 octets: Linux 6.6 and newer.
    Ratio(u32),
    /// `tcp_adv_win_scale` before.
    Scale(i32),
}

impl Share {
    /// Window for a buffer, octets.
    pub fn of(self, buffer: u32) -> u32 {
        match self {
            Self::Ratio(ratio) => ((u64::from(buffer) * u64::from(ratio)) >> 8) as u32,
            Self::Scale(scale @ 1..=31) => buffer - (buffer >> scale),
            Self::Scale(scale) => buffer >> scale.unsigned_abs().min(31),
        }
    }

    /// Of this kernel, for a socket that has not received anything yet.
    fn read() -> Self {
        const RATIO: u32 = 128;
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        if super::super::doctor::version(&release) >= (6, 6) {
            return Self::Ratio(RATIO);
        }
        let scale = text("ipv4/tcp_adv_win_scale").and_then(|t| t.trim().parse().ok());
        Self::Scale(scale.unwrap_or(1))
    }
}

fn text(path: &str) -> Option<String> {
    std::fs::read_to_string(Path::new("/proc/sys/net").join(path)).ok()
}

/// The first number of a setting.
pub fn number(path: &str) -> Option<u32> {
    text(path)?.split_whitespace().next()?.parse().ok()
}

impl Sysctls {
    /// Reads them. A kernel without syncookies has none of those settings.
    pub fn read() -> io::Result<Self> {
        let buffers = text("ipv4/tcp_rmem").unwrap_or_default();
        let mut buffers = buffers.split_whitespace().map(|n| n.parse().ok());
        let missing = |what: &str| io::Error::other(format!("net.ipv4.{what} cannot be read"));
        let mut buffer = || buffers.next().flatten().ok_or_else(|| missing("tcp_rmem"));
        buffer()?;
        Ok(Self {
            syncookies: number(SYNCOOKIES).unwrap_or(0),
            timestamps: number(TIMESTAMPS).ok_or_else(|| missing("tcp_timestamps"))?,
            sack: number("ipv4/tcp_sack").unwrap_or(0) != 0,
            window_scaling: number("ipv4/tcp_window_scaling").unwrap_or(0) != 0,
            ecn: number("ipv4/tcp_ecn").unwrap_or(0) != 0,
            buffer: buffer()?,
            max_buffer: buffer()?,
            rmem_max: number("core/rmem_max").map_or_else(largest_buffer, Ok)?,
            share: Share::read(),
        })
    }
}

/// `rmem_max`, which older kernels do not show to namespaces: what a socket gets that asks
/// for more.
fn largest_buffer() -> io::Result<u32> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socket, sockopt};
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Unix, SockType::Datagram, flags, None)?;
    setsockopt(&socket, sockopt::RcvBuf, &(i32::MAX as usize))?;
    // It is twice as much, for the kernel's structures.
    Ok((super::peek::option(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVBUF)? / 2) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_of_a_buffer_is_as_in_the_kernel() {
        assert_eq!(Share::Ratio(128).of(131_072), 65_536);
        assert_eq!(Share::Scale(1).of(131_072), 65_536);
        assert_eq!(Share::Scale(-2).of(131_072), 32_768);
        assert_eq!(Share::Scale(0).of(131_072), 131_072);
    }

    #[test]
    fn the_settings_of_this_system_are_read() {
        let sysctls = Sysctls::read().expect("a Linux with TCP");
        assert!(sysctls.syncookies <= 2 && sysctls.timestamps <= 2);
        assert!(sysctls.buffer > 0 && sysctls.max_buffer >= sysctls.buffer);
        assert!(largest_buffer().expect("a socket") > 0);
    }
}
