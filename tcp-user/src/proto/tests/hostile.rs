//! Segments that nobody should send, beside and instead of those of a client.

use super::app::Kind;
use super::client::Close;
use super::rng::Rng;
use super::sim::Sim;
use super::wire::{ACK, Options, RST, SYN, Segment};
use super::{any_config, any_plan, seeds};
use crate::proto::State;
use std::time::Duration;

const HOUR: Duration = Duration::from_hours(1);
const HOURS: Duration = Duration::from_hours(10);

/// Options that make sense, make none, or do harm.
fn any_options(rng: &mut Rng, timestamps: Option<(u32, u32)>) -> Options {
    let mut options = Options::default();
    match rng.range(0, 6) {
        0 => options.timestamps = Some((rng.u32(), rng.u32())),
        1 | 2 => options.timestamps = timestamps,
        3 => {
            options.mss = Some(rng.u32() as u16);
            options.window_scale = Some(rng.u32() as u8);
            options.sack_permitted = true;
        }
        4 => {
            options.sack = (0..rng.range(1, 4))
                .map(|_| (rng.u32(), rng.u32()))
                .collect();
        }
        5 => {
            // Mostly malformed.
            options.raw = (0..rng.range(1, 40))
                .map(|_| rng.u32() as u8 & 0x0f)
                .collect();
        }
        _ => {}
    }
    options
}

/// A number at, near or far from `at`.
fn near(rng: &mut Rng, at: u32, window: u32) -> u32 {
    let by = match rng.range(0, 4) {
        0 => 0,
        1 => rng.range(0, 3) as u32,
        2 => rng.range(0, u64::from(window)) as u32,
        3 => window.wrapping_add(rng.range(0, 5) as u32),
        _ => rng.u32(),
    };
    if rng.chance(0.3) {
        at.wrapping_sub(by)
    } else {
        at.wrapping_add(by)
    }
}

fn any_segment(rng: &mut Rng, sim: &Sim) -> Segment {
    let c = &sim.peers[0].client;
    let nxt = c.iss.wrapping_add(c.max_sent as u32);
    let una = c.irs.wrapping_add(c.rcv_nxt as u32);
    let stamps = c.config.timestamps.then(|| (rng.u32(), rng.u32()));
    let len = rng.magnitude(1_400) as usize;
    Segment {
        flags: if rng.chance(0.5) {
            ACK
        } else {
            rng.u32() as u8
        },
        seq: near(rng, nxt, 65_535),
        ack: near(rng, una, 20_000),
        window: rng.magnitude(65_535) as u16,
        urgent: rng.u32() as u16,
        options: any_options(rng, stamps),
        data: if rng.chance(0.5) {
            vec![0xaa; len]
        } else {
            Vec::new()
        },
        ..Segment::default()
    }
}

/// Whatever arrives at a live connection: no panic, no flood of answers, no more memory than
/// the buffers, and in the end nothing is left.
#[test]
fn garbage_is_survived() {
    seeds("garbage_is_survived", 500, |seed| {
        let mut rng = Rng::new(seed);
        let mut plan = any_plan(&mut rng, false);
        plan.client.retries = 6;
        // The stream will not survive: a server that only discards does not look at it.
        plan.kind = Kind::Discard;
        plan.client.close = Close::AfterSending;
        let config = crate::proto::Config {
            keepalive: Some(Duration::from_mins(1)),
            ..any_config(&mut rng)
        };
        let limit = config.recv_buffer.max(65_535) + 128;
        let mut sim = Sim::new(rng.u64(), config, vec![plan], false);
        sim.trust = false;
        sim.half_open = true;
        let mut left = rng.range(1, 300);
        let mut injected = 0;
        sim.run_with(HOURS, |sim| {
            let p = &sim.peers[0];
            let alive = p.client.is_established();
            if p.app.received > p.client.config.send && sim.elapsed() > HOUR {
                // An octet that was none took the FIN's place: this stream has no end.
                if let Some(id) = p.app.id {
                    sim.endpoint.abort(sim.now, id);
                    sim.settle();
                }
            }
            if alive && left > 0 && !sim.endpoint.is_empty() {
                for _ in 0..rng.range(0, 5).min(left) {
                    left -= 1;
                    injected += 1;
                    let mut segment = any_segment(&mut rng, sim);
                    if segment.has(RST) && rng.chance(0.9) {
                        segment.flags &= !RST;
                    }
                    let mut frame = sim.peers[0].path.up(&segment);
                    if rng.chance(0.1) {
                        frame.truncate(rng.range(0, frame.len() as u64) as usize);
                    }
                    sim.inject(0, &frame);
                }
            }
            for info in sim.endpoint.infos(sim.now) {
                assert!(info.recv_queue <= limit, "{info:?}");
            }
        });
        let (sent, taken) = (sim.frames_out, sim.frames_in);
        // Timers send a few of their own.
        assert!(
            sent <= 2 * taken + 100,
            "{sent} frames in answer to {taken}, {injected} of them garbage"
        );
    });
}

/// What a blind attacker sends misses the window or the acknowledgment; a SYN or RST inside the
/// window is only challenged (RFC 5961). The connection does not notice.
#[test]
fn blind_attacks_do_not_disturb_the_stream() {
    seeds("blind_attacks_do_not_disturb_the_stream", 300, |seed| {
        let mut rng = Rng::new(seed);
        let plan = any_plan(&mut rng, false);
        let mut sim = Sim::new(rng.u64(), any_config(&mut rng), vec![plan], true);
        let mut left = rng.range(1, 300);
        let mut injected = 0;
        sim.run_with(HOURS, |sim| {
            for _ in 0..rng.range(0, 3).min(left) {
                // A TIME-WAIT is another matter: a SYN may well end it (RFC 6191).
                let state = sim.peers[0].app.id.and_then(|id| sim.endpoint.state(id));
                if state.is_none_or(|state| state == State::Closed) {
                    return;
                }
                left -= 1;
                let c = &sim.peers[0].client;
                let nxt = c.iss.wrapping_add(c.max_sent as u32);
                let una = c.irs.wrapping_add(c.rcv_nxt as u32);
                let stamps = c.config.timestamps.then(|| (rng.u32(), rng.u32()));
                let mut segment = Segment {
                    flags: ACK | (rng.u32() as u8 & !RST),
                    // Left of all that is awaited, or right of any window.
                    seq: if rng.chance(0.5) {
                        nxt.wrapping_sub(rng.range(200_000, 1 << 30) as u32)
                    } else {
                        nxt.wrapping_add(rng.range(1 << 21, 1 << 30) as u32)
                    },
                    ack: near(&mut rng, una, 20_000),
                    window: rng.magnitude(65_535) as u16,
                    options: any_options(&mut rng, stamps),
                    data: vec![0xaa; rng.magnitude(1_000) as usize],
                    ..Segment::default()
                };
                match rng.range(0, 5) {
                    0 => segment.flags |= RST,
                    1 => {
                        // In the window, but not at RCV.NXT.
                        segment.flags = RST;
                        segment.seq = nxt.wrapping_add(rng.range(1, 1_000) as u32);
                        segment.data.clear();
                    }
                    2 => {
                        segment.flags = SYN;
                        segment.seq = near(&mut rng, nxt, 65_535);
                    }
                    3 => {
                        // Acknowledges what is far away.
                        segment.flags = ACK;
                        segment.seq = nxt;
                        segment.ack = una.wrapping_add(rng.range(1 << 27, 1 << 31) as u32);
                        segment.options = Options::default();
                    }
                    _ => {}
                }
                injected += 1;
                let frame = sim.peers[0].path.up(&segment);
                sim.inject_now(0, &frame);
            }
        });
        sim.assert_complete();
        let (sent, taken) = (sim.frames_out, sim.frames_in);
        assert!(
            sent <= 2 * taken + 100,
            "{sent} frames in answer to {taken}, {injected} of them hostile"
        );
    });
}
