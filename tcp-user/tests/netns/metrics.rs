//! `--metrics`, scraped by curl and by Prometheus itself.

use crate::lab::{Lab, PATIENCE, SHORT, V4, read_all, wait_for};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

const AT: &str = "127.0.0.1:9477";

fn get(lab: &Lab) {
    let mut stream = lab.connect(&format!("{V4}:80"));
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .unwrap();
    read_all(&stream);
}

#[test]
#[ignore = "needs root"]
fn metrics_are_served_on_the_loopback_address() {
    let lab = Lab::new();
    lab.server.run("ip", &["link", "set", "lo", "up"]).unwrap();
    let server = lab.serve(&["--metrics", "9477"]);
    get(&lab);
    wait_for("the end of the connection", || {
        server.conns().iter().all(|c| c.state == "TIME-WAIT")
    });
    let text = lab
        .server
        .run("curl", &["-sS", "-f", &format!("http://{AT}/metrics")])
        .unwrap();
    for line in [
        "tcpxdp_xdp_frames_total{verdict=\"answered\",reason=\"syn_ack\"} 1",
        "tcpxdp_listen_accepted_total{listen=\"*:80\",app=\"http\"} 1",
        "tcpxdp_connections{state=\"TIME-WAIT\"} 1",
        "tcpxdp_build_info{version=\"0.1.0\",interface=\"eth0\"} 1",
    ] {
        assert!(text.lines().any(|l| l == line), "{line}: {text}");
    }
    // Nobody else gets there.
    let there = lab.try_connect(&format!("{V4}:9477"), SHORT);
    assert!(there.is_err());
    let (code, error) = lab.refused(&[
        "run",
        "--iface",
        "lo",
        "--listen",
        "*:80=http",
        "--metrics",
        AT,
    ]);
    assert_eq!(code, Some(2));
    assert!(error.contains(&format!("--metrics {AT}")), "{error}");
}

/// Prometheus with its data in a directory of its own; both go when dropped.
struct Prometheus {
    child: Child,
    directory: PathBuf,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

#[test]
#[ignore = "needs root"]
fn prometheus_scrapes_it() {
    let lab = Lab::new();
    lab.server.run("ip", &["link", "set", "lo", "up"]).unwrap();
    let _server = lab.serve(&["--metrics", AT]);
    get(&lab);
    let prometheus = xtask::process::tool("prometheus").unwrap();
    let directory = std::env::temp_dir().join(format!("{}-prometheus", lab.server.name()));
    std::fs::create_dir_all(&directory).unwrap();
    let deploy = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy");
    let config = std::fs::read_to_string(format!("{deploy}/prometheus.yml")).unwrap();
    let config = config.replace("interval: 10s", "interval: 1s");
    std::fs::write(directory.join("prometheus.yml"), config).unwrap();
    std::fs::copy(format!("{deploy}/alerts.yml"), directory.join("alerts.yml")).unwrap();
    let child = lab
        .server
        .command(prometheus.to_str().unwrap())
        .arg(format!(
            "--config.file={}/prometheus.yml",
            directory.display()
        ))
        .arg(format!("--storage.tsdb.path={}/data", directory.display()))
        .arg("--web.listen-address=127.0.0.1:9090")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let _prometheus = Prometheus { child, directory };
    let query = |what: &str| {
        let query = format!("query={what}");
        let url = "http://127.0.0.1:9090/api/v1/query";
        lab.server
            .run("curl", &["-sS", "-G", url, "--data-urlencode", &query])
            .unwrap_or_default()
    };
    let start = Instant::now();
    let wait_for = |what: &str, answer: &str| loop {
        let text = query(what);
        if text.contains(answer) {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "{what}: {text}");
        std::thread::sleep(Duration::from_millis(300));
    };
    wait_for("up{job=\"tcp-xdp\"}", "\"1\"]");
    wait_for("tcpxdp_xdp_frames_total{reason=\"syn_ack\"}", "\"1\"]");
    get(&lab);
    wait_for("sum(tcpxdp_listen_accepted_total)", "\"2\"]");
    wait_for("process_resident_memory_bytes > 1e6", "resident_memory");
    // The rules are evaluated, and none fires.
    let alerts = lab
        .server
        .run("curl", &["-sS", "http://127.0.0.1:9090/api/v1/rules"])
        .unwrap();
    assert!(
        alerts.contains("TcpXdpDown") && !alerts.contains("\"firing\""),
        "{alerts}"
    );
}
