use super::*;
use crate::control::proxied::{Backend, Proxied};
use crate::control::records::{ListenInfo, ListenStats, Worker};
use std::collections::{BTreeMap, BTreeSet};

fn snapshot() -> Snapshot {
    let listen = ListenInfo::from(
        &"*:80=http"
            .parse::<crate::control::listen::Listen>()
            .expect("valid"),
    );
    Snapshot {
        interface: "eth0".into(),
        stats: Stats {
            xdp: [("syn_ack".to_owned(), 7)].into(),
            xdp_frames: 7,
            workers: vec![Worker {
                queue: 3,
                received: 11,
                frames: [("segment".to_owned(), 9)].into(),
                ..Worker::default()
            }],
            states: [("ESTABLISHED".to_owned(), 5)].into(),
            listens: vec![ListenStats {
                listen,
                accepted: 6,
                open: 5,
            }],
            under_attack: true,
            proxies: vec![Proxied {
                target: "10.0.0.1:80".into(),
                accepted: 4,
                ended: [("finished".to_owned(), 3)].into(),
                to_backend: 100,
                to_client: 200,
                backends: vec![Backend {
                    addr: "10.0.0.1:80".parse().expect("an address"),
                    up: true,
                    draining: false,
                    active: 1,
                    connected: 4,
                    failed: 2,
                }],
            }],
            ..Stats::default()
        },
    }
}

#[test]
fn names_labels_and_units_follow_the_convention() {
    let text = snapshot().encode().expect("text");
    for line in [
        "tcpxdp_xdp_frames_total{verdict=\"answered\",reason=\"syn_ack\"} 7",
        "tcpxdp_xdp_frames_total{verdict=\"dropped\",reason=\"drop_denied\"} 0",
        "tcpxdp_connections{state=\"ESTABLISHED\"} 5",
        "tcpxdp_listen_accepted_total{listen=\"*:80\",app=\"http\"} 6",
        "tcpxdp_listen_connections{listen=\"*:80\",app=\"http\"} 5",
        "tcpxdp_worker_frames_received_total{queue=\"3\"} 11",
        "tcpxdp_segments_total{queue=\"3\",disposition=\"segment\"} 9",
        "tcpxdp_trace_records_dropped_total 0",
        "tcpxdp_under_attack 1",
        "tcpxdp_flooded 0",
        "tcpxdp_worker_buffered_bytes{queue=\"3\"} 0",
        "tcpxdp_proxy_accepted_total{target=\"10.0.0.1:80\"} 4",
        "tcpxdp_proxy_ended_total{target=\"10.0.0.1:80\",outcome=\"finished\"} 3",
        "tcpxdp_proxy_bytes_total{target=\"10.0.0.1:80\",to=\"client\"} 200",
        "tcpxdp_backend_up{target=\"10.0.0.1:80\",backend=\"10.0.0.1:80\"} 1",
        "tcpxdp_backend_failed_total{target=\"10.0.0.1:80\",backend=\"10.0.0.1:80\"} 2",
        "# UNIT process_cpu_seconds seconds",
        "# EOF",
    ] {
        assert!(text.lines().any(|l| l == line), "{line}: {text}");
    }
    // Every family has a type and a help of one line, and appears once.
    let families = |what: &str| -> Vec<&str> {
        let start = format!("# {what} ");
        let rest = text.lines().filter_map(|l| l.strip_prefix(start.as_str()));
        rest.filter_map(|l| l.split(' ').next()).collect()
    };
    let helps = families("HELP");
    assert_eq!(helps, families("TYPE"));
    assert_eq!(helps.iter().collect::<BTreeSet<_>>().len(), helps.len());
    assert!(helps.len() > 10, "{helps:?}");
}

/// The names of metrics in a text.
fn names(text: &str) -> BTreeSet<&str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| word.starts_with("tcpxdp_") || word.starts_with("process_"))
        .collect()
}

#[test]
fn the_dashboard_and_the_alerts_name_metrics_that_exist() {
    let text = snapshot().encode().expect("text");
    let known = names(&text);
    let counted: BTreeMap<_, _> = Counter::ALL.iter().map(|c| (c.name(), c)).collect();
    for file in ["grafana-dashboard.json", "alerts.yml"] {
        let path = format!("{}/../deploy/{file}", env!("CARGO_MANIFEST_DIR"));
        let used = std::fs::read_to_string(&path).expect(&path);
        let names = names(&used);
        assert!(!names.is_empty(), "{file}");
        for name in names {
            assert!(known.contains(name), "{file}: {name} is not exported");
        }
        for word in used.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')) {
            let counter = ["drop_", "rst_", "pass_"]
                .iter()
                .any(|p| word.starts_with(p));
            assert!(
                !counter || counted.contains_key(word),
                "{file}: no counter {word}"
            );
        }
    }
    let dashboard = include_str!("../../../../deploy/grafana-dashboard.json");
    let dashboard: serde_json::Value = serde_json::from_str(dashboard).expect("JSON");
    assert!(dashboard["panels"].as_array().is_some_and(|p| p.len() >= 6));
}
