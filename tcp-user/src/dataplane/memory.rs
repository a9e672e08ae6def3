//! A device in memory, for tests: two queues of frames.

use super::{Device, DeviceStats, Transmit};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError};

/// Frames, and what says that there are some.
type Queue = Arc<(Mutex<VecDeque<Vec<u8>>>, EventFd)>;

/// One end of a wire; frames longer than 2 kB do not fit.
#[derive(Debug)]
pub struct MemoryDevice {
    incoming: Queue,
    outgoing: Queue,
    stats: DeviceStats,
    buffer: Vec<u8>,
}

impl MemoryDevice {
    /// Two ends of one wire.
    ///
    /// # Panics
    ///
    /// If the system has no descriptors left.
    pub fn pair() -> (Self, Self) {
        let queue = || {
            let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
            let some = EventFd::from_flags(flags).expect("a descriptor");
            Queue::new((Mutex::default(), some))
        };
        let (a, b) = (queue(), queue());
        let end = |incoming: &Queue, outgoing: &Queue| Self {
            incoming: Arc::clone(incoming),
            outgoing: Arc::clone(outgoing),
            stats: DeviceStats::default(),
            buffer: vec![0; 2048],
        };
        (end(&a, &b), end(&b, &a))
    }

    /// Puts a frame on the wire as it is.
    pub fn send(&mut self, frame: &[u8]) {
        push(&self.outgoing, frame);
    }
}

fn lock(queue: &Queue) -> std::sync::MutexGuard<'_, VecDeque<Vec<u8>>> {
    queue.0.lock().unwrap_or_else(PoisonError::into_inner)
}

fn push(queue: &Queue, frame: &[u8]) {
    let mut frames = lock(queue);
    frames.push_back(frame.to_vec());
    // Only the first; it cannot be full.
    if frames.len() == 1 {
        let _ = queue.1.write(1);
    }
}

impl Device for MemoryDevice {
    fn receive(&mut self, mut each: impl FnMut(&[u8])) -> usize {
        let batch = {
            let mut frames = lock(&self.incoming);
            if !frames.is_empty() {
                // Only resets it; it cannot block.
                let _ = self.incoming.1.read();
            }
            std::mem::take(&mut *frames)
        };
        for frame in &batch {
            each(frame);
        }
        self.stats.received += batch.len() as u64;
        batch.len()
    }

    fn transmit(&mut self, fill: impl FnOnce(&mut [u8]) -> Option<usize>) -> Transmit {
        let Some(len) = fill(&mut self.buffer) else {
            return Transmit::Idle;
        };
        push(&self.outgoing, &self.buffer[..len]);
        self.stats.sent += 1;
        Transmit::Queued
    }

    fn flush(&mut self) -> io::Result<bool> {
        Ok(true)
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.incoming.1.as_fd())
    }

    fn stats(&self) -> DeviceStats {
        self.stats
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_cross_the_wire_in_order() {
        let (mut a, mut b) = MemoryDevice::pair();
        for i in 0..3u8 {
            let queued = a.transmit(|buffer| {
                buffer[0] = i;
                Some(1)
            });
            assert_eq!(queued, Transmit::Queued);
        }
        assert_eq!(a.transmit(|_| None), Transmit::Idle);
        let mut seen = Vec::new();
        assert_eq!(b.receive(|frame| seen.extend_from_slice(frame)), 3);
        assert_eq!(seen, [0, 1, 2]);
        assert_eq!(b.receive(|_| ()), 0);
    }
}
