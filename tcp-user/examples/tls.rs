//! A web server behind TLS, with a certificate that it signs itself:
//!
//! ```console
//! # cargo run --example tls -- --iface eth0 192.0.2.2:443 --certificate /tmp/tls.pem
//! # curl --cacert /tmp/tls.pem https://192.0.2.2/
//! ```

mod common;

use axum::routing::{get, post};
use common::{Args, Stream};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::mpsc::{Receiver, channel};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::server::TlsStream;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = <Args as clap::Parser>::parse();
    let key = rcgen::generate_simple_self_signed([args.listen.ip().to_string()])?;
    if let Some(path) = &args.certificate {
        std::fs::write(path, key.cert.pem())?;
    }
    let private = PrivateKeyDer::try_from(key.signing_key.serialize_der())
        .map_err(|error| anyhow::anyhow!(error))?;
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![key.cert.der().clone()], private)?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let router = axum::Router::new()
        .route("/", get(|| async { "hello from axum behind TLS\n" }))
        .route("/echo", post(|body: axum::body::Bytes| async { body }))
        .layer(axum::extract::DefaultBodyLimit::max(64 << 20));
    let local = args.listen;
    serve!(&args, listener => async move {
        axum::serve(handshakes(listener, acceptor, local), router).await
    })
}

/// Streams whose handshakes are done.
struct Secured<S> {
    streams: Receiver<(TlsStream<S>, SocketAddr)>,
    local: SocketAddr,
}

/// Each handshake has a task of its own, so that a slow one keeps nobody waiting.
fn handshakes<L: common::Listener>(
    mut listener: L,
    acceptor: TlsAcceptor,
    local: SocketAddr,
) -> Secured<L::Stream> {
    let (to, streams) = channel(64);
    tokio::spawn(async move {
        while let Ok((stream, peer)) = listener.accept().await {
            let (acceptor, to) = (acceptor.clone(), to.clone());
            tokio::spawn(async move {
                match acceptor.accept(stream).await {
                    Ok(stream) => drop(to.send((stream, peer)).await),
                    Err(error) => eprintln!("{peer}: {error}"),
                }
            });
        }
    });
    Secured { streams, local }
}

impl<S: Stream> axum::serve::Listener for Secured<S> {
    type Io = TlsStream<S>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        match self.streams.recv().await {
            Some(accepted) => accepted,
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }
}
