use super::*;
use proptest::prelude::*;

fn seq(n: u32) -> SeqNum {
    // Across the wrap.
    SeqNum(n.wrapping_sub(5000))
}

fn at(ms: u64) -> Instant {
    Instant(ms * 1_000_000)
}

fn board(segments: u32) -> Scoreboard {
    let mut b = Scoreboard::new(seq(0));
    for i in 1..=segments {
        b.push(seq(1000 * i), at(u64::from(i)));
    }
    b
}

/// RFC 6675 §4, `SetPipe`.
#[test]
fn pipe_counts_neither_what_is_sacked_nor_what_is_lost() {
    let mut b = board(10);
    assert_eq!(b.pipe(), 10_000);
    b.sack(seq(2000), seq(4000), |_| {});
    assert_eq!((b.pipe(), b.sacked()), (8000, 2000));
    b.mark_head_lost(1000);
    assert_eq!((b.pipe(), b.lost()), (7000, 1000));
    assert_eq!(b.next_lost(), Some((seq(0), seq(1000))));
    b.retransmit(seq(0), seq(1000), at(20));
    assert_eq!((b.pipe(), b.lost()), (8000, 0));
    b.check();
}

#[test]
fn what_a_batch_sends_is_one_range() {
    let mut b = Scoreboard::new(seq(0));
    for i in 1..=64 {
        b.push(seq(1000 * i), at(1));
    }
    assert_eq!(b.ranges.len(), 1);
    b.sack(seq(3000), seq(5000), |_| {});
    assert_eq!(b.ranges.len(), 3);
    b.sack(seq(5000), seq(64_000), |_| {});
    assert_eq!(b.ranges.len(), 2);
}

#[test]
fn each_octet_is_delivered_once() {
    let mut b = board(5);
    let mut news = Vec::new();
    b.sack(seq(1000), seq(2000), |r| news.push((r.start, r.end)));
    b.sack(seq(500), seq(3000), |r| news.push((r.start, r.end)));
    b.acknowledge(seq(4000), |r| news.push((r.start, r.end)));
    assert_eq!(
        news,
        [
            (seq(1000), seq(2000)),
            (seq(500), seq(1000)),
            (seq(2000), seq(3000)),
            (seq(0), seq(500)),
            (seq(3000), seq(4000)),
        ]
    );
}

/// RFC 2018 §8.
#[test]
fn a_receiver_that_reneges_is_found_out() {
    let mut b = board(3);
    b.sack(seq(1000), seq(2000), |_| {});
    assert!(!b.is_reneged());
    b.acknowledge(seq(1000), |_| {});
    assert!(b.is_reneged());
    b.forget_sacks();
    assert_eq!((b.pipe(), b.sacked()), (2000, 0));
}

#[test]
fn blocks_that_make_too_many_ranges_are_unheeded() {
    let mut b = Scoreboard::new(seq(0));
    for i in 1..=20_000 {
        b.push(seq(10 * i), at(1));
    }
    for i in (1..20_000).step_by(2) {
        b.sack(seq(10 * i), seq(10 * (i + 1)), |_| {});
    }
    assert!(b.ranges.len() <= MAX_RANGES);
    b.mark_lost(|_| Verdict::Lost);
    while let Some((start, end)) = b.next_lost() {
        b.retransmit(start, end.min(start + 10), at(2));
        assert!(b.ranges.len() <= 2 * MAX_RANGES);
    }
    b.check();
    b.acknowledge(seq(200_000), |_| {});
    assert!(b.is_empty());
}

#[derive(Clone, Debug)]
enum Op {
    Send(u32),
    Ack(u32),
    Sack(u32, u32),
    Lose(u32),
    LoseHead(u32),
    Retransmit(u32),
    Tail(u32),
    ForgetSacks,
    ForgetLosses,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (1u32..5000).prop_map(Op::Send),
        2 => (0u32..10_000).prop_map(Op::Ack),
        4 => (0u32..20_000, 1u32..4000).prop_map(|(a, n)| Op::Sack(a, n)),
        2 => any::<u32>().prop_map(Op::Lose),
        1 => (1u32..2000).prop_map(Op::LoseHead),
        4 => (1u32..2000).prop_map(Op::Retransmit),
        1 => (1u32..2000).prop_map(Op::Tail),
        1 => Just(Op::ForgetSacks),
        1 => Just(Op::ForgetLosses),
    ]
}

proptest! {
    /// Against one flag per octet.
    #[test]
    fn it_agrees_with_a_map_of_octets(ops in prop::collection::vec(op(), 1..200)) {
        let mut b = Scoreboard::new(seq(0));
        // Sacked, lost; index from SND.UNA.
        let mut model: VecDeque<(bool, bool)> = VecDeque::new();
        let mut una = 0;
        for (i, op) in ops.into_iter().enumerate() {
            let now = at(i as u64 / 3);
            let out = model.len() as u32;
            match op {
                Op::Send(n) => {
                    b.push(seq(una + out + n), now);
                    model.extend((0..n).map(|_| (false, false)));
                }
                Op::Ack(n) => {
                    let n = n.min(out);
                    let mut news = 0;
                    b.acknowledge(seq(una + n), |r| news += r.len());
                    let expected = model.drain(..n as usize).filter(|o| !o.0).count();
                    prop_assert_eq!(news as usize, expected);
                    una += n;
                }
                Op::Sack(from, n) => {
                    let mut news = 0;
                    b.sack(seq(una + from), seq(una + from + n), |r| news += r.len());
                    let mut expected = 0;
                    for o in model.iter_mut().skip(from as usize).take(n as usize) {
                        expected += u32::from(!o.0);
                        *o = (true, false);
                    }
                    prop_assert_eq!(news, expected);
                }
                Op::Lose(seed) => {
                    let mut bits = seed;
                    let mut at = 0;
                    let mut lost = Vec::new();
                    b.mark_lost(|r| {
                        bits = bits.rotate_left(1);
                        at = r.start.distance_from(seq(una));
                        if bits & 1 == 0 {
                            return Verdict::InFlight;
                        }
                        lost.push((at, at + r.len()));
                        Verdict::Lost
                    });
                    for (from, to) in lost {
                        for o in model.range_mut(from as usize..to as usize) {
                            prop_assert_eq!(*o, (false, false));
                            o.1 = true;
                        }
                    }
                }
                Op::LoseHead(n) => {
                    b.mark_head_lost(n);
                    if model.front().is_some_and(|o| !o.0 && !o.1) {
                        let first = &b.ranges[0];
                        prop_assert!(first.lost);
                        for o in model.range_mut(..first.len().min(n) as usize) {
                            o.1 = true;
                        }
                        let known = model.iter().filter(|o| o.1).count();
                        prop_assert_eq!(b.lost() as usize, known);
                    }
                }
                Op::Retransmit(n) => {
                    let expected = model.iter().position(|o| o.1);
                    let got = b.next_lost();
                    prop_assert_eq!(
                        got.map(|(start, _)| start.distance_from(seq(una)) as usize),
                        expected
                    );
                    if let Some((start, end)) = got {
                        let end = end.min(start + n);
                        b.retransmit(start, end, now);
                        let from = start.distance_from(seq(una)) as usize;
                        let to = end.distance_from(seq(una)) as usize;
                        for o in model.range_mut(from..to) {
                            *o = (false, false);
                        }
                    }
                }
                Op::Tail(n) => {
                    if let Some(&last) = b.last()
                        && !last.sacked
                    {
                        let n = n.min(last.len());
                        b.retransmit(last.end - n, last.end, now);
                        for o in model.range_mut((out - n) as usize..) {
                            *o = (false, false);
                        }
                    }
                }
                Op::ForgetSacks => {
                    b.forget_sacks();
                    for o in &mut model {
 o.0 = false;
}
                }
                Op::ForgetLosses => {
                    b.forget_losses();
                    for o in &mut model {
 o.1 = false;
}
                }
            }
            b.check();
            let count = |f: fn(&&(bool, bool)) -> bool| model.iter().filter(f).count() as u32;
            prop_assert_eq!(b.sacked(), count(|o| o.0));
            prop_assert_eq!(b.lost(), count(|o| o.1));
            prop_assert_eq!(b.pipe(), count(|o| !o.0 && !o.1));
        }
    }
}
