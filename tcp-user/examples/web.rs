//! A web server on axum:
//!
//! ```console
//! # cargo run --example web -- --iface eth0 192.0.2.2:80
//! # curl -d hello http://192.0.2.2/echo
//! ```

mod common;

use axum::body::{Body, Bytes};
use axum::extract::Path;
use axum::routing::{get, post};
use common::Args;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = <Args as clap::Parser>::parse();
    let router = axum::Router::new()
        .route("/", get(|| async { "hello from axum\n" }))
        .route("/bytes/{n}", get(bytes))
        .route("/echo", post(|body: Bytes| async { body }))
        .layer(axum::extract::DefaultBodyLimit::max(64 << 20));
    serve!(&args, listener => async { axum::serve(listener, router).await })
}

/// N octets, the position modulo 251 each.
async fn bytes(Path(n): Path<usize>) -> Body {
    Body::from(
        (0..n.min(64 << 20))
            .map(|i| (i % 251) as u8)
            .collect::<Vec<_>>(),
    )
}
