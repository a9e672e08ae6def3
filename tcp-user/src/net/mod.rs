//! Streams for tokio over connections that a worker owns.
//!
//! ```text
//!   task (any thread)                                worker (one thread)
//!     poll_read  ◀── recv: 128 KiB, waker ◀── peek, consume ──┐
//!     poll_write ──▶ send: 128 KiB, waker ──▶ write ──────────┤ Endpoint
//!         └─ first of a batch: ready list ──▶ eventfd, if ────┘
//!                                             the worker sleeps
//! ```
//!
//! A connection stays with its worker; nobody else touches the engine. A stream and its
//! worker share two bounded buffers, each behind a mutex that is held for one copy. The
//! worker fills the receive buffer as segments arrive and wakes the task once a turn. The
//! task appends to the send buffer and puts the stream on the worker's ready list, at most
//! once until the worker has looked. Only the first to do so while the worker sleeps pays
//! for a system call.
//!
//! Both directions hold back: with a full receive buffer data stays in the engine and the
//! window closes; with a full send buffer `poll_write` is pending. An empty buffer keeps no
//! more than a few hundred octets of memory.
//!
//! # What differs from `tokio::net`
//!
//! - An unspecified address binds every address of the interface, in both families.
//! - There is no port 0: XDP serves ports, it does not choose them.
//! - A connection that finds the accept queue full is reset and counted
//!   ([`TcpListener::refused`]); the kernel would let the client wait.
//! - The error of a connection that broke is returned by every read and every write after
//!   it, so that both halves of a split stream learn of it. The kernel says it once.

#[cfg(feature = "axum")]
mod axum;
mod inbox;
mod listener;
mod shared;
mod split;
mod stack;
mod stream;
mod worker;

pub use listener::{Acceptor, BACKLOG, TcpListener, listener};
pub use split::{OwnedReadHalf, OwnedWriteHalf, ReadHalf, ReuniteError, WriteHalf};
pub use stack::{Binder, Stack};
pub use stream::TcpStream;
pub(crate) use worker::{Attached, Fate, Streams};

#[cfg(test)]
mod tests;
