//! Who answers.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use nix::sys::socket::{self, Backlog, Shutdown};
use xtask::bpf::{self, Instruction, Verdict};

use super::{
    super::{Programs, server::Server},
    PORT,
    bed::{Bed, RESPONDER},
};

/// How long a client may be silent.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Responder {
    /// Ours in native mode
    Native,
    /// Another build of ours, named by --against
    Against,
    /// Ours in generic mode
    Generic,
    /// Each frame is sent back as it is: the least that an answer costs
    Bounce,
    /// Each frame is dropped
    Drop,
    /// The kernel's listener with `tcp_syncookies=2`
    Cookies,
    /// nftables' SYNPROXY in front of a kernel listener
    Synproxy,
    /// The kernel's listener behind our XDP program
    Shield,
}

impl Responder {
    pub(crate) const ALL: [Self; 8] = [
        Self::Native,
        Self::Against,
        Self::Generic,
        Self::Bounce,
        Self::Drop,
        Self::Cookies,
        Self::Synproxy,
        Self::Shield,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Native => "tcp-xdp, native",
            Self::Against => "the other, native",
            Self::Generic => "tcp-xdp, generic",
            Self::Bounce => "raw XDP_TX bounce",
            Self::Drop => "XDP_DROP",
            Self::Cookies => "kernel, tcp_syncookies=2",
            Self::Synproxy => "kernel, nft SYNPROXY",
            Self::Shield => "kernel, behind tcp-xdp",
        }
    }

    /// Whether clients can connect.
    pub(super) fn serves(self) -> bool {
        !matches!(self, Self::Bounce | Self::Drop)
    }

    /// Puts it in place until the value is dropped.
    pub(super) fn start<'a>(self, bed: &'a Bed, programs: &Programs) -> Result<Running<'a>> {
        let raw = |program: &[Instruction]| {
            let program = bpf::load(program)?;
            bed.responder
                .enter(|| bpf::attach(&bed.responder_if, &program))??;
            anyhow::Ok(Running::Raw { bed, program })
        };
        match self {
            Self::Native => start(bed, &programs.server, "native").map(Running::Server),
            Self::Generic => start(bed, &programs.server, "generic").map(Running::Server),
            Self::Against => {
                let server = programs.against.as_ref().context("no other build")?;
                start(bed, server, "native").map(Running::Server)
            }
            Self::Bounce => raw(&Instruction::bounce()),
            Self::Drop => raw(&Instruction::always(Verdict::Drop)),
            Self::Cookies => {
                bed.responder.sysctl("ipv4/tcp_syncookies", "2")?;
                Ok(Running::Kernel {
                    listener: Echo::start(bed)?,
                    synproxy: None,
                })
            }
            Self::Shield => {
                let listener = Echo::start(bed)?;
                let listen = format!("*:{PORT}=kernel");
                let args = ["--mode", "native", "--tune", "--listen", &listen];
                let interface = &bed.responder_if;
                Ok(Running::Shield {
                    server: Server::start(&bed.responder, &programs.server, interface, &args)?,
                    listener,
                })
            }
            Self::Synproxy => {
                bed.responder.sysctl("ipv4/tcp_syncookies", "1")?;
                Ok(Running::Kernel {
                    listener: Echo::start(bed)?,
                    synproxy: Some(Synproxy::new(bed)?),
                })
            }
        }
    }
}

#[expect(dead_code, reason = "the values are there to be dropped")]
pub(super) enum Running<'a> {
    Server(Server),
    Raw {
        bed: &'a Bed,
        program: OwnedFd,
    },
    Kernel {
        listener: Echo,
        synproxy: Option<Synproxy<'a>>,
    },
    Shield {
        server: Server,
        listener: Echo,
    },
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if let Self::Raw { bed, .. } = self {
            let detached = bed.responder.enter(|| bpf::detach(&bed.responder_if));
            if let Err(error) = detached.and_then(|result| Ok(result?)) {
                eprintln!("cannot detach a program: {error:#}");
            }
        }
    }
}

fn start(bed: &Bed, binary: &Path, mode: &str) -> Result<Server> {
    let listen = format!("*:{PORT}=echo");
    let args = ["--mode", mode, "--listen", &listen];
    Server::start(&bed.responder, binary, &bed.responder_if, &args)
}

/// A listening socket of the kernel's, and an echo behind it.
pub(super) struct Echo(TcpListener);

impl Echo {
    fn start(bed: &Bed) -> Result<Self> {
        bed.responder.sysctl("core/somaxconn", "65535")?;
        bed.responder.sysctl("ipv4/tcp_max_syn_backlog", "65535")?;
        let listener = bed
            .responder
            .enter(|| TcpListener::bind(format!("{RESPONDER}:{PORT}")))?
            .context("cannot listen")?;
        // Again, for a longer queue.
        socket::listen(&listener, Backlog::MAXCONN)?;
        let accepting = listener.try_clone()?;
        thread::spawn(move || {
            while let Ok((stream, _)) = accepting.accept() {
                let _ = thread::Builder::new()
                    .stack_size(64 * 1024)
                    .spawn(move || echo(stream));
            }
        });
        Ok(Self(listener))
    }
}

fn echo(mut stream: TcpStream) {
    let mut octets = [0; 1024];
    let _ = stream.set_nodelay(true);
    // A client that is gone is no reason to stay.
    let _ = stream.set_read_timeout(Some(PATIENCE));
    while let Ok(len @ 1..) = stream.read(&mut octets) {
        if stream.write_all(&octets[..len]).is_err() {
            break;
        }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        // Ends the `accept` that the other thread is in.
        let _ = socket::shutdown(
            std::os::fd::AsRawFd::as_raw_fd(&self.0.as_fd()),
            Shutdown::Both,
        );
    }
}

/// The rules that put SYNPROXY in front of the listener.
pub(super) struct Synproxy<'a>(&'a Bed);

impl<'a> Synproxy<'a> {
    fn new(bed: &'a Bed) -> Result<Self> {
        let at = format!("iifname {} tcp dport {PORT}", bed.responder_if);
        let rules = format!(
            "table ip bench {{
                chain first {{
                    type filter hook prerouting priority raw; policy accept;
                    {at} tcp flags & (fin|syn|rst|ack) == syn notrack
                }}
                chain in {{
                    type filter hook input priority filter; policy accept;
                    {at} ct state invalid,untracked synproxy mss 1460 wscale 7 timestamp sack-perm
                    {at} ct state invalid drop
                }}
            }}"
        );
        bed.responder.run("nft", &[&rules])?;
        let proxy = Self(bed);
        // An ACK of a connection that conntrack has not seen is SYNPROXY's.
        bed.responder
            .sysctl("netfilter/nf_conntrack_tcp_loose", "0")?;
        Ok(proxy)
    }
}

impl Drop for Synproxy<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.0.responder.run("nft", &["delete table ip bench"]) {
            eprintln!("{error:#}");
        }
    }
}
