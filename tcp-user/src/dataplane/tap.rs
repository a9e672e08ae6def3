//! A wrapper around any device: faults by seed, and a pcap file of what passes.

use super::{Device, DeviceStats, Transmit};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

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
    pcap: Option<Pcap>,
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
            pcap: None,
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
    pub fn with_pcap(mut self, pcap: Pcap) -> Self {
        self.pcap = Some(pcap);
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
            pcap,
            held_in,
            ..
        } = self;
        let mut deliver = |frame: &[u8]| {
            if let Some(pcap) = pcap.as_mut() {
                pcap.record(frame);
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
        if let Some(pcap) = self.pcap.as_mut() {
            pcap.record(frame);
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
        if let Some(pcap) = self.pcap.as_mut() {
            pcap.flush();
        }
        Ok(self.inner.flush()? && drained)
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.fd()
    }

    fn stats(&self) -> DeviceStats {
        self.inner.stats()
    }
}

/// A pcap file (nanosecond variant, Ethernet), shared by the workers.
#[derive(Clone, Debug)]
pub struct Pcap(Arc<Mutex<BufWriter<File>>>);

impl Pcap {
    /// Creates the file and writes its header.
    pub fn create(path: &Path) -> io::Result<Self> {
        let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
        for word in [0xa1b2_3c4d_u32, 0x0004_0002, 0, 0, 65_535, 1] {
            file.write_all(&word.to_le_bytes())?;
        }
        file.flush()?;
        Ok(Self(Arc::new(Mutex::new(file))))
    }

    fn record(&self, frame: &[u8]) {
        let at = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let len = frame.len() as u32;
        let mut header = [0; 16];
        for (to, word) in
            header
                .chunks_exact_mut(4)
                .zip([at.as_secs() as u32, at.subsec_nanos(), len, len])
        {
            to.copy_from_slice(&word.to_le_bytes());
        }
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let written = file.write_all(&header).and_then(|()| file.write_all(frame));
        if let Err(error) = written {
            tracing::debug!(%error, "pcap");
        }
    }

    fn flush(&self) {
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = file.flush() {
            tracing::debug!(%error, "pcap");
        }
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
