//! The TCP engine, sans-IO: frames, instants and a seed in; frames, deadlines and
//! events out. It imports neither tokio, aya nor libc and never reads a clock.

#[allow(dead_code, reason = "until the engine uses all of it")]
mod assembler;
mod config;
#[allow(dead_code, reason = "until the engine uses all of it")]
mod congestion;
mod endpoint;
mod event;
mod instant;
#[allow(dead_code, reason = "until the engine uses all of it")]
mod recv_buffer;
#[allow(dead_code, reason = "until the engine uses all of it")]
mod ring;
#[allow(dead_code, reason = "until the engine uses all of it")]
mod rtt;
#[allow(dead_code, reason = "until the engine uses all of it")]
mod send_buffer;
mod state;
mod trace;
#[allow(dead_code, reason = "until the engine uses all of it")]
mod wheel;

pub use config::Config;
pub use endpoint::{ConnId, ConnInfo, Disposition, Endpoint, Refused};
pub use event::{CloseReason, Event};
pub use instant::Instant;
pub use state::State;
pub use trace::{Direction, Side, TraceEvent};
