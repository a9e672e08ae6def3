//! A wrapper around any device: faults by seed, and a capture of what passes.

use super::capture::Recorder;
use super::{Device, DeviceStats, Transmit};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;

/// How often things go wrong, each in parts of 2^16.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// The frame is lost.
    pub loss: u16,
    /// The frame comes twice.
    pub duplicate: u16,
    /// The frame comes after the next one.
    pub reorder: u16,
}

/// A device with faults in both directions and a record of the frames.
pub struct Tap<D> {
    inner: D,
    faults: Faults,
    rng: ChaCha8Rng,
    capture: Option<Recorder>,
    buffer: Vec<u8>,
    held_in: Option<Vec<u8>>,
    outgoing: VecDeque<Vec<u8>>,
    held_out: Option<Vec<u8>>,
}

impl<D: Device> Tap<D> {
    /// Without faults and without a file.
    pub fn new(inner: D) -> Self {
        Self {
            inner,
            faults: Faults::default(),
            rng: ChaCha8Rng::seed_from_u64(0),
            capture: None,
            buffer: vec![0; 4096],
            held_in: None,
            outgoing: VecDeque::new(),
            held_out: None,
        }
    }

    /// Lets things go wrong from now on; the same seed does the same again.
    #[must_use]
    pub fn with_faults(mut self, faults: Faults, seed: u64) -> Self {
        self.faults = faults;
        self.rng = ChaCha8Rng::seed_from_u64(seed);
        self
    }

    /// Records every frame that the engine gets and sends.
    #[must_use]
    pub fn with_capture(mut self, recorder: Recorder) -> Self {
        self.capture = Some(recorder);
        self
    }

    /// Hands out the frame as often as the dice say, in the order they say.
    fn pass(
        faults: Faults,
        rng: &mut ChaCha8Rng,
        held: &mut Option<Vec<u8>>,
        frame: &[u8],
        mut deliver: impl FnMut(&[u8]),
    ) {
        let mut happens = |odds: u16| odds > 0 && (rng.next_u32() as u16) < odds;
        if happens(faults.loss) {
            return;
        }
        if held.is_none() && happens(faults.reorder) {
            *held = Some(frame.to_vec());
            return;
        }
        deliver(frame);
        if happens(faults.duplicate) {
            deliver(frame);
        }
        if let Some(late) = held.take() {
            deliver(&late);
        }
    }

    /// Sends what waits; false if the device is full.
    fn drain(&mut self) -> bool {
        while let Some(frame) = self.outgoing.front() {
            let sent = self.inner.transmit(|buffer| {
                buffer.get_mut(..frame.len())?.copy_from_slice(frame);
                Some(frame.len())
            });
            if sent == Transmit::Full {
                return false;
            }
            self.outgoing.pop_front();
        }
        true
    }
}

impl<D: Device> Device for Tap<D> {
    fn receive(&mut self, mut each: impl FnMut(&[u8])) -> usize {
        let Self {
            inner,
            faults,
            rng,
            capture,
            held_in,
            ..
        } = self;
        let mut deliver = |frame: &[u8]| {
            if let Some(capture) = capture.as_mut() {
                capture.received(frame);
            }
            each(frame);
        };
        let received =
            inner.receive(|frame| Self::pass(*faults, rng, held_in, frame, &mut deliver));
        // Nothing behind it any more: the held one is late enough.
        if received == 0
            && let Some(late) = held_in.take()
        {
            deliver(&late);
        }
        received
    }

    fn transmit(&mut self, fill: impl FnOnce(&mut [u8]) -> Option<usize>) -> Transmit {
        if !self.drain() {
            return Transmit::Full;
        }
        let Some(len) = fill(&mut self.buffer) else {
            if let Some(late) = self.held_out.take() {
                self.outgoing.push_back(late);
                self.drain();
            }
            return Transmit::Idle;
        };
        let frame = &self.buffer[..len];
        if let Some(capture) = self.capture.as_mut() {
            capture.sent(frame);
        }
        let outgoing = &mut self.outgoing;
        Self::pass(
            self.faults,
            &mut self.rng,
            &mut self.held_out,
            frame,
            |frame| outgoing.push_back(frame.to_vec()),
        );
        self.drain();
        Transmit::Queued
    }

    fn flush(&mut self) -> io::Result<bool> {
        let drained = self.drain();
        Ok(self.inner.flush()? && drained)
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.fd()
    }

    fn stats(&self) -> DeviceStats {
        self.inner.stats()
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::MemoryDevice;
    use super::*;

    fn run(faults: Faults, seed: u64) -> Vec<u8> {
        let (mut a, b) = MemoryDevice::pair();
        let mut tap = Tap::new(b).with_faults(faults, seed);
        let mut seen = Vec::new();
        for i in 0..100 {
            a.send(&[i]);
        }
        while tap.receive(|frame| seen.push(frame[0])) > 0 {}
        seen
    }

    #[test]
    fn without_faults_nothing_changes() {
        assert_eq!(run(Faults::default(), 1), (0..100).collect::<Vec<u8>>());
    }

    #[test]
    fn faults_follow_the_seed() {
        let faults = Faults {
            loss: 1 << 13,
            duplicate: 1 << 13,
            reorder: 1 << 13,
        };
        let seen = run(faults, 7);
        assert_eq!(seen, run(faults, 7));
        assert_ne!(seen, run(faults, 8));
        assert!((0..100).any(|i| !seen.contains(&i)), "one is lost");
        assert!(seen.windows(2).any(|w| w[0] == w[1]), "one comes twice");
        assert!(seen.windows(2).any(|w| w[0] > w[1]), "one comes late");
    }

    #[test]
    fn sending_passes_the_same_way() {
        let (mut a, b) = MemoryDevice::pair();
        let mut tap = Tap::new(b).with_faults(
            Faults {
                reorder: u16::MAX,
                ..Faults::default()
            },
            3,
        );
        for i in 0..4u8 {
            tap.transmit(|buffer| {
                buffer[0] = i;
                Some(1)
            });
        }
        tap.transmit(|_| None);
        let mut seen = Vec::new();
        a.receive(|frame| seen.push(frame[0]));
        assert_eq!(seen, [1, 0, 3, 2]);
    }
}
