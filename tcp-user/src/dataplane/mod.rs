//! Frames in and out, and the thread that carries them through the engine.

pub mod capture;
pub mod faults;
pub mod memory;
pub mod nic;
pub mod offloads;
pub mod pcapng;
pub mod query;
pub mod reclaim;
pub mod tap;
pub mod trains;
pub mod worker;
pub mod xsk;

use crate::proto::Train;
use std::io;
use std::os::fd::BorrowedFd;

/// Where frames come from and go to: one queue of an interface, or a test.
pub trait Device {
    /// Hands the frames of one batch to `each`; returns how many. Does not block.
    /// A frame is gone when `each` returns.
    fn receive(&mut self, each: impl FnMut(&[u8])) -> usize;

    /// Lets `fill` write one frame into the device's own memory and queues it.
    /// `fill` returns the frame's length, or `None` if there is nothing to send.
    fn transmit(&mut self, fill: impl FnOnce(&mut [u8]) -> Option<usize>) -> Transmit;

    /// Whether [`Self::send_train`] can do anything.
    fn takes_trains(&self) -> bool {
        false
    }

    /// Sends a run of segments behind what is queued; false if it cannot now.
    fn send_train(&mut self, train: &Train<'_>) -> bool {
        let _ = train;
        false
    }

    /// Makes sure that queued frames leave. `Ok(false)`: some could not yet, call again.
    fn flush(&mut self) -> io::Result<bool>;

    /// Readable when there are frames; `None`: nothing to wait on (tests).
    fn fd(&self) -> Option<BorrowedFd<'_>>;

    /// What the device counted.
    fn stats(&self) -> DeviceStats;
}

/// What [`Device::transmit`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transmit {
    /// A frame is queued.
    Queued,
    /// `fill` had nothing to send.
    Idle,
    /// No free buffer; `fill` was not called.
    Full,
}

/// Frames by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceStats {
    /// Frames received.
    pub received: u64,
    /// Frames queued for sending; runs of segments count as what they are cut into.
    pub sent: u64,
    /// Frames that the kernel dropped: no free buffer, ring full, or too long.
    pub receive_dropped: u64,
    /// Frames that the kernel refused to send as invalid.
    pub send_invalid: u64,
}
