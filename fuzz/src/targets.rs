//! The bodies of the fuzz targets, as plain functions that panic on what must not be.
//!
//! - [`frame`]: octets as frames, beside a live connection
//! - [`options`]: the option parser against one written for clarity
//! - [`connection`]: segments, time and application verbs in any order
//!
//! Both ends' streams are functions of the position, so every octet that arrives anywhere can
//! be checked without keeping any.

use crate::proto::{Config, ConnId, Disposition, Endpoint, Event, Instant, Keys};
use std::collections::BTreeMap;
use std::time::Duration;
use tcp_common::cookie::{self, Key, Negotiated};
use tcp_common::flow::FlowKey;
use tcp_common::wire::options::{self, BadOption, Options, SackBlocks, SynOptions};
use tcp_common::wire::{Flags, Sum, Timestamps, checksum, ip, link, tcp};

const KEYS: Keys = Keys {
    keys: [Key { k0: 1, k1: 2 }, Key { k0: 3, k1: 4 }],
    old: [Key { k0: 5, k1: 6 }, Key { k0: 7, k1: 8 }],
    current: 1,
    reserved: 0,
};
const IRS: u32 = 0xffff_fff0;
/// Segments that an endpoint with such small buffers may send at one instant.
const MAX_BURST: usize = 1500;
/// Timers that may fire in one stretch of time, of an hour and a half at most.
const MAX_TIMERS: usize = 4000;
const MAX_OPS: usize = 400;
const MTU: usize = 1500;

fn flow(v6: bool) -> FlowKey {
    let (remote, local) = if v6 {
        ("[2001:db8::1]:12345", "[2001:db8::2]:80")
    } else {
        ("192.168.1.100:12345", "192.168.2.200:80")
    };
    FlowKey::new(
        remote.parse().expect("literal"),
        local.parse().expect("literal"),
    )
}

/// The octet at a position of the stream of either end.
fn octet_at(position: u32, own: bool) -> u8 {
    position.wrapping_mul(7).wrapping_add(position / 256) as u8 ^ if own { 0x5a } else { 0 }
}

/// What a segment of the peer says.
#[derive(Clone, Copy)]
struct Head {
    seq: u32,
    ack: u32,
    flags: u8,
    window: u16,
    urgent: u16,
}

fn build(flow: &FlowKey, head: Head, options: &[u8], data: &[u8]) -> Vec<u8> {
    let header_len = tcp::HEADER_LEN + options.len().next_multiple_of(4);
    let mut segment = Vec::with_capacity(header_len + data.len());
    segment.extend(flow.remote_port_be.to_ne_bytes());
    segment.extend(flow.local_port_be.to_ne_bytes());
    segment.extend(head.seq.to_be_bytes());
    segment.extend(head.ack.to_be_bytes());
    segment.extend([(header_len as u8 / 4) << 4, head.flags]);
    segment.extend(head.window.to_be_bytes());
    segment.extend([0; 2]);
    segment.extend(head.urgent.to_be_bytes());
    segment.extend(options);
    segment.resize(header_len, 0);
    segment.extend(data);
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    if flow.is_v4() {
        frame.extend([8, 0, 0x45, 0]);
        frame.extend((20 + segment.len() as u16).to_be_bytes());
        frame.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
        frame.extend(&flow.remote.octets()[12..]);
        frame.extend(&flow.local.octets()[12..]);
    } else {
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        frame.extend((segment.len() as u16).to_be_bytes());
        frame.extend([6, 64]);
        frame.extend(flow.remote.octets());
        frame.extend(flow.local.octets());
    }
    frame.extend(segment);
    repair(&mut frame);
    frame
}

/// Makes both checksums right, where there are headers to hold them.
fn repair(frame: &mut [u8]) {
    let Some(l) = link::parse(&*frame) else {
        return;
    };
    if l.ether_type == link::IPV4
        && let Some(&first) = frame.get(l.len)
    {
        let end = l.len + usize::from(first & 0xf) * 4;
        if end >= l.len + ip::V4_LEN && end <= frame.len() {
            frame[l.len + 10..l.len + 12].fill(0);
            let sum = Sum::new().add_slice(&frame[l.len..end]).finish();
            frame[l.len + 10..l.len + 12].copy_from_slice(&sum.to_ne_bytes());
        }
    }
    let Ok(p) = ip::parse(&*frame, l) else {
        return;
    };
    let Some(segment) = frame.get_mut(p.l4..p.l4 + p.l4_len) else {
        return;
    };
    if segment.len() < tcp::HEADER_LEN {
        return;
    }
    segment[tcp::CHECKSUM_OFFSET..][..2].fill(0);
    let flow = FlowKey {
        remote: p.src,
        local: p.dst,
        remote_port_be: 0,
        local_port_be: 0,
    };
    // The ports count as part of the segment; the pseudo-header has none.
    let sum = checksum::pseudo_header(&flow, p.l4_len as u16)
        .add_sum(Sum::new().add_slice(segment))
        .finish();
    segment[tcp::CHECKSUM_OFFSET..][..2].copy_from_slice(&sum.to_ne_bytes());
}

/// A frame that the endpoint sent, taken apart; panics if it is not well-formed.
struct Received<'a> {
    flow: FlowKey,
    seq: u32,
    ack: u32,
    flags: Flags,
    timestamps: Option<Timestamps>,
    payload: &'a [u8],
}

fn take_apart(frame: &[u8]) -> Received<'_> {
    let l = link::parse(frame).expect("link header");
    assert!(frame.len() <= l.len + MTU, "larger than the MTU");
    let p = ip::parse(frame, l).expect("IP header");
    assert!(p.checksum_ok && !p.fragment, "IP header");
    assert_eq!(frame.len(), p.l4 + p.l4_len, "length");
    let h = tcp::parse(frame, p.l4).expect("TCP header");
    let flow = FlowKey {
        remote: p.dst,
        local: p.src,
        remote_port_be: h.dst_port_be,
        local_port_be: h.src_port_be,
    };
    let sum = checksum::pseudo_header(&flow, p.l4_len as u16)
        .add_sum(Sum::new().add_slice(&frame[p.l4..]));
    assert!(sum.is_valid(), "TCP checksum");
    let o = options::parse(frame, p.l4 + tcp::HEADER_LEN, p.l4 + h.header_len).expect("options");
    assert!(h.flags.has(Flags::SYN) || o.mss.is_none(), "MUST-65");
    Received {
        flow,
        seq: h.seq,
        ack: h.ack,
        flags: h.flags,
        timestamps: o.timestamps,
        payload: &frame[p.l4 + h.header_len..],
    }
}

/// The octets that decide what happens.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn octet(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn word(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes([self.octet()?, self.octet()?]))
    }

    fn take(&mut self, len: usize) -> &'a [u8] {
        let (head, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        head
    }
}

/// A connection's stream as far as the application has read and written it.
#[derive(Default)]
struct Stream {
    read: u32,
    written: u32,
}

/// An endpoint, a peer of one connection, and what is known of both.
struct Run {
    endpoint: Endpoint,
    config: Config,
    now: Instant,
    flow: FlowKey,
    iss: u32,
    negotiated: Negotiated,
    ts: Option<Timestamps>,
    /// Next sequence number of the peer, from IRS.
    nxt: u32,
    /// What the endpoint acknowledged, from IRS.
    acked: u32,
    /// End of what the endpoint sent, from ISS.
    max: u32,
    /// The furthest right edge that the peer ever announced, from ISS.
    edge: u32,
    window: u16,
    id: Option<ConnId>,
    streams: BTreeMap<ConnId, Stream>,
    frames: u64,
    last: Vec<u8>,
}

impl Run {
    /// The peer has its SYN-ACK.
    fn new(config: Config, v6: bool, offered: &SynOptions) -> Self {
        let flow = flow(v6);
        let (made, negotiated) = cookie::make(&KEYS.keys[1], 1, &flow, IRS, offered, false);
        Self {
            endpoint: Endpoint::new(config.clone(), KEYS, 1),
            config,
            now: Instant(5_000_000_000),
            flow,
            iss: made.iss,
            negotiated,
            ts: negotiated.timestamps.then_some(Timestamps {
                val: 1001,
                ecr: made.tsval,
            }),
            nxt: 1,
            acked: 1,
            max: 1,
            edge: 0,
            window: 60_000,
            id: None,
            streams: BTreeMap::new(),
            frames: 0,
            last: Vec::new(),
        }
    }

    fn hand(&mut self, frame: Vec<u8>) -> Disposition {
        self.frames += 1;
        let d = self.endpoint.handle_frame(self.now, &frame);
        self.last = frame;
        self.events();
        d
    }

    /// The peer's octets from `seq` on.
    fn text(seq: u32, len: usize) -> Vec<u8> {
        (0..len as u32)
            .map(|i| octet_at(seq.wrapping_add(i), false))
            .collect()
    }

    fn segment(&mut self, head: Head, options: &[u8], len: usize) -> Disposition {
        if head.flags & Flags::ACK.0 != 0 && head.ack <= self.max {
            let shift = self.negotiated.window_scale.unwrap_or(0);
            self.edge = self
                .edge
                .max(head.ack + (u32::from(head.window) << shift.min(14)));
        }
        let data = Self::text(head.seq, len);
        let head = Head {
            seq: IRS.wrapping_add(head.seq),
            ack: self.iss.wrapping_add(head.ack),
            ..head
        };
        let frame = build(&self.flow, head, options, &data);
        self.hand(frame)
    }

    /// A segment as a well-behaved peer sends it.
    fn say(&mut self, seq: u32, ack: u32, flags: u8, len: usize) -> Disposition {
        let mut options = Vec::new();
        if let Some(ts) = self.ts {
            options.extend([1, 1, 8, 10]);
            options.extend((ts.val.wrapping_add(self.now.millis())).to_be_bytes());
            options.extend(ts.ecr.to_be_bytes());
        }
        let head = Head {
            seq,
            ack,
            flags,
            window: self.window,
            urgent: 0,
        };
        self.segment(head, &options, len)
    }

    fn events(&mut self) {
        let mut count = 0;
        while let Some(event) = self.endpoint.poll_event() {
            count += 1;
            assert!(count < 64, "too many events");
            match event {
                Event::Accepted(id) => {
                    assert!(self.streams.insert(id, Stream::default()).is_none());
                    self.id = Some(id);
                    self.max = 1;
                }
                Event::Readable(id) | Event::Writable(id) => {
                    assert!(self.streams.contains_key(&id), "an event after the end");
                }
                Event::Closed(id, _) => {
                    assert!(self.streams.remove(&id).is_some(), "closed twice");
                    assert!(self.endpoint.write(self.now, id, b"x").is_err());
                    assert!(self.endpoint.read(id, &mut [0]).is_err());
                }
                Event::FlowBegan(_) | Event::FlowEnded(_) => {}
            }
        }
        let most = self
            .config
            .recv_buffer
            .max(self.config.initial_window.into())
            + (1 << self.config.window_scale);
        for info in self.endpoint.infos(self.now) {
            assert!(info.recv_queue <= most, "{} unread", info.recv_queue);
            assert!(info.send_queue <= self.config.send_buffer);
        }
    }

    /// Takes all that the endpoint has to send now.
    fn drain(&mut self) {
        let mut buf = [0; 2048];
        let mut count = 0;
        while let Some(len) = self.endpoint.poll_transmit(self.now, &mut buf) {
            count += 1;
            assert!(count < MAX_BURST, "a burst without end");
            let r = take_apart(&buf[..len]);
            if r.flow != self.flow || r.flags.has(Flags::SYN) || r.flags.has(Flags::RST) {
                continue;
            }
            let seq = r.seq.wrapping_sub(self.iss);
            if !r.payload.is_empty() {
                for (i, octet) in r.payload.iter().enumerate() {
                    let position = seq.wrapping_add(i as u32);
                    assert_eq!(*octet, octet_at(position, true), "octet {position} sent");
                }
                let end = seq + r.payload.len() as u32;
                // One octet more is a zero-window probe.
                assert!(
                    end <= self.edge + 1,
                    "{end} beyond the window's {}",
                    self.edge
                );
                self.max = self.max.max(end);
            }
            if r.flags.has(Flags::FIN) {
                let end = seq.wrapping_add(r.payload.len() as u32).wrapping_add(1);
                self.max = self.max.max(end);
            }
            self.acked = r.ack.wrapping_sub(IRS);
            if let (Some(ts), Some(theirs)) = (&mut self.ts, r.timestamps) {
                ts.ecr = theirs.val;
            }
        }
        self.events();
    }

    /// Lets time pass.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        let mut count = 0;
        while let Some(at) = self.endpoint.poll_deadline().filter(|at| *at <= end) {
            count += 1;
            assert!(count < MAX_TIMERS, "a timer storm");
            self.now = self.now.max(at);
            self.endpoint.handle_timeout(self.now);
            self.events();
            self.drain();
        }
        self.now = end;
        self.endpoint.handle_timeout(self.now);
        self.events();
    }

    fn write(&mut self, len: usize) {
        let Some((id, stream)) = self
            .id
            .and_then(|id| Some((id, self.streams.get_mut(&id)?)))
        else {
            return;
        };
        let data: Vec<u8> = (0..len as u32)
            .map(|i| octet_at(1 + stream.written + i, true))
            .collect();
        if let Ok(n) = self.endpoint.write(self.now, id, &data) {
            assert!(n <= len);
            stream.written += n as u32;
        }
    }

    fn read(&mut self, len: usize, copy: bool) {
        let Some((id, stream)) = self
            .id
            .and_then(|id| Some((id, self.streams.get_mut(&id)?)))
        else {
            return;
        };
        let octets = if copy {
            let mut buf = vec![0; len];
            let Ok(n) = self.endpoint.read(id, &mut buf) else {
                return;
            };
            buf.truncate(n);
            buf
        } else {
            let Ok(slices) = self.endpoint.peek(id) else {
                return;
            };
            let mut all = slices.concat();
            all.truncate(len);
            self.endpoint.consume(id, all.len()).expect("peeked");
            all
        };
        for octet in octets {
            stream.read += 1;
            assert_eq!(octet, octet_at(stream.read, false), "octet {}", stream.read);
        }
    }

    /// Ends everything; nothing may be left.
    fn finish(&mut self) {
        self.drain();
        let ids: Vec<_> = self.streams.keys().copied().collect();
        for id in ids {
            self.endpoint.abort(self.now, id);
        }
        self.drain();
        self.pass(Duration::from_mins(10));
        self.drain();
        assert!(self.endpoint.is_empty(), "connections are left");
        assert!(self.streams.is_empty(), "Closed is missing");
        let counted: u64 = self.endpoint.dispositions().iter().map(|(_, n)| n).sum();
        assert_eq!(counted, self.frames);
    }
}

fn small() -> Config {
    Config {
        recv_buffer: 16_384,
        send_buffer: 16_384,
        initial_window: 8192,
        window_scale: 3,
        max_connections: 3,
        half_open: 2,
        ..Config::default()
    }
}

/// Frames, each behind `mode: u8, length: u16`. Bit 0 of the mode makes the checksums
/// right, so that what is behind them is reached.
pub fn frame(data: &[u8]) {
    let offered = SynOptions {
        mss: Some(1460),
        window_scale: Some(7),
        sack_permitted: true,
        timestamps: Some(Timestamps { val: 1000, ecr: 0 }),
        sack: None,
    };
    let mut run = Run::new(small(), false, &offered);
    run.say(1, 1, Flags::ACK.0, 0);
    run.write(5000);
    let mut input = Input(data);
    while let (Some(mode), Some(len)) = (input.octet(), input.word()) {
        let mut octets = input.take(len.into()).to_vec();
        if mode & 1 != 0 {
            repair(&mut octets);
        }
        run.frames += 1;
        run.endpoint.handle_frame(run.now, &octets);
        // What the frame means is not followed, so neither are the streams.
        while run.endpoint.poll_event().is_some() {}
        let mut buf = [0; 2048];
        let mut count = 0;
        while let Some(len) = run.endpoint.poll_transmit(run.now, &mut buf) {
            count += 1;
            assert!(count < MAX_BURST, "a burst without end");
            take_apart(&buf[..len]);
        }
        run.now += Duration::from_millis(u64::from(mode >> 1));
        run.endpoint.handle_timeout(run.now);
        if run.frames > MAX_OPS as u64 {
            break;
        }
    }
    let counted: u64 = run.endpoint.dispositions().iter().map(|(_, n)| n).sum();
    assert_eq!(counted, run.frames);
    assert!(run.endpoint.len() <= small().max_connections);
}

/// Frames for [`frame`]'s corpus: a conversation of a peer with the endpoint there.
pub fn conversation(v6: bool, offered: &SynOptions) -> Vec<Vec<u8>> {
    let mut run = Run::new(small(), v6, offered);
    let mut frames = Vec::new();
    for (seq, flags, len) in [
        (1, Flags::ACK.0, 0),
        (1, 0x18, 300),
        (601, 0x18, 100),
        (301, 0x18, 300),
        (701, 0x11, 0),
        (702, 0x10, 0),
        (702, Flags::RST.0, 0),
    ] {
        run.say(seq, run.max, flags, len);
        run.drain();
        frames.push(run.last.clone());
    }
    frames
}

/// The parser as the RFC tells it.
fn reference(mut rest: &[u8], start: usize) -> Result<Options, BadOption> {
    let all = rest.len();
    let mut out = Options::default();
    loop {
        let (kind, len) = match rest {
            [] | [0, ..] => return Ok(out),
            [1, ..] => (1, 1),
            [kind, len, ..] => (*kind, usize::from(*len)),
            [_] => return Err(BadOption),
        };
        if (kind != 1 && len < 2) || len > rest.len() {
            return Err(BadOption);
        }
        let at = start + all - rest.len();
        let (option, behind) = rest.split_at(len);
        rest = behind;
        match (kind, option) {
            (2, [_, _, a, b]) => out.mss = Some(u16::from_be_bytes([*a, *b])),
            (3, [_, _, shift]) => out.window_scale = Some((*shift).min(14)),
            (4, [_, _]) => out.sack_permitted = true,
            (5, [_, _, blocks @ ..]) if !blocks.is_empty() && blocks.len() % 8 == 0 => {
                out.sack = Some(SackBlocks {
                    offset: at + 2,
                    count: blocks.len() / 8,
                });
            }
            (8, [_, _, both @ ..]) if both.len() == 8 => {
                let number =
                    |at| u32::from_be_bytes([at, at + 1, at + 2, at + 3].map(|i: usize| both[i]));
                out.timestamps = Some(Timestamps {
                    val: number(0),
                    ecr: number(4),
                });
            }
            (2..=5 | 8, _) => return Err(BadOption),
            _ => {}
        }
    }
}

/// The parser that the XDP program and the engine share, against [`reference`].
pub fn options(data: &[u8]) {
    let data = &data[..data.len().min(tcp::MAX_OPTIONS_LEN)];
    // Behind a header, and with octets after it that must not be looked at.
    let mut frame = vec![0xff; tcp::HEADER_LEN];
    frame.extend(data);
    let end = frame.len();
    frame.extend([8, 10, 1, 1, 1, 1, 1, 1, 1, 1]);
    let parsed = options::parse(&frame[..], tcp::HEADER_LEN, end);
    assert_eq!(parsed, reference(data, tcp::HEADER_LEN), "{data:02x?}");
    let mut walked = Options::default();
    let result = options::walk(&frame[..], tcp::HEADER_LEN, end, &mut walked);
    assert_eq!(result.map(|()| walked), parsed, "the fast path differs");
}

/// One connection, driven by octets: the first says what was negotiated, then one each
/// for an operation, with its arguments behind it. The highest bit keeps the frames
/// that become due from being sent, as a full TX ring does.
pub fn connection(data: &[u8]) {
    let mut input = Input(data);
    let Some(setup) = input.octet() else { return };
    let offered = SynOptions {
        mss: Some([1460, 536, 64, 8960][usize::from(setup >> 4 & 3)]),
        window_scale: (setup & 8 != 0).then_some(7),
        sack_permitted: setup & 4 != 0,
        timestamps: (setup & 2 != 0).then_some(Timestamps { val: 1000, ecr: 0 }),
        sack: None,
    };
    let config = Config {
        keepalive: (setup & 0x40 != 0).then_some(Duration::from_mins(1)),
        trace: setup & 0x80 != 0,
        ..small()
    };
    let mut run = Run::new(config, setup & 1 != 0, &offered);
    assert_eq!(run.say(1, 1, Flags::ACK.0, 0), Disposition::Accepted);
    for _ in 0..MAX_OPS {
        let Some(op) = input.octet() else { break };
        if step(&mut run, op & 0x7f, &mut input).is_none() {
            break;
        }
        run.events();
        if op & 0x80 == 0 {
            run.drain();
        }
        while run.endpoint.poll_trace().is_some() {}
    }
    run.finish();
}

fn step(run: &mut Run, op: u8, input: &mut Input<'_>) -> Option<()> {
    const ACK: u8 = Flags::ACK.0;
    match op % 20 {
        0 => return wild(run, input),
        1 => {
            let len = usize::from(input.word()? % 1461);
            let (seq, ack) = (run.nxt, run.max);
            run.nxt = run.nxt.wrapping_add(len as u32);
            run.say(seq, ack, ACK | Flags::PSH.0, len);
        }
        // Goes back to what was acknowledged, as a sender after a timeout.
        2 => run.nxt = run.acked,
        // Leaves a hole.
        3 => run.nxt = run.nxt.wrapping_add(u32::from(input.octet()?)),
        4 => {
            run.say(run.nxt, run.max, ACK, 0);
        }
        5 => {
            let back = u32::from(input.word()?);
            run.say(run.nxt, run.max.saturating_sub(back).max(1), ACK, 0);
        }
        // Duplicate ACKs, with SACK if negotiated.
        6 => {
            let (back, len) = (u32::from(input.word()?), u32::from(input.word()?));
            let left = run.max.saturating_sub(back).max(1);
            let ack = left.saturating_sub(u32::from(input.word()?)).max(1);
            let mut options = Vec::new();
            if let Some(ts) = run.ts {
                options.extend([8, 10]);
                options.extend(ts.val.wrapping_add(run.now.millis()).to_be_bytes());
                options.extend(ts.ecr.to_be_bytes());
            }
            options.extend([5, 10]);
            options.extend(run.iss.wrapping_add(left).to_be_bytes());
            options.extend(run.iss.wrapping_add(left.wrapping_add(len)).to_be_bytes());
            let head = Head {
                seq: run.nxt,
                ack,
                flags: ACK,
                window: run.window,
                urgent: 0,
            };
            run.segment(head, &options, 0);
        }
        7 => run.pass(Duration::from_millis(input.octet()?.into())),
        8 => run.pass(Duration::from_millis(
            100 * u64::from(input.word()? % 36_000),
        )),
        9 => run.write(usize::from(input.word()? % 9000)),
        10 => run.read(input.word()?.into(), true),
        11 => run.read(input.word()?.into(), false),
        12 => {
            let _ = run.id.map(|id| run.endpoint.shutdown(run.now, id));
        }
        13 => {
            let _ = run.id.map(|id| run.endpoint.close(run.now, id));
        }
        14 => {
            let _ = run.id.map(|id| run.endpoint.abort(run.now, id));
        }
        15 => {
            let on = input.octet()? & 1 != 0;
            let _ = run.id.map(|id| run.endpoint.set_nagle(run.now, id, on));
        }
        16 => run.window = input.word()?,
        17 => {
            let seq = run.nxt;
            run.nxt = run.nxt.wrapping_add(1);
            run.say(seq, run.max, ACK | Flags::FIN.0, 0);
        }
        // The last frame once more.
        18 => {
            run.hand(run.last.clone());
        }
        _ => {
            run.say(0, 0, Flags::SYN.0, 0);
        }
    }
    Some(())
}

/// A segment that nobody should send.
fn wild(run: &mut Run, input: &mut Input<'_>) -> Option<()> {
    let flags = input.octet()?;
    let near = |at: u32, by: u16| at.wrapping_add_signed(i32::from(by.cast_signed()));
    let head = Head {
        seq: near(run.nxt, input.word()?),
        ack: near(run.max, input.word()?),
        flags,
        window: input.word()?,
        urgent: input.word()?,
    };
    let len = usize::from(input.octet()?) * 4;
    let options_len = usize::from(input.octet()?);
    let options = if options_len == 0xff {
        let mut good = Vec::new();
        if let Some(ts) = run.ts {
            let back = u32::from(input.octet()?);
            good.extend([1, 1, 8, 10]);
            let val = ts.val.wrapping_add(run.now.millis()).wrapping_sub(back);
            good.extend(val.to_be_bytes());
            good.extend(ts.ecr.to_be_bytes());
        }
        good
    } else {
        input.take(options_len % 41).to_vec()
    };
    run.segment(head, &options, len);
    Some(())
}
