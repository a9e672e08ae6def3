//! How many ACKs a peer can make us send for nothing (RFC 5961 §7).

use super::Instant;
use rand_chacha::ChaCha8Rng;
use rand_core::RngCore;

/// Challenge ACKs of one connection in a second at most.
pub(super) const PER_CONNECTION: u16 = 10;
const PER_SECOND: u32 = 1000;

/// The limit that all connections share. Its size is random in each second: a
/// fixed one lets an outsider count what others use of it (CVE-2016-5696).
pub(super) struct AckLimit {
    second: u64,
    left: u32,
    rng: ChaCha8Rng,
}

impl AckLimit {
    pub(super) const fn new(rng: ChaCha8Rng) -> Self {
        Self {
            second: u64::MAX,
            left: 0,
            rng,
        }
    }

    /// Takes one from what is left of this second.
    pub(super) fn allow(&mut self, now: Instant) -> bool {
        let second = now.0 / 1_000_000_000;
        if second != self.second {
            self.second = second;
            self.left = PER_SECOND / 2 + self.rng.next_u32() % PER_SECOND;
        }
        let allowed = self.left > 0;
        self.left = self.left.saturating_sub(1);
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_core::SeedableRng;

    /// RFC 5961 §7, with the lesson of CVE-2016-5696.
    #[test]
    fn the_shared_limit_is_random_in_each_second() {
        let mut limit = AckLimit::new(ChaCha8Rng::seed_from_u64(1));
        let sizes: Vec<u32> = (0..20)
            .map(|second| {
                let now = Instant(second * 1_000_000_000);
                (0..10_000).filter(|_| limit.allow(now)).count() as u32
            })
            .collect();
        assert!(
            sizes
                .iter()
                .all(|n| (PER_SECOND / 2..PER_SECOND * 3 / 2).contains(n)),
            "{sizes:?}"
        );
        assert!(sizes.windows(2).any(|w| w[0] != w[1]), "{sizes:?}");
    }
}
