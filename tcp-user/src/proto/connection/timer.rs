//! A connection's timers. They are deadlines in the TCB; the endpoint keeps one
//! entry in its wheel for the earliest of them, and lets it fire early rather than
//! move it with every segment.

use super::state::Phase;
use super::{Connection, Env, Step};
use crate::proto::{CloseReason, Config, Instant};
use std::time::Duration;

/// A timer that does not run.
pub(in crate::proto) const NEVER: Instant = Instant(u64::MAX);

/// Keepalive probes that go unanswered at most.
const MAX_KEEPALIVES: u8 = 9;
/// The bit of `Connection::keepalives` that says that they are wanted.
pub(super) const KEEPALIVE: u8 = 0x80;
/// Idle time where a connection wants keepalive and the configuration names none: two
/// hours, the least that RFC 9293 §3.8.4 allows (MUST-28).
const KEEPALIVE_IDLE: Duration = Duration::from_hours(2);

/// Deadlines.
pub(in crate::proto) struct Timers {
    /// Retransmission if something is outstanding, else persist. Runs as long as
    /// there is something to send or to be acknowledged.
    pub(super) retransmit: Instant,
    /// Delayed ACK.
    pub(super) ack: Instant,
    /// Keepalive, or the end of FIN-WAIT-2.
    pub(super) idle: Instant,
    /// When the endpoint's wheel fires for this connection.
    pub(in crate::proto) armed: Instant,
}

impl Timers {
    pub(super) const fn new() -> Self {
        Self {
            retransmit: NEVER,
            ack: NEVER,
            idle: NEVER,
            armed: NEVER,
        }
    }
}

impl Connection {
    /// The earliest deadline, [`NEVER`] if there is none.
    pub(in crate::proto) fn next_deadline(&self) -> Instant {
        let t = &self.timers;
        let loss = self.flight.as_ref().map_or(NEVER, |f| f.deadline);
        let paced = self.paced_until().unwrap_or(NEVER);
        t.retransmit.min(t.ack).min(t.idle).min(loss).min(paced)
    }

    /// Fires what is due.
    pub(in crate::proto) fn handle_timeout(&mut self, now: Instant, env: &mut Env<'_>) -> Step {
        if self.timers.ack <= now {
            self.timers.ack = NEVER;
            self.ack_now = true;
        }
        if let Some(model) = self.congestion.model() {
            model.refill(now);
        }
        if self.flight.as_ref().is_some_and(|f| f.deadline <= now) {
            self.loss_timeout(now);
        }
        if self.timers.retransmit <= now {
            let step = self.retransmission_timeout(now);
            if step != Step::Open {
                return step;
            }
        }
        if self.timers.idle <= now {
            return self.idle_timeout(now, env.config);
        }
        Step::Open
    }

    /// Starts the retransmission timer if it must run and does not (RFC 6298 §5.1).
    pub(super) fn arm_retransmit(&mut self, now: Instant) {
        if self.timers.retransmit == NEVER && self.has_unacknowledged() {
            self.timers.retransmit = now + self.rtt.rto();
        }
    }

    /// Starts it anew, or stops it if nothing is left (RFC 6298 §5.2, §5.3).
    pub(super) fn restart_retransmit(&mut self, now: Instant) {
        self.timers.retransmit = NEVER;
        self.arm_retransmit(now);
    }

    fn retransmission_timeout(&mut self, now: Instant) -> Step {
        self.timers.retransmit = NEVER;
        if !self.has_unacknowledged() {
            return Step::Open;
        }
        if !self.is_outstanding() && self.has_text() {
            // Not sent yet for want of a free frame.
            self.arm_retransmit(now);
            return Step::Open;
        }
        self.retries = self.retries.saturating_add(1);
        if self.retries > self.max_retries {
            return Step::Closed(CloseReason::TimedOut);
        }
        if self.snd.wnd == 0 || !self.is_outstanding() {
            // Zero-window probe (RFC 9293 §3.8.6.1), or the sender's SWS
            // override timeout (§3.8.6.2.1).
            self.probe = true;
        } else {
            self.on_timeout(now);
            self.ecn.reduced |= self.ecn.agreed;
            self.suspect_black_hole(now);
        }
        self.rtt.backoff();
        self.timers.retransmit = now + self.rtt.rto();
        Step::Open
    }

    pub(super) fn start_fin_wait_2(&mut self, now: Instant, config: &Config) {
        self.timers.idle = now + config.fin_timeout;
    }

    pub(super) fn start_keepalive(&mut self, now: Instant, config: &Config) {
        if self.keepalives & KEEPALIVE != 0 {
            self.timers.idle = now + config.keepalive.unwrap_or(KEEPALIVE_IDLE);
        }
    }

    /// Starts or stops probing (RFC 9293 §3.8.4, MUST-24).
    pub(in crate::proto) fn set_keepalive(&mut self, now: Instant, on: bool, config: &Config) {
        self.keepalives = if on { KEEPALIVE } else { 0 };
        if self.finishing && self.phase == Phase::FinWait2 {
            return;
        }
        self.timers.idle = NEVER;
        self.start_keepalive(now, config);
    }

    fn idle_timeout(&mut self, now: Instant, config: &Config) -> Step {
        self.timers.idle = NEVER;
        if self.finishing && self.phase == Phase::FinWait2 {
            return Step::Closed(CloseReason::TimedOut);
        }
        // RFC 9293 §3.8.4.
        if self.keepalives & KEEPALIVE == 0 {
            return Step::Open;
        }
        let idle = config.keepalive.unwrap_or(KEEPALIVE_IDLE);
        let silent = Duration::from_millis(u64::from(now.millis().wrapping_sub(self.heard)));
        if silent < idle || self.has_unacknowledged() {
            self.timers.idle = now + idle.saturating_sub(silent).max(Duration::from_secs(1));
        } else if self.keepalives & !KEEPALIVE >= MAX_KEEPALIVES {
            return Step::Closed(CloseReason::TimedOut);
        } else {
            self.keepalives += 1;
            self.keepalive_due = true;
            self.timers.idle = now + config.keepalive_interval;
        }
        Step::Open
    }
}
