//! `--pcap`, read by tshark and held against what tcpdump sees at the client.

use crate::lab::{Lab, PEER, V4, V6, read_all, wait_for};
use nix::sys::signal::Signal;
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use xtask::tcpdump::Tcpdump;

/// A directory that goes when the test ends.
struct Directory(PathBuf);

impl Directory {
    fn new(lab: &Lab) -> Self {
        let path = std::env::temp_dir().join(format!("{}-pcap", lab.server.name()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A line a frame with these fields, checksums verified.
fn tshark(file: &Path, filter: &str, fields: &[&str]) -> Vec<String> {
    try_tshark(file, filter, fields).unwrap()
}

/// The same; an error if the file ends within a frame.
fn try_tshark(file: &Path, filter: &str, fields: &[&str]) -> Result<Vec<String>, String> {
    let mut command = Command::new("tshark");
    command.args(["-n", "-r"]).arg(file);
    for option in ["tcp.check_checksum", "ip.check_checksum"] {
        command.args(["-o", &format!("{option}:TRUE")]);
    }
    command.args(["-Y", filter, "-T", "fields"]);
    for field in fields {
        command.args(["-e", field]);
    }
    let output = command.output().unwrap();
    if !output.status.success() {
        return Err(format!("{output:?}"));
    }
    let text = String::from_utf8(output.stdout).unwrap();
    Ok(text.lines().map(str::to_owned).collect())
}

fn get(mut stream: TcpStream) {
    stream
        .write_all(b"GET /bytes/20000 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .unwrap();
    assert!(read_all(&stream).len() > 20_000);
}

#[test]
#[ignore = "needs root"]
fn a_capture_has_both_directions_and_the_handshakes_of_xdp() {
    let lab = Lab::new();
    let directory = Directory::new(&lab);
    let seen = directory.0.join("client.pcap");
    let args = ["-U", "-w", seen.to_str().unwrap(), "tcp"];
    let tcpdump = Tcpdump::start(&lab.client, PEER, &args).unwrap();
    let file = directory.0.join("server.pcapng");
    let mut server = lab.serve(&["--pcap", file.to_str().unwrap()]);
    get(lab.connect(&format!("{V4}:80")));
    get(lab.connect(&format!("[{V6}]:80")));
    // Without timestamps the cookie tells less.
    lab.client
        .run("sysctl", &["-qw", "net.ipv4.tcp_timestamps=0"])
        .unwrap();
    get(lab.connect(&format!("{V4}:80")));
    wait_for("the end of all connections", || {
        let conns = server.conns();
        conns.len() == 3 && conns.iter().all(|c| c.state == "TIME-WAIT")
    });
    server.signal(Signal::SIGTERM);
    server.ended();
    // tcpdump may still have to write some of it: a FIN is the last that is looked at.
    wait_for("the client's and the server's FINs", || {
        let fins = try_tshark(&seen, "tcp.flags.fin == 1", &["tcp.stream", "tcp.srcport"]);
        fins.is_ok_and(|fins| fins.iter().collect::<BTreeSet<_>>().len() == 6)
    });
    drop(tcpdump);

    let wrong = "tcp.checksum.status == 0 || ip.checksum.status == 0 || _ws.malformed";
    assert_eq!(tshark(&file, wrong, &["frame.number"]), [""; 0]);
    let flags = |n: usize| {
        let filter = format!("tcp.stream == {n}");
        tshark(
            &file,
            &filter,
            &[
                "tcp.flags.str",
                "tcp.seq_raw",
                "frame.packet_flags_direction",
            ],
        )
    };
    for stream in 0..3 {
        let frames = flags(stream);
        let is = |n: usize, flag: &str, way: &str| {
            frames[n].contains(flag) && frames[n].ends_with(&format!("\t{way}"))
        };
        assert!(is(0, "S·", "0x00000001"), "{frames:?}");
        assert!(is(1, "A··S", "0x00000002"), "{frames:?}");
        assert!(is(2, "A····", "0x00000001"), "{frames:?}");
        // One of each side; a machine that stands still makes them send it twice.
        let fins = frames.iter().filter(|f| f.contains("F\t"));
        assert_eq!(fins.collect::<BTreeSet<_>>().len(), 2, "{frames:?}");
    }
    // What XDP sent, as the client got it.
    let fields = [
        "eth.src",
        "eth.dst",
        "ip.ttl",
        "ipv6.hlim",
        "tcp.seq_raw",
        "tcp.ack_raw",
        "tcp.window_size_value",
        "tcp.hdr_len",
        "tcp.options.mss_val",
        "tcp.options.wscale.shift",
        "tcp.options.sack_perm",
        "tcp.options.timestamp.tsval",
    ];
    let syn_ack = "tcp.flags.syn == 1 && tcp.flags.ack == 1";
    let (ours, theirs) = (
        tshark(&file, syn_ack, &fields),
        tshark(&seen, syn_ack, &fields),
    );
    assert_eq!(ours.len(), 3);
    assert_eq!(ours, theirs);
    // Of the SYN, what the cookie carries: without timestamps, a coarser window scale.
    let syn = "tcp.flags.syn == 1 && tcp.flags.ack == 0";
    let fields = ["tcp.srcport", "tcp.seq_raw", "tcp.options.mss_val"];
    assert_eq!(tshark(&file, syn, &fields), tshark(&seen, syn, &fields));
    let scaled = format!("{syn} && tcp.options.timestamp.tsval");
    let fields = ["tcp.options.wscale.shift"];
    assert_eq!(
        tshark(&file, &scaled, &fields),
        tshark(&seen, &scaled, &fields)
    );
    // Only these are marked; all text is there once.
    let marked = tshark(&file, "frame.comment", &["frame.comment"]);
    assert_eq!(marked.len(), 6);
    assert!(
        marked.iter().all(|c| c.contains("in XDP, reconstructed")),
        "{marked:?}"
    );
    let octets = |file: &Path, way: &str| -> u64 {
        let lines = tshark(file, &format!("tcp.len > 0 && {way}"), &["tcp.len"]);
        lines.iter().map(|len| len.parse::<u64>().unwrap()).sum()
    };
    for way in ["tcp.srcport == 80", "tcp.dstport == 80"] {
        assert_eq!(octets(&file, way), octets(&seen, way), "{way}");
    }
}

#[test]
#[ignore = "needs root"]
fn a_capture_stays_within_its_files() {
    let lab = Lab::new();
    let directory = Directory::new(&lab);
    let file = directory.0.join("x.pcapng");
    let name = file.to_str().unwrap();
    let mut server = lab.serve(&["--pcap", name, "--pcap-size", "100K", "--pcap-files", "3"]);
    let mut stream = lab.connect(&format!("{V4}:80"));
    stream
        .write_all(b"GET /bytes/1000000 HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    stream.read_exact(&mut vec![0; 1_000_000]).unwrap();
    drop(stream);
    server.signal(Signal::SIGTERM);
    server.ended();
    let mut files: Vec<_> = std::fs::read_dir(&directory.0)
        .unwrap()
        .map(Result::unwrap)
        .collect();
    files.sort_by_key(std::fs::DirEntry::file_name);
    assert_eq!(files.len(), 3);
    for entry in files {
        assert!(entry.metadata().unwrap().len() < 110_000);
        assert!(!tshark(&entry.path(), "tcp", &["frame.number"]).is_empty());
    }
}
