//! The command line.
#![allow(
    rustdoc::broken_intra_doc_links,
    reason = "brackets in what --help prints are no links"
)]

use crate::control::filter::{Filter, Sort};
use crate::control::listen::{Listen, Place, Policy};
use crate::control::loader::Mode;
use crate::control::metrics::Address;
use crate::control::sources::Prefix;
use crate::dataplane::faults::FaultPlan;
use clap::{Args, CommandFactory as _, Parser, Subcommand};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// A TCP server whose handshake is answered in XDP and whose connections live in userspace.
#[derive(Debug, Parser)]
#[command(name = "tcp-user", version, about)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the server in the foreground
    Run(Run),
    /// Print the counters of a running server, and how fast they grow
    Stats(Stats),
    /// Watch a running server: rates, connections by state, what is refused, busiest peers
    Top(Top),
    /// Print the connections of a running server, as `ss -ti` does
    Conns(Conns),
    /// Stop answering new connections of a running server, and let those that exist end
    Drain(Drain),
    /// Print each segment of a running server as it comes and goes
    Trace(Trace),
    /// Say what an interface and this system are fit for, and what would hurt
    Doctor(Doctor),
    /// Show what a running server serves, or change it
    #[command(subcommand)]
    Listen(ListenCommand),
    /// Show who may connect to a running server, or change it; connections go on
    #[command(subcommand)]
    Sources(SourcesCommand),
    /// Check a configuration file, print the default one, or let a running server read its own again
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Show the backends of proxied listens, or take one out of use and back
    #[command(subcommand)]
    Backend(BackendCommand),
    /// Print completions for a shell, to be put where it looks for them
    Completions {
        /// The shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Print the manual page, for `man -l` or /usr/share/man/man8
    Man,
    /// Make a secret for cookies, compare it, or replace that of a running server
    #[command(subcommand)]
    Secret(SecretCommand),
}

/// `tcp-user stats`
#[derive(Debug, Args)]
pub struct Stats {
    /// Which server, and how to print
    #[command(flatten)]
    pub client: Client,
    /// Count for so long, and print rates as well
    #[arg(long, value_name = "DURATION", value_parser = interval)]
    pub interval: Option<Duration>,
    /// Print again after each interval [default interval: 1s]
    #[arg(long)]
    pub watch: bool,
}

/// `tcp-user top`
#[derive(Debug, Args)]
pub struct Top {
    /// Path of the server's control socket [default: the only one in /run/tcp-xdp]
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,
    /// Time between two readings
    #[arg(long, value_name = "DURATION", value_parser = interval, default_value = "1s")]
    pub interval: Duration,
}

/// `tcp-user conns`
#[derive(Debug, Args)]
pub struct Conns {
    /// Which server, and how to print
    #[command(flatten)]
    pub client: Client,
    /// Which connections
    #[command(flatten)]
    pub filter: Filter,
    /// What comes first
    #[arg(long, value_name = "KEY", value_enum, default_value_t)]
    pub sort: Sort,
    /// So many at most
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// One line for a connection
    #[arg(long)]
    pub brief: bool,
}

/// `tcp-user drain`
#[derive(Debug, Args)]
pub struct Drain {
    /// The listens, ADDR:PORT or ADDR:PORT-PORT [default: all]
    #[arg(value_name = "ADDR:PORT")]
    pub places: Vec<Place>,
    /// Wait so long for the connections to end; the exit code is 1 if some are left
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, default_value = "0s")]
    pub wait: Duration,
    /// Which server, and how to print
    #[command(flatten)]
    pub client: Client,
}

/// `tcp-user doctor`
#[derive(Debug, Args)]
pub struct Doctor {
    /// The interface [default: that of a running server, which looks itself]
    #[arg(long, value_name = "IF", conflicts_with = "control")]
    pub iface: Option<String>,
    /// Which server, and how to print
    #[command(flatten)]
    pub client: Client,
}

/// `tcp-user listen`
#[derive(Debug, Subcommand)]
pub enum ListenCommand {
    /// Print the listens and their policies
    List(Client),
    /// Give a listen, or some ports of one, another policy; connections go on
    Policy {
        /// The listen, ADDR:PORT or ADDR:PORT-PORT
        #[arg(value_name = "ADDR:PORT")]
        place: Place,
        /// cookie: answer SYNs; observe: leave them to the kernel and count them; off: as
        /// if the port were not served; adaptive: keep handshakes, answer SYNs in a flood
        #[arg(value_name = "cookie|observe|off|adaptive")]
        policy: Policy,
        /// Which server, and how to print
        #[command(flatten)]
        client: Client,
    },
    /// Serve one more place
    Add {
        /// As for run --listen
        #[arg(value_name = "ADDR:PORT=APP[@POLICY]")]
        listen: Listen,
        /// Which server, and how to print
        #[command(flatten)]
        client: Client,
    },
    /// Serve a listen, or some ports of one, no more; connections go on
    Remove {
        /// The listen, ADDR:PORT or ADDR:PORT-PORT
        #[arg(value_name = "ADDR:PORT")]
        place: Place,
        /// Which server, and how to print
        #[command(flatten)]
        client: Client,
    },
}

/// `tcp-user sources`
#[derive(Debug, Subcommand)]
pub enum SourcesCommand {
    /// Print the allow and the deny list
    List(Client),
    /// Put a prefix on the allow list; with the first, sources on neither list are refused
    Allow(Source),
    /// Put a prefix on the deny list
    Deny(Source),
    /// Take a prefix off its list
    Remove(Source),
}

/// A prefix and a server.
#[derive(Debug, Args)]
pub struct Source {
    /// An address or ADDRESS/LENGTH
    pub prefix: Prefix,
    /// Which server, and how to print
    #[command(flatten)]
    pub client: Client,
}

/// `tcp-user config`
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Say whether a file is right; what is not is named with file, line and key
    Check {
        /// The file
        file: PathBuf,
        /// Set a key on top, as `run` would. Repeatable
        #[arg(long, value_name = "KEY=VALUE")]
        set: Vec<String>,
    },
    /// Print a file with every key, its documentation and its default
    Default,
    /// Let a running server read its configuration again, as SIGHUP does
    Reload(Client),
}

/// `tcp-user backend`
#[derive(Debug, Subcommand)]
pub enum BackendCommand {
    /// Print the backends, whether they are up, and their connections
    List(Client),
    /// Give a backend no new connections; those that it has go on
    Drain(Backend),
    /// Give it connections again
    Use(Backend),
}

/// Which backend.
#[derive(Debug, Args)]
pub struct Backend {
    /// The backend's address and port
    #[arg(value_name = "ADDR:PORT")]
    pub addr: SocketAddr,
    /// Which server, and how to print
    #[command(flatten)]
    pub client: Client,
}

/// `tcp-user secret`
#[derive(Debug, Subcommand)]
pub enum SecretCommand {
    /// Write a new random secret to a new file, for `cookie.secret_file`
    New {
        /// The file; it must not exist
        file: PathBuf,
    },
    /// Print the fingerprint of a secret, by which machines can be compared
    ShowId {
        /// The file; without it, the secret of a running server
        file: Option<PathBuf>,
        /// Which server, and how to print
        #[command(flatten)]
        client: Client,
    },
    /// Let a running server read `cookie.secret_file` again, or draw a new random secret
    Rotate(Client),
}

/// A number of octets, with K, M or G for the powers of 1024.
fn size(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.char_indices().last() {
        Some((at, 'k' | 'K')) => (&text[..at], 10),
        Some((at, 'm' | 'M')) => (&text[..at], 20),
        Some((at, 'g' | 'G')) => (&text[..at], 30),
        _ => (text, 0),
    };
    digits
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(1 << shift))
        .filter(|n| *n >= 4096)
        .ok_or_else(|| format!("`{text}` is no size of at least 4096 octets, such as 10M"))
}

fn interval(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|e| e.to_string())
        .and_then(|d| {
            if d < Duration::from_millis(10) {
                Err("at least 10ms".into())
            } else {
                Ok(d)
            }
        })
}

/// `tcp-user run`
#[derive(Debug, Args)]
pub struct Run {
    /// Interface to serve on
    #[arg(long, value_name = "IF")]
    pub iface: String,
    /// Where the XDP program runs: auto, native (in the driver) or generic
    #[arg(long, value_name = "MODE", default_value = "auto")]
    pub mode: Mode,
    /// Take the place of an XDP program that is there already
    #[arg(long)]
    pub replace: bool,
    /// For listeners of the kernel's: set the sysctls `tcp_syncookies` and `tcp_timestamps`
    /// of net.ipv4 as they need it, until the end
    #[arg(long)]
    pub tune: bool,
    /// What to serve: ADDR is an IPv4 address, an [IPv6] address or * for every address
    /// of the interface, PORT a port or a range (1000-2000); APP is echo, discard, chargen,
    /// http, proxy:HOST:PORT[,HOST:PORT...], or kernel for what listens on a socket of the
    /// kernel's; POLICY is cookie (default), adaptive, observe or off.
    /// Repeatable; those of the configuration file are served, too
    #[arg(
        long,
        value_name = "ADDR:PORT=APP[@POLICY]",
        required_unless_present = "config"
    )]
    pub listen: Vec<Listen>,
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Set a configuration key, for example tcp.msl=5s. Repeatable
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Path of the control socket [default: /run/tcp-xdp/IF-NETNS.sock]
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,
    /// Become this user once everything is set up; capabilities are dropped in any case.
    /// Files that are read later (configuration, secret) must be readable for it
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// Counters for Prometheus at http://ADDR:PORT/metrics; a PORT alone is one of 127.0.0.1
    #[arg(long, value_name = "ADDR:PORT")]
    pub metrics: Option<Address>,
    /// Print each segment as it comes and goes
    #[arg(long)]
    pub trace: bool,
    /// Let frames go wrong on purpose, on their way to userspace and from it:
    /// loss=1%,duplicate=1%,reorder=5%,seed=7, each of them optional
    #[arg(long, value_name = "FAULTS")]
    pub faults: Option<FaultPlan>,
    /// Write what userspace receives and sends, and the handshakes that XDP answered, to a
    /// pcapng file
    #[arg(long, value_name = "FILE")]
    pub pcap: Option<PathBuf>,
    /// Octets of such a file at most, for example 10M; then FILE becomes FILE.1, and so on
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "100M")]
    pub pcap_size: u64,
    /// So many files at most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..), default_value_t = 5)]
    pub pcap_files: u16,
}

/// Options of the clients.
#[derive(Debug, Args)]
pub struct Client {
    /// Path of the server's control socket [default: the only one in /run/tcp-xdp]
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `tcp-user trace`
#[derive(Debug, Args)]
pub struct Trace {
    /// Which server, and how to print
    #[command(flatten)]
    pub client: Client,
    /// Which connections
    #[command(flatten)]
    pub filter: Filter,
    /// Count sequence numbers from the initial ones
    #[arg(long)]
    pub relative: bool,
    /// Draw the next connection, once it has ended, into an SVG file
    #[arg(long, value_name = "FILE", conflicts_with = "json")]
    pub svg: Option<PathBuf>,
    /// Print the next connection, once it has ended, as a Mermaid sequence diagram
    #[arg(long, conflicts_with = "json")]
    pub mermaid: bool,
    /// Draw so many connections
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub conns: usize,
    /// Draw what has been seen after so long
    #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub at_most: Option<Duration>,
}

/// Completions of every command and option.
pub fn completions(shell: clap_complete::Shell) -> Vec<u8> {
    let mut out = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "tcp-user", &mut out);
    out
}

/// The manual: one page with every command, and the configuration's keys.
pub fn manual() -> std::io::Result<Vec<u8>> {
    let mut out = Vec::new();
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let page = clap_mangen::Man::new(command.clone())
        .section("8")
        .manual("tcp-xdp");
    page.render_title(&mut out)?;
    page.render_name_section(&mut out)?;
    page.render_synopsis_section(&mut out)?;
    page.render_description_section(&mut out)?;
    for_each_command(&command, &mut |sub| {
        let page = clap_mangen::Man::new(sub.clone());
        let mut part = Vec::new();
        page.render_synopsis_section(&mut part)?;
        page.render_description_section(&mut part)?;
        page.render_options_section(&mut part)?;
        // Its sections are subsections here, below the command's name.
        let name = sub.get_bin_name().unwrap_or("tcp-user").to_uppercase();
        out.extend(format!(".SH {}\n", name.replace('-', "\\-")).bytes());
        let text = String::from_utf8_lossy(&part).replace("\n.SH ", "\n.SS ");
        out.extend(
            text.replacen(".SH ", ".SS ", usize::from(text.starts_with(".SH ")))
                .bytes(),
        );
        Ok(())
    })?;
    out.extend(b".SH CONFIGURATION FILE\n.nf\n");
    for line in crate::control::config::default_text().lines() {
        // A leading dot or apostrophe would be a request.
        out.extend(format!("\\&{}\n", line.replace('\\', "\\e").replace('-', "\\-")).bytes());
    }
    out.extend(b".fi\n");
    Ok(out)
}

fn for_each_command(
    command: &clap::Command,
    each: &mut dyn FnMut(&clap::Command) -> std::io::Result<()>,
) -> std::io::Result<()> {
    for sub in command.get_subcommands() {
        if sub.has_subcommands() {
            for_each_command(sub, each)?;
        } else {
            each(sub)?;
        }
    }
    Ok(())
}

/// clap's errors are several lines; the first says what is wrong.
pub fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let mut lines = text.lines().map(str::trim).filter(|l| !l.is_empty());
    let first = lines.next().unwrap_or("bad command line");
    let first = first.strip_prefix("error: ").unwrap_or(first);
    // "the following arguments were not provided:" and then one a line.
    if first.ends_with(':') {
        let rest: Vec<&str> = lines
            .take_while(|l| !l.starts_with("Usage:") && !l.starts_with("For more"))
            .collect();
        return format!("{first} {}", rest.join(", "));
    }
    first.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(args: &[&str]) -> String {
        let all = std::iter::once("tcp-user").chain(args.iter().copied());
        one_line(&Cli::try_parse_from(all).expect_err("refused"))
    }

    #[test]
    fn the_manual_and_the_completions_know_every_command_and_key() {
        let manual = String::from_utf8(manual().expect("in memory")).expect("text");
        for part in [
            ".TH tcp-user 8",
            ".SH TCP\\-USER RUN",
            "SECRET ROTATE",
            "\\-\\-listen",
            "#msl = \"30s\"",
            "CONFIGURATION FILE",
        ] {
            assert!(manual.contains(part), "{part}: {manual}");
        }
        for shell in [
            clap_complete::Shell::Bash,
            clap_complete::Shell::Zsh,
            clap_complete::Shell::Fish,
        ] {
            let text = String::from_utf8(completions(shell)).expect("text");
            assert!(text.contains("doctor") && text.contains("iface"), "{shell}");
        }
    }

    #[test]
    fn each_error_is_one_line_that_names_the_thing() {
        let run = ["run", "--iface", "lo", "--listen"];
        for (args, names) in [
            (&["run"][..], "--iface"),
            (&["run", "--iface", "lo"], "--listen"),
            (&[&run[..], &["*:80=htpp"]].concat(), "htpp"),
            (
                &[&run[..], &["*:80=http", "--mode", "turbo"]].concat(),
                "turbo",
            ),
            (
                &[&run[..], &["*:80=http", "--frobnicate"]].concat(),
                "--frobnicate",
            ),
            (&["fly"], "fly"),
            (&["stats", "--pretty"], "--pretty"),
            (&["stats", "--interval", "0"], "interval"),
            (
                &[&run[..], &["*:80=http", "--pcap-size", "10"]].concat(),
                "10M",
            ),
            (&["listen", "policy", "*:80", "maybe"], "maybe"),
            (&["listen", "policy", "*", "off"], "*"),
            (&["secret", "new"], "FILE"),
        ] {
            let line = error(args);
            assert!(line.contains(names), "{args:?}: {line}");
            assert!(!line.contains('\n'), "{args:?}: {line}");
        }
    }
}
