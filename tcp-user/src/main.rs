//! The server's command line.

use clap::Parser;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;
use tcp_user::cli::{
    self, BackendCommand, Cli, Command, ConfigCommand, ListenCommand, SecretCommand, Source,
    SourcesCommand,
};
use tcp_user::control::client::{self, Output};
use tcp_user::control::config::{self, Config};
use tcp_user::control::listen::Policy;
use tcp_user::control::privileges::Privileges;
use tcp_user::control::records::{Request, SecretInfo};
use tcp_user::control::secrets::Master;
use tcp_user::control::sources::To;
use tcp_user::control::{self, doctor, top};
use tcp_user::dataplane::capture::Files;
use tcp_user::dataplane::reclaim;

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) if !e.use_stderr() => {
            // --help and --version.
            let _ = e.print();
            return ExitCode::SUCCESS;
        }
        Err(e) => return refuse(&cli::one_line(&e)),
    };
    match execute(cli) {
        Ok(code) => code,
        Err(e) => refuse(&format!("{e:#}")),
    }
}

fn refuse(message: &str) -> ExitCode {
    let line: Vec<&str> = message.split_whitespace().collect();
    eprintln!("tcp-user: {}", line.join(" "));
    ExitCode::from(2)
}

fn execute(cli: Cli) -> anyhow::Result<ExitCode> {
    let done = match cli.command {
        Command::Doctor(d) => {
            let control = d.client.control.as_deref();
            let healthy = match d.iface {
                Some(iface) => doctor::run(&iface, d.client.json)?,
                None => client::doctor(control, d.client.json)?,
            };
            return Ok(ExitCode::from(u8::from(!healthy)));
        }
        Command::Drain(d) => {
            let control = d.client.control.as_deref();
            let done = client::drain(control, &d.places, d.wait, d.client.json)?;
            return Ok(ExitCode::from(u8::from(!done && !d.wait.is_zero())));
        }
        Command::Run(run) => {
            let origin = config::Origin {
                file: run.config,
                assignments: run.set,
                listens: run.listen,
            };
            reclaim::bound_allocator();
            control::run(control::Options {
                interface: run.iface,
                mode: run.mode,
                config: origin.load()?,
                origin: Some(origin),
                replace: run.replace,
                tune: run.tune,
                control: run.control,
                privileges: Some(Privileges { user: run.user }),
                metrics: run.metrics,
                trace: run.trace,
                pcap: run.pcap.map(|path| Files {
                    path,
                    size: run.pcap_size,
                    count: usize::from(run.pcap_files),
                }),
                faults: run.faults,
                streams: Policy::default(),
            })
        }
        Command::Stats(s) => match (s.interval, s.watch) {
            (None, false) => ask(&s.client, &Request::Stats),
            (interval, watch) => client::rates(
                s.client.control.as_deref(),
                interval.unwrap_or(Duration::from_secs(1)),
                watch,
                s.client.json,
            ),
        },
        Command::Top(t) => top::run(t.control.as_deref(), t.interval),
        Command::Conns(c) => {
            let request = Request::Conns {
                filter: c.filter,
                sort: c.sort,
                limit: c.limit,
            };
            let output = Output {
                json: c.client.json,
                brief: c.brief,
                ..Output::default()
            };
            client::run(c.client.control.as_deref(), &request, output)
        }
        Command::Trace(t) if t.svg.is_some() || t.mermaid => client::draw(
            t.client.control.as_deref(),
            &t.filter,
            &client::Picture {
                svg: t.svg,
                mermaid: t.mermaid,
                connections: t.conns.max(1),
                at_most: t.at_most,
            },
        ),
        Command::Trace(t) => {
            let output = Output {
                json: t.client.json,
                relative: t.relative,
                ..Output::default()
            };
            client::trace(t.client.control.as_deref(), &t.filter, output)
        }
        Command::Listen(ListenCommand::List(c)) => ask(&c, &Request::Listens),
        Command::Listen(ListenCommand::Policy {
            place,
            policy,
            client,
        }) => {
            let place = place.to_string();
            ask(&client, &Request::Policy { place, policy })
        }
        Command::Listen(ListenCommand::Add { listen, client }) => {
            let listen = listen.to_string();
            ask(&client, &Request::Add { listen })
        }
        Command::Listen(ListenCommand::Remove { place, client }) => {
            let place = place.to_string();
            ask(&client, &Request::Remove { place })
        }
        Command::Sources(SourcesCommand::List(c)) => ask(&c, &Request::Sources),
        Command::Sources(SourcesCommand::Allow(s)) => source(&s, To::Allow),
        Command::Sources(SourcesCommand::Deny(s)) => source(&s, To::Deny),
        Command::Sources(SourcesCommand::Remove(s)) => source(&s, To::Nowhere),
        Command::Backend(BackendCommand::List(c)) => ask(&c, &Request::Backends),
        Command::Backend(BackendCommand::Drain(b)) => {
            let (addr, drain) = (b.addr, true);
            ask(&b.client, &Request::Backend { addr, drain })
        }
        Command::Backend(BackendCommand::Use(b)) => {
            let (addr, drain) = (b.addr, false);
            ask(&b.client, &Request::Backend { addr, drain })
        }
        Command::Config(ConfigCommand::Check { file, set }) => {
            let found = Config::check_file(&file, &set)?;
            println!(
                "{}: ok, {} keys, {} listens",
                file.display(),
                found.keys,
                found.listens
            );
            Ok(())
        }
        Command::Config(ConfigCommand::Default) => {
            print(config::default_text().as_bytes());
            Ok(())
        }
        Command::Config(ConfigCommand::Reload(c)) => ask(&c, &Request::Reload),
        Command::Completions { shell } => {
            print(&cli::completions(shell));
            Ok(())
        }
        Command::Man => {
            print(&cli::manual()?);
            Ok(())
        }
        Command::Secret(SecretCommand::New { file }) => {
            let master = Master::random()?;
            master.create(&file)?;
            println!("{}", master.id());
            Ok(())
        }
        Command::Secret(SecretCommand::ShowId {
            file: Some(file),
            client,
        }) => {
            let id = Master::read(&file)?.id();
            if client.json {
                println!("{}", serde_json::to_string(&SecretInfo { id, in_s: 0.0 })?);
            } else {
                println!("{id}");
            }
            Ok(())
        }
        Command::Secret(SecretCommand::ShowId { file: None, client }) => {
            ask(&client, &Request::Secret)
        }
        Command::Secret(SecretCommand::Rotate(client)) => ask(&client, &Request::Rotate),
    };
    done.map(|()| ExitCode::SUCCESS)
}

/// Whoever stops reading has had enough.
fn print(text: &[u8]) {
    let _ = std::io::stdout().write_all(text);
}

fn ask(client: &cli::Client, request: &Request) -> anyhow::Result<()> {
    let output = Output {
        json: client.json,
        ..Output::default()
    };
    client::run(client.control.as_deref(), request, output)
}

fn source(source: &Source, to: To) -> anyhow::Result<()> {
    let prefix = source.prefix.to_string();
    ask(&source.client, &Request::Source { prefix, to })
}
