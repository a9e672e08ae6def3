//! A worker with its apps on a device in memory; the client is a script of frames that
//! `etherparse` writes and reads.

use super::{App, Apps, Service};
use crate::dataplane::memory::MemoryDevice;
use crate::dataplane::query::Query;
use crate::dataplane::worker::{Command, TraceSink, Worker};
use crate::dataplane::{Device, Transmit};
use crate::proto::{Config, Endpoint};
use etherparse::{PacketBuilder, PacketHeaders, TransportHeader};
use std::sync::Arc;
use std::sync::mpsc::{channel, sync_channel};
use std::time::{Duration, Instant};
use tcp_common::abi::Secrets;
use tcp_common::cookie::{self, Key};
use tcp_common::flow::FlowKey;
use tcp_common::wire::SynOptions;

const CLIENT: [u8; 4] = [192, 0, 2, 1];
const SERVER: [u8; 4] = [192, 0, 2, 2];
const PORT: u16 = 40_000;
const IRS: u32 = 0xffff_fff0;

/// A client's end of the wire, and the worker at the other.
pub(super) struct Client {
    device: MemoryDevice,
    pub(super) worker: Worker,
    port: u16,
    seq: u32,
    ack: u32,
    pub(super) received: Vec<u8>,
    pub(super) finished: bool,
    pub(super) reset: bool,
}

impl Client {
    /// A connection to `app`, its cookie ACK not yet sent.
    pub(super) fn new(app: App, port: u16) -> Self {
        let key = Key { k0: 1, k1: 2 };
        let secrets = Secrets {
            keys: [key; 2],
            ..Secrets::default()
        };
        let flow = FlowKey::new((CLIENT, PORT).into(), (SERVER, port).into());
        let (cookie, _) = cookie::make(&key, 0, &flow, IRS, &SynOptions::default(), false);
        let (device, far) = MemoryDevice::pair();
        let (records, _) = sync_channel(1);
        let trace = TraceSink {
            records,
            dropped: Arc::default(),
        };
        let endpoint = Endpoint::new(Config::default(), secrets, 1);
        let lookup: super::Lookup = Arc::new(move |_| Some(Service::App(app.clone())));
        let apps = move |wake| Apps::new(lookup, wake);
        let worker = Worker::spawn(0, far, endpoint, apps, Box::new(()), trace).expect("a thread");
        Self {
            device,
            worker,
            port,
            seq: IRS.wrapping_add(1),
            ack: cookie.iss.wrapping_add(1),
            received: Vec::new(),
            finished: false,
            reset: false,
        }
    }

    pub(super) fn send(&mut self, data: &[u8], fin: bool) {
        let packet = PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4(CLIENT, SERVER, 64)
            .tcp(PORT, self.port, self.seq, 60_000)
            .ack(self.ack);
        let packet = if fin { packet.fin() } else { packet };
        let sent = self.device.transmit(|mut buffer| {
            let room = buffer.len();
            packet.write(&mut buffer, data).expect("it fits");
            Some(room - buffer.len())
        });
        assert_eq!(sent, Transmit::Queued);
        self.seq = self.seq.wrapping_add(data.len() as u32 + u32::from(fin));
    }

    /// An RST.
    pub(super) fn abort(&mut self) {
        let packet = PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4(CLIENT, SERVER, 64)
            .tcp(PORT, self.port, self.seq, 60_000)
            .ack(self.ack)
            .rst();
        self.device.transmit(|mut buffer| {
            let room = buffer.len();
            packet.write(&mut buffer, &[]).expect("it fits");
            Some(room - buffer.len())
        });
    }

    /// Takes what comes, in order, and acknowledges it, until `done`.
    pub(super) fn run_until(&mut self, done: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        while !done(self) {
            assert!(
                start.elapsed() < Duration::from_mins(1),
                "{:?}",
                self.received.len()
            );
            let mut frames = Vec::new();
            self.device.receive(|frame| frames.push(frame.to_vec()));
            let before = self.ack;
            for frame in &frames {
                self.take(frame);
            }
            if self.ack != before {
                self.send(&[], false);
            } else if frames.is_empty() {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    fn take(&mut self, frame: &[u8]) {
        let packet = PacketHeaders::from_ethernet_slice(frame).expect("well formed");
        let Some(TransportHeader::Tcp(tcp)) = packet.transport else {
            panic!("not TCP");
        };
        self.reset |= tcp.rst;
        if tcp.sequence_number == self.ack {
            let data = packet.payload.slice();
            self.received.extend_from_slice(data);
            self.ack = self
                .ack
                .wrapping_add(data.len() as u32 + u32::from(tcp.fin));
            self.finished |= tcp.fin;
        }
    }

    /// Connections and TIME-WAIT entries of the worker.
    pub(super) fn connections(&self) -> usize {
        let (to, from) = channel();
        self.worker
            .commands()
            .send(Command::Connections(Query::all(), to));
        from.recv_timeout(Duration::from_mins(1))
            .expect("the worker answers")
            .len()
    }

    pub(super) fn end(self) {
        self.worker.commands().send(Command::Abort);
        self.worker.join().expect("no panic");
    }
}

#[test]
fn echo_finishes_echoing_and_then_closes() {
    let mut client = Client::new(App::Echo, 7);
    // The pure ACK was lost: the first data segment carries the cookie.
    client.send(b"hello, ", false);
    client.send(b"world", true);
    client.run_until(|c| c.finished);
    assert_eq!(client.received, b"hello, world");
    let start = Instant::now();
    while client.connections() > 0 {
        assert!(start.elapsed() < Duration::from_mins(1));
    }
    client.end();
}

#[test]
fn http_closes_first_when_asked_to() {
    let mut client = Client::new(App::Http, 80);
    client.send(b"GET /bytes/100000 HTTP/1.1\r\nHost: a\r\n", false);
    client.send(b"Connection: close\r\n\r\n", false);
    client.run_until(|c| c.finished);
    let head = client.received.windows(4).position(|w| w == b"\r\n\r\n");
    let body = &client.received[head.expect("a head") + 4..];
    assert_eq!(body.len(), 100_000);
    assert!(
        body.iter()
            .zip(0..)
            .all(|(octet, at)| *octet == super::http::Content::octet(at))
    );
    // Our FIN stands between FIN-WAIT-2 and TIME-WAIT on the server's side.
    client.send(&[], true);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(client.connections(), 1);
    client.end();
}

#[test]
fn draining_closes_idle_http_and_leaves_echo() {
    for (app, closes) in [(App::Http, true), (App::Echo, false)] {
        let mut client = Client::new(app, 80);
        client.send(&[], false);
        while client.connections() == 0 {}
        client.worker.commands().send(Command::Drain);
        if closes {
            client.run_until(|c| c.finished);
        } else {
            client.send(b"still", false);
            client.run_until(|c| c.received == b"still");
            assert!(!client.finished);
        }
        client.end();
    }
}

#[test]
fn an_abort_resets_what_is_open() {
    let mut client = Client::new(App::Echo, 7);
    client.send(b"x", false);
    client.run_until(|c| c.received == b"x");
    client.worker.commands().send(Command::Abort);
    client.run_until(|c| c.reset);
    client.worker.join().expect("no panic");
}
