//! Streams on a worker whose device is in memory. The peer is a script that keeps to the
//! window and loses nothing; whatever waits for it and is not woken fails by its time limit.

use super::inbox::Inbox;
use super::shared::{ROOM, Shared};
use super::{TcpListener, TcpStream, listener};
use crate::app::{Apps, Lookup, Service};
use crate::dataplane::memory::MemoryDevice;
use crate::dataplane::worker::{Command, TraceSink, Worker, WorkerStats};
use crate::dataplane::{Device, Transmit};
use crate::proto::{Config, ConnId, Endpoint};
use etherparse::{PacketBuilder, PacketHeaders, TransportHeader};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::collections::BTreeMap;
use std::io::IoSlice;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{channel, sync_channel};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tcp_common::abi::Secrets;
use tcp_common::cookie::{self, Key};
use tcp_common::flow::FlowKey;
use tcp_common::wire::SynOptions;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Runtime;

const CLIENT: [u8; 4] = [192, 0, 2, 1];
const SERVER: [u8; 4] = [192, 0, 2, 2];
const PORT: u16 = 7;
const IRS: u32 = 0xffff_ff00;
const KEY: Key = Key { k0: 1, k1: 2 };
const LIMIT: Duration = Duration::from_mins(1);

/// `SplitMix64` (Steele, Lea and Flood, 2014).
struct Rng(u64);

impl Rng {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % end as u64) as usize
    }

    fn fork(&mut self) -> Self {
        Self(self.below(usize::MAX) as u64)
    }
}

/// One connection, from the peer's side.
#[derive(Default)]
struct Peer {
    port: u16,
    seq: u32,
    ack: u32,
    /// How far the server takes data.
    edge: u32,
    /// An ACK is due.
    owes: bool,
    received: Vec<u8>,
    finished: bool,
    reset: bool,
}

/// The peers' end of the wire, and the worker at the other.
struct Bed {
    device: MemoryDevice,
    worker: Worker,
    peers: BTreeMap<u16, Peer>,
    listener: Option<TcpListener>,
    runtime: Runtime,
}

impl Bed {
    fn new(backlog: usize) -> Self {
        let secrets = Secrets {
            keys: [KEY; 2],
            ..Secrets::default()
        };
        let (device, far) = MemoryDevice::pair();
        let (records, _) = sync_channel(1);
        let trace = TraceSink {
            records,
            dropped: Arc::default(),
        };
        let endpoint = Endpoint::new(Config::default(), secrets, 1);
        let (acceptor, listener) = listener((SERVER, PORT).into(), backlog);
        let lookup: Lookup = Arc::new(move |_| Some(Service::Streams(acceptor.clone())));
        let apps = move |wake| Apps::new(lookup, wake);
        let worker = Worker::spawn(0, far, endpoint, apps, Box::new(()), trace).expect("a thread");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build();
        Self {
            device,
            worker,
            peers: BTreeMap::new(),
            listener: Some(listener),
            runtime: runtime.expect("threads"),
        }
    }

    /// A connection from this port, and its stream.
    fn connect(&mut self, port: u16) -> TcpStream {
        self.open(port);
        let listener = self.listener.as_ref().expect("not dropped");
        let accepted = async { tokio::time::timeout(LIMIT, listener.accept()).await };
        let (stream, peer) = self
            .runtime
            .block_on(accepted)
            .expect("no wake-up is lost")
            .expect("a stream");
        assert_eq!(peer, (CLIENT, port).into());
        stream
    }

    fn open(&mut self, port: u16) {
        let flow = FlowKey::new((CLIENT, port).into(), (SERVER, PORT).into());
        let (cookie, _) = cookie::make(&KEY, 0, &flow, IRS, &SynOptions::default(), false);
        let peer = Peer {
            port,
            seq: IRS.wrapping_add(1),
            ack: cookie.iss.wrapping_add(1),
            edge: IRS.wrapping_add(1 + 65_535),
            ..Peer::default()
        };
        self.peers.insert(port, peer);
        self.send(port, &[], false);
    }

    fn send(&mut self, port: u16, data: &[u8], fin: bool) {
        let peer = self.peers.get_mut(&port).expect("it is open");
        let packet = PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4(CLIENT, SERVER, 64)
            .tcp(peer.port, PORT, peer.seq, 60_000)
            .ack(peer.ack);
        let packet = if fin { packet.fin() } else { packet };
        let sent = self.device.transmit(|mut buffer| {
            let room = buffer.len();
            packet.write(&mut buffer, data).expect("it fits");
            Some(room - buffer.len())
        });
        assert_eq!(sent, Transmit::Queued);
        peer.seq = peer.seq.wrapping_add(data.len() as u32 + u32::from(fin));
        peer.owes = false;
    }

    /// Takes what has come, waiting a moment for it, and acknowledges.
    fn pump(&mut self) {
        let fd = self.device.fd().expect("it has one");
        let _ = poll(
            &mut [PollFd::new(fd, PollFlags::POLLIN)],
            PollTimeout::from(1_u8),
        );
        let mut frames = Vec::new();
        self.device.receive(|frame| frames.push(frame.to_vec()));
        for frame in &frames {
            self.take(frame);
        }
        let owing: Vec<u16> = self
            .peers
            .values()
            .filter(|p| p.owes)
            .map(|p| p.port)
            .collect();
        for port in owing {
            self.send(port, &[], false);
        }
    }

    fn take(&mut self, frame: &[u8]) {
        let packet = PacketHeaders::from_ethernet_slice(frame).expect("well formed");
        let Some(TransportHeader::Tcp(tcp)) = packet.transport else {
            panic!("not TCP");
        };
        let Some(peer) = self.peers.get_mut(&tcp.destination_port) else {
            return;
        };
        peer.reset |= tcp.rst;
        peer.edge = tcp
            .acknowledgment_number
            .wrapping_add(u32::from(tcp.window_size));
        let data = packet.payload.slice();
        if tcp.sequence_number == peer.ack && !tcp.rst {
            peer.received.extend_from_slice(data);
            peer.ack = peer
                .ack
                .wrapping_add(data.len() as u32 + u32::from(tcp.fin));
            peer.finished |= tcp.fin;
        }
        peer.owes |= !data.is_empty() || tcp.fin;
    }

    fn run_until(&mut self, what: &str, done: impl Fn(&mut Self) -> bool) {
        let start = Instant::now();
        while !done(self) {
            assert!(start.elapsed() < LIMIT, "{what}");
            self.pump();
        }
    }

    /// What the worker has: connections and TIME-WAIT entries.
    fn connections(&self) -> usize {
        let (to, from) = channel::<WorkerStats>();
        self.worker.commands().send(Command::Stats(to));
        from.recv_timeout(LIMIT).expect("it answers").connections
    }

    fn end(self) {
        self.worker.commands().send(Command::Abort);
        self.worker.join().expect("no panic");
    }
}

/// Echoes in a way of its own, by seed; the halves in two tasks.
async fn echo(stream: TcpStream, mut rng: Rng) {
    let (mut read, mut write) = stream.into_split();
    let (to, mut from) = tokio::sync::mpsc::channel::<Vec<u8>>(3);
    let mut other = rng.fork();
    let writer = tokio::spawn(async move {
        while let Some(data) = from.recv().await {
            let mut left = &data[..];
            while !left.is_empty() {
                dawdle(&mut other).await;
                let octets = match other.below(3) {
                    0 => write.write(left).await.expect("open"),
                    1 => {
                        let at = other.below(left.len() + 1);
                        let pieces = [IoSlice::new(&left[..at]), IoSlice::new(&left[at..])];
                        write.write_vectored(&pieces).await.expect("open")
                    }
                    _ => {
                        write.writable().await.expect("open");
                        write.try_write(left).unwrap_or(0)
                    }
                };
                left = &left[octets..];
            }
        }
        write.shutdown().await.expect("open");
    });
    loop {
        dawdle(&mut rng).await;
        let mut data = vec![0; 1 + rng.below(60_000)];
        let octets = match rng.below(3) {
            0 => read.read(&mut data).await.expect("open"),
            1 => {
                let seen = read.peek(&mut data).await.expect("open");
                let octets = read.read(&mut data[..seen]).await.expect("open");
                assert_eq!(octets, seen, "what was peeked is there");
                octets
            }
            _ => {
                read.readable().await.expect("open");
                read.try_read(&mut data).expect("readable by one only")
            }
        };
        if octets == 0 {
            break;
        }
        data.truncate(octets);
        to.send(data).await.expect("the writer lives");
    }
    drop(to);
    writer.await.expect("no panic");
}

async fn dawdle(rng: &mut Rng) {
    match rng.below(8) {
        0 => tokio::task::yield_now().await,
        1 => tokio::time::sleep(Duration::from_micros(rng.below(2000) as u64)).await,
        _ => {}
    }
}

#[test]
fn octets_are_exact_whatever_the_sizes_and_pauses() {
    for seed in 0..12 {
        let mut rng = Rng(seed);
        let mut bed = Bed::new(1);
        let stream = bed.connect(1000);
        let shared = stream.shared();
        let task = bed.runtime.spawn(echo(stream, rng.fork()));
        let data: Vec<u8> = (0..100_000 + rng.below(900_000))
            .map(|_| rng.below(256) as u8)
            .collect();
        let mut sent = 0;
        let start = Instant::now();
        while !bed.peers[&1000].finished {
            assert!(
                start.elapsed() < LIMIT,
                "seed {seed}: {sent} octets sent, {} back",
                bed.peers[&1000].received.len()
            );
            for _ in 0..rng.below(60) {
                let peer = &bed.peers[&1000];
                let room = peer.edge.wrapping_sub(peer.seq) as usize;
                let len = (1 + rng.below(1400)).min(data.len() - sent).min(room);
                if len == 0 {
                    break;
                }
                bed.send(1000, &data[sent..sent + len], sent + len == data.len());
                sent += len;
            }
            bed.pump();
        }
        assert!(bed.peers[&1000].received == data, "seed {seed}");
        bed.runtime.block_on(task).expect("no panic");
        bed.run_until("the connection ends", |bed| bed.connections() == 0);
        assert_eq!(shared.strong_count(), 0, "seed {seed}");
        bed.end();
    }
}

#[test]
fn a_full_buffer_closes_the_window_and_reading_opens_it() {
    let mut bed = Bed::new(1);
    let mut stream = bed.connect(1000);
    let mut sent = 0;
    let mut idle = 0;
    while idle < 30 {
        let peer = &bed.peers[&1000];
        let room = peer.edge.wrapping_sub(peer.seq).min(1400) as usize;
        if room > 0 {
            bed.send(1000, &vec![1; room], false);
            sent += room;
            idle = 0;
        } else {
            idle += 1;
            bed.pump();
        }
    }
    // Here, and what the engine's window holds.
    assert!((ROOM..ROOM + (4 << 20)).contains(&sent), "{sent}");
    let mut all = vec![0; sent];
    let read = async { tokio::time::timeout(LIMIT, stream.read_exact(&mut all)).await };
    bed.runtime.block_on(read).expect("no hang").expect("open");
    bed.run_until("the window opens", |bed| {
        let peer = &bed.peers[&1000];
        peer.edge != peer.seq
    });
    assert_eq!(
        stream.shared_recv_capacity(),
        0,
        "an empty buffer is given back"
    );
    bed.end();
}

#[test]
fn a_dropped_stream_frees_everything() {
    let mut bed = Bed::new(64);
    let mut weak: Vec<Weak<Shared>> = Vec::new();
    for port in 1000..1300 {
        let stream = bed.connect(port);
        weak.push(stream.shared());
        match port % 5 {
            // Unread.
            0 => {
                bed.send(port, b"unread", false);
                let ready = async { tokio::time::timeout(LIMIT, stream.readable()).await };
                bed.runtime.block_on(ready).expect("no hang").expect("open");
            }
            1 => stream.set_zero_linger().expect("always"),
            2 => assert_eq!(stream.try_write(b"on its way").expect("room"), 10),
            3 => {
                let (read, write) = stream.into_split();
                drop(write);
                drop(read);
                continue;
            }
            _ => {}
        }
        drop(stream);
    }
    bed.run_until("all have heard", |bed| {
        bed.peers.values().all(|p| p.finished || p.reset)
    });
    for port in 1000..1300 {
        let peer = &bed.peers[&port];
        assert_eq!(peer.reset, port % 5 < 2, "{port}");
        let text: &[u8] = if port % 5 == 2 { b"on its way" } else { b"" };
        assert_eq!(peer.received, text, "{port}");
        if !peer.reset {
            bed.send(port, &[], true);
        }
    }
    // The server closed first: TIME-WAIT entries are left, and nothing else.
    assert!(weak.iter().all(|w| w.strong_count() == 0));
    assert_eq!(bed.connections(), 180);
    bed.end();
}

#[test]
fn who_waits_in_the_backlog_is_reset_with_the_listener() {
    let mut bed = Bed::new(2);
    for port in 1000..1003 {
        bed.open(port);
    }
    // The third does not fit.
    bed.run_until("it is refused", |bed| bed.peers[&1002].reset);
    assert_eq!(bed.listener.as_ref().map(TcpListener::refused), Some(1));
    bed.listener = None;
    bed.run_until("all are reset", |bed| bed.peers.values().all(|p| p.reset));
    bed.open(1003);
    bed.run_until("nobody accepts", |bed| bed.peers[&1003].reset);
    assert_eq!(bed.connections(), 0);
    bed.end();
}

#[test]
fn a_worker_that_ends_tells_its_streams() {
    let mut bed = Bed::new(1);
    let mut stream = bed.connect(1000);
    let waits = bed.runtime.spawn(async move {
        let read = stream.read(&mut [0]).await;
        (read, stream.write(&[0]).await)
    });
    bed.worker.commands().send(Command::Abort);
    let ended = async { tokio::time::timeout(LIMIT, waits).await };
    let (read, write) = bed
        .runtime
        .block_on(ended)
        .expect("no hang")
        .expect("no panic");
    let aborted = Some(std::io::ErrorKind::ConnectionAborted);
    assert_eq!(read.err().map(|e| e.kind()), aborted);
    assert_eq!(write.err().map(|e| e.kind()), aborted);
    bed.worker.join().expect("no panic");
}

#[test]
fn a_sleeping_worker_is_woken_by_each_first_push() {
    const EACH: u64 = 30_000;
    const THREADS: u64 = 4;
    let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
    let wake = Arc::new(EventFd::from_flags(flags).expect("a descriptor"));
    let inbox = Inbox::new(Arc::clone(&wake));
    let pushed = AtomicU64::new(0);
    let sleeps = AtomicBool::new(false);
    let id = ConnId {
        index: 1,
        generation: 1,
    };
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (inbox, pushed, sleeps) = (&inbox, &pushed, &sleeps);
            scope.spawn(move || {
                let mut rng = Rng(thread);
                while !sleeps.load(Ordering::Relaxed) {
                    std::thread::yield_now();
                }
                for _ in 0..EACH {
                    inbox.push(id);
                    pushed.fetch_add(1, Ordering::Relaxed);
                    if rng.below(50) == 0 {
                        std::thread::sleep(Duration::from_micros(rng.below(50) as u64));
                    }
                }
            });
        }
        let (mut taken, mut slept) = (0, 0);
        let mut ready = Vec::new();
        while taken < EACH * THREADS {
            inbox.take(&mut ready);
            taken += ready.len() as u64;
            ready.clear();
            if inbox.may_sleep() && taken < EACH * THREADS {
                sleeps.store(true, Ordering::Relaxed);
                let mut fds = [PollFd::new(wake.as_fd(), PollFlags::POLLIN)];
                let n = poll(&mut fds, PollTimeout::from(60_000_u16)).expect("it polls");
                assert_eq!(n, 1, "{taken} of {pushed:?} taken, and asleep");
                let _ = wake.read();
                slept += 1;
            }
        }
        assert!(slept > 0, "it never slept");
    });
}
