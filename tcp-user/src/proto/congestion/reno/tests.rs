use super::*;
use proptest::prelude::*;

const MSS: u32 = 1000;
const NOW: Instant = Instant(0);

#[test]
fn the_initial_window_is_ten_segments_within_bounds() {
    for (mss, window) in [
        (100, 1_000),
        (1000, 10_000),
        (1460, 14_600),
        (4000, 14_600),
        (9000, 18_000),
    ] {
        assert_eq!(Reno::new(mss).cwnd(), window, "mss {mss}");
    }
}

#[test]
fn slow_start_doubles_per_round_trip() {
    let mut c = Reno::new(MSS);
    for _ in 0..10 {
        c.on_ack(NOW, MSS, 10 * MSS, true);
    }
    assert_eq!(c.cwnd(), 20 * MSS);
    // An ACK that covers a lot counts for two segments.
    c.on_ack(NOW, 10 * MSS, 20 * MSS, true);
    assert_eq!(c.cwnd(), 22 * MSS);
}

#[test]
fn an_unused_window_does_not_grow() {
    let mut c = Reno::new(MSS);
    c.on_ack(NOW, MSS, MSS, false);
    assert_eq!(c.cwnd(), 10 * MSS);
}

#[test]
fn congestion_avoidance_adds_a_segment_per_window() {
    let mut c = Reno::new(MSS);
    c.enter_recovery(NOW, 20 * MSS);
    c.exit_recovery(20 * MSS);
    assert_eq!((c.cwnd(), c.ssthresh()), (10 * MSS, 10 * MSS));
    for _ in 0..9 {
        c.on_ack(NOW, MSS, 10 * MSS, true);
    }
    assert_eq!(c.cwnd(), 10 * MSS);
    c.on_ack(NOW, MSS, 10 * MSS, true);
    assert_eq!(c.cwnd(), 11 * MSS);
}

#[test]
fn recovery_inflates_and_deflates_as_newreno_does() {
    let mut c = Reno::new(MSS);
    c.enter_recovery(NOW, 10 * MSS);
    assert_eq!((c.ssthresh(), c.cwnd()), (5 * MSS, 8 * MSS));
    c.on_dup_ack_in_recovery();
    assert_eq!(c.cwnd(), 9 * MSS);
    c.on_partial_ack(3 * MSS);
    assert_eq!(c.cwnd(), 7 * MSS);
    c.on_partial_ack(MSS / 2);
    assert_eq!(c.cwnd(), 6 * MSS + MSS / 2);
    c.exit_recovery(MSS);
    assert_eq!(c.cwnd(), 2 * MSS);
}

#[test]
fn repeated_timeouts_lower_ssthresh_once() {
    let mut c = Reno::new(MSS);
    c.on_timeout(NOW, 10 * MSS);
    assert_eq!((c.cwnd(), c.ssthresh()), (MSS, 5 * MSS));
    c.on_timeout(NOW, MSS);
    assert_eq!((c.cwnd(), c.ssthresh()), (MSS, 5 * MSS));
    // Slow start after it: one segment per ACK.
    c.on_ack(NOW, 4 * MSS, MSS, true);
    assert_eq!(c.cwnd(), 2 * MSS);
    c.on_timeout(NOW, 2 * MSS);
    assert_eq!((c.cwnd(), c.ssthresh()), (MSS, 2 * MSS));
}

#[test]
fn idling_falls_back_to_the_initial_window() {
    let mut c = Reno::new(MSS);
    for _ in 0..50 {
        c.on_ack(NOW, 2 * MSS, 10 * MSS, true);
    }
    c.on_idle_restart();
    assert_eq!(c.cwnd(), 10 * MSS);
    c.on_timeout(NOW, MSS);
    c.on_idle_restart();
    assert_eq!(c.cwnd(), MSS);
}

#[derive(Clone, Debug)]
enum Op {
    Ack(u32, u32, bool),
    Enter(u32),
    Dup,
    Partial(u32),
    Exit(u32),
    Timeout(u32),
    Idle,
    Mss(u32),
}

fn op() -> impl Strategy<Value = Op> {
    let n = || prop_oneof![0u32..100_000, any::<u32>()];
    prop_oneof![
        (n(), n(), any::<bool>()).prop_map(|(a, f, l)| Op::Ack(a, f, l)),
        n().prop_map(Op::Enter),
        Just(Op::Dup),
        n().prop_map(Op::Partial),
        n().prop_map(Op::Exit),
        n().prop_map(Op::Timeout),
        Just(Op::Idle),
        (0u32..70_000).prop_map(Op::Mss),
    ]
}

proptest! {
    #[test]
    fn a_segment_always_fits_and_growth_is_bounded(
        mss in 0u32..70_000,
        ops in prop::collection::vec(op(), 0..60),
    ) {
        let mut c = Reno::new(mss);
        for op in ops {
            let before = c.cwnd();
            match op {
                Op::Ack(acked, flight, limited) => {
                    c.on_ack(NOW, acked, flight, limited);
                    prop_assert!(c.cwnd() >= before);
                    prop_assert!(c.cwnd() <= before + 2 * c.mss);
                }
                Op::Enter(flight) => c.enter_recovery(NOW, flight),
                Op::Dup => c.on_dup_ack_in_recovery(),
                Op::Partial(acked) => c.on_partial_ack(acked),
                Op::Exit(flight) => c.exit_recovery(flight),
                Op::Timeout(flight) => c.on_timeout(NOW, flight),
                Op::Idle => c.on_idle_restart(),
                Op::Mss(mss) => c.set_mss(mss),
            }
            prop_assert!(c.cwnd() >= c.mss, "cwnd {} below a segment of {}", c.cwnd(), c.mss);
            prop_assert!(c.cwnd() <= MAX_CWND.max(3 * c.mss));
            prop_assert!(c.ssthresh() >= 2 * c.mss);
        }
    }
}
