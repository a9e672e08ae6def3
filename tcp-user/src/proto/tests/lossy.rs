//! Whole connections over bad paths.

use super::sim::Sim;
use super::{Plan, any_config, any_plan, seeds};
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
