//! Ethernet and VLAN tags (IEEE 802.1Q, 802.1ad).

use super::Bytes;

/// Length of an Ethernet header without tags.
pub const ETH_LEN: usize = network_types::eth::EthHdr::LEN;
/// Length of one VLAN tag with the `EtherType` that follows it.
pub const TAG_LEN: usize = 4;
/// Longest link header that we understand: two tags (`QinQ`).
pub const MAX_LINK_LEN: usize = ETH_LEN + 2 * TAG_LEN;

/// `EtherType` of IPv4.
pub const IPV4: u16 = 0x0800;
/// `EtherType` of IPv6.
pub const IPV6: u16 = 0x86dd;
const VLAN: u16 = 0x8100;
const SERVICE_VLAN: u16 = 0x88a8;

/// Where the packet starts and what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// `EtherType` of the payload, after any tags.
    pub ether_type: u16,
    /// Octets before the packet: 14, 18 or 22.
    pub len: usize,
}

#[inline(always)]
const fn is_tag(ether_type: u16) -> bool {
    ether_type == VLAN || ether_type == SERVICE_VLAN
}

/// Parses the link header with at most two tags; `None` if it is cut short.
#[inline(always)]
pub fn parse<B: Bytes + ?Sized>(frame: &B) -> Option<Link> {
    let eth = frame.window::<ETH_LEN>(0)?;
    let mut ether_type = eth.be16::<12>();
    let mut len = ETH_LEN;
    if is_tag(ether_type) {
        ether_type = frame.window::<TAG_LEN>(ETH_LEN)?.be16::<2>();
        len = ETH_LEN + TAG_LEN;
        if is_tag(ether_type) {
            ether_type = frame.window::<TAG_LEN>(ETH_LEN + TAG_LEN)?.be16::<2>();
            len = MAX_LINK_LEN;
        }
    }
    Some(Link { ether_type, len })
}
