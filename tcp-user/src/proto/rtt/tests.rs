use super::*;
use proptest::prelude::*;

const MIN: Duration = Duration::from_millis(200);

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

#[test]
fn the_first_sample_sets_srtt_and_half_of_it_as_rttvar() {
    let mut e = RttEstimator::new(MIN);
    assert_eq!(
        (e.srtt(), e.rttvar(), e.rto()),
        (None, Duration::ZERO, INITIAL_RTO)
    );
    e.sample(ms(400));
    assert_eq!((e.srtt(), e.rttvar()), (Some(ms(400)), ms(200)));
    assert_eq!(e.rto(), ms(1200));
}

#[test]
fn later_samples_are_smoothed() {
    let mut e = RttEstimator::new(MIN);
    e.sample(ms(400));
    e.sample(ms(800));
    assert_eq!((e.srtt(), e.rttvar()), (Some(ms(450)), ms(250)));
}

#[test]
fn a_steady_path_leaves_the_minimum_for_delayed_acks() {
    let mut e = RttEstimator::new(MIN);
    for _ in 0..100 {
        e.sample(ms(10));
    }
    assert_eq!(e.rto(), ms(10) + MIN);
}

#[test]
fn backoff_doubles_up_to_a_minute_and_a_sample_ends_it() {
    let mut e = RttEstimator::new(MIN);
    for expected in [1, 2, 4, 8, 16, 32, 60, 60, 60] {
        assert_eq!(e.rto(), Duration::from_secs(expected));
        e.backoff();
    }
    for _ in 0..1000 {
        e.backoff();
    }
    e.reset_backoff();
    assert_eq!(e.rto(), INITIAL_RTO);
    e.backoff();
    e.sample(ms(100));
    assert_eq!(e.rto(), ms(300));
}

#[test]
fn it_stays_small() {
    assert!(size_of::<RttEstimator>() <= 16);
}

proptest! {
    #[test]
    fn the_rto_stays_within_bounds_and_srtt_within_the_samples(
        min_ms in 0u64..100_000,
        steps in prop::collection::vec(prop_oneof![
            3 => (0u64..200_000_000_000).prop_map(|ns| Some(Duration::from_nanos(ns))),
            1 => Just(None),
        ], 1..50),
    ) {
        let mut e = RttEstimator::new(ms(min_ms));
        let mut seen: Option<(Duration, Duration)> = None;
        for step in steps {
            if let Some(rtt) = step {
                e.sample(rtt);
                let r = rtt.clamp(Duration::from_micros(1), MAX_RTO);
                let (lo, hi) = seen.unwrap_or((r, r));
                seen = Some((lo.min(r), hi.max(r)));
            } else {
                let before = e.rto();
                e.backoff();
                prop_assert_eq!(e.rto(), (before * 2).min(MAX_RTO));
            }
            prop_assert!(e.rto() >= ms(min_ms).min(MAX_RTO) && e.rto() <= MAX_RTO);
            prop_assert_eq!(e.srtt().is_some(), seen.is_some());
            if let (Some(srtt), Some((lo, hi))) = (e.srtt(), seen) {
                // Each smoothing rounds down by less than 1 µs and the law forgets by 1/8.
                prop_assert!(srtt + Duration::from_micros(9) >= lo && srtt <= hi);
                prop_assert!(e.rto() >= srtt.min(MAX_RTO));
            }
        }
    }
}
