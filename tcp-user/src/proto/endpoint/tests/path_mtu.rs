//! Path MTU discovery (RFC 1191, RFC 8201) and black holes (RFC 4821).

use super::*;
use crate::proto::ConnId;
use crate::proto::script::offer;
use tcp_common::flow::FlowKey;
use tcp_common::wire::Sum;

/// An error about a segment of ours with text at `seq` in a packet of `length` octets.
struct TooBig {
    kind: (u8, u8),
    mtu: u32,
    seq: u32,
    length: u16,
}

impl TooBig {
    fn frame(&self, s: &Script) -> Vec<u8> {
        let v4 = s.flow.is_v4();
        let (local, remote) = (s.flow.local.octets(), s.flow.remote.octets());
        let from = if v4 { 12 } else { 0 };
        let mut message = vec![self.kind.0, self.kind.1, 0, 0];
        message.extend(self.mtu.to_be_bytes());
        if v4 {
            message.extend([0x45, 0]);
            message.extend(self.length.to_be_bytes());
            message.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
        } else {
            message.extend([0x60, 0, 0, 0]);
            message.extend((self.length - 40).to_be_bytes());
            message.extend([6, 64]);
        }
        message.extend(&local[from..]);
        message.extend(&remote[from..]);
        message.extend(s.flow.local_port_be.to_ne_bytes());
        message.extend(s.flow.remote_port_be.to_ne_bytes());
        message.extend(s.iss.wrapping_add(self.seq).to_be_bytes());
        let router = [0x20; 16];
        let mut sum = Sum::new().add_slice(&message);
        if !v4 {
            sum = sum
                .add_slice(&router)
                .add_slice(&local)
                .add32((message.len() as u32).to_be())
                .add32(58u32.to_be());
        }
        message[2..4].copy_from_slice(&sum.finish().to_ne_bytes());
        let mut frame = vec![2; 12];
        if v4 {
            frame.extend([8, 0, 0x45, 0]);
            frame.extend((20 + message.len() as u16).to_be_bytes());
            frame.extend([0, 0, 0, 0, 64, 1, 0, 0]);
        } else {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend((message.len() as u16).to_be_bytes());
            frame.extend([58, 64]);
        }
        frame.extend(&router[from..]);
        frame.extend(&local[from..]);
        frame.extend(message);
        frame
    }
}

fn too_big(s: &mut Script, mtu: u32, seq: u32, length: u16) -> Disposition {
    let kind = if s.flow.is_v4() { (3, 4) } else { (2, 0) };
    let error = TooBig {
        kind,
        mtu,
        seq,
        length,
    };
    let frame = error.frame(s);
    s.endpoint.handle_frame(s.now, &frame)
}

fn mss(s: &Script) -> u16 {
    s.endpoint.infos(s.now)[0].mss
}

/// Ten full segments are in flight.
fn full_flight() -> (Script, ConnId) {
    let (mut s, id) = Script::established(config());
    s.endpoint.write(s.now, id, &[7; 14_600]).expect("open");
    assert_eq!(s.recv_all().len(), 10);
    (s, id)
}

/// RFC 1191 §6.4, §6.5.
#[test]
fn a_too_big_packet_is_cut_anew_and_cwnd_stays() {
    let (mut s, _) = full_flight();
    let cwnd = s.endpoint.infos(s.now)[0].cwnd;
    assert_eq!(too_big(&mut s, 1400, 1, 1500), Disposition::Icmp);
    assert_eq!((mss(&s), s.endpoint.infos(s.now)[0].cwnd), (1360, cwnd));
    let sent = s.recv_all();
    assert_eq!(sent[0], (1, 1, ".".into(), 1360));
    assert!(sent[1..].iter().all(|s| s.3 <= 1360));
    assert_eq!(sent.iter().map(|s| s.3).sum::<usize>(), 14_600);
    // The other nine segments bring an error each.
    too_big(&mut s, 1400, 1461, 1500);
    s.expect_nothing();
    s.send(1, 14_601, ACK, b"");
    assert_eq!(s.endpoint.infos(s.now)[0].in_flight, 0);
}

/// RFC 8201, with timestamps.
#[test]
fn a_too_big_packet_over_ipv6_is_cut_anew() {
    let flow = FlowKey::new(
        "[2001:db8::99]:40000".parse().expect("literal"),
        "[2001:db8::1]:80".parse().expect("literal"),
    );
    let offered = offer(1440, Some(7), true, true);
    let mut s = Script::with_flow(config(), &offered, flow);
    let id = s.accept();
    s.endpoint.write(s.now, id, &[7; 3000]).expect("open");
    s.recv_all();
    assert_eq!(too_big(&mut s, 1400, 1, 1500), Disposition::Icmp);
    assert_eq!(mss(&s), 1400 - 40 - 20 - 12);
    assert_eq!(s.recv_all()[0].3, 1328);
    // RFC 8201 §4: never below 1280.
    too_big(&mut s, 600, 1, 1400);
    assert_eq!(mss(&s), 1280 - 40 - 20 - 12);
}

/// RFC 5927 §4.1, §7.
#[test]
fn an_error_that_quotes_nothing_in_flight_is_ignored() {
    let (mut s, _) = full_flight();
    for seq in [0, 14_601, 20_000, 0x8000_0000] {
        assert_eq!(too_big(&mut s, 1000, seq, 1500), Disposition::Icmp);
        assert_eq!(mss(&s), 1460, "at {seq}");
    }
    // A packet that was not too big; another error; a broken checksum; another flow.
    too_big(&mut s, 1500, 1, 1500);
    for kind in [(3, 1), (11, 0), (12, 0)] {
        let error = TooBig {
            kind,
            mtu: 1000,
            seq: 1,
            length: 1500,
        };
        let frame = error.frame(&s);
        assert_eq!(s.endpoint.handle_frame(s.now, &frame), Disposition::Icmp);
    }
    let error = TooBig {
        kind: (3, 4),
        mtu: 1000,
        seq: 1,
        length: 1500,
    };
    let mut frame = error.frame(&s);
    let last = frame.len() - 1;
    frame[last] ^= 1;
    let d = s.endpoint.handle_frame(s.now, &frame);
    assert_eq!(d, Disposition::BadChecksum);
    assert_eq!(mss(&s), 1460);
    s.expect_nothing();
    assert_eq!(s.events(), [], "errors are soft");
}

/// RFC 1191 §5 and what RFC 5927 §7.3 warns of.
#[test]
fn a_size_is_never_below_the_floor() {
    let (mut s, _) = full_flight();
    too_big(&mut s, 0, 1, 1500);
    assert_eq!(mss(&s), 1492 - 40, "no MTU named: the next plateau");
    too_big(&mut s, 0, 1, 1492);
    assert_eq!(mss(&s), 1280 - 40);
    too_big(&mut s, 68, 1, 1280);
    assert_eq!(mss(&s), 536);
    too_big(&mut s, 1, 1, 576);
    assert_eq!(mss(&s), 536);
}

/// RFC 4821 §7.7: no ICMP comes, full segments vanish, small ones arrive.
#[test]
fn a_black_hole_is_found_without_icmp() {
    // In a small window no segment has the full size.
    for (ts, window, limit) in [
        (false, 65_000, 1240),
        (true, 65_000, 1240),
        (false, 1000, 966),
    ] {
        let mut s = Script::new(config(), &offer(1460, Some(0), ts, ts));
        s.window = window;
        let id = s.accept();
        s.endpoint.write(s.now, id, &vec![7; 60_000]).expect("open");
        let mut acked = 1;
        let mut given = 0;
        for _ in 0..3000 {
            while let Some(sent) = s.recv() {
                let len = sent.payload.len();
                if len + usize::from(ts) * 12 <= limit && sent.seq == acked {
                    acked += len as u32;
                    given += 1;
                    if let (Some(ours), Some(theirs)) = (&mut s.ts, sent.timestamps) {
                        ours.ecr = theirs.val;
                    }
                    s.send(1, acked, ACK, b"");
                }
            }
            if acked == 60_001 {
                break;
            }
            s.millis(10);
        }
        assert_eq!(acked, 60_001, "with a window of {window}");
        assert!(given >= 60_000 / limit, "{given}");
        assert!(s.now.0 < 15_000_000_000, "{:?}", s.now);
    }
}

/// RFC 1191 §6.3.
#[test]
fn a_larger_size_is_tried_again_after_ten_minutes() {
    let (mut s, id) = full_flight();
    too_big(&mut s, 1000, 1, 1500);
    s.recv_all();
    s.send(1, 14_601, ACK, b"");
    for (minutes, octets) in [(9, 960), (1, 1460)] {
        s.pass(std::time::Duration::from_mins(minutes));
        s.endpoint.write(s.now, id, &[7; 1460]).expect("open");
        assert_eq!(s.recv().expect("text").payload.len(), octets);
        let una = std::iter::from_fn(|| s.recv())
            .last()
            .map_or(14_601 + octets as u32, |l| l.seq + l.payload.len() as u32);
        s.send(1, una, ACK, b"");
    }
}
