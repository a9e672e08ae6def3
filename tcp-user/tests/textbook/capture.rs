//! A capture on the client's interface, made by tcpdump and read back.

use etherparse::{PacketHeaders, TransportHeader};
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use xtask::netns::Namespace;
use xtask::tcpdump::Tcpdump;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    Client,
    Server,
}

/// A captured segment.
#[derive(Clone, Debug)]
pub struct Segment {
    pub from: Side,
    /// Control bits as tcpdump's letters, without PSH: `S`, `S.`, `.`, `F.`, `R`.
    pub flags: &'static str,
    pub seq: u32,
    pub ack: u32,
    /// Octets of data.
    pub len: usize,
    /// The whole frame.
    pub frame: Vec<u8>,
}

impl Segment {
    /// Sequence number behind the data: that of the FIN, if there is one.
    pub fn end(&self) -> u32 {
        self.seq.wrapping_add(self.len as u32)
    }

    fn parse(frame: &[u8]) -> Option<Self> {
        let parsed = PacketHeaders::from_ethernet_slice(frame).ok()?;
        let Some(TransportHeader::Tcp(tcp)) = parsed.transport else {
            return None;
        };
        let from = if tcp.destination_port == crate::network::SERVER_PORT {
            Side::Client
        } else {
            Side::Server
        };
        let flags = match (tcp.syn, tcp.fin, tcp.rst, tcp.ack) {
            (true, false, false, false) => "S",
            (true, false, false, true) => "S.",
            (false, true, false, true) => "F.",
            (false, false, false, true) => ".",
            (_, _, true, false) => "R",
            (_, _, true, true) => "R.",
            other => panic!("flags {other:?}"),
        };
        Some(Self {
            from,
            flags,
            seq: tcp.sequence_number,
            ack: tcp.acknowledgment_number,
            len: parsed.payload.slice().len(),
            frame: frame.to_vec(),
        })
    }
}

/// A running tcpdump.
pub struct Capture {
    _tcpdump: Tcpdump,
    file: PathBuf,
}

impl Capture {
    /// Starts capturing TCP on `interface`; returns once frames are seen.
    pub fn start(namespace: &Namespace, interface: &str, file: PathBuf) -> Self {
        let args = ["-U", "-B", "16384", "-w", file.to_str().unwrap(), "tcp"];
        let tcpdump = Tcpdump::start(namespace, interface, &args).unwrap();
        Self {
            _tcpdump: tcpdump,
            file,
        }
    }

    /// All segments so far, once no more come for a moment.
    pub fn segments(&self) -> Vec<Segment> {
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut seen = usize::MAX;
        loop {
            let octets = fs::read(&self.file).unwrap();
            if octets.len() == seen || Instant::now() > deadline {
                return read_pcap(&octets);
            }
            seen = octets.len();
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.file);
    }
}

/// Reads a pcap file of this machine's byte order: a header of 24 octets, then
/// records of 16 octets and the frame.
fn read_pcap(octets: &[u8]) -> Vec<Segment> {
    let mut segments = Vec::new();
    let mut rest = octets.get(24..).unwrap_or_default();
    while let Some(header) = rest.first_chunk::<16>() {
        let len = u32::from_ne_bytes([header[8], header[9], header[10], header[11]]) as usize;
        let Some(frame) = rest.get(16..16 + len) else {
            break;
        };
        segments.extend(Segment::parse(frame));
        rest = &rest[16 + len..];
    }
    segments
}
