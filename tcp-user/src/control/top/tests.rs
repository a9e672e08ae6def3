use super::*;
use crate::control::listen::Listen;
use crate::control::records::{ListenInfo, ListenStats, Worker};
use ratatui::Terminal;
use ratatui::backend::TestBackend;

/// A server a second apart: a flood, and connections in every state.
fn model() -> Model {
    let reading = |factor: u64| Stats {
        xdp: [
            ("syn_ack".to_owned(), 92_381 * factor),
            ("drop_rst".to_owned(), 92_377 * factor),
            ("rst_bad_cookie".to_owned(), 3),
            ("drop_syn_limit".to_owned(), 400 * factor),
        ]
        .into(),
        workers: vec![Worker {
            received: 1200 * factor,
            sent: 1500 * factor,
            ..Worker::default()
        }],
        states: [
            ("ESTABLISHED", 12_345),
            ("FIN-WAIT-1", 1),
            ("FIN-WAIT-2", 22),
            ("CLOSE-WAIT", 4),
            ("LAST-ACK", 5),
            ("TIME-WAIT", 678),
        ]
        .map(|(name, n)| (name.to_owned(), n))
        .into(),
        listens: ["*:80=http", "[2001:db8::2]:1000-2000=discard", "*:7=echo"]
            .iter()
            .map(|text| ListenStats {
                listen: ListenInfo::from(&text.parse::<Listen>().expect("valid")),
                accepted: 40 * factor,
                open: 3,
            })
            .collect(),
        ..Stats::default()
    };
    let (before, after) = (reading(1), reading(2));
    let rates = Rates::between(&before, &after, Duration::from_secs(1));
    let mut model = Model::new("eth0 · /run/tcp-xdp/eth0-4026532281.sock".into());
    let peers = vec![
        ("192.0.2.1".parse().expect("literal"), 1_234_567.0),
        (
            "2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff"
                .parse()
                .expect("literal"),
            999.0,
        ),
    ];
    for _ in 0..5 {
        let idle = Rates::between(&after, &after, Duration::from_secs(1));
        model.update(after.clone(), idle, Vec::new());
    }
    model.update(after, rates, peers);
    model
}

fn screen(model: &Model, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("in memory");
    terminal
        .draw(|frame| view::draw(frame, model))
        .expect("in memory");
    terminal.backend().to_string()
}

#[test]
fn the_screen_fits_on_80_by_24() {
    let screen = screen(&model(), 80, 24);
    let expected = include_str!("snapshot.txt");
    assert!(screen == expected, "\n{screen}\nis not\n{expected}");
}

#[test]
fn a_larger_screen_shows_more_and_a_smaller_one_says_so() {
    let large = screen(&model(), 160, 50);
    assert!(
        large.contains("2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff"),
        "{large}"
    );
    let small = screen(&model(), 79, 24);
    assert!(small.contains("79×24 is too small"), "{small}");
    assert!(screen(&model(), 1, 1).contains('7') || screen(&model(), 1, 1).contains('1'));
}

#[test]
fn rates_of_the_screen_are_those_of_the_counters() {
    let model = model();
    let now = |name: &str| {
        let line = model.lines.iter().find(|l| l.name == name);
        line.map(|l| l.now.round() as u64)
    };
    assert_eq!(now("SYN"), Some(92_781));
    assert_eq!(now("answered"), Some(92_381));
    assert_eq!(now("accepted"), Some(120));
    assert_eq!(now("refused"), Some(92_777));
    assert_eq!(now("frames in"), Some(1200));
    let reasons: Vec<&str> = model
        .refused
        .iter()
        .map(|(name, ..)| name.as_str())
        .collect();
    assert_eq!(reasons, ["drop_rst", "drop_syn_limit", "rst_bad_cookie"]);
    assert_eq!(model.lines[0].history, [0, 0, 0, 0, 0, 92_781]);
}

#[test]
fn peers_are_busy_with_what_came_since() {
    let connection = |remote: &str, bytes_in| Connection {
        remote: remote.parse().expect("literal"),
        ..connection(bytes_in)
    };
    let mut peers = Peers::default();
    let second = Duration::from_secs(1);
    let first = [
        connection("192.0.2.1:1", 1_000_000),
        connection("192.0.2.2:1", 5),
    ];
    assert!(
        peers
            .update(&first, second)
            .iter()
            .all(|(_, rate)| *rate == 0.0)
    );
    let later = [
        connection("192.0.2.1:1", 1_000_000),
        connection("192.0.2.2:1", 105),
        connection("192.0.2.2:2", 7),
    ];
    let busiest = peers.update(&later, second);
    assert_eq!(busiest[0].0.to_string(), "192.0.2.2");
    assert_eq!(busiest[0].1.round() as u64, 100);
    assert_eq!(peers.0.len(), 3);
}

fn connection(bytes_in: u64) -> Connection {
    serde_json::from_value(serde_json::json!({
        "remote": "192.0.2.1:1", "local": "192.0.2.9:80", "state": "ESTABLISHED",
        "send_queue": 0, "recv_queue": 0, "srtt_ms": null, "rto_ms": 200.0, "cwnd": 1,
        "ssthresh": 1, "mss": 1448, "retransmits": 0, "bytes_in": bytes_in, "bytes_out": 0,
        "age_s": 1.0
    }))
    .expect("a record")
}

/// Run by the next test in a terminal.
#[test]
#[ignore = "panics"]
fn panics_on_the_screen() {
    let mut terminal = ratatui::init();
    let _ = terminal.draw(|frame| view::draw(frame, &model()));
    panic!("on purpose");
}

#[test]
fn a_panic_restores_the_terminal() {
    let this = std::env::current_exe().expect("a test");
    let name = "control::top::tests::panics_on_the_screen";
    let command = format!(
        "{} --ignored --exact {name} --nocapture --test-threads=1",
        this.display()
    );
    let Ok(output) = std::process::Command::new("script")
        .args(["-qec", &command, "/dev/null"])
        .output()
    else {
        eprintln!("no script(1): not tested");
        return;
    };
    let text = String::from_utf8_lossy(&output.stdout);
    let at = |what: &str| {
        text.find(what)
            .unwrap_or_else(|| panic!("{what:?} in {text:?}"))
    };
    let (enter, leave) = (at("\x1b[?1049h"), at("\x1b[?1049l"));
    assert!(enter < leave && leave < at("on purpose"), "{text:?}");
}
