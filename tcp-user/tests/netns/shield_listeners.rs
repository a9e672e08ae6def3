//! The shield and what becomes of the kernel's listeners: full queues, several
//! processes.

use crate::frames::Spec;
use crate::lab::{Lab, V4, V6, wait_for};
use crate::raw::Wire;
use crate::shield::{Process, connections, counted, sysctl, wait_for_listeners};
use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

/// The kernel's connections on a port of which it waits for the last ACK.
fn half_open(lab: &Lab, port: u16) -> usize {
    let filter = format!("sport = :{port}");
    let args = ["-Htn", "state", "syn-recv", &filter];
    lab.server.run("ss", &args).unwrap().lines().count()
}

#[test]
#[ignore = "needs root"]
fn adaptive_answers_when_the_listeners_queue_is_full_and_not_before_or_after() {
    const QUEUE: usize = 16;
    let lab = Lab::new();
    for (name, value) in [
        ("tcp_syncookies", "1"),
        ("tcp_timestamps", "2"),
        // What is half open is given up after seven seconds.
        ("tcp_synack_retries", "2"),
    ] {
        lab.server.sysctl(&format!("ipv4/{name}"), value).unwrap();
    }
    let at: SocketAddr = "[::]:9000".parse().unwrap();
    let listener = lab.server.enter(|| TcpListener::bind(at).unwrap()).unwrap();
    let backlog = nix::sys::socket::Backlog::new(QUEUE as i32).unwrap();
    nix::sys::socket::listen(&listener, backlog).unwrap();
    // No rate is so high.
    let rate = "xdp.adaptive_rate=4000000000";
    let server = lab.run(&["--listen", "*:9000=kernel@adaptive", "--set", rate]);
    assert!(
        server.ready.ends_with(" shield=when-full"),
        "{}",
        server.ready
    );
    // Until the listener is known, which is looked for every second.
    std::thread::sleep(Duration::from_secs(3));
    let counts = || {
        let xdp = server.stats().xdp;
        (xdp["pass_kernel_syn"], xdp["syn_ack_kernel"])
    };
    let to = format!("{V4}:9000");
    let wire = Wire::new(&lab);
    // From addresses where nobody is.
    let syn = |n: usize| wire.put(Spec::syn(&format!("192.0.2.{}:4000", 100 + n), &to).build());

    for n in 0..QUEUE - 1 {
        syn(n);
    }
    counted(&server, "pass_kernel_syn", QUEUE as u64 - 1);
    assert_eq!(half_open(&lab, 9000), QUEUE - 1);
    assert_eq!(counts().1, 0, "there is room for one");

    for n in QUEUE - 1..100 {
        syn(n);
    }
    counted(&server, "syn_ack_kernel", 50);
    let (passed, answered) = counts();
    assert_eq!(passed + answered, 100);
    assert!(half_open(&lab, 9000) <= QUEUE + 1, "the kernel saw no more");
    // A client gets through meanwhile, with all options.
    let mut client = lab.connect(&to);
    assert_eq!(counts().1, answered + 1);
    client.write_all(b"in time").unwrap();
    let (mut accepted, _) = listener.accept().unwrap();
    let mut got = [0; 7];
    accepted.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"in time");
    let info = connections(&lab, 9000);
    assert!(
        info.contains(" ts sack ") && info.contains("wscale:"),
        "{info}"
    );

    wait_for("the half-open to be given up", || {
        half_open(&lab, 9000) == 0
    });
    let (passed, answered) = counts();
    let _after = lab.connect(&to);
    assert_eq!(counts(), (passed + 1, answered));
    assert_eq!(sysctl(&lab, "tcp_syncookies"), "1", "nothing is set");
    assert_eq!(server.stats().xdp["rst_bad_cookie"], 0);
}

/// A process that shares the port with others (`SO_REUSEPORT`) and says its number to all
/// who connect.
fn sharer(lab: &Lab, port: u16) -> Process {
    let script = format!(
        "import os, socket\n\
         s = socket.socket(socket.AF_INET6)\n\
         s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)\n\
         s.bind(('::', {port}))\n\
         s.listen(64)\n\
         while True:\n    c = s.accept()[0]; c.send(b'%d' % os.getpid()); c.close()"
    );
    Process::start(lab, "python3", &["-c", &script])
}

#[test]
#[ignore = "needs root"]
fn processes_that_share_a_port_come_and_go() {
    let lab = Lab::new();
    let server = lab.run(&["--listen", "*:8000=kernel", "--tune"]);
    let first = sharer(&lab, 8000);
    let second = sharer(&lab, 8000);
    wait_for_listeners(&lab, 8000, 2);
    // Until then the kernel answers.
    for host in [V4.to_owned(), format!("[{V6}]")] {
        wait_for("the shield to answer", || {
            let before = server.stats().xdp["syn_ack_kernel"];
            let mut said = String::new();
            let mut stream = lab.connect(&format!("{host}:8000"));
            stream.read_to_string(&mut said).unwrap();
            server.stats().xdp["syn_ack_kernel"] > before
        });
    }
    // Who answers 16 clients over each family; all of them by way of the shield.
    let ask = || -> BTreeSet<u32> {
        let before = server.stats().xdp["syn_ack_kernel"];
        let hosts = [V4.to_owned(), format!("[{V6}]")];
        let answers = hosts.iter().flat_map(|host| {
            let to = format!("{host}:8000");
            let lab = &lab;
            (0..16).map(move |_| {
                let mut said = String::new();
                lab.connect(&to).read_to_string(&mut said).unwrap();
                said.parse().unwrap()
            })
        });
        let answers = answers.collect();
        assert_eq!(server.stats().xdp["syn_ack_kernel"], before + 32);
        answers
    };
    let (one, two) = (first.0.id(), second.0.id());
    assert_eq!(ask(), BTreeSet::from([one, two]));
    // The port moves to one of them, and then to a third, without ever being closed.
    drop(first);
    assert_eq!(ask(), BTreeSet::from([two]));
    let third = sharer(&lab, 8000);
    wait_for_listeners(&lab, 8000, 2);
    drop(second);
    assert_eq!(ask(), BTreeSet::from([third.0.id()]));
    let xdp = server.stats().xdp;
    assert_eq!(xdp["rst_bad_cookie"] + xdp["rst_no_listener"], 0, "{xdp:?}");
}
