use super::*;

const SRTT: Duration = Duration::from_millis(20);

fn ms(n: u64) -> Instant {
    Instant(n * 1_000_000)
}

fn seq(n: u32) -> SeqNum {
    SeqNum(n)
}

fn evidence(sacked: u32, recovering: bool) -> Evidence {
    Evidence {
        recovering,
        sacked,
        srtt: Some(SRTT),
    }
}

/// Segments of 1000 octets, one a millisecond.
struct Path {
    rack: Rack,
    board: Scoreboard,
    reordering: Reordering,
}

impl Path {
    fn new(segments: u32) -> Self {
        let mut board = Scoreboard::new(seq(0));
        for i in 1..=segments {
            board.push(seq(1000 * i), ms(u64::from(i)));
        }
        Self {
            rack: Rack::new(seq(0), Duration::MAX),
            board,
            reordering: Reordering::new(),
        }
    }

    /// The receiver reports segment `i`, counted from 0.
    fn sack(&mut self, now: Instant, i: u32, echo: Option<u32>) {
        let Self {
            rack,
            board,
            reordering,
        } = self;
        board.sack(seq(1000 * i), seq(1000 * (i + 1)), |r| {
            rack.on_delivered(now, r, echo, false, reordering);
        });
    }

    fn detect(&mut self, now: Instant, evidence: Evidence) -> (u32, Option<Instant>) {
        self.rack
            .detect(now, &mut self.board, self.reordering, evidence)
    }
}

/// RFC 8985 §6.2 steps 4 and 5: a quarter of the round trip, unless three say it is lost.
#[test]
fn what_was_sent_before_is_lost_at_once_or_after_the_window() {
    let mut p = Path::new(5);
    p.sack(ms(22), 1, None);
    // Sent at 1 ms; the round trip is 20 ms and the window 5.
    assert_eq!(p.detect(ms(22), evidence(1, false)), (0, Some(ms(26))));
    assert_eq!(p.detect(ms(26), evidence(1, false)), (1000, None));
    let mut p = Path::new(5);
    p.sack(ms(22), 1, None);
    assert_eq!(p.detect(ms(22), evidence(3, false)), (1000, None));
    let mut p = Path::new(5);
    p.sack(ms(22), 1, None);
    assert_eq!(p.detect(ms(22), evidence(1, true)), (1000, None));
}

/// §6.2 step 3: an original that arrives late was overtaken; from then on the
/// window stays.
#[test]
fn reordering_is_noticed() {
    let mut p = Path::new(5);
    p.sack(ms(22), 2, None);
    assert!(!p.reordering.seen);
    p.sack(ms(22), 1, None);
    assert!(p.reordering.seen);
    assert_eq!(p.detect(ms(22), evidence(4, true)).0, 0);
}

/// §6.2 step 2: the ACK of an original must not pass for that of its retransmission.
#[test]
fn an_ambiguous_ack_says_nothing() {
    for (now, echo) in [(60, Some(1)), (51, None)] {
        let mut p = Path::new(5);
        p.sack(ms(24), 3, None);
        p.board.retransmit(seq(0), seq(1000), ms(50));
        p.sack(ms(now), 0, echo);
        assert_eq!(p.rack.sent_at, ms(4), "{now} {echo:?}");
    }
    let mut p = Path::new(5);
    p.sack(ms(24), 3, None);
    p.board.retransmit(seq(0), seq(1000), ms(50));
    p.sack(ms(75), 0, Some(50));
    assert_eq!(
        (p.rack.sent_at, p.rack.rtt),
        (ms(50), Duration::from_millis(25))
    );
    // All that is older than the retransmission is lost, with that round trip.
    assert_eq!(p.detect(ms(75), evidence(3, true)).0, 3000);
}

/// §6.2 step 4: D-SACKs widen the window, once a round trip, up to SRTT, for 16 recoveries.
#[test]
fn needless_retransmissions_widen_the_window() {
    let mut p = Path::new(5);
    p.sack(ms(22), 1, None);
    p.reordering.seen = true;
    let window = |p: &Path| p.rack.window(p.reordering, evidence(3, true)).as_millis();
    assert_eq!(window(&p), 5);
    p.rack.on_dsack(seq(0), seq(5000), &mut p.reordering);
    p.rack.on_dsack(seq(4000), seq(6000), &mut p.reordering);
    assert_eq!(window(&p), 10);
    for i in 1..10 {
        let una = seq(5000 * i);
        p.rack.on_dsack(una, una + 5000, &mut p.reordering);
    }
    assert_eq!(window(&p), SRTT.as_millis());
    for _ in 0..16 {
        p.reordering.on_recovered();
    }
    assert_eq!(window(&p), 5);
}

/// §6.3.
#[test]
fn a_timeout_spares_what_was_sent_just_now() {
    let mut p = Path::new(5);
    p.sack(ms(24), 3, None);
    p.board.push(seq(6000), ms(230));
    let (rack, reordering) = (p.rack, p.reordering);
    rack.on_timeout(ms(235), &mut p.board, reordering, evidence(1, false));
    assert_eq!((p.board.lost(), p.board.pipe()), (4000, 1000));
}
