//! Returns every octet, a tokio task for each connection:
//!
//! ```console
//! # cargo run --example echo -- --iface eth0 192.0.2.2:7
//! # cargo run --example echo -- --kernel 192.0.2.2:7
//! ```

mod common;

use common::{Args, Listener, Stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = <Args as clap::Parser>::parse();
    serve!(&args, listener => Listener::serve(listener, echo))
}

/// After the peer's FIN the rest is returned, then ours.
async fn echo(mut stream: impl Stream) -> std::io::Result<()> {
    let mut piece = vec![0; 16 << 10];
    loop {
        let octets = stream.read(&mut piece).await?;
        if octets == 0 {
            return stream.shutdown().await;
        }
        stream.write_all(&piece[..octets]).await?;
    }
}
