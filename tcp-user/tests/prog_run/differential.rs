//! The program's option parser and checksums against etherparse's on random frames.

use crate::frames::{CLIENT4, CLIENT6, SERVER4, SERVER6, Spec, read_answer};
use crate::harness::{Program, SECRETS, flow};
use etherparse::{TcpOptionElement, TcpOptionsIterator};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore as _, SeedableRng as _};
use tcp_common::cookie;
use tcp_common::counters::Counter;

/// MSS, shift count, SACK-permitted, `TSval`.
type Found = (Option<u16>, Option<u8>, bool, Option<u32>);

/// What etherparse finds in the options of a SYN: MSS, shift count, SACK-permitted,
/// timestamps; `None` if it meets a wrong length.
fn oracle(options: &[u8]) -> Option<Found> {
    let mut found: Found = (None, None, false, None);
    let mut rest = TcpOptionsIterator::from_slice(options);
    for element in &mut rest {
        match element {
            Ok(TcpOptionElement::MaximumSegmentSize(mss)) => found.0 = Some(mss),
            Ok(TcpOptionElement::WindowScale(shift)) => found.1 = Some(shift.min(14)),
            Ok(TcpOptionElement::SelectiveAcknowledgementPermitted) => found.2 = true,
            Ok(TcpOptionElement::Timestamp(val, _)) => found.3 = Some(val),
            Ok(_) => {}
            // It stops at kinds that it does not know; so do we compare no further.
            Err(_) => return None,
        }
    }
    Some(found)
}

/// Random options of 0 to 40 octets, mostly well-formed.
fn random_options(rng: &mut ChaCha8Rng) -> Vec<u8> {
    let mut out = Vec::new();
    while out.len() < 40 {
        match rng.next_u32() % 9 {
            0 => out.push(1),
            1 => out.extend([2, 4, rng.next_u32() as u8, rng.next_u32() as u8]),
            2 => out.extend([3, 3, rng.next_u32() as u8 % 20]),
            3 => out.extend([4, 2]),
            4 => {
                out.extend([8, 10]);
                out.extend(rng.next_u64().to_ne_bytes());
            }
            5 => {
                out.extend([5, 10]);
                out.extend(rng.next_u64().to_ne_bytes());
            }
            6 if rng.next_u32().is_multiple_of(4) => out.push(rng.next_u32() as u8),
            7 if rng.next_u32().is_multiple_of(4) => break,
            _ => {}
        }
    }
    out.truncate(40);
    // etherparse pads with END, as the header must hold whole words.
    while out.len() % 4 != 0 {
        out.push(0);
    }
    out
}

#[test]
#[ignore = "needs root"]
fn random_syns_are_read_as_etherparse_reads_them() {
    let mut program = Program::load();
    let mut rng = ChaCha8Rng::seed_from_u64(0x5eed);
    let (mut answered, mut refused) = (0, 0);
    for i in 0..3000 {
        let options = random_options(&mut rng);
        let (from, to) = if rng.next_u32() % 2 == 0 {
            (CLIENT4, SERVER4)
        } else {
            (CLIENT6, SERVER6)
        };
        let mut syn = Spec::syn(from, to).raw_options(&options);
        syn.tcp.sequence_number = rng.next_u32();
        let out = program.run(&syn.build());
        let Some((mss, scale, sack, tsval)) = oracle(&options) else {
            refused += 1;
            continue;
        };
        assert_eq!(out.counter, Counter::SynAck, "frame {i}: {options:?}");
        answered += 1;
        let answer = read_answer(&syn, &out.frame);
        let echoed = answer.options.iter().find_map(|o| match o {
            TcpOptionElement::Timestamp(val, ecr) => Some((*val, *ecr)),
            _ => None,
        });
        assert_eq!(echoed.map(|e| e.1), tsval, "frame {i}: {options:?}");
        let agreed = cookie::check(
            &SECRETS.keys[0],
            &flow(from, to),
            syn.tcp.sequence_number,
            answer.tcp.sequence_number,
            echoed.map(|e| e.0),
        )
        .unwrap();
        assert_eq!(agreed.sack, sack, "frame {i}: {options:?}");
        if tsval.is_some() {
            assert_eq!(agreed.window_scale, scale, "frame {i}: {options:?}");
            if let Some(mss) = mss.filter(|m| (64..2048).contains(m)) {
                assert_eq!(agreed.mss, mss, "frame {i}: {options:?}");
            }
        }
    }
    assert!(answered > 1000 && refused > 50, "{answered} {refused}");
}

#[test]
#[ignore = "needs root"]
fn random_frames_are_all_counted_once_and_none_crashes() {
    let mut program = Program::load();
    let mut rng = ChaCha8Rng::seed_from_u64(0xf4a3);
    let before = program.counted();
    let total = 20_000;
    for i in 0..total {
        let spec = if i % 2 == 0 {
            Spec::syn(CLIENT4, SERVER4)
        } else {
            Spec::syn(CLIENT6, SERVER6)
        };
        let mut frame = spec
            .vlans(&[1, 2][..i / 2 % 3])
            .payload(&vec![0; i % 50])
            .build();
        for _ in 0..rng.next_u32() % 6 {
            let at = 12 + rng.next_u32() as usize % (frame.len() - 12);
            frame[at] = rng.next_u32() as u8;
        }
        frame.truncate(14.max(frame.len() - (rng.next_u32() % 4) as usize));
        program.run(&frame);
    }
    assert_eq!(program.counted(), before + total as u64);
}
