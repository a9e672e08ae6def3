use super::*;
use proptest::prelude::*;

const HEADER: usize = 20;

fn parse_all(octets: &[u8]) -> Result<Options, BadOption> {
    let mut header = vec![0; HEADER];
    header.extend(octets);
    parse(&header[..], HEADER, header.len())
}

#[test]
fn the_options_of_a_linux_syn_are_read_by_the_fast_path() {
    let octets = [
        2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 7, 0, 0, 0, 0, 1, 3, 3, 9,
    ];
    let o = parse_all(&octets).expect("well-formed");
    assert_eq!(o.mss, Some(1460));
    assert_eq!(o.window_scale, Some(9));
    assert!(o.sack_permitted);
    assert_eq!(o.timestamps, Some(Timestamps { val: 7, ecr: 0 }));
}

#[test]
fn the_options_of_a_windows_syn_are_read_by_the_fast_path() {
    let o = parse_all(&[2, 4, 5, 0xb4, 1, 3, 3, 8, 1, 1, 4, 2]).expect("well-formed");
    assert_eq!(
        (o.mss, o.window_scale, o.sack_permitted),
        (Some(1460), Some(8), true)
    );
    assert_eq!(o.timestamps, None);
}

#[test]
fn the_options_of_an_apple_syn_are_read_by_the_fast_path() {
    let octets = [
        2, 4, 5, 0xb4, 1, 3, 3, 6, 1, 1, 8, 10, 0, 0, 0, 7, 0, 0, 0, 0, 4, 2, 0, 0,
    ];
    let o = parse_all(&octets).expect("well-formed");
    assert_eq!(
        (o.mss, o.window_scale, o.sack_permitted),
        (Some(1460), Some(6), true)
    );
    assert_eq!(o.timestamps, Some(Timestamps { val: 7, ecr: 0 }));
}

#[test]
fn what_follows_the_end_of_the_list_is_ignored() {
    let o = parse_all(&[2, 4, 2, 0, 0, 3, 3, 9]).expect("well-formed");
    assert_eq!((o.mss, o.window_scale), (Some(512), None));
}

#[test]
fn an_unknown_kind_is_skipped_by_its_length_rfc9293_must6() {
    let o = parse_all(&[254, 6, 1, 2, 3, 4, 3, 3, 2, 1, 1, 1]).expect("well-formed");
    assert_eq!(o.window_scale, Some(2));
}

#[test]
fn options_need_no_alignment_rfc9293_must64() {
    let o = parse_all(&[3, 3, 7, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2, 4, 2]).expect("well-formed");
    assert_eq!((o.window_scale, o.sack_permitted), (Some(7), true));
    assert_eq!(o.timestamps, Some(Timestamps { val: 1, ecr: 2 }));
}

#[test]
fn a_shift_count_above_14_is_used_as_14_rfc7323_section_2_3() {
    assert_eq!(
        parse_all(&[3, 3, 200, 1])
            .expect("well-formed")
            .window_scale,
        Some(14)
    );
}

#[test]
fn wrong_lengths_are_refused() {
    for bad in [
        &[2u8, 3, 5, 0][..],
        &[2, 5, 5, 0, 0, 0, 0, 0],
        &[3, 4, 1, 0],
        &[4, 3, 0, 0],
        &[8, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[5, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[2, 0, 0, 0],
        &[2, 1, 0, 0],
        &[1, 1, 1, 2],
        &[1, 1, 254, 3],
    ] {
        assert_eq!(parse_all(bad), Err(BadOption), "{bad:?}");
    }
}

#[test]
fn sack_blocks_are_located() {
    let mut octets = vec![1, 1, 5, 18];
    octets.extend([0; 16]);
    assert_eq!(
        parse_all(&octets).expect("well-formed").sack,
        Some(SackBlocks {
            offset: HEADER + 4,
            count: 2
        })
    );
}

/// The layouts of the fast path, with an octet changed now and then.
fn nearly_common() -> impl Strategy<Value = Vec<u8>> {
    const LAYOUTS: &[&[u8]] = &[
        &[],
        &[1, 1, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0],
        &[2, 4, 0, 0, 1, 3, 3, 0, 1, 1, 4, 2],
        &[2, 4, 0, 0, 4, 2, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0, 1, 3, 3, 0],
        &[
            2, 4, 0, 0, 1, 3, 3, 0, 1, 1, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0, 4, 2, 0, 0,
        ],
    ];
    let values = (any::<[u8; 24]>(), any::<[bool; 24]>());
    let change = prop_oneof![Just(None), (0..24_usize, any::<u8>()).prop_map(Some)];
    (proptest::sample::select(LAYOUTS), values, change).prop_map(
        |(layout, (random, which), change)| {
            let mut octets = layout.to_vec();
            for (i, octet) in octets.iter_mut().enumerate() {
                if *octet == 0 && which[i] {
                    *octet = random[i];
                }
                if let Some((at, value)) = change
                    && at == i
                {
                    *octet = value;
                }
            }
            octets
        },
    )
}

proptest! {
    #[test]
    fn the_fast_path_reads_what_the_loop_reads(octets in nearly_common()) {
        let mut header = vec![0; HEADER];
        header.extend(&octets);
        let (mut fast, mut slow) = (Options::default(), Options::default());
        let walked = walk(&header[..], HEADER, header.len(), &mut slow);
        if common(&header[..], HEADER, octets.len(), &mut fast) {
            prop_assert_eq!(walked, Ok(()));
            prop_assert_eq!(fast, slow);
        } else {
            prop_assert_eq!(fast, Options::default());
        }
    }

    #[test]
    fn no_octets_make_the_parser_panic(octets in proptest::collection::vec(any::<u8>(), 0..=40)) {
        let _ = parse_all(&octets);
    }

    #[test]
    fn what_a_syn_ack_lays_out_is_parsed_back(
        mss: u16,
        scale in proptest::option::of(0u8..=14),
        sack: bool,
        ts in proptest::option::of((any::<u32>(), any::<u32>())),
    ) {
        let timestamps = ts.map(|(val, ecr)| Timestamps { val, ecr });
        let laid = syn_ack(mss, scale, sack, timestamps);
        let octets: Vec<u8> = laid.word[..laid.words].iter().flat_map(|w| w.to_be_bytes()).collect();
        prop_assert!(octets.len() <= MAX_LEN);
        let back = parse_all(&octets).expect("own options");
        prop_assert_eq!(back, Options { mss: Some(mss), window_scale: scale, sack_permitted: sack, timestamps, sack: None });
    }
}

const MAX_LEN: usize = 20;
