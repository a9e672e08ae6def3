use super::super::Instant;
use super::*;
use proptest::prelude::*;

const MSS: u32 = 1000;

/// An ACK of so many octets.
fn ack(acked: u32, limited: bool) -> Ack {
    Ack {
        now: Instant(0),
        acked,
        limited,
        rtt: None,
        new_round: false,
    }
}

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
        c.on_ack(&ack(MSS, true));
    }
    assert_eq!(c.cwnd(), 20 * MSS);
    // An ACK that covers a lot counts for two segments.
    c.on_ack(&ack(10 * MSS, true));
    assert_eq!(c.cwnd(), 22 * MSS);
}

#[test]
fn an_unused_window_does_not_grow() {
    let mut c = Reno::new(MSS);
    c.on_ack(&ack(MSS, false));
    assert_eq!(c.cwnd(), 10 * MSS);
}

#[test]
fn congestion_avoidance_adds_a_segment_per_window() {
    let mut c = Reno::new(MSS);
    c.on_loss(20 * MSS);
    c.on_recovered();
    assert_eq!((c.cwnd(), c.ssthresh()), (10 * MSS, 10 * MSS));
    for _ in 0..9 {
        c.on_ack(&ack(MSS, true));
    }
    assert_eq!(c.cwnd(), 10 * MSS);
    c.on_ack(&ack(MSS, true));
    assert_eq!(c.cwnd(), 11 * MSS);
}

/// RFC 5681 equation (4); cwnd is set from outside in between.
#[test]
fn a_loss_halves_the_flight() {
    let mut c = Reno::new(MSS);
    c.on_loss(10 * MSS);
    assert_eq!(c.ssthresh(), 5 * MSS);
    c.set_cwnd(7 * MSS);
    c.on_recovered();
    assert_eq!(c.cwnd(), 5 * MSS);
    c.on_loss(MSS);
    assert_eq!(c.ssthresh(), 2 * MSS);
}

#[test]
fn repeated_timeouts_lower_ssthresh_once() {
    let mut c = Reno::new(MSS);
    c.on_timeout(10 * MSS);
    assert_eq!((c.cwnd(), c.ssthresh()), (MSS, 5 * MSS));
    c.on_timeout(MSS);
    assert_eq!((c.cwnd(), c.ssthresh()), (MSS, 5 * MSS));
    // Slow start after it: one segment per ACK.
    c.on_ack(&ack(4 * MSS, true));
    assert_eq!(c.cwnd(), 2 * MSS);
    c.on_timeout(2 * MSS);
    assert_eq!((c.cwnd(), c.ssthresh()), (MSS, 2 * MSS));
}

#[test]
fn idling_falls_back_to_the_initial_window() {
    let mut c = Reno::new(MSS);
    for _ in 0..50 {
        c.on_ack(&ack(2 * MSS, true));
    }
    c.on_idle_restart();
    assert_eq!(c.cwnd(), 10 * MSS);
    c.on_timeout(MSS);
    c.on_idle_restart();
    assert_eq!(c.cwnd(), MSS);
}

#[derive(Clone, Debug)]
enum Op {
    Ack(u32, bool),
    Loss(u32),
    Window(u32),
    Recovered,
    Timeout(u32),
    Idle,
    Mss(u32),
}

fn op() -> impl Strategy<Value = Op> {
    let n = || prop_oneof![0u32..100_000, any::<u32>()];
    prop_oneof![
        (n(), any::<bool>()).prop_map(|(a, l)| Op::Ack(a, l)),
        n().prop_map(Op::Loss),
        n().prop_map(Op::Window),
        Just(Op::Recovered),
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
                Op::Ack(acked, limited) => {
                    c.on_ack(&ack(acked, limited));
                    prop_assert!(c.cwnd() >= before);
                    prop_assert!(c.cwnd() <= before + 2 * c.mss);
                }
                Op::Loss(flight) => c.on_loss(flight),
                Op::Window(cwnd) => c.set_cwnd(cwnd),
                Op::Recovered => c.on_recovered(),
                Op::Timeout(flight) => c.on_timeout(flight),
                Op::Idle => c.on_idle_restart(),
                Op::Mss(mss) => c.set_mss(mss),
            }
            prop_assert!(c.cwnd() >= c.mss, "cwnd {} below a segment of {}", c.cwnd(), c.mss);
            prop_assert!(c.cwnd() <= MAX_CWND.max(3 * c.mss));
            prop_assert!(c.ssthresh() >= 2 * c.mss);
        }
    }
}
