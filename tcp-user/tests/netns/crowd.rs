//! Clients that are hardly more than a 4-tuple: thousands of them cost nothing, and they
//! do what no kernel does.
//!
//! Their addresses are of 198.18.0.0/15 (the benchmarking network, RFC 2544), so that the
//! client's kernel has no part in it.

use crate::frames::Spec;
use crate::lab::Lab;
use crate::raw::Wire;
use etherparse::{PacketHeaders, TcpHeader, TcpOptionElement, TransportHeader};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

const FIRST_ADDRESS: u32 = 0xc612_0001;
const FIRST_PORT: u32 = 10_000;
const PORTS: u32 = 10_000;
/// SYNs sent at a time: less than the rings on the way hold.
const BATCH: usize = 128;
/// How long all handshakes together may take, with lost frames.
const PATIENCE: Duration = Duration::from_mins(3);

/// What a client sends beside what its state says.
#[derive(Clone, Copy, Default)]
pub struct Say<'a> {
    pub fin: bool,
    pub window: u16,
    pub data: &'a [u8],
    pub sack: &'a [(u32, u32)],
}

/// One client.
pub struct Member {
    pub from: SocketAddr,
    /// The first sequence number of what it says.
    pub iss: u32,
    /// What it says next; moves on only when told to.
    pub nxt: u32,
    /// The server's first octet.
    pub start: u32,
    /// What it acknowledges: all that came in order, if [`Crowd::keeps`], else what it is
    /// told.
    pub ack: u32,
    pub connected: bool,
    /// The server's FIN came, in order.
    pub fin: bool,
    pub reset: bool,
    /// `TSval` of the server's last segment, if timestamps were agreed on.
    echo: Option<u32>,
    /// Text received, and which octets of it there are.
    pub data: Vec<u8>,
    have: Vec<bool>,
    /// Octets of text in the largest segment.
    pub largest: usize,
}

impl Member {
    /// Octets received in order.
    pub fn in_order(&self) -> usize {
        let text = self.ack.wrapping_sub(self.start) as usize;
        text - usize::from(self.fin)
    }

    fn hear(&mut self, tcp: &TcpHeader, payload: &[u8], keeps: bool) {
        self.reset |= tcp.rst;
        if tcp.rst || tcp.syn {
            return;
        }
        if let Some(val) = timestamp(tcp) {
            self.echo = Some(val);
        }
        self.largest = self.largest.max(payload.len());
        if !keeps {
            return;
        }
        let at = tcp.sequence_number.wrapping_sub(self.start) as usize;
        let end = at + payload.len();
        if end > self.data.len() {
            self.data.resize(end, 0);
            self.have.resize(end, false);
        }
        for (i, octet) in payload.iter().enumerate() {
            let old = std::mem::replace(&mut self.have[at + i], true);
            assert!(
                !old || self.data[at + i] == *octet,
                "octet {} changed",
                at + i
            );
            self.data[at + i] = *octet;
        }
        let mut next = self.in_order();
        while self.have.get(next) == Some(&true) {
            next += 1;
        }
        if !self.fin {
            self.ack = self.start.wrapping_add(next as u32);
            if tcp.fin && next == end {
                self.fin = true;
                self.ack = self.ack.wrapping_add(1);
            }
        }
    }
}

fn timestamp(tcp: &TcpHeader) -> Option<u32> {
    tcp.options_iterator().find_map(|option| match option {
        Ok(TcpOptionElement::Timestamp(val, _)) => Some(val),
        _ => None,
    })
}

/// Clients of one port of the server.
pub struct Crowd {
    wire: Wire,
    to: String,
    port: u16,
    pub members: Vec<Member>,
    /// They keep what arrives, and acknowledge it in what they say.
    pub keeps: bool,
}

impl Crowd {
    /// `count` clients that have done nothing yet; their 4-tuples are those from `first` on.
    pub fn new(lab: &Lab, to: &str, first: u32, count: u32) -> Self {
        let member = |n: u32| Member {
            from: SocketAddr::new(
                Ipv4Addr::from(FIRST_ADDRESS + n / PORTS).into(),
                (FIRST_PORT + n % PORTS) as u16,
            ),
            iss: n.wrapping_mul(0x9e37_79b9),
            nxt: 0,
            start: 0,
            ack: 0,
            connected: false,
            fin: false,
            reset: false,
            echo: None,
            data: Vec::new(),
            have: Vec::new(),
            largest: 0,
        };
        assert_eq!(first % PORTS, 0, "a crowd begins at an address of its own");
        Self {
            wire: Wire::receiving(lab),
            to: to.to_string(),
            port: to.parse::<SocketAddr>().unwrap().port(),
            members: (first..first + count).map(member).collect(),
            keeps: true,
        }
    }

    /// All shake hands, up to the SYN-ACK.
    pub fn greet(&mut self, options: &[TcpOptionElement]) {
        let start = Instant::now();
        while self.members.iter().any(|m| !m.connected) {
            assert!(start.elapsed() < PATIENCE, "some get no SYN-ACK");
            let missing: Vec<usize> = (0..self.members.len())
                .filter(|i| !self.members[*i].connected)
                .collect();
            for batch in missing.chunks(BATCH) {
                for i in batch {
                    let m = &self.members[*i];
                    let mut syn = Spec::new(&m.from.to_string(), &self.to).options(options);
                    syn.tcp.syn = true;
                    syn.tcp.sequence_number = m.iss;
                    self.wire.put(syn.build());
                }
                self.listen(Duration::from_millis(2));
            }
            self.listen(Duration::from_millis(20));
        }
    }

    /// Hears what arrives until nothing does for so long; returns how many segments.
    pub fn listen(&mut self, quiet: Duration) -> usize {
        let mut frame = [0; 2048];
        let mut heard = 0;
        while let Some(len) = self.wire.receive(&mut frame, quiet) {
            heard += usize::from(self.hear(&frame[..len]));
        }
        heard
    }

    fn hear(&mut self, frame: &[u8]) -> bool {
        let Ok(parsed) = PacketHeaders::from_ethernet_slice(frame) else {
            return false;
        };
        let (Some(etherparse::NetHeaders::Ipv4(ip, _)), Some(TransportHeader::Tcp(tcp))) =
            (parsed.net, parsed.transport)
        else {
            return false;
        };
        let to = SocketAddr::new(Ipv4Addr::from(ip.destination).into(), tcp.destination_port);
        let number = |from: SocketAddr| match from {
            SocketAddr::V4(v4) => v4
                .ip()
                .to_bits()
                .wrapping_sub(FIRST_ADDRESS)
                .wrapping_mul(PORTS)
                .wrapping_add(u32::from(v4.port()).wrapping_sub(FIRST_PORT)),
            SocketAddr::V6(_) => u32::MAX,
        };
        let Some(first) = self.members.first().map(|m| number(m.from)) else {
            return false;
        };
        let keeps = self.keeps;
        let member = self
            .members
            .get_mut(number(to).wrapping_sub(first) as usize);
        let Some(m) = member.filter(|m| m.from == to && tcp.source_port == self.port) else {
            return false;
        };
        if tcp.syn {
            if tcp.ack && tcp.acknowledgment_number == m.iss.wrapping_add(1) && !m.connected {
                m.connected = true;
                m.nxt = m.iss.wrapping_add(1);
                m.start = tcp.sequence_number.wrapping_add(1);
                m.ack = m.start;
                m.echo = timestamp(&tcp);
            }
        } else {
            m.hear(&tcp, parsed.payload.slice(), keeps);
        }
        true
    }

    /// A segment of one of them. Its sequence number stays, so that it can be sent again.
    pub fn say(&self, member: usize, say: &Say<'_>) {
        let m = &self.members[member];
        let mut spec = Spec::ack(&m.from.to_string(), &self.to, m.nxt, m.ack).payload(say.data);
        spec.tcp.fin = say.fin;
        spec.tcp.window_size = say.window;
        let mut options = Vec::new();
        if let Some(ecr) = m.echo {
            options.extend([1, 1, 8, 10]);
            options.extend(1u32.to_be_bytes());
            options.extend(ecr.to_be_bytes());
        }
        if !say.sack.is_empty() {
            options.extend([1, 1, 5, 2 + 8 * say.sack.len() as u8]);
            for (left, right) in say.sack {
                options.extend(left.to_be_bytes());
                options.extend(right.to_be_bytes());
            }
        }
        spec = spec.raw_options(&options);
        self.wire.put(spec.build());
    }

    /// The same from each of these, as often as it takes until `done`.
    pub fn say_until(
        &mut self,
        members: &[usize],
        say: &Say<'_>,
        mut done: impl FnMut(&mut Self) -> bool,
    ) {
        let start = Instant::now();
        loop {
            for batch in members.chunks(BATCH) {
                for i in batch {
                    self.say(*i, say);
                }
                self.listen(Duration::from_millis(1));
            }
            for _ in 0..20 {
                if done(self) {
                    return;
                }
                self.listen(Duration::from_millis(20));
            }
            assert!(start.elapsed() < PATIENCE, "the server does not hear of it");
        }
    }
}
