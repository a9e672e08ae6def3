//! Clients that go away without a word, and those that stay half-closed: the server is done with
//! each of them after its timeout, and has its memory back.

use crate::abuse::Baseline;
use crate::crowd::{Crowd, Say};
use crate::lab::{Lab, Server, V4, wait_for};
use etherparse::TcpOptionElement;
use std::collections::BTreeMap;

const WINDOW: u16 = 60_000;

/// Connections by state.
fn states(server: &Server) -> BTreeMap<String, usize> {
    let mut states = BTreeMap::new();
    for conn in server.conns() {
        *states.entry(conn.state).or_default() += 1;
    }
    states
}

/// The state in which the server has a client, if it has.
fn state_of(server: &Server, from: std::net::SocketAddr) -> Option<String> {
    let conns = server.conns();
    let conn = conns.into_iter().find(|c| c.remote == from)?;
    Some(conn.state)
}

/// A client in each state; what it says, and whether it hears and acknowledges the answer.
const STATES: [(&str, &[u8], Then); 8] = [
    ("ESTABLISHED", b"", Then::Nothing),
    // With text in flight.
    (
        "ESTABLISHED",
        b"GET /bytes/50000 HTTP/1.1\r\nHost: x\r\n\r\n",
        Then::Nothing,
    ),
    ("FIN-WAIT-1", CLOSE, Then::Nothing),
    ("FIN-WAIT-2", CLOSE, Then::Ack),
    ("CLOSING", CLOSE, Then::FinOnly),
    (
        "CLOSE-WAIT",
        b"GET /bytes/50000000 HTTP/1.1\r\nHost: x\r\n\r\n",
        Then::FinAtOnce,
    ),
    ("LAST-ACK", b"", Then::FinAtOnce),
    ("TIME-WAIT", CLOSE, Then::AckAndFin),
];
const CLOSE: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    /// Never heard of again.
    Nothing,
    /// Acknowledges all of the answer.
    Ack,
    /// Acknowledges nothing, but sends its FIN.
    FinOnly,
    AckAndFin,
    /// The FIN comes with what it says.
    FinAtOnce,
}

pub fn a_peer_may_vanish_in_any_state() {
    let lab = Lab::new();
    let server = lab.serve(&[
        "--set",
        "tcp.keepalive=5s",
        "--set",
        "tcp.keepalive_interval=200ms",
        // Each state lasts some seconds, so that it is seen.
        "--set",
        "tcp.max_retries=4",
        "--set",
        "tcp.fin_timeout=6s",
        "--set",
        "tcp.msl=3s",
    ]);
    let baseline = Baseline::take(&lab, &server);
    let mut crowd = Crowd::new(&lab, &format!("{V4}:80"), 0, 1 + STATES.len() as u32);
    // The last has its SYN-ACK and goes.
    crowd.greet(&[]);
    for (i, (state, says, then)) in STATES.iter().enumerate() {
        let from = crowd.members[i].from;
        let first = Say {
            window: WINDOW,
            data: says,
            fin: *then == Then::FinAtOnce,
            ..Say::default()
        };
        // What is acknowledged is up to the script.
        crowd.keeps = matches!(then, Then::Ack | Then::AckAndFin);
        let answered = crowd.keeps;
        crowd.say_until(&[i], &first, |crowd| {
            if answered {
                crowd.members[i].fin
            } else {
                state_of(&server, from).is_some()
            }
        });
        let m = &mut crowd.members[i];
        m.nxt = m.nxt.wrapping_add(says.len() as u32);
        let second = Say {
            window: WINDOW,
            fin: matches!(then, Then::FinOnly | Then::AckAndFin),
            ..Say::default()
        };
        if matches!(then, Then::Nothing | Then::FinAtOnce) {
            wait_for(state, || state_of(&server, from).as_deref() == Some(state));
        } else {
            crowd.say_until(&[i], &second, |_| {
                state_of(&server, from).as_deref() == Some(state)
            });
        }
    }
    baseline.wait(&lab, &server, "vanished");
    let stats = server.stats();
    assert_eq!(stats.workers[0].frames["no_flow"], 0);
}

/// Ten thousand clients that close their half and never take the answer, and ten
/// thousand that never close theirs.
pub fn half_closed_connections_end_in_time() {
    const EACH: u32 = 10_000;
    let lab = Lab::new();
    let server = lab.serve(&[
        "--set",
        "tcp.max_retries=2",
        "--set",
        "tcp.fin_timeout=3s",
        "--set",
        "tcp.msl=500ms",
        "--set",
        "tcp.memory=268435456",
    ]);
    let baseline = Baseline::take(&lab, &server);
    let to = format!("{V4}:80");
    let all: Vec<usize> = (0..EACH as usize).collect();
    let accepted = |server: &Server| server.stats().workers[0].frames["accepted"];
    let before = accepted(&server);

    // Both kinds want something; the first wants more than it will ever take.
    let mut holding = Crowd::new(&lab, &to, 0, EACH);
    holding.keeps = false;
    holding.greet(&[TcpOptionElement::MaximumSegmentSize(1460)]);
    let request = b"GET /bytes/100000 HTTP/1.1\r\nHost: x\r\n\r\n";
    let say = Say {
        window: 2000,
        data: request,
        fin: true,
        ..Say::default()
    };
    holding.say_until(&all, &say, |_| {
        accepted(&server) - before >= u64::from(EACH)
    });
    let peak = baseline.note(&server, "client closed first");

    let mut staying = Crowd::new(&lab, &to, 2 * EACH, EACH);
    staying.greet(&[TcpOptionElement::MaximumSegmentSize(1460)]);
    let say = Say {
        window: WINDOW,
        data: CLOSE,
        ..Say::default()
    };
    staying.say_until(&all, &say, |crowd| crowd.members.iter().all(|m| m.fin));
    for m in &mut staying.members {
        m.nxt = m.nxt.wrapping_add(CLOSE.len() as u32);
    }
    // They acknowledge the server's FIN, and that is all.
    let say = Say {
        window: WINDOW,
        ..Say::default()
    };
    staying.say_until(&all, &say, |_| {
        let states = states(&server);
        !states.contains_key("FIN-WAIT-1") && !states.contains_key("ESTABLISHED")
    });
    baseline.note(&server, "server closed first");
    assert!(peak > 0);
    assert!(accepted(&server) - before >= 2 * u64::from(EACH));
    baseline.wait(&lab, &server, "half-closed");
}
