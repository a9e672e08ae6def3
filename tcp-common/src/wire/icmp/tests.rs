use super::*;
use crate::wire::link;

const US: [u8; 4] = [192, 0, 2, 1];
const PEER: [u8; 4] = [192, 0, 2, 99];

/// An error from a router about a segment of ours.
fn v4(kind: u8, code: u8, mtu: u16) -> Vec<u8> {
    let mut quoted = vec![0x45, 0, 5, 0xdc, 0, 0, 0x40, 0, 64, 6, 0, 0];
    quoted.extend(US);
    quoted.extend(PEER);
    quoted.extend([0, 80, 0x9c, 0x40, 1, 2, 3, 4]);
    let mut message = vec![kind, code, 0, 0, 0, 0];
    message.extend(mtu.to_be_bytes());
    message.extend(quoted);
    let sum = Sum::new().add_slice(&message).finish();
    message[2..4].copy_from_slice(&sum.to_ne_bytes());
    let mut frame = vec![0; 12];
    frame.extend([8, 0, 0x45, 0]);
    frame.extend((20 + message.len() as u16).to_be_bytes());
    frame.extend([0, 0, 0, 0, 64, 1, 0, 0, 203, 0, 113, 7]);
    frame.extend(US);
    frame.extend(message);
    frame
}

fn parsed(frame: &[u8]) -> Option<IcmpError> {
    parse(frame, link::parse(frame)?)
}

#[test]
fn a_quoted_segment_names_its_connection() {
    let frame = v4(3, 4, 1400);
    let error = parsed(&frame).expect("an error");
    assert_eq!(
        error.flow,
        FlowKey::new(
            "192.0.2.99:40000".parse().expect("literal"),
            "192.0.2.1:80".parse().expect("literal"),
        )
    );
    assert_eq!((error.seq, error.mtu), (0x0102_0304, 1400));
    assert!(error.too_big && error.quoted_len == 1500);
    let link = link::parse(&frame[..]).expect("link");
    assert!(checksum_ok(&frame, link, &error));
    for at in error.at..frame.len() {
        let mut bad = frame.clone();
        bad[at] ^= 1;
        assert!(!checksum_ok(&bad, link, &error), "octet {at}");
    }
    assert!(!checksum_ok(&frame[..frame.len() - 1], link, &error));
}

#[test]
fn what_is_no_error_of_ours_is_none() {
    assert!(parsed(&v4(11, 0, 0)).is_some_and(|e| !e.too_big));
    assert!(parsed(&v4(3, 1, 0)).is_some_and(|e| !e.too_big));
    for kind in [0, 4, 5, 8, 13] {
        assert_eq!(parsed(&v4(kind, 0, 0)), None, "type {kind}");
    }
    let good = v4(3, 4, 1400);
    for len in 0..good.len() {
        assert_eq!(parsed(&good[..len]), None, "{len} octets");
    }
    // To another host than the quoted one; a quoted fragment; UDP; IP options.
    for (at, value) in [(33, 9), (48, 1), (51, 17), (42, 0x46)] {
        let mut other = good.clone();
        other[at] = value;
        assert_eq!(parsed(&other), None, "octet {at}");
    }
}
