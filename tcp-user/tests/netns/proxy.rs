//! `proxy:HOST:PORT` between real clients and real backends. Backends are on the loopback of the
//! server's namespace.

use crate::lab::{Lab, PATIENCE, Server, V4, V6, noise, read_all, wait_for};
use crate::loss::lose;
use crate::programs::{Directory, haproxy, nginx, nginx_in, redis, wrk};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};
use tcp_user::control::proxied::Proxied;

pub const BACKEND: &str = "127.0.0.1:8080";
/// Answers that say who gave them.
const PAGE: &str = "server { listen 127.0.0.1:8080; location / { return 200 \"nginx\\n\"; } }";

pub fn serve(lab: &Lab, target: &str, extra: &[&str]) -> Server {
    let listen = format!("*:80=proxy:{target}");
    let mut args = vec!["--listen", &listen];
    args.extend(extra);
    lab.run(&args)
}

/// The only proxied listen.
pub fn proxy(server: &Server) -> Proxied {
    let mut proxies = server.stats().proxies;
    assert_eq!(proxies.len(), 1);
    proxies.remove(0)
}

/// Descriptors of a server. The least of some readings: a health check or a query to the
/// control socket has one for a moment.
pub fn fds(server: &Server) -> usize {
    let path = format!("/proc/{}/fd", server.pid());
    let read = |_| {
        std::thread::sleep(Duration::from_millis(5));
        std::fs::read_dir(&path).unwrap().count()
    };
    (0..10).map(read).min().unwrap()
}

/// Waits until every connection has ended, and checks that each was counted once and that
/// no descriptor is left. It may have had one more when they were counted.
pub fn settled(server: &Server, descriptors: usize) -> Proxied {
    let start = Instant::now();
    loop {
        let proxy = proxy(server);
        let ended: u64 = proxy.ended.values().sum();
        let open: usize = proxy.backends.iter().map(|b| b.active).sum();
        let conns = server.conns();
        let alive = conns.iter().filter(|c| c.state != "TIME-WAIT").count();
        if ended == proxy.accepted && open == 0 && alive == 0 && fds(server) <= descriptors {
            return proxy;
        }
        assert!(
            start.elapsed() < PATIENCE,
            "{proxy:?}, {alive} connections, {} descriptors, not {descriptors}",
            fds(server)
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Descriptors of a server whose workers have proxied once.
pub fn descriptors(lab: &Lab, server: &Server) -> usize {
    let before = fds(server);
    drop(lab.connect(&format!("{V4}:80")));
    settled(server, before + 1);
    before + 1
}

pub fn curl(lab: &Lab, args: &[&str]) -> String {
    let mut all = vec!["-sS", "-g", "--fail-with-body", "--max-time", "60"];
    all.extend(args);
    lab.client.run("curl", &all).unwrap()
}

#[test]
#[ignore = "needs root"]
fn curl_gets_from_nginx_what_nginx_has() {
    let data = noise(5_000_000);
    for (mode, host) in [("native", V4.to_owned()), ("generic", format!("[{V6}]"))] {
        let lab = Lab::new();
        let directory = Directory::new();
        directory.write("noise", &data);
        let _nginx = nginx_in(
            &lab.server,
            BACKEND,
            "server { listen 127.0.0.1:8080; }",
            directory,
        );
        let server = serve(&lab, BACKEND, &["--mode", mode]);
        let to = Directory::new();
        let file = to.path().join("got");
        let (url, path) = (format!("http://{host}/noise"), file.display().to_string());
        curl(&lab, &["-o", &path, &url]);
        assert!(std::fs::read(&file).unwrap() == data, "{mode}");
        assert_eq!(lab.client_resets(), 0);
        let proxy = settled(&server, fds(&server));
        assert_eq!((proxy.accepted, proxy.ended["done"]), (1, 1));
        assert!(proxy.to_client > 5_000_000);
    }
}

#[test]
#[ignore = "needs root"]
fn ten_thousand_requests_on_two_hundred_connections_without_an_error() {
    let lab = Lab::new();
    let _nginx = nginx(&lab.server, BACKEND, PAGE);
    let server = serve(&lab, BACKEND, &[]);
    let idle = descriptors(&lab, &server);
    let mut requests = 0;
    for _ in 0..20 {
        let url = format!("http://{V4}/");
        let run = wrk(&lab.client, &["-c", "200", "-t", "2", "-d", "2s", &url]);
        assert_eq!(run.errors, Vec::<String>::new(), "{run:?}");
        requests += run.requests;
        if requests >= 10_000 {
            break;
        }
    }
    assert!(requests >= 10_000, "{requests}");
    let proxy = settled(&server, idle);
    for (outcome, n) in &proxy.ended {
        let expected = ["done", "client_reset"].contains(&outcome.as_str());
        assert!(expected || *n == 0, "{outcome}: {n}");
    }
}

#[test]
#[ignore = "needs root"]
fn the_client_of_a_backend_that_refuses_is_reset() {
    let lab = Lab::new();
    let server = serve(&lab, BACKEND, &["--set", "proxy.health_interval=0s"]);
    let before = fds(&server);
    for _ in 0..5 {
        // The RST may come before the client's kernel has told of the connection.
        let read = lab
            .try_connect(&format!("{V4}:80"), PATIENCE)
            .and_then(|mut stream| stream.read(&mut [0]));
        let error = read.expect_err("an RST");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    let proxy = settled(&server, before + 1);
    assert_eq!((proxy.accepted, proxy.ended["refused"]), (5, 5));
    assert_eq!(proxy.backends[0].failed, 5);
}

#[test]
#[ignore = "needs root"]
fn tls_passes_untouched() {
    let lab = Lab::new();
    let directory = Directory::new();
    let dir = directory.path().display().to_string();
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
        ])
        .args(["-nodes", "-days", "2", "-subj", "/CN=proxied.test"])
        .args(["-addext", "subjectAltName=DNS:proxied.test"])
        .args([
            "-keyout",
            &format!("{dir}/key"),
            "-out",
            &format!("{dir}/cert"),
        ])
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let data = noise(1_000_000);
    directory.write("noise", &data);
    let servers = format!(
        "server {{ listen {BACKEND} ssl; ssl_certificate {dir}/cert; ssl_certificate_key {dir}/key; }}"
    );
    let _nginx = nginx_in(&lab.server, BACKEND, &servers, directory);
    let listen = format!("*:443=proxy:{BACKEND}");
    let server = lab.run(&["--listen", &listen]);
    let (cert, to) = (format!("{dir}/cert"), format!("{dir}/got"));
    let resolve = format!("proxied.test:443:{V4}");
    let args = ["--cacert", &cert, "--resolve", &resolve, "-o", &to];
    let said = curl(
        &lab,
        &[
            &args[..],
            &[
                "-w",
                "%{ssl_verify_result} %{http_code}",
                "https://proxied.test/noise",
            ],
        ]
        .concat(),
    );
    assert_eq!(said, "0 200");
    assert!(std::fs::read(&to).unwrap() == data);
    settled(&server, fds(&server));
}

#[test]
#[ignore = "needs root"]
fn redis_benchmark_runs_through() {
    let lab = Lab::new();
    let _redis = redis(&lab.server, 6379);
    let server = lab.run(&["--listen", "*:6379=proxy:127.0.0.1:6379"]);
    let args = [
        "-h",
        V4,
        "-n",
        "20000",
        "-c",
        "50",
        "-P",
        "4",
        "-t",
        "ping,set,get",
        "--csv",
    ];
    let table = lab.client.run("redis-benchmark", &args).unwrap();
    for test in ["PING_INLINE", "PING_MBULK", "SET", "GET"] {
        let line = table
            .lines()
            .find(|l| l.starts_with(&format!("\"{test}\"")));
        let rate = line.and_then(|l| l.split('"').nth(3)?.parse::<f64>().ok());
        assert!(rate.is_some_and(|r| r > 0.0), "{table}");
    }
    let set = lab
        .client
        .run("redis-cli", &["-h", V4, "SET", "key", "value"]);
    assert_eq!(set.unwrap().trim(), "OK");
    let get = lab.client.run("redis-cli", &["-h", V4, "GET", "key"]);
    assert_eq!(get.unwrap().trim(), "value");
    let proxy = settled(&server, fds(&server));
    assert!(proxy.accepted > 100, "{proxy:?}");
}

#[test]
#[ignore = "needs root"]
fn backends_see_the_clients_address() {
    let lab = Lab::new();
    let _nginx = nginx(
        &lab.server,
        BACKEND,
        "server { listen 127.0.0.1:8080 proxy_protocol; location / { return 200 \
         \"$proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_addr \
         $proxy_protocol_server_port\"; } }",
    );
    let _haproxy = haproxy(
        &lab.server,
        "127.0.0.1:8081",
        "frontend f\n  bind 127.0.0.1:8081 accept-proxy\n  http-request return status 200 \
         content-type text/plain lf-string \"%[src] %[src_port] %[dst] %[dst_port]\"",
    );
    let mut listens = Vec::new();
    for (port, backend, version) in [
        (1, BACKEND, "v1"),
        (2, BACKEND, "v2"),
        (3, "127.0.0.1:8081", "v1"),
        (4, "127.0.0.1:8081", "v2"),
    ] {
        listens.push("--listen".to_owned());
        listens.push(format!("*:{port}=proxy:{backend}?proxy_protocol={version}"));
    }
    let args: Vec<&str> = listens.iter().map(String::as_str).collect();
    // Checks must not count as broken headers either, or the backends would be down.
    let server = lab.run(&[&args[..], &["--set", "proxy.health_interval=50ms"]].concat());
    std::thread::sleep(Duration::from_millis(300));
    for (client, host) in [
        ("192.0.2.1", V4.to_owned()),
        ("2001:db8::1", format!("[{V6}]")),
    ] {
        for port in 1..=4 {
            let url = format!("http://{host}:{port}/");
            let said = curl(&lab, &["-w", "\n%{local_port}", &url]);
            let (seen, from) = said.split_once('\n').unwrap();
            let server = host.trim_matches(['[', ']']);
            assert_eq!(seen, format!("{client} {from} {server} {port}"));
        }
    }
    wait_for("the end of all connections", || {
        let proxies = server.stats().proxies;
        proxies.iter().all(|proxy| proxy.ended["done"] == 2)
    });
    for proxy in server.stats().proxies {
        assert!(proxy.backends[0].up, "{proxy:?}");
    }
}

/// A backend of the test's own.
pub fn listen(lab: &Lab) -> TcpListener {
    lab.server
        .enter(|| TcpListener::bind(BACKEND))
        .unwrap()
        .unwrap()
}

/// The backend's end of the next connection.
pub fn accept(listener: &TcpListener) -> TcpStream {
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// No checks: every connection is a client's.
pub const UNCHECKED: [&str; 2] = ["--set", "proxy.health_interval=0s"];

fn send_and_close(mut stream: &TcpStream, data: &[u8]) {
    stream.write_all(data).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
}

#[test]
#[ignore = "needs root"]
fn both_halves_are_carried_octet_by_octet_also_over_a_lossy_path() {
    let lab = Lab::new();
    let listener = listen(&lab);
    let server = serve(&lab, BACKEND, &UNCHECKED);
    let idle = fds(&server) + 1;
    let (up, down) = (noise(5_000_000), noise(4_000_001));
    for per_mille in [0, 10] {
        lose(&lab, per_mille);
        // Who closes its half first, and whether the other has still everything to send.
        for client_first in [true, false] {
            let client = lab.connect(&format!("{V4}:80"));
            let patience = Some(Duration::from_mins(5));
            client.set_read_timeout(patience).unwrap();
            client.set_write_timeout(patience).unwrap();
            let backend = accept(&listener);
            backend.set_read_timeout(patience).unwrap();
            let (first, then) = if client_first {
                ((&client, &up), (&backend, &down))
            } else {
                ((&backend, &down), (&client, &up))
            };
            std::thread::scope(|scope| {
                scope.spawn(|| send_and_close(first.0, first.1));
                assert!(read_all(then.0) == *first.1, "{per_mille}");
                scope.spawn(|| send_and_close(then.0, then.1));
                assert!(read_all(first.0) == *then.1, "{per_mille}");
            });
        }
        // Both at once.
        let client = lab.connect(&format!("{V4}:80"));
        let backend = accept(&listener);
        std::thread::scope(|scope| {
            scope.spawn(|| send_and_close(&client, &up));
            scope.spawn(|| send_and_close(&backend, &down));
            let at_backend = scope.spawn(|| read_all(&backend));
            assert!(read_all(&client) == down, "{per_mille}");
            assert!(at_backend.join().unwrap() == up, "{per_mille}");
        });
        lab.assert_no_resets();
    }
    lose(&lab, 0);
    let proxy = settled(&server, idle);
    assert_eq!((proxy.accepted, proxy.ended["done"]), (6, 6));
    assert_eq!(
        (proxy.to_backend, proxy.to_client),
        (6 * 5_000_000, 6 * 4_000_001)
    );
    assert_eq!(lab.client_resets(), 0);
}

#[test]
#[ignore = "needs root"]
fn requests_over_a_lossy_path_are_answered() {
    let lab = Lab::new();
    let _nginx = nginx(&lab.server, BACKEND, PAGE);
    let server = serve(&lab, BACKEND, &[]);
    lose(&lab, 10);
    let url = format!("http://{V4}/");
    let run = wrk(&lab.client, &["-c", "20", "-t", "1", "-d", "3s", &url]);
    assert_eq!(run.errors, Vec::<String>::new());
    assert!(run.requests > 100, "{run:?}");
    lose(&lab, 0);
    assert_eq!(proxy(&server).ended["backend_reset"], 0);
}

/// Writes until nothing is taken for some seconds; how much was.
fn fill(mut stream: &TcpStream) -> usize {
    let data = noise(1 << 16);
    stream
        .set_write_timeout(Some(Duration::from_secs(3)))
        .unwrap();
    let mut taken = 0;
    loop {
        match stream.write(&data[taken % data.len()..]) {
            Ok(n) => taken += n,
            Err(e) if e.kind() == ErrorKind::WouldBlock => return taken,
            Err(e) => panic!("after {taken}: {e}"),
        }
        assert!(taken < 100 << 20, "nobody stops us");
    }
}

/// Reads what [`fill`] wrote, and to the end.
fn check_filled(stream: &TcpStream, len: usize) {
    let data = noise(1 << 16);
    let got = read_all(stream);
    assert_eq!(got.len(), len);
    let wrong = (0..len).find(|&i| got[i] != data[i % data.len()]);
    assert_eq!(wrong, None, "first wrong octet");
}

#[test]
#[ignore = "needs root"]
fn who_does_not_read_stops_who_writes() {
    let lab = Lab::new();
    let listener = listen(&lab);
    let server = serve(&lab, BACKEND, &UNCHECKED);
    let idle = fds(&server) + 1;
    for from_client in [true, false] {
        let client = lab.connect(&format!("{V4}:80"));
        let backend = accept(&listener);
        let (writer, reader) = if from_client {
            (&client, &backend)
        } else {
            (&backend, &client)
        };
        let before = server.memory_kb();
        let len = fill(writer);
        let grown = server.memory_kb().saturating_sub(before);
        assert!(grown < 4 << 10, "{grown} kB hold {len} octets");
        let conns = server.conns();
        let received = conns.iter().any(|c| c.recv_queue > 1 << 16);
        let sending = conns.iter().any(|c| c.send_queue > 0);
        assert_eq!(
            (received, sending),
            (from_client, !from_client),
            "{conns:?}"
        );
        writer.shutdown(Shutdown::Write).unwrap();
        check_filled(reader, len);
        reader.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(writer), b"");
    }
    let proxy = settled(&server, idle);
    assert_eq!(proxy.ended["done"], 2);
    lab.assert_no_resets();
}

#[test]
#[ignore = "needs root"]
fn workers_share_a_listens_backends() {
    let lab = Lab::with_queues(2);
    let _nginx = nginx(&lab.server, BACKEND, PAGE);
    let server = serve(&lab, BACKEND, &[]);
    assert!(server.ready.contains("queues=2"), "{}", server.ready);
    let url = format!("http://{V4}/");
    let run = wrk(&lab.client, &["-c", "50", "-t", "2", "-d", "1s", &url]);
    assert_eq!(run.errors, Vec::<String>::new());
    let stats = server.stats();
    assert_eq!(stats.proxies.len(), 1);
    assert!(stats.proxies[0].accepted >= 50);
}
