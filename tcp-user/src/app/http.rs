//! HTTP/1.1 (RFC 9112): `GET` and `HEAD` of `/` and of `/bytes/N`, with keep-alive and
//! pipelining.
//!
//! The octet of `/bytes/N` at position `p` depends on `p` alone, see [`Content::octet`],
//! so that a client can check every one, and a lost, repeated or displaced segment shows.

use super::{Context, SCRATCH};
use crate::proto::State;

/// Longest request head; longer ones are answered 431 (RFC 6585 §5).
const MAX_HEAD: usize = 8 << 10;
/// Header fields of a request at most.
const MAX_FIELDS: usize = 64;
/// Longest request body that is skipped, octets.
const MAX_BODY: u64 = 1 << 20;
/// A prime, so that no shift by whole segments or windows goes unseen.
const PERIOD: usize = 65_521;

const PAGE: &str = "<!doctype html>\n<title>tcp-xdp</title>\n<h1>tcp-xdp</h1>\n\
<p>The handshake of this connection was answered in XDP, the rest by a TCP in userspace.\n\
<p><a href=\"/bytes/1000000\">/bytes/N</a> sends N octets.\n";

/// What `/bytes/N` consists of.
pub(super) struct Content(Box<[u8]>);

impl Content {
    pub(super) fn new() -> Self {
        Self((0..(PERIOD + SCRATCH) as u64).map(Self::octet).collect())
    }

    /// The octet at a position: the top octet of `(p mod 65521 + 1) · 2654435761 mod 2^32`.
    pub(super) fn octet(position: u64) -> u8 {
        let place = (position % PERIOD as u64) as u32 + 1;
        (place.wrapping_mul(2_654_435_761) >> 24) as u8
    }

    /// Up to [`SCRATCH`] octets from a position on.
    fn at(&self, position: u64, len: u64) -> &[u8] {
        let start = (position % PERIOD as u64) as usize;
        &self.0[start..start + len.min(SCRATCH as u64) as usize]
    }
}

/// State of an HTTP connection.
#[derive(Default)]
pub(super) struct Http {
    phase: Phase,
    /// The rest of a head or page that did not fit into the send buffer.
    pending: Vec<u8>,
    /// Octets of a request's body still to be skipped.
    skip: u64,
    /// Close after this response.
    close: bool,
}

#[derive(Default)]
enum Phase {
    /// Waiting for a request.
    #[default]
    Head,
    /// Sending octets `position..end` of the content.
    Body { position: u64, end: u64 },
    /// Our FIN is sent; what comes is dropped until the peer's.
    Closed,
}

/// What a request's head says.
#[derive(Debug, PartialEq, Eq)]
enum Parsed {
    /// More octets are needed.
    Partial,
    /// A request and the octets of its head.
    Request { request: Request, head: usize },
    /// Not acceptable: status and reason. The connection cannot go on.
    Bad(&'static str),
}

#[derive(Debug, PartialEq, Eq)]
struct Request {
    answer: Answer,
    /// `HEAD`: the same head, no content.
    head_only: bool,
    keep_alive: bool,
    body: u64,
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Page,
    Bytes(u64),
    Error(&'static str),
}

const BAD_REQUEST: &str = "400 Bad Request";
const NOT_FOUND: &str = "404 Not Found";
const NOT_ALLOWED: &str = "405 Method Not Allowed";
const TOO_LARGE: &str = "413 Content Too Large";
const HEAD_TOO_LARGE: &str = "431 Request Header Fields Too Large";

fn parse(data: &[u8]) -> Parsed {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    let limited = &data[..data.len().min(MAX_HEAD)];
    let head = match request.parse(limited) {
        Ok(httparse::Status::Complete(head)) => head,
        Ok(httparse::Status::Partial) if data.len() >= MAX_HEAD => {
            return Parsed::Bad(HEAD_TOO_LARGE);
        }
        Ok(httparse::Status::Partial) => return Parsed::Partial,
        Err(httparse::Error::TooManyHeaders) => return Parsed::Bad(HEAD_TOO_LARGE),
        Err(_) => return Parsed::Bad(BAD_REQUEST),
    };
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version)
    else {
        return Parsed::Bad(BAD_REQUEST);
    };

    let mut keep_alive = minor >= 1;
    let mut body = None;
    let mut hosts = 0;
    for field in request.headers.iter() {
        let value = field.value.trim_ascii();
        if field.name.eq_ignore_ascii_case("connection") {
            for option in value.split(|b| *b == b',').map(<[u8]>::trim_ascii) {
                if option.eq_ignore_ascii_case(b"close") {
                    keep_alive = false;
                } else if option.eq_ignore_ascii_case(b"keep-alive") && minor == 0 {
                    keep_alive = true;
                }
            }
        } else if field.name.eq_ignore_ascii_case("content-length") {
            // Digits only, and one length only (RFC 9112 §6.3).
            let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
            let length = digits
                .then(|| std::str::from_utf8(value).ok()?.parse::<u64>().ok())
                .flatten();
            match (length, body) {
                (Some(n), None) => body = Some(n),
                (Some(n), Some(m)) if n == m => {}
                _ => return Parsed::Bad(BAD_REQUEST),
            }
        } else if field.name.eq_ignore_ascii_case("transfer-encoding") {
            // None of the resources takes content.
            return Parsed::Bad(TOO_LARGE);
        } else if field.name.eq_ignore_ascii_case("host") {
            hosts += 1;
        }
    }
    // RFC 9112 §3.2.
    if hosts > 1 || (minor >= 1 && hosts == 0) {
        return Parsed::Bad(BAD_REQUEST);
    }
    let body = body.unwrap_or(0);
    if body > MAX_BODY {
        return Parsed::Bad(TOO_LARGE);
    }
    let answer = if matches!(method, "GET" | "HEAD") {
        route(target)
    } else {
        Answer::Error(NOT_ALLOWED)
    };
    Parsed::Request {
        request: Request {
            answer,
            head_only: method == "HEAD",
            keep_alive,
            body,
        },
        head,
    }
}

fn route(target: &str) -> Answer {
    // The absolute form names the same resource (RFC 9112 §3.2.2).
    let path = match target.strip_prefix("http://") {
        Some(rest) => rest.find('/').map_or("/", |at| &rest[at..]),
        None => target,
    };
    let path = path.split('?').next().unwrap_or(path);
    if path == "/" {
        return Answer::Page;
    }
    match path.strip_prefix("/bytes/") {
        Some(n) if !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()) => {
            n.parse().map_or(Answer::Error(BAD_REQUEST), Answer::Bytes)
        }
        _ => Answer::Error(NOT_FOUND),
    }
}

impl Http {
    pub(super) fn run(&mut self, cx: &mut Context<'_>) {
        loop {
            if !self.flush(cx) {
                return;
            }
            match self.phase {
                Phase::Head => {
                    if self.close {
                        self.finish(cx);
                    } else if !self.read(cx) {
                        return;
                    }
                }
                Phase::Body { position, end } => {
                    if position == end {
                        self.phase = Phase::Head;
                        continue;
                    }
                    let data = cx.shared.content.at(position, end - position);
                    let Ok(taken) = cx.endpoint.write(cx.now, cx.id, data) else {
                        return;
                    };
                    let whole = taken == data.len();
                    self.phase = Phase::Body {
                        position: position + taken as u64,
                        end,
                    };
                    if !whole {
                        return;
                    }
                }
                Phase::Closed => {
                    cx.discard();
                    return;
                }
            }
        }
    }

    /// Reads one request and starts the answer; false if there is none yet.
    fn read(&mut self, cx: &mut Context<'_>) -> bool {
        let len = cx.peek();
        if self.skip > 0 && len > 0 {
            let n = self.skip.min(len as u64);
            cx.consume(n as usize);
            self.skip -= n;
            return true;
        }
        let data = &cx.shared.scratch[..len];
        let parsed = if len == 0 {
            Parsed::Partial
        } else {
            parse(data)
        };
        match parsed {
            Parsed::Partial => {
                if cx.endpoint.is_read_closed(cx.id) || (len == 0 && cx.draining) {
                    self.finish(cx);
                    return true;
                }
                if len > 0 && peer_ended(cx) {
                    // Half a request and the end of data.
                    self.respond(
                        BAD_REQUEST,
                        "text/plain",
                        BAD_REQUEST.len() as u64 + 1,
                        true,
                    );
                    self.text(BAD_REQUEST);
                    cx.discard();
                    return true;
                }
                false
            }
            Parsed::Bad(status) => {
                self.respond(status, "text/plain", status.len() as u64 + 1, true);
                self.text(status);
                cx.discard();
                true
            }
            Parsed::Request { request, head } => {
                cx.consume(head);
                self.skip = request.body;
                let close = !request.keep_alive || cx.draining;
                self.answer(&request, close);
                true
            }
        }
    }

    fn answer(&mut self, request: &Request, close: bool) {
        match request.answer {
            Answer::Page => {
                self.respond("200 OK", "text/html", PAGE.len() as u64, close);
                if !request.head_only {
                    self.pending.extend_from_slice(PAGE.as_bytes());
                }
            }
            Answer::Bytes(n) => {
                self.respond("200 OK", "application/octet-stream", n, close);
                if !request.head_only {
                    self.phase = Phase::Body {
                        position: 0,
                        end: n,
                    };
                }
            }
            Answer::Error(status) => {
                self.respond(status, "text/plain", status.len() as u64 + 1, close);
                if !request.head_only {
                    self.text(status);
                }
            }
        }
    }

    /// Puts the head of a response before what follows.
    fn respond(&mut self, status: &str, kind: &str, length: u64, close: bool) {
        use std::io::Write;
        self.close = close;
        let allow = if status == NOT_ALLOWED {
            "Allow: GET, HEAD\r\n"
        } else {
            ""
        };
        let connection = if close { "Connection: close\r\n" } else { "" };
        // Writing to memory cannot fail.
        let _ = write!(
            self.pending,
            "HTTP/1.1 {status}\r\nServer: tcp-xdp\r\nContent-Type: {kind}\r\n\
             Content-Length: {length}\r\n{allow}{connection}\r\n",
        );
    }

    fn text(&mut self, status: &str) {
        self.pending.extend_from_slice(status.as_bytes());
        self.pending.push(b'\n');
    }

    /// Sends what is pending; false if some is left.
    fn flush(&mut self, cx: &mut Context<'_>) -> bool {
        if self.pending.is_empty() {
            return true;
        }
        let Ok(taken) = cx.endpoint.write(cx.now, cx.id, &self.pending) else {
            return false;
        };
        if taken < self.pending.len() {
            self.pending.drain(..taken);
            return false;
        }
        // An idle connection keeps no buffer.
        self.pending = Vec::new();
        true
    }

    /// Our FIN after the last response. What the peer still sends is read and dropped,
    /// so that no RST overtakes the response (RFC 9112 §9.6), though not for ever.
    fn finish(&mut self, cx: &mut Context<'_>) {
        self.phase = Phase::Closed;
        cx.finish();
    }
}

/// Whether the peer's FIN stands behind the data that is there.
fn peer_ended(cx: &Context<'_>) -> bool {
    cx.endpoint.state(cx.id) == Some(State::CloseWait)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(text: &str) -> Request {
        match parse(text.as_bytes()) {
            Parsed::Request { request, head } => {
                assert_eq!(head, text.len());
                request
            }
            other => panic!("{text:?}: {other:?}"),
        }
    }

    #[test]
    fn what_is_asked_for() {
        let r = request("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(
            (r.answer, r.keep_alive, r.head_only),
            (Answer::Page, true, false)
        );
        let r = request("HEAD /bytes/50000000 HTTP/1.1\r\nhost: a\r\nConnection: close\r\n\r\n");
        assert_eq!(
            (r.answer, r.keep_alive, r.head_only),
            (Answer::Bytes(50_000_000), false, true)
        );
        let r = request("GET http://a/bytes/3?x=1 HTTP/1.0\r\n\r\n");
        assert_eq!((r.answer, r.keep_alive), (Answer::Bytes(3), false));
        let r = request("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        assert!(r.keep_alive);
        let r = request("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n");
        assert_eq!((r.answer, r.body), (Answer::Error(NOT_ALLOWED), 5));
    }

    #[test]
    fn what_is_not_there_or_not_http() {
        for path in ["/x", "/bytes/", "/bytes/-1", "/bytes/1x", "*"] {
            assert_eq!(route(path), Answer::Error(NOT_FOUND), "{path}");
        }
        assert_eq!(
            route("/bytes/99999999999999999999"),
            Answer::Error(BAD_REQUEST)
        );
        for (bad, status) in [
            ("\u{1}\r\n\r\n", BAD_REQUEST),
            ("GET / HTTP/1.1\r\n\r\n", BAD_REQUEST),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", BAD_REQUEST),
            (
                "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 2\r\n\r\n",
                BAD_REQUEST,
            ),
            (
                "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999\r\n\r\n",
                TOO_LARGE,
            ),
            (
                "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
                TOO_LARGE,
            ),
        ] {
            assert_eq!(parse(bad.as_bytes()), Parsed::Bad(status), "{bad:?}");
        }
    }

    #[test]
    fn heads_end_somewhere() {
        assert_eq!(parse(b"GET / HTTP/1.1\r\nHost: a\r\n"), Parsed::Partial);
        let mut long = b"GET / HTTP/1.1\r\nHost: a\r\nX: ".to_vec();
        long.resize(MAX_HEAD, b'x');
        assert_eq!(parse(&long), Parsed::Bad(HEAD_TOO_LARGE));
        let many = format!(
            "GET / HTTP/1.1\r\n{}\r\n",
            "X: y\r\n".repeat(MAX_FIELDS + 1)
        );
        assert_eq!(parse(many.as_bytes()), Parsed::Bad(HEAD_TOO_LARGE));
    }

    #[test]
    fn any_run_of_content_agrees_with_its_positions() {
        let content = Content::new();
        for start in [0, 1, 65_519, 65_520, 65_521, 131_041, u64::from(u32::MAX)] {
            let run = content.at(start, 5000);
            assert_eq!(run.len(), 5000);
            for (i, octet) in run.iter().enumerate() {
                assert_eq!(*octet, Content::octet(start + i as u64));
            }
        }
        assert_ne!(content.at(0, 1000), content.at(1448, 1000));
    }
}
