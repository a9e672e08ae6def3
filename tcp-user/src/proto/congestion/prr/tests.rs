use super::*;
use proptest::prelude::*;

const MSS: u32 = 1000;

/// RFC 9937 §6: with 20 segments out and ssthresh at 10, every second ACK lets one out.
#[test]
fn the_flight_shrinks_in_proportion() {
    let mut prr = Prr::new(20 * MSS, 0);
    let mut pipe = 19 * MSS;
    let mut sent = 0;
    for _ in 0..20 {
        pipe -= MSS;
        let cwnd = prr.on_ack(MSS, pipe, 10 * MSS, MSS, false);
        while pipe + MSS <= cwnd {
            prr.on_sent(MSS);
            pipe += MSS;
            sent += 1;
        }
    }
    assert_eq!((sent, pipe), (11, 10 * MSS));
}

#[test]
fn the_fast_retransmit_is_always_allowed() {
    let mut prr = Prr::new(100 * MSS, 0);
    assert_eq!(
        prr.on_ack(0, 99 * MSS, 10 * MSS, MSS, false),
        100 * MSS,
        "the first"
    );
    prr.on_sent(MSS);
    assert_eq!(prr.on_ack(0, 100 * MSS, 10 * MSS, MSS, false), 100 * MSS);
}

/// RFC 9937 §6: after heavy loss no more than was delivered, a segment more if all is well.
#[test]
fn in_recovery_no_more_goes_out_than_arrives() {
    for (safe, more) in [(false, 0), (true, MSS)] {
        let mut prr = Prr::new(20 * MSS, 0);
        prr.on_sent(MSS);
        assert_eq!(
            prr.on_ack(2 * MSS, 3 * MSS, 10 * MSS, MSS, safe),
            5 * MSS + more
        );
    }
}

#[test]
fn what_was_delivered_before_and_not_sent_for_is_made_up_for() {
    let mut prr = Prr::new(4 * MSS, 6 * MSS);
    assert_eq!(prr.on_ack(MSS, 0, 5 * MSS, MSS, false), 5 * MSS);
}

proptest! {
    /// Conservation of packets: never more sent than delivered, and a segment for each ACK.
    #[test]
    fn sending_is_bounded_by_delivery(
        flight in 1u32..200,
        half in 1u32..100,
        acks in prop::collection::vec((0u32..5, any::<bool>()), 1..200),
    ) {
        let mut prr = Prr::new(flight * MSS, 0);
        let (mut pipe, mut delivered, mut sent) = (flight * MSS, 0, 0);
        for (n, &(segments, safe)) in acks.iter().enumerate() {
            let octets = (segments * MSS).min(pipe);
            pipe -= octets;
            delivered += octets;
            let cwnd = prr.on_ack(octets, pipe, half * MSS, MSS, safe);
            while pipe + MSS <= cwnd {
                prr.on_sent(MSS);
                pipe += MSS;
                sent += MSS;
            }
            prop_assert!(sent <= delivered + (n as u32 + 1) * MSS);
            prop_assert!(pipe <= (flight * MSS).max(half * MSS) + MSS);
        }
    }
}
