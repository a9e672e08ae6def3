//! Floods from the client's namespace: SYNs and blind ACKs cost no userspace, every
//! frame is counted once, and who has a connection keeps it.

use crate::frames::Spec;
use crate::lab::{Lab, PATIENCE, Server, V4, noise, read_all, wait_for};
use crate::raw::{Random, Template, Wire, assert_isolated};
use etherparse::TcpOptionElement;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use tcp_user::control::records::Stats;

const CLIENT: &str = "192.0.2.1:40000";
const SERVER: &str = "192.0.2.2:80";

/// For a flood that is ended by the test; it ends by itself if that does not.
pub const LONG: u32 = 600;

/// A running `hping3 --flood` from the client's address; ended when dropped.
pub struct Hping(Child);

impl Hping {
    /// With these arguments, for at most so many seconds.
    pub fn start(lab: &Lab, seconds: u32, args: &[&str]) -> Self {
        assert_isolated(lab);
        let child = lab
            .client
            .command("timeout")
            .args(["-s", "INT", &seconds.to_string()])
            .args(["hping3", "-q", "--flood", "-p", "80"])
            .args(args)
            .arg(V4)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self(child)
    }

    /// Waits for the end; the number of frames that it sent.
    fn finish(mut self) -> u64 {
        let mut said = String::new();
        let mut stderr = self.0.stderr.take().unwrap();
        stderr.read_to_string(&mut said).unwrap();
        let line = said.lines().find(|l| l.contains("packets transmitted"));
        let number = line.and_then(|l| l.split(' ').next()?.parse().ok());
        number.unwrap_or_else(|| panic!("{said}"))
    }

    fn is_running(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Hping {
    fn drop(&mut self) {
        if self.is_running() {
            // `timeout` passes it on.
            let _ = kill(Pid::from_raw(self.0.id() as i32), Signal::SIGTERM);
        }
        let _ = self.0.wait();
    }
}

/// Sends spoofed frames, the templates by turns, for at most five seconds; the number
/// of those that the wire took.
fn spoof(wire: &Wire, templates: &mut [Template], count: usize) -> u64 {
    let mut random = Random::new(0x5eed);
    let start = Instant::now();
    let mut sent = 0;
    for n in 0..count {
        let at = n % templates.len();
        sent += u64::from(wire.send(templates[at].spoof(&mut random)));
        if n % 1024 == 0 && start.elapsed() > Duration::from_secs(5) {
            break;
        }
    }
    sent
}

/// XDP's counters and the frames of the interface, at a moment when none move.
struct Moment {
    stats: Stats,
    frames: u64,
}

impl Moment {
    fn of(lab: &Lab, server: &Server) -> Self {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            let frames = lab.frames().0;
            let stats = server.stats();
            std::thread::sleep(Duration::from_millis(20));
            if lab.frames().0 == frames && server.stats() == stats {
                return Self { stats, frames };
            }
        }
        panic!("it does not calm down");
    }

    /// What XDP counted since, without the zeros, and without what the kernels say to
    /// each other unasked (neighbour discovery).
    fn since(&self, before: &Self) -> BTreeMap<&str, u64> {
        self.stats
            .xdp
            .iter()
            .map(|(name, n)| (name.as_str(), n - before.stats.xdp[name]))
            .filter(|(name, n)| *n > 0 && !["pass_not_ip", "pass_not_tcp"].contains(name))
            .collect()
    }

    fn to_userspace(&self) -> u64 {
        self.stats.xdp["to_flow"] + self.stats.xdp["to_accept"]
    }

    /// Every frame of the interface under one counter, every frame of the socket under
    /// one disposition, and what is between them.
    fn assert_adds_up(&self, before: &Self) {
        let worker = &self.stats.workers[0];
        assert_eq!(self.stats.xdp.values().sum::<u64>(), self.stats.xdp_frames);
        assert_eq!(
            self.stats.xdp_frames - before.stats.xdp_frames,
            self.frames - before.frames
        );
        assert_eq!(worker.frames.values().sum::<u64>(), worker.received);
        assert_eq!(
            self.to_userspace(),
            worker.received + worker.receive_dropped
        );
    }
}

/// One `curl` after the other; panics unless each gets its thousand octets.
fn curls(lab: &Lab, count: u32) {
    let script = format!(
        "for i in $(seq {count}); do curl -sS --max-time 90 -o /dev/null \
         -w '%{{http_code}} %{{size_download}}\\n' http://{V4}/bytes/1000 || exit 1; done"
    );
    let out = lab.client.run("sh", &["-c", &script]).unwrap();
    let good = out.lines().filter(|l| *l == "200 1000").count();
    assert_eq!(good, count as usize);
}

fn echo(lab: &Lab) {
    let data = noise(100_000);
    let stream = lab.connect(&format!("{V4}:7"));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            (&stream).write_all(&data).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
        });
        assert!(read_all(&stream) == data);
    });
}

#[test]
#[ignore = "needs root"]
fn five_hundred_curls_succeed_during_a_syn_flood() {
    let lab = Lab::new();
    let server = lab.serve(&[]);
    curls(&lab, 10);
    let before = Moment::of(&lab, &server);
    let memory = server.memory_kb();

    let mut flood = Hping::start(&lab, LONG, &["-S"]);
    curls(&lab, 500);
    wait_for("50,000 SYNs", || server.stats().xdp["syn_ack"] > 50_000);
    assert!(flood.is_running(), "the flood lasted as long");
    drop(flood);
    wait_for("the end of all connections", || server.conns().is_empty());

    let after = Moment::of(&lab, &server);
    let grown = server.memory_kb().saturating_sub(memory);
    println!("{:?}, {grown} kB more", after.since(&before));
    assert!(grown < 2048, "{grown} kB more");
    after.assert_adds_up(&before);
    assert_eq!(server.flows(), 0);
}

#[test]
#[ignore = "needs root"]
fn a_syn_flood_costs_no_userspace() {
    for (mode, seconds) in [("native", 5), ("generic", 5)] {
        let lab = Lab::new();
        let server = lab.serve(&["--mode", mode]);
        let before = Moment::of(&lab, &server);
        let (cpu, memory) = (server.cpu(), server.memory_kb());
        let sent = Hping::start(&lab, seconds, &["-S"]).finish();
        let used = server.cpu().saturating_sub(cpu);
        let grown = server.memory_kb().saturating_sub(memory);
        let after = Moment::of(&lab, &server);
        let lost = lab.frames().1;

        let counted = after.since(&before);
        println!(
            "{mode}: {sent} SYNs in {seconds} s, {lost} lost on the wire, {used:?} CPU, \
             {grown} kB more, {counted:?}"
        );
        // That no SYN reached it is asserted below; this is about everything else.
        assert!(used <= Duration::from_secs(seconds.into()) / 10, "{used:?}");
        assert!(grown < 512, "{grown} kB more");
        // The client's kernel answers what it did not ask for with RSTs; hping3 counts
        // its ports up through 0, and interrupted it does not count the last frame.
        let mut others = counted.clone();
        let seen = others.remove("syn_ack").unwrap() + others.remove("drop_source").unwrap_or(0);
        assert!(
            seen > 10_000 && seen <= sent + 1 && seen + lost >= sent,
            "{seen}"
        );
        others.remove("drop_rst");
        assert!(others.is_empty(), "{others:?}");
        assert_eq!(after.stats.workers[0], before.stats.workers[0]);
        after.assert_adds_up(&before);
        assert_eq!(server.flows(), 0);
    }
}

#[test]
#[ignore = "needs root"]
fn spoofed_syns_are_answered_one_by_one() {
    for mode in ["native", "generic"] {
        let lab = Lab::new();
        let server = lab.serve(&["--mode", mode]);
        let wire = Wire::new(&lab);
        let before = Moment::of(&lab, &server);
        let syn = Spec::syn(CLIENT, SERVER);
        let mut templates = [Template::new(&syn), Template::new(&syn.options(&[]))];
        let start = Instant::now();
        let sent = spoof(&wire, &mut templates, 100_000);
        println!("{mode}: {sent} SYNs in {:?}", start.elapsed());
        let after = Moment::of(&lab, &server);
        assert!(sent > 10_000, "{sent}");
        assert_eq!(after.since(&before), [("syn_ack", sent)].into());
        assert_eq!(after.stats.workers[0], before.stats.workers[0]);
        after.assert_adds_up(&before);
    }
}

#[test]
#[ignore = "needs root"]
fn a_spoofed_ack_flood_never_reaches_userspace() {
    for (mode, answer, counter) in [
        ("native", "rst", "rst_bad_cookie"),
        ("native", "drop", "drop_bad_cookie"),
        ("generic", "rst", "rst_bad_cookie"),
    ] {
        let lab = Lab::new();
        let answer = format!("xdp.on_invalid_ack={answer}");
        let server = lab.serve(&["--mode", mode, "--set", &answer]);
        let wire = Wire::new(&lab);
        let before = Moment::of(&lab, &server);
        let (cpu, memory) = (server.cpu(), server.memory_kb());
        let ack = Spec::ack(CLIENT, SERVER, 0, 0);
        let stamped = ack.clone().options(&[
            TcpOptionElement::Noop,
            TcpOptionElement::Noop,
            TcpOptionElement::Timestamp(0, 0),
        ]);
        let mut fin = ack.clone();
        fin.tcp.fin = true;
        let mut templates = [
            Template::new(&ack),
            Template::new(&stamped),
            Template::new(&ack.payload(b"GET / HTTP/1.1\r\n\r\n")),
            Template::new(&stamped.payload(b"GET / HTTP/1.1\r\n\r\n")),
            Template::new(&fin),
        ];
        let start = Instant::now();
        let sent = spoof(&wire, &mut templates, 200_000);
        let elapsed = start.elapsed();
        let used = server.cpu().saturating_sub(cpu);
        let grown = server.memory_kb().saturating_sub(memory);
        let after = Moment::of(&lab, &server);
        println!("{mode} {answer}: {sent} ACKs in {elapsed:?}, {used:?} CPU, {grown} kB more");

        assert!(sent > 20_000, "{sent}");
        assert_eq!(after.since(&before), [(counter, sent)].into());
        assert_eq!(after.stats.workers[0], before.stats.workers[0]);
        assert_eq!(server.conns(), []);
        assert_eq!(server.flows(), 0);
        assert!(grown < 512, "{grown} kB more");
        after.assert_adds_up(&before);
        // Who asks properly is served.
        curls(&lab, 1);
    }
}

#[test]
#[ignore = "needs root"]
fn generic_mode_serves_during_a_flood() {
    let lab = Lab::new();
    let server = lab.serve(&["--mode", "generic"]);
    let before = Moment::of(&lab, &server);
    let mut flood = Hping::start(&lab, LONG, &["-S"]);
    curls(&lab, 30);
    echo(&lab);
    assert!(flood.is_running());
    drop(flood);
    let after = Moment::of(&lab, &server);
    after.assert_adds_up(&before);
}

#[test]
#[ignore = "needs root"]
fn what_finds_the_ring_full_is_counted() {
    for mode in ["native", "generic"] {
        let lab = Lab::new();
        let server = lab.serve(&["--mode", mode]);
        let before = Moment::of(&lab, &server);
        let stream = lab.connect(SERVER);
        let mut ack = Spec::ack(CLIENT, SERVER, 1, 1);
        ack.tcp.source_port = stream.local_addr().unwrap().port();
        let wire = Wire::new(&lab);

        server.signal(Signal::SIGSTOP);
        let frames = lab.frames().0;
        for _ in 0..5000 {
            wire.put(ack.build());
        }
        // The last of them are still on their way through the kernel.
        wait_for("the frames", || lab.frames().0 >= frames + 5000);
        server.signal(Signal::SIGCONT);

        let after = Moment::of(&lab, &server);
        let worker = &after.stats.workers[0];
        println!("{mode}: {worker:?}");
        assert!(worker.receive_dropped > 1000);
        after.assert_adds_up(&before);
        echo(&lab);
    }
}
