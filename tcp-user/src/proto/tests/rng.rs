//! Randomness of a simulation: all of it comes from one seed.

use std::time::Duration;

/// `SplitMix64` (Steele, Lea and Flood, 2014).
#[derive(Clone, Debug)]
pub(super) struct Rng(u64);

pub(super) const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Rng {
    pub(super) fn new(seed: u64) -> Self {
        Self(mix(seed ^ 0x7463_702d_7864_7021))
    }

    /// An independent generator.
    pub(super) fn fork(&mut self) -> Self {
        Self(self.u64())
    }

    pub(super) fn u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    pub(super) fn u32(&mut self) -> u32 {
        self.u64() as u32
    }

    /// Uniform in `[low, high]`.
    pub(super) fn range(&mut self, low: u64, high: u64) -> u64 {
        low + self.u64() % (high - low + 1)
    }

    /// In `[0, high]`, small ones as likely as large ones.
    pub(super) fn magnitude(&mut self, high: u64) -> u64 {
        let bits = self.range(0, u64::from(high.max(1).ilog2()) + 1);
        (self.u64() & ((1 << bits) - 1)).min(high)
    }

    pub(super) fn chance(&mut self, p: f64) -> bool {
        p > 0.0 && ((self.u64() >> 11) as f64) < p * (1u64 << 53) as f64
    }

    pub(super) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.u64() as usize % of.len()]
    }

    pub(super) fn millis(&mut self, low: u64, high: u64) -> Duration {
        Duration::from_micros(self.range(low * 1000, high * 1000))
    }
}
