//! Whole connections over bad paths.

use super::app::Kind;
use super::client::{self, Close};
use super::link::Faults;
use super::sim::Sim;
use super::{Plan, any_config, any_plan, seeds};
use crate::proto::Config;
use crate::proto::tests::rng::Rng;
use std::time::Duration;

const HOURS: Duration = Duration::from_hours(10);

#[test]
fn every_octet_arrives_over_a_clean_path() {
    seeds("every_octet_arrives_over_a_clean_path", 300, |seed| {
        let mut rng = Rng::new(seed);
        let plan = any_plan(&mut rng, false);
        let mut sim = Sim::new(rng.u64(), any_config(&mut rng), vec![plan], true);
        sim.run(HOURS);
        sim.assert_complete();
    });
}

#[test]
fn every_octet_arrives_over_a_bad_path() {
    seeds("every_octet_arrives_over_a_bad_path", 1000, |seed| {
        let mut rng = Rng::new(seed);
        let plan = any_plan(&mut rng, true);
        let mut sim = Sim::new(rng.u64(), any_config(&mut rng), vec![plan], false);
        sim.run(HOURS);
        sim.assert_complete();
    });
}

/// In the middle of a transfer a link becomes narrow, and the router says so, or not.
#[test]
fn every_octet_arrives_when_the_path_becomes_narrow() {
    let refused = std::cell::Cell::new([0; 2]);
    seeds(
        "every_octet_arrives_when_the_path_becomes_narrow",
        300,
        |seed| {
            let mut rng = Rng::new(seed);
            let mut plan = any_plan(&mut rng, rng_is_faulty(seed));
            plan.client.retries = 60;
            // Full segments, and some of them.
            let octets = rng.range(10_000, 150_000);
            plan.client.mss = if plan.v6 { 1_440 } else { 1_460 };
            plan.kind = Kind::Source(octets);
            plan.client.close = Close::AfterReceiving(octets);
            let mtu = if plan.v6 {
                rng.pick(&[1_280, 1_400, 1_492])
            } else {
                rng.pick(&[576, 600, 1_006, 1_300, 1_492])
            };
            plan.down.narrow = Some((rng.magnitude(60), mtu));
            plan.down.icmp = rng.chance(0.5);
            let icmp = plan.down.icmp;
            let config = Config {
                mtu: 1_500,
                ..any_config(&mut rng)
            };
            let mut sim = Sim::new(rng.u64(), config, vec![plan], false);
            sim.run(HOURS);
            sim.assert_complete();
            let mut all = refused.get();
            all[usize::from(icmp)] += sim.peers[0].down.refused;
            refused.set(all);
        },
    );
    if std::env::var_os("TCP_XDP_SIM_SEED").is_none() {
        assert!(refused.get().iter().all(|n| *n > 100), "{refused:?}");
    }
}

/// Every second seed.
const fn rng_is_faulty(seed: u64) -> bool {
    seed % 2 == 1
}

/// Congestion that is marked both ways is echoed, answered and confirmed, and nothing is
/// lost.
#[test]
fn every_octet_arrives_over_a_congested_path() {
    let seen = std::cell::Cell::new([0; 4]);
    seeds("every_octet_arrives_over_a_congested_path", 300, |seed| {
        let mut rng = Rng::new(seed);
        let mut plan = any_plan(&mut rng, rng_is_faulty(seed));
        plan.client.ecn = true;
        plan.up.congestion = rng.pick(&[0.0, 0.01, 0.1, 0.5]);
        plan.down.congestion = rng.pick(&[0.0, 0.01, 0.1, 0.5]);
        let timestamps = plan.client.timestamps;
        let config = Config {
            ecn: rng.chance(0.9),
            ..any_config(&mut rng)
        };
        let agreed = timestamps && config.ecn;
        let mut sim = Sim::new(rng.u64(), config, vec![plan], false);
        sim.run(HOURS);
        sim.assert_complete();
        let p = &sim.peers[0];
        assert_eq!(p.client.ecn.agreed, agreed);
        let marked = (p.up.marked, p.down.marked);
        assert!(agreed || marked == (0, 0), "marked without ECT");
        let m = &p.monitor;
        assert!(m.echoes == 0 || p.up.marked > 0, "{}", sim.report());
        let counts = [marked.0, m.echoes, marked.1, m.reductions];
        let mut all = seen.get();
        for (sum, n) in all.iter_mut().zip(counts) {
            *sum += n;
        }
        seen.set(all);
    });
    if std::env::var_os("TCP_XDP_SIM_SEED").is_none() {
        assert!(seen.get().iter().all(|n| *n > 40), "{seen:?}");
    }
}

/// A connection at its simplest: everything at once, no faults.
fn plain(rng: &mut Rng, kind: Kind, send: u64, delay: Duration) -> Plan {
    Plan {
        client: client::Config {
            mss: 1_460,
            window_scale: Some(7),
            timestamps: rng.chance(0.5),
            sack: true,
            buffer: 300_000,
            delayed_ack: Some(Duration::from_millis(40)),
            slow_reader: None,
            send,
            writes: (u64::MAX / 2, Duration::ZERO),
            close: Close::AfterSending,
            rto: Duration::from_secs(1),
            retries: 20,
            time_wait: Duration::from_secs(1),
            ack_with_data: false,
            ecn: false,
            sends: rng.u64(),
            expects: rng.u64(),
        },
        kind,
        slow: None,
        up: Faults::clean(delay),
        down: Faults::clean(delay),
        v6: false,
        vlan: None,
        start: Duration::ZERO,
        host: None,
    }
}

/// Runs until the client has all it waits for, and returns how long that took from the first
/// data on: a SYN-ACK that is lost is the client's to ask for again.
fn duration(sim: &mut Sim) -> Duration {
    let (mut began, mut done) = (None, None);
    sim.run_with(HOURS, |sim| {
        if sim.peers[0].app.id.is_some() {
            began.get_or_insert(sim.elapsed());
        }
        if done.is_none() && sim.peers[0].client.outcome.is_some() {
            done = Some(sim.elapsed());
        }
    });
    sim.assert_complete();
    let began = began.expect("the server accepted");
    done.expect("the client is done").saturating_sub(began)
}

/// Nothing waits for a timer where nothing is lost: slow start, then a window each round trip.
#[test]
fn a_clean_path_knows_no_stalls() {
    seeds("a_clean_path_knows_no_stalls", 60, |seed| {
        let mut rng = Rng::new(seed);
        let delay = Duration::from_micros(rng.magnitude(50_000));
        let octets = rng.magnitude(1_000_000);
        let plan = plain(&mut rng, Kind::Source(octets), 100, delay);
        let mut sim = Sim::new(rng.u64(), Config::default(), vec![plan], true);
        let took = duration(&mut sim);
        // Request, response in doubling windows up to 300,000 octets, close; one delayed ACK
        // of 40 ms at an odd end.
        let windows = 8 + (octets / 290_000) as u32;
        let limit = 2 * delay * (3 + windows) + Duration::from_millis(100);
        assert!(took <= limit, "{took:?} for {octets} octets at {delay:?}");
    });
}

/// No timer fires too early and no ACK comes too late where nothing is lost. A client that keeps an
/// ACK back for longer than most do gets the one probe that tells so (RFC 8985 §7.2).
#[test]
fn nothing_is_sent_twice_over_a_clean_path() {
    seeds("nothing_is_sent_twice_over_a_clean_path", 300, |seed| {
        let mut rng = Rng::new(seed);
        let mut plan = any_plan(&mut rng, false);
        // Within what timeouts must allow for.
        plan.client.delayed_ack = rng.chance(0.7).then(|| rng.millis(1, 180));
        plan.client.rto = Duration::from_secs(1);
        let patience = Duration::from_millis(50);
        let probes = plan.client.delayed_ack.is_some_and(|d| d >= patience);
        plan.client.slow_reader = None;
        plan.client.buffer = plan.client.buffer.max(20_000);
        plan.slow = None;
        let mut sim = Sim::new(rng.u64(), any_config(&mut rng), vec![plan], true);
        sim.run(HOURS);
        sim.assert_complete();
        let p = &sim.peers[0];
        assert_eq!(p.client.repeats, 0, "{}", sim.report());
        let most = u64::from(probes);
        assert!(p.monitor.repeats <= most, "{}", sim.report());
    });
}

/// A reader that makes room is heard of at once, not when the sender probes.
#[test]
fn a_slow_reader_sets_the_pace() {
    seeds("a_slow_reader_sets_the_pace", 20, |seed| {
        let mut rng = Rng::new(seed);
        let delay = Duration::from_micros(rng.magnitude(10_000));
        let octets = rng.range(100_000, 400_000);
        let mut plan = plain(&mut rng, Kind::Sink, octets, delay);
        plan.slow = Some((20_000, Duration::from_millis(200)));
        let config = Config {
            recv_buffer: 20_000,
            initial_window: 14_600,
            ..Config::default()
        };
        let mut sim = Sim::new(rng.u64(), config, vec![plan], true);
        let took = duration(&mut sim);
        let reads = (octets / 14_600) as u32 + 1;
        let limit = reads * (Duration::from_millis(240) + 4 * delay);
        assert!(took <= limit, "{took:?}, not {limit:?}");
    });
}

/// 10 Mb/s with a shallow queue: losses of one's own making and a few others.
#[test]
fn bulk_uses_the_link() {
    seeds("bulk_uses_the_link", 10, |seed| {
        let mut rng = Rng::new(seed);
        let octets = 600_000;
        let mut plan = plain(
            &mut rng,
            Kind::Source(octets),
            100,
            Duration::from_millis(10),
        );
        plan.down.rate = Some(1_250_000);
        plan.down.queue = 40_000;
        plan.down.loss = rng.pick(&[0.0, 0.0005]);
        let mut sim = Sim::new(rng.u64(), Config::default(), vec![plan], false);
        let took = duration(&mut sim);
        let ideal = Duration::from_secs_f64(octets as f64 / 1_250_000.0);
        // Where the last segment and its probe are lost, a timeout it is.
        let limit = 2 * ideal + Config::default().rto_min;
        assert!(took <= limit, "{took:?}, ideal {ideal:?}");
    });
}

#[test]
fn connections_do_not_disturb_each_other() {
    seeds("connections_do_not_disturb_each_other", 40, |seed| {
        let mut rng = Rng::new(seed);
        let plans = (0..rng.range(2, 25)).map(|_| Plan {
            start: Duration::from_micros(rng.magnitude(5_000_000)),
            ..any_plan(&mut rng, true)
        });
        let plans = plans.collect();
        let mut sim = Sim::new(rng.u64(), any_config(&mut rng), plans, false);
        sim.run(HOURS);
        sim.assert_complete();
    });
}
