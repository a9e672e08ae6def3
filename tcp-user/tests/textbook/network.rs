//! The two hosts of the textbook, the server on one of them, and looks at both.

use crate::capture::{Capture, Segment, Side};
use serde_json::Value;
use socket2::{Domain, Socket, Type};
use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};
use xtask::netns::{Namespace, VethEnd, VethPair};

pub const CLIENT: &str = "192.168.1.100:12345";
pub const SERVER: &str = "192.168.2.200:80";
pub const SERVER_PORT: u16 = 80;
pub const MSL: Duration = Duration::from_secs(4);
const PATIENCE: Duration = Duration::from_secs(90);

/// One line of the server's trace.
#[derive(Debug)]
pub struct Record {
    pub from: Side,
    pub syn: bool,
    pub fin: bool,
    pub seq: u32,
    pub ack: u32,
    pub len: usize,
    pub server: String,
    pub by_xdp: bool,
}

/// Ends a process when dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Fields are dropped in this order: processes before namespaces.
pub struct Lab {
    capture: Capture,
    trace: Receiver<String>,
    records: Vec<Record>,
    _tracer: Process,
    _server: Process,
    _pair: VethPair,
    client: Namespace,
    _server_side: Namespace,
    control: PathBuf,
}

impl Lab {
    pub fn new(tag: &str) -> Self {
        let client = Namespace::unique(&format!("{tag}-c")).unwrap();
        let server = Namespace::unique(&format!("{tag}-s")).unwrap();
        let pair = VethPair::create(
            &VethEnd::new(&client, "eth0")
                .address("192.168.1.100/24")
                .pass_program(),
            &VethEnd::new(&server, "eth0").address("192.168.2.200/24"),
        )
        .unwrap();
        client
            .run("ip", &["route", "add", "192.168.2.0/24", "dev", "eth0"])
            .unwrap();
        server
            .run("ip", &["route", "add", "192.168.1.0/24", "dev", "eth0"])
            .unwrap();
        let dir = std::env::temp_dir();
        let control = dir.join(format!("textbook-{}-{tag}.sock", std::process::id()));
        let msl = format!("tcp.msl={}s", MSL.as_secs());
        let mut server_process = Process(
            server
                .command(env!("CARGO_BIN_EXE_tcp-user"))
                .args(["run", "--iface", "eth0", "--mode", "native"])
                .args(["--listen", &format!("{SERVER}=http"), "--set", &msl])
                .args(["--control", control.to_str().unwrap()])
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap(),
        );
        let mut ready = String::new();
        lines(&mut server_process.0).read_line(&mut ready).unwrap();
        assert!(
            ready.starts_with("ready iface=eth0 mode=native queues=1"),
            "{ready}"
        );
        let mut tracer = Process(
            Command::new(env!("CARGO_BIN_EXE_tcp-user"))
                .args(["trace", "--json", "--control", control.to_str().unwrap()])
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap(),
        );
        let (sender, trace) = channel();
        let records = lines(&mut tracer.0);
        std::thread::spawn(move || {
            for line in records.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        wait_for_tracer(&client, &trace);
        wait_for("the end of what was traced for that", || {
            connections(&control).is_empty()
        });
        let file = dir.join(format!("textbook-{}-{tag}.pcap", std::process::id()));
        let capture = Capture::start(&client, "eth0", file);
        Self {
            capture,
            records: Vec::new(),
            trace,
            _tracer: tracer,
            _server: server_process,
            _pair: pair,
            client,
            _server_side: server,
            control,
        }
    }

    /// Connects from the textbook's port. The receive buffer is small, so that a
    /// client that does not read holds the server back.
    pub fn connect(&self) -> TcpStream {
        let (from, to): (SocketAddr, SocketAddr) =
            (CLIENT.parse().unwrap(), SERVER.parse().unwrap());
        let socket = self
            .client
            .enter(|| Socket::new(Domain::IPV4, Type::STREAM, None).unwrap())
            .unwrap();
        socket.set_recv_buffer_size(32 * 1024).unwrap();
        socket.bind(&from.into()).unwrap();
        socket.connect_timeout(&to.into(), PATIENCE).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.into()
    }

    /// Waits until the client's kernel has the connection in `state`, by ss.
    pub fn wait_for_client_state(&self, state: &str) {
        wait_for(state, || {
            let all = self
                .client
                .run("ss", &["-Htan", "sport", "=", ":12345"])
                .unwrap();
            all.split_whitespace().next() == Some(state)
        });
    }

    pub fn wait_for_server_state(&self, state: &str) {
        wait_for(state, || self.connections() == [state]);
    }

    /// Waits until the server has no connection any more.
    pub fn wait_for_end(&self) {
        wait_for("the end", || self.connections().is_empty());
    }

    pub fn wait_for_segments(&self, count: usize) {
        self.wait_for_capture(|segments| segments.len() >= count);
    }

    /// Waits until tcpdump has written so much.
    pub fn wait_for_capture(&self, is_enough: impl Fn(&[Segment]) -> bool) {
        wait_for("segments", || is_enough(&self.captured()));
    }

    /// States of the server's connections, by `tcp-user conns`.
    pub fn connections(&self) -> Vec<String> {
        connections(&self.control)
    }

    pub fn captured(&self) -> Vec<Segment> {
        self.capture.segments()
    }

    /// The server's trace of the connection, up to the first record that is `wanted`.
    pub fn trace_until(&mut self, wanted: impl Fn(&Record) -> bool) -> &[Record] {
        while !self.records.iter().any(&wanted) {
            let Ok(line) = self.trace.recv_timeout(PATIENCE) else {
                panic!("not in the trace: {:#?}", self.records);
            };
            let v: Value = serde_json::from_str(&line).unwrap();
            if v["remote"] != CLIENT {
                continue;
            }
            let number = |key: &str| v[key].as_u64().unwrap();
            let flags: Vec<&str> = v["flags"].as_str().unwrap().split(',').collect();
            self.records.push(Record {
                from: if v["direction"] == "in" {
                    Side::Client
                } else {
                    Side::Server
                },
                syn: flags.contains(&"SYN"),
                fin: flags.contains(&"FIN"),
                seq: number("seq") as u32,
                ack: number("ack") as u32,
                len: number("len") as usize,
                server: v["server"].as_str().unwrap().to_owned(),
                by_xdp: v["by_xdp"].as_bool().unwrap(),
            });
        }
        &self.records
    }

    /// Sends a captured frame once more from the client's interface.
    pub fn replay(&self, segment: &Segment) {
        let script = format!(
            "import socket; s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); \
             s.bind(('eth0', 0)); s.send(bytes({:?}))",
            segment.frame
        );
        self.client.run("python3", &["-c", &script]).unwrap();
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.control);
    }
}

/// The tracer has no way to say that the server knows of it: connects, from another port and closing
/// first, until it tells of that.
fn wait_for_tracer(client: &Namespace, trace: &Receiver<String>) {
    let to: SocketAddr = SERVER.parse().unwrap();
    wait_for("the tracer", || {
        let stream = client.enter(|| TcpStream::connect_timeout(&to, PATIENCE));
        drop(stream.unwrap().unwrap());
        trace.recv_timeout(Duration::from_millis(200)).is_ok()
    });
}

fn connections(control: &Path) -> Vec<String> {
    let out = Command::new(env!("CARGO_BIN_EXE_tcp-user"))
        .args(["conns", "--json", "--control", control.to_str().unwrap()])
        .output()
        .unwrap();
    assert!(out.status.success(), "{out:?}");
    let list: Value = serde_json::from_slice(&out.stdout).unwrap();
    list.as_array()
        .unwrap()
        .iter()
        .map(|c| c["state"].as_str().unwrap().to_owned())
        .collect()
}

fn wait_for(what: &str, mut is: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is() {
        assert!(Instant::now() < deadline, "waiting for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn lines(child: &mut Child) -> BufReader<ChildStdout> {
    BufReader::new(child.stdout.take().unwrap())
}
