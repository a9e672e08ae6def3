//! The receive path.

use super::*;
use std::time::Duration;

/// RFC 9293 §3.10.7.4, seventh; RFC 5681 §4.2: a duplicate ACK for each.
#[test]
fn segments_out_of_order_are_put_in_order() {
    let (mut s, id) = Script::established(config());
    s.send(6, 1, PSH, b"fghij");
    s.send(11, 1, PSH, b"klmno");
    assert_eq!(
        s.recv_all(),
        [(1, 1, ".".to_string(), 0), (1, 1, ".".to_string(), 0)]
    );
    assert_eq!(s.read(id), b"");
    s.send(1, 1, PSH, b"abcde");
    s.expect(1, 16, ".", 0);
    assert_eq!(s.read(id), b"abcdefghijklmno");
}

/// RFC 2018 §4: the latest first; RFC 2883 §4: a duplicate before all.
#[test]
fn sack_blocks_tell_what_arrived() {
    let (mut s, _) = Script::established_with(config(), &offer(1460, None, true, true));
    s.send(101, 1, ACK, &[0; 50]);
    assert_eq!(s.recv().expect("ACK").sack, [(101, 151)]);
    s.send(201, 1, ACK, &[0; 50]);
    assert_eq!(s.recv().expect("ACK").sack, [(201, 251), (101, 151)]);
    s.send(151, 1, ACK, &[0; 10]);
    assert_eq!(s.recv().expect("ACK").sack, [(101, 161), (201, 251)]);
    s.send(101, 1, ACK, &[0; 10]);
    assert_eq!(
        s.recv().expect("ACK").sack,
        [(101, 111), (101, 161), (201, 251)]
    );
    s.send(1, 1, ACK, &[0; 200]);
    let sent = s.recv().expect("ACK");
    assert_eq!((sent.ack, sent.sack.len()), (251, 0));
    s.send(1, 1, ACK, &[0; 200]);
    assert_eq!(s.recv().expect("ACK").sack, [(1, 201)]);
}

#[test]
fn overlaps_are_trimmed() {
    let (mut s, id) = Script::established(config());
    s.send(1, 1, PSH, b"abcdef");
    s.send(4, 1, PSH, b"defghi");
    assert_eq!(s.read(id), b"abcdefghi");
    s.expect(1, 10, ".", 0);
}

#[test]
fn a_fin_before_its_text_waits_for_it() {
    let (mut s, id) = Script::established(config());
    s.send(4, 1, FIN, b"def");
    assert_eq!(s.endpoint.state(id), Some(State::Established));
    s.expect(1, 1, ".", 0);
    // Nothing can follow a FIN.
    s.send(7, 1, PSH, b"ghi");
    s.send(1, 1, PSH, b"abc");
    assert_eq!(s.endpoint.state(id), Some(State::CloseWait));
    assert_eq!(s.read(id), b"abcdef");
    assert_eq!(s.recv_all().last().map(|b| b.1), Some(8));
}

/// RFC 9293 §3.8.6.3.
#[test]
fn acks_are_delayed_and_every_second_segment_gets_one() {
    let (mut s, id) = Script::established(config());
    s.endpoint.write(s.now, id, b"220 hello").expect("open");
    s.expect(1, 1, "P.", 9);
    s.send(1, 10, ACK, &[0; 1460]);
    s.expect_nothing();
    s.send(1461, 10, ACK, &[0; 1460]);
    s.expect(10, 2921, ".", 0);
    s.send(2921, 10, ACK, &[0; 1460]);
    s.millis(39);
    s.expect_nothing();
    s.millis(2);
    s.expect(10, 4381, ".", 0);
    s.millis(1000);
    s.expect_nothing();
}

/// Nagle's algorithm at the client holds the second write back until the first is
/// acknowledged.
#[test]
fn a_request_in_pieces_waits_for_no_ack() {
    let (mut s, _) = Script::established(config());
    s.send(1, 1, PSH, b"GET ");
    s.expect(1, 5, ".", 0);
    s.send(5, 1, PSH, b"/ HTTP/1.1\r\n");
    s.expect(1, 17, ".", 0);
}

/// A sender in slow start gets an ACK for each of its first segments, and no more for each
/// of those that follow.
#[test]
fn the_first_segments_are_acknowledged_one_by_one() {
    let (mut s, id) = Script::established(config());
    for i in 0..16 {
        s.send(1 + i * 1460, 1, ACK, &[0; 1460]);
        s.read(id);
        s.expect(1, 1 + (i + 1) * 1460, ".", 0);
    }
    s.send(1 + 16 * 1460, 1, ACK, &[0; 1460]);
    s.expect_nothing();
}

#[test]
fn an_answer_carries_the_ack() {
    let (mut s, id) = Script::established(config());
    s.send(1, 1, PSH, b"ping");
    s.endpoint.write(s.now, id, b"pong").expect("open");
    s.expect(1, 5, "P.", 4);
    s.millis(100);
    s.expect_nothing();
}

/// RFC 5961 §3.2.
#[test]
fn only_an_rst_at_rcv_nxt_resets() {
    let (mut s, id) = Script::established(config());
    s.send(2, 0, RST, b"");
    s.expect(1, 1, ".", 0);
    s.send(70_000, 0, RST, b"");
    s.send(0, 0, RST, b"");
    s.expect_nothing();
    assert_eq!(s.endpoint.state(id), Some(State::Established));
    s.send(1, 0, RST, b"");
    assert_eq!(
        s.events(),
        [
            Event::FlowEnded(s.flow),
            Event::Closed(id, CloseReason::Reset)
        ]
    );
    s.expect_nothing();
}

/// RFC 5961 §4.2 and §5.2, limited by §7.
#[test]
fn syn_and_wild_acks_are_challenged_within_limits() {
    let (mut s, id) = Script::established(config());
    s.send(1, 0, SYN, b"");
    s.expect(1, 1, ".", 0);
    s.send(900_000, 0, SYN, b"");
    s.expect(1, 1, ".", 0);
    s.send(1, 2, PSH, b"acknowledges what was not sent");
    s.expect(1, 1, ".", 0);
    s.send(1, 1_u32.wrapping_sub(70_000), PSH, b"acknowledges the past");
    s.expect(1, 1, ".", 0);
    assert_eq!(s.read(id), b"");
    let mut answers = 0;
    for _ in 0..100 {
        s.send(1, 0, SYN, b"");
        answers += s.recv_all().len();
    }
    assert_eq!(answers, 6);
    s.millis(1000);
    s.send(1, 0, SYN, b"");
    s.expect(1, 1, ".", 0);
    assert_eq!(s.endpoint.state(id), Some(State::Established));
}

/// RFC 7323 §5.3.
#[test]
fn paws_refuses_an_old_timestamp() {
    let (mut s, id) = Script::established_with(config(), &offer(1460, Some(7), true, true));
    s.send(1, 1, PSH, b"new");
    s.millis(50);
    let sent = s.recv().expect("delayed ACK");
    assert_eq!(sent.timestamps.map(|t| t.ecr), Some(1001));
    s.ts.as_mut().expect("negotiated").val = 900;
    s.send(4, 1, PSH, b"old");
    s.expect(1, 4, ".", 0);
    assert_eq!(s.read(id), b"new");
    // RFC 7323 §3.2: without the option, silence.
    let ts = s.ts.take();
    s.send(4, 1, PSH, b"bare");
    s.expect_nothing();
    // RFC 7323 §5.5: after 24 days TS.Recent is void.
    s.ts = ts;
    s.pass(Duration::from_hours(24 * 25));
    s.send(4, 1, PSH, b"old");
    assert_eq!(s.read(id), b"old");
}

/// Our clock goes on from the cookie's `TSval`, which the client echoes.
#[test]
fn timestamps_are_on_every_segment() {
    let (mut s, id) = Script::established_with(config(), &offer(1460, Some(7), true, true));
    s.millis(250);
    s.endpoint.write(s.now, id, &[1; 3000]).expect("open");
    let mut sizes = Vec::new();
    while let Some(sent) = s.recv() {
        let ts = sent.timestamps.expect("negotiated");
        assert_eq!((ts.val, ts.ecr), (s.tsval.wrapping_add(250), 1001));
        sizes.push(sent.payload.len());
    }
    // RFC 6691: the option comes off the MSS.
    assert_eq!(sizes, [1448, 1448, 104]);
}

/// RFC 9293 §3.8.6: the window as announced, and its right edge never moves left.
#[test]
fn the_window_closes_and_opens_again() {
    let (mut s, id) = Script::established(Config {
        recv_buffer: 65_535,
        ..config()
    });
    let mut seq = 1;
    let mut edge = 65_536;
    while seq < 65_536 {
        let len = 1460.min(65_536 - seq);
        s.send(seq, 1, ACK, &vec![9; len as usize]);
        seq += len;
        while let Some(sent) = s.recv() {
            assert!(sent.ack + u32::from(sent.window) >= edge);
            edge = sent.ack + u32::from(sent.window);
        }
    }
    assert_eq!(edge, 65_536);
    s.millis(50);
    s.recv_all();
    // A probe into the closed window is acknowledged, its octet is not taken.
    s.send(65_536, 1, ACK, b"p");
    let sent = s.recv().expect("ACK");
    assert_eq!((sent.ack, sent.window), (65_536, 0));
    // Reading little announces nothing (silly window syndrome), reading more does.
    let mut buf = [0; 2919];
    s.endpoint.read(id, &mut buf).expect("data");
    s.expect_nothing();
    s.endpoint.read(id, &mut buf[..1]).expect("data");
    let sent = s.recv().expect("window update");
    assert_eq!((sent.ack, sent.window), (65_536, 2920));
    assert_eq!(s.read(id).len(), 65_535 - 2920);
}

#[test]
fn malformed_frames_are_counted_and_never_panic() {
    let (mut s, id) = Script::established(config());
    let good = s.frame(1, 1, PSH, b"good");
    for len in 0..good.len() {
        let d = s.endpoint.handle_frame(s.now, &good[..len]);
        assert!(
            matches!(d, Disposition::Malformed | Disposition::NotTcp),
            "{len} octets: {d:?}"
        );
    }
    for at in 14..good.len() {
        for bit in 0..8 {
            let mut bad = good.clone();
            bad[at] ^= 1 << bit;
            let d = s.endpoint.handle_frame(s.now, &bad);
            assert!(
                !matches!(d, Disposition::Segment | Disposition::Accepted),
                "octet {at} bit {bit}: {d:?}"
            );
        }
    }
    assert_eq!(s.read(id), b"");
    let sum: u64 = s.endpoint.dispositions().iter().map(|(_, n)| n).sum();
    assert_eq!(sum, 1 + good.len() as u64 + 8 * (good.len() as u64 - 14));
    s.endpoint.handle_frame(s.now, &good);
    assert_eq!(s.read(id), b"good");
}

#[test]
fn every_flag_combination_is_survived() {
    for flags in 0..=255 {
        for state in 0..5 {
            let (mut s, id) = Script::established(config());
            match state {
                1 => s.endpoint.close(s.now, id),
                2 => drop(s.send(1, 1, FIN, b"")),
                3 => s.endpoint.abort(s.now, id),
                _ => {}
            }
            s.recv_all();
            for (seq, ack) in [(1, 1), (2, 2), (0, 0), (65_535, 1), (90_000, 90_000)] {
                s.send(seq, ack, tcp_common::wire::Flags(flags), b"data");
                s.recv_all();
            }
            s.millis(1_000_000);
        }
    }
}

/// DESIGN: a partial checksum from a veth peer on this machine.
#[test]
fn a_partial_checksum_counts_only_where_allowed() {
    for allowed in [false, true] {
        let (mut s, id) = Script::established(Config {
            partial_checksums: allowed,
            ..config()
        });
        let mut frame = s.frame(1, 1, PSH, b"data");
        let pseudo = tcp_common::wire::checksum::pseudo_header(&s.flow, 24).fold();
        frame[50..52].copy_from_slice(&pseudo.to_ne_bytes());
        let d = s.endpoint.handle_frame(s.now, &frame);
        assert_eq!(d == Disposition::Segment, allowed);
        assert_eq!(s.read(id).len(), if allowed { 4 } else { 0 });
    }
}

#[test]
fn vlan_tags_and_addresses_go_back_on_the_answer() {
    for tags in [
        vec![],
        vec![0x81, 0, 0x20, 5],
        vec![0x88, 0xa8, 0, 7, 0x81, 0, 0, 9],
    ] {
        let mut s = Script::new(config(), &offer(1460, None, false, false));
        s.tags.clone_from(&tags);
        let id = s.accept();
        s.endpoint.write(s.now, id, b"x").expect("open");
        let mut link = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        link.extend(tags);
        link.extend([8, 0]);
        assert_eq!(s.recv().expect("data").link, link);
    }
}

#[test]
fn ipv6_works_alike() {
    let flow = tcp_common::flow::FlowKey::new(
        "[2001:db8::1]:12345".parse().expect("literal"),
        "[2001:db8::2]:80".parse().expect("literal"),
    );
    let mut s = Script::with_flow(config(), &offer(1440, Some(7), true, true), flow);
    let id = s.accept();
    s.send(1, 1, PSH, b"hello");
    assert_eq!(s.read(id), b"hello");
    s.endpoint.write(s.now, id, &[1; 2000]).expect("open");
    assert_eq!(
        s.recv_all(),
        [
            (1, 6, ".".to_string(), 1428),
            (1429, 6, "P.".to_string(), 572)
        ]
    );
}

/// RFC 8200 §4: extension headers are walked; fragments are not put together.
#[test]
fn ipv6_extension_headers_are_walked_and_fragments_refused() {
    let flow = tcp_common::flow::FlowKey::new(
        "[2001:db8::1]:12345".parse().expect("literal"),
        "[2001:db8::2]:80".parse().expect("literal"),
    );
    let mut s = Script::with_flow(config(), &offer(1440, None, false, false), flow);
    let id = s.accept();
    let plain = s.frame(1, 1, PSH, b"hello");
    let with = |next: u8, header: [u8; 8]| {
        let mut frame = plain.clone();
        frame[20] = next;
        let len = u16::from_be_bytes([frame[18], frame[19]]) + 8;
        frame[18..20].copy_from_slice(&len.to_be_bytes());
        frame.splice(54..54, header);
        frame
    };
    let first_fragment = with(44, [6, 0, 0, 1, 0, 0, 0, 9]);
    let later_fragment = with(44, [6, 0, 0, 8, 0, 0, 0, 9]);
    for frame in [first_fragment, later_fragment] {
        let d = s.endpoint.handle_frame(s.now, &frame);
        assert_eq!(d, Disposition::Fragment);
    }
    let hop_by_hop = with(0, [6, 0, 1, 4, 0, 0, 0, 0]);
    let d = s.endpoint.handle_frame(s.now, &hop_by_hop);
    assert_eq!(d, Disposition::Segment);
    assert_eq!(s.read(id), b"hello");
}

#[test]
fn the_application_reads_without_copying() {
    let (mut s, id) = Script::established(config());
    s.send(1, 1, PSH, b"abcdef");
    let octets = |s: &Script| s.endpoint.peek(id).expect("open").concat();
    assert_eq!(octets(&s), b"abcdef");
    s.endpoint.consume(id, 4).expect("open");
    assert_eq!(octets(&s), b"ef");
    s.endpoint.consume(id, 100).expect("open");
    assert_eq!(octets(&s), b"");
    s.endpoint.close(s.now, id);
    assert!(s.endpoint.peek(id).is_err());
}
