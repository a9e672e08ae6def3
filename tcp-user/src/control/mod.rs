//! Everything that is not the path of a frame: configuration, loading, keys, counters,
//! the control socket, and the life of the server.

pub mod attached;
pub mod attack;
pub mod client;
pub mod config;
pub mod doctor;
mod drain;
pub mod draw;
pub mod embed;
pub mod filter;
pub mod flows;
pub mod ladder;
pub mod listen;
mod live;
pub mod loader;
pub mod metrics;
pub mod netlink;
pub mod orders;
pub mod privileges;
pub mod proxied;
pub mod rates;
pub mod records;
mod reload;
pub mod secrets;
pub mod server;
mod services;
pub mod shield;
pub mod sources;
mod stop;
pub mod sweep;
pub mod top;
pub mod trace;

use crate::app::{App, Apps, proxy};
use crate::dataplane::capture::{Capture, Files};
use crate::dataplane::faults::FaultPlan;
use crate::dataplane::nic::Nic;
use crate::dataplane::tap::Tap;
use crate::dataplane::trains::TrainSocket;
use crate::dataplane::worker::{Command, Commands, Worker};
use crate::dataplane::xsk::{self, XskDevice};
use crate::proto::{Endpoint, State};
use anyhow::{Context, Result, anyhow, bail};
use config::{Config, RequireTimestamps};
use listen::{Listen, Policy};
use loader::{Mode, Program};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use orders::Order;
use records::SecretInfo;
use secrets::{Clock, Master, Now, Rotation};
use services::Services;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};
use stop::{Stop, Told, told};

/// How often addresses, keys and workers are looked at.
const TICK: Duration = Duration::from_secs(1);
/// How often that the workers may let new keys wait; then they have other troubles.
const KEYS_TICKS: u32 = 10;
/// How often the last connections are waited for.
const STOP_TICK: Duration = Duration::from_millis(50);

/// What `tcp-user run` was asked for.
#[derive(Debug)]
pub struct Options {
    /// `--iface`.
    pub interface: String,
    /// `--mode`.
    pub mode: Mode,
    /// `--config`, `--set` and `--listen`; `None`: there is nothing to read again.
    pub origin: Option<config::Origin>,
    /// What came of them; [`config::Origin::load`] has checked it.
    pub config: Config,
    /// `--replace`.
    pub replace: bool,
    /// `--tune`.
    pub tune: bool,
    /// `--control`.
    pub control: Option<PathBuf>,
    /// `--user`; `None`: everything is kept, as for a part of another program.
    pub privileges: Option<privileges::Privileges>,
    /// `--metrics`.
    pub metrics: Option<metrics::Address>,
    /// `--trace`.
    pub trace: bool,
    /// `--pcap`.
    pub pcap: Option<Files>,
    /// `--faults`.
    pub faults: Option<FaultPlan>,
    /// The policy of [`crate::net::TcpListener`]s.
    pub streams: Policy,
}

/// Runs the server until SIGINT or SIGTERM. An error before the ready line leaves
/// nothing attached.
pub fn run(options: Options) -> Result<()> {
    // Before any thread starts, so that all of them inherit it.
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGHUP);
    signals.thread_block()?;
    let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
    let stop = Stop::Signals(signals);

    let mut server = Server::start(options)?;
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{}", server.ready);
    let _ = out.flush();
    drop(out);
    server.wait(&stop)?;
    server.stop(&stop)
}

struct Server {
    nic: Nic,
    origin: Option<config::Origin>,
    listens: Vec<Listen>,
    services: Services,
    config: Config,
    program: Program,
    rotation: Rotation,
    workers: Vec<Worker>,
    hub: trace::Hub,
    sweep: sweep::Sweep,
    orders: orders::Inbox,
    attack: attack::Guard,
    desk: orders::Desk,
    /// What `tcp-user run` prints when it answers SYNs.
    ready: String,
    drained: Vec<listen::Place>,
    streams: Policy,
    capture: Option<Capture>,
    backends: proxy::Watch,
    shield: shield::Watch,
    counters: loader::Counters,
    _control: server::Socket,
}

impl Server {
    fn start(options: Options) -> Result<Self> {
        let Options {
            interface,
            mode,
            origin,
            config,
            replace,
            tune,
            control,
            privileges,
            metrics,
            trace,
            pcap,
            faults,
            streams,
        } = options;
        let listens = config.listen.clone();
        let nic = Nic::find(&interface)
            .with_context(|| format!("--iface {interface}"))?
            .ok_or_else(|| anyhow!("--iface {interface}: no such interface"))?;

        let account = match &privileges {
            Some(privileges) => privileges.account(tune)?,
            None => None,
        };

        let mut engine = config.engine(nic.queues);
        engine.mtu = (nic.mtu as usize).min(xsk::MAX_PACKET) as u16;
        engine.partial_checksums = nic.partial_checksums();
        let metrics = metrics
            .map(|at| metrics::Server::bind(at).with_context(|| format!("--metrics {at}")))
            .transpose()?;
        let (master, clock) = match &config.cookie.secret_file {
            Some(path) => (Master::read(path)?, Clock::Shared),
            None => (Master::random()?, Clock::Local),
        };
        let rotation = Rotation::new(master, config.cookie.slot, clock, Now::read());
        let secrets = rotation.secrets();

        let mut program = Program::load(&config, &engine, secrets, nic.queues)?;
        program.set_addresses(&nic.addresses()?)?;
        let control = control.unwrap_or_else(|| server::default_path(&interface));
        let path = control;
        let record = tune.then(|| path.with_extension("sysctls"));
        let control =
            server::Socket::bind(&path).with_context(|| format!("--control {}", path.display()))?;
        privileges::give(&path, account)?;
        if replace && !attached::find(nic.index).is_empty() {
            // Its server may hold the queues; then nothing is to be changed.
            XskDevice::bind(nic.index, 0, true).map_err(explain_socket)?;
        }
        let mode = program.attach(&nic, mode, replace)?;
        let examined = doctor::at_start(&nic);

        let mut devices = Vec::new();
        for queue in 0..nic.queues {
            let mut device =
                XskDevice::bind(nic.index, queue, mode == Mode::Generic).map_err(explain_socket)?;
            if config.tcp.segmentation_offload {
                device = match TrainSocket::open(nic.index) {
                    Ok(socket) => device.with_trains(socket),
                    Err(error) => {
                        tracing::info!(%error, "segments go one by one");
                        device
                    }
                };
            }
            program.set_socket(queue, device.socket())?;
            devices.push(device);
        }
        let zero_copy = devices.iter().all(XskDevice::zero_copy);
        let capture = pcap
            .map(|files| -> Result<_> {
                let context = format!("--pcap {}", files.path.display());
                let capture = Capture::create(files, &interface).context(context)?;
                privileges::give(capture.path(), account)?;
                Ok(capture)
            })
            .transpose()?;
        if privileges.is_some() {
            let shields = listens.iter().any(|l| matches!(l.app, App::Kernel));
            let needed = privileges::needed(tune, shields);
            privileges::drop_to(account, &needed).context("drop privileges")?;
        }

        // From here on there are threads.
        let backends = open_backends(&listens, &config)?;
        let capture = capture.map(|c| Capture::start(c, secrets)).transpose()?;
        let (hub, sink) = trace::Hub::start()?;
        let services = Services::start(&listens).context("tokio")?;
        let lookup = services.lookup();
        let mut workers = Vec::new();
        for (queue, device) in (0..).zip(devices) {
            let mut seed = [0; 8];
            getrandom::fill(&mut seed).map_err(secrets::Error::Random)?;
            let endpoint = Endpoint::new(engine.clone(), secrets, u64::from_ne_bytes(seed));
            let lookup = Arc::clone(&lookup);
            let apps = move |wake| Apps::new(lookup, wake);
            let flows = Box::new(program.flows()?);
            let sink = sink.clone();
            workers.push(if capture.is_some() || faults.is_some() {
                let mut tap = Tap::new(device);
                if let Some(plan) = faults {
                    tap = tap.with_faults(plan.faults, plan.seed.wrapping_add(queue.into()));
                }
                if let Some(capture) = &capture {
                    tap = tap.with_capture(capture.recorder(&engine));
                }
                Worker::spawn(queue, tap, endpoint, apps, flows, sink)?
            } else {
                Worker::spawn(queue, device, endpoint, apps, flows, sink)?
            });
        }
        let commands: Vec<Commands> = workers.iter().map(|w| w.commands().clone()).collect();
        if commands.len() > 1 {
            for worker in &commands {
                worker.send(Command::Peers(commands.clone()));
            }
        }
        hub.set_workers(commands.clone());
        if trace {
            ladder::print(&hub)?;
        }
        let (desk, orders) = orders::pair()?;
        let attack = attack::Guard::new(config.cookie.attack_rate, config.xdp.adaptive_rate);
        let sources = Arc::new(server::Sources {
            threat: attack.shared(),
            interface: nic.name.clone(),
            examined,
            counters: program.counters()?,
            workers: commands.clone(),
            hub: hub.clone(),
            desk: desk.clone(),
            pools: backends.pools(),
        });
        control.serve(Arc::clone(&sources))?;
        if let Some(metrics) = metrics {
            metrics.serve(move || {
                let snapshot = metrics::Snapshot {
                    stats: server::stats(&sources),
                    interface: sources.interface.clone(),
                };
                snapshot.encode().ok()
            })?;
        }
        let counters = program.counters()?;
        let sweep = sweep::Sweep::new(program.flows()?, commands);

        let mut shield = shield::Watch::new(record, config.xdp.adaptive_rate);
        program.set_shields(shield.look(&listens, nic.index, nic.mtu))?;
        program.serve(&listens)?;
        let described = shield::describe(&listens, shield.is_tuned());
        let mode_of_shield = described
            .as_ref()
            .map_or_else(String::new, |(mode, findings)| {
                for finding in findings {
                    eprintln!("tcp-user: {finding}");
                }
                format!(" shield={mode}")
            });
        let ready = format!(
            "ready iface={} mode={mode} queues={} zerocopy={}{mode_of_shield}",
            nic.name,
            nic.queues,
            if zero_copy { "yes" } else { "no" },
        );
        Ok(Self {
            nic,
            origin,
            listens,
            services,
            config,
            program,
            rotation,
            workers,
            hub,
            sweep,
            orders,
            attack,
            desk,
            ready,
            drained: Vec::new(),
            streams,
            capture,
            backends,
            shield,
            counters,
            _control: control,
        })
    }

    /// Until it is to stop.
    fn wait(&mut self, stop: &Stop) -> Result<()> {
        loop {
            // The next slot is waited for to the millisecond.
            let slot = self.rotation.remaining(Now::read());
            let timeout = TICK.min(slot + Duration::from_millis(1));
            match told(stop, Some(&self.orders), timeout)? {
                None => {}
                Some(Told::Reload) => match self.reload() {
                    Ok(reloaded) => eprintln!("tcp-user: reload: {reloaded}"),
                    Err(error) => eprintln!("tcp-user: reload: {error}"),
                },
                Some(Told::Stop) => return Ok(()),
            }
            self.tick()?;
            while let Some(order) = self.orders.next() {
                self.follow(order);
            }
        }
    }

    fn tick(&mut self) -> Result<()> {
        if self.workers.iter().any(Worker::is_finished) {
            for worker in self.workers.drain(..).filter(Worker::is_finished) {
                worker.join()?;
            }
            bail!("a worker has ended");
        }
        let now = Now::read();
        if self.rotation.advance(now) {
            tracing::debug!("cookie keys");
            self.rotate()?;
        }
        let counted = self.counters.read();
        let before = self.attack.threat();
        if let Some(threat) = self.attack.look(now.boot, &counted) {
            self.program.configure(&self.config, threat)?;
            let refusing = self.config.cookie.require_timestamps == RequireTimestamps::UnderAttack;
            if threat.attacked != before.attacked {
                tracing::warn!(threat.attacked, refusing, "attack");
            }
            if threat.flooded != before.flooded && self.is_adaptive() {
                tracing::warn!(threat.flooded, "SYNs to adaptive listens");
            }
        }
        match self.nic.addresses() {
            Ok(addresses) => {
                if self.program.set_addresses(&addresses)? {
                    tracing::info!(interface = self.nic.name, ?addresses, "addresses changed");
                }
            }
            Err(error) => tracing::debug!(%error, "addresses"),
        }
        if self.is_adaptive() {
            self.shield.count(now.boot, &counted);
        }
        self.look_at_listeners()?;
        self.sweep.tick();
        Ok(())
    }

    /// Whether any listen is adaptive.
    fn is_adaptive(&self) -> bool {
        self.listens.iter().any(|l| l.policy == Policy::Adaptive)
    }

    /// What the listens that are the kernel's need now.
    fn look_at_listeners(&mut self) -> Result<(), loader::Error> {
        let table = self
            .shield
            .look(&self.listens, self.nic.index, self.nic.mtu);
        self.program.set_shields(table)
    }

    /// A client that has gone does not hear the answer.
    fn follow(&mut self, order: Order) {
        match order {
            Order::Listens(answer) => {
                let _ = answer.send(Ok(self.listen_infos()));
            }
            Order::Policy(place, policy, answer) => {
                let _ = answer.send(self.set_policy(place, policy));
            }
            Order::AddListen(listen, answer) => {
                let _ = answer.send(self.add_listen(listen));
            }
            Order::RemoveListen(place, answer) => {
                let _ = answer.send(self.remove_listen(place));
            }
            Order::Sources(change, answer) => {
                let _ = answer.send(self.change_sources(change));
            }
            Order::Bind(local, acceptor, answer) => {
                let _ = answer.send(self.bind(local, acceptor));
            }
            Order::Unbind(local) => {
                if let Err(error) = self.unbind(local) {
                    tracing::warn!(%local, error, "unbind");
                }
            }
            Order::Secret(answer) => {
                let _ = answer.send(Ok(SecretInfo {
                    id: self.rotation.id(),
                    in_s: 0.0,
                }));
            }
            Order::Rotate(answer) => {
                let _ = answer.send(self.replace_secret());
            }
            Order::Drain(places, answer) => {
                let _ = answer.send(self.drain(&places));
            }
            Order::Reload(answer) => {
                let _ = answer.send(self.reload());
            }
        }
    }

    fn replace_secret(&mut self) -> Result<SecretInfo, String> {
        let master = match &self.config.cookie.secret_file {
            Some(path) => Master::read(path),
            None => Master::random(),
        }
        .map_err(|e| e.to_string())?;
        let now = Now::read();
        let id = master.id();
        let in_s = self.rotation.replace(master, now).as_secs_f64();
        if self.rotation.advance(now) {
            self.rotate().map_err(|e| format!("{e:#}"))?;
        }
        tracing::info!(id, in_s, "secret");
        Ok(SecretInfo { id, in_s })
    }

    /// The workers first: a cookie that XDP accepts is never unknown to them.
    fn rotate(&mut self) -> Result<()> {
        let secrets = self.rotation.secrets();
        let (to, from) = sync_channel(self.workers.len());
        for worker in &self.workers {
            worker.commands().send(Command::Keys(secrets, to.clone()));
        }
        drop(to);
        // A busy machine keeps a worker waiting, and a stopped process loses any number of seconds.
        let (mut missing, mut ticks) = (self.workers.len(), 0);
        while missing > 0 && ticks < KEYS_TICKS {
            match from.recv_timeout(TICK) {
                Ok(()) => missing -= 1,
                Err(RecvTimeoutError::Timeout) => ticks += 1,
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        if let Some(capture) = &self.capture {
            capture.set_keys(secrets);
        }
        self.program.write_secrets(secrets)?;
        self.rotation.in_use(Now::read());
        Ok(())
    }

    /// Lets connections end, then ends them.
    fn stop(mut self, stop: &Stop) -> Result<()> {
        let stopping = Instant::now();
        self.program.stop()?;
        drop(self.orders);
        tracing::info!(listens = self.listens.len(), "stopping");
        let commands: Vec<Commands> = self.workers.iter().map(|w| w.commands().clone()).collect();
        for worker in &commands {
            worker.send(Command::Drain);
        }
        let end = Instant::now() + self.config.shutdown.grace;
        while Instant::now() < end {
            // TIME-WAIT needs no waiting for: the kernel's RST to a late segment is harmless.
            let census = server::census(&commands);
            let open = census.states.keys().any(|s| *s != State::TimeWait);
            let gone = self.workers.iter().any(Worker::is_finished);
            let again = told(stop, None, STOP_TICK)? == Some(Told::Stop);
            if !open || gone || again {
                break;
            }
        }
        if self.shield.is_tuned() {
            // The last cookies come back as ACKs, which the kernel has to read as they were made.
            std::thread::sleep(shield::LAST_ACKS.saturating_sub(stopping.elapsed()));
            self.shield.restore();
        }
        for worker in &commands {
            worker.send(Command::Abort);
        }
        let ended: Vec<_> = self.workers.drain(..).map(Worker::join).collect();
        self.program.detach();
        self.services.stop();
        self.hub.close();
        if let Some(capture) = self.capture.take() {
            capture.finish();
        }
        for result in ended {
            result?;
        }
        Ok(())
    }
}

/// Finds and watches the backends of all listens.
fn open_backends(listens: &[Listen], config: &Config) -> Result<proxy::Watch> {
    let mut watch = proxy::Watch::new(config.proxy.settings());
    let mut any = false;
    for listen in listens {
        if let App::Proxy(pool) = &listen.app {
            watch
                .open(pool)
                .map_err(|e| anyhow!("--listen {listen}: {e}"))?;
            any = true;
        }
    }
    if any {
        allow_descriptors()?;
    }
    Ok(watch)
}

/// A connection to a backend takes a descriptor.
fn allow_descriptors() -> nix::Result<()> {
    let limit = Resource::RLIMIT_NOFILE;
    let (soft, hard) = getrlimit(limit)?;
    if soft < hard {
        setrlimit(limit, hard, hard)?;
    }
    Ok(())
}

fn explain_socket(error: xsk::Error) -> anyhow::Error {
    let number = match &error {
        xsk::Error::Socket { error, .. } | xsk::Error::Memory { error, .. } => error.raw_os_error(),
    };
    match number {
        Some(libc::EPERM | libc::EACCES) => {
            loader::Error::NotPermitted("open an AF_XDP socket").into()
        }
        Some(libc::EBUSY) => {
            anyhow!("{error} (another process has an AF_XDP socket there; end it first)")
        }
        Some(libc::EAFNOSUPPORT | libc::ENOPROTOOPT) => {
            loader::Error::KernelFeature("AF_XDP (CONFIG_XDP_SOCKETS)".into()).into()
        }
        _ => error.into(),
    }
}
