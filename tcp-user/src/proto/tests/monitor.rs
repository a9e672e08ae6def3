//! What every segment of the endpoint is held to.

use super::client::{Client, octet, unwrap};
use super::network::{CWR, ECE, ECT};
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
    /// Nothing came and nothing was written just now: a timer fired.
    pub(super) timer: bool,
    /// The endpoint is done with the connection.
    pub(super) ended: bool,
}

/// What one connection has said and heard so far, in the client's offsets.
#[derive(Debug, Default)]
pub(super) struct Monitor {
    /// SYN-ACKs to a client that had got one.
    pub(super) syn_acks_repeated: u32,
    /// Right edge of the window in the segments that reached the endpoint.
    offered: u64,
    /// Highest acknowledgment that reached the endpoint.
    acked: u64,
    /// What SACK blocks reported beyond it, in order.
    sacked: Vec<(u64, u64)>,
    /// Without SACK: octets that ACKs which did not advance stand for, less those that one did
    /// since.
    duplicates: u64,
    /// End of the last tail loss probe of new octets.
    probed: u64,
    /// The octet that last probed a shut window.
    window_probe: u64,
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
    /// Segments of the endpoint with ECE and with CWR.
    pub(super) echoes: u64,
    pub(super) reductions: u64,
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
        let mss = u64::from(client.config.mss);
        if ack as u64 > self.acked {
            let advance = ack as u64 - self.acked;
            self.acked = ack as u64;
            self.duplicates = self.duplicates.saturating_sub(advance.saturating_sub(mss));
        } else if seg.len() == 0 && !client.config.sack {
            self.duplicates += mss;
        }
        for (left, right) in &seg.options.sack {
            let left = unwrap(*left, client.irs, client.rcv_nxt);
            let right = unwrap(*right, client.irs, client.rcv_nxt);
            self.sacked.push((left.max(0) as u64, right.max(0) as u64));
        }
        self.join_sacked();
        self.offered = self
            .offered
            .max(ack as u64 + (u64::from(seg.window) << shift));
    }

    /// Ranges in order that lie beyond the acknowledgment and do not touch.
    fn join_sacked(&mut self) {
        let mut ranges = std::mem::take(&mut self.sacked);
        ranges.sort_unstable();
        for (left, right) in ranges {
            let (left, right) = (left.max(self.acked), right.min(self.sent));
            match self.sacked.last_mut() {
                Some((_, end)) if *end >= left => *end = right.max(*end),
                _ if left < right => self.sacked.push((left, right)),
                _ => {}
            }
        }
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
            // RFC 6191: the endpoint answers for XDP what hit a TIME-WAIT. And where it keeps
            // handshakes it answers all, and again until the last ACK comes.
            if limits.ended {
                // A late copy of the SYN: to the endpoint it is a new one.
                assert_eq!(seg.seq, client.irs, "SYN: {seg:?}");
            } else if client.is_established() {
                assert_eq!((seg.seq, self.sent), (client.irs, 0), "SYN: {seg:?}");
                self.syn_acks_repeated += 1;
            }
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
        self.check_send_window(client, seg, sends, info, limits);
        self.check_receive_window(client, seg, limits);
        self.check_options(client, seg);
    }

    fn check_send_window(
        &mut self,
        client: &Client,
        seg: &Segment,
        sends: u64,
        info: Option<&ConnInfo>,
        limits: &Limits,
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
        self.echoes += u64::from(seg.has(ECE));
        self.reductions += u64::from(seg.has(CWR));
        assert!(
            client.ecn.agreed || (seg.ecn == 0 && !seg.has(ECE) && !seg.has(CWR)),
            "ECN was not agreed: {seg:?}"
        );
        // RFC 3168 §6.1.4 to §6.1.6. What probed a shut window was not taken, and is new in the
        // window that opens.
        let is_new = start >= self.sent.max(1) || start == self.window_probe;
        let new_text = !seg.data.is_empty() && !probe && is_new;
        assert!(
            if seg.ecn == 0 {
                !seg.has(CWR)
            } else {
                new_text && seg.ecn == ECT
            },
            "not new text, but ECN field {}: {seg:?}",
            seg.ecn
        );
        assert!(
            seg.len() == 0 || end <= self.offered || probe,
            "{start}..{end} passes the window's edge {}: {seg:?}",
            self.offered
        );
        if seg.len() > 0 && start < self.sent {
            self.repeats += 1;
        }
        // The window may have shrunk by less than its unit: the edge is not exact.
        if seg.len() == 1 {
            self.window_probe = start;
        }
        if end > self.sent {
            if let Some(info) = info.filter(|_| !probe) {
                self.check_flight(seg, end, info, limits);
            }
            self.sent = end;
        }
    }

    /// New text, up to `end`, fits into cwnd with what is in flight already, by the endpoint's
    /// reckoning and by what it has heard. So do the segments of limited transmit and of
    /// recovery: there is room because of what was delivered. Only a tail loss probe does
    /// not ask (RFC 8985 §7.3): one segment, which a timer sends, and no other before it
    /// is acknowledged.
    fn check_flight(&mut self, seg: &Segment, end: u64, info: &ConnInfo, limits: &Limits) {
        let sacked: u64 = self.sacked.iter().map(|(left, right)| right - left).sum();
        let flight = (end - self.acked).saturating_sub(sacked + self.duplicates);
        // The FIN takes no room in the network.
        let allowed = u64::from(info.cwnd) + u64::from(seg.has(FIN));
        if flight <= allowed && u64::from(info.in_flight) <= allowed {
            return;
        }
        assert!(
            limits.timer && self.probed <= self.acked && info.options.sack,
            "{flight} octets in flight: {seg:?}, {info:?}"
        );
        self.probed = end;
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
