//! Buffers: how windows grow, and what happens when memory is short.

use super::*;
use crate::proto::ConnId;
use crate::proto::script::offer;

/// What the peer may send now, from its window field.
fn window(s: &mut Script, before: u32) -> u32 {
    std::iter::from_fn(|| s.recv())
        .last()
        .map_or(before, |sent| {
            let shift = if s.negotiated.window_scale.is_some() {
                7
            } else {
                0
            };
            u32::from(sent.window) << shift
        })
}

/// A sender that fills the window in each round trip of 10 ms; `read` says how much the
/// application takes of what arrived. Returns the windows after each round.
fn upload(s: &mut Script, id: ConnId, rounds: usize, read: impl Fn(usize) -> usize) -> Vec<u32> {
    let mut seq = 1;
    let mut window_now = 65_535;
    (0..rounds)
        .map(|_| {
            let end = seq + window_now;
            while seq < end {
                let len = 1448.min(end - seq);
                s.send(seq, 1, ACK, &vec![5; len as usize]);
                seq += len;
                let mut left = read(len as usize);
                let mut buf = [0; 2000];
                while left > 0 {
                    let most = left.min(2000);
                    match s.endpoint.read(id, &mut buf[..most]) {
                        Ok(n @ 1..) => left -= n,
                        _ => break,
                    }
                }
            }
            window_now = window(s, window_now.saturating_sub(end - seq));
            s.millis(10);
            if let Some(ts) = &mut s.ts {
                ts.val += 10;
                ts.ecr = ts.ecr.wrapping_add(10);
            }
            window_now
        })
        .collect()
}

fn tuned(recv_buffer: usize) -> (Script, ConnId) {
    let config = Config {
        recv_buffer,
        ..config()
    };
    Script::established_with(config, &offer(1460, Some(7), true, true))
}

/// RFC 9293 §3.8.6 with dynamic right-sizing.
#[test]
fn the_window_grows_as_the_application_reads() {
    let (mut s, id) = tuned(1 << 20);
    let windows = upload(&mut s, id, 12, |n| n);
    assert!(windows[0] <= 66_000 * 2, "{windows:?}");
    assert!(
        windows.windows(2).all(|w| w[1] + 4096 >= w[0]),
        "{windows:?}"
    );
    let last = windows[11];
    assert!((1_000_000..=1 << 20).contains(&last), "{windows:?}");
    assert_eq!(s.endpoint.buffered(), 0);
}

#[test]
fn the_window_of_a_slow_reader_does_not_grow() {
    let (mut s, id) = tuned(1 << 20);
    let windows = upload(&mut s, id, 12, |n| n / 4);
    assert!(windows.iter().all(|w| *w <= 66_000), "{windows:?}");
    assert!(s.endpoint.buffered() <= 1 << 17);
}

#[test]
fn the_window_does_not_grow_while_memory_is_short() {
    let (mut s, id) = Script::established_with(
        Config {
            memory: 100_000,
            ..config()
        },
        &offer(1460, Some(7), true, true),
    );
    // Of the limit three quarters are in use.
    assert_eq!(s.endpoint.write(s.now, id, &vec![0; 65_536]), Ok(65_536));
    assert_eq!(s.endpoint.write(s.now, id, &vec![0; 65_536]), Ok(0));
    s.recv_all();
    s.send(1, 1, ACK, &[0; 1000]);
    let before = window(&mut s, 65_535);
    s.send(1001, 1, ACK, &vec![0; 20_000]);
    assert!(s.endpoint.buffered() <= 100_000 + 4096);
    assert!(window(&mut s, before) <= 66_000);
}

/// What does not fit is dropped and comes again; nothing is lost and nothing panics.
#[test]
fn without_memory_connections_go_on_slowly() {
    let (mut s, id) = Script::established(Config {
        memory: 0,
        ..config()
    });
    let data: Vec<u8> = (0..20_000u32).map(|n| (n / 7) as u8).collect();
    let mut seq = 1;
    let mut got = Vec::new();
    for _ in 0..200 {
        let mut at = seq;
        while at <= 20_000 && at < seq + 8000 {
            let end = (at as usize - 1 + 1460).min(data.len());
            s.send(at, 1, PSH, &data[at as usize - 1..end]);
            at = end as u32 + 1;
        }
        assert!(s.endpoint.buffered() <= 4096);
        got.extend(s.read(id));
        s.millis(50);
        if let Some(sent) = std::iter::from_fn(|| s.recv()).last() {
            seq = sent.ack;
        }
    }
    assert_eq!(got, data);
    // An answer goes out in pieces.
    let mut sent = 0;
    let mut acked = 1;
    while sent < data.len() {
        let n = s.endpoint.write(s.now, id, &data[sent..]).expect("open");
        assert!((1..=4096).contains(&n));
        sent += n;
        while let Some(segment) = s.recv() {
            acked = acked.max(segment.seq + segment.payload.len() as u32);
        }
        s.send(20_001, acked, ACK, b"");
        assert!(s.events().contains(&Event::Writable(id)) || sent == data.len());
    }
    assert_eq!(s.endpoint.buffered(), 0);
}

#[test]
fn a_connection_that_ends_gives_its_memory_back() {
    let (mut s, id) = Script::established(config());
    s.endpoint.write(s.now, id, &vec![0; 50_000]).expect("open");
    s.send(1, 1, ACK, &[0; 1000]);
    s.send(5001, 1, ACK, &[0; 1000]);
    assert!(s.endpoint.buffered() > 50_000);
    s.send(1001, 1, RST, b"");
    assert!(s.endpoint.is_empty());
    assert_eq!(s.endpoint.buffered(), 0);
}

/// Twice cwnd: what a peer that reads slowly does not take lies in the application, not here.
#[test]
fn the_send_buffer_grows_with_the_congestion_window() {
    let offered = offer(1460, Some(7), true, true);
    let (mut s, id) = Script::established_with(config(), &offered);
    s.window = 60_000;
    let data = vec![7; 1 << 20];
    let first = s.endpoint.write(s.now, id, &data).expect("it is open");
    assert_eq!(first, 64 << 10);
    let mut queued = first;
    for _ in 0..100 {
        let sent: usize = std::iter::from_fn(|| s.recv())
            .map(|sent| sent.payload.len())
            .sum();
        assert!(sent > 0);
        let end = s.endpoint.infos(s.now)[0].bytes_out as u32;
        s.millis(10);
        s.send(1, 1 + end, ACK, b"");
        queued += s.endpoint.write(s.now, id, &data).expect("it is open");
        let info = s.endpoint.infos(s.now)[0];
        assert_eq!(info.send_queue, queued - end as usize);
        assert!(
            info.send_queue <= (2 * info.cwnd as usize).max(64 << 10),
            "{info:?}"
        );
    }
    assert_eq!(s.endpoint.infos(s.now)[0].send_queue, 1 << 20, "the limit");
}

/// What connections that have ended held is given back; those that are left do not notice.
#[test]
fn shrinking_leaves_what_is_in_use() {
    let (mut s, id) = Script::established(config());
    let other = |port: u16| {
        let mut flow = s.flow;
        flow.remote_port_be = port.to_be();
        flow
    };
    let flows: Vec<_> = (1..=2000).map(other).collect();
    let offered = offer(1460, Some(7), true, true);
    let mut endpoint = s.endpoint;
    let mut seen = std::collections::HashSet::new();
    let mut left = None;
    for round in 0..3 {
        let mut ids = Vec::new();
        for flow in &flows {
            let mut other = Script::with_flow(config(), &offered, *flow);
            std::mem::swap(&mut other.endpoint, &mut endpoint);
            let id = other.accept();
            assert!(seen.insert(id), "an id twice");
            other
                .endpoint
                .write(other.now, id, &[1; 3000])
                .expect("it is open");
            ids.push(id);
            std::mem::swap(&mut other.endpoint, &mut endpoint);
        }
        let full = endpoint.footprint();
        assert!(full > 2000 * 4096);
        // The last round leaves one more.
        if round == 2 {
            left = ids.pop();
        }
        for id in &ids {
            endpoint.abort(s.now, *id);
        }
        while endpoint.poll_transmit(s.now, &mut [0; 2048]).is_some() {}
        while endpoint.poll_event().is_some() {}
        endpoint.shrink();
        assert!(endpoint.footprint() < full / 100);
    }
    s.endpoint = endpoint;
    assert_eq!(s.endpoint.len(), 2);
    let left = left.expect("the last of the last round");
    assert_eq!(s.endpoint.state(left), Some(State::Established));
    s.send(1, 1, PSH, b"still there");
    assert_eq!(s.read(id), b"still there");
}
