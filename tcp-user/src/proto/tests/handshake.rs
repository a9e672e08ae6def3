//! Handshakes that the endpoint keeps, over bad paths.

use super::app::Kind;
use super::client::Close;
use super::sim::Sim;
use super::{any_config, any_plan, seeds};
use crate::proto::Config;
use crate::proto::tests::rng::Rng;
use std::time::Duration;

const HOURS: Duration = Duration::from_hours(10);

/// XDP answers RST to what it does not know, the path loses any segment of the handshake and
/// behind it, and still no connection is reset.
#[test]
fn every_octet_arrives_after_a_handshake_that_is_kept() {
    seeds(
        "every_octet_arrives_after_a_handshake_that_is_kept",
        500,
        |seed| {
            let mut rng = Rng::new(seed);
            let plan = any_plan(&mut rng, true);
            let config = Config {
                half_open: 2,
                syn_ack_retries: Config::MAX_SYN_ACK_RETRIES,
                ..any_config(&mut rng)
            };
            let mut sim = Sim::new(rng.u64(), config, vec![plan], true);
            sim.run(HOURS);
            sim.assert_complete();
        },
    );
}

/// A client that only listens never tells of itself again: without the SYN-ACK repeated it
/// would wait for ever.
#[test]
fn a_server_that_speaks_first_is_heard_whatever_is_lost() {
    let repaired = std::cell::Cell::new(0);
    seeds(
        "a_server_that_speaks_first_is_heard_whatever_is_lost",
        500,
        |seed| {
            let mut rng = Rng::new(seed);
            let octets = rng.range(1, 5_000);
            let plans = (0..rng.range(1, 4)).map(|_| {
                let mut plan = any_plan(&mut rng, true);
                plan.kind = Kind::Greeting(octets);
                plan.client.send = 0;
                plan.up.loss = plan.up.loss.max(0.2);
                plan.client.close = Close::AfterReceiving(octets);
                plan
            });
            let plans: Vec<_> = plans.collect();
            let config = Config {
                half_open: 8,
                syn_ack_retries: Config::MAX_SYN_ACK_RETRIES,
                ..any_config(&mut rng)
            };
            let mut sim = Sim::new(rng.u64(), config, plans, true);
            sim.half_open = true;
            sim.run(HOURS);
            for (i, p) in sim.peers.iter().enumerate() {
                // Every one may be lost, or its ACK, about once in 30,000 connections.
                let repeated = p.monitor.syn_acks_repeated;
                let is_given_up = repeated == u32::from(Config::MAX_SYN_ACK_RETRIES);
                if p.app.id.is_some() || !is_given_up {
                    sim.assert_peer_complete(i);
                }
            }
            let heard = sim.peers.iter().filter(|p| p.monitor.syn_acks_repeated > 0);
            repaired.set(repaired.get() + heard.count());
        },
    );
    if std::env::var_os("TCP_XDP_SIM_SEED").is_none() {
        assert!(repaired.get() > 40, "{repaired:?}");
    }
}
