//! The apps that are tokio tasks, and where they run.

use super::App;
use crate::net::{TcpListener, TcpStream};
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::{Builder, Runtime};

/// Octets read at a time.
const PIECE: usize = 16 << 10;

/// The runtime of all tasks.
#[derive(Debug)]
pub struct Tasks(Runtime);

impl Tasks {
    /// Starts the runtime.
    pub fn start() -> io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .thread_name("tasks")
            .enable_all()
            .build()?;
        Ok(Self(runtime))
    }

    /// Serves what comes to a listener with `app`, which [is a task](App::is_task).
    pub fn serve(&self, app: App, listener: TcpListener) {
        self.0.spawn(serve(app, listener));
    }

    /// Ends all tasks where they wait.
    pub fn stop(self) {
        self.0.shutdown_background();
    }
}

/// Serves until the workers have ended.
async fn serve(app: App, listener: TcpListener) {
    while let Ok((stream, peer)) = listener.accept().await {
        match app {
            App::TokioEcho => {
                tokio::spawn(async move {
                    if let Err(error) = echo(stream).await {
                        tracing::debug!(%peer, %error, "tokio-echo");
                    }
                });
            }
            App::Echo
            | App::Discard
            | App::Chargen
            | App::Http
            | App::Kernel
            | App::Stream
            | App::Proxy(_) => {}
        }
    }
}

/// RFC 862: every octet comes back. After the peer's FIN the rest is returned, then ours.
async fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        let octets = stream.read(&mut piece).await?;
        if octets == 0 {
            return stream.shutdown().await;
        }
        stream.write_all(&piece[..octets]).await?;
    }
}
