use super::*;
use proptest::prelude::*;

const BASE: SeqNum = SeqNum(0xffff_ff00);

fn at(n: u32) -> SeqNum {
    BASE + n
}

#[test]
fn a_hole_is_lost_under_three_segments_or_three_ranges() {
    let mut b = Scoreboard::default();
    assert!(b.insert(at(200), at(300)));
    assert!(b.insert(at(400), at(500)));
    assert!(!b.insert(at(420), at(480)));
    assert_eq!(b.lost_below(100), None);
    assert!(b.insert(at(500), at(501)));
    assert_eq!(b.lost_below(100), Some(at(200)));
    assert!(b.insert(at(501), at(601)));
    assert_eq!(b.lost_below(100), Some(at(400)));
    assert_eq!(b.hole(at(0), at(400)), Some((at(0), 200)));
    assert_eq!(b.hole(at(200), at(400)), Some((at(300), 100)));
    assert_eq!(b.hole(at(400), at(400)), None);
    assert!(!b.advance(at(450)));
    assert!(b.advance(at(601)));
}

proptest! {
    #[test]
    fn it_agrees_with_a_bitmap(
        blocks in proptest::collection::vec((0u32..200, 1u32..40), 1..60),
        una in 0u32..200,
        (from, len) in (0u32..200, 0u32..100),
    ) {
        let mut b = Scoreboard::default();
        let mut bits = [false; 300];
        for (left, n) in blocks {
            let range = &mut bits[left as usize..(left + n) as usize];
            let new = range.iter().any(|bit| !bit);
            range.fill(true);
            prop_assert_eq!(b.insert(at(left), at(left + n)), new);
        }
        let empty = b.advance(at(una));
        bits[..una as usize].fill(false);
        prop_assert_eq!(empty, bits.iter().all(|bit| !bit));
        let area = &bits[from as usize..(from + len) as usize];
        let missing = area.iter().filter(|bit| !**bit).count();
        prop_assert_eq!(b.missing(at(from), at(from + len)), missing as u32);
        let hole = area.iter().position(|bit| !bit).map(|start| {
            let run = area[start..].iter().take_while(|bit| !**bit).count();
            (at(from + start as u32), run as u32)
        });
        prop_assert_eq!(b.hole(at(from), at(from + len)), hole);
    }
}
