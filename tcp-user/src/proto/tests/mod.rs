//! The simulated network: the endpoint behind a model of the XDP program, independent clients,
//! links that lose, repeat, reorder, delay and damage frames, and a virtual clock.
//!
//! Every simulation comes from one seed. A failure names it and the command that runs
//! it again, then with a line for each segment; it belongs into `REGRESSIONS` once
//! understood. `TCP_XDP_SIM_SEEDS=n` runs n times as many seeds.
//!
//! | module | what |
//! |---|---|
//! | `sim` | the loop, the clock, and how it must end |
//! | `client` | a small TCP of its own |
//! | `app` | what the server does with its connections |
//! | `xdp` | stateless SYN-ACKs and the filter in front of the endpoint |
//! | `link` | faults |
//! | `monitor` | what each segment of the endpoint is held to |
//! | `network` | ECN and ICMP |
//! | `wire` | frames, without the engine's code |
//! | `lossy`, `handshake`, `teardown`, `hostile` | the tests |

mod app;
mod client;
mod handshake;
mod hostile;
mod link;
mod lossy;
mod monitor;
mod network;
mod rng;
mod sim;
mod teardown;
mod wire;
mod xdp;

use self::app::Kind;
use self::client::Close;
use self::link::Faults;
use self::rng::Rng;
use self::sim::Plan;
use crate::proto::{Algorithm, Config};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

/// Seeds that once failed: test and seed.
const REGRESSIONS: &[(&str, u64)] = &[
    ("a_port_can_be_used_again", 7077),
    ("a_server_that_speaks_first_is_heard_whatever_is_lost", 2760),
    ("broken_connections_leave_nothing_behind", 49_974),
    ("bulk_uses_the_link", 704),
    ("bulk_uses_the_link", 839),
    ("connections_do_not_disturb_each_other", 414),
    ("connections_do_not_disturb_each_other", 2133),
    ("connections_do_not_disturb_each_other", 2495),
    ("every_octet_arrives_after_a_handshake_that_is_kept", 3574),
    ("every_octet_arrives_after_a_handshake_that_is_kept", 7525),
    ("every_octet_arrives_over_a_bad_path", 4651),
    ("every_octet_arrives_over_a_bad_path", 56_561),
    ("every_octet_arrives_over_a_bad_path", 134_802),
    ("every_octet_arrives_over_a_congested_path", 1769),
    ("every_octet_arrives_over_a_congested_path", 27_565),
    ("every_octet_arrives_over_a_congested_path", 31_379),
    ("every_octet_arrives_over_a_congested_path", 36_008),
    ("every_octet_arrives_over_a_congested_path", 36_197),
    ("every_octet_arrives_when_the_path_becomes_narrow", 16),
    ("every_octet_arrives_when_the_path_becomes_narrow", 19_931),
    ("every_octet_arrives_when_the_path_becomes_narrow", 24_091),
    ("every_octet_arrives_when_the_path_becomes_narrow", 32_904),
    ("garbage_is_survived", 133_729),
];

/// Runs a simulation for `count` seeds and for those that once failed.
fn seeds(test: &str, count: u64, run: impl Fn(u64)) {
    if let Some(seed) = std::env::var_os("TCP_XDP_SIM_SEED") {
        let seed = seed.to_str().and_then(|s| s.parse().ok());
        run(seed.expect("TCP_XDP_SIM_SEED is a number"));
        return;
    }
    let times = std::env::var("TCP_XDP_SIM_SEEDS")
        .ok()
        .and_then(|n| n.parse().ok());
    let known = REGRESSIONS.iter().filter(|(t, _)| *t == test);
    for seed in known
        .map(|(_, seed)| *seed)
        .chain(0..count * times.unwrap_or(1))
    {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(seed))) {
            let message = panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string))
                .unwrap_or_default();
            panic!(
                "seed {seed}: {message}\nrun it again: TCP_XDP_SIM_SEED={seed} \
                 cargo test -p tcp-user --lib {test} -- --nocapture --test-threads=1"
            );
        }
    }
}

/// A server of any size.
fn any_config(rng: &mut Rng) -> Config {
    Config {
        // Long enough for a FIN to come through.
        msl: rng.pick(&[Duration::from_secs(30), Duration::from_mins(1)]),
        rto_min: rng.pick(&[Duration::from_millis(200), Duration::from_secs(1)]),
        recv_buffer: rng.pick(&[4_000, 65_535, 1 << 20]),
        send_buffer: rng.pick(&[1_500, 20_000, 1 << 20]),
        initial_window: rng.pick(&[1_460, 14_600, 65_535]),
        mtu: rng.pick(&[1_280, 1_500]),
        trace: rng.chance(0.1),
        congestion: rng.pick(&[
            Algorithm::Cubic,
            Algorithm::Cubic,
            Algorithm::Reno,
            Algorithm::Bbr,
        ]),
        ..Config::default()
    }
}

/// A client of any kind that sends something and closes in order.
fn any_client(rng: &mut Rng, v6: bool) -> client::Config {
    let timestamps = rng.chance(0.7);
    // Without timestamps the cookie rounds the MSS, up to the smallest it knows.
    let mss = match (timestamps, v6) {
        (true, _) => rng.pick(&[64, 100, 536, 1_220, 1_440, 1_460, 8_960]),
        (false, false) => rng.pick(&[536, 1_300, 1_400, 1_460]),
        (false, true) => rng.pick(&[1_220, 1_340, 1_400, 1_440]),
    };
    let slow_reader = rng
        .chance(0.2)
        .then(|| (rng.range(500, 8_000), rng.millis(1, 300)));
    let pause = if rng.chance(0.5) {
        Duration::ZERO
    } else {
        rng.millis(0, 300)
    };
    // Slow writes come to an end.
    let (most, write) = if pause.is_zero() {
        (150_000, rng.range(1, 20_000))
    } else {
        (8_000, rng.range(200, 3_000))
    };
    let buffer: u64 = rng.pick(&[2_000, 20_000, 65_535, 300_000]);
    // The unit of the window is well below the buffer.
    let shift = rng.range(0, 14).min(u64::from((buffer / 8).ilog2()));
    client::Config {
        mss,
        window_scale: rng.chance(0.7).then_some(shift as u8),
        timestamps,
        sack: rng.chance(0.7),
        buffer,
        delayed_ack: rng.chance(0.6).then(|| rng.millis(1, 200)),
        slow_reader,
        // A client that sends nothing before it hears something cannot make up for a lost ACK of
        // the handshake: the server does not know of it.
        send: 1 + rng.magnitude(most * u64::from(mss.min(1_500)) / 1_500),
        writes: (write, pause),
        close: Close::AfterSending,
        rto: rng.millis(300, 1_000),
        retries: 30,
        time_wait: Duration::from_mins(20),
        ack_with_data: rng.chance(0.3),
        ecn: false,
        sends: rng.u64(),
        expects: rng.u64(),
    }
}

/// A connection that both sides close in order.
fn any_plan(rng: &mut Rng, faulty: bool) -> Plan {
    let v6 = rng.chance(0.3);
    let mut client = any_client(rng, v6);
    let most = 150_000 * u64::from(client.mss.min(1_500)) / 1_500;
    let kind = match rng.range(0, 4) {
        0 | 1 => Kind::Echo,
        2 => Kind::Sink,
        3 => Kind::SinkHalfClosed,
        _ if rng.chance(0.5) => Kind::Source(rng.magnitude(most)),
        _ => Kind::SourceLast(rng.magnitude(most)),
    };
    client.close = match kind {
        Kind::Echo if rng.chance(0.3) => Close::AfterReceiving(client.send),
        Kind::Source(_) | Kind::SinkHalfClosed if rng.chance(0.5) => Close::AfterFin,
        Kind::Source(n) | Kind::SourceLast(n) if rng.chance(0.5) => Close::AfterReceiving(n),
        _ => Close::AfterSending,
    };
    if kind == Kind::Echo {
        client.expects = client.sends;
    }
    let slow = rng
        .chance(0.2)
        .then(|| (rng.range(500, 8_000) as usize, rng.millis(1, 300)));
    let faults = |rng: &mut Rng| {
        if faulty && rng.chance(0.8) {
            Faults::random(rng)
        } else {
            Faults::clean(Duration::from_micros(rng.magnitude(100_000)))
        }
    };
    Plan {
        client,
        kind,
        slow,
        up: faults(rng),
        down: faults(rng),
        v6,
        vlan: rng.chance(0.1).then_some(100),
        start: Duration::ZERO,
        host: None,
    }
}
