//! What every segment of the endpoint is held to.

use super::client::{Client, octet, unwrap};
use super::wire::{ACK, FIN, Parsed, Path, RST, SYN, Segment};
use crate::proto::ConnInfo;

/// What the endpoint has room for.
#[derive(Debug)]
pub(super) struct Limits {
    /// Octets of the largest packet.
    pub(super) mtu: usize,
    /// Octets of the receive buffer.
    pub(super) buffer: usize,
    /// Octets that the application has read.
    pub(super) read: u64,
}

/// What one connection has said and heard so far, in the client's offsets.
#[derive(Debug, Default)]
pub(super) struct Monitor {
    /// Right edge of the window in the segments that reached the endpoint.
    offered: u64,
    /// Highest acknowledgment that reached the endpoint.
    acked: u64,
    /// Highest offset the endpoint has sent, exclusive.
    sent: u64,
    /// The endpoint's own acknowledgment and right edge.
    ack: u64,
    edge: u64,
    tsval: Option<u32>,
    /// Segments of the endpoint, and how many of them repeated octets.
    pub(super) segments: u64,
    pub(super) repeats: u64,
    pub(super) resets: u64,
}

impl Monitor {
    /// A segment of the client reaches the endpoint.
    pub(super) fn heard(&mut self, client: &Client, seg: &Segment) {
        if !seg.has(ACK) || seg.has(SYN) || seg.has(RST) {
            return;
        }
        let ack = unwrap(seg.ack, client.irs, client.rcv_nxt);
        if ack < 0 || ack as u64 > client.rcv_nxt {
            return;
        }
        let shift = client.config.window_scale.unwrap_or(0);
        self.acked = self.acked.max(ack as u64);
        self.offered = self
            .offered
            .max(ack as u64 + (u64::from(seg.window) << shift));
    }

    /// The endpoint sends a segment on a connection. `sends` is its stream, `info` what
    /// the endpoint says of it.
    pub(super) fn sent(
        &mut self,
        path: &Path,
        client: &Client,
        parsed: &Parsed,
        sends: u64,
        info: Option<&ConnInfo>,
        limits: &Limits,
    ) {
        let seg = &parsed.segment;
        assert_eq!(parsed.src, path.server, "source of {seg:?}");
        assert_eq!(parsed.to_mac, path.client_mac, "link address of {seg:?}");
        assert_eq!(parsed.from_mac, path.server_mac, "link address of {seg:?}");
        assert_eq!(parsed.vlan, path.vlan, "VLAN tag of {seg:?}");
        if seg.has(SYN) {
            // RFC 6191: the endpoint answers for XDP what hit a TIME-WAIT.
            assert!(!client.is_established(), "SYN: {seg:?}");
            return;
        }
        if seg.has(RST) {
            self.resets += 1;
            return;
        }
        assert!(seg.has(ACK), "no ACK: {seg:?}");
        if !client.is_established() {
            return;
        }
        self.segments += 1;
        check_sizes(path, client, seg, limits.mtu);
        self.check_send_window(client, seg, sends, info);
        self.check_receive_window(client, seg, limits);
        self.check_options(client, seg);
    }

    fn check_send_window(
        &mut self,
        client: &Client,
        seg: &Segment,
        sends: u64,
        info: Option<&ConnInfo>,
    ) {
        let start = unwrap(seg.seq, client.irs, self.sent.max(1));
        assert!(start >= 1, "before the first octet: {seg:?}");
        let start = start as u64;
        assert!(
            start <= self.sent.max(1),
            "a gap after {}: {seg:?}",
            self.sent
        );
        let end = start + u64::from(seg.len());
        for (i, got) in seg.data.iter().enumerate() {
            let at = start - 1 + i as u64;
            assert_eq!(*got, octet(sends, at), "octet {at} sent is wrong: {seg:?}");
        }
        let probe = seg.len() == 1 && start >= self.offered;
        assert!(
            seg.len() == 0 || end <= self.offered || probe,
            "{start}..{end} passes the window's edge {}: {seg:?}",
            self.offered
        );
        if seg.len() > 0 && start < self.sent {
            self.repeats += 1;
        }
        if end > self.sent {
            let outstanding = end - self.acked;
            // With SACK, what the endpoint takes for lost or received is not in the network.
            let flight = info.map_or(outstanding, |i| outstanding.min(i.in_flight.into()));
            if let Some(info) = info {
                // The FIN takes no room in the network; the first two duplicate ACKs
                // allow a segment each (RFC 3042).
                let extra = 2 * u64::from(info.mss) + u64::from(seg.has(FIN));
                assert!(
                    probe || flight <= u64::from(info.cwnd) + extra,
                    "{flight} octets in flight: {seg:?}, {info:?}"
                );
            }
            self.sent = end;
        }
    }

    fn check_receive_window(&mut self, client: &Client, seg: &Segment, limits: &Limits) {
        let ack = unwrap(seg.ack, client.iss, self.ack.max(1));
        assert!(
            ack >= self.ack as i64 && ack as u64 <= client.max_sent,
            "acknowledges {ack} after {} of {}: {seg:?}",
            self.ack,
            client.max_sent
        );
        self.ack = ack as u64;
        // Scaling may cut less than one unit off (RFC 7323 §2.4).
        let scaled = client.config.window_scale.is_some();
        let shift = if scaled { 7 } else { 0 };
        let edge = self.ack + (u64::from(seg.window) << shift);
        assert!(
            edge + (1 << shift) > self.edge,
            "the window shrinks from {} to {edge}: {seg:?}",
            self.edge
        );
        self.edge = self.edge.max(edge);
        // Offset 1 is the first octet, the FIN takes one and no room, and rounding up may
        // take one unit more.
        let most = 2 + limits.read + limits.buffer as u64 + (1 << shift);
        assert!(
            edge <= most,
            "the window reaches {edge}, but the buffer {most}: {seg:?}"
        );
    }

    fn check_options(&mut self, client: &Client, seg: &Segment) {
        let o = &seg.options;
        assert!(
            o.mss.is_none() && o.window_scale.is_none() && !o.sack_permitted,
            "options of a SYN: {seg:?}"
        );
        assert_eq!(
            o.timestamps.is_some(),
            client.config.timestamps,
            "timestamps: {seg:?}"
        );
        if let Some((val, _)) = o.timestamps {
            if let Some(last) = self.tsval {
                assert!(
                    val.wrapping_sub(last) as i32 >= 0,
                    "TSval goes back: {seg:?}"
                );
            }
            self.tsval = Some(val);
        }
        assert!(
            client.config.sack || o.sack.is_empty(),
            "SACK was not agreed: {seg:?}"
        );
        for (left, right) in &o.sack {
            let left = unwrap(*left, client.iss, self.ack);
            let right = unwrap(*right, client.iss, self.ack);
            assert!(
                left < right && right <= client.max_sent as i64,
                "a SACK block of nothing: {seg:?}"
            );
        }
    }
}

fn check_sizes(path: &Path, client: &Client, seg: &Segment, mtu: usize) {
    let tcp = 20 + seg.options_len + seg.data.len();
    let mss = usize::from(client.config.mss);
    assert!(
        tcp <= 20 + mss && path.ip_len() + tcp <= mtu,
        "{tcp} octets pass an MSS of {mss} or an MTU of {mtu}: {seg:?}"
    );
}
