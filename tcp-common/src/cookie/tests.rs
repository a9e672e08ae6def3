use super::*;
use crate::wire::options::Timestamps;
use core::hash::Hasher;
use proptest::prelude::*;
use siphasher::sip::SipHasher13;

const KEY: Key = Key {
    k0: 0x0706_0504_0302_0100,
    k1: 0x0f0e_0d0c_0b0a_0908,
};

fn v4(port: u16) -> FlowKey {
    FlowKey::new(
        format!("192.0.2.7:{port}").parse().expect("literal"),
        "198.51.100.9:443".parse().expect("literal"),
    )
}

fn v6(port: u16) -> FlowKey {
    FlowKey::new(
        format!("[2001:db8::7]:{port}").parse().expect("literal"),
        "[2001:db8::9]:443".parse().expect("literal"),
    )
}

fn offer(mss: Option<u16>, window_scale: Option<u8>, sack: bool, ts: bool) -> SynOptions {
    SynOptions {
        mss,
        window_scale,
        sack_permitted: sack,
        timestamps: ts.then_some(Timestamps { val: 1, ecr: 0 }),
        sack: None,
    }
}

fn check_made(flow: &FlowKey, irs: u32, c: Cookie, n: Negotiated) -> Option<Negotiated> {
    check(&KEY, flow, irs, c.iss, n.timestamps.then_some(c.tsval))
}

#[test]
fn the_mac_is_siphash_1_3_of_the_documented_message() {
    for (flow, octets) in [(v4(1000), 8usize), (v6(1000), 32)] {
        let mut message = Vec::new();
        if octets == 8 {
            message.extend([192, 0, 2, 7, 198, 51, 100, 9]);
        } else {
            message.extend(flow.remote.octets());
            message.extend(flow.local.octets());
        }
        message.extend(1000u16.to_be_bytes());
        message.extend(443u16.to_be_bytes());
        message.extend(0xdead_beef_u32.to_le_bytes());
        message.extend([0x33, 0x22, 0x11]);
        let mut reference = SipHasher13::new_with_keys(KEY.k0, KEY.k1);
        reference.write(&message);
        assert_eq!(mac(&KEY, &flow, 0xdead_beef, 0x11_2233), reference.finish());
    }
}

#[test]
fn with_timestamps_the_options_are_carried_exactly() {
    for mss in [64u16, 536, 1220, 1460, 2047, 2048, 8960] {
        for scale in (0..=14).map(Some).chain([None]) {
            for sack in [false, true] {
                let flow = v6(4000);
                let (c, n) = make(
                    &KEY,
                    1,
                    &flow,
                    99,
                    &offer(Some(mss), scale, sack, true),
                    true,
                );
                assert_eq!(
                    n,
                    Negotiated {
                        mss,
                        window_scale: scale,
                        sack,
                        timestamps: true,
                        ecn: true
                    }
                );
                assert_eq!(check_made(&flow, 99, c, n), Some(n));
                assert_eq!(slot_parity(c.iss, Some(c.tsval)), 1);
            }
        }
    }
}

#[test]
fn without_timestamps_a_windows_client_keeps_everything() {
    let flow = v4(4000);
    let (c, n) = make(
        &KEY,
        0,
        &flow,
        7,
        &offer(Some(1460), Some(8), true, false),
        false,
    );
    assert_eq!(
        n,
        Negotiated {
            mss: 1460,
            window_scale: Some(8),
            sack: true,
            timestamps: false,
            ecn: false
        }
    );
    assert_eq!(check_made(&flow, 7, c, n), Some(n));
    assert_eq!(slot_parity(c.iss, None), 0);
}

#[test]
fn a_syn_without_mss_gets_the_default_of_its_family_rfc9293_section_3_7_1() {
    let (_, n4) = make(&KEY, 0, &v4(1), 0, &SynOptions::default(), false);
    let (_, n6) = make(&KEY, 0, &v6(1), 0, &SynOptions::default(), false);
    assert_eq!((n4.mss, n6.mss), (536, 1220));
}

#[test]
fn sequence_and_acknowledgment_shifted_alike_do_not_validate() {
    let flow = v4(5000);
    for ts in [false, true] {
        let (c, n) = make(
            &KEY,
            0,
            &flow,
            1000,
            &offer(Some(1460), None, true, ts),
            false,
        );
        for d in 1..20_000u32 {
            // The low five bits of a plain ISS are not MAC: shift past them too.
            for d in [d, d << 5] {
                let shifted = Cookie {
                    iss: c.iss.wrapping_add(d),
                    ..c
                };
                assert_eq!(check_made(&flow, 1000 + d, shifted, n), None, "shift {d}");
            }
        }
    }
}

/// Counts how many of 2^22 ISS values that share the slot and code bits pass: the
/// rate must be that of the MAC bits left (here exactly the one that was made).
#[test]
fn of_all_values_of_22_mac_bits_exactly_one_is_accepted() {
    let flow = v4(6000);
    let (c, _) = make(
        &KEY,
        0,
        &flow,
        5,
        &offer(Some(1460), Some(8), true, false),
        false,
    );
    let accepted = (0..1u32 << 22)
        .filter(|guess| check(&KEY, &flow, 5, c.iss ^ guess << 5, None).is_some())
        .count();
    assert_eq!(accepted, 1);
}

/// Random guesses against a MAC cut to few enough bits to hit often would need a
/// cut MAC; instead: every single wrong bit of ISS and `TSval` is noticed, so all
/// 45 MAC bits and all carried bits count.
#[test]
fn every_bit_of_iss_and_tsval_counts() {
    for (ts, flow) in [
        (true, v4(7000)),
        (true, v6(7000)),
        (false, v4(7000)),
        (false, v6(7000)),
    ] {
        let (c, n) = make(
            &KEY,
            0,
            &flow,
            5,
            &offer(Some(1460), Some(8), true, ts),
            false,
        );
        for bit in 0..64 {
            if bit >= 32 && !ts {
                break;
            }
            let bad = if bit < 32 {
                Cookie {
                    iss: c.iss ^ 1 << bit,
                    ..c
                }
            } else {
                Cookie {
                    tsval: c.tsval ^ 1 << (bit - 32),
                    ..c
                }
            };
            let parity_bit = if ts { 32 + TS_MAC_BITS } else { 4 };
            if bit == parity_bit {
                // It selects the other slot's key.
                assert_eq!(slot_parity(bad.iss, ts.then_some(bad.tsval)), 1);
            } else {
                assert_eq!(check_made(&flow, 5, bad, n), None, "bit {bit}");
            }
        }
    }
}

#[test]
fn the_bounds_are_those_of_the_docs() {
    assert_eq!(MAC_BITS_PLAIN, 27);
    assert_eq!(MAC_BITS_TIMESTAMPS, 45);
}

#[test]
fn data_behind_a_lost_first_segment_is_known_as_early_and_not_accepted() {
    for ts in [false, true] {
        let flow = v4(8000);
        let (c, n) = make(&KEY, 0, &flow, 5, &offer(Some(1460), None, true, ts), false);
        let tsecr = ts.then_some(c.tsval);
        for k in 1..=MAX_EARLY {
            let irs = 5 + k * 1448;
            assert_eq!(check_made(&flow, irs, c, n), None);
            assert!(is_early(&KEY, &flow, irs, c.iss, tsecr, 1448));
            assert!(!is_early(&KEY, &flow, irs + 1, c.iss, tsecr, 1448));
        }
        let beyond = 5 + (MAX_EARLY + 1) * 1448;
        assert!(!is_early(&KEY, &flow, beyond, c.iss, tsecr, 1448));
    }
}

fn any_offer() -> impl Strategy<Value = SynOptions> {
    (
        proptest::option::of(any::<u16>()),
        proptest::option::of(0u8..=14),
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(|(mss, scale, sack, ts)| offer(mss, scale, sack, ts))
}

proptest! {
    #[test]
    fn what_is_made_is_accepted_and_never_exceeds_the_offer(
        o in any_offer(), irs: u32, port: u16, six: bool, k0: u64, k1: u64, parity in 0u32..2
    ) {
        let key = Key { k0, k1 };
        let flow = if six { v6(port) } else { v4(port) };
        let (c, n) = make(&key, parity, &flow, irs, &o, false);
        let tsecr = n.timestamps.then_some(c.tsval);
        prop_assert_eq!(check(&key, &flow, irs, c.iss, tsecr), Some(n));
        prop_assert_eq!(slot_parity(c.iss, tsecr), parity);
        prop_assert_eq!(n.timestamps, o.timestamps.is_some());
        prop_assert!(!n.sack || o.sack_permitted);
        prop_assert!(n.window_scale <= o.window_scale);
        let floor = match (n.timestamps, six) { (true, _) => MIN_MSS, (false, false) => 536, (false, true) => 1220 };
        let asked = o.mss.unwrap_or(if six { 1220 } else { 536 });
        prop_assert!(n.mss <= asked.max(floor), "{} > {}", n.mss, asked);
    }

    #[test]
    fn another_flow_isn_or_key_is_refused(o in any_offer(), irs: u32, other in any::<u32>()) {
        prop_assume!(irs != other);
        let flow = v4(1);
        let (c, n) = make(&KEY, 0, &flow, irs, &o, false);
        prop_assert_eq!(check_made(&flow, other, c, n), None);
        prop_assert_eq!(check_made(&v4(2), irs, c, n), None);
        let key = Key { k0: KEY.k0 ^ 1, k1: KEY.k1 };
        prop_assert_eq!(check(&key, &flow, irs, c.iss, n.timestamps.then_some(c.tsval)), None);
    }
}
