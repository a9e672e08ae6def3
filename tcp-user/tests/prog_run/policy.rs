//! Policies, allow and deny lists, and limits on answers.

use crate::frames::{CLIENT4, CLIENT6, SERVER4, SERVER6, Spec};
use crate::harness::{CONFIG, Program, flow};
use tcp_common::abi::{BURST, Config, Limits, SYN_BURST, flag, policy, port, source};
use tcp_common::counters::Counter;

#[test]
#[ignore = "needs root"]
fn an_observed_listen_passes_and_counts_what_it_would_have_answered() {
    let mut program = Program::load();
    program.set_port(80, port::ANY_ADDR | port::ANY_OBSERVE);
    let syn = Spec::syn(CLIENT4, SERVER4).build();
    let ack = Spec::ack(CLIENT4, SERVER4, 1, 2).build();
    assert_eq!(program.counter(&syn), Counter::PassObservedSyn);
    assert_eq!(program.counter(&ack), Counter::PassObserved);
    program.add_flow(flow(CLIENT4, SERVER4));
    assert_eq!(
        program.counter(&ack),
        Counter::DropNoSocket,
        "a connection from before goes on in userspace"
    );
    program.set_port(80, port::ANY_ADDR);
    let syn = Spec::syn(CLIENT6, SERVER6).build();
    assert_eq!(program.counter(&syn), Counter::SynAck);
}

#[test]
#[ignore = "needs root"]
fn the_address_in_the_configuration_needs_no_entry_and_zero_is_none() {
    let mut program = Program::load();
    let (v4, v6) = ("192.0.2.7:80", "[2001:db8::7]:80");
    for (from, to) in [
        (CLIENT4, v4),
        (CLIENT6, v6),
        (CLIENT4, "0.0.0.0:80"),
        (CLIENT6, "[::]:80"),
    ] {
        let syn = Spec::syn(from, to).build();
        assert_eq!(program.counter(&syn), Counter::PassNotServed, "{to}");
    }
    let own = flow(v4, v4).local;
    program.configure(Config {
        own_v4: own.0[3],
        own_v6: flow(v6, v6).local,
        ..CONFIG
    });
    for (from, to) in [
        (CLIENT4, v4),
        (CLIENT6, v6),
        (CLIENT4, SERVER4),
        (CLIENT6, SERVER6),
    ] {
        let syn = Spec::syn(from, to).build();
        assert_eq!(program.counter(&syn), Counter::SynAck, "{to}");
    }
    let other = Spec::syn(CLIENT4, "192.0.2.8:80").build();
    assert_eq!(program.counter(&other), Counter::PassNotServed);
}

#[test]
#[ignore = "needs root"]
fn the_longest_prefix_decides_who_may_connect() {
    let mut program = Program::load();
    program.set_flags(flag::CHECK_SOURCES);
    program.set_source("192.0.2.0/24", source::DENY);
    program.set_source("192.0.2.99/32", source::ALLOW);
    program.set_source("2001:db8::/32", source::DENY);
    let syn = |from: &str, to: &str| Spec::syn(from, to).build();
    let friend = syn(CLIENT4, SERVER4);
    let denied = syn("192.0.2.98:1", SERVER4);
    let stranger = syn("198.51.100.1:1", SERVER4);
    assert_eq!(program.counter(&friend), Counter::SynAck);
    assert_eq!(program.counter(&denied), Counter::DropDenied);
    assert_eq!(program.counter(&stranger), Counter::SynAck);
    assert_eq!(program.counter(&syn(CLIENT6, SERVER6)), Counter::DropDenied);
    let ack = Spec::ack("192.0.2.98:1", SERVER4, 1, 2).build();
    assert_eq!(program.counter(&ack), Counter::DropDenied);
    program.set_flags(flag::CHECK_SOURCES | flag::DEFAULT_DENY);
    assert_eq!(program.counter(&friend), Counter::SynAck);
    assert_eq!(program.counter(&stranger), Counter::DropDenied);
}

#[test]
#[ignore = "needs root"]
fn a_prefix_gets_a_burst_of_syn_acks_and_others_are_not_held_back() {
    let mut program = Program::load();
    program.configure(Config {
        limits: Limits {
            syn_ack_interval: u32::MAX,
            rst_interval: 0,
            ..Limits::default()
        },
        ..CONFIG
    });
    for (from, other, to) in [
        ("192.0.2.99:1", "198.51.100.1:1", SERVER4),
        ("[2001:db8::99]:1", "[2001:db8:1::1]:1", SERVER6),
    ] {
        let syn = Spec::syn(from, to).build();
        let answered = (0..2 * BURST)
            .filter(|_| program.counter(&syn) == Counter::SynAck)
            .count();
        assert!((BURST as usize..=BURST as usize + 2).contains(&answered));
        assert_eq!(program.counter(&syn), Counter::DropSynLimit);
        let other = Spec::syn(other, to).build();
        assert_eq!(program.counter(&other), Counter::SynAck);
    }
}

#[test]
#[ignore = "needs root"]
fn resets_are_limited() {
    let mut program = Program::load();
    program.configure(Config {
        limits: Limits {
            syn_ack_interval: 0,
            rst_interval: u32::MAX,
            ..Limits::default()
        },
        ..CONFIG
    });
    let ack = Spec::ack(CLIENT4, SERVER4, 1, 2).build();
    // The budget is per CPU, and the runs may move between CPUs.
    let last = (0..BURST * 4 * 64).find(|_| program.counter(&ack) == Counter::DropRstLimit);
    assert!(last.is_some_and(|n| n >= BURST));
}

/// Redirected, had the tests a socket.
const HANDED_UP: Counter = Counter::DropNoSocket;

/// In quiet times.
fn adaptive(program: &mut Program, limits: Limits) {
    program.set_port(80, port::ANY_ADDR | port::ANY_ADAPTIVE);
    program.configure(Config { limits, ..CONFIG });
}

#[test]
#[ignore = "needs root"]
fn syns_to_an_adaptive_listen_go_up_while_there_are_few() {
    let mut program = Program::load();
    adaptive(
        &mut program,
        Limits {
            syn_interval: u32::MAX,
            ..Limits::default()
        },
    );
    for (from, to) in [(CLIENT4, SERVER4), (CLIENT6, SERVER6)] {
        let syn = Spec::syn(from, to).build();
        assert_eq!(program.counter(&syn), HANDED_UP, "{to}");
    }
    let syn = Spec::syn(CLIENT4, SERVER4).build();
    // The budget is per CPU, and the runs may move between CPUs.
    let last = (0..SYN_BURST * 64).find(|_| program.counter(&syn) == Counter::SynAck);
    assert!(last.is_some_and(|n| n >= SYN_BURST - 2), "{last:?}");
    // Elsewhere nothing changes.
    let other = Spec::syn(CLIENT4, "192.0.2.1:7").build();
    assert_eq!(program.counter(&other), Counter::SynAck);
}

#[test]
#[ignore = "needs root"]
fn in_a_flood_an_adaptive_listen_has_cookies_only() {
    let mut program = Program::load();
    adaptive(&mut program, Limits::default());
    let syn = Spec::syn(CLIENT4, SERVER4).build();
    assert_eq!(program.counter(&syn), Counter::SynAck);
    program.set_port(443, port::SOME_ADDR);
    program.set_listen("192.0.2.1:443", policy::ADAPTIVE);
    let syn = Spec::syn(CLIENT4, "192.0.2.1:443").build();
    assert_eq!(program.counter(&syn), Counter::SynAck);
}

#[test]
#[ignore = "needs root"]
fn what_goes_up_was_looked_at() {
    let mut program = Program::load();
    let quiet = Limits {
        syn_interval: 1,
        ..Limits::default()
    };
    adaptive(&mut program, quiet);
    let good = Spec::syn(CLIENT4, SERVER4).options(&[]).build();
    let mut bad = good.clone();
    *bad.last_mut().unwrap() ^= 1;
    assert_eq!(program.counter(&bad), Counter::DropTcpChecksum);
    assert_eq!(
        program.counter(&Spec::syn(SERVER4, SERVER4).build()),
        Counter::DropSource
    );
    let ack = Spec::ack(CLIENT4, SERVER4, 1, 2).build();
    assert_eq!(program.counter(&ack), Counter::RstBadCookie);
    for (flags, counter) in [
        (flag::STOPPING, Counter::DropStopping),
        (flag::REQUIRE_TIMESTAMPS, Counter::DropNoTimestamps),
        (
            flag::CHECK_SOURCES | flag::DEFAULT_DENY,
            Counter::DropDenied,
        ),
    ] {
        program.configure(Config {
            flags,
            limits: quiet,
            ..CONFIG
        });
        assert_eq!(program.counter(&good), counter);
    }
    adaptive(
        &mut program,
        Limits {
            syn_ack_interval: u32::MAX,
            ..quiet
        },
    );
    let last = (0..2 * BURST).find(|_| program.counter(&good) == Counter::DropSynLimit);
    assert!(last.is_some_and(|n| n >= BURST), "{last:?}");
}
