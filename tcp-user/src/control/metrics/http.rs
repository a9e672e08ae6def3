//! A small HTTP server for the scrapes, over the kernel's TCP, in threads of its own.
//!
//! It holds little for anyone: a few clients at a time, a short request each, one
//! answer, and the whole of it within a few seconds.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Clients at a time; the next are turned away.
const CLIENTS: usize = 8;
/// Octets of a request.
const MAX_REQUEST: usize = 4096;
/// From the first octet of the request to the last of the answer.
const TIME: Duration = Duration::from_secs(5);
/// Between accepts that fail.
const RETRY: Duration = Duration::from_millis(100);

/// `--metrics`: `ADDR:PORT`, or `PORT` of the loopback address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address(SocketAddr);

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(port) = text.trim_start_matches(':').parse() {
            return Ok(Self(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)));
        }
        text.parse()
            .map(Self)
            .map_err(|_| format!("`{text}` is not ADDR:PORT or PORT (of 127.0.0.1)"))
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A bound socket that nobody serves yet.
#[derive(Debug)]
pub struct Server(TcpListener);

impl Server {
    /// Binds.
    pub fn bind(address: Address) -> io::Result<Self> {
        TcpListener::bind(address.0).map(Self)
    }

    /// Where it is: the port may have been chosen by the kernel.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// Answers `GET /metrics` with what `text` returns, until the process ends.
    pub fn serve(
        self,
        text: impl Fn() -> Option<String> + Send + Sync + 'static,
    ) -> io::Result<()> {
        let text = Arc::new(text);
        let clients = Arc::new(AtomicUsize::new(0));
        std::thread::Builder::new()
            .name("metrics".into())
            .spawn(move || {
                for client in self.0.incoming() {
                    let client = match client {
                        Ok(client) => client,
                        Err(error) => {
                            // Out of descriptors, perhaps: not again at once.
                            tracing::debug!(%error, "metrics");
                            std::thread::sleep(RETRY);
                            continue;
                        }
                    };
                    if clients.fetch_add(1, Ordering::Relaxed) >= CLIENTS {
                        clients.fetch_sub(1, Ordering::Relaxed);
                        continue;
                    }
                    let (text, count) = (Arc::clone(&text), Arc::clone(&clients));
                    let spawned = std::thread::Builder::new()
                        .name("scrape".into())
                        .stack_size(256 << 10)
                        .spawn(move || {
                            if let Err(error) = answer(client, &*text) {
                                tracing::debug!(%error, "metrics");
                            }
                            count.fetch_sub(1, Ordering::Relaxed);
                        });
                    if let Err(error) = spawned {
                        clients.fetch_sub(1, Ordering::Relaxed);
                        tracing::debug!(%error, "metrics");
                    }
                }
            })?;
        Ok(())
    }
}

/// An answer's status, type and body.
type Answer = (&'static str, &'static str, String);

const PLAIN: &str = "text/plain; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

fn answer(mut client: TcpStream, text: &(impl Fn() -> Option<String> + ?Sized)) -> io::Result<()> {
    let end = Instant::now() + TIME;
    let (status, kind, body) = match request(&mut client, end)? {
        Some(head) => respond(&head, text),
        None => return Ok(()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    client.set_write_timeout(Some(left(end)?))?;
    client.write_all(head.as_bytes())?;
    let mut rest = body.as_bytes();
    while !rest.is_empty() {
        // Each write may take as long as is left in all.
        client.set_write_timeout(Some(left(end)?))?;
        let n = client.write(rest)?;
        if n == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        rest = &rest[n..];
    }
    Ok(())
}

fn left(end: Instant) -> io::Result<Duration> {
    let left = end.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    Ok(left)
}

/// The head of a request; `None` if the client goes before it is complete.
fn request(client: &mut TcpStream, end: Instant) -> io::Result<Option<Vec<u8>>> {
    let mut head = Vec::new();
    let mut buffer = [0; 1024];
    loop {
        client.set_read_timeout(Some(left(end)?))?;
        let n = client.read(&mut buffer)?;
        if n == 0 {
            return Ok(None);
        }
        head.extend_from_slice(&buffer[..n]);
        if head.windows(4).any(|w| w == b"\r\n\r\n") || head.len() >= MAX_REQUEST {
            return Ok(Some(head));
        }
    }
}

fn respond(head: &[u8], text: &(impl Fn() -> Option<String> + ?Sized)) -> Answer {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    let plain = |status, body: &str| (status, PLAIN, format!("{body}\n"));
    match request.parse(head) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => {
            return plain("431 Request Header Fields Too Large", "too large");
        }
        Err(_) => return plain("400 Bad Request", "no HTTP"),
    }
    let path = request.path.unwrap_or_default();
    match (request.method, path.split('?').next()) {
        (Some("GET"), Some("/metrics")) => match text() {
            Some(text) => ("200 OK", OPEN_METRICS, text),
            None => plain("503 Service Unavailable", "the server is stopping"),
        },
        (Some("GET"), Some("/")) => plain("200 OK", "tcp-xdp: see /metrics"),
        (Some("GET"), _) => plain("404 Not Found", "see /metrics"),
        _ => plain("405 Method Not Allowed", "GET only"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn served() -> SocketAddr {
        let server = Server::bind("0".parse().expect("a port")).expect("loopback");
        let address = server.address().expect("bound");
        server
            .serve(|| Some("x 1\n# EOF\n".into()))
            .expect("a thread");
        address
    }

    fn ask(address: SocketAddr, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(address).expect("served");
        stream.set_read_timeout(Some(TIME * 2)).expect("a timeout");
        stream.write_all(request).expect("taken");
        let mut text = String::new();
        let _ = stream.read_to_string(&mut text);
        text
    }

    #[test]
    fn addresses_are_loopback_where_only_a_port_is_given() {
        let parse = |text: &str| text.parse::<Address>().map(|a| a.to_string());
        assert_eq!(parse("9477").as_deref(), Ok("127.0.0.1:9477"));
        assert_eq!(parse(":9477").as_deref(), Ok("127.0.0.1:9477"));
        assert_eq!(parse("[::1]:9").as_deref(), Ok("[::1]:9"));
        assert!(parse("localhost").is_err() && parse("1.2.3.4").is_err());
    }

    #[test]
    fn only_get_metrics_is_answered_with_metrics() {
        let address = served();
        let text = ask(address, b"GET /metrics?x HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
        assert!(text.contains("openmetrics-text") && text.ends_with("\r\n\r\nx 1\n# EOF\n"));
        for (request, status) in [
            (&b"GET / HTTP/1.1\r\n\r\n"[..], "200"),
            (b"GET /etc/passwd HTTP/1.1\r\n\r\n", "404"),
            (b"POST /metrics HTTP/1.1\r\n\r\n", "405"),
            (b"\x16\x03\x01 \r\n\r\n", "400"),
        ] {
            let text = ask(address, request);
            assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{text}");
        }
    }

    #[test]
    fn clients_that_are_slow_or_say_too_much_hold_nobody_up() {
        let address = served();
        let long = [b"GET / HTTP/1.1\r\nX: ".as_slice(), &[b'x'; MAX_REQUEST]].concat();
        assert!(ask(address, &long).starts_with("HTTP/1.1 431 "));
        // Fewer than the limit say nothing: others are answered.
        let silent: Vec<_> = (0..CLIENTS - 1)
            .map(|_| TcpStream::connect(address).expect("served"))
            .collect();
        // The one with the long request may be counted for a moment more, and a silent one will be
        // turned away in time.
        let start = Instant::now();
        while !ask(address, b"GET /metrics HTTP/1.1\r\n\r\n").contains("200 OK") {
            assert!(start.elapsed() < TIME / 2, "not answered");
        }
        // More are turned away at once, and the silent ones in time.
        let more: Vec<_> = (0..CLIENTS)
            .map(|_| TcpStream::connect(address).expect("served"))
            .collect();
        let start = Instant::now();
        for mut stream in more.into_iter().chain(silent) {
            stream.set_read_timeout(Some(TIME * 4)).expect("a timeout");
            assert!(matches!(stream.read(&mut [0]), Ok(0) | Err(_)));
        }
        assert!(start.elapsed() < TIME * 4, "{:?}", start.elapsed());
    }
}
