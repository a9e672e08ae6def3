use super::SeqNum;
use proptest::prelude::*;

proptest! {
    #[test]
    fn adding_less_than_half_the_space_moves_forward(a: u32, d in 1u32..0x8000_0000) {
        let (x, y) = (SeqNum(a), SeqNum(a) + d);
        prop_assert!(x.before(y) && y.after(x) && x.before_eq(y) && !y.before_eq(x));
        prop_assert_eq!(y.distance_from(x), d);
        prop_assert_eq!(x.max(y), y);
        prop_assert_eq!(x.min(y), x);
        prop_assert_eq!(y - d, x);
    }

    #[test]
    fn a_number_is_neither_before_nor_after_itself(a: u32) {
        let x = SeqNum(a);
        prop_assert!(!x.before(x) && !x.after(x) && x.before_eq(x) && x.after_eq(x));
    }

    #[test]
    fn window_membership_matches_distance(start: u32, len in 0u32..0x4000_0000, d: u32) {
        prop_assert_eq!((SeqNum(start) + d).in_window(SeqNum(start), len), d < len);
    }
}
