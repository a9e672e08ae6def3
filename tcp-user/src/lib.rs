//! A TCP server whose handshake is answered in XDP and whose connections live here.
//!
//! # The way of a frame
//!
//! ```text
//!  NIC ── XDP (tcp-ebpf) ──────────────────────────────┐
//!         not ours                → PASS to the kernel │
//!         SYN, port is served     → SYN-ACK, XDP_TX    │  stateless: ISS = cookie
//!         flow is in FLOWS        → redirect to XSK    │
//!         ACK with a valid cookie → redirect to XSK    │  userspace builds the TCB
//!         anything else           → RST (XDP_TX) or drop, with a counted reason
//!                                                      ▼
//!  worker (one per NIC queue):  XSK RX batch
//!    → proto::Endpoint::handle_frame(now, bytes)  → connection table → state machine
//!    → app reads and writes (in the worker, or through streams in tokio tasks)
//!    → proto::Endpoint::poll_transmit(now, frame) → XSK TX batch → NIC
//!      (runs of full segments: poll_train → packet socket → cut by the kernel or the NIC)
//! ```
//!
//! Imports follow the same line and never run back: [`app`] → [`net`] → [`dataplane`] →
//! [`proto`] → `tcp-common`; [`control`] puts the parts together and is imported by none.
//!
//! # In another program
//!
//! [`Server`] is the whole of it on an interface; its connections are accepted as with
//! `tokio::net`:
//!
//! ```no_run
//! use tcp_user::Server;
//! use tcp_user::net::TcpListener;
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//!
//! #[tokio::main]
//! async fn main() -> anyhow::Result<()> {
//!     // As root, or with CAP_BPF, CAP_NET_ADMIN and CAP_NET_RAW.
//!     let server = Server::builder("eth0").start()?;
//!     let listener = TcpListener::bind(server.stack(), "192.0.2.2:7").await?;
//!     loop {
//!         let (mut stream, peer) = listener.accept().await?;
//!         tokio::spawn(async move {
//!             let mut piece = vec![0; 16 << 10];
//!             loop {
//!                 match stream.read(&mut piece).await {
//!                     Ok(0) => return stream.shutdown().await,
//!                     Ok(octets) => stream.write_all(&piece[..octets]).await?,
//!                     Err(error) => {
//!                         eprintln!("{peer}: {error}");
//!                         return Err(error);
//!                     }
//!                 }
//!             }
//!         });
//!     }
//! }
//! ```
//!
//! # The rooms
//!
//! - [`proto`] is the TCP engine, sans-IO: bytes, [`Instant`](proto::Instant)s and a seed
//!   in; bytes, deadlines and [`Event`](proto::Event)s out. It reads no clock and opens no
//!   socket, so a whole connection's life runs in a test in no time, by seed.
//! - [`dataplane`] carries frames: the [`Device`](dataplane::Device) trait,
//!   [AF_XDP](dataplane::xsk) behind it, and the [worker](dataplane::worker) that turns.
//! - [`net`] hands connections to tokio: [`net::TcpListener`], [`net::TcpStream`].
//! - [`app`] has the built-in services: state machines over the engine, run in the worker,
//!   and tasks over streams.
//! - [`control`] loads and attaches the XDP program, rotates the keys, watches addresses,
//!   and answers the operator's tools over a Unix socket. [`Server`] is all of it inside
//!   another program.
//!
//! # Why it is so
//!
//! **XDP enters the flow, not userspace.** The ACK that carries a valid cookie may have
//! data right behind it, and only segments up to our first data carry the cookie. If
//! userspace made the `FLOWS` entry, the segments in between would be judged as strangers
//! and reset. XDP therefore enters the flow with the first valid ACK; the entry is the
//! one thing that a proven peer costs before userspace has seen it. An entry whose frame
//! was then lost on the way (a full ring) is found by age: [`control::sweep`]. Both ways were
//! measured (`docs/bench.md`): an entry costs XDP 65 ns and userspace 2.2 µs, and of 2,000
//! clients that upload 20 kB right after connecting each has to send nine segments again if
//! userspace makes it, and none if XDP does.
//!
//! **A segment is held against a filter before the flow table.** `FLOWS` comes first, but a
//! look-up of 36 random octets in a large table is 28 ns with everything in the caches
//! and 80 ns in a flood, where nothing is: half as much again as the whole answer to a SYN
//! or to an ACK of nothing. The filter counts the flows by a hash of 16 bits; where the
//! count is zero, nearly always, there is nothing to look up. XDP adds before it enters a
//! flow, [`control::flows`] takes off after it removed one, through a mapping of the same
//! memory.
//!
//! **A listener of the kernel's gets cookies of the kernel.** Ours would die there. XDP asks
//! for them by a helper that also marks the listener as overflowed, without which the kernel
//! would not take them back, and has ACKs judged by another. It keeps one thing, for a
//! second: which connections it let through, because data right behind an ACK is judged
//! before the kernel has made a socket of that ACK. What the SYN-ACK has to say beside the
//! cookie is [`control::shield`]'s to find out.
//!
//! **Bulk does not go through the ring.** A frame that AF_XDP sends in copy mode walks through
//! the kernel's stack alone, and that was 85 % of a worker's time in a download. A run of full
//! segments goes as one through a packet socket instead ([`dataplane::trains`]): one walk,
//! one copy, and its checksums are the kernel's or the NIC's work. All else, and
//! everything if there is no such socket, goes through the ring.
//!
//! **A handshake that is kept has a cookie, too.** Where the policy is `adaptive`, XDP hands a
//! bounded number of SYNs a second to userspace, which keeps SYN-RECEIVED (`proto::half_open`)
//! and enters the flow. Its ISS is the very cookie that XDP would have sent. So the table may be
//! small and lose its oldest entry at any time, a rotation of keys or the beginning of a flood
//! ends no handshake, and XDP needs no notion of a half-open flow: it knows a flow, or a cookie.
//!
//! //! **The cookie is checked twice**, in XDP to keep strangers out and in the engine to
//! learn what was negotiated. Both run the same function of `tcp-common`. New keys reach
//! the workers before XDP makes cookies with them.
//!
//! **Under attack an old cookie is a bad one.** Which of the two an ACK carries takes a second
//! MAC to tell, which is worth its time only as long as there are few: [`control::attack`].
//!
//! **What is served, and to whom, changes in place.** The main thread alone writes to the maps;
//! workers learn of a new listen before XDP does, and of a removed one after it. Flows come
//! first in XDP, so connections go on.
//!
//! **A worker owns its queue, its connections and their apps.** Nothing is shared on the
//! path of a segment, so nothing is locked. `FLOWS` remembers the queue on which a
//! connection began; a segment that comes on another is handed to that worker, which costs
//! a copy and is counted: with receive-side scaling it does not happen. Control talks to it through a channel and an
//! eventfd, next to the AF_XDP socket in one `ppoll`: an idle worker sleeps.
//!
//! **A proxied connection stays in its worker.** The sockets to backends are the kernel's, and
//! one epoll descriptor per worker stands for all of them in the `ppoll` in which the worker
//! sleeps. What comes from a client is written to its backend in the same turn, without a thread,
//! a task or a channel in between: [`app::proxy`].
//!
//! **A stream is two buffers and a ready list.** Tasks run on threads of their own, so a
//! [`net::TcpStream`] shares two bounded buffers with its worker, and the engine stays the
//! worker's. Data is copied once more than in a worker's app, and a task is woken across threads,
//! which together cost about as much as the engine itself; what runs on every segment of a busy
//! server is better off as an app. [`net`] has the details.
//!
//! **Frames stay where they are.** The engine reads received frames in the UMEM and
//! writes those to send into it. A frame is back on the fill ring as soon as the engine
//! has copied its payload into the connection's receive buffer, so a slow application
//! cannot starve the ring.
//!
//! **The program is held by a BPF link.** Whatever happens to the process, kill -9
//! included, the kernel detaches the program when the descriptor is closed.
//!
//! **Nothing waits for a reader.** Traces go through bounded queues; what finds no room
//! is counted and dropped.
//!
//! # Where `unsafe` is
//!
//! In [`dataplane::xsk`] (the rings, whose memory is shared with the kernel) and
//! [`dataplane::nic`] (three ioctls). Each block says why it is sound.

pub mod app;
pub mod cli;
pub mod control;
pub mod dataplane;
pub mod net;
pub mod proto;

pub use control::embed::Server;
