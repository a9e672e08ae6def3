//! MSS by route: where a route has an MTU or an MSS of its own (`ip route … mtu`, `advmss`),
//! the kernel announces what suits that, and so must we.

use super::super::netlink::{self, attributes};
use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use tcp_common::flow::Addr;

/// Octets of `struct rtmsg`.
const MESSAGE: usize = 12;
const RTA_DST: u16 = 1;
const RTA_METRICS: u16 = 8;
const RTA_TABLE: u16 = 15;
const RTAX_MTU: u16 = 2;
const RTAX_ADVMSS: u16 = 8;
const TABLE_MAIN: u32 = 254;
const UNICAST: u8 = 1;
/// More routes than that are not looked at, which is said.
pub const MOST: usize = 65_536;

/// Prefixes, as their length of 128 bits and address, with the MSS; zero: the interface's.
pub type Routes = BTreeMap<(u32, [u32; 4]), u16>;

/// The routes of the main table, if any of them has an MSS of its own; else none.
pub fn find() -> io::Result<Routes> {
    let mut all = Routes::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let mut body = vec![0; MESSAGE];
        body[0] = family as u8;
        let messages = netlink::dump(netlink::Family::Route, libc::RTM_GETROUTE, &body)?;
        all.extend(messages.iter().filter_map(|m| read(m)));
    }
    if all.len() > MOST {
        return Err(io::Error::other(format!("more than {MOST} routes")));
    }
    if all.values().all(|mss| *mss == 0) {
        all.clear();
    }
    Ok(all)
}

fn read(message: &[u8]) -> Option<((u32, [u32; 4]), u16)> {
    let v4 = i32::from(*message.first()?) == libc::AF_INET;
    let mut len = u32::from(*message.get(1)?);
    let mut table = u32::from(*message.get(4)?);
    if *message.get(7)? != UNICAST {
        return None;
    }
    let mut to: IpAddr = if v4 { [0; 4].into() } else { [0; 16].into() };
    let mut mss = 0;
    for (kind, value) in attributes(message.get(MESSAGE..)?) {
        match kind {
            RTA_DST if v4 => to = <[u8; 4]>::try_from(value).ok()?.into(),
            RTA_DST => to = <[u8; 16]>::try_from(value).ok()?.into(),
            RTA_TABLE => table = netlink::word(value)?,
            RTA_METRICS => mss = metric(value, if v4 { 40 } else { 60 }),
            _ => {}
        }
    }
    if v4 {
        len += 96;
    }
    (table == TABLE_MAIN).then_some(((len, Addr::from(to).0), mss))
}

fn metric(nested: &[u8], headers: u32) -> u16 {
    let of = |wanted| {
        attributes(nested)
            .find(|(kind, _)| *kind == wanted)
            .and_then(|(_, value)| netlink::word(value))
            .filter(|value| *value != 0)
    };
    let mss = of(RTAX_ADVMSS).or_else(|| of(RTAX_MTU).map(|mtu| mtu.saturating_sub(headers)));
    mss.map_or(0, |mss| mss.min(u32::from(u16::MAX)) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A route as the kernel describes it.
    fn message(v4: bool, len: u8, dst: &[u8], metrics: &[(u16, u32)]) -> Vec<u8> {
        let family = if v4 { libc::AF_INET } else { libc::AF_INET6 };
        let mut m = vec![family as u8, len, 0, 0, 254, 0, 0, UNICAST, 0, 0, 0, 0];
        netlink::put(&mut m, RTA_DST, dst);
        let mut nested = Vec::new();
        for (kind, value) in metrics {
            netlink::put(&mut nested, *kind, &value.to_ne_bytes());
        }
        netlink::put(&mut m, RTA_METRICS, &nested);
        m
    }

    #[test]
    fn the_mss_is_of_the_metric_that_says_it_first() {
        let mss = |v4, metrics: &[_]| {
            let dst = if v4 { &[10, 0, 0, 0][..] } else { &[0x20; 16] };
            read(&message(v4, 8, dst, metrics)).expect("a route").1
        };
        assert_eq!(mss(true, &[]), 0);
        assert_eq!(mss(true, &[(RTAX_MTU, 1400)]), 1360);
        assert_eq!(mss(false, &[(RTAX_MTU, 1400)]), 1340);
        assert_eq!(mss(true, &[(RTAX_MTU, 1400), (RTAX_ADVMSS, 1000)]), 1000);
    }

    #[test]
    fn ipv4_prefixes_are_of_the_mapped_address() {
        let (key, _) = read(&message(true, 8, &[10, 0, 0, 0], &[])).expect("a route");
        let ten = Addr::from(IpAddr::from([10, 0, 0, 0]));
        assert_eq!(key, (104, ten.0));
        let mut local = message(true, 8, &[10, 0, 0, 0], &[]);
        local[4] = 255;
        assert_eq!(read(&local), None);
        assert_eq!(read(&local[..6]), None);
    }
}
