//! AF_XDP: one socket, one UMEM, one queue.
//!
//! Received frames are looked at where they lie in the UMEM and go straight back to
//! the fill ring, frames to send are written where the kernel takes them from. Of the
//! UMEM's frames [`RING`] belong to receiving and [`RING`] to sending, so each ring
//! always has room for every frame that could be put into it; that is what makes the
//! all-or-nothing `reserve` of the `xdp` crate safe to use.

use super::trains::TrainSocket;
use super::{Device, DeviceStats, Transmit};
use crate::proto::Train;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;
use xdp::slab::{HeapSlab, Slab};
use xdp::socket::{SocketError, XdpSocket, XdpSocketBuilder};
use xdp::umem::{FrameSize, UmemCfgBuilder};
use xdp::{Packet, RingConfigBuilder, Umem, WakableRings};

/// Entries of each ring. 2048 frames of 1.5 kB are 2.5 ms at 10 Gb/s.
pub const RING: usize = 2048;
/// Frames taken from the RX ring at a time.
const BATCH: usize = 64;
/// Octets of a UMEM frame that can hold a packet: a page without XDP's headroom, and
/// without what the kernel needs behind it (`skb_shared_info`) when it converts one.
const FRAME: usize = 4096 - 256 - 320;
/// Longest IP packet that fits, with room for an Ethernet header and two VLAN tags.
pub const MAX_PACKET: usize = FRAME - 22;
/// Octets of one socket's UMEM.
pub const MEMORY: usize = 2 * RING * 4096;
/// The queue of a process that just died is busy for some 30 ms.
const BUSY_FOR: Duration = Duration::from_secs(2);
/// How often `flush` asks the kernel to go on: it sends some 32 frames per call.
const KICKS: usize = 2 * RING / 32;

/// An AF_XDP socket on one queue.
pub struct XskDevice {
    // Dropped in this order: rings and socket before the memory that they use.
    rings: WakableRings,
    socket: XdpSocket,
    umem: Umem,
    received: HeapSlab,
    sending: HeapSlab,
    /// Frames handed to the kernel for sending and not yet returned.
    in_flight: usize,
    unkicked: bool,
    zero_copy: bool,
    trains: Option<TrainSocket>,
    stats: DeviceStats,
}

// SAFETY: everything in it is owned by it alone. The raw pointers are those of
// `Packet`s in the two slabs, which point into `umem`, and of the rings' mappings;
// none of them is tied to a thread. It moves from the thread that binds it to the
// worker and is used by one thread at a time (`&mut self`).
unsafe impl Send for XskDevice {}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The UMEM cannot be had.
    #[error("cannot map {octets} octets for AF_XDP: {error}")]
    Memory {
        /// Its size.
        octets: usize,
        /// What the system said.
        error: io::Error,
    },
    /// A system call failed.
    #[error("AF_XDP on queue {queue}: {step}: {error}")]
    Socket {
        /// The queue.
        queue: u32,
        /// What was tried.
        step: &'static str,
        /// What the system said.
        error: io::Error,
    },
}

impl XskDevice {
    /// Opens and binds a socket. Zero-copy where the driver has it, unless
    /// `copy_only` (generic XDP). Waits while the queue is busy.
    pub fn bind(index: u32, queue: u32, copy_only: bool) -> Result<Self, Error> {
        let frames = 2 * RING;
        let memory = |error| Error::Memory {
            octets: MEMORY,
            error,
        };
        let config = UmemCfgBuilder {
            frame_size: FrameSize::FourK,
            frame_count: frames as u32,
            ..UmemCfgBuilder::default()
        }
        .build()
        .map_err(|e| memory(io::Error::other(e)))?;
        let mut umem = Umem::map(config).map_err(memory)?;

        let start = std::time::Instant::now();
        let (mut rings, socket) = loop {
            match open(&umem, index, queue, copy_only) {
                Ok(pair) => break pair,
                Err(Error::Socket { error, .. })
                    if error.raw_os_error() == Some(libc::EBUSY) && start.elapsed() < BUSY_FOR =>
                {
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(e) => return Err(e),
            }
        };
        // SAFETY: the UMEM lives in the same structure and is dropped after the socket.
        unsafe { rings.fill_ring.enqueue(&mut umem, RING, false) }.map_err(|error| {
            Error::Socket {
                queue,
                step: "fill",
                error,
            }
        })?;
        let zero_copy = !copy_only && is_zero_copy(&socket);
        Ok(Self {
            rings,
            socket,
            umem,
            received: HeapSlab::with_capacity(BATCH),
            sending: HeapSlab::with_capacity(RING),
            in_flight: 0,
            unkicked: false,
            zero_copy,
            trains: None,
            stats: DeviceStats::default(),
        })
    }

    /// Sends runs of segments through a socket of their own.
    #[must_use]
    pub fn with_trains(mut self, socket: TrainSocket) -> Self {
        self.trains = Some(socket);
        self
    }

    /// Whether the driver uses the UMEM itself.
    pub fn zero_copy(&self) -> bool {
        self.zero_copy
    }

    /// The socket, for the XDP program's map.
    pub fn socket(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as `self.socket`.
        unsafe { BorrowedFd::borrow_raw(self.socket.as_raw_fd()) }
    }

    /// Takes back frames that are sent.
    fn complete(&mut self) {
        self.in_flight -= self
            .rings
            .completion_ring
            .dequeue(&mut self.umem, self.in_flight);
    }

    /// Tells the kernel that the TX ring has frames. `Ok(true)`: it took them all.
    fn kick(&self) -> io::Result<bool> {
        // SAFETY: a send without data on a descriptor that we own.
        let sent = unsafe {
            libc::sendto(
                self.socket.as_raw_fd(),
                std::ptr::null(),
                0,
                libc::MSG_DONTWAIT,
                std::ptr::null(),
                0,
            )
        };
        if sent >= 0 {
            return Ok(true);
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            // EAGAIN also says "took 32, there are more".
            Some(libc::EAGAIN | libc::EBUSY | libc::ENOBUFS | libc::EINTR | libc::ENETDOWN) => {
                Ok(false)
            }
            _ => Err(error),
        }
    }
}

fn open(
    umem: &Umem,
    index: u32,
    queue: u32,
    copy_only: bool,
) -> Result<(WakableRings, XdpSocket), Error> {
    let failed = |step, error| Error::Socket { queue, step, error };
    let config = RingConfigBuilder {
        rx_count: RING as u32,
        tx_count: RING as u32,
        fill_count: RING as u32,
        completion_count: RING as u32,
    }
    .build()
    .map_err(|e| failed("ring sizes", io::Error::other(e)))?;
    let mut builder = XdpSocketBuilder::new().map_err(|e| failed("socket", io_error(e)))?;
    let (rings, mut flags) = builder
        .build_wakable_rings(umem, config)
        .map_err(|e| failed("rings", io_error(e)))?;
    if copy_only {
        flags.force_copy();
    }
    // Without a flag the kernel tries zero-copy and falls back by itself.
    let socket = builder
        .bind(xdp::nic::NicIndex::new(index), queue, flags)
        .map_err(|e| failed("bind", io_error(e)))?;
    Ok((rings, socket))
}

fn io_error(error: SocketError) -> io::Error {
    match error {
        SocketError::SocketCreation(inner)
        | SocketError::Bind(inner)
        | SocketError::SetSockOpt { inner, .. }
        | SocketError::GetSockOpt { inner, .. }
        | SocketError::RingMap { inner, .. } => inner,
    }
}

fn is_zero_copy(socket: &XdpSocket) -> bool {
    let mut flags: u32 = 0;
    let mut len = size_of::<u32>() as libc::socklen_t;
    // SAFETY: XDP_OPTIONS writes one u32 (`struct xdp_options`) and its length.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_XDP,
            libc::XDP_OPTIONS,
            (&raw mut flags).cast(),
            &raw mut len,
        )
    };
    result == 0 && flags & libc::XDP_OPTIONS_ZEROCOPY != 0
}

impl Device for XskDevice {
    fn receive(&mut self, mut each: impl FnMut(&[u8])) -> usize {
        // SAFETY: the packets are freed below, before the UMEM can go.
        let taken = unsafe {
            self.rings
                .rx_ring
                .as_mut()
                .map_or(0, |ring| ring.recv(&self.umem, &mut self.received))
        };
        if taken == 0 {
            return 0;
        }
        while let Some(packet) = self.received.pop_back() {
            each(&packet);
            self.umem.free_packet(packet);
        }
        self.stats.received += taken as u64;
        // SAFETY: the UMEM lives as long as the socket.
        let refilled = unsafe {
            self.rings
                .fill_ring
                .enqueue(&mut self.umem, taken, self.zero_copy)
        };
        if let Err(error) = refilled {
            tracing::debug!(%error, "fill ring wakeup");
        }
        taken
    }

    fn transmit(&mut self, fill: impl FnOnce(&mut [u8]) -> Option<usize>) -> Transmit {
        if self.in_flight + self.sending.len() >= RING {
            self.complete();
            if self.in_flight + self.sending.len() >= RING {
                return Transmit::Full;
            }
        }
        // SAFETY: the packet goes to the kernel or back to the UMEM, which lives longer.
        let Some(mut packet) = (unsafe { self.umem.alloc() }) else {
            return Transmit::Full;
        };
        let written = open_up(&mut packet).and_then(fill);
        let Some(len) = written.filter(|len| *len <= FRAME) else {
            self.umem.free_packet(packet);
            return Transmit::Idle;
        };
        let excess = packet.len() - len;
        // Shrinking to a length inside the packet cannot fail.
        let _ = packet.adjust_tail(-(excess as i32));
        self.sending.push_front(packet);
        self.stats.sent += 1;
        Transmit::Queued
    }

    fn takes_trains(&self) -> bool {
        self.trains.is_some()
    }

    fn send_train(&mut self, train: &Train<'_>) -> bool {
        // What was queued before it goes first; an error comes up again with the next flush.
        if (self.unkicked || !self.sending.is_empty()) && !self.flush().unwrap_or(false) {
            return false;
        }
        let Some(socket) = &self.trains else {
            return false;
        };
        match socket.send(train) {
            Ok(sent) => {
                if sent {
                    self.stats.sent += train.len().div_ceil(usize::from(train.segment)) as u64;
                }
                sent
            }
            Err(error) => {
                // One by one they go through the ring.
                tracing::debug!(%error, "no runs of segments any more");
                self.trains = None;
                false
            }
        }
    }

    fn flush(&mut self) -> io::Result<bool> {
        let queued = self.sending.len();
        if queued > 0
            && let Some(ring) = self.rings.tx_ring.as_mut()
        {
            // SAFETY: the UMEM lives as long as the socket.
            let sent = unsafe { ring.send(&mut self.sending, false) }?;
            debug_assert_eq!(sent, queued, "in_flight leaves room for all");
            self.in_flight += sent;
            self.unkicked = true;
        }
        if self.unkicked {
            for _ in 0..KICKS {
                if self.kick()? {
                    self.unkicked = false;
                    break;
                }
                let before = self.in_flight;
                self.complete();
                if self.in_flight == before {
                    // No progress: the device's queue is full.
                    break;
                }
            }
        }
        if self.in_flight > 0 {
            self.complete();
        }
        Ok(!self.unkicked && self.sending.is_empty())
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket())
    }

    fn stats(&self) -> DeviceStats {
        let mut stats = self.stats;
        if let Ok(kernel) = self.socket.statistics() {
            // A frame that found the fill ring empty is in `rx_dropped`, too.
            stats.receive_dropped = kernel.rx_dropped + kernel.rx_ring_full;
            stats.send_invalid = kernel.tx_invalid_descs;
        }
        stats
    }
}

/// The whole frame as a buffer.
fn open_up(packet: &mut Packet) -> Option<&mut [u8]> {
    let room = packet.capacity().min(FRAME) as i32;
    packet.adjust_tail(room).ok()?;
    Some(packet)
}
