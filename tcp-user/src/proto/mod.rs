//! The TCP engine, sans-IO: frames, instants and a seed in; frames, deadlines and
//! events out. It imports neither tokio, aya nor libc and never reads a clock.

mod config;
mod endpoint;
mod event;
mod instant;
mod state;
mod trace;

pub use config::Config;
pub use endpoint::{ConnId, ConnInfo, Disposition, Endpoint, Refused};
pub use event::{CloseReason, Event};
pub use instant::Instant;
pub use state::State;
pub use trace::{Direction, Side, TraceEvent};
