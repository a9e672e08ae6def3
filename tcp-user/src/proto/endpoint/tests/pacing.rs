//! How much goes out at once: in a recovery, and where congestion control paces.

use super::*;
use crate::proto::Algorithm;
use std::time::Duration;

const MSS: u32 = 1460;
const ROUND_TRIP: Duration = Duration::from_millis(20);

/// A connection with a full initial window in flight and more to send.
fn in_flight(congestion: Algorithm) -> Script {
    let config = Config {
        congestion,
        ..config()
    };
    let (mut s, id) = Script::established_with(config, &offer(1460, Some(7), true, false));
    s.endpoint
        .write(s.now, id, &vec![1; 60_000])
        .expect("it is open");
    assert_eq!(s.recv_all().len(), 10);
    s.pass(ROUND_TRIP);
    s
}

/// RFC 9937 §6: as many as arrived, and one more for each ACK while nothing speaks against it.
#[test]
fn a_recovery_with_an_empty_pipe_grows_with_each_ack() {
    for congestion in [Algorithm::Cubic, Algorithm::Reno] {
        let mut s = in_flight(congestion);
        s.sack = vec![(1 + 7 * MSS, 1 + 10 * MSS)];
        s.send(1, 1, ACK, b"");
        assert_eq!(s.endpoint.infos(s.now)[0].in_flight, 0, "all else is lost");
        let mut again = vec![s.recv_all().len()];
        s.pass(ROUND_TRIP);
        for segment in 1..3 {
            s.sack = vec![(1 + 7 * MSS, 1 + 10 * MSS)];
            s.send(1, 1 + segment * MSS, ACK, b"");
            again.push(s.recv_all().len());
        }
        assert_eq!(again, [3, 2, 2], "{congestion:?}");
    }
}

/// Nothing paces the initial window, so it is no debt when the first rate is known.
#[test]
fn a_paced_recovery_is_not_held_up_by_the_initial_window() {
    let mut s = in_flight(Algorithm::Bbr);
    s.sack = vec![(1 + 7 * MSS, 1 + 10 * MSS)];
    s.send(1, 1, ACK, b"");
    assert_eq!(s.endpoint.infos(s.now)[0].in_flight, 0, "all else is lost");
    let mut again = s.recv_all().len();
    for _ in 0..19 {
        s.pass(Duration::from_millis(1));
        again += s.recv_all().len();
    }
    assert!(again > 2, "{again} segments in a round trip");
}

#[test]
fn a_run_is_no_longer_than_pacing_lets_out() {
    let mut s = in_flight(Algorithm::Bbr);
    // The path is empty again, and cwnd has grown.
    s.send(1, 1 + 10 * MSS, ACK, b"");
    let info = s.endpoint.infos(s.now).remove(0);
    assert_eq!(info.in_flight, 0);
    assert!(info.cwnd >= 20 * MSS, "{}", info.cwnd);
    let mut run = 0;
    let mut next = |s: &mut Script| {
        s.endpoint.poll_train(s.now, |train| {
            run = train.len() as u32;
            true
        })
    };
    assert_eq!(next(&mut s), Some(true));
    assert_eq!(next(&mut s), None, "the rate is not known to be more");
    assert_eq!(run, 2 * MSS);
}
