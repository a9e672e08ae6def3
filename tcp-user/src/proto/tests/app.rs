//! Applications on the endpoint's side of a simulation. They act on events only, so that
//! an event that never comes shows as a stuck connection.

use super::client::{octet, octets};
use super::rng::Rng;
use crate::proto::{CloseReason, ConnId, Endpoint, Event, Instant};
use std::collections::VecDeque;
use std::time::Duration;

/// What the server does with a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// Returns every octet; closes after the peer did.
    Echo,
    /// Reads all; closes after the peer did.
    Sink,
    /// Closes its half at once and reads all.
    SinkHalfClosed,
    /// Sends so many octets once the first one has come, then closes its half.
    Source(u64),
    /// Sends so many octets and closes its half only after the peer did.
    SourceLast(u64),
    /// Sends so many octets at once, then closes its half.
    Greeting(u64),
    /// Closes both halves once so many octets have come.
    CloseAfter(u64),
    /// Reads what comes without a look at it; closes after the peer did.
    Discard,
    /// Aborts once so many octets have come.
    AbortAfter(u64),
}

#[derive(Debug)]
pub(super) struct App {
    pub(super) kind: Kind,
    pub(super) id: Option<ConnId>,
    /// What the peer sends, and what the source sends.
    expects: u64,
    sends: u64,
    /// Octets read at a time and the pause between; `None`: all at once.
    slow: Option<(usize, Duration)>,
    next_read: Option<Instant>,
    pub(super) received: u64,
    pub(super) sent: u64,
    to_echo: VecDeque<u8>,
    pub(super) eof: bool,
    pub(super) shut: bool,
    pub(super) released: bool,
    pub(super) closed: Option<CloseReason>,
    rng: Rng,
}

impl App {
    pub(super) fn new(
        kind: Kind,
        expects: u64,
        sends: u64,
        slow: Option<(usize, Duration)>,
        rng: Rng,
    ) -> Self {
        Self {
            kind,
            id: None,
            expects,
            sends,
            slow,
            next_read: None,
            received: 0,
            sent: 0,
            to_echo: VecDeque::new(),
            eof: false,
            shut: false,
            released: false,
            closed: None,
            rng,
        }
    }

    pub(super) fn handle_event(&mut self, now: Instant, endpoint: &mut Endpoint, event: Event) {
        assert!(self.closed.is_none(), "{event:?} after Closed");
        match event {
            Event::Accepted(id) => {
                assert!(self.id.is_none(), "accepted twice");
                self.id = Some(id);
                match self.kind {
                    Kind::SinkHalfClosed => self.shutdown(now, endpoint),
                    Kind::Greeting(_) => self.write(now, endpoint),
                    _ => {}
                }
            }
            Event::Readable(_) => match self.slow {
                Some((_, pause)) => {
                    self.next_read.get_or_insert(now + pause);
                }
                None => self.read(now, endpoint, usize::MAX),
            },
            Event::Writable(_) => self.write(now, endpoint),
            Event::Closed(_, reason) => self.closed = Some(reason),
            Event::FlowBegan(_) | Event::FlowEnded(_) => {}
        }
    }

    /// The slow reader's clock.
    pub(super) fn run(&mut self, now: Instant, endpoint: &mut Endpoint) {
        let Some((size, pause)) = self.slow else {
            return;
        };
        if self.is_done() || self.next_read.is_none_or(|at| at > now) {
            return;
        }
        self.read(now, endpoint, size);
        let unread = |id| endpoint.peek(id).is_ok_and(|s| !s[0].is_empty());
        self.next_read = self.id.is_some_and(unread).then(|| now + pause);
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        if self.is_done() { None } else { self.next_read }
    }

    fn is_done(&self) -> bool {
        self.closed.is_some() || self.released
    }

    fn read(&mut self, now: Instant, endpoint: &mut Endpoint, mut limit: usize) {
        let Some(id) = self.id else { return };
        let mut buf = [0; 3000];
        while limit > 0 && !self.is_done() && self.to_echo.len() < 10_000 {
            let size = (self.rng.range(1, buf.len() as u64) as usize).min(limit);
            let data: Vec<u8> = if self.rng.chance(0.5) {
                let Ok(n) = endpoint.read(id, &mut buf[..size]) else {
                    return;
                };
                buf[..n].to_vec()
            } else {
                let Ok(slices) = endpoint.peek(id) else {
                    return;
                };
                let data = slices.into_iter().flatten().take(size).copied().collect();
                let data: Vec<u8> = data;
                if !data.is_empty() {
                    endpoint.consume(id, data.len()).expect("the peek worked");
                }
                data
            };
            if data.is_empty() {
                break;
            }
            limit -= data.len();
            for (i, got) in data.iter().enumerate() {
                if self.kind == Kind::Discard {
                    break;
                }
                let at = self.received + i as u64;
                let expected = octet(self.expects, at);
                assert_eq!(*got, expected, "octet {at} from the client is wrong");
            }
            assert!(!self.eof, "data after the end");
            self.received += data.len() as u64;
            if self.kind == Kind::Echo {
                self.to_echo.extend(&data);
                self.write(now, endpoint);
            }
            self.after_read(now, endpoint, id);
        }
        if !self.eof && !self.is_done() && self.to_echo.len() < 10_000 {
            self.eof = endpoint.is_read_closed(id);
        }
        self.write(now, endpoint);
    }

    fn after_read(&mut self, now: Instant, endpoint: &mut Endpoint, id: ConnId) {
        match self.kind {
            Kind::CloseAfter(n) if self.received >= n => {
                endpoint.close(now, id);
                self.released = true;
            }
            Kind::AbortAfter(n) if self.received >= n => {
                endpoint.abort(now, id);
                self.released = true;
            }
            _ => {}
        }
    }

    fn write(&mut self, now: Instant, endpoint: &mut Endpoint) {
        let Some(id) = self.id else { return };
        if self.is_done() || self.shut {
            return;
        }
        match self.kind {
            Kind::Echo => {
                while !self.to_echo.is_empty() {
                    let (data, _) = self.to_echo.as_slices();
                    let Ok(n) = endpoint.write(now, id, data) else {
                        return;
                    };
                    let all = n == data.len();
                    self.to_echo.drain(..n);
                    self.sent += n as u64;
                    if !all {
                        return;
                    }
                }
                self.eof |= endpoint.is_read_closed(id);
                if self.eof {
                    self.shutdown(now, endpoint);
                } else if endpoint.peek(id).is_ok_and(|s| !s[0].is_empty()) && self.slow.is_none() {
                    // Reading had stopped for want of room.
                    self.read(now, endpoint, usize::MAX);
                }
            }
            Kind::Source(total) | Kind::SourceLast(total) | Kind::Greeting(total) => {
                let greets = matches!(self.kind, Kind::Greeting(_));
                if self.received == 0 && !self.eof && !greets {
                    return;
                }
                while self.sent < total {
                    let size = self.rng.range(1, 20_000).min(total - self.sent) as usize;
                    let data = octets(self.sends, self.sent, size);
                    let Ok(n) = endpoint.write(now, id, &data) else {
                        return;
                    };
                    self.sent += n as u64;
                    if n < size {
                        return;
                    }
                }
                if self.eof || !matches!(self.kind, Kind::SourceLast(_)) {
                    self.shutdown(now, endpoint);
                }
            }
            Kind::Sink | Kind::Discard | Kind::CloseAfter(_) | Kind::AbortAfter(_) => {
                if self.eof {
                    self.shutdown(now, endpoint);
                }
            }
            Kind::SinkHalfClosed => {}
        }
    }

    fn shutdown(&mut self, now: Instant, endpoint: &mut Endpoint) {
        if let (Some(id), false) = (self.id, self.shut) {
            self.shut = true;
            endpoint.shutdown(now, id).expect("the connection is open");
        }
    }
}
