use super::*;

const MSS: u32 = 1000;

fn ms(n: u64) -> Instant {
    Instant(n * 1_000_000)
}

fn ack(at: u64, acked: u32, rtt: u64) -> Ack {
    Ack {
        now: ms(at),
        acked,
        limited: true,
        rtt: Some(Duration::from_millis(rtt)),
        new_round: false,
    }
}

/// Acknowledges a window per round trip for so long; returns when it ended.
fn run(c: &mut Cubic, from: u64, time: u64, rtt: u64) -> u64 {
    let mut at = from;
    while at < from + time {
        at += rtt;
        for _ in 0..c.cwnd() / MSS {
            c.on_ack(&ack(at, MSS, rtt));
        }
    }
    at
}

fn after_loss(segments: u32) -> Cubic {
    let mut c = Cubic::new(MSS);
    c.set_cwnd(segments * MSS);
    c.on_loss(segments * MSS);
    c.on_recovered();
    c
}

/// RFC 9438 §4.6.
#[test]
fn a_loss_lowers_the_window_to_seven_tenths() {
    let c = after_loss(100);
    assert_eq!((c.cwnd(), c.ssthresh()), (70 * MSS, 70 * MSS));
}

/// RFC 9438 §4.7.
#[test]
fn a_second_loss_below_the_last_plateau_lowers_the_plateau() {
    let mut c = after_loss(100);
    c.on_loss(70 * MSS);
    assert_eq!((c.ssthresh(), c.w_max), (49 * MSS, 59_500));
}

/// RFC 9438 §4.2: back at `W_max` after K = cbrt(30 / 0.4) s, flat there, and beyond
/// ever faster.
#[test]
fn growth_is_concave_up_to_the_plateau_and_convex_after_it() {
    let mut c = after_loss(100);
    let rtt = 250;
    let mut at = 0;
    let mut windows = vec![c.cwnd() / MSS];
    for _ in 0..8 {
        at = run(&mut c, at, 1000, rtt);
        windows.push(c.cwnd() / MSS);
    }
    let steps: Vec<u32> = windows.windows(2).map(|w| w[1] - w[0]).collect();
    assert!(steps[0] > steps[2] && steps[2] > steps[3], "{windows:?}");
    assert!((98..=100).contains(&windows[4]), "{windows:?}");
    assert!(steps[7] > steps[6] && steps[6] > steps[4], "{windows:?}");
}

/// RFC 9438 §4.3: where Reno would be faster, as fast as Reno.
#[test]
fn short_round_trips_are_as_fast_as_reno() {
    let mut c = after_loss(20);
    // α = 0.53 segments a round trip up to the plateau: 6 / 0.53 = 12 of them.
    run(&mut c, 0, 12, 1);
    assert!((19..=21).contains(&(c.cwnd() / MSS)), "{}", c.cwnd());
    // Then a segment each.
    let before = c.cwnd();
    run(&mut c, 12, 10, 1);
    assert!((8..=11).contains(&((c.cwnd() - before) / MSS)));
}

/// RFC 9438 §4.8.
#[test]
fn a_timeout_starts_from_one_segment() {
    let mut c = Cubic::new(MSS);
    c.set_cwnd(100 * MSS);
    c.on_timeout(100 * MSS);
    assert_eq!((c.cwnd(), c.ssthresh()), (MSS, 70 * MSS));
    c.on_timeout(MSS);
    assert_eq!(c.ssthresh(), 70 * MSS, "once for a row");
    run(&mut c, 0, 700, 100);
    assert!((64..=72).contains(&(c.cwnd() / MSS)), "{}", c.cwnd());
}

/// RFC 9438 §5.8.
#[test]
fn an_unused_window_does_not_grow_and_its_time_does_not_count() {
    let mut c = after_loss(100);
    let at = run(&mut c, 0, 500, 100);
    let before = c.cwnd();
    let mut twin = c.clone();
    for n in 0..100 {
        c.on_ack(&Ack {
            limited: false,
            ..ack(at + 100 * n, MSS, 100)
        });
    }
    assert_eq!(c.cwnd(), before);
    run(&mut c, at + 9900, 500, 100);
    run(&mut twin, at, 500, 100);
    assert!(c.cwnd().abs_diff(twin.cwnd()) <= MSS);
}

#[test]
fn idling_falls_back_to_the_initial_window() {
    let mut c = after_loss(100);
    c.on_idle_restart();
    assert_eq!((c.cwnd(), c.ssthresh()), (10 * MSS, 70 * MSS));
}

/// Rounds of slow start with a round trip each; returns the window after each round.
fn slow_start(c: &mut Cubic, rtts: &[u64]) -> Vec<u32> {
    let mut at = 0;
    rtts.iter()
        .map(|&rtt| {
            at += rtt;
            for n in 0..c.cwnd() / MSS {
                c.on_ack(&Ack {
                    new_round: n == 0,
                    ..ack(at, MSS, rtt)
                });
            }
            c.cwnd() / MSS
        })
        .collect()
}

/// RFC 9406 §4.3: slow start goes on as long as the round trip does not grow.
#[test]
fn slow_start_doubles_while_the_round_trip_stays() {
    let mut c = Cubic::new(MSS);
    assert_eq!(slow_start(&mut c, &[50, 50, 51, 52]), [20, 40, 80, 160]);
    assert_eq!(c.ssthresh(), u32::MAX);
}

/// RFC 9406 §4.3: a growing queue makes it slower, and ends it after five rounds.
#[test]
fn a_growing_round_trip_ends_slow_start() {
    let mut c = Cubic::new(MSS);
    let windows = slow_start(&mut c, &[50, 50, 60, 60, 60, 60, 60, 60, 60]);
    assert_eq!(windows[1], 40);
    // The eighth sample tells; the rest of the round counts a quarter.
    assert!((47..=60).contains(&windows[2]), "{windows:?}");
    assert!(windows[3] < windows[2] * 4 / 3, "{windows:?}");
    assert!(c.ssthresh() < u32::MAX);
    assert!(windows[8] <= windows[7] + 5, "{windows:?}");
}

/// RFC 9406 §4.3: unless the round trip shrinks again.
#[test]
fn a_false_alarm_resumes_slow_start() {
    let mut c = Cubic::new(MSS);
    let windows = slow_start(&mut c, &[50, 50, 60, 50, 50, 50]);
    assert!(windows[5] > 3 * windows[3], "{windows:?}");
    assert_eq!(c.ssthresh(), u32::MAX);
}
