//! Two namespaces, a wire, and the server in one of them.

use aya::maps::{Array, HashMap, Map, MapData};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};
use tcp_common::abi::{self, FilterBlock, Flow};
use tcp_common::flow::FlowKey;
use xtask::netns::{Namespace, VethEnd, VethPair};

/// The served interface.
pub const IFACE: &str = "eth0";
/// The client's end of the wire.
pub const PEER: &str = "peer0";
pub const V4: &str = "192.0.2.2";
pub const V6: &str = "2001:db8::2";
/// What [`Lab::serve`] serves.
pub const LISTENS: [&str; 8] = [
    "--listen",
    "*:80=http",
    "--listen",
    "*:7=echo",
    "--listen",
    "*:9=discard",
    "--listen",
    "*:19=chargen",
];

/// Long enough to wait for an answer that must not come.
pub const SHORT: Duration = Duration::from_millis(400);
/// For what must happen, but may take its time where the machine is busy. What is fast when all is
/// well is asserted by what happened, not by a clock.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Waits until it is so.
pub fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Dropped in this order: the server first.
pub struct Lab {
    pub client: Namespace,
    pub server: Namespace,
    _pair: VethPair,
}

/// A running `tcp-user run`; killed when dropped.
pub struct Server {
    child: Child,
    lines: Receiver<String>,
    /// The line that it printed first.
    pub ready: String,
    /// Path of its control socket.
    pub control: String,
}

impl Lab {
    pub fn new() -> Self {
        Self::with_queues(1)
    }

    pub fn with_queues(queues: u32) -> Self {
        let client = Namespace::unique("client").unwrap();
        let server = Namespace::unique("server").unwrap();
        let pair = VethPair::with(
            &VethEnd::new(&client, PEER)
                .address("192.0.2.1/24")
                .address("2001:db8::1/64")
                .pass_program(),
            &VethEnd::new(&server, IFACE)
                .address("192.0.2.2/24")
                .address("2001:db8::2/64"),
            1500,
            queues,
        )
        .unwrap();
        Self {
            client,
            server,
            _pair: pair,
        }
    }

    /// The four apps on every address, with extra arguments; waits until it is ready.
    pub fn serve(&self, extra: &[&str]) -> Server {
        let mut args = LISTENS.to_vec();
        args.extend(extra);
        self.run(&args)
    }

    /// `tcp-user run --iface eth0` with these arguments; waits until it is ready.
    pub fn run(&self, args: &[&str]) -> Server {
        let control = format!("/tmp/{}.sock", self.server.name());
        let mut command = self.server.command(env!("CARGO_BIN_EXE_tcp-user"));
        command
            .args(["run", "--iface", IFACE, "--control", &control])
            .args(args);
        Server::start(command, control)
    }

    /// An example of the crate that serves `listen`, over the kernel's TCP if told to;
    /// waits until it is ready.
    pub fn example(&self, name: &str, listen: &str, kernel: bool, args: &[&str]) -> Server {
        let control = format!("/tmp/{}.sock", self.server.name());
        let path = examples().join(name);
        let mut command = self.server.command(path.to_str().unwrap());
        if kernel {
            command.arg("--kernel");
        }
        command
            .args(["--iface", IFACE, "--control", &control, listen])
            .args(args);
        Server::start(command, control)
    }

    /// `tcp-user` with these arguments in the server's namespace, until it ends.
    pub fn refused(&self, args: &[&str]) -> (Option<i32>, String) {
        finish(
            self.server
                .command(env!("CARGO_BIN_EXE_tcp-user"))
                .args(args),
        )
    }

    /// A kernel TCP connection from the client's namespace.
    pub fn connect(&self, addr: &str) -> TcpStream {
        let stream = self.try_connect(addr, PATIENCE).unwrap();
        let timeout = Some(PATIENCE);
        stream.set_read_timeout(timeout).unwrap();
        stream.set_write_timeout(timeout).unwrap();
        stream
    }

    /// The same, if it comes about.
    pub fn try_connect(&self, addr: &str, within: Duration) -> std::io::Result<TcpStream> {
        let addr: SocketAddr = addr.parse().unwrap();
        self.client
            .enter(|| TcpStream::connect_timeout(&addr, within))
            .unwrap()
    }

    /// Waits until nothing is served there any more, and the kernel refuses it.
    pub fn wait_until_refused(&self, addr: &str) {
        wait_for(&format!("{addr} to be refused"), || {
            let error = self.try_connect(addr, PATIENCE).err();
            error.is_some_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused)
        });
    }

    /// Waits until a server that was told to stop answers no SYN any more.
    pub fn wait_until_stopping(&self, server: &Server, addr: &str) {
        wait_for("the server to stop", || {
            // Those that are answered before are closed at once.
            let _ = self.try_connect(addr, SHORT);
            server.stats().xdp["drop_stopping"] > 0
        });
    }

    /// Connections of the client that an RST has ended, from either side.
    pub fn client_resets(&self) -> u64 {
        tcp_counter(&self.client, "EstabResets")
    }

    /// Neither side sent an RST. The client's kernel answers with one what comes for a connection that
    /// it has closed: that may be the answer to what it sent twice, because the machine stood still.
    pub fn assert_no_resets(&self) {
        assert_no_resets(&self.client);
    }

    /// Frames that the served interface has received, and those that the client's end
    /// could not put on the wire.
    pub fn frames(&self) -> (u64, u64) {
        let count = |namespace: &Namespace, interface, what| {
            let path = format!("/sys/class/net/{interface}/statistics/{what}");
            let text = namespace.run("cat", &[&path]).unwrap();
            text.trim().parse().unwrap()
        };
        (
            count(&self.server, IFACE, "rx_packets"),
            count(&self.client, PEER, "tx_dropped"),
        )
    }

    /// Whether an XDP program is attached to the served interface.
    pub fn is_attached(&self) -> bool {
        let link = self
            .server
            .run("ip", &["-d", "link", "show", "dev", IFACE])
            .unwrap();
        link.contains("prog/xdp") || link.contains(" xdp")
    }
}

/// CPUs of the machine: a limit per CPU is one for each of them.
pub fn cpus() -> u64 {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap();
    let cpus = text.lines().filter(|l| l.starts_with("processor"));
    cpus.count() as u64
}

/// A counter of the TCP of a namespace's kernel, by its name in `/proc/net/snmp`.
pub fn tcp_counter(namespace: &Namespace, name: &str) -> u64 {
    let snmp = namespace.run("cat", &["/proc/net/snmp"]).unwrap();
    let mut tcp = snmp.lines().filter(|l| l.starts_with("Tcp:"));
    let (names, values) = (tcp.next().unwrap(), tcp.next().unwrap());
    let mut pairs = names.split(' ').zip(values.split(' '));
    let (_, value) = pairs.find(|(n, _)| *n == name).unwrap();
    value.parse().unwrap()
}

/// [`Lab::assert_no_resets`] of any client.
pub fn assert_no_resets(client: &Namespace) {
    assert_eq!(tcp_counter(client, "EstabResets"), 0, "connections reset");
    let (sent, twice) = (
        tcp_counter(client, "OutRsts"),
        tcp_counter(client, "RetransSegs"),
    );
    assert!(
        sent <= twice,
        "{sent} RSTs of the client, {twice} retransmissions"
    );
}

/// Where the examples are, built like the server. `cargo xtask test` builds them before it
/// runs this as root; under cargo they are built here.
fn examples() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        if std::env::var_os("CARGO").is_some() {
            let mut cargo = xtask::workspace::cargo();
            cargo.args(["build", "--package", "tcp-user", "--examples"]);
            assert!(cargo.status().unwrap().success());
        }
        let server = Path::new(env!("CARGO_BIN_EXE_tcp-user"));
        server.with_file_name("examples")
    })
}

impl Server {
    /// Waits for the ready line.
    fn start(mut command: Command, control: String) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let (to, lines) = channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if to.send(line).is_err() {
                    break;
                }
            }
        });
        let ready = lines.recv_timeout(PATIENCE).expect("a ready line");
        Self {
            child,
            lines,
            ready,
            control,
        }
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid()), signal).unwrap();
    }

    /// Waits for the end; none if it does not come within `at_most`.
    pub fn wait(&mut self, at_most: Duration) -> Option<ExitStatus> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return Some(status);
            }
            if start.elapsed() > at_most {
                return None;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits for the end, which must come; how it ended.
    pub fn ended(&mut self) -> ExitStatus {
        self.wait(PATIENCE).expect("the server ends")
    }

    /// What it printed after the ready line, up to the first line with this text.
    pub fn printed_until(&self, text: &str) -> Vec<String> {
        let mut all = Vec::new();
        loop {
            let Ok(line) = self.lines.recv_timeout(PATIENCE) else {
                panic!("no line with {text}: {all:#?}");
            };
            let is_last = line.contains(text);
            all.push(line);
            if is_last {
                return all;
            }
        }
    }

    /// User and system time so far.
    pub fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        let ticks: u64 = fields[11..13]
            .iter()
            .map(|t| t.parse::<u64>().unwrap())
            .sum();
        // USER_HZ is 100 everywhere.
        Duration::from_millis(ticks * 10)
    }

    /// How often its threads have slept and were woken.
    pub fn wakeups(&self) -> u64 {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
        let each = tasks.filter_map(|task| {
            let status = std::fs::read_to_string(task.ok()?.path().join("status")).ok()?;
            let mut lines = status.lines();
            let count = lines.find_map(|l| l.strip_prefix("voluntary_ctxt_switches:"));
            count?.trim().parse::<u64>().ok()
        });
        each.sum()
    }

    /// Resident memory, kB.
    pub fn memory_kb(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Entries of the `FLOWS` map; the filter in front of it must count as many, once nobody is
    /// between changing the one and the other.
    pub fn flows(&self) -> usize {
        let maps = std::fs::read_dir(format!("/proc/{}/fdinfo", self.pid())).unwrap();
        let ids: Vec<u32> = maps
            .filter_map(|entry| {
                let info = std::fs::read_to_string(entry.ok()?.path()).ok()?;
                let id = info.lines().find_map(|l| l.strip_prefix("map_id:"))?;
                id.trim().parse().ok()
            })
            .collect();
        let map = |name| {
            ids.iter()
                .filter_map(|id| MapData::from_id(*id).ok())
                .find(|map| map.info().unwrap().name_as_str() == Some(name))
                .expect("the server holds the map")
        };
        let flows = Map::HashMap(map(abi::FLOWS));
        let flows: HashMap<_, FlowKey, Flow> = flows.try_into().unwrap();
        let filter = Map::Array(map(abi::FLOW_FILTER));
        let filter: Array<_, FilterBlock> = filter.try_into().unwrap();
        let mut count = 0;
        wait_for("as many flows as the flow filter has", || {
            // A key that goes meanwhile makes the iteration fail, or begin again.
            let Ok(keys) = flows.keys().collect::<Result<Vec<_>, _>>() else {
                return false;
            };
            count = keys.len();
            let blocks = filter.iter();
            let counts = blocks.map(|block| block.unwrap().iter().sum::<u32>());
            counts.sum::<u32>() as usize == count
        });
        count
    }

    /// `stats --json` of this server.
    pub fn stats(&self) -> tcp_user::control::records::Stats {
        let out = self.client("stats", &["--json"]);
        serde_json::from_str(&out).unwrap()
    }

    /// `conns --json` of this server.
    pub fn conns(&self) -> Vec<tcp_user::control::records::Connection> {
        serde_json::from_str(&self.client("conns", &["--json"])).unwrap()
    }

    /// A client command's stdout.
    pub fn client(&self, command: &str, args: &[&str]) -> String {
        let output = Command::new(env!("CARGO_BIN_EXE_tcp-user"))
            .arg(command)
            .args(args)
            .args(["--control", &self.control])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.control);
        // Of `--tune`, for the next run: the namespace goes, too.
        let record = std::path::Path::new(&self.control).with_extension("sysctls");
        let _ = std::fs::remove_file(record);
    }
}

/// Runs to the end; exit code and stderr.
pub fn finish(command: &mut Command) -> (Option<i32>, String) {
    let output = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .output()
        .unwrap();
    (
        output.status.code(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

/// Reads to the end.
pub fn read_all(mut stream: &TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    all
}

/// Writes everything and then closes its half, reading all that comes meanwhile.
pub fn exchange(stream: &TcpStream, data: &[u8]) -> Vec<u8> {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut to = stream;
            to.write_all(data).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
        });
        read_all(stream)
    })
}

/// Octets that no shift maps onto themselves.
pub fn noise(len: usize) -> Vec<u8> {
    let mut x = 0x2545_f491_4f6c_dd1d_u64;
    (0..len)
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            (x >> 32) as u8
        })
        .collect()
}

/// What `GET /bytes/N` sends at a position.
pub fn octet(position: usize) -> u8 {
    let place = (position % 65_521) as u32 + 1;
    (place.wrapping_mul(2_654_435_761) >> 24) as u8
}
