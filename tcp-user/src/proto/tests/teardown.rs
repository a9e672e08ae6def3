//! The ends of connections: in order, by reset, by silence.

use super::app::Kind;
use super::client::{Close, Outcome};
use super::link::Faults;
use super::rng::Rng;
use super::sim::{Plan, Sim};
use super::{any_client, any_config, any_plan, seeds};
use crate::proto::{CloseReason, Config, State};
use std::collections::HashSet;
use std::time::Duration;

const HOURS: Duration = Duration::from_hours(10);

#[test]
fn orderly_closes_visit_every_state() {
    let visited = std::cell::RefCell::new(HashSet::new());
    seeds("orderly_closes_visit_every_state", 300, |seed| {
        let mut rng = Rng::new(seed);
        let mut plan = any_plan(&mut rng, false);
        // Little data, so that closes meet on the way.
        plan.client.send = rng.range(1, 3_000);
        plan.kind = match plan.kind {
            Kind::Source(_) => Kind::Source(rng.range(0, 3_000)),
            Kind::SourceLast(_) => Kind::SourceLast(rng.range(0, 3_000)),
            kind => kind,
        };
        plan.client.close = Close::AfterSending;
        let mut sim = Sim::new(rng.u64(), any_config(&mut rng), vec![plan], true);
        sim.run_with(HOURS, |sim| {
            for info in sim.endpoint.infos(sim.now) {
                visited.borrow_mut().insert(info.state);
            }
        });
        sim.assert_complete();
        assert_eq!(sim.peers[0].monitor.resets, 0);
        let closed = sim.peers[0].app.closed;
        assert_eq!(closed, Some(CloseReason::Done));
    });
    if std::env::var_os("TCP_XDP_SIM_SEED").is_none() {
        for state in [
            State::Established,
            State::FinWait1,
            State::FinWait2,
            State::CloseWait,
            State::Closing,
            State::LastAck,
            State::TimeWait,
        ] {
            assert!(
                visited.borrow().contains(&state),
                "{state} was never visited"
            );
        }
    }
}

/// A connection that one side breaks off.
fn broken_plan(rng: &mut Rng, faulty: bool) -> Plan {
    let mut plan = any_plan(rng, faulty);
    plan.client.retries = 8;
    plan.client.send = rng.range(1, 20_000);
    let n = rng.magnitude(plan.client.send);
    match rng.range(0, 3) {
        0 => {
            plan.kind = Kind::AbortAfter(n.max(1));
            plan.client.close = Close::AfterFin;
        }
        1 => {
            plan.kind = Kind::CloseAfter(n.max(1));
            plan.client.close = Close::AfterSending;
        }
        end => {
            plan.kind = if rng.chance(0.5) {
                Kind::Echo
            } else {
                Kind::Source(20_000)
            };
            plan.client.expects = if plan.kind == Kind::Echo {
                plan.client.sends
            } else {
                rng.u64()
            };
            plan.client.close = if end == 2 {
                Close::Abort(n)
            } else {
                Close::Vanish(n)
            };
        }
    }
    plan
}

#[test]
fn broken_connections_leave_nothing_behind() {
    seeds("broken_connections_leave_nothing_behind", 500, |seed| {
        let mut rng = Rng::new(seed);
        let faulty = rng.chance(0.7);
        let plan = broken_plan(&mut rng, faulty);
        let config = Config {
            keepalive: Some(Duration::from_mins(5)),
            ..any_config(&mut rng)
        };
        let mut sim = Sim::new(rng.u64(), config, vec![plan], !faulty);
        sim.half_open = faulty;
        // Octets are compared as they arrive; here everything must come to its end.
        sim.run(HOURS);
        if !faulty {
            let p = &sim.peers[0];
            let (closed, outcome) = (p.app.closed, p.client.outcome);
            let context = || format!("{closed:?}, {outcome:?}: {}", sim.report());
            match (p.app.kind, p.client.config.close) {
                (Kind::AbortAfter(_), _) => {
                    assert_eq!(closed, Some(CloseReason::Aborted), "{}", context());
                    assert_eq!(outcome, Some(Outcome::Reset), "{}", context());
                }
                (Kind::CloseAfter(_), _) => {
                    let ends = matches!(outcome, Some(Outcome::Done | Outcome::Reset));
                    assert!(ends, "{}", context());
                }
                (_, Close::Abort(_)) if outcome == Some(Outcome::Aborted) => {
                    assert_eq!(closed, Some(CloseReason::Reset), "{}", context());
                }
                (_, Close::Vanish(_)) if outcome == Some(Outcome::Vanished) => {
                    assert_eq!(closed, Some(CloseReason::TimedOut), "{}", context());
                }
                _ => {}
            }
        }
    });
}

/// A client takes its port again while the server is still in TIME-WAIT: RFC 6191 lets it in at
/// once where timestamps or sequence numbers prove that it is new, and 2 MSL later anyway.
#[test]
fn a_port_can_be_used_again() {
    seeds("a_port_can_be_used_again", 300, |seed| {
        let mut rng = Rng::new(seed);
        let v6 = rng.chance(0.5);
        let plans = (0..3).map(|i| {
            let mut client = any_client(&mut rng, v6);
            client.send = rng.range(1, 5_000);
            client.time_wait = Duration::from_secs(1);
            client.close = Close::AfterFin;
            Plan {
                client,
                kind: Kind::Source(rng.range(0, 5_000)),
                slow: None,
                up: Faults::clean(Duration::from_millis(5)),
                down: Faults::clean(Duration::from_millis(5)),
                v6,
                vlan: None,
                start: Duration::from_mins(5) * i,
                host: Some(0),
            }
        });
        let plans = plans.collect();
        let config = Config {
            msl: Duration::from_secs(200),
            ..any_config(&mut rng)
        };
        let mut sim = Sim::new(rng.u64(), config, plans, true);
        sim.run(HOURS);
        sim.assert_complete();
    });
}

#[test]
fn cookies_of_the_last_slot_still_open_connections() {
    seeds(
        "cookies_of_the_last_slot_still_open_connections",
        200,
        |seed| {
            let mut rng = Rng::new(seed);
            let v6 = rng.chance(0.5);
            let delay = Duration::from_millis(400);
            let plan = Plan {
                client: any_client(&mut rng, v6),
                kind: Kind::Sink,
                slow: None,
                up: Faults::clean(delay),
                down: Faults::clean(delay),
                v6,
                vlan: None,
                start: Duration::ZERO,
                host: None,
            };
            let mut sim = Sim::new(rng.u64(), any_config(&mut rng), vec![plan], true);
            // Between SYN and ACK the slot changes once.
            let mut rotated = false;
            sim.run_with(HOURS, |sim| {
                if !rotated && sim.elapsed() >= Duration::from_millis(400) {
                    rotated = true;
                    sim.rotate_keys(seed);
                }
            });
            sim.assert_complete();
        },
    );
}
