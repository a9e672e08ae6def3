use super::*;
use crate::app::proxy::header::Version;
use crate::app::proxy::pool::Balance;

fn set(assignments: &[&str]) -> Result<Config, Error> {
    let list: Vec<String> = assignments.iter().map(|s| (*s).to_owned()).collect();
    Config::load(None, &list)
}

#[test]
fn defaults_stand_without_a_file() {
    assert_eq!(
        Config::load(None, &[]).expect("defaults"),
        Config::default()
    );
}

#[test]
fn assignments_of_each_kind() {
    let c = set(&[
        "tcp.msl=500ms",
        "cookie.slot=10",
        "tcp.max_connections=7",
        "xdp.on_invalid_ack=drop",
        "shutdown.grace=\"1m 5s\"",
        "tcp.rto_min=0.25",
        "cookie.secret_file=/etc/key",
        "cookie.require_timestamps=under-attack",
        "xdp.allow=10.0.0.0/8, fd00::/8",
        r#"xdp.deny=["10.1.0.0/16"]"#,
        "xdp.syn_ack_rate=100",
        "proxy.balance=least-connections",
        "proxy.proxy_protocol=v2",
        "proxy.idle_timeout=1m",
    ])
    .expect("all valid");
    assert_eq!(c.tcp.msl, Duration::from_millis(500));
    assert_eq!(c.cookie.slot, Duration::from_secs(10));
    assert_eq!(c.tcp.max_connections, 7);
    assert_eq!(c.xdp.on_invalid_ack, OnInvalidAck::Drop);
    assert_eq!(c.shutdown.grace, Duration::from_secs(65));
    assert_eq!(c.cookie.require_timestamps, RequireTimestamps::UnderAttack);
    assert_eq!((c.xdp.allow.len(), c.xdp.deny.len()), (2, 1));
    assert_eq!((c.xdp.syn_ack_rate, c.xdp.rst_rate), (100, 0));
    assert_eq!(c.tcp.rto_min, Duration::from_millis(250));
    let proxy = c.proxy.settings();
    assert_eq!(proxy.balance, Balance::LeastConnections);
    assert_eq!(proxy.header, Version::V2);
    assert_eq!(proxy.idle_timeout, Duration::from_mins(1));
    assert_eq!(c.cookie.secret_file, Some(PathBuf::from("/etc/key")));
}

#[test]
fn what_is_wrong_is_named_in_one_line() {
    for (bad, names) in [
        ("tcp.mls=1s", "mls"),
        ("nope.msl=1s", "nope"),
        ("msl=1s", "msl"),
        ("tcp.msl", "key=value"),
        ("tcp.msl=fast", "fast"),
        ("tcp.congestion=vegas", "vegas"),
        ("cookie.slot=0", "cookie.slot"),
        ("tcp.max_connections=-1", "max_connections"),
        ("tcp.recv_buffer=1", "tcp.recv_buffer"),
        ("xdp.allow=10.0.0.0/33", "10.0.0.0/33"),
        ("xdp.deny=[1]", "list of prefixes"),
        ("xdp.rst_rate=5001", "xdp.rst_rate"),
        ("cookie.attack_rate=0", "cookie.attack_rate"),
        ("proxy.balance=fair", "fair"),
        ("proxy.proxy_protocol=v3", "v3"),
        ("proxy.connect_timeout=0s", "proxy.connect_timeout"),
        ("proxy.health_fall=0", "proxy.health_fall"),
    ] {
        let message = set(&[bad]).expect_err(bad).to_string();
        assert!(message.contains(names), "{bad}: {message}");
        assert!(!message.contains('\n'), "{bad}: {message}");
    }
}

/// A file that goes when the test ends.
struct File(PathBuf);

impl File {
    fn new(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("tcp-xdp-{}-{name}", std::process::id()));
        std::fs::write(&path, text).expect("temporary file");
        Self(path)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn what_is_wrong_in_a_file_is_named_with_line_and_key() {
    for (text, names) in [
        (
            "[tcp]\nmsl = \"1s\"\nwrong = 3\n",
            "line 3: tcp.wrong: unknown field",
        ),
        (
            "\n[tcp]\nmsl = \"fast\"\n",
            "line 3: tcp.msl: \"fast\" is no duration",
        ),
        (
            "[cookie]\nslot = 0\n",
            "line 2: cookie.slot: must be whole seconds",
        ),
        (
            "xdp.rst_rate = 9999\n",
            "line 1: xdp.rst_rate: must be between",
        ),
        ("[tcp\n", "line 1: "),
        (
            "listen = [\n  \"*:80=http\",\n  \"*:81=gopher\",\n]\n",
            "gopher",
        ),
        (
            "[xdp]\nallow = [\"10.0.0.0/8\"]\ndeny = [\"10.0.0.0/8\"]\n",
            "line 3: xdp.deny: ",
        ),
        ("[nope]\nx = 1\n", "line 1: "),
    ] {
        let file = File::new("wrong", text);
        let message = Config::load(Some(&file.0), &[])
            .expect_err(text)
            .to_string();
        let path = file.0.display().to_string();
        assert!(message.starts_with(&path), "{message}");
        assert!(message.contains(names), "{text:?}: {message}");
        assert!(!message.contains('\n'), "{message}");
    }
}

#[test]
fn a_listen_in_a_file_is_named_with_its_line() {
    let file = File::new(
        "listen",
        "listen = [\n  \"*:80=http\",\n  \"*:81=gopher\",\n]\n",
    );
    let message = Config::load(Some(&file.0), &[])
        .expect_err("no such app")
        .to_string();
    assert!(message.contains("line 1: listen: "), "{message}");
    assert!(message.contains("*:81=gopher"), "{message}");
    let twice = File::new("twice", "listen = [\"*:80=http\", \"*:80=echo\"]\n");
    let message = Config::check_file(&twice.0, &[])
        .expect_err("twice")
        .to_string();
    assert!(message.contains("*:80=echo"), "{message}");
}

#[test]
fn a_range_broken_by_set_names_the_assignment() {
    let file = File::new("set", "[cookie]\nslot = \"10s\"\n");
    let message = Config::load(Some(&file.0), &["cookie.slot=0".into()])
        .expect_err("out of range")
        .to_string();
    assert!(
        message.starts_with("--set cookie.slot=0: cookie.slot: "),
        "{message}"
    );
}

#[test]
fn listens_of_the_file_and_of_the_command_line_add_up() {
    let file = File::new("both", "listen = [\"*:80=http\"]\n");
    let mut origin = Origin {
        file: Some(file.0.clone()),
        listens: vec!["*:7=echo".parse().expect("valid")],
        ..Origin::default()
    };
    let config = origin.load().expect("valid");
    let all: Vec<String> = config.listen.iter().map(ToString::to_string).collect();
    assert_eq!(all, ["*:80=http", "*:7=echo"]);
    origin.listens = vec!["*:80=echo".parse().expect("valid")];
    assert!(origin.load().is_err(), "given twice");
    let message = Origin::default().load().expect_err("nothing").to_string();
    assert!(message.contains("--listen"), "{message}");
}

/// The default text with its values in force.
fn uncommented() -> String {
    default_text()
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if !rest.starts_with(' ') => format!("{rest}\n"),
            _ => format!("{line}\n"),
        })
        .collect()
}

#[test]
fn the_default_text_is_the_default_commented_or_not() {
    let commented = File::new("commented", &default_text());
    assert_eq!(
        Config::load(Some(&commented.0), &[]).expect("valid"),
        Config::default()
    );
    let file = File::new("uncommented", &uncommented());
    let mut config = Config::load(Some(&file.0), &[]).expect("valid");
    assert!(config.cookie.secret_file.take().is_some(), "an example");
    assert_eq!(config, Config::default());
    let checked = Config::check_file(&file.0, &[]).expect("valid");
    assert_eq!(
        checked.keys,
        text::keys().len(),
        "every key stands there once"
    );
    assert!(default_text().lines().all(|l| l.chars().count() <= 97));
}

#[test]
fn each_key_documents_its_name_and_default() {
    let defaults = reload::flat(&Config::default());
    for key in text::keys() {
        assert!(key.docs.contains(&format!("`{}`", key.name)), "{key:?}");
        let said = match defaults.iter().find(|(name, _)| *name == key.name) {
            Some((_, toml::Value::Array(_))) => "default empty".to_owned(),
            Some((_, toml::Value::Integer(n))) => format!("default {n}"),
            Some((_, value)) => format!("default `{value}`"),
            None => "default none".to_owned(),
        };
        let docs = key.docs.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(
            docs.contains(&said),
            "{}: `{said}` is not in: {docs}",
            key.name
        );
    }
}

#[test]
fn a_reload_tells_what_changes_now_and_what_later() {
    let before = set(&["tcp.recv_buffer=65536"]).expect("valid");
    let new = set(&[
        "tcp.recv_buffer=131072",
        "tcp.msl=1s",
        "cookie.secret_file=/k",
    ]);
    let changes = before.changes(new.expect("valid"));
    assert_eq!(changes.live, ["tcp.msl", "cookie.secret_file"]);
    assert_eq!(changes.restart, ["tcp.recv_buffer"]);
    assert_eq!(changes.config.tcp.recv_buffer, 65_536, "as it was");
    assert_eq!(changes.config.tcp.msl, Duration::from_secs(1));
    let again = changes
        .config
        .changes(set(&["tcp.recv_buffer=131072"]).expect("valid"));
    assert_eq!(again.restart, ["tcp.recv_buffer"], "still not in force");
    assert_eq!(
        again.config.cookie.secret_file, None,
        "taken out of the file"
    );
}

#[test]
fn every_live_key_exists() {
    let keys = text::keys();
    for live in LIVE {
        assert!(keys.iter().any(|key| key.name == *live), "{live}");
    }
}

#[test]
fn the_window_covers_the_buffer() {
    assert_eq!(window_scale(4096), 0);
    assert_eq!(window_scale(65_535), 0);
    assert_eq!(window_scale(65_536), 1);
    assert_eq!(window_scale(1 << 20), 5);
    assert_eq!(window_scale(1 << 30), 14);
}
