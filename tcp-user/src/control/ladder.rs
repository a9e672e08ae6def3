//! The ladder: one line a segment, the client on the left, the server on the right.
//!
//! ```text
//! ── 10.77.0.1:35012 ⇄ 10.77.0.2:80
//!    seconds client           flags              seq        ack   len  window server       options
//!   0.000000 SYN-SENT     ──▶ SYN         1859473461          -     0   64240 SYN-RECEIVED mss 1460 ws 10 sack ts (by XDP)
//! ```

use super::records::{Segment, Way};
use super::trace::Hub;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::net::SocketAddr;

/// Connections whose sequence numbers are remembered at most; the trace of a
/// connection beyond them starts with a heading of its own.
const REMEMBERED: usize = 4096;

/// Formats a trace.
#[derive(Debug)]
pub struct Ladder {
    color: bool,
    relative: bool,
    start: Option<f64>,
    flows: HashMap<(SocketAddr, SocketAddr), Isns>,
    last: Option<(SocketAddr, SocketAddr)>,
}

/// The initial sequence numbers of a connection, as far as they are known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Isns {
    client: u32,
    server: u32,
}

const DIM: &str = "\x1b[2m";
const BOLD: &str = "\x1b[1m";
const RED: &str = "\x1b[31m";
const GREEN: &str = "\x1b[32m";
const CYAN: &str = "\x1b[36m";
const PLAIN: &str = "\x1b[0m";

impl Ladder {
    /// `color` for a terminal, `relative` for sequence numbers that count from the ISNs.
    pub fn new(color: bool, relative: bool) -> Self {
        Self {
            color,
            relative,
            start: None,
            flows: HashMap::new(),
            last: None,
        }
    }

    /// The lines for one segment: its own, and a heading where another connection starts.
    pub fn format(&mut self, segment: &Segment) -> String {
        let start = *self.start.get_or_insert(segment.at);
        let key = (segment.remote, segment.local);
        let mut out = String::new();

        let is_syn = segment.flags == "SYN";
        if is_syn || !self.flows.contains_key(&key) {
            if self.flows.len() >= REMEMBERED {
                self.flows.clear();
            }
            self.flows.insert(key, Isns::of(segment));
            self.last = None;
        }
        let isns = self.flows.entry(key).or_insert_with(|| Isns::of(segment));
        isns.update(segment);
        let isns = *isns;
        if self.last != Some(key) {
            self.last = Some(key);
            self.heading(&mut out, segment);
        }

        let (mut seq, mut ack) = (
            segment.seq,
            segment.flags.contains("ACK").then_some(segment.ack),
        );
        if self.relative {
            (seq, ack) = isns.relative(segment);
        }
        let ack = ack.map_or_else(|| "-".into(), |ack| ack.to_string());
        let (arrow, color) = match segment.direction {
            Way::In => ("──▶", CYAN),
            Way::Out => ("◀──", GREEN),
        };
        let color = if segment.flags.contains("RST") {
            RED
        } else {
            color
        };
        let (on, off) = if self.color { (color, PLAIN) } else { ("", "") };
        let _ = write!(
            out,
            "{:>10.6} {:<12} {on}{arrow} {:<11}{off} {seq:>10} {ack:>10} {:>5} {:>7} {:<12}",
            segment.at - start,
            segment.client,
            segment.flags,
            segment.len,
            segment.window,
            segment.server,
        );
        self.details(&mut out, segment);
        let trimmed = out.trim_end().len();
        out.truncate(trimmed);
        out.push('\n');
        out
    }

    fn heading(&self, out: &mut String, segment: &Segment) {
        let (bold, dim, off) = if self.color {
            (BOLD, DIM, PLAIN)
        } else {
            ("", "", "")
        };
        let _ = writeln!(
            out,
            "{bold}── {} ⇄ {}{off}\n{dim}{:>10} {:<12}     {:<11} {:>10} {:>10} {:>5} {:>7} {:<12} options{off}",
            segment.remote,
            segment.local,
            "seconds",
            "client",
            "flags",
            "seq",
            "ack",
            "len",
            "window",
            "server",
        );
    }

    fn details(&self, out: &mut String, segment: &Segment) {
        if let Some(mss) = segment.mss {
            let _ = write!(out, " mss {mss}");
        }
        if let Some(shift) = segment.window_scale {
            let _ = write!(out, " ws {shift}");
        }
        if segment.sack_permitted {
            out.push_str(" sack");
        }
        if let Some((val, ecr)) = segment.timestamps {
            // With the other options of a SYN the values would not fit on the line.
            if segment.flags.contains("SYN") {
                out.push_str(" ts");
            } else {
                let _ = write!(out, " ts {val}/{ecr}");
            }
        }
        for (left, right) in &segment.sack {
            let _ = write!(out, " sack {left}-{right}");
        }
        let (dim, off) = if self.color { (DIM, PLAIN) } else { ("", "") };
        if segment.by_xdp {
            let _ = write!(out, " {dim}(by XDP){off}");
        }
        if !segment.note.is_empty() {
            let _ = write!(out, " {dim}({}){off}", segment.note);
        }
    }
}

impl Isns {
    /// What the first segment seen tells of them.
    pub(super) fn of(segment: &Segment) -> Self {
        let syn = u32::from(segment.flags.contains("SYN"));
        let (near, far) = (segment.seq, segment.ack.wrapping_sub(1));
        let near = near.wrapping_sub(1 - syn);
        let (client, server) = match segment.direction {
            Way::In => (near, far),
            Way::Out => (far, near),
        };
        Self { client, server }
    }

    /// The SYN-ACK tells the server's.
    pub(super) fn update(&mut self, segment: &Segment) {
        if segment.flags == "SYN,ACK" {
            self.server = segment.seq;
        }
    }

    /// Sequence and acknowledgment number from the ISNs on.
    pub(super) fn relative(self, segment: &Segment) -> (u32, Option<u32>) {
        let (mine, other) = match segment.direction {
            Way::In => (self.client, self.server),
            Way::Out => (self.server, self.client),
        };
        let has_ack = segment.flags.contains("ACK");
        (
            segment.seq.wrapping_sub(mine),
            has_ack.then(|| segment.ack.wrapping_sub(other)),
        )
    }
}

/// `--trace`: the ladder on stdout.
pub(super) fn print(hub: &Hub) -> std::io::Result<()> {
    let watcher = hub.watch();
    std::thread::Builder::new()
        .name("ladder".into())
        .spawn(move || {
            let mut ladder = Ladder::new(std::io::stdout().is_terminal(), false);
            for segment in watcher {
                let text = ladder.format(&segment);
                let mut out = std::io::stdout().lock();
                if out
                    .write_all(text.as_bytes())
                    .and_then(|()| out.flush())
                    .is_err()
                {
                    break;
                }
            }
        })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(direction: Way, flags: &str, seq: u32, ack: u32) -> Segment {
        Segment {
            at: 5.0,
            remote: "10.77.0.1:40000".parse().expect("literal"),
            local: "10.77.0.2:80".parse().expect("literal"),
            direction,
            by_xdp: flags.contains("SYN"),
            flags: flags.into(),
            seq,
            ack,
            len: 0,
            window: 64_240,
            mss: flags.contains("SYN").then_some(1460),
            window_scale: flags.contains("SYN").then_some(7),
            sack_permitted: flags.contains("SYN"),
            timestamps: Some((u32::MAX, u32::MAX)),
            sack: Vec::new(),
            client: "SYN-SENT".into(),
            server: "SYN-RECEIVED".into(),
            note: String::new(),
        }
    }

    #[test]
    fn a_handshake_on_120_columns() {
        let mut ladder = Ladder::new(false, false);
        let mut text = ladder.format(&segment(Way::In, "SYN", 4_000_000_000, 0));
        text += &ladder.format(&segment(Way::Out, "SYN,ACK", 4_100_000_000, 4_000_000_001));
        text += &ladder.format(&segment(Way::In, "ACK", 4_000_000_001, 4_100_000_001));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 5, "{text}");
        assert!(lines[0].contains("10.77.0.1:40000 ⇄ 10.77.0.2:80"));
        assert!(lines[2].contains("──▶ SYN ") && lines[2].contains("(by XDP)"));
        assert!(lines[3].contains("◀── SYN,ACK") && lines[3].contains("mss 1460 ws 7 sack"));
        for line in &lines {
            assert!(line.chars().count() <= 120, "{line}");
        }
        let column = |line: &str, what: &str| line.find(what).map(|at| line[..at].chars().count());
        assert_eq!(
            column(lines[2], "SYN-RECEIVED"),
            column(lines[4], "SYN-RECEIVED")
        );
    }

    #[test]
    fn relative_numbers_count_from_the_isns() {
        let mut ladder = Ladder::new(false, true);
        ladder.format(&segment(Way::In, "SYN", u32::MAX, 0));
        ladder.format(&segment(Way::Out, "SYN,ACK", 7, 0));
        let line = ladder.format(&segment(Way::In, "ACK", 0, 8));
        assert!(line.contains("          1          1"), "{line}");
        let mut late = Ladder::new(false, true);
        let line = late.format(&segment(Way::Out, "PSH,ACK", 100, 50));
        assert!(line.contains("          1          1"), "{line}");
    }
}
