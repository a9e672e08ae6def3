//! The TCP engine, sans-IO: frames, instants and a seed in; frames, deadlines and
//! events out. It imports neither tokio, aya nor libc and never reads a clock.
//!
//! ```text
//!   frame ── handle_frame ──▶ segment ─▶ table ─▶ connection ─▶ Step ─▶ settle
//!                                          │  no connection:             │
//!                                          ├─▶ time_wait          events, timers,
//!                                          └─▶ cookie, or RST     senders, replies
//!   frame ◀─ poll_transmit ── frame ◀── replies, then senders in turn ◀──┘
//! ```
//!
//! The caller's loop, once for each batch of frames: `handle_frame` for each,
//! `handle_timeout` if `poll_deadline` has passed, `poll_event` until `None` (and the
//! verbs that the events call for), `poll_transmit` until `None` or the TX ring is
//! full. What could not be sent stays queued.
//!
//! | module | what |
//! |---|---|
//! | [`Endpoint`] | all connections of a worker; the public verbs |
//! | `segment`, `frame` | octets to a validated segment, a segment to octets |
//! | `table`, `slab` | 4-tuple to index, index to connection |
//! | `connection` | the TCB; the receive path in RFC 9293's order, the send path, timers |
//! | `half_open` | SYN-RECEIVED, where XDP does not answer by itself |
//! | `time_wait` | what is left of a connection for 2 MSL |
//! | `limit` | how many challenge ACKs are sent (RFC 5961 §7) |
//! | `assembler`, `recv_buffer`, `send_buffer`, `ring`, `memory` | octets; no memory while empty, a limit on all |
//! | `rtt`, `congestion`, `wheel` | RFC 6298; CUBIC, NewReno and PRR; timers |
//!
//! Nothing a peer sends makes the engine panic or allocate per segment: what is
//! stored per connection is bounded by its buffers, and what is answered to
//! strangers by a short queue.

#[allow(dead_code, reason = "parts wait for autotuning, path MTU and RACK")]
mod assembler;
mod config;
mod congestion;
mod connection;
mod endpoint;
mod event;
mod frame;
mod half_open;
mod handshake;
mod instant;
mod limit;
mod memory;
#[allow(dead_code, reason = "parts wait for autotuning, path MTU and RACK")]
mod recv_buffer;
mod ring;
mod rtt;
#[cfg(test)]
mod script;
mod segment;
#[allow(dead_code, reason = "parts wait for autotuning, path MTU and RACK")]
mod send_buffer;
mod slab;
mod state;
mod table;
#[cfg(test)]
mod tests;
mod time_wait;
mod trace;
mod train;
mod wheel;

pub use config::{Config, Keys};
pub use congestion::Algorithm;
pub use endpoint::{ConnId, ConnInfo, Disposition, Endpoint, Options, Refused};
pub use event::{CloseReason, Event};
pub use handshake::{Handshake, handshake};
pub use instant::Instant;
pub use state::State;
pub use trace::{Direction, Side, TraceEvent};
pub use train::Train;
