//! `proxy:HOST:PORT` between real clients and real backends. Backends are on the loopback of the
//! server's namespace.

use crate::lab::{Lab, Server, V4, V6, noise};
use crate::programs::{Directory, nginx, nginx_in, wrk};
use std::io::{ErrorKind, Read};
use std::time::{Duration, Instant};
use tcp_user::control::proxied::Proxied;

const BACKEND: &str = "127.0.0.1:8080";
/// Answers that say who gave them.
const PAGE: &str = "server { listen 127.0.0.1:8080; location / { return 200 \"nginx\\n\"; } }";

fn serve(lab: &Lab, target: &str, extra: &[&str]) -> Server {
    let listen = format!("*:80=proxy:{target}");
    let mut args = vec!["--listen", &listen];
    args.extend(extra);
    lab.run(&args)
}

/// The only proxied listen.
fn proxy(server: &Server) -> Proxied {
    let mut proxies = server.stats().proxies;
    assert_eq!(proxies.len(), 1);
    proxies.remove(0)
}

fn fds(server: &Server) -> usize {
    let path = format!("/proc/{}/fd", server.pid());
    std::fs::read_dir(path).unwrap().count()
}

/// Waits until every connection has ended, and checks that each was counted once and that
/// no descriptor is left.
fn settled(server: &Server, descriptors: usize) -> Proxied {
    let start = Instant::now();
    loop {
        let proxy = proxy(server);
        let ended: u64 = proxy.ended.values().sum();
        let open: usize = proxy.backends.iter().map(|b| b.active).sum();
        let conns = server.conns();
        let alive = conns.iter().filter(|c| c.state != "TIME-WAIT").count();
        if ended == proxy.accepted && open == 0 && alive == 0 && fds(server) == descriptors {
            return proxy;
        }
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "{proxy:?}, {alive} connections, {} descriptors, not {descriptors}",
            fds(server)
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Descriptors of a server whose workers have proxied once.
fn descriptors(lab: &Lab, server: &Server) -> usize {
    let before = fds(server);
    drop(lab.connect(&format!("{V4}:80")));
    settled(server, before + 1);
    before + 1
}

fn curl(lab: &Lab, args: &[&str]) -> String {
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
        assert_eq!(lab.client_resets().0, 0);
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
            .try_connect(&format!("{V4}:80"), Duration::from_secs(10))
            .and_then(|mut stream| stream.read(&mut [0]));
        let error = read.expect_err("an RST");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    let proxy = settled(&server, before + 1);
    assert_eq!((proxy.accepted, proxy.ended["refused"]), (5, 5));
    assert_eq!(proxy.backends[0].failed, 5);
}
