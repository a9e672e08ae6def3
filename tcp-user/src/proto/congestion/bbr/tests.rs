use super::*;
use std::collections::VecDeque;

const MSS: u32 = 1_000;

/// A bottleneck with a queue as long as needed, and everything to send.
struct Bottleneck {
    bbr: Bbr,
    now: Instant,
    /// Octets per second, and the round trip of an empty path.
    rate: f64,
    rtt: Duration,
    /// When the link is free again.
    free_at: Instant,
    /// Arrival of the ACK, time of sending.
    flying: VecDeque<(Instant, Instant)>,
    delivered: u64,
    /// Every so many segments one is lost.
    lose_every: u64,
    sent: u64,
    longest_queue: Duration,
}

impl Bottleneck {
    fn new(rate: f64, rtt: Duration, lose_every: u64) -> Self {
        Self {
            bbr: Bbr::new(MSS),
            now: Instant(1),
            rate,
            rtt,
            free_at: Instant(1),
            flying: VecDeque::new(),
            delivered: 0,
            lose_every,
            sent: 0,
            longest_queue: Duration::ZERO,
        }
    }

    fn pipe(&self) -> u32 {
        self.flying.len() as u32 * MSS
    }

    fn send(&mut self) {
        self.bbr.refill(self.now);
        while self.pipe() + MSS <= self.bbr.cwnd() && self.bbr.has_credit() {
            let pipe = self.pipe();
            self.bbr.on_sent(self.now, MSS, pipe);
            self.sent += 1;
            self.free_at =
                self.free_at.max(self.now) + Duration::from_secs_f64(f64::from(MSS) / self.rate);
            self.longest_queue = self.longest_queue.max(self.free_at - self.now);
            self.flying.push_back((self.free_at + self.rtt, self.now));
        }
    }

    /// Until `end`, in steps of a tenth of a millisecond; returns octets per second.
    fn run(&mut self, time: Duration) -> f64 {
        let (start, before) = (self.now, self.delivered);
        while self.now < start + time {
            self.send();
            self.now += Duration::from_micros(100);
            while let Some(&(at, sent_at)) = self.flying.front().filter(|f| f.0 <= self.now) {
                self.flying.pop_front();
                self.delivered += u64::from(MSS);
                let count = self.delivered / u64::from(MSS);
                let is_lost = self.lose_every > 0 && count.is_multiple_of(self.lose_every);
                if is_lost {
                    self.bbr.on_loss(self.pipe());
                }
                let delivery = Delivery {
                    now: self.now,
                    octets: if is_lost { 0 } else { MSS },
                    sent_at: (!is_lost).then_some(sent_at),
                    rtt: (!is_lost).then(|| at - sent_at),
                    pipe: self.pipe(),
                    lost: if is_lost { MSS } else { 0 },
                    recovering: is_lost,
                };
                self.bbr.on_delivery(&delivery);
            }
        }
        (self.delivered - before) as f64 / time.as_secs_f64()
    }
}

#[test]
fn the_bandwidth_is_found_and_used() {
    for (rate, rtt) in [(1e5, 100), (1e6, 20), (1e7, 5), (1e8, 2)] {
        let mut path = Bottleneck::new(rate, Duration::from_millis(rtt), 0);
        path.run(Duration::from_secs(4));
        let got = path.run(Duration::from_secs(3));
        assert!(got > 0.9 * rate, "{got} of {rate}");
        let bw = path.bbr.bw.get();
        assert!((0.8..1.3).contains(&(bw / rate)), "{bw} of {rate}");
    }
}

/// Once startup is over, little waits in front of the link.
#[test]
fn no_queue_stays() {
    let mut path = Bottleneck::new(1e6, Duration::from_millis(40), 0);
    path.run(Duration::from_secs(3));
    path.longest_queue = Duration::ZERO;
    path.run(Duration::from_secs(5));
    let waited = path.longest_queue;
    assert!(waited < Duration::from_millis(60), "{waited:?}");
}

#[test]
fn random_losses_cost_little() {
    for lose_every in [100, 20, 10] {
        let mut path = Bottleneck::new(1e7, Duration::from_millis(10), lose_every);
        path.run(Duration::from_secs(3));
        let got = path.run(Duration::from_secs(5));
        assert!(got > 0.8 * 1e7, "{got} with a loss every {lose_every}");
    }
}

/// The path becomes slower; ten rounds later so is the sender.
#[test]
fn a_slower_path_is_noticed() {
    let mut path = Bottleneck::new(1e7, Duration::from_millis(10), 0);
    path.run(Duration::from_secs(3));
    path.rate = 1e6;
    path.run(Duration::from_secs(5));
    let bw = path.bbr.bw.get();
    assert!(bw < 1.5e6, "{bw}");
}

/// Every ten seconds little is in flight for a moment, so that a round trip without a
/// queue is seen.
#[test]
fn the_round_trip_is_probed() {
    let mut path = Bottleneck::new(1e6, Duration::from_millis(20), 0);
    let mut least = u32::MAX;
    let end = path.now + Duration::from_secs(12);
    path.run(Duration::from_secs(2));
    while path.now < end {
        path.run(Duration::from_millis(10));
        least = least.min(path.bbr.cwnd());
    }
    assert_eq!(least, MIN_SEGMENTS * MSS);
    assert!(path.bbr.cwnd() > 20 * MSS, "{}", path.bbr.cwnd());
}

#[test]
fn what_the_application_holds_back_is_no_bandwidth() {
    let mut bbr = Bbr::new(MSS);
    let mut now = Instant(1);
    // A segment every 100 ms over a path of 10 ms.
    for _ in 0..100 {
        bbr.on_sent(now, MSS, 0);
        bbr.on_app_limited(MSS);
        let sent_at = now;
        now += Duration::from_millis(10);
        bbr.on_delivery(&Delivery {
            now,
            octets: MSS,
            sent_at: Some(sent_at),
            rtt: Some(now - sent_at),
            pipe: 0,
            lost: 0,
            recovering: false,
        });
        now += Duration::from_millis(90);
    }
    // Startup is not over: nobody has seen what the path can do.
    assert_eq!(bbr.mode, Mode::Startup);
    assert!(bbr.cwnd() >= initial_window(MSS));
}

/// Else what a burst lost would be repaired at one segment a round trip until its rest is paid.
#[test]
fn what_went_out_before_a_rate_is_known_is_no_debt() {
    let mut bbr = Bbr::new(MSS);
    let sent_at = Instant(1);
    for n in 0..30 {
        assert!(bbr.has_credit(), "{n}");
        bbr.on_sent(sent_at, MSS, n * MSS);
    }
    let now = sent_at + Duration::from_millis(10);
    bbr.on_delivery(&Delivery {
        now,
        octets: 10 * MSS,
        sent_at: Some(sent_at),
        rtt: Some(now - sent_at),
        pipe: 0,
        lost: 20 * MSS,
        recovering: true,
    });
    assert_eq!(bbr.rate(), Some(1e6 * HIGH_GAIN * PACING_MARGIN));
    assert!(bbr.has_credit(), "{}", bbr.credit);
}

/// Two segments at least, a millisecond of the rate, or what time has let pile up; nothing before
/// the debt of the last one is paid.
#[test]
fn a_piece_is_as_large_as_the_rate_is_high() {
    let (pieces, waits): (Vec<u32>, Vec<Duration>) = [1e5, 1e7, 1e9]
        .map(|rate| {
            let mut bbr = Bbr::new(MSS);
            let now = Instant(1);
            bbr.bw.add(rate / HIGH_GAIN / PACING_MARGIN, 1, BW_ROUNDS);
            // No credit but the last octet.
            bbr.refill(now);
            bbr.credit = 1.0;
            let piece = bbr.piece();
            bbr.on_sent(now, piece, 0);
            assert_eq!(bbr.piece(), 0);
            let at = bbr.credit_at().expect("a debt");
            bbr.refill(at);
            assert!(bbr.piece() >= 2 * MSS);
            (piece, at - now)
        })
        .into_iter()
        .unzip();
    assert_eq!(pieces, [2 * MSS, 10_000, MAX_QUANTUM as u32]);
    let millis = waits.iter().map(|wait| wait.as_secs_f64() * 1e3);
    for (wait, wanted) in millis.zip([30.0, 1.1, 0.067]) {
        assert!((wait / wanted - 1.0).abs() < 0.01, "{wait} ms");
    }
}

#[test]
fn a_timeout_begins_with_a_segment_and_the_window_comes_back() {
    let mut path = Bottleneck::new(1e7, Duration::from_millis(10), 0);
    path.run(Duration::from_secs(2));
    let before = path.bbr.cwnd();
    path.bbr.on_timeout(path.pipe());
    assert_eq!(path.bbr.cwnd(), MSS);
    path.flying.clear();
    path.run(Duration::from_millis(200));
    assert!(path.bbr.cwnd() > before / 2, "{}", path.bbr.cwnd());
}

mod max {
    use super::super::filter::WindowedMax;

    /// Beside the true maximum of the window.
    #[test]
    fn the_largest_of_the_last_rounds() {
        let mut filter = WindowedMax::default();
        let mut all: Vec<(u64, u32)> = Vec::new();
        let mut x = 7_u32;
        for round in 0..10_000 {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let value = x >> 20;
            filter.add(value, round, 10);
            all.push((round, value));
            let exact = all.iter().rev().take(11).map(|v| v.1).max();
            let recent = all.iter().rev().take(6).map(|v| v.1).max();
            // Never more than there was, never less than the younger half has.
            assert!(Some(filter.get()) <= exact, "round {round}");
            assert!(
                Some(filter.get()) >= recent.min(exact) || round < 11,
                "round {round}"
            );
        }
    }
}
