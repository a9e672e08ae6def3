//! `tcp-user trace --svg` and `--mermaid`: connections as drawings.

mod mermaid;
mod svg;

use super::ladder::Isns;
use super::records::{Segment, Way};
use std::collections::VecDeque;
use std::net::SocketAddr;

/// Segments of a connection that are drawn from its beginning, and from its end.
const KEPT: usize = 150;
/// Gaps from which on time is worth a row of its own, seconds.
const GAP: f64 = 0.05;

/// Connections to be drawn, in the order of their first segments.
#[derive(Debug)]
pub struct Drawing {
    flows: Vec<Flow>,
    /// So many connections.
    wanted: usize,
}

/// One connection, bounded.
#[derive(Debug)]
struct Flow {
    remote: SocketAddr,
    local: SocketAddr,
    isns: Isns,
    head: Vec<Row>,
    tail: VecDeque<Row>,
    /// Segments between the two.
    skipped: u64,
    ended: bool,
}

/// A segment as it is drawn.
#[derive(Clone, Debug)]
struct Row {
    segment: Segment,
    /// From the ISNs on.
    seq: u32,
    ack: Option<u32>,
}

impl Drawing {
    /// Of the first so many connections that begin from now on.
    pub fn new(wanted: usize) -> Self {
        Self {
            flows: Vec::new(),
            wanted,
        }
    }

    /// Takes a segment; those of connections that had begun before are left out.
    pub fn push(&mut self, segment: Segment) {
        let same = |f: &Flow| {
            (f.remote, f.local) == (segment.remote, segment.local) && !f.ended_before(&segment)
        };
        let at = match self.flows.iter().rposition(same) {
            Some(at) => at,
            None if segment.flags == "SYN" && self.flows.len() < self.wanted => {
                self.flows.push(Flow::new(&segment));
                self.flows.len() - 1
            }
            None => return,
        };
        self.flows[at].push(segment);
    }

    /// All connections that were wanted have ended.
    pub fn is_complete(&self) -> bool {
        self.flows.len() >= self.wanted && self.flows.iter().all(|f| f.ended)
    }

    /// Connections and segments.
    pub fn len(&self) -> (usize, u64) {
        let segments = self.flows.iter().map(Flow::segments).sum();
        (self.flows.len(), segments)
    }

    /// Nothing was seen.
    pub fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    /// As an SVG image.
    pub fn svg(&self) -> String {
        svg::draw(&self.flows)
    }

    /// As Mermaid sequence diagrams.
    pub fn mermaid(&self) -> String {
        self.flows.iter().map(mermaid::draw).collect()
    }
}

impl Flow {
    fn new(first: &Segment) -> Self {
        Self {
            remote: first.remote,
            local: first.local,
            isns: Isns::of(first),
            head: Vec::new(),
            tail: VecDeque::new(),
            skipped: 0,
            ended: false,
        }
    }

    /// A new connection between the same ends begins.
    fn ended_before(&self, segment: &Segment) -> bool {
        self.ended && segment.flags == "SYN"
    }

    fn push(&mut self, segment: Segment) {
        self.ended |= matches!(segment.server.as_str(), "TIME-WAIT" | "CLOSED")
            || segment.flags.contains("RST");
        self.isns.update(&segment);
        let (seq, ack) = self.isns.relative(&segment);
        let row = Row { segment, seq, ack };
        if self.head.len() < KEPT {
            self.head.push(row);
            return;
        }
        self.tail.push_back(row);
        if self.tail.len() > KEPT {
            self.tail.pop_front();
            self.skipped += 1;
        }
    }

    fn segments(&self) -> u64 {
        (self.head.len() + self.tail.len()) as u64 + self.skipped
    }

    /// Seconds from the first segment to the last.
    fn duration(&self) -> f64 {
        let last = self.tail.back().or(self.head.last());
        match (self.head.first(), last) {
            (Some(first), Some(last)) => last.segment.at - first.segment.at,
            _ => 0.0,
        }
    }

    /// What is drawn, from top to bottom.
    fn items(&self) -> Vec<Item<'_>> {
        let mut items = Vec::new();
        let mut before: Option<f64> = None;
        for (i, row) in self.head.iter().chain(&self.tail).enumerate() {
            if i == self.head.len() && self.skipped > 0 {
                items.push(Item::Skipped(self.skipped));
            } else if let Some(gap) = before
                .map(|at| row.segment.at - at)
                .filter(|gap| *gap >= GAP)
            {
                items.push(Item::Gap(gap));
            }
            before = Some(row.segment.at);
            items.push(Item::Row(row));
        }
        items
    }
}

/// What is drawn below each other.
enum Item<'a> {
    /// A segment.
    Row(&'a Row),
    /// Seconds without one.
    Gap(f64),
    /// So many that are not drawn.
    Skipped(u64),
}

impl Row {
    /// `seq 1 ack 101 len 50 win 64240`.
    fn numbers(&self) -> String {
        let mut parts = vec![format!("seq {}", self.seq)];
        if let Some(ack) = self.ack {
            parts.push(format!("ack {ack}"));
        }
        if self.segment.len > 0 {
            parts.push(format!("len {}", self.segment.len));
        }
        // The cookie does not tell the window of the SYN.
        if self.segment.window > 0 || !(self.segment.by_xdp && self.is_in()) {
            parts.push(format!("win {}", self.segment.window));
        }
        parts.join("  ")
    }

    /// Options of a SYN, SACK blocks, and what is worth a word.
    fn details(&self) -> String {
        let s = &self.segment;
        let mut parts = Vec::new();
        if let Some(mss) = s.mss {
            parts.push(format!("mss {mss}"));
        }
        if let Some(shift) = s.window_scale {
            parts.push(format!("window scale {shift}"));
        }
        if s.sack_permitted {
            parts.push("sack permitted".into());
        }
        if s.timestamps.is_some() && s.flags.contains("SYN") {
            parts.push("timestamps".into());
        }
        if !s.sack.is_empty() {
            parts.push(format!("{} sack blocks", s.sack.len()));
        }
        if !s.note.is_empty() {
            parts.push(s.note.clone());
        }
        parts.join(" · ")
    }

    fn is_in(&self) -> bool {
        self.segment.direction == Way::In
    }
}

/// Seconds for people.
fn duration(seconds: f64) -> String {
    if seconds >= 1.0 {
        format!("{seconds:.3} s")
    } else if seconds >= 1e-3 {
        format!("{:.3} ms", seconds * 1e3)
    } else {
        format!("{:.0} µs", seconds * 1e6)
    }
}

#[cfg(test)]
mod tests;
