use super::*;
use tcp_common::flow::Addr;

fn listen(text: &str) -> Listen {
    text.parse().expect(text)
}

const ANY: Listener = Listener {
    addr: None,
    v6: true,
    port: 443,
    v6_only: false,
    interface: 0,
    inode: 1,
    buffer: 131_072,
};

fn at(addr: &str) -> ListenKey {
    let addr: std::net::IpAddr = addr.parse().expect(addr);
    ListenKey {
        addr: addr.into(),
        port_be: 443_u16.to_be(),
        reserved: 0,
    }
}

#[test]
fn a_listener_is_found_under_every_address_that_it_takes() {
    assert_eq!(
        keys(&listen("*:443=kernel"), &ANY),
        [at("::"), at("0.0.0.0")]
    );
    assert_eq!(
        keys(&listen("192.0.2.1:400-500=kernel"), &ANY),
        [at("192.0.2.1")]
    );
    assert_eq!(keys(&listen("*:444=kernel"), &ANY), []);
    let six = Listener {
        v6_only: true,
        ..ANY
    };
    assert_eq!(keys(&listen("192.0.2.1:443=kernel"), &six), []);
    assert_eq!(keys(&listen("*:443=kernel"), &six), [at("::")]);
    assert_eq!(at("::").addr, Addr::default());
    assert_eq!(at("0.0.0.0").addr, Addr::v4(0));
}

#[test]
fn the_more_exact_one_goes_first() {
    let (any, exact) = (listen("*:443=kernel"), listen("192.0.2.1:443=kernel"));
    let four = Listener { v6: false, ..ANY };
    let bound = Listener {
        addr: "192.0.2.1".parse().ok(),
        ..four
    };
    let ranks = [
        rank(&any, &ANY, true),
        rank(&any, &four, true),
        rank(&any, &bound, true),
        rank(&exact, &ANY, true),
        rank(&exact, &bound, true),
    ];
    assert!(ranks.is_sorted_by(|a, b| a < b), "{ranks:?}");
    assert!(rank(&any, &ANY, false) > rank(&any, &ANY, true));
}

#[test]
fn only_what_the_policy_lets_us_answer_is_shielded() {
    assert!(is_shielded(&listen("*:443=kernel")));
    assert!(is_shielded(&listen("*:443=kernel@adaptive")));
    assert!(!is_shielded(&listen("*:443=kernel@observe")));
    assert!(!is_shielded(&listen("*:443=kernel@off")));
    assert!(!is_shielded(&listen("*:443=http")));
    assert_eq!(describe(&[listen("*:443=http")], true), None);
}

#[test]
fn the_ready_line_says_when_syns_are_answered() {
    let sysctls = |syncookies, timestamps| Sysctls {
        syncookies,
        timestamps,
        sack: true,
        window_scaling: true,
        ecn: true,
        buffer: 131_072,
        max_buffer: 33_554_432,
        rmem_max: 4_194_304,
        share: sysctls::Share::Ratio(128),
    };
    let plain = &[listen("*:443=kernel")][..];
    let adaptive = &[listen("*:443=kernel@adaptive"), listen("*:80=http")][..];
    let both = &[listen("*:443=kernel@adaptive"), listen("*:22=kernel")][..];
    for (listens, cookies, timestamps, tuned, mode, findings) in [
        (plain, 2, 2, true, "full", 0),
        (plain, 2, 1, false, "no-options", 1),
        (plain, 1, 2, false, "when-full", 1),
        (plain, 1, 1, false, "when-full,no-options", 2),
        (plain, 0, 1, false, "off", 2),
        // With --tune cookies come when they are needed, else only if they are always there.
        (adaptive, 1, 2, true, "adaptive", 0),
        (adaptive, 2, 2, false, "adaptive", 0),
        (adaptive, 2, 1, false, "adaptive,no-options", 1),
        (adaptive, 1, 2, false, "when-full", 1),
        (adaptive, 0, 2, false, "off", 1),
        (both, 2, 2, true, "full", 0),
    ] {
        let sysctls = sysctls(cookies, timestamps);
        let (said, found) = describe_with(listens, &sysctls, tuned);
        assert_eq!(
            (said, found.len()),
            (mode, findings),
            "{sysctls:?} {found:?}"
        );
    }
}
