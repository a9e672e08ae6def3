//! What our SYN-ACK must say so that it agrees with the socket that the kernel makes of the
//! connection: `tcp_select_initial_window`, with what it reads, and the MSS.

use super::listeners::Listener;
use super::peek::Options;
use super::sysctls::Sysctls;
use tcp_common::abi::{Shield, shield};

/// Octets of IP and TCP header without options.
const HEADERS_V4: u32 = 40;
const HEADERS_V6: u32 = 60;
/// Largest shift count (RFC 7323 §2.3).
const MAX_SCALE: u32 = 14;

/// Of a listener, for connections of one family over an interface with this MTU. `options`
/// is `None` if its process cannot be asked.
pub fn derive(
    sysctls: &Sysctls,
    listener: &Listener,
    options: Option<Options>,
    v4: bool,
    mtu: u32,
) -> Shield {
    let options = options.unwrap_or_default();
    // A buffer that grows begins as all do.
    let fixed = options
        .fixed_buffer
        .unwrap_or(listener.buffer != sysctls.buffer);
    let space = sysctls.share.of(listener.buffer).max(1);
    let mut clamp = options.window_clamp;
    if fixed && (clamp == 0 || clamp > space) {
        clamp = space;
    }
    if clamp == 0 {
        clamp = u32::from(u16::MAX) << MAX_SCALE;
    }
    let space = space.min(clamp);
    let most = space
        .max(sysctls.max_buffer)
        .max(sysctls.rmem_max)
        .min(clamp);
    let window_scale = most.ilog2().saturating_sub(15).min(MAX_SCALE);
    let headers = if v4 { HEADERS_V4 } else { HEADERS_V6 };
    let mut mss = mtu.saturating_sub(headers).min(u32::from(u16::MAX)) as u16;
    if options.max_segment != 0 {
        mss = mss.min(options.max_segment);
    }
    Shield {
        space,
        mss,
        window_scale: window_scale as u8,
        flags: flags(sysctls),
    }
}

fn flags(sysctls: &Sysctls) -> u8 {
    [
        (sysctls.timestamps == 2, shield::TIMESTAMPS),
        (sysctls.window_scaling, shield::WINDOW_SCALE),
        (sysctls.sack, shield::SACK),
        (sysctls.ecn, shield::ECN),
        (sysctls.syncookies >= 2, shield::ALWAYS),
        (sysctls.syncookies == 0, shield::QUIET),
    ]
    .iter()
    .filter(|(on, _)| *on)
    .fold(0, |flags, (_, flag)| flags | flag)
}

/// What suits two listeners of which the kernel may take either (`SO_REUSEPORT`). If their
/// shift counts differ no options are offered, for which one is needed.
pub fn both(a: Shield, b: Shield) -> Shield {
    let mut flags = a.flags & b.flags;
    if a.window_scale != b.window_scale {
        flags &= !shield::TIMESTAMPS;
    }
    Shield {
        space: a.space.min(b.space),
        mss: a.mss.min(b.mss),
        window_scale: a.window_scale.min(b.window_scale),
        flags,
    }
}

#[cfg(test)]
mod tests {
    use super::super::sysctls::Share;
    use super::*;

    const SYSCTLS: Sysctls = Sysctls {
        syncookies: 2,
        timestamps: 2,
        sack: true,
        window_scaling: true,
        ecn: true,
        buffer: 131_072,
        max_buffer: 33_554_432,
        rmem_max: 4_194_304,
        share: Share::Ratio(128),
    };
    const LISTENER: Listener = Listener {
        addr: None,
        v6: false,
        port: 80,
        v6_only: false,
        interface: 0,
        inode: 1,
        buffer: 131_072,
    };

    fn of(sysctls: &Sysctls, buffer: u32, options: Option<Options>) -> Shield {
        let listener = Listener { buffer, ..LISTENER };
        derive(sysctls, &listener, options, true, 1500)
    }

    #[test]
    fn the_largest_buffer_that_there_can_be_decides_on_the_scale() {
        let plain = of(&SYSCTLS, 131_072, None);
        assert_eq!(
            (plain.space, plain.window_scale, plain.mss),
            (65_536, 10, 1460)
        );
        for (max_buffer, rmem_max, scale) in [
            (6_291_456, 212_992, 7),
            (212_992, 6_291_456, 7),
            (4096, 4096, 1),
            (u32::MAX, 0, 14),
        ] {
            let sysctls = Sysctls {
                max_buffer,
                rmem_max,
                ..SYSCTLS
            };
            assert_eq!(of(&sysctls, 131_072, None).window_scale, scale);
        }
    }

    #[test]
    fn a_fixed_buffer_and_a_clamp_bound_it() {
        let fixed = Options {
            fixed_buffer: Some(true),
            ..Options::default()
        };
        let big = of(&SYSCTLS, 1 << 20, Some(fixed));
        assert_eq!((big.space, big.window_scale), (524_288, 4));
        assert_eq!(of(&SYSCTLS, 1 << 20, None), big, "guessed from its size");
        // Somebody fixed it at what it was.
        assert_eq!(of(&SYSCTLS, 131_072, Some(fixed)).window_scale, 1);
        let open = Options {
            fixed_buffer: Some(false),
            ..Options::default()
        };
        assert_eq!(of(&SYSCTLS, 1 << 20, Some(open)).window_scale, 10);
        let clamped = Options {
            window_clamp: 10_000,
            max_segment: 1000,
            ..open
        };
        let small = of(&SYSCTLS, 131_072, Some(clamped));
        assert_eq!(
            (small.space, small.window_scale, small.mss),
            (10_000, 0, 1000)
        );
    }

    #[test]
    fn the_mss_is_of_the_family_and_the_mtu() {
        let mss = |v4, mtu| derive(&SYSCTLS, &LISTENER, None, v4, mtu).mss;
        assert_eq!((mss(true, 1500), mss(false, 1500)), (1460, 1440));
        assert_eq!((mss(true, 9000), mss(false, 1280)), (8960, 1220));
    }

    #[test]
    fn settings_of_the_kernel_become_flags() {
        assert_eq!(
            of(&SYSCTLS, 131_072, None).flags,
            shield::TIMESTAMPS | shield::WINDOW_SCALE | shield::SACK | shield::ECN | shield::ALWAYS
        );
        let off = Sysctls {
            syncookies: 0,
            timestamps: 1,
            sack: false,
            window_scaling: false,
            ecn: false,
            ..SYSCTLS
        };
        assert_eq!(of(&off, 131_072, None).flags, shield::QUIET);
        let full = Sysctls {
            syncookies: 1,
            ..off
        };
        assert_eq!(of(&full, 131_072, None).flags, 0);
    }

    #[test]
    fn two_listeners_get_what_suits_both() {
        let a = of(&SYSCTLS, 131_072, None);
        assert_eq!(both(a, a), a);
        let b = Shield {
            space: 1000,
            mss: 500,
            window_scale: 2,
            flags: a.flags,
        };
        assert_eq!(
            both(a, b),
            Shield {
                flags: a.flags & !shield::TIMESTAMPS,
                ..b
            }
        );
    }
}
