use super::*;
use proptest::prelude::*;

fn all(a: &Assembler) -> Vec<(u32, u32)> {
    a.ranges().collect()
}

#[test]
fn in_order_data_needs_no_memory() {
    let mut a = Assembler::new();
    a.insert(0, 100).expect("no hole");
    a.insert(100, 50).expect("no hole");
    assert!(a.holes.is_none());
    assert_eq!(a.pop_front(), 150);
    assert_eq!(a.pop_front(), 0);
    assert!(a.is_empty());
    assert!(size_of::<Assembler>() <= 16);
}

#[test]
fn a_filled_hole_joins_what_is_behind() {
    let mut a = Assembler::new();
    a.insert(100, 100).expect("room");
    assert_eq!(a.pop_front(), 0);
    a.insert(300, 100).expect("room");
    a.insert(0, 100).expect("room");
    assert_eq!(a.pop_front(), 200);
    assert_eq!(all(&a), [(100, 200)]);
    a.insert(0, 150).expect("room");
    assert_eq!(a.pop_front(), 200);
    assert!(a.is_empty() && a.holes.is_none());
}

#[test]
fn overlaps_and_touching_ranges_merge() {
    let mut a = Assembler::new();
    for (offset, len) in [(10, 10), (30, 10), (50, 10), (20, 10), (35, 20)] {
        a.insert(offset, len).expect("room");
    }
    assert_eq!(all(&a), [(10, 60)]);
    assert!(a.contains(10, 50) && !a.contains(9, 2) && !a.contains(59, 2));
}

#[test]
fn too_many_holes_change_nothing() {
    let mut a = Assembler::new();
    for i in 0..MAX_RANGES as u32 {
        a.insert(10 + 10 * i, 5).expect("room");
    }
    let before = all(&a);
    assert_eq!(a.insert(100_000, 5), Err(TooManyHoles));
    assert_eq!(a.insert(5, 2), Err(TooManyHoles));
    assert_eq!(all(&a), before);
    // What merges still fits.
    a.insert(15, 5).expect("merges");
    assert_eq!(all(&a).len(), MAX_RANGES - 1);
}

#[test]
fn the_range_that_grew_last_comes_first() {
    let mut a = Assembler::new();
    for offset in [10, 30, 50, 70] {
        a.insert(offset, 10).expect("room");
    }
    assert_eq!(a.last_inserted(), Some((70, 80)));
    a.insert(40, 5).expect("room");
    assert_eq!(a.recent::<3>()[..], [(30, 45), (70, 80), (50, 60)]);
    a.insert(0, 10).expect("room");
    assert_eq!(a.pop_front(), 20);
    assert_eq!(a.recent::<8>()[..], [(10, 25), (50, 60), (30, 40)]);
}

proptest! {
    /// Against a set of octets.
    #[test]
    fn it_knows_what_a_set_of_octets_knows(
        ops in prop::collection::vec((0u32..300, 0u32..40, 0u8..4), 1..100),
    ) {
        let mut a = Assembler::new();
        let mut model = [false; 400];
        for (offset, len, pop) in ops {
            let known = (offset..offset + len).all(|i| model[i as usize]);
            if len > 0 {
                prop_assert_eq!(a.contains(offset, len), known);
            }
            if a.insert(offset, len).is_ok() {
                model[offset as usize..(offset + len) as usize].fill(true);
                if len > 0 {
                    prop_assert!(a.contains(offset, len));
                }
            } else {
                prop_assert_eq!(a.holes.as_ref().map(|h| h.count), Some(MAX_RANGES));
            }
            if pop == 0 {
                let front = model.iter().take_while(|x| **x).count();
                prop_assert_eq!(a.pop_front() as usize, front);
                model.copy_within(front.., 0);
                model[400 - front..].fill(false);
            }
            let ranges = all(&a);
            prop_assert!(ranges.windows(2).all(|w| w[0].1 < w[1].0), "{:?}", ranges);
            let mut painted = [false; 400];
            for (s, e) in &ranges {
                prop_assert!(s < e);
                painted[*s as usize..*e as usize].fill(true);
            }
            prop_assert_eq!(painted, model);
            prop_assert_eq!(a.is_empty(), ranges.is_empty());
            let mut recent = a.recent::<MAX_RANGES>().to_vec();
            recent.sort_unstable();
            let beyond: Vec<_> = ranges.into_iter().filter(|r| r.0 > 0).collect();
            prop_assert_eq!(recent, beyond);
        }
    }

    #[test]
    fn extreme_offsets_do_no_harm(ops in prop::collection::vec((any::<u32>(), any::<u32>()), 1..80)) {
        let mut a = Assembler::new();
        for (offset, len) in ops {
            let _ = a.insert(offset, len);
            a.contains(offset, len);
            a.pop_front();
        }
    }
}
