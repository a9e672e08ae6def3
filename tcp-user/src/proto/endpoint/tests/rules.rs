//! Rules of the RFCs that no other test shows; docs/conformance.md says which.

use super::*;
use proptest::prelude::*;
use std::time::Duration;
use tcp_common::wire::Flags;

const MSS: usize = 1460;

fn info(s: &Script) -> crate::proto::ConnInfo {
    s.endpoint.infos(s.now)[0]
}

/// RFC 9293 §3.10.7.4, MUST-66 and SHLD-2.
#[test]
fn a_reset_counts_behind_a_closed_window_and_with_data() {
    let (mut s, id) = Script::established(Config {
        recv_buffer: 65_535,
        ..config()
    });
    let mut seq = 1;
    while seq < 65_536 {
        let len = 1460.min(65_536 - seq);
        s.send(seq, 1, ACK, &vec![9; len as usize]);
        seq += len;
    }
    s.millis(50);
    let sent = s.recv_all();
    assert_eq!(sent.last().map(|b| b.1), Some(65_536));
    let window = s.trace().last().map(|t| t.window);
    assert_eq!(window, Some(0));
    s.send(65_536, 1, RST, b"why it was reset");
    assert_eq!(
        s.events().last(),
        Some(&Event::Closed(id, CloseReason::Reset))
    );
}

/// RFC 6093 §6 in spirit: the pointer is looked at by nobody and harms nobody.
#[test]
fn urgent_data_is_delivered_in_line() {
    let (mut s, id) = Script::established(config());
    for (i, pointer) in [0_u16, 1, 3, 0xffff].into_iter().enumerate() {
        let mut frame = s.frame(1 + 3 * i as u32, 1, PSH.with(Flags::URG), b"abc");
        frame[52..54].copy_from_slice(&pointer.to_be_bytes());
        let sum = u16::from_be_bytes([frame[50], frame[51]]);
        let sum = u32::from(!sum) + u32::from(pointer);
        let sum = !((sum & 0xffff) as u16 + (sum >> 16) as u16);
        frame[50..52].copy_from_slice(&sum.to_be_bytes());
        let d = s.endpoint.handle_frame(s.now, &frame);
        assert_eq!(d, Disposition::Segment);
    }
    assert_eq!(s.read(id), b"abcabcabcabc");
    assert_eq!(s.endpoint.state(id), Some(State::Established));
}

/// RFC 9293 §3.8.6, MUST-34, SHLD-15, SHLD-16, SHLD-17.
#[test]
fn a_window_that_shrinks_is_survived() {
    let (mut s, id) = Script::established(config());
    s.window = 6000;
    s.send(1, 1, ACK, b"");
    s.endpoint.write(s.now, id, &[1; 9000]).expect("open");
    assert_eq!(s.recv_all().len(), 4);
    // The edge moves left, to behind what was sent.
    s.window = 2000;
    s.send(1, 1, ACK, b"");
    s.expect_nothing();
    // What lies within is sent again, never anything beyond.
    for _ in 0..600 {
        s.millis(1000);
        for (seq, _, _, len) in s.recv_all() {
            assert!(seq + len as u32 <= 2001, "{seq} {len}");
        }
        s.send(1, 1, ACK, b"");
        // To zero and back: it is probed and does not end.
        s.window = if s.window == 0 { 2000 } else { 0 };
        s.send(1, 1, ACK, b"");
    }
    assert_eq!(s.endpoint.state(id), Some(State::Established));
    s.window = 60_000;
    s.send(1, 1, ACK, b"");
    for _ in 0..20 {
        let end = s.recv_all().iter().map(|b| b.0 + b.3 as u32).max();
        s.send(1, end.unwrap_or(1).max(2), ACK, b"");
        s.millis(500);
    }
    assert_eq!(info(&s).send_queue, 0);
}

/// RFC 9293 §3.10.7.4, fifth: SND.WL1 and SND.WL2.
#[test]
fn an_old_segment_does_not_change_the_window() {
    let (mut s, id) = Script::established(config());
    s.window = 60_000;
    s.send(1, 1, PSH, b"newer");
    s.read(id);
    s.window = 100;
    s.send(1, 1, ACK, b"");
    s.endpoint.write(s.now, id, &[1; 5000]).expect("open");
    assert_eq!(s.recv_all().len(), 4);
}

/// RFC 5681 §4.1.
#[test]
fn after_idling_the_initial_window_is_sent_at_most() {
    let (mut s, id) = Script::established_with(config(), &offer(1460, Some(7), false, false));
    let mut end = 1;
    for _ in 0..4 {
        s.endpoint
            .write(s.now, id, &vec![1; 200_000])
            .expect("open");
        for _ in 0..200 {
            let sent = s.recv_all();
            let Some(last) = sent.last() else { break };
            end = last.0 + last.3 as u32;
            s.millis(10);
            s.send(1, end, ACK, b"");
        }
    }
    assert!(info(&s).cwnd > 20 * MSS as u32);
    s.millis(60_000);
    s.endpoint
        .write(s.now, id, &vec![1; 200_000])
        .expect("open");
    let sent = s.recv_all();
    assert_eq!((sent.len(), sent[0].0), (10, end));
}

/// RFC 9293 §3.2, MUST-65; RFC 7323 §2.2; RFC 2018 §2.
#[test]
fn options_of_the_handshake_are_on_syn_acks_only() {
    let mut s = Script::new(config(), &offer(1460, Some(7), true, true));
    let options = |s: &mut Script| {
        let mut buf = [0; 2048];
        let len = s.endpoint.poll_transmit(s.now, &mut buf).expect("a frame");
        let end = 34 + usize::from(buf[46] >> 4) * 4;
        assert!(end <= len);
        // RFC 9293 §3.9.2, MUST-49.
        assert_eq!(buf[22], Config::default().hop_limit);
        tcp_common::wire::options::parse(&buf[..len], 54, end).expect("options")
    };
    s.send(0, 0, SYN, b"");
    // The offer without MSS in `Script::frame`.
    let o = options(&mut s);
    assert!(o.mss.is_some() && o.timestamps.is_some());
    assert!(o.window_scale.is_none() && !o.sack_permitted);
    s.events();
    let id = s.accept();
    s.endpoint.write(s.now, id, b"x").expect("open");
    let o = options(&mut s);
    assert!(o.mss.is_none() && o.window_scale.is_none() && !o.sack_permitted);
    assert!(o.timestamps.is_some());
}

/// RFC 9293 §3.8.4: MUST-24, MUST-25, MUST-26, MUST-28.
#[test]
fn keepalive_is_off_until_asked_for_and_waits_for_idleness() {
    let (mut s, id) = Script::established(config());
    s.pass(Duration::from_hours(48));
    s.expect_nothing();
    s.endpoint.set_keepalive(s.now, id, true).expect("open");
    s.pass(Duration::from_mins(119));
    s.expect_nothing();
    s.pass(Duration::from_mins(2));
    s.expect(0, 1, ".", 0);
    s.send(1, 1, ACK, b"");
    // Data is outstanding: retransmissions, but no probe.
    s.endpoint.write(s.now, id, b"x").expect("open");
    s.recv_all();
    s.window = 0;
    for _ in 0..200 {
        s.send(1, 1, ACK, b"");
        s.pass(Duration::from_mins(1));
        for sent in s.recv_all() {
            assert_eq!((sent.0, sent.3), (1, 1));
        }
    }
    s.window = 1000;
    s.send(1, 2, ACK, b"");
    s.endpoint.set_keepalive(s.now, id, false).expect("open");
    s.pass(Duration::from_hours(48));
    s.expect_nothing();
    assert_eq!(s.endpoint.state(id), Some(State::Established));
}

/// RFC 9293 §3.8.3: R2 is at least 100 s (SHLD-11) and the application's to set (MUST-21).
#[test]
fn r2_is_over_100_seconds_or_what_the_application_says() {
    for (retries, expected) in [(None, 100.0..3600.0), (Some(2), 1.4..10.0)] {
        let (mut s, id) = Script::established(config());
        s.endpoint.write(s.now, id, b"ping").expect("open");
        s.recv_all();
        s.millis(1);
        s.send(1, 5, ACK, b"");
        if let Some(n) = retries {
            s.endpoint.set_max_retries(id, n).expect("open");
        }
        s.endpoint.write(s.now, id, b"anyone there?").expect("open");
        let start = s.now;
        while s.endpoint.state(id).is_some() {
            s.recv_all();
            s.millis(100);
        }
        let took = (s.now - start).as_secs_f64();
        assert!(expected.contains(&took), "{took} s");
    }
}

/// RFC 7323 §4.3 and §5.3, R3: only a segment at the left edge sets TS.Recent.
#[test]
fn ts_recent_is_of_the_segment_that_moves_the_left_edge() {
    let (mut s, _) = Script::established_with(config(), &offer(1460, None, true, true));
    let ecr = |s: &mut Script| s.recv().and_then(|r| r.timestamps).map(|t| t.ecr);
    s.ts.as_mut().expect("negotiated").val = 2000;
    s.send(101, 1, ACK, &[0; 50]);
    assert_eq!(ecr(&mut s), Some(1001));
    s.ts.as_mut().expect("negotiated").val = 1500;
    s.send(1, 1, ACK, &[0; 100]);
    assert_eq!(ecr(&mut s), Some(1500));
}

/// RFC 7323 §5.2: an RST is not subject to PAWS. §3.2: one of ours has timestamps.
#[test]
fn resets_and_timestamps() {
    let (mut s, id) = Script::established_with(config(), &offer(1460, None, true, true));
    s.ts.as_mut().expect("negotiated").val = 1;
    s.send(1, 0, RST, b"");
    assert_eq!(
        s.events().last(),
        Some(&Event::Closed(id, CloseReason::Reset))
    );
    let (mut s, id) = Script::established_with(config(), &offer(1460, None, true, true));
    s.millis(70);
    s.endpoint.abort(s.now, id);
    let sent = s.recv().expect("RST");
    assert_eq!(sent.flags, RST.with(ACK));
    let ts = sent.timestamps.expect("negotiated");
    assert_eq!((ts.val, ts.ecr), (s.tsval.wrapping_add(70), 1001));
}

/// RFC 6298 §3 and §5.7, Karn's algorithm (MUST-18).
#[test]
fn a_segment_sent_twice_gives_no_sample() {
    let (mut s, id) = Script::established(config());
    s.endpoint.write(s.now, id, b"ping").expect("open");
    s.recv_all();
    s.millis(1001);
    s.expect(1, 1, "P.", 4);
    s.millis(10);
    s.send(1, 5, ACK, b"");
    assert_eq!(info(&s).srtt, None);
    assert_eq!(info(&s).rto, Duration::from_secs(2));
    s.endpoint.write(s.now, id, b"ping").expect("open");
    s.recv_all();
    s.millis(40);
    s.send(1, 9, ACK, b"");
    assert_eq!(info(&s).srtt, Some(Duration::from_millis(40)));
    assert!(info(&s).rto < Duration::from_secs(1));
}

/// RFC 9293 §3.7.1, MUST-15 and MUST-16: without an MSS option 536, by IPv6 1220.
#[test]
fn without_an_mss_option_segments_are_of_the_default_size() {
    let flow = tcp_common::flow::FlowKey::new(
        "[2001:db8::1]:12345".parse().expect("literal"),
        "[2001:db8::2]:80".parse().expect("literal"),
    );
    let offered = tcp_common::wire::options::SynOptions::default();
    for (mut s, size) in [
        (Script::new(config(), &offered), 536),
        (Script::with_flow(config(), &offered, flow), 1220),
    ] {
        let id = s.accept();
        s.endpoint.write(s.now, id, &[1; 2000]).expect("open");
        assert_eq!(s.recv().map(|r| r.payload.len()), Some(size));
    }
}

/// RFC 6937 §3.1 (RFC 9937): what is in flight goes down to ssthresh step by step.
#[test]
fn in_recovery_no_more_goes_out_than_arrives() {
    let (mut s, id) = Script::established_with(config(), &offer(1460, Some(7), true, false));
    let seg = |n: u32| 1 + n * MSS as u32;
    s.endpoint
        .write(s.now, id, &vec![1; 60 * MSS])
        .expect("open");
    assert_eq!(s.recv_all().len(), 10);
    s.millis(50);
    s.send(1, seg(10), ACK, b"");
    assert_eq!(s.recv_all().len(), 18);
    s.millis(50);
    // The first of these is lost.
    let (mut arrived, mut sent, mut steps) = (0, 0, Vec::new());
    for n in 11..28 {
        s.sack = vec![(seg(11), seg(n + 1))];
        s.send(1, seg(10), ACK, b"");
        s.millis(1);
        arrived += 1;
        sent += s.recv_all().len();
        assert!(sent <= arrived + 1, "{sent} for {arrived}");
        steps.push(sent);
    }
    let info = info(&s);
    let segments = |octets: u32| octets as usize / MSS;
    assert!(segments(info.ssthresh).abs_diff(12) <= 1, "{info:?}");
    assert!(
        segments(info.in_flight).abs_diff(segments(info.ssthresh)) <= 1,
        "{info:?}"
    );
    // Spread over the round trip, not all at its end.
    assert!(steps[9] >= sent / 4 && steps[9] < sent, "{steps:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Reassembly as a whole: window, trimming, assembler and buffer, against the stream.
    #[test]
    fn any_segments_of_a_stream_give_the_stream(
        pieces in prop::collection::vec((0u32..6000, 1u32..1461, any::<bool>(), 0usize..9000), 1..80),
        len in 1u32..12_000,
        sack: bool,
    ) {
        let octet = |i: u32| (i * 7 + i / 256) as u8;
        let (mut s, id) = Script::established_with(
            Config { recv_buffer: 4096, initial_window: 4096, ..Config::default() },
            &offer(1460, None, sack, false),
        );
        let (mut acked, mut read) = (0, Vec::new());
        let last = pieces.len() * 2;
        // After the random pieces those that are missing, in order.
        let pieces = pieces.into_iter().chain((0..).map(|_| (0, 1000, true, 9000)));
        for (i, (offset, n, at_edge, take)) in pieces.enumerate() {
            let start = if at_edge { acked } else { (acked + offset).saturating_sub(3000) };
            let start = start.min(len);
            let end = (start + n).min(len);
            let data: Vec<u8> = (start..end).map(octet).collect();
            s.send(1 + start, 1, if end == len { FIN } else { ACK }, &data);
            let mut buf = vec![0; take];
            let n = s.endpoint.read(id, &mut buf).unwrap_or(0);
            read.extend_from_slice(&buf[..n]);
            s.millis(41);
            while let Some(sent) = s.recv() {
                prop_assert!(sent.ack > acked);
                acked = sent.ack - 1;
                prop_assert!(sent.sack.iter().all(|b| b.0 < b.1 && b.1 <= len + 1));
            }
            prop_assert!(read.len() <= acked as usize);
            if s.endpoint.is_read_closed(id) {
                break;
            }
            prop_assert!(i < last + 100, "stuck at {acked} of {len}");
        }
        prop_assert_eq!(read, (0..len).map(octet).collect::<Vec<_>>());
        prop_assert_eq!(acked, len + 1);
    }
}
