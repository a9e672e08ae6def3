//! Loss recovery: what is in flight, and what is done about what is lost.
//!
//! Exists only while something is in flight. Losses are found by RACK (RFC 8985) where the
//! peer sends SACK blocks, by duplicate ACKs (RFC 6582) where it does not. How
//! much goes out in recovery is up to proportional rate reduction (RFC 9937), after
//! a timeout to slow start. A tail that no later segment could expose is probed
//! (RFC 8985 §7). A recovery that Eifel detection (RFC 3522) or D-SACKs (RFC 3708) find
//! needless is undone (RFC 4015).

use super::probe::Probes;
use super::rack::{Evidence, Rack};
use super::scoreboard::{Range, Scoreboard, Verdict};
use super::timer::NEVER;
use super::{Connection, Instant, Segment};
use crate::proto::congestion::{Ack, Congestion, Controller, Delivery, Prr};
use std::time::Duration;
use tcp_common::seq::SeqNum;

/// Duplicate ACKs that mean a loss (RFC 5681 §3.2).
const DUP_THRESHOLD: u8 = 3;
/// A round-trip time above this is no sample but a broken echo.
const MAX_RTT: Duration = Duration::from_mins(2);
/// Which recovery is going on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Recovery {
    None,
    /// After a loss that ACKs exposed.
    Fast,
    /// After a timeout.
    Timeout,
}

/// How to go back if the recovery was a mistake.
#[derive(Clone, Debug)]
struct Undo {
    before: Option<Controller>,
    /// The first retransmission: when it went out, milliseconds of our clock, and its end
    /// (RFC 3522 §3.2).
    first: Option<(u32, SeqNum)>,
    /// It is acknowledged, and was needed.
    needed: bool,
    /// Octets sent again that no D-SACK has reported yet.
    octets: u32,
}

/// What is in flight.
pub(super) struct Flight {
    pub(super) board: Scoreboard,
    pub(super) recovery: Recovery,
    /// `RecoveryPoint` (RFC 6675 §2).
    recover: SeqNum,
    rack: Rack,
    prr: Prr,
    /// ACKs that sacked something or, without SACK, duplicate ACKs.
    dup_acks: u8,
    /// Octets that have left the network according to duplicate ACKs without SACK.
    dup_octets: u32,
    /// Octets delivered at `heard` for which nothing was sent yet. ACKs come in batches, and
    /// what the first of them allow is sent when the last one may have begun a recovery.
    unspent: u32,
    heard: Instant,
    /// The next segment goes out whatever cwnd says.
    pub(super) force: bool,
    /// When to look for losses again, or when to probe.
    pub(super) deadline: Instant,
    /// It is the reordering timer that runs (RFC 8985 §6.2 step 5).
    pub(super) reorder_timer: bool,
    pub(super) probes: Probes,
    /// A zero window was probed with octets of this flight.
    pub(super) window_probed: bool,
    /// The first segment went out again as a probe, before any recovery: when, milliseconds of
    /// our clock, and its end.
    probed: Option<(u32, SeqNum)>,
    /// The round trip ends when what follows this is acknowledged.
    round_end: SeqNum,
    undo: Option<Undo>,
}

/// What an ACK meant to SND.UNA.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    /// Octets by which it moved.
    pub(super) acked: u32,
    /// A duplicate ACK as RFC 5681 §2 defines it.
    pub(super) duplicate: bool,
    /// Octets sent and not acknowledged before.
    pub(super) flight: u32,
}

/// What an ACK delivered.
#[derive(Default)]
struct News {
    octets: u32,
    /// Round trip of what was sent last and only once. What was sent earlier may have
    /// waited for an ACK that was lost.
    rtt: Option<Duration>,
    /// When what was sent last went out, the last time.
    sent_at: Option<Instant>,
    /// Some of it was sent more than once.
    again: bool,
    /// D-SACK (RFC 2883).
    dsack: Option<(SeqNum, SeqNum)>,
}

impl News {
    /// The round trip, if nothing of it was sent twice (Karn).
    fn clean_rtt(&self) -> Option<Duration> {
        self.rtt.filter(|_| !self.again)
    }
}

impl Flight {
    pub(super) fn new(una: SeqNum, srtt: Option<Duration>) -> Self {
        Self {
            board: Scoreboard::new(una),
            recovery: Recovery::None,
            recover: una,
            rack: Rack::new(una, srtt.unwrap_or(Duration::MAX)),
            prr: Prr::new(0, 0),
            dup_acks: 0,
            dup_octets: 0,
            unspent: 0,
            heard: NEVER,
            force: false,
            deadline: NEVER,
            reorder_timer: false,
            probes: Probes::default(),
            window_probed: false,
            probed: None,
            round_end: una,
            undo: None,
        }
    }

    /// Octets in the network, as far as known.
    pub(super) const fn pipe(&self) -> u32 {
        self.board.pipe().saturating_sub(self.dup_octets)
    }

    /// The segment `[start, end)` was sent again.
    pub(super) fn on_retransmit(&mut self, start: SeqNum, end: SeqNum, now: Instant) {
        if self.recovery == Recovery::None
            && self.first_probe(start).is_none()
            && self.board.first().is_some_and(|r| r.start == start)
        {
            self.probed = Some((now.millis(), end));
        }
        self.board.retransmit(start, end, now);
        let octets = end.distance_from(start);
        if let Some(undo) = &mut self.undo
            && self.recovery != Recovery::None
        {
            undo.first.get_or_insert((now.millis(), end));
            undo.octets = undo.octets.saturating_add(octets);
        }
        self.on_sent(octets);
    }

    /// The probe that the segment at SND.UNA was sent again as.
    fn first_probe(&self, una: SeqNum) -> Option<(u32, SeqNum)> {
        self.probed.filter(|(_, end)| end.after(una))
    }

    /// New octets up to `end` were sent.
    pub(super) fn on_new(&mut self, end: SeqNum, now: Instant) {
        let octets = end.distance_from(self.board.nxt());
        self.board.push(end, now);
        self.on_sent(octets);
    }

    fn on_sent(&mut self, octets: u32) {
        self.force = false;
        self.unspent = 0;
        if self.recovery == Recovery::Fast {
            self.prr.on_sent(octets);
        }
    }

    /// Takes the blocks of an ACK (RFC 2018 §4, RFC 2883 §4). Those that make no sense are left
    /// out. Returns the D-SACK.
    fn sack(
        &mut self,
        seg: &Segment<'_>,
        una: SeqNum,
        mut delivered: impl FnMut(&mut Rack, &Range),
    ) -> Option<(SeqNum, SeqNum)> {
        let blocks = seg.sack.as_slice();
        let mut dsack = None;
        for (i, &(left, right)) in blocks.iter().enumerate() {
            if !left.before(right) || right.after(self.board.nxt()) {
                continue;
            }
            let inside = |&(l, r): &(SeqNum, SeqNum)| l.before_eq(left) && right.before_eq(r);
            if i == 0 && (right.before_eq(seg.ack) || blocks.get(1).is_some_and(inside)) {
                dsack = Some((left, right));
            } else if left.after_eq(una) {
                self.board
                    .sack(left, right, |range| delivered(&mut self.rack, range));
            }
        }
        dsack
    }
}

impl Connection {
    /// Octets in the network.
    pub(super) fn pipe(&self) -> u32 {
        self.flight.as_ref().map_or(0, |f| f.pipe())
    }

    /// The peer's echo as milliseconds of our clock.
    pub(super) fn echo(&self, seg: &Segment<'_>) -> Option<u32> {
        let (stamps, ts) = (self.stamps.as_ref()?, seg.timestamps?);
        Some(ts.ecr.wrapping_sub(stamps.offset))
    }

    /// Takes an ACK into the account of what is in flight; SND.UNA is already what it says.
    pub(super) fn recover(&mut self, now: Instant, seg: &Segment<'_>, arrival: Arrival) {
        let Some(mut flight) = self.flight.take() else {
            return;
        };
        let f = &mut *flight;
        if f.heard != now {
            f.heard = now;
            f.unspent = 0;
        }
        let echo = self.echo(seg);
        let sacked_before = f.board.sacked();
        let news = self.deliver(now, seg, f, echo);
        self.sample_rtt(now, f, &news, echo, arrival.acked > 0);

        let was = f.recovery;
        self.detect_spurious(f, &news, echo);
        if f.recovery != Recovery::None && self.snd.una.after_eq(f.recover) {
            self.end_recovery(f);
        }
        let in_flight_before = arrival.flight - sacked_before.min(arrival.flight);
        let mut delivered = news.octets;
        let mut lost = 0;
        if !self.sack {
            delivered = self.count_duplicates(f, arrival, news.octets, &mut lost);
        } else if news.octets > 0 {
            lost = self.detect_losses(now, f);
        }
        let entered = lost > 0 && f.recovery == Recovery::None;
        if entered {
            self.enter_recovery(f, in_flight_before, arrival.flight);
        }
        let is_modelled = self.model_path(now, f, &news, delivered, lost);
        if !is_modelled && f.recovery == Recovery::Fast && (delivered > 0 || entered) {
            let safe = arrival.acked > 0 && lost == 0;
            self.reduce(f, delivered, safe);
        }
        f.unspent = f.unspent.saturating_add(delivered);
        let is_fast = was == Recovery::Fast || f.recovery == Recovery::Fast;
        if !is_modelled && arrival.acked > 0 && !is_fast {
            self.grow(now, f, &news);
        }
        if arrival.acked > 0 && self.snd.una.after(f.round_end) {
            f.round_end = self.snd.nxt;
        }
        self.judge_probe(f, news.dsack, seg, arrival);
        if news.octets > 0 || news.dsack.is_some() {
            f.probes.on_answer();
            self.schedule_probe(now, f);
        }
        // A probe whose outcome is open is remembered.
        if !f.board.is_empty() || f.probes.is_undecided() {
            self.flight = Some(flight);
        }
    }

    /// What was delivered, by acknowledgment and by SACK.
    fn deliver(
        &mut self,
        now: Instant,
        seg: &Segment<'_>,
        f: &mut Flight,
        echo: Option<u32>,
    ) -> News {
        let mut news = News::default();
        let probed = f.probes.is_unanswered();
        let reordering = &mut self.reordering;
        let mut note = |rack: &mut Rack, range: &Range| {
            news.octets += range.len();
            news.sent_at = news.sent_at.max(Some(range.sent_at));
            if range.again {
                news.again = true;
            } else {
                let rtt = now - range.sent_at;
                news.rtt = Some(news.rtt.map_or(rtt, |newest| newest.min(rtt)));
            }
            rack.on_delivered(now, range, echo, probed, reordering);
        };
        let una = self.snd.una;
        f.board.acknowledge(una, |range| note(&mut f.rack, range));
        if self.sack && !seg.sack.as_slice().is_empty() {
            let before = f.board.sacked();
            let dsack = f.sack(seg, una, note);
            if f.board.sacked() > before {
                f.dup_acks = f.dup_acks.saturating_add(1);
            }
            news.dsack = dsack;
            if dsack.is_some() {
                f.rack.on_dsack(una, self.snd.nxt, &mut self.reordering);
            }
        }
        if self.sack && f.board.sacked() == 0 {
            f.dup_acks = 0;
        }
        news
    }

    /// RFC 6298 §3: a sample a round trip, never of what was sent twice (Karn), nor of what had
    /// to wait for that. Where that leaves none after a timeout, the timestamp echo says
    /// which of the copies arrived (RFC 7323 §4.1).
    fn sample_rtt(
        &mut self,
        now: Instant,
        f: &Flight,
        news: &News,
        echo: Option<u32>,
        advances: bool,
    ) {
        let wanted = self.rtt.srtt().is_none() || self.rtt.is_backed_off();
        if let Some(rtt) = news.clean_rtt() {
            if wanted || (advances && self.snd.una.after(f.round_end)) {
                self.rtt.sample(rtt);
            }
        } else if let Some(echo) = echo
            && advances
            && wanted
        {
            let millis = now.millis().wrapping_sub(echo);
            let rtt = Duration::from_millis(u64::from(millis));
            if news.dsack.is_some() {
                // The echo is that of an original, whose own ACK was lost.
                self.rtt.reset_backoff();
            } else if rtt <= MAX_RTT {
                self.rtt.sample(rtt);
            }
        }
    }

    /// Eifel detection (RFC 3522): the ACK of the first retransmission echoes a segment from before
    /// it. Or every retransmission came back as a
    /// D-SACK (RFC 3708 §2).
    fn detect_spurious(&mut self, f: &mut Flight, news: &News, echo: Option<u32>) {
        let Some(undo) = &mut f.undo else { return };
        let mut spurious = false;
        if !undo.needed
            && f.recovery != Recovery::None
            && let Some((at, end)) = undo.first
            && self.snd.una.after_eq(end)
        {
            spurious = echo.is_some_and(|echo| (echo.wrapping_sub(at) as i32) < 0);
            undo.needed = !spurious;
        }
        if let Some((left, right)) = news.dsack
            && undo.octets > 0
        {
            undo.octets = undo.octets.saturating_sub(right.distance_from(left));
            spurious |= undo.octets == 0 && f.board.lost() == 0;
        }
        if spurious && let Some(undo) = f.undo.take() {
            self.congestion.undo(undo.before);
            f.board.forget_losses();
            f.force = false;
            f.recovery = Recovery::None;
            f.dup_acks = 0;
            f.dup_octets = 0;
        }
    }

    fn end_recovery(&mut self, f: &mut Flight) {
        if f.recovery == Recovery::Fast {
            self.congestion.on_recovered();
        }
        f.recovery = Recovery::None;
        f.dup_acks = 0;
        f.dup_octets = 0;
        self.reordering.on_recovered();
    }

    fn evidence(&self, f: &Flight) -> Evidence {
        Evidence {
            recovering: f.recovery != Recovery::None,
            sacked: (f.board.sacked() / u32::from(self.snd.mss)).max(u32::from(f.dup_acks)),
            srtt: self.rtt.srtt(),
        }
    }

    /// Octets that RACK finds lost now; the timer is set for what it waits for.
    fn detect_losses(&mut self, now: Instant, f: &mut Flight) -> u32 {
        let evidence = self.evidence(f);
        let (lost, again_at) = f.rack.detect(now, &mut f.board, self.reordering, evidence);
        f.reorder_timer = again_at.is_some();
        f.deadline = again_at.unwrap_or(NEVER);
        lost
    }

    /// Without SACK: what duplicate ACKs and partial ACKs say (RFC 6582 §3.2). Returns the octets
    /// delivered as RFC 9937 §5 counts them.
    fn count_duplicates(
        &self,
        f: &mut Flight,
        arrival: Arrival,
        acked: u32,
        lost: &mut u32,
    ) -> u32 {
        let mss = u32::from(self.snd.mss);
        if arrival.acked > 0 {
            // One segment fills the hole, the others were counted when they were duplicates.
            let counted = acked.saturating_sub(mss).min(f.dup_octets);
            f.dup_octets -= counted;
            if f.recovery == Recovery::Fast {
                // Partial acknowledgment: the next hole is filled at once.
                f.board.mark_head_lost(mss);
                *lost = f.board.lost();
                f.force = true;
            } else {
                f.dup_acks = 0;
                f.dup_octets = 0;
            }
            return acked - counted;
        }
        if !arrival.duplicate || f.recovery == Recovery::Timeout {
            return 0;
        }
        f.dup_acks = f.dup_acks.saturating_add(1);
        // The first two let a segment each out: limited transmit (RFC 3042).
        let room = f.board.pipe().saturating_sub(mss);
        f.dup_octets = (f.dup_octets + mss).min(room);
        if f.recovery == Recovery::None && f.dup_acks == DUP_THRESHOLD {
            f.board.mark_head_lost(mss);
            *lost = f.board.lost();
            f.dup_octets = f.dup_octets.min(f.board.pipe());
        }
        mss
    }

    /// Recovery begins. `in_flight` and `flight` octets were out, without and with
    /// what was sacked.
    fn enter_recovery(&mut self, f: &mut Flight, in_flight: u32, flight: u32) {
        f.undo = Some(Undo {
            before: self.congestion.snapshot(),
            first: f.first_probe(self.snd.una),
            needed: false,
            octets: 0,
        });
        f.recovery = Recovery::Fast;
        f.recover = self.snd.nxt;
        f.prr = Prr::new(in_flight, f.unspent);
        f.probes.restart();
        self.congestion.on_loss(flight);
    }

    /// Tells the congestion control that goes by a model of the path; false if there is none.
    fn model_path(
        &mut self,
        now: Instant,
        f: &Flight,
        news: &News,
        octets: u32,
        lost: u32,
    ) -> bool {
        let Some(model) = self.congestion.model() else {
            return false;
        };
        model.on_delivery(&Delivery {
            now,
            octets,
            sent_at: news.sent_at,
            rtt: news.clean_rtt(),
            pipe: f.pipe(),
            lost,
            recovering: f.recovery != Recovery::None,
        });
        true
    }

    fn reduce(&mut self, f: &mut Flight, delivered: u32, safe: bool) {
        let ssthresh = self.congestion.ssthresh();
        let mss = u32::from(self.snd.mss);
        let cwnd = f.prr.on_ack(delivered, f.pipe(), ssthresh, mss, safe);
        self.congestion.set_cwnd(cwnd);
    }

    fn grow(&mut self, now: Instant, f: &Flight, news: &News) {
        let mut acked = news.octets;
        if f.recovery == Recovery::Timeout && !self.sack {
            // It covers what had arrived before the timeout (RFC 3465 §2.3).
            acked = acked.min(u32::from(self.snd.mss));
        }
        self.congestion.on_ack(&Ack {
            now,
            acked,
            limited: self.cwnd_limited || f.board.lost() > 0,
            rtt: news.clean_rtt(),
            new_round: self.snd.una.after(f.round_end),
        });
    }

    /// The timer for reordering or for a probe fired.
    pub(super) fn loss_timeout(&mut self, now: Instant) {
        let Some(mut flight) = self.flight.take() else {
            return;
        };
        let f = &mut *flight;
        f.deadline = NEVER;
        if std::mem::take(&mut f.reorder_timer) {
            let out = self.snd.nxt.distance_from(self.snd.una);
            let in_flight = out - f.board.sacked();
            let lost = self.detect_losses(now, f);
            if f.heard != now {
                f.unspent = 0;
            }
            let entered = lost > 0 && f.recovery == Recovery::None;
            if entered {
                self.enter_recovery(f, in_flight, out);
            }
            let is_modelled = self.model_path(now, f, &News::default(), 0, lost);
            if !is_modelled && lost > 0 && f.recovery == Recovery::Fast {
                self.reduce(f, 0, false);
            }
            self.schedule_probe(now, f);
        } else {
            f.probes.due = true;
            if f.probes_tail() {
                // The probe comes instead of a timeout that is due just now.
                self.timers.retransmit = now + self.rtt.rto();
            }
        }
        self.flight = Some(flight);
    }

    /// The retransmission timer expired (RFC 6675 §5.1, RFC 8985 §6.3, RFC 6582 §3.2 step 6).
    ///
    /// What is sacked stays so: RFC 2018 §8 would forget it, as the receiver may renege. That
    /// shows when SND.UNA arrives there, and then it is forgotten.
    pub(super) fn on_timeout(&mut self, now: Instant) {
        let Some(mut flight) = self.flight.take() else {
            return;
        };
        let f = &mut *flight;
        if f.board.is_reneged() {
            f.board.forget_sacks();
        }
        if self.retries == 1 {
            f.undo = Some(Undo {
                before: self.congestion.snapshot(),
                // Where a probe has repaired the loss, the timeout was needless, but not what it
                // means to cwnd.
                first: f.first_probe(self.snd.una),
                needed: false,
                octets: f.board.again(),
            });
            // RFC 5681 §3.1: ssthresh only falls for the first of several
            // retransmissions of a segment.
            let out = self.snd.nxt.distance_from(self.snd.una);
            self.congestion.on_timeout(out);
        }
        f.recovery = Recovery::Timeout;
        f.recover = self.snd.nxt;
        f.dup_acks = 0;
        f.dup_octets = 0;
        f.probes.restart();
        f.deadline = NEVER;
        f.reorder_timer = false;
        f.force = true;
        if self.sack {
            let evidence = self.evidence(f);
            f.rack
                .on_timeout(now, &mut f.board, self.reordering, evidence);
        } else {
            f.board.mark_lost(|_| Verdict::Lost);
        }
        self.flight = Some(flight);
    }

    /// The segments in flight were too large: all of it is cut anew.
    pub(super) fn resegment(&mut self) {
        let Some(f) = &mut self.flight else { return };
        f.board.mark_lost(|_| Verdict::Lost);
        f.dup_acks = 0;
        f.dup_octets = 0;
        f.probes.restart();
        f.deadline = NEVER;
        f.reorder_timer = false;
        f.force = true;
    }

    /// A window that was shut opens. What probed it was not taken, and is sent again
    /// with what follows.
    pub(super) fn on_window_opened(&mut self) {
        let Some(f) = &mut self.flight else { return };
        if self.snd.nxt.distance_from(self.snd.una) == 1 {
            self.snd.nxt = self.snd.una;
            self.flight = None;
        } else if std::mem::take(&mut f.window_probed) {
            f.board.mark_lost(|_| Verdict::Lost);
        }
    }
}
