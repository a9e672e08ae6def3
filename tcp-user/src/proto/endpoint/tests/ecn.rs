//! Explicit congestion notification (RFC 3168).

use super::*;
use crate::proto::ConnId;
use crate::proto::script::offer;
use tcp_common::wire::Flags;

const CE: u8 = 3;
const ECE: Flags = Flags::ECE.with(ACK);

fn agreed() -> (Script, ConnId) {
    let offered = offer(1460, Some(7), true, true);
    let mut s = Script::new(config(), &offered);
    s.syn_with(7, &offered, true);
    assert!(s.negotiated.ecn);
    let id = s.accept();
    (s, id)
}

fn cwnd(s: &Script) -> u32 {
    s.endpoint.infos(s.now)[0].cwnd
}

/// RFC 3168 §6.1.4, §6.1.5: new text is ECT(0), ACKs and retransmissions are not.
#[test]
fn only_new_text_is_ect() {
    let (mut s, id) = agreed();
    s.send(1, 1, PSH, b"hello");
    s.endpoint.write(s.now, id, &[0; 2000]).expect("open");
    let sent: Vec<_> = std::iter::from_fn(|| s.recv()).collect();
    assert_eq!(
        sent.iter()
            .map(|s| (s.payload.len(), s.ecn))
            .collect::<Vec<_>>(),
        [(1448, 2), (552, 2)]
    );
    s.millis(3000);
    let again: Vec<_> = std::iter::from_fn(|| s.recv()).collect();
    assert!(!again.is_empty() && again.iter().all(|s| s.ecn == 0));
    s.send(6, 2001, ACK, b"");
    s.send(6, 2001, PSH, b"more");
    s.millis(50);
    let ack = s.recv().expect("delayed ACK");
    assert_eq!((ack.payload.len(), ack.ecn), (0, 0));
}

/// RFC 3168 §6.1.1: without agreement nothing is marked, whatever arrives.
#[test]
fn without_agreement_nothing_is_marked() {
    let (mut s, id) = Script::established_with(config(), &offer(1460, Some(7), true, true));
    s.ecn = CE;
    s.send(1, 1, PSH, b"hello");
    s.endpoint.write(s.now, id, &[0; 1000]).expect("open");
    let sent = s.recv().expect("text");
    assert_eq!((sent.ecn, sent.flags), (0, PSH));
    let before = cwnd(&s);
    s.send(6, 1001, ECE, b"");
    assert!(cwnd(&s) >= before);
}

/// RFC 3168 §6.1.3: ECE on every ACK from CE to CWR.
#[test]
fn congestion_is_echoed_until_cwr() {
    let (mut s, _) = agreed();
    s.ecn = CE;
    s.send(1, 1, PSH, &[1; 1448]);
    s.ecn = 2;
    s.send(1449, 1, PSH, &[1; 1448]);
    assert_eq!(s.recv().expect("ACK").flags, ECE);
    s.send(2897, 1, PSH, &[1; 1448]);
    s.send(4345, 1, PSH, &[1; 1448]);
    assert_eq!(s.recv().expect("ACK").flags, ECE);
    s.send(5793, 1, PSH.with(Flags::CWR), &[1; 1448]);
    s.send(7241, 1, PSH, &[1; 1448]);
    assert_eq!(s.recv().expect("ACK").flags, ACK);
    // A segment that says CWR and met congestion itself.
    s.ecn = CE;
    s.send(8689, 1, PSH.with(Flags::CWR), &[1; 1448]);
    s.send(10_137, 1, PSH, &[1; 1448]);
    assert_eq!(s.recv().expect("ACK").flags, ECE);
}

/// RFC 3168 §6.1.2: once per window, with CWR on the next new text.
#[test]
fn an_echo_reduces_the_window_once_and_is_confirmed() {
    let (mut s, id) = agreed();
    s.endpoint.write(s.now, id, &[0; 14_480]).expect("open");
    assert_eq!(s.recv_all().len(), 10);
    let before = cwnd(&s);
    s.send(1, 2897, ECE, b"");
    let reduced = cwnd(&s);
    assert!(reduced < before, "{before} {reduced}");
    s.send(1, 5793, ECE, b"");
    s.send(1, 14_481, ECE, b"");
    assert!(cwnd(&s) >= reduced, "the same window");
    s.endpoint.write(s.now, id, &[0; 4000]).expect("open");
    let sent: Vec<_> = std::iter::from_fn(|| s.recv()).collect();
    assert!(sent[0].flags.has(Flags::CWR));
    assert!(sent[1..].iter().all(|s| !s.flags.has(Flags::CWR)));
    assert_eq!(s.endpoint.infos(s.now)[0].retransmits, 0);
    // The next window may be reduced again.
    let before = cwnd(&s);
    s.send(1, 18_481, ECE, b"");
    assert!(cwnd(&s) < before);
}

/// RFC 3168 §6.1.1 through a SYN that userspace answers.
#[test]
fn a_syn_in_time_wait_is_agreed_to() {
    for (wanted, flags) in [(true, "SE."), (false, "S.")] {
        let (mut s, id) = Script::established_with(
            Config {
                ecn: wanted,
                ..config()
            },
            &offer(1460, Some(7), true, true),
        );
        s.endpoint.close(s.now, id);
        s.recv_all();
        s.send(1, 2, FIN, b"");
        s.recv_all();
        s.ts = Some(tcp_common::wire::Timestamps {
            val: 900_000,
            ecr: 0,
        });
        s.send(1_000_000, 0, SYN.with(Flags::ECE).with(Flags::CWR), b"");
        assert_eq!(s.recv().expect("SYN-ACK").flags.to_string(), flags);
    }
}
