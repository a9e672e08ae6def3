//! What the examples share: where they listen, over this crate's TCP or over the kernel's.

#![allow(dead_code, reason = "each example uses a part of it")]

use anyhow::{Context, Result};
use clap::Parser;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use tcp_user::Server;
use tcp_user::control::config::Config;
use tcp_user::net;
use tokio::io::{AsyncRead, AsyncWrite};

/// Arguments of every example.
#[derive(Debug, Parser)]
pub struct Args {
    /// Address and port to serve
    pub listen: SocketAddr,
    /// The interface that has the address
    #[arg(long, default_value = "eth0")]
    pub iface: String,
    /// Use the kernel's TCP: the same program, for comparison
    #[arg(long)]
    pub kernel: bool,
    /// Path of the control socket
    #[arg(long)]
    pub control: Option<PathBuf>,
    /// A configuration key, as of `tcp-user run --set`
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// forward: where connections go
    #[arg(long, default_value = "127.0.0.1:80")]
    pub backend: SocketAddr,
    /// tls: where the certificate is left, for clients that check it
    #[arg(long)]
    pub certificate: Option<PathBuf>,
}

/// What an accepted connection can do, whoever has it.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for T {}

/// A listener of either kind.
pub trait Listener: Send + 'static {
    /// Its connections.
    type Stream: Stream;

    /// The next one.
    fn accept(&mut self) -> impl Future<Output = io::Result<(Self::Stream, SocketAddr)>> + Send;

    /// Calls `serve` with each connection, in a task of its own, as long as there are any.
    fn serve<F>(
        mut self,
        serve: impl Fn(Self::Stream) -> F + Send,
    ) -> impl Future<Output = ()> + Send
    where
        Self: Sized,
        F: Future<Output = io::Result<()>> + Send + 'static,
    {
        async move {
            while let Ok((stream, peer)) = self.accept().await {
                let served = serve(stream);
                tokio::spawn(async move {
                    if let Err(error) = served.await {
                        eprintln!("{peer}: {error}");
                    }
                });
            }
        }
    }
}

impl Listener for net::TcpListener {
    type Stream = net::TcpStream;

    async fn accept(&mut self) -> io::Result<(Self::Stream, SocketAddr)> {
        net::TcpListener::accept(self).await
    }
}

impl Listener for tokio::net::TcpListener {
    type Stream = tokio::net::TcpStream;

    async fn accept(&mut self) -> io::Result<(Self::Stream, SocketAddr)> {
        tokio::net::TcpListener::accept(self).await
    }
}

/// Prints the line that tells whoever started this that it serves.
pub fn ready(text: &str) {
    println!("{text}");
}

/// Our stack on the interface.
pub fn server(args: &Args) -> Result<Server> {
    let mut builder = Server::builder(&args.iface).config(Config::load(None, &args.set)?);
    if let Some(path) = &args.control {
        builder = builder.control(path);
    }
    builder.start()
}

/// SIGINT or SIGTERM.
pub async fn stopped() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut int, mut term) = (
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
    );
    tokio::select! {
        got = int.recv() => got,
        got = term.recv() => got,
    }
    .context("no signals")
}

/// Runs what an example does over either kind of listener until it is told to stop.
#[macro_export]
macro_rules! serve {
    ($args:expr, $listener:ident => $task:expr) => {{
        let args: &$crate::common::Args = $args;
        if args.kernel {
            let $listener = tokio::net::TcpListener::bind(args.listen).await?;
            let task = tokio::spawn($task);
            $crate::common::ready("ready kernel");
            $crate::common::stopped().await?;
            task.abort();
        } else {
            let server = $crate::common::server(args)?;
            let $listener = tcp_user::net::TcpListener::bind(server.stack(), args.listen).await?;
            let task = tokio::spawn($task);
            $crate::common::ready(server.ready());
            $crate::common::stopped().await?;
            task.abort();
            server.shutdown()?;
        }
        anyhow::Ok(())
    }};
}
