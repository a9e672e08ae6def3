//! Segments to listeners of the kernel's, which are open meanwhile in a namespace of the
//! test's own.

use crate::frames::{Spec, linux_options, read_answer};
use crate::harness::{CONFIG, Program};
use etherparse::TcpOptionElement::{
    self, MaximumSegmentSize, Noop, SelectiveAcknowledgementPermitted, Timestamp, WindowScale,
};
use socket2::{Domain, Socket, Type};
use std::net::{SocketAddr, TcpListener, TcpStream};
use tcp_common::abi::{Config, Limits, Shield, flag, shield, source};
use tcp_common::counters::Counter;
use xtask::netns::Namespace;

const ALL: u8 =
    shield::TIMESTAMPS | shield::WINDOW_SCALE | shield::SACK | shield::ECN | shield::ALWAYS;
const SHIELD: Shield = Shield {
    space: 33_280,
    mss: 1400,
    window_scale: 9,
    flags: ALL,
};
const PAIRS: [(&str, &str); 2] = [
    ("192.0.2.99:40000", "192.0.2.1:8443"),
    ("[2001:db8::99]:40000", "[2001:db8::1]:8443"),
];

/// Runs the test in a namespace where `net.ipv4.tcp_syncookies` is `cookies`.
fn within(cookies: &str, test: impl FnOnce(&mut Program) + Send) {
    let namespace = Namespace::unique("shield").unwrap();
    namespace.sysctl("ipv4/tcp_syncookies", cookies).unwrap();
    namespace.sysctl("ipv4/tcp_timestamps", "2").unwrap();
    for addr in ["192.0.2.1", "192.0.2.99", "2001:db8::1", "2001:db8::99"] {
        namespace
            .run("ip", &["address", "add", addr, "dev", "lo"])
            .unwrap();
    }
    namespace
        .enter(|| {
            let mut program = Program::load();
            own(&mut program, SHIELD);
            test(&mut program);
        })
        .unwrap();
}

/// Shields port 8443.
fn own(program: &mut Program, shield: Shield) {
    for v4 in [true, false] {
        program.set_shield(8443, v4, shield);
    }
}

fn listen() -> TcpListener {
    TcpListener::bind("[::]:8443").unwrap()
}

fn connect(from: &str, to: &str) -> Socket {
    let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
    socket.bind(&from.into()).unwrap();
    socket.connect(&to.into()).unwrap();
    socket
}

/// The cookie, the window and the options of the answer to a SYN.
fn answered(program: &mut Program, syn: &Spec) -> (u32, u16, Vec<TcpOptionElement>) {
    let out = program.run(&syn.build());
    assert_eq!(out.counter, Counter::SynAckKernel);
    let answer = read_answer(syn, &out.frame);
    let tcp = &answer.tcp;
    assert!(tcp.syn && tcp.ack && !tcp.rst && !tcp.fin);
    assert_eq!(
        tcp.acknowledgment_number,
        syn.tcp.sequence_number.wrapping_add(1)
    );
    (tcp.sequence_number, tcp.window_size, answer.options)
}

#[test]
#[ignore = "needs root"]
fn a_syn_gets_a_cookie_of_the_kernel_and_its_ack_passes() {
    within("2", |program| {
        let _listener = listen();
        for (from, to) in PAIRS {
            for vlans in [&[][..], &[7], &[7, 8]] {
                let syn = Spec::syn(from, to).vlans(vlans);
                let (iss, window, options) = answered(program, &syn);
                let mss = if syn.to.is_ipv4() { 1460 } else { 1440 };
                assert_eq!(u32::from(window), 33_280 / mss * mss);
                let [
                    MaximumSegmentSize(1400),
                    SelectiveAcknowledgementPermitted,
                    Timestamp(val, 0x0102_0304),
                    Noop,
                    WindowScale(9),
                ] = options[..]
                else {
                    panic!("{options:?}");
                };
                assert_eq!(val & 0x3f, 0x1a, "shift 10 and SACK");

                let ack = Spec::ack(from, to, 1001, iss.wrapping_add(1)).vlans(vlans);
                // The next values are valid, too: the kernel keeps the MSS there.
                let forged = Spec::ack(from, to, 1001, iss.wrapping_add(1000)).vlans(vlans);
                assert_eq!(program.counter(&forged.build()), Counter::RstBadCookie);
                assert_eq!(program.counter(&ack.build()), Counter::PassKernelAccept);
                let data = ack.payload(b"GET / HTTP/1.0\r\n\r\n");
                assert_eq!(program.counter(&data.build()), Counter::PassKernelAccept);
                program.forget_admitted();
            }
        }
    });
}

#[test]
#[ignore = "needs root"]
fn segments_right_behind_the_ack_pass_before_there_is_a_socket() {
    within("2", |program| {
        let _listener = listen();
        for (from, to) in PAIRS {
            let (iss, ..) = answered(program, &Spec::syn(from, to));
            let later = Spec::ack(from, to, 1001 + 1448, iss.wrapping_add(1)).payload(&[1; 1448]);
            assert_eq!(program.counter(&later.build()), Counter::RstBadCookie);
            let ack = Spec::ack(from, to, 1001, iss.wrapping_add(1));
            assert_eq!(program.counter(&ack.build()), Counter::PassKernelAccept);
            assert_eq!(program.counter(&later.build()), Counter::PassKernelSocket);
        }
    });
}

#[test]
#[ignore = "needs root"]
fn without_timestamps_nothing_but_the_mss_is_offered() {
    within("2", |program| {
        let _listener = listen();
        let (from, to) = PAIRS[0];
        let mut no_timestamps = linux_options();
        no_timestamps.retain(|o| !matches!(o, Timestamp(..)));
        let syn = Spec::syn(from, to).options(&no_timestamps);
        let (_, _, options) = answered(program, &syn);
        assert_eq!(options, [MaximumSegmentSize(1400)]);

        let flags = ALL & !shield::TIMESTAMPS;
        own(program, Shield { flags, ..SHIELD });
        let (_, _, options) = answered(program, &Spec::syn(from, to));
        assert_eq!(options, [MaximumSegmentSize(1400)]);
    });
}

#[test]
#[ignore = "needs root"]
fn each_option_is_agreed_on_only_if_both_ends_have_it() {
    within("2", |program| {
        let _listener = listen();
        let (from, to) = PAIRS[1];
        for without in [0, shield::WINDOW_SCALE, shield::SACK, shield::ECN] {
            own(
                program,
                Shield {
                    flags: ALL & !without,
                    ..SHIELD
                },
            );
            let mut syn = Spec::syn(from, to);
            (syn.tcp.ece, syn.tcp.cwr) = (true, true);
            let out = program.run(&syn.build());
            let answer = read_answer(&syn, &out.frame);
            let has = |f: fn(&TcpOptionElement) -> bool| answer.options.iter().any(f);
            let val = answer.options.iter().find_map(|o| match o {
                Timestamp(val, _) => Some(*val),
                _ => None,
            });
            let val = val.expect("timestamps");
            let scale = without != shield::WINDOW_SCALE;
            assert_eq!(has(|o| matches!(o, WindowScale(9))), scale);
            assert_eq!(val & 0xf, if scale { 10 } else { 15 });
            let sack = without != shield::SACK;
            assert_eq!(
                has(|o| matches!(o, SelectiveAcknowledgementPermitted)),
                sack
            );
            assert_eq!(val & 0x10 != 0, sack);
            assert_eq!(answer.tcp.ece, without != shield::ECN);
            assert_eq!(val & 0x20 != 0, answer.tcp.ece);
        }
    });
}

#[test]
#[ignore = "needs root"]
fn a_small_receive_buffer_makes_a_small_window() {
    within("2", |program| {
        let _listener = listen();
        let (from, to) = PAIRS[0];
        for (space, window) in [(585, 585), (3000, 2920), (1 << 20, 65_535)] {
            own(program, Shield { space, ..SHIELD });
            assert_eq!(answered(program, &Spec::syn(from, to)).1, window);
        }
    });
}

#[test]
#[ignore = "needs root"]
fn without_a_listener_the_answer_is_a_reset() {
    within("2", |program| {
        for (from, to) in PAIRS {
            let syn = Spec::syn(from, to).payload(b"abc");
            let out = program.run(&syn.build());
            assert_eq!(out.counter, Counter::RstNoListener);
            let tcp = read_answer(&syn, &out.frame).tcp;
            assert!(tcp.rst && tcp.ack && !tcp.syn);
            assert_eq!((tcp.sequence_number, tcp.acknowledgment_number), (0, 1004));

            let ack = Spec::ack(from, to, 5000, 6000);
            let out = program.run(&ack.build());
            assert_eq!(out.counter, Counter::RstNoListener);
            let tcp = read_answer(&ack, &out.frame).tcp;
            assert!(tcp.rst && !tcp.ack);
            assert_eq!(tcp.sequence_number, 6000);

            let mut rst = ack.clone();
            rst.tcp.rst = true;
            assert_eq!(program.counter(&rst.build()), Counter::DropRst);
            // One may listen on the VLAN's interface.
            for spec in [syn, ack] {
                let tagged = spec.vlans(&[7]).build();
                assert_eq!(program.counter(&tagged), Counter::PassKernelUnknown);
            }
        }
        program.configure(Config {
            limits: Limits {
                rst_interval: 1_000_000_000,
                ..Limits::default()
            },
            ..CONFIG
        });
        let syn = Spec::syn(PAIRS[0].0, PAIRS[0].1).build();
        let resets = (0..200)
            .filter(|_| program.counter(&syn) == Counter::RstNoListener)
            .count();
        assert!((60..=70).contains(&resets), "{resets}");
    });
}

#[test]
#[ignore = "needs root"]
fn a_listener_on_one_device_is_not_that_of_its_vlans() {
    within("2", |program| {
        let socket = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
        socket.bind_device(Some(b"lo")).unwrap();
        let at: SocketAddr = "[::]:8443".parse().unwrap();
        socket.bind(&at.into()).unwrap();
        socket.listen(16).unwrap();
        for (from, to) in PAIRS {
            let syn = Spec::syn(from, to);
            assert_eq!(program.counter(&syn.build()), Counter::SynAckKernel);
            for vlans in [&[7][..], &[7, 8]] {
                for tagged in [syn.clone(), Spec::ack(from, to, 1, 1)] {
                    let tagged = tagged.vlans(vlans).build();
                    assert_eq!(program.counter(&tagged), Counter::PassKernelUnknown);
                }
            }
        }
    });
}

#[test]
#[ignore = "needs root"]
fn the_kernels_connections_are_left_alone() {
    within("2", |program| {
        let listener = listen();
        for (from, server) in PAIRS {
            let _client = connect(from, server);
            let (_accepted, _) = listener.accept().unwrap();
            let syn = Spec::syn(from, server);
            let ack = Spec::ack(from, server, 1, 2);
            let mut rst = Spec::ack(from, server, 1, 2);
            rst.tcp.rst = true;
            let mut odd = Spec::new(from, server);
            odd.tcp.urg = true;
            for spec in [syn.clone(), ack.clone(), rst, odd, ack.payload(b"data")] {
                assert_eq!(program.counter(&spec.build()), Counter::PassKernelSocket);
            }
            // Not even a wrong checksum is ours to judge.
            let mut broken = Spec::ack(from, server, 1, 2).build();
            *broken.last_mut().unwrap() ^= 1;
            assert_eq!(program.counter(&broken), Counter::PassKernelSocket);
        }
    });
}

#[test]
#[ignore = "needs root"]
fn fragments_of_the_kernels_connections_pass_and_no_others() {
    within("2", |program| {
        let listener = listen();
        let (from, server) = PAIRS[0];
        let _client = connect(from, server);
        let (_accepted, _) = listener.accept().unwrap();
        let mut first = |from: &str| {
            let mut frame = Spec::ack(from, server, 1, 2).payload(&[0; 64]).build();
            // More fragments.
            frame[20] = 0x20;
            frame[24..26].copy_from_slice(&[0, 0]);
            let sum: u32 = frame[14..34]
                .chunks(2)
                .map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])))
                .sum();
            let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
            program.counter(&frame)
        };
        assert_eq!(first(from), Counter::PassKernelSocket);
        assert_eq!(first("192.0.2.99:40001"), Counter::DropFragment);
    });
}

#[test]
#[ignore = "needs root"]
fn the_kernel_answers_until_the_settings_are_known_and_while_it_is_quiet() {
    within("2", |program| {
        let _listener = listen();
        let (from, to) = PAIRS[0];
        let syn = Spec::syn(from, to);
        own(
            program,
            Shield {
                flags: ALL | shield::QUIET,
                ..SHIELD
            },
        );
        assert_eq!(program.counter(&syn.build()), Counter::PassKernelSyn);
        program.remove_shield(8443, true);
        assert_eq!(program.counter(&syn.build()), Counter::PassKernelSyn);
        own(program, SHIELD);
        assert_eq!(program.counter(&syn.build()), Counter::SynAckKernel);
    });
}

#[test]
#[ignore = "needs root"]
fn with_syncookies_1_only_a_full_queue_is_answered_for() {
    within("1", |program| {
        own(
            program,
            Shield {
                flags: ALL & !shield::ALWAYS,
                ..SHIELD
            },
        );
        let _listener = listen();
        let (from, to) = PAIRS[0];
        let syn = Spec::syn(from, to);
        assert_eq!(program.counter(&syn.build()), Counter::PassKernelSyn);
    });
}

#[test]
#[ignore = "needs root"]
fn a_listener_that_accepts_too_slowly_gets_no_more() {
    within("2", |program| {
        let listener = listen();
        // The queue holds one more than that.
        nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
        let (from, to) = PAIRS[0];
        let syn = Spec::syn(from, to);
        assert_eq!(program.counter(&syn.build()), Counter::SynAckKernel);
        let _waiting = TcpStream::connect("127.0.0.1:8443").unwrap();
        assert_eq!(program.counter(&syn.build()), Counter::DropListenerFull);
        let _first = listener.accept().unwrap();
        assert_eq!(program.counter(&syn.build()), Counter::SynAckKernel);
    });
}

#[test]
#[ignore = "needs root"]
fn lists_limits_and_stopping_are_as_for_our_own_listens() {
    within("2", |program| {
        let _listener = listen();
        let (from, to) = PAIRS[0];
        let syn = Spec::syn(from, to);
        let (iss, ..) = answered(program, &syn);
        let ack = Spec::ack(from, to, 1001, iss.wrapping_add(1));
        program.set_flags(flag::CHECK_SOURCES);
        program.set_source("192.0.2.0/24", source::DENY);
        for spec in [&syn, &ack] {
            assert_eq!(program.counter(&spec.build()), Counter::DropDenied);
        }
        program.set_flags(flag::STOPPING);
        for spec in [&syn, &ack] {
            assert_eq!(program.counter(&spec.build()), Counter::PassNotServed);
        }
        program.set_flags(flag::DROP_INVALID);
        let forged = Spec::ack(from, to, 1001, iss.wrapping_add(1000));
        assert_eq!(program.counter(&forged.build()), Counter::DropBadCookie);
        program.configure(Config {
            limits: Limits {
                syn_ack_interval: 1_000_000_000,
                ..Limits::default()
            },
            ..CONFIG
        });
        let answers = (0..200)
            .filter(|_| program.counter(&syn.build()) == Counter::SynAckKernel)
            .count();
        assert!((60..=70).contains(&answers), "{answers}");
    });
}

#[test]
#[ignore = "needs root"]
fn what_is_malformed_is_refused_with_its_reason() {
    within("2", |program| {
        let _listener = listen();
        let (from, to) = PAIRS[0];
        let syn = Spec::syn(from, to);
        let mut broken = syn.build();
        let at = syn.l4() + 16;
        broken[at] ^= 1;
        assert_eq!(program.counter(&broken), Counter::DropTcpChecksum);
        let bad_option = Spec::syn(from, to).raw_options(&[2, 3, 0, 0]);
        assert_eq!(program.counter(&bad_option.build()), Counter::DropOptions);
        let multicast = Spec::syn("224.0.0.1:1", to);
        assert_eq!(program.counter(&multicast.build()), Counter::DropSource);
        let mut both = Spec::new(from, to);
        (both.tcp.syn, both.tcp.fin) = (true, true);
        assert_eq!(program.counter(&both.build()), Counter::DropFlags);
        let mut rst = Spec::new(from, to);
        rst.tcp.rst = true;
        assert_eq!(program.counter(&rst.build()), Counter::DropRst);
    });
}
