//! A worker that proxies from a device in memory to sockets on loopback.

use super::pool::Outcome;
use super::{Pool, Settings};
use crate::app::App;
use crate::app::tests::Client;
use crate::dataplane::worker::Command;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Checks would connect to the backends as well.
fn settings() -> Settings {
    Settings {
        health_interval: Duration::ZERO,
        ..Settings::default()
    }
}

fn pool(target: &str, settings: &Settings) -> Arc<Pool> {
    let pool = Pool::new(target.parse().expect("a target"));
    pool.open(settings).expect("addresses");
    Arc::new(pool)
}

fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let addr = listener.local_addr().expect("bound");
    (listener, addr)
}

/// A port at which nobody listens.
fn closed() -> SocketAddr {
    listen().1
}

fn accept(listener: &TcpListener) -> TcpStream {
    let (stream, _) = listener.accept().expect("the proxy connects");
    let patience = Some(Duration::from_secs(10));
    stream.set_read_timeout(patience).expect("a socket");
    stream
}

/// A client whose connection is there.
fn client(pool: &Arc<Pool>) -> Client {
    let mut client = Client::new(App::Proxy(Arc::clone(pool)), 80);
    client.send(&[], false);
    client
}

fn count(pool: &Pool, wanted: Outcome) -> u64 {
    pool.outcomes()
        .find(|(outcome, _)| *outcome == wanted)
        .map_or(0, |(_, n)| n)
}

/// One connection was accepted and ended so, and nothing is left of it.
fn assert_ended(pool: &Pool, wanted: Outcome) {
    let start = Instant::now();
    while count(pool, wanted) == 0 {
        assert!(start.elapsed() < Duration::from_mins(1), "{wanted:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(pool.accepted(), 1);
    assert_eq!(pool.outcomes().map(|(_, n)| n).sum::<u64>(), 1);
    assert_eq!(pool.infos().iter().map(|b| b.active).sum::<usize>(), 0);
}

fn reset_of(stream: &mut TcpStream) -> std::io::ErrorKind {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).expect_err("an RST").kind()
}

#[test]
fn halves_are_closed_one_by_one() {
    let (listener, addr) = listen();
    let pool = pool(&addr.to_string(), &settings());
    let mut client = client(&pool);
    let mut backend = accept(&listener);
    client.send(b"hello, ", false);
    client.send(b"world", true);
    let mut got = String::new();
    backend.read_to_string(&mut got).expect("to the FIN");
    assert_eq!(got, "hello, world");
    assert!(!client.finished);
    let answer = vec![7; 100_000];
    backend.write_all(&answer).expect("the other half");
    drop(backend);
    client.run_until(|c| c.finished);
    assert!(client.received == answer);
    assert!(!client.reset);
    assert_ended(&pool, Outcome::Done);
    assert_eq!(pool.octets(), (12, 100_000));
    client.end();
}

#[test]
fn a_backend_may_close_its_half_first() {
    let (listener, addr) = listen();
    let pool = pool(&addr.to_string(), &settings());
    let mut client = client(&pool);
    let mut backend = accept(&listener);
    backend.write_all(b"bye").expect("open");
    backend.shutdown(Shutdown::Write).expect("open");
    client.run_until(|c| c.finished);
    assert_eq!(client.received, b"bye");
    client.send(b"still here", true);
    let mut got = String::new();
    backend.read_to_string(&mut got).expect("to the FIN");
    assert_eq!(got, "still here");
    assert_ended(&pool, Outcome::Done);
    client.end();
}

#[test]
fn the_client_of_a_backend_that_refuses_is_reset() {
    let pool = pool(&closed().to_string(), &settings());
    let mut client = client(&pool);
    client.run_until(|c| c.reset);
    assert_ended(&pool, Outcome::Refused);
    assert_eq!(pool.infos()[0].failed, 1);
    client.end();
}

#[test]
fn another_backend_is_tried_after_one_that_refuses() {
    let (listener, addr) = listen();
    let pool = pool(&format!("{},{addr}", closed()), &settings());
    let mut client = client(&pool);
    client.send(b"x", true);
    let mut backend = accept(&listener);
    let mut got = Vec::new();
    backend.read_to_end(&mut got).expect("to the FIN");
    assert_eq!(got, b"x");
    drop(backend);
    client.run_until(|c| c.finished);
    assert_ended(&pool, Outcome::Done);
    let infos = pool.infos();
    assert_eq!((infos[0].failed, infos[1].connected), (1, 1));
    client.end();
}

#[test]
fn the_client_of_a_backend_that_does_not_answer_is_reset() {
    // The queue of connections is full: SYNs are dropped.
    let full =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    let any: SocketAddr = "127.0.0.1:0".parse().expect("literal");
    full.bind(&any.into()).expect("loopback");
    full.listen(0).expect("loopback");
    let addr = full.local_addr().expect("bound").as_socket().expect("IP");
    let _fill: Vec<_> = (0..3)
        .map(|_| TcpStream::connect_timeout(&addr, Duration::from_millis(50)))
        .collect();
    let settings = Settings {
        connect_timeout: Duration::from_millis(100),
        ..settings()
    };
    let pool = pool(&addr.to_string(), &settings);
    let start = Instant::now();
    let mut client = client(&pool);
    client.run_until(|c| c.reset);
    assert!(start.elapsed() >= Duration::from_millis(100));
    assert_ended(&pool, Outcome::ConnectTimedOut);
    client.end();
}

#[test]
fn a_reset_by_the_backend_reaches_the_client() {
    let (listener, addr) = listen();
    let pool = pool(&addr.to_string(), &settings());
    let mut client = client(&pool);
    let mut backend = accept(&listener);
    backend.write_all(b"half an ans").expect("open");
    client.run_until(|c| c.received.len() == 11);
    super::socket::reset(backend);
    client.run_until(|c| c.reset);
    assert_ended(&pool, Outcome::BackendReset);
    client.end();
}

#[test]
fn a_reset_after_the_backends_fin_reaches_the_client() {
    let (listener, addr) = listen();
    let pool = pool(&addr.to_string(), &settings());
    let mut client = client(&pool);
    let backend = accept(&listener);
    backend.shutdown(Shutdown::Write).expect("open");
    client.run_until(|c| c.finished);
    super::socket::reset(backend);
    client.run_until(|c| c.reset);
    assert_ended(&pool, Outcome::BackendReset);
    client.end();
}

#[test]
fn a_reset_by_the_client_reaches_the_backend() {
    let (listener, addr) = listen();
    let pool = pool(&addr.to_string(), &settings());
    let mut client = client(&pool);
    let mut backend = accept(&listener);
    client.send(b"half a req", false);
    backend.read_exact(&mut [0; 10]).expect("open");
    client.abort();
    assert_eq!(reset_of(&mut backend), std::io::ErrorKind::ConnectionReset);
    assert_ended(&pool, Outcome::ClientReset);
    client.end();
}

#[test]
fn both_sides_of_an_idle_connection_are_reset() {
    let (listener, addr) = listen();
    let settings = Settings {
        idle_timeout: Duration::from_secs(2),
        ..settings()
    };
    let pool = pool(&addr.to_string(), &settings);
    let mut client = client(&pool);
    let mut backend = accept(&listener);
    let start = Instant::now();
    for n in 1..=5 {
        // Longer than the timeout in all, but never idle for so long.
        std::thread::sleep(Duration::from_millis(450));
        backend.write_all(b"x").expect("open");
        client.run_until(|c| c.received.len() == n);
    }
    client.run_until(|c| c.reset);
    assert!(start.elapsed() >= Duration::from_millis(4250));
    assert_eq!(reset_of(&mut backend), std::io::ErrorKind::ConnectionReset);
    assert_ended(&pool, Outcome::Idle);
    client.end();
}

#[test]
fn the_end_of_the_server_resets_both_sides() {
    let (listener, addr) = listen();
    let pool = pool(&addr.to_string(), &settings());
    let mut client = client(&pool);
    let mut backend = accept(&listener);
    client.worker.commands().send(Command::Abort);
    client.run_until(|c| c.reset);
    assert_eq!(reset_of(&mut backend), std::io::ErrorKind::ConnectionReset);
    client.worker.join().expect("no panic");
    assert_ended(&pool, Outcome::Shutdown);
}

#[test]
fn the_backend_is_told_of_the_client_first() {
    for (version, len) in [("v1", 40), ("v2", 28)] {
        let (listener, addr) = listen();
        let pool = pool(&format!("{addr}?proxy_protocol={version}"), &settings());
        // Even when the client waits for the backend to speak.
        let mut client = client(&pool);
        let mut backend = accept(&listener);
        let mut header = vec![0; len];
        backend.read_exact(&mut header).expect("a header");
        if version == "v1" {
            assert_eq!(header, b"PROXY TCP4 192.0.2.1 192.0.2.2 40000 80\r\n"[..40]);
            backend.read_exact(&mut [0; 1]).expect("its end");
        } else {
            assert_eq!(header[16..], [192, 0, 2, 1, 192, 0, 2, 2, 156, 64, 0, 80]);
        }
        client.send(b"data", true);
        let mut got = String::new();
        backend.read_to_string(&mut got).expect("to the FIN");
        assert_eq!(got, "data");
        drop(backend);
        client.run_until(|c| c.finished);
        assert_ended(&pool, Outcome::Done);
        assert_eq!(pool.octets(), (4, 0), "headers are not counted");
        client.end();
    }
}

#[test]
fn a_client_that_does_not_read_stops_reads_from_the_backend() {
    let (listener, addr) = listen();
    let pool = pool(&addr.to_string(), &settings());
    let mut client = client(&pool);
    let mut backend = accept(&listener);
    let data: Vec<u8> = (0..8 << 20).map(|i: u32| (i % 251) as u8).collect();
    let mut sender = backend.try_clone().expect("a descriptor");
    let all = data.clone();
    let sending = std::thread::spawn(move || {
        sender.write_all(&all).expect("open");
        sender.shutdown(Shutdown::Write).expect("open");
    });
    // Until nothing moves any more.
    let mut before = u64::MAX;
    while pool.octets().1 != before || before == 0 {
        before = pool.octets().1;
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(before <= 1 << 20, "{before} octets wait in the send buffer");
    client.run_until(|c| c.finished);
    assert!(client.received == data);
    sending.join().expect("all is sent");
    client.send(&[], true);
    assert_eq!(backend.read(&mut [0]).expect("open"), 0);
    assert_ended(&pool, Outcome::Done);
    client.end();
}
