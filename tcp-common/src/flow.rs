//! The key of a connection: remote and local address and port, one layout for
//! IPv4 and IPv6.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// An IP address as 16 octets in network order; IPv4 as `::ffff:a.b.c.d`
/// (RFC 4291 §2.5.5.2). Kept as four words so that BPF loads it in words.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(C)]
pub struct Addr(pub [u32; 4]);

/// Third word of an IPv4-mapped address, as it lies in memory.
pub const V4_MAPPED: u32 = 0x0000_ffff_u32.to_be();

impl Addr {
    /// From the address word as it lies in an IPv4 header.
    #[inline(always)]
    pub const fn v4(word: u32) -> Self {
        Self([0, 0, V4_MAPPED, word])
    }

    /// Whether this is an IPv4 address.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == V4_MAPPED
    }

    /// The octets in network order.
    pub fn octets(&self) -> [u8; 16] {
        let mut out = [0; 16];
        for (chunk, word) in out.chunks_exact_mut(4).zip(self.0) {
            chunk.copy_from_slice(&word.to_ne_bytes());
        }
        out
    }
}

impl From<IpAddr> for Addr {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => Self::v4(u32::from_ne_bytes(v4.octets())),
            IpAddr::V6(v6) => {
                let o = v6.octets();
                let word = |i: usize| u32::from_ne_bytes([o[i], o[i + 1], o[i + 2], o[i + 3]]);
                Self([word(0), word(4), word(8), word(12)])
            }
        }
    }
}

impl From<Addr> for IpAddr {
    fn from(addr: Addr) -> Self {
        if addr.is_v4() {
            Self::V4(Ipv4Addr::from(addr.0[3].to_ne_bytes()))
        } else {
            Self::V6(Ipv6Addr::from(addr.octets()))
        }
    }
}

impl fmt::Debug for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&IpAddr::from(*self), f)
    }
}

/// A connection's 4-tuple seen from the server. 36 octets, no padding; also the
/// key of the `FLOWS` map.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(C)]
pub struct FlowKey {
    /// The client's address.
    pub remote: Addr,
    /// The served address.
    pub local: Addr,
    /// The client's port as it lies in the header (network order).
    pub remote_port_be: u16,
    /// The served port as it lies in the header (network order).
    pub local_port_be: u16,
}

const _: () = assert!(size_of::<FlowKey>() == 36);

impl FlowKey {
    /// From the two ends of the connection.
    pub fn new(remote: SocketAddr, local: SocketAddr) -> Self {
        Self {
            remote: remote.ip().into(),
            local: local.ip().into(),
            remote_port_be: remote.port().to_be(),
            local_port_be: local.port().to_be(),
        }
    }

    /// Whether the connection runs over IPv4.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        self.local.is_v4()
    }

    /// The flow's slot in [`crate::abi::FLOW_FILTER`]. Not keyed: who makes flows share a
    /// slot on purpose gains look-ups that would be made without the filter.
    #[inline(always)]
    pub const fn filter_slot(&self) -> usize {
        let r = &self.remote.0;
        let ports = self.remote_port_be as u32 | (self.local_port_be as u32) << 16;
        let mixed = (r[0] ^ r[1] ^ r[2] ^ r[3] ^ ports).wrapping_mul(0x9e37_79b1);
        (mixed >> (u32::BITS - crate::abi::FILTER_BITS)) as usize
    }

    /// The client's end.
    pub fn remote(&self) -> SocketAddr {
        SocketAddr::new(self.remote.into(), u16::from_be(self.remote_port_be))
    }

    /// Our end.
    pub fn local(&self) -> SocketAddr {
        SocketAddr::new(self.local.into(), u16::from_be(self.local_port_be))
    }
}

impl fmt::Display for FlowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} > {}", self.remote(), self.local())
    }
}

impl fmt::Debug for FlowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_round_trip() {
        for text in ["10.77.0.2", "0.0.0.0", "255.1.2.3", "fd77::2", "::", "::1"] {
            let ip: IpAddr = text.parse().expect("literal");
            assert_eq!(IpAddr::from(Addr::from(ip)), ip);
            assert_eq!(Addr::from(ip).is_v4(), ip.is_ipv4());
        }
    }

    #[test]
    fn the_key_keeps_both_ends() {
        let remote: SocketAddr = "[fd77::1]:40000".parse().expect("literal");
        let local: SocketAddr = "[fd77::2]:80".parse().expect("literal");
        let key = FlowKey::new(remote, local);
        assert_eq!((key.remote(), key.local()), (remote, local));
        assert!(!key.is_v4());
    }
}
