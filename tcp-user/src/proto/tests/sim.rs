//! The simulated network: peers, links, the XDP model, the endpoint and one virtual clock.

use super::app::{App, Kind};
use super::client::{self, Client, Outcome};
use super::link::{Arrival, Faults, Link};
use super::monitor::{Limits, Monitor};
use super::network::too_big;
use super::rng::Rng;
use super::wire::{self, Path};
use super::xdp::{Verdict, XdpModel};
use crate::proto::{CloseReason, Config, Disposition, Endpoint, Event, Instant, State};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tcp_common::flow::FlowKey;

/// A connection to be: its two ends, its path and the two users.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) client: client::Config,
    pub(super) kind: Kind,
    /// Octets that the server reads at a time and the pause between.
    pub(super) slow: Option<(usize, Duration)>,
    pub(super) up: Faults,
    pub(super) down: Faults,
    pub(super) v6: bool,
    pub(super) vlan: Option<u16>,
    /// When the client begins.
    pub(super) start: Duration,
    /// The client's address and port, by number; its place in the list if `None`. Who comes later
    /// takes the 4-tuple over.
    pub(super) host: Option<u16>,
}

#[derive(Debug)]
pub(super) struct Peer {
    pub(super) path: Path,
    pub(super) client: Client,
    pub(super) app: App,
    pub(super) monitor: Monitor,
    pub(super) up: Link,
    pub(super) down: Link,
    start: Instant,
    started: bool,
    /// The endpoint heard an RST that the client sent.
    reset_heard: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum To {
    Server,
    Client,
}

/// A frame on its way, in the order of arrival.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Flying {
    at: Instant,
    /// Frames that arrive together keep the order in which they were sent.
    order: u64,
    peer: usize,
    to: To,
    corrupt: bool,
    frame: Vec<u8>,
}

/// Timeouts while no frame came or went.
struct Wakes {
    count: u32,
    since: Instant,
    frames: u64,
}

pub(super) struct Sim {
    pub(super) now: Instant,
    pub(super) endpoint: Endpoint,
    pub(super) config: Config,
    pub(super) peers: Vec<Peer>,
    xdp: XdpModel,
    by_flow: HashMap<FlowKey, usize>,
    by_id: HashMap<crate::proto::ConnId, usize>,
    wires: BinaryHeap<Reverse<Flying>>,
    order: u64,
    started: Instant,
    /// Frames that the endpoint sent and took.
    pub(super) frames_out: u64,
    pub(super) frames_in: u64,
    /// Connections out of a cookie that came again after the connection's end: the network
    /// had kept a copy of the first segment. As long as its slot is valid it opens one
    /// more connection, as with every SYN cookie.
    pub(super) ghosts: u32,
    wakes: Wakes,
    /// What the endpoint sends now comes of a timer.
    timer: bool,
    /// The peers only send what their clients send: what the endpoint says is held
    /// against those.
    pub(super) trust: bool,
    /// Clients may end half-open.
    pub(super) half_open: bool,
    /// Runs of segments are taken as one and cut apart, as GSO does.
    trains: bool,
    rng: Rng,
    verbose: bool,
}

impl Sim {
    /// `rst`: what XDP does about an ACK without a valid cookie. Off where the first
    /// segments of a connection may be lost or overtake each other: what then
    /// arrives first is not the cookie's segment.
    pub(super) fn new(seed: u64, config: Config, plans: Vec<Plan>, rst: bool) -> Self {
        let mut rng = Rng::new(seed);
        // Any time is as good as zero.
        let started = Instant(rng.magnitude(1 << 52));
        let xdp = XdpModel::new(&config, rng.u64(), rst);
        let endpoint = Endpoint::new(config.clone(), xdp.secrets(), rng.u64());
        let mut by_flow = HashMap::new();
        let mut peers = Vec::new();
        for (i, plan) in plans.into_iter().enumerate() {
            let path = Self::path(&plan, plan.host.unwrap_or(i as u16));
            by_flow.entry(path.flow()).or_insert(i);
            let start = started + plan.start;
            peers.push(Peer {
                client: Client::new(plan.client.clone(), &mut rng, start),
                app: App::new(
                    plan.kind,
                    plan.client.sends,
                    plan.client.expects,
                    plan.slow,
                    rng.fork(),
                ),
                monitor: Monitor::default(),
                up: Link::new(plan.up, rng.fork()),
                down: Link::new(plan.down, rng.fork()),
                start,
                started: false,
                path,
                reset_heard: false,
            });
        }
        Self {
            now: started,
            endpoint,
            config,
            peers,
            xdp,
            by_flow,
            by_id: HashMap::new(),
            wires: BinaryHeap::new(),
            order: 0,
            started,
            frames_out: 0,
            frames_in: 0,
            ghosts: 0,
            wakes: Wakes {
                count: 0,
                since: started,
                frames: 0,
            },
            timer: false,
            trust: true,
            half_open: false,
            trains: rng.chance(0.5),
            rng,
            verbose: std::env::var_os("TCP_XDP_SIM_SEED").is_some(),
        }
    }

    fn path(plan: &Plan, i: u16) -> Path {
        let (client, server): (IpAddr, IpAddr) = if plan.v6 {
            (
                [0xfd77, 0, 0, 0, 0, 0, 1, i].into(),
                [0xfd77, 0, 0, 0, 0, 0, 0, 2].into(),
            )
        } else {
            ([192, 168, 1, 100].into(), [192, 168, 2, 200].into())
        };
        Path {
            client: SocketAddr::new(client, 12_345 + i),
            server: SocketAddr::new(server, 80),
            client_mac: [2, 0, 0, 0, 1, i as u8],
            server_mac: [2, 0, 0, 0, 2, 1],
            vlan: plan.vlan,
        }
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.now.saturating_since(self.started)
    }

    fn say(&self, peer: usize, arrow: &str, frame: &[u8], note: &str) {
        if self.verbose {
            let seg = wire::parse(frame).map(|p| p.segment);
            let t = self.elapsed().as_secs_f64();
            let state = self.peers[peer]
                .app
                .id
                .and_then(|id| self.endpoint.state(id));
            let state = state.map_or(String::new(), |s| s.to_string());
            let flow = self.peers[peer].path.flow();
            let mut infos = self.endpoint.each_info(self.now);
            let info = infos.find(|info| info.flow == flow);
            let flight = info.map_or((0, 0), |info| (info.in_flight, info.cwnd));
            eprintln!("{t:12.6} {peer} {arrow} {seg:?} {note} {state} {flight:?}");
        }
    }

    /// Lets everything happen that happens at the next time at which something does.
    /// False: nothing will ever happen again.
    pub(super) fn step(&mut self) -> bool {
        let wire = self.wires.peek().map(|Reverse(first)| first.at);
        let timer = self.endpoint.poll_deadline();
        let now = self.now;
        let peers = self.peers.iter().flat_map(|p| {
            let client = p.client.deadline(now.max(p.start));
            [client.map(|at| at.max(p.start)), p.app.deadline()]
        });
        let next = peers.flatten().chain(wire).chain(timer).min();
        let Some(next) = next else { return false };
        self.now = self.now.max(next);
        while let Some(Reverse(first)) = self.wires.peek()
            && first.at <= self.now
        {
            let Some(Reverse(f)) = self.wires.pop() else {
                break;
            };
            match f.to {
                To::Server => self.at_server(f.peer, &f.frame, f.corrupt),
                To::Client => self.at_client(f.peer, &f.frame),
            }
        }
        for i in 0..self.peers.len() {
            let p = &mut self.peers[i];
            if p.start <= self.now {
                if !p.started {
                    p.started = true;
                    self.by_flow.insert(p.path.flow(), i);
                }
                p.client.run(self.now);
            }
            p.app.run(self.now, &mut self.endpoint);
            self.send_up(i);
        }
        self.settle();
        if self.is_due() {
            self.endpoint.handle_timeout(self.now);
            self.timer = true;
            self.settle();
            self.timer = false;
            self.count_wake();
            assert!(
                !self.is_due(),
                "a deadline that has passed after the timeout"
            );
        }
        true
    }

    fn is_due(&mut self) -> bool {
        self.endpoint
            .poll_deadline()
            .is_some_and(|at| at <= self.now)
    }

    /// No timer storm: while nothing comes and goes, timers are rare.
    fn count_wake(&mut self) {
        let frames = self.frames_in + self.frames_out;
        let w = &mut self.wakes;
        if w.frames != frames || self.now.saturating_since(w.since) >= Duration::from_secs(1) {
            *w = Wakes {
                count: 0,
                since: self.now,
                frames,
            };
        }
        w.count += 1;
        let limit = 12 * self.peers.len() as u32;
        assert!(w.count <= limit, "{} idle timeouts in a second", w.count);
    }

    fn enqueue(&mut self, peer: usize, to: To, arrivals: Vec<Arrival>) {
        for Arrival { at, frame, corrupt } in arrivals {
            self.order += 1;
            self.wires.push(Reverse(Flying {
                at,
                order: self.order,
                peer,
                to,
                corrupt,
                frame,
            }));
        }
    }

    fn send_up(&mut self, i: usize) {
        for segment in self.peers[i].client.take_output() {
            let frame = self.peers[i].path.up(&segment);
            self.inject(i, &frame);
        }
    }

    /// Puts a frame on the way from peer `i` to the server.
    pub(super) fn inject(&mut self, i: usize, frame: &[u8]) {
        self.say(i, ">  ", frame, "");
        let p = &mut self.peers[i];
        let arrivals = p.up.send(self.now, frame, p.path.link_len());
        self.enqueue(i, To::Server, arrivals);
    }

    /// Puts a frame before the XDP model at once.
    pub(super) fn inject_now(&mut self, i: usize, frame: &[u8]) {
        self.at_server(i, frame, false);
    }

    fn send_down(&mut self, i: usize, frame: &[u8]) {
        self.say(i, "  <", frame, "");
        let p = &mut self.peers[i];
        let l3 = p.path.link_len();
        if let Some(mtu) = p.down.refuse(frame.len() - l3) {
            if p.down.faults.icmp {
                let error = Arrival {
                    at: self.now + p.down.faults.delay,
                    frame: too_big(&p.path, frame, mtu),
                    corrupt: false,
                };
                self.enqueue(i, To::Server, vec![error]);
            }
            return;
        }
        let arrivals = p.down.send(self.now, frame, l3);
        self.enqueue(i, To::Client, arrivals);
    }

    fn at_client(&mut self, i: usize, frame: &[u8]) {
        let p = &mut self.peers[i];
        if let Ok(parsed) = wire::parse(frame)
            && parsed.dst == p.path.client
        {
            p.client.handle(self.now, &parsed.segment);
        }
        self.send_up(i);
    }

    fn at_server(&mut self, i: usize, frame: &[u8], corrupt: bool) {
        self.say(i, " > ", frame, if corrupt { "corrupt" } else { "" });
        let path = self.peers[i].path.clone();
        let parsed = match wire::parse(frame) {
            Ok(parsed) if parsed.src == path.client && parsed.dst == path.server => parsed,
            _ => {
                // XDP does not verify checksums of known flows; the endpoint must.
                if self.xdp.flows.contains(&path.flow()) {
                    let disposition = self.endpoint.handle_frame(self.now, frame);
                    assert!(
                        !matches!(
                            disposition,
                            Disposition::Accepted | Disposition::Segment | Disposition::TimeWait
                        ),
                        "{disposition:?}, but {:?}",
                        wire::parse(frame)
                    );
                    self.settle();
                }
                return;
            }
        };
        match self.xdp.judge(&path, &parsed) {
            Verdict::Answer(segment) => {
                let frame = path.down(&segment);
                self.send_down(i, &frame);
            }
            Verdict::Drop => {}
            Verdict::Redirect => {
                self.frames_in += 1;
                let p = &mut self.peers[i];
                p.monitor.heard(&p.client, &parsed.segment);
                p.reset_heard |= parsed.segment.has(wire::RST);
                let known = self.endpoint.knows(&path.flow());
                let disposition = self.endpoint.handle_frame(self.now, frame);
                assert!(
                    disposition != Disposition::Accepted || !known || !self.has_ended(i),
                    "a late copy ended a TIME-WAIT: {:?}",
                    parsed.segment
                );
                let taken = match disposition {
                    Disposition::Accepted | Disposition::Segment | Disposition::TimeWait => true,
                    // RFC 6191: a new connection out of a TIME-WAIT.
                    Disposition::Syn => parsed.segment.flags == wire::SYN,
                    _ => false,
                };
                assert!(
                    taken || !self.trust,
                    "{disposition:?} of {:?}",
                    parsed.segment
                );
                self.settle();
            }
        }
    }

    /// Events to the applications and frames to the wire until both are quiet.
    pub(super) fn settle(&mut self) {
        let mut buf = [0; 2048];
        loop {
            let mut quiet = true;
            while let Some(event) = self.endpoint.poll_event() {
                quiet = false;
                self.dispatch(event);
            }
            loop {
                if self.trains {
                    let mut frames = Vec::new();
                    let refused = self.rng.chance(0.1);
                    let taken = self.endpoint.poll_train(self.now, |train| {
                        assert!(train.len() >= 2 * usize::from(train.segment));
                        frames = train.cut();
                        !refused
                    });
                    if taken == Some(true) {
                        quiet = false;
                        self.frames_out += frames.len() as u64;
                        for frame in &frames {
                            self.transmit(frame);
                        }
                        continue;
                    }
                }
                let Some(len) = self.endpoint.poll_transmit(self.now, &mut buf) else {
                    break;
                };
                quiet = false;
                self.frames_out += 1;
                self.transmit(&buf[..len]);
            }
            if quiet {
                break;
            }
        }
    }

    /// The server is done with this connection, though perhaps not the application.
    fn has_ended(&self, peer: usize) -> bool {
        let app = &self.peers[peer].app;
        let state = |id| self.endpoint.state(id).unwrap_or(State::Closed);
        app.closed.is_some() || app.id.is_some_and(|id| state(id) == State::Closed)
    }

    fn dispatch(&mut self, event: Event) {
        if self.verbose {
            eprintln!("{:12.6} {event:?}", self.elapsed().as_secs_f64());
        }
        let peer = match event {
            Event::Accepted(id) => {
                let flow = self.endpoint.flow(id).expect("just accepted");
                let peer = self.by_flow[&flow];
                assert!(self.by_id.insert(id, peer).is_none(), "an id used twice");
                if self.has_ended(peer) {
                    self.ghosts += 1;
                    self.endpoint.abort(self.now, id);
                    return;
                }
                peer
            }
            Event::Readable(id) | Event::Writable(id) | Event::Closed(id, _) => {
                let peer = self.by_id[&id];
                if self.peers[peer].app.id != Some(id) {
                    return;
                }
                peer
            }
            Event::FlowBegan(flow) => {
                assert!(self.endpoint.knows(&flow), "an unknown flow began");
                self.xdp.flows.insert(flow);
                return;
            }
            Event::FlowEnded(flow) => {
                assert!(!self.endpoint.knows(&flow), "the flow has not ended");
                assert!(self.xdp.flows.remove(&flow), "an unknown flow ended");
                return;
            }
        };
        let app = &mut self.peers[peer].app;
        app.handle_event(self.now, &mut self.endpoint, event);
    }

    fn transmit(&mut self, frame: &[u8]) {
        let parsed = wire::parse(frame).expect("the endpoint sends whole frames");
        let flow = FlowKey::new(parsed.dst, parsed.src);
        let i = self.by_flow[&flow];
        let path = &self.peers[i].path;
        let hop_limit = frame[path.link_len() + if path.is_v6() { 7 } else { 8 }];
        assert_eq!(hop_limit, self.config.hop_limit);
        let info = if self.trust && !parsed.segment.data.is_empty() {
            let mut infos = self.endpoint.each_info(self.now);
            infos.find(|info| info.flow == flow)
        } else {
            None
        };
        let ended = self.has_ended(i);
        let p = &mut self.peers[i];
        let initial = usize::from(self.config.initial_window);
        let limits = Limits {
            mtu: usize::from(self.config.mtu),
            buffer: self.config.recv_buffer.max(initial),
            read: p.app.received,
            timer: self.timer,
            ended,
        };
        let sends = if p.app.kind == Kind::Echo {
            p.client.config.sends
        } else {
            p.client.config.expects
        };
        if self.trust {
            p.monitor
                .sent(&p.path, &p.client, &parsed, sends, info.as_ref(), &limits);
        }
        self.send_down(i, frame);
    }

    /// A new time slot for cookies.
    pub(super) fn rotate_keys(&mut self, seed: u64) {
        let keys = self.xdp.rotate(seed);
        self.endpoint.set_keys(keys);
    }

    /// Everybody is done and nothing is left of any connection.
    pub(super) fn is_over(&self) -> bool {
        self.endpoint.is_empty()
            && self.wires.is_empty()
            && self.peers.iter().all(|p| p.client.is_finished())
            // Nor does an application read on.
            && self.endpoint.each_info(self.now).next().is_none()
    }

    /// Steps until all is over, at most for `limit` of virtual time.
    pub(super) fn run(&mut self, limit: Duration) {
        self.run_with(limit, |_| {});
    }

    /// As [`Self::run`], with something to do after each step.
    pub(super) fn run_with(&mut self, limit: Duration, mut each: impl FnMut(&mut Self)) {
        let mut steps = 0u32;
        while !self.is_over() {
            assert!(self.elapsed() < limit, "stuck: {}", self.report());
            steps += 1;
            assert!(steps < 2_000_000, "endless: {}", self.report());
            if !self.step() {
                // A client that waits for a server that is gone waits for ever.
                let gone = self.endpoint.is_empty() && self.half_open;
                assert!(gone, "nothing happens any more: {}", self.report());
                break;
            }
            each(self);
        }
        assert!(self.xdp.flows.is_empty(), "flows without a connection");
        assert_eq!(
            self.endpoint.poll_deadline(),
            None,
            "a timer without a connection"
        );
        assert!(self.endpoint.infos(self.now).is_empty());
    }

    pub(super) fn report(&self) -> String {
        let peers: Vec<String> = self
            .peers
            .iter()
            .filter(|p| !p.client.is_finished() || self.peers.len() == 1)
            .map(|p| format!("{:?}\n  {:?}\n  {:?}", p.client, p.app, p.monitor))
            .collect();
        format!(
            "after {:?}, {} frames in, {} out\nendpoint {:?}\npeers {}",
            self.elapsed(),
            self.frames_in,
            self.frames_out,
            self.endpoint.infos(self.now),
            peers.join("\n")
        )
    }

    /// Both streams of each connection arrived whole and both sides closed in order.
    pub(super) fn assert_complete(&self) {
        for i in 0..self.peers.len() {
            self.assert_peer_complete(i);
        }
    }

    /// As [`Self::assert_complete`], of peer `i`.
    pub(super) fn assert_peer_complete(&self, i: usize) {
        let p = &self.peers[i];
        let c = &p.client;
        let context = || format!("peer {i}: {}", self.report());
        assert_eq!(c.outcome, Some(Outcome::Done), "{}", context());
        assert_eq!(p.app.received, c.config.send, "{}", context());
        let done = p.app.closed == Some(CloseReason::Done);
        assert!(p.app.eof || done, "{}", context());
        let sent = match p.app.kind {
            Kind::Echo => c.config.send,
            Kind::Source(n) | Kind::SourceLast(n) | Kind::Greeting(n) => n,
            _ => 0,
        };
        assert_eq!((p.app.sent, c.received()), (sent, sent), "{}", context());
        assert!(c.fin_received(), "{}", context());
        // After its TIME-WAIT the client answers a FIN that still comes with RST.
        assert!(done || p.reset_heard, "{:?}: {}", p.app.closed, context());
    }
}
