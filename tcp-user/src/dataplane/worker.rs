//! One thread per RX queue: device, engine and apps, shared with nobody.
//!
//! A turn takes one batch of received frames, fires due timers, lets the apps answer
//! what happened and sends what came of it. Then it sleeps in `ppoll` until there are
//! frames, a command or a timer. The clock is read once per turn.

use super::query::{Census, Drained, Query, Taker};
use super::reclaim::{self, Reclaim};
use super::{Device, DeviceStats, Transmit};
use crate::proto::{Config, ConnInfo, Disposition, Endpoint, Event, Instant, TraceEvent};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::{TimeSpec, TimeValLike};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel};
use std::thread::JoinHandle;
use std::time::Duration;
use tcp_common::abi::Secrets;
use tcp_common::flow::FlowKey;
use tcp_common::wire::{Bytes, icmp, ip, link, tcp};

/// Frames sent in one turn at most, so that receiving is not kept waiting.
const SEND_BATCH: usize = 256;
/// Frames from other queues that may wait for a worker.
const HANDED_OVER: usize = 2048;
/// Retry interval while the device takes no more frames, or has nothing to wait on.
const RETRY: Duration = Duration::from_micros(500);

/// What runs on the connections of a worker.
pub trait Application {
    /// Something happened to a connection. [`Event::FlowBegan`] and [`Event::FlowEnded`] do not
    /// come here.
    fn handle_event(&mut self, now: Instant, endpoint: &mut Endpoint, event: Event);

    /// The server ends: connections that are idle should be closed, the others soon.
    fn handle_drain(&mut self, now: Instant, endpoint: &mut Endpoint);

    /// The events of a batch are handled; whoever waits for what came of them may go on.
    fn finish_events(&mut self) {}

    /// Once a turn, before sending: what other threads want of the connections.
    fn handle_requests(&mut self, _now: Instant, _endpoint: &mut Endpoint) {}

    /// The worker has nothing to do. False if other threads have wanted something since
    /// [`Self::handle_requests`]; from a true on, the next one wakes the worker.
    fn may_sleep(&mut self) -> bool {
        true
    }
    /// The same for some local ends, in place of those of the last call.
    fn handle_drained(&mut self, now: Instant, endpoint: &mut Endpoint, drained: Drained);

    /// A descriptor that is readable when [`Self::handle_ready`] has something to do.
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// When it has something to do whatever the descriptor says.
    fn deadline(&self) -> Option<Instant> {
        None
    }

    /// The descriptor is readable, or the deadline is over.
    fn handle_ready(&mut self, _now: Instant, _endpoint: &mut Endpoint) {}

    /// Many connections have ended: memory that is not in use may go back.
    fn shrink(&mut self) {}
}

/// The flows that XDP sends to userspace.
pub trait FlowTable: Send {
    /// Enters a flow whose handshake is under way, for the worker of a queue.
    fn insert(&mut self, flow: &FlowKey, queue: u32);

    /// Forgets a connection that has ended.
    fn remove(&mut self, flow: &FlowKey);

    /// The queue whose worker has the connection.
    fn queue(&self, flow: &FlowKey) -> Option<u32>;
}

impl FlowTable for () {
    fn insert(&mut self, _: &FlowKey, _: u32) {}

    fn remove(&mut self, _: &FlowKey) {}

    fn queue(&self, _: &FlowKey) -> Option<u32> {
        None
    }
}

/// What control asks of a worker.
pub enum Command {
    /// New cookie keys; answers when they are in use.
    Keys(Secrets, SyncSender<()>),
    /// A new configuration, see [`Endpoint::set_config`].
    Configure(Box<Config>),
    /// Trace on or off.
    Trace(bool),
    /// Some or all connections.
    Connections(Query, Sender<Vec<ConnInfo>>),
    /// How many connections there are.
    Census(Sender<Census>),
    /// Local ends whose idle connections are to be closed from now on.
    Drained(Drained),
    /// Counters.
    Stats(Sender<WorkerStats>),
    /// Which of these flows have a connection or a TIME-WAIT entry here.
    Knows(Vec<FlowKey>, Sender<Vec<bool>>),
    /// All workers by queue, this one among them, for frames of their connections.
    Peers(Vec<Commands>),
    /// A frame of a connection here that came on another queue.
    Frame(Box<[u8]>),
    /// Close what is idle.
    Drain,
    /// RST to every connection, then the thread ends.
    Abort,
}

/// Counters of one worker.
#[derive(Clone, Debug, Default)]
pub struct WorkerStats {
    /// Connections and TIME-WAIT entries.
    pub connections: usize,
    /// Octets of memory that send and receive buffers hold.
    pub buffered: usize,
    /// Frames by what the engine did with them.
    pub dispositions: Vec<(Disposition, u64)>,
    /// The device's counters.
    pub device: DeviceStats,
    /// Frames handed to another worker, whose connection they belong to.
    pub handed_over: u64,
    /// Trace records that found no room.
    pub trace_dropped: u64,
}

/// Where trace records go; what finds no room is counted and dropped.
#[derive(Clone, Debug)]
pub struct TraceSink {
    /// Bounded.
    pub records: SyncSender<TraceEvent>,
    /// Records dropped.
    pub dropped: Arc<AtomicU64>,
}

/// The other end of a worker, for control.
#[derive(Debug)]
pub struct Worker {
    commands: Commands,
    thread: JoinHandle<io::Result<()>>,
}

/// Sends commands to a worker.
#[derive(Clone, Debug)]
pub struct Commands {
    queue: Sender<Command>,
    wake: Arc<EventFd>,
    /// [`Command::Frame`]s under way.
    frames: Arc<AtomicUsize>,
}

impl Commands {
    /// Sends a command; false if the worker is gone.
    pub fn send(&self, command: Command) -> bool {
        self.queue.send(command).is_ok() && self.wake.write(1).is_ok()
    }

    /// Hands over a frame; false if it is dropped, as a full ring would.
    fn send_frame(&self, frame: &[u8]) -> bool {
        if self.frames.fetch_add(1, Ordering::Relaxed) >= HANDED_OVER {
            self.frames.fetch_sub(1, Ordering::Relaxed);
            return false;
        }
        self.send(Command::Frame(frame.into()))
    }
}

impl Worker {
    /// Starts the thread of a queue. `application` is made in it, with what ends the
    /// worker's sleep.
    pub fn spawn<D, A>(
        queue: u32,
        device: D,
        endpoint: Endpoint,
        application: impl FnOnce(Arc<EventFd>) -> A + Send + 'static,
        flows: Box<dyn FlowTable>,
        trace: TraceSink,
    ) -> io::Result<Self>
    where
        D: Device + Send + 'static,
        A: Application,
    {
        let (to, commands) = channel();
        let wake = Arc::new(EventFd::from_flags(
            EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC,
        )?);
        let waker = Arc::clone(&wake);
        let frames = Arc::new(AtomicUsize::new(0));
        let under_way = Arc::clone(&frames);
        let thread = std::thread::Builder::new()
            .name(format!("worker-{queue}"))
            .spawn(move || {
                Turns {
                    device,
                    endpoint,
                    application: application(Arc::clone(&waker)),
                    flows,
                    commands,
                    wake: waker,
                    trace,
                    queue,
                    peers: Vec::new(),
                    handed_over: 0,
                    frames: under_way,
                    census: Taker::default(),
                    reclaim: Reclaim::default(),
                }
                .run()
            })?;
        Ok(Self {
            commands: Commands {
                queue: to,
                wake,
                frames,
            },
            thread,
        })
    }

    /// For sending commands.
    pub fn commands(&self) -> &Commands {
        &self.commands
    }

    /// Whether the thread has ended.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for the thread.
    pub fn join(self) -> io::Result<()> {
        self.thread
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("a worker panicked")))
    }
}

/// `CLOCK_MONOTONIC`.
pub fn clock() -> Instant {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
        .unwrap_or(TimeSpec::new(0, 0));
    Instant(now.num_nanoseconds() as u64)
}

struct Turns<D, A> {
    device: D,
    endpoint: Endpoint,
    application: A,
    flows: Box<dyn FlowTable>,
    commands: Receiver<Command>,
    wake: Arc<EventFd>,
    trace: TraceSink,
    queue: u32,
    peers: Vec<Commands>,
    handed_over: u64,
    frames: Arc<AtomicUsize>,
    census: Taker,
    reclaim: Reclaim,
}

/// Why a sleep ended, frames and timers apart.
struct Awake {
    commands: bool,
    /// The application's descriptor is readable.
    ready: bool,
}

impl<D: Device, A: Application> Turns<D, A> {
    fn run(mut self) -> io::Result<()> {
        let mut ready = false;
        loop {
            let now = clock();
            self.receive(now);
            if self.endpoint.poll_deadline().is_some_and(|at| at <= now) {
                self.endpoint.handle_timeout(now);
            }
            self.handle_events(now);
            if ready || self.application.deadline().is_some_and(|at| at <= now) {
                self.application.handle_ready(now, &mut self.endpoint);
                self.handle_events(now);
            }
            self.application.handle_requests(now, &mut self.endpoint);
            let (sent, full) = self.send(now);
            let flushed = self.device.flush()?;
            // Sending may free flows and make records.
            self.handle_events(now);
            self.pass_traces();
            if self.reclaim.watch(now, self.endpoint.footprint()) {
                self.endpoint.shrink();
                self.application.shrink();
                reclaim::trim();
            }

            // Frames that are still to be received end the sleep at once.
            let timeout = if full || !flushed {
                Some(RETRY)
            } else if sent >= SEND_BATCH {
                Some(Duration::ZERO)
            } else if self.device.fd().is_none() {
                Some(RETRY)
            } else {
                None
            };
            let awake = self.sleep(now, timeout)?;
            ready = awake.ready;
            if awake.commands && self.handle_commands() {
                return Ok(());
            }
        }
    }

    fn receive(&mut self, now: Instant) {
        let Self {
            device,
            endpoint,
            flows,
            queue,
            peers,
            handed_over,
            ..
        } = self;
        if peers.len() < 2 {
            device.receive(|frame| {
                endpoint.handle_frame(now, frame);
            });
            return;
        }
        // A flow usually stays on the queue where it began. When the NIC's steering
        // changes (or on veth, where the sender's CPU decides) it is still its first
        // worker's, or two connections would come of one.
        device.receive(|frame| {
            let elsewhere = flow_of(frame)
                .filter(|flow| !endpoint.knows(flow))
                .and_then(|flow| flows.queue(&flow))
                .filter(|owner| owner != queue)
                .and_then(|owner| peers.get(owner as usize));
            match elsewhere {
                Some(owner) => {
                    *handed_over += u64::from(owner.send_frame(frame));
                }
                None => {
                    endpoint.handle_frame(now, frame);
                }
            }
        });
    }

    fn handle_events(&mut self, now: Instant) {
        while let Some(event) = self.endpoint.poll_event() {
            match event {
                Event::FlowBegan(flow) => self.flows.insert(&flow, self.queue),
                Event::FlowEnded(flow) => self.flows.remove(&flow),
                other => {
                    if let Event::Accepted(id) = other {
                        self.census.count(self.endpoint.flow(id));
                    }
                    self.application
                        .handle_event(now, &mut self.endpoint, other);
                }
            }
        }
        self.application.finish_events();
    }

    fn send(&mut self, now: Instant) -> (usize, bool) {
        let mut sent = 0;
        while sent < SEND_BATCH {
            let (device, endpoint) = (&mut self.device, &mut self.endpoint);
            if device.takes_trains() {
                let mut segments = 0;
                let taken = endpoint.poll_train(now, |train| {
                    segments = train.len() / usize::from(train.segment);
                    device.send_train(train)
                });
                match taken {
                    Some(true) => {
                        sent += segments;
                        continue;
                    }
                    Some(false) => return (sent, true),
                    None => {}
                }
            }
            match self
                .device
                .transmit(|buffer| endpoint.poll_transmit(now, buffer))
            {
                Transmit::Queued => sent += 1,
                Transmit::Idle => return (sent, false),
                Transmit::Full => return (sent, true),
            }
        }
        (sent, false)
    }

    fn pass_traces(&mut self) {
        while let Some(record) = self.endpoint.poll_trace() {
            if self.trace.records.try_send(record).is_err() {
                self.trace.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Sleeps until there is something to do.
    fn sleep(&mut self, now: Instant, at_most: Option<Duration>) -> io::Result<Awake> {
        let at_most = if self.application.may_sleep() {
            at_most
        } else {
            Some(Duration::ZERO)
        };
        let deadlines = [
            self.endpoint.poll_deadline(),
            self.application.deadline(),
            self.reclaim.deadline(),
        ];
        let deadline = deadlines.into_iter().flatten().min().map(|at| at - now);
        let timeout = match (deadline, at_most) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        let wake = self.wake.as_fd();
        let application = self.application.fd();
        let mut fds = [
            wake,
            self.device.fd().unwrap_or(wake),
            application.unwrap_or(wake),
        ]
        .map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        let timeout = timeout.map(TimeSpec::from_duration);
        match ppoll(&mut fds, timeout, None) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
        let is_ready = |fd: &PollFd<'_>| fd.any().unwrap_or(false);
        let awake = Awake {
            commands: is_ready(&fds[0]),
            ready: application.is_some() && is_ready(&fds[2]),
        };
        if awake.commands {
            // Only resets the counter; it cannot block.
            let _ = self.wake.read();
        }
        Ok(awake)
    }

    /// True when the thread is to end.
    fn handle_commands(&mut self) -> bool {
        let now = clock();
        loop {
            // A dropped receiver is a client that went away.
            match self.commands.try_recv() {
                Ok(Command::Keys(keys, done)) => {
                    self.endpoint.set_keys(keys);
                    let _ = done.try_send(());
                }
                Ok(Command::Configure(config)) => self.endpoint.set_config(&config),
                Ok(Command::Trace(on)) => self.endpoint.set_trace(on),
                Ok(Command::Connections(query, to)) => {
                    let _ = to.send(query.select(self.endpoint.each_info(now)));
                }
                Ok(Command::Census(to)) => {
                    let _ = to.send(self.census.take(now, &self.endpoint));
                }
                Ok(Command::Drained(drained)) => {
                    self.application
                        .handle_drained(now, &mut self.endpoint, drained);
                }
                Ok(Command::Stats(to)) => {
                    let _ = to.send(self.stats());
                }
                Ok(Command::Knows(flows, to)) => {
                    let known = flows.iter().map(|f| self.endpoint.knows(f)).collect();
                    let _ = to.send(known);
                }
                Ok(Command::Peers(peers)) => self.peers = peers,
                Ok(Command::Frame(frame)) => {
                    self.frames.fetch_sub(1, Ordering::Relaxed);
                    self.endpoint.handle_frame(now, &frame);
                }
                Ok(Command::Drain) => {
                    self.endpoint.forget_half_opens();
                    self.application.handle_drain(now, &mut self.endpoint);
                }
                Ok(Command::Abort) | Err(std::sync::mpsc::TryRecvError::Disconnected) => {
                    self.abort(now);
                    return true;
                }
                Err(std::sync::mpsc::TryRecvError::Empty) => return false,
            }
        }
    }

    fn stats(&self) -> WorkerStats {
        WorkerStats {
            connections: self.endpoint.len(),
            buffered: self.endpoint.buffered(),
            dispositions: self.endpoint.dispositions(),
            device: self.device.stats(),
            handed_over: self.handed_over,
            trace_dropped: self.trace.dropped.load(Ordering::Relaxed),
        }
    }

    /// RST to all, as far as the device takes them within a moment.
    fn abort(&mut self, now: Instant) {
        for info in self.endpoint.infos(now) {
            if let Some(id) = info.id {
                self.endpoint.abort(now, id);
            }
        }
        let end = now + Duration::from_millis(200);
        while clock() < end {
            let (sent, full) = self.send(now);
            let flushed = self.device.flush().unwrap_or(true);
            if sent < SEND_BATCH && !full && flushed {
                break;
            }
            if full || !flushed {
                std::thread::sleep(RETRY);
            }
        }
        self.pass_traces();
    }
}

/// The 4-tuple of a TCP segment, or of the one that an ICMP error quotes; the engine
/// judges the rest.
fn flow_of(frame: &[u8]) -> Option<FlowKey> {
    let link = link::parse(frame)?;
    let Ok(packet) = ip::parse(frame, link) else {
        return icmp::parse(frame, link).map(|error| error.flow);
    };
    let header = tcp::Header::read(&frame.window::<{ tcp::HEADER_LEN }>(packet.l4)?);
    Some(FlowKey {
        remote: packet.src,
        local: packet.dst,
        remote_port_be: header.src_port_be,
        local_port_be: header.dst_port_be,
    })
}
