//! A device in memory, for tests: two queues of frames.

use super::{Device, DeviceStats, Transmit};
use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, PoisonError};

type Queue = Arc<Mutex<VecDeque<Vec<u8>>>>;

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
    pub fn pair() -> (Self, Self) {
        let (a, b) = (Queue::default(), Queue::default());
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
        lock(&self.outgoing).push_back(frame.to_vec());
    }
}

fn lock(queue: &Queue) -> std::sync::MutexGuard<'_, VecDeque<Vec<u8>>> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Device for MemoryDevice {
    fn receive(&mut self, mut each: impl FnMut(&[u8])) -> usize {
        let batch = std::mem::take(&mut *lock(&self.incoming));
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
        lock(&self.outgoing).push_back(self.buffer[..len].to_vec());
        self.stats.sent += 1;
        Transmit::Queued
    }

    fn flush(&mut self) -> io::Result<bool> {
        Ok(true)
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
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
