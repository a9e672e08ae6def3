//! A peer for tests: it has a valid cookie, sends what the test says, and reads the
//! answers one by one. It keeps no state but its addresses and options.

use super::{Config, ConnId, Disposition, Endpoint, Event, Instant, Keys, TraceEvent};
use std::time::Duration;
use tcp_common::cookie::{self, Key, Negotiated};
use tcp_common::flow::FlowKey;
use tcp_common::wire::options::{self, SynOptions, padded_timestamps};
use tcp_common::wire::{Flags, Sum, Timestamps, checksum, ip, link, tcp};

/// Flags of the segments of a connection's life.
pub(super) const ACK: Flags = Flags::ACK;
pub(super) const PSH: Flags = Flags(0x18);
pub(super) const FIN: Flags = Flags(0x11);
pub(super) const RST: Flags = Flags::RST;
pub(super) const SYN: Flags = Flags::SYN;

pub(super) const KEYS: Keys = Keys {
    keys: [Key { k0: 1, k1: 2 }, Key { k0: 3, k1: 4 }],
    old: [Key { k0: 5, k1: 6 }, Key { k0: 7, k1: 8 }],
    current: 1,
    reserved: 0,
};

/// A segment that the endpoint sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sent {
    /// SEG.SEQ - ISS.
    pub(super) seq: u32,
    /// SEG.ACK - IRS.
    pub(super) ack: u32,
    pub(super) flags: Flags,
    /// The window field.
    pub(super) window: u16,
    pub(super) timestamps: Option<Timestamps>,
    /// Relative to IRS.
    pub(super) sack: Vec<(u32, u32)>,
    pub(super) payload: Vec<u8>,
    pub(super) link: Vec<u8>,
    /// ECN codepoint.
    pub(super) ecn: u8,
}

impl Sent {
    /// Sequence, acknowledgment, flags as tcpdump prints them, octets.
    pub(super) fn brief(&self) -> (u32, u32, String, usize) {
        (
            self.seq,
            self.ack,
            self.flags.to_string(),
            self.payload.len(),
        )
    }
}

/// The endpoint under test and the peer's constants.
pub(super) struct Script {
    pub(super) endpoint: Endpoint,
    pub(super) now: Instant,
    pub(super) flow: FlowKey,
    pub(super) iss: u32,
    pub(super) irs: u32,
    pub(super) tsval: u32,
    pub(super) negotiated: Negotiated,
    /// The peer's clock; `None`: no timestamps.
    pub(super) ts: Option<Timestamps>,
    /// Window field of what the peer sends.
    pub(super) window: u16,
    pub(super) tags: Vec<u8>,
    /// ECN codepoint of what the peer sends.
    pub(super) ecn: u8,
    /// SACK blocks on the next segment, relative to ISS.
    pub(super) sack: Vec<(u32, u32)>,
}

/// What the SYN offered.
pub(super) fn offer(mss: u16, scale: Option<u8>, sack: bool, ts: bool) -> SynOptions {
    SynOptions {
        mss: Some(mss),
        window_scale: scale,
        sack_permitted: sack,
        timestamps: ts.then_some(Timestamps { val: 1000, ecr: 0 }),
        sack: None,
    }
}

impl Script {
    /// A peer that has received its SYN-ACK and not answered it yet.
    pub(super) fn new(config: Config, offered: &SynOptions) -> Self {
        let flow = FlowKey::new(
            "192.168.1.100:12345".parse().expect("literal"),
            "192.168.2.200:80".parse().expect("literal"),
        );
        Self::with_flow(config, offered, flow)
    }

    pub(super) fn with_flow(config: Config, offered: &SynOptions, flow: FlowKey) -> Self {
        let mut script = Self {
            endpoint: Endpoint::new(config, KEYS, 1),
            now: Instant(5_000_000_000),
            flow,
            iss: 0,
            irs: 0,
            tsval: 0,
            negotiated: Negotiated {
                mss: 0,
                window_scale: None,
                sack: false,
                timestamps: false,
                ecn: false,
            },
            ts: None,
            window: 65_000,
            tags: Vec::new(),
            ecn: 0,
            sack: Vec::new(),
        };
        script.syn(0xffff_fff0, offered);
        script
    }

    /// Receives the cookie of another SYN.
    pub(super) fn syn(&mut self, irs: u32, offered: &SynOptions) {
        self.syn_with(irs, offered, false);
    }

    /// The same, with or without ECN.
    pub(super) fn syn_with(&mut self, irs: u32, offered: &SynOptions, ecn: bool) {
        let (made, negotiated) = cookie::make(&KEYS.keys[1], 1, &self.flow, irs, offered, ecn);
        self.iss = made.iss;
        self.irs = irs;
        self.tsval = made.tsval;
        self.negotiated = negotiated;
        self.ts = negotiated.timestamps.then_some(Timestamps {
            val: 1001,
            ecr: made.tsval,
        });
    }

    /// Established, without options: the plainest connection.
    pub(super) fn established(config: Config) -> (Self, ConnId) {
        Self::established_with(config, &offer(1460, None, false, false))
    }

    pub(super) fn established_with(config: Config, offered: &SynOptions) -> (Self, ConnId) {
        let mut script = Self::new(config, offered);
        let id = script.accept();
        (script, id)
    }

    /// Sends the ACK of the SYN-ACK.
    pub(super) fn accept(&mut self) -> ConnId {
        assert_eq!(self.send(1, 1, ACK, b""), Disposition::Accepted);
        self.accepted()
    }

    /// The id in the first event.
    pub(super) fn accepted(&mut self) -> ConnId {
        match self.endpoint.poll_event() {
            Some(Event::Accepted(id)) => id,
            other => panic!("no connection but {other:?}"),
        }
    }

    /// Sends a segment; `seq` counts from IRS, `ack` from ISS.
    pub(super) fn send(&mut self, seq: u32, ack: u32, flags: Flags, data: &[u8]) -> Disposition {
        let frame = self.frame(seq, ack, flags, data);
        self.endpoint.handle_frame(self.now, &frame)
    }

    /// A segment as a frame.
    pub(super) fn frame(&mut self, seq: u32, ack: u32, flags: Flags, data: &[u8]) -> Vec<u8> {
        let mut options = Vec::new();
        if let Some(ts) = self.ts {
            options.extend([1, 1, 8, 10]);
            options.extend(ts.val.to_be_bytes());
            options.extend(ts.ecr.to_be_bytes());
        }
        self.frame_with(options, seq, ack, flags, data)
    }

    /// The SYN as a frame.
    pub(super) fn syn_frame(&mut self, offered: &SynOptions) -> Vec<u8> {
        let laid = options::syn_ack(
            offered.mss.expect("an MSS"),
            offered.window_scale,
            offered.sack_permitted,
            offered.timestamps,
        );
        let words = &laid.word[..laid.words];
        let octets = words.iter().flat_map(|word| word.to_be_bytes()).collect();
        self.frame_with(octets, 0, 0, SYN, b"")
    }

    fn frame_with(
        &mut self,
        mut options: Vec<u8>,
        seq: u32,
        ack: u32,
        flags: Flags,
        data: &[u8],
    ) -> Vec<u8> {
        if !self.sack.is_empty() {
            options.extend([1, 1, 5, 2 + 8 * self.sack.len() as u8]);
            for (l, r) in self.sack.drain(..) {
                options.extend(self.iss.wrapping_add(l).to_be_bytes());
                options.extend(self.iss.wrapping_add(r).to_be_bytes());
            }
        }
        let header_len = 20 + options.len();
        let mut segment = Vec::new();
        segment.extend(self.flow.remote_port_be.to_ne_bytes());
        segment.extend(self.flow.local_port_be.to_ne_bytes());
        segment.extend(self.irs.wrapping_add(seq).to_be_bytes());
        let ack = if flags.has(ACK) {
            self.iss.wrapping_add(ack)
        } else {
            0
        };
        segment.extend(ack.to_be_bytes());
        segment.extend([(header_len as u8 / 4) << 4, flags.0]);
        segment.extend(self.window.to_be_bytes());
        segment.extend([0; 4]);
        segment.extend(options);
        segment.extend(data);
        let sum = checksum::pseudo_header(&self.flow, segment.len() as u16)
            .add_sum(Sum::new().add_slice(&segment))
            .finish();
        segment[16..18].copy_from_slice(&sum.to_ne_bytes());

        let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
        frame.extend(&self.tags);
        if self.flow.is_v4() {
            frame.extend([8, 0]);
            let mut header = vec![0x45, self.ecn];
            header.extend((20 + segment.len() as u16).to_be_bytes());
            header.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
            header.extend(&self.flow.remote.octets()[12..]);
            header.extend(&self.flow.local.octets()[12..]);
            let sum = Sum::new().add_slice(&header).finish();
            header[10..12].copy_from_slice(&sum.to_ne_bytes());
            frame.extend(header);
        } else {
            frame.extend([0x86, 0xdd, 0x60, self.ecn << 4, 0, 0]);
            frame.extend((segment.len() as u16).to_be_bytes());
            frame.extend([6, 64]);
            frame.extend(self.flow.remote.octets());
            frame.extend(self.flow.local.octets());
        }
        frame.extend(segment);
        frame
    }

    /// The next segment that the endpoint sends, checked and taken apart.
    pub(super) fn recv(&mut self) -> Option<Sent> {
        let mut buf = [0; 2048];
        let len = self.endpoint.poll_transmit(self.now, &mut buf)?;
        let frame = &buf[..len];
        let l = link::parse(frame).expect("link header");
        let p = ip::parse(frame, l).expect("IP header");
        assert!(p.checksum_ok && !p.fragment);
        assert_eq!(len, p.l4 + p.l4_len);
        assert_eq!((p.src, p.dst), (self.flow.local, self.flow.remote));
        let h = tcp::parse(frame, p.l4).expect("TCP header");
        assert_eq!(h.src_port_be, self.flow.local_port_be);
        assert_eq!(h.dst_port_be, self.flow.remote_port_be);
        let sum = checksum::pseudo_header(&self.flow, p.l4_len as u16)
            .add_sum(Sum::new().add_slice(&frame[p.l4..]));
        assert!(sum.is_valid(), "TCP checksum");
        let o = tcp_common::wire::options::parse(frame, p.l4 + 20, p.l4 + h.header_len)
            .expect("options");
        let padded = padded_timestamps(frame, p.l4 + 20);
        assert!(h.flags.has(SYN) || o.timestamps == padded);
        let word = |at: usize| {
            let octets = frame[at..at + 4].try_into().expect("four octets");
            u32::from_be_bytes(octets)
        };
        let sack = o.sack.map_or(Vec::new(), |s| {
            (0..s.count)
                .map(|i| {
                    let at = s.offset + 8 * i;
                    (
                        word(at).wrapping_sub(self.irs),
                        word(at + 4).wrapping_sub(self.irs),
                    )
                })
                .collect()
        });
        Some(Sent {
            seq: h.seq.wrapping_sub(self.iss),
            ack: h.ack.wrapping_sub(self.irs),
            flags: h.flags,
            window: h.window,
            timestamps: o.timestamps,
            sack,
            payload: frame[p.l4 + h.header_len..].to_vec(),
            link: frame[..l.len].to_vec(),
            ecn: p.ecn,
        })
    }

    /// Everything that the endpoint has to send now, in brief.
    pub(super) fn recv_all(&mut self) -> Vec<(u32, u32, String, usize)> {
        std::iter::from_fn(|| self.recv())
            .map(|s| s.brief())
            .collect()
    }

    /// Asserts that there is exactly one segment to send, and what it is.
    #[track_caller]
    pub(super) fn expect(&mut self, seq: u32, ack: u32, flags: &str, len: usize) {
        let sent = self.recv_all();
        assert_eq!(sent, [(seq, ack, flags.to_string(), len)]);
    }

    /// Asserts that there is nothing to send.
    #[track_caller]
    pub(super) fn expect_nothing(&mut self) {
        assert_eq!(self.recv_all(), []);
    }

    /// Lets time pass, with every timer on the way.
    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.endpoint.poll_deadline().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.endpoint.handle_timeout(self.now);
        }
        self.now = end;
        self.endpoint.handle_timeout(self.now);
    }

    pub(super) fn millis(&mut self, ms: u64) {
        self.pass(Duration::from_millis(ms));
    }

    pub(super) fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.endpoint.poll_event()).collect()
    }

    /// All that can be read now.
    pub(super) fn read(&mut self, id: ConnId) -> Vec<u8> {
        let mut out = Vec::new();
        let mut buf = [0; 4096];
        while let Ok(n @ 1..) = self.endpoint.read(id, &mut buf) {
            out.extend_from_slice(&buf[..n]);
        }
        out
    }

    pub(super) fn trace(&mut self) -> Vec<TraceEvent> {
        std::iter::from_fn(|| self.endpoint.poll_trace()).collect()
    }
}
