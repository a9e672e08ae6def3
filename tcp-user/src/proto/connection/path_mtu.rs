//! Path MTU: segments get smaller when a router says so, or when full ones vanish.
//!
//! What is lowered is SND.MSS; what is in flight is taken for lost and cut anew. That is no
//! sign of congestion: cwnd stays (RFC 1191 §6.5).

use super::{Connection, seconds};
use crate::proto::Instant;
use crate::proto::congestion::Congestion;
use crate::proto::frame::TIMESTAMPS_LEN;
use tcp_common::seq::SeqNum;
use tcp_common::wire::{ip, tcp};

/// Packets are not made smaller than this: IPv4's smallest reassembly buffer (RFC 791 §3.2,
/// against what RFC 5927 §7.3 warns of), IPv6's smallest MTU (RFC 8201 §4).
const FLOOR_V4: u32 = 576;
const FLOOR_V6: u32 = 1280;
/// Sizes tried where nobody names one: of RFC 1191's table 7-1 the most common, with the
/// MTU of IPv6 that tunnels guarantee.
const PLATEAUS: [u32; 4] = [1492, 1280, 1006, 576];
/// Timeouts in a row after which full segments are suspected to vanish: R1 of RFC 9293
/// §3.8.3.
const R1: u8 = 3;
/// Minutes until a larger size is tried again (RFC 1191 §6.3, RFC 8201 §4).
const RAISE_AFTER: u16 = 10;

impl Connection {
    /// Octets of IP and TCP header and of what is on every segment.
    fn headers(&self) -> u32 {
        let ip = if self.flow.is_v4() {
            ip::V4_LEN
        } else {
            ip::V6_LEN
        };
        let stamps = self.stamps.map_or(0, |_| TIMESTAMPS_LEN);
        (ip + tcp::HEADER_LEN + stamps) as u32
    }

    /// A router says that a packet of `length` octets with text at `seq` was larger than
    /// the `mtu` of the next link (RFC 1191, RFC 8201).
    pub(in crate::proto) fn packet_too_big(
        &mut self,
        now: Instant,
        seq: SeqNum,
        mtu: u32,
        length: u32,
    ) {
        // RFC 5927 §4.1: it quotes what is in flight, or it is somebody's guess.
        if seq.before(self.snd.una) || !seq.before(self.snd.nxt) {
            return;
        }
        let mtu = if mtu == 0 {
            // RFC 1191 §5: a router that does not know better.
            next_below(length)
        } else {
            mtu
        };
        // What was not too big has not been sent by us as it is quoted.
        if mtu < length {
            self.lower_mss(now, mtu);
        }
    }

    /// The retransmission timer expired again: after some times smaller segments may get
    /// through where these do not and no ICMP comes (RFC 4821 §7.7, RFC 2923 §2.1).
    pub(super) fn suspect_black_hole(&mut self, now: Instant) {
        let out = self.snd.nxt.distance_from(self.snd.una);
        // Where the window is small no segment has the full size.
        let length = out.min(u32::from(self.snd.mss)) + self.headers();
        if self.retries >= R1 && length > self.floor() {
            self.lower_mss(now, next_below(length.min(PLATEAUS[0])));
        }
    }

    const fn floor(&self) -> u32 {
        if self.flow.is_v4() {
            FLOOR_V4
        } else {
            FLOOR_V6
        }
    }

    fn lower_mss(&mut self, now: Instant, mtu: u32) {
        let mss = mtu.max(self.floor()).saturating_sub(self.headers());
        if mss >= u32::from(self.snd.mss) {
            return;
        }
        self.snd.mss = mss as u16;
        self.lowered_at = minutes(now);
        self.congestion.set_mss(mss);
        self.resegment();
    }

    /// After a while the path may have changed (RFC 1191 §6.3).
    pub(super) fn raise_mss(&mut self, now: Instant) {
        if self.snd.mss < self.full_mss
            && !self.is_outstanding()
            && minutes(now).wrapping_sub(self.lowered_at) >= RAISE_AFTER
        {
            self.snd.mss = self.full_mss;
            self.congestion.set_mss(u32::from(self.snd.mss));
        }
    }
}

fn minutes(now: Instant) -> u16 {
    (seconds(now) / 60) as u16
}

fn next_below(length: u32) -> u32 {
    PLATEAUS
        .into_iter()
        .find(|plateau| *plateau < length)
        .unwrap_or(0)
}
