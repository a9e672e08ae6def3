use super::*;
use proptest::prelude::*;
use std::collections::HashMap;
use std::time::Duration;

fn ms(n: u64) -> Instant {
    Instant(n * TICK)
}

fn expired(w: &mut Wheel, now: Instant) -> Vec<u32> {
    let mut out = Vec::new();
    w.expire(now, &mut out);
    out.sort_unstable();
    out
}

#[test]
fn timers_fire_when_due_and_once() {
    let mut w = Wheel::new(ms(5));
    assert_eq!(w.next_deadline(), None);
    w.schedule(1, ms(10));
    w.schedule(2, Instant(10 * TICK + 1));
    w.schedule(3, ms(100_000));
    assert_eq!(w.next_deadline(), Some(ms(10)));
    assert!(expired(&mut w, ms(9)).is_empty());
    assert_eq!(expired(&mut w, ms(10)), [1]);
    assert_eq!(expired(&mut w, ms(11)), [2]);
    assert_eq!(expired(&mut w, ms(1_000_000)), [3]);
    assert_eq!(w.next_deadline(), None);
}

#[test]
fn a_time_that_has_passed_is_due_at_once() {
    let mut w = Wheel::new(ms(1000));
    w.schedule(1, ms(3));
    assert_eq!(w.next_deadline(), Some(ms(1000)));
    assert_eq!(expired(&mut w, ms(1000)), [1]);
    w.schedule(1, ms(1000));
    assert_eq!(expired(&mut w, ms(1000)), [1]);
}

#[test]
fn cancelled_and_moved_timers_do_not_fire() {
    let mut w = Wheel::new(ms(0));
    for key in 0..5 {
        w.schedule(key, ms(20));
    }
    w.cancel(2);
    w.cancel(2);
    w.cancel(99);
    w.schedule(0, ms(500));
    w.schedule(4, ms(3));
    assert_eq!(expired(&mut w, ms(3)), [4]);
    assert_eq!(expired(&mut w, ms(20)), [1, 3]);
    assert!(expired(&mut w, ms(499)).is_empty());
    assert_eq!(expired(&mut w, ms(500)), [0]);
}

#[test]
fn a_far_timer_wakes_the_worker_a_few_times_only() {
    let mut w = Wheel::new(ms(12_345));
    let at = ms(12_345) + Duration::from_hours(2);
    w.schedule(0, at);
    let mut wakes = 0;
    while let Some(next) = w.next_deadline() {
        wakes += 1;
        if !expired(&mut w, next).is_empty() {
            assert_eq!(next, at);
        }
    }
    assert!(wakes <= LEVELS, "{wakes} wakes");
}

#[test]
fn the_end_of_time_does_no_harm() {
    let mut w = Wheel::new(ms(0));
    w.schedule(0, Instant(u64::MAX));
    assert!(w.next_deadline().is_some());
    assert!(expired(&mut w, Instant(u64::MAX - TICK)).is_empty());
}

#[test]
fn a_warm_wheel_does_not_allocate() {
    let mut w = Wheel::new(ms(0));
    w.schedule(999, ms(1));
    let capacity = w.nodes.capacity();
    for round in 0..100u64 {
        for key in 0..1000 {
            w.schedule(key, ms(round * 50 + u64::from(key)));
        }
        expired(&mut w, ms(round * 40));
    }
    assert_eq!(w.nodes.capacity(), capacity);
    assert_eq!(size_of::<Node>(), 16);
}

#[derive(Clone, Debug)]
enum Op {
    Schedule(u32, u64),
    Cancel(u32),
    Advance(u64),
    ToDeadline,
}

fn op() -> impl Strategy<Value = Op> {
    // Spans of every magnitude, in ns.
    let span = || (0u32..52, any::<u64>()).prop_map(|(bits, n)| n & ((1 << bits) - 1));
    prop_oneof![
        4 => (0u32..20, span()).prop_map(|(key, d)| Op::Schedule(key, d)),
        1 => (0u32..20).prop_map(Op::Cancel),
        2 => span().prop_map(Op::Advance),
        2 => Just(Op::ToDeadline),
    ]
}

proptest! {
    #[test]
    fn no_timer_is_early_late_or_lost(
        start in 0u64..1 << 50,
        ops in prop::collection::vec(op(), 1..200),
    ) {
        let mut now = Instant(start);
        let mut w = Wheel::new(now);
        let mut model: HashMap<u32, Instant> = HashMap::new();
        for op in ops {
            match op {
                Op::Schedule(key, d) => {
                    let at = Instant(now.0 + d);
                    w.schedule(key, at);
                    model.insert(key, at);
                }
                Op::Cancel(key) => {
                    w.cancel(key);
                    model.remove(&key);
                }
                Op::Advance(d) => now.0 += d,
                Op::ToDeadline => {
                    if let Some(next) = w.next_deadline() {
                        now = now.max(next);
                    }
                }
            }
            // Never late: the deadline is not after the tick of any timer.
            let next = w.next_deadline();
            prop_assert_eq!(next.is_some(), !model.is_empty());
            if let (Some(next), Some(first)) = (next, model.values().min()) {
                prop_assert!(next <= ms(first.0.div_ceil(TICK)).max(now));
            }
            for key in expired(&mut w, now) {
                let at = model.remove(&key).expect("fired without being set");
                prop_assert!(at <= now, "early");
            }
            for at in model.values() {
                prop_assert!(at.0.div_ceil(TICK) > now.0 / TICK, "late");
            }
            if let Some(next) = w.next_deadline() {
                prop_assert!(next > now);
            }
        }
    }
}
