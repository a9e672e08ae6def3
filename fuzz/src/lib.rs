//! What the fuzz targets run.
//!
//! The protocol core is compiled in from its source instead of by a dependency on
//! `tcp-user`: it needs neither the BPF toolchain, nor aya, nor tokio, so a build
//! with sanitizers takes seconds. The bodies in [`targets`] use its public verbs only;
//! `tcp-user/tests/fuzz_corpus.rs` replays the corpus through them.

#[path = "../../tcp-user/src/proto/mod.rs"]
pub mod proto;
pub mod targets;
