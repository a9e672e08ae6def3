//! Forwards each connection to a backend over the kernel's TCP, half-close by half-close:
//!
//! ```console
//! # cargo run --example forward -- --iface eth0 192.0.2.2:80 --backend 127.0.0.1:8080
//! ```

mod common;

use common::{Args, Listener};
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = <Args as clap::Parser>::parse();
    let backend = args.backend;
    serve!(&args, listener => Listener::serve(listener, move |mut client| async move {
        let mut server = TcpStream::connect(backend).await?;
        copy_bidirectional(&mut client, &mut server).await.map(drop)
    }))
}
