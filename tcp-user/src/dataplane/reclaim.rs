//! When memory goes back to the system: a moment after much of it was freed.
//!
//! The engine and the allocator keep what was freed for what comes next. After many
//! connections have ended at once that is more than is worth keeping.

use crate::proto::Instant;
use std::time::Duration;

/// Less freed memory than this is not worth the work, octets.
const WORTH: usize = 1 << 20;
/// How long after: connections that end together are done with together.
const AFTER: Duration = Duration::from_secs(1);

/// Watches how much memory is in use.
#[derive(Debug, Default)]
pub(super) struct Reclaim {
    /// The most since memory was given back last, octets.
    peak: usize,
    due: Option<Instant>,
}

impl Reclaim {
    /// So much is in use now. True if the rest should be given back.
    pub(super) fn watch(&mut self, now: Instant, used: usize) -> bool {
        self.peak = self.peak.max(used);
        let freed = self.peak - used;
        if freed < WORTH.max(self.peak / 2) {
            self.due = None;
            return false;
        }
        if *self.due.get_or_insert(now + AFTER) > now {
            return false;
        }
        self.due = None;
        self.peak = used;
        true
    }

    /// When [`Self::watch`] wants to be called next.
    pub(super) const fn deadline(&self) -> Option<Instant> {
        self.due
    }
}

/// Larger pieces have a mapping of their own, which goes when they are freed, octets.
#[cfg(target_env = "gnu")]
const MAPPED: i32 = 2 << 20;
/// So much may lie free at the end of each heap, octets.
#[cfg(target_env = "gnu")]
const FREE: i32 = 2 << 20;

/// Keeps the allocator from letting those two grow to 32 and 64 MiB, as glibc does by itself
/// when large pieces come and go. For the start of a program.
pub fn bound_allocator() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes the allocator's own locks; both values are in its range.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED);
        libc::mallopt(libc::M_TRIM_THRESHOLD, FREE);
    }
}

/// Lets the allocator give back what it has free.
pub(super) fn trim() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: it takes the allocator's own locks and touches only what is free.
        unsafe { libc::malloc_trim(0) };
        // That leaves the end of this thread's heap, which is looked at when a piece is
        // freed that is not small.
        drop(std::hint::black_box(Vec::<u8>::with_capacity(128 << 10)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn memory_is_given_back_once_a_moment_after_it_was_freed() {
        let mut reclaim = Reclaim::default();
        let at = |ms: u64| Instant(ms * MS);
        assert!(!reclaim.watch(at(0), 10 << 20));
        assert_eq!(reclaim.deadline(), None);
        assert!(!reclaim.watch(at(10), 2 << 20));
        assert_eq!(reclaim.deadline(), Some(at(1010)));
        assert!(!reclaim.watch(at(500), 1 << 20));
        assert!(reclaim.watch(at(1010), 1 << 20));
        // The rest is less than a MiB.
        assert!(!reclaim.watch(at(3000), 1024));
        assert_eq!(reclaim.deadline(), None);
    }

    #[test]
    fn what_is_used_again_is_kept() {
        let mut reclaim = Reclaim::default();
        for round in 0..100 {
            let start = Instant(round * 900 * MS);
            assert!(!reclaim.watch(start, 10 << 20));
            assert_eq!(reclaim.deadline(), None);
            assert!(!reclaim.watch(start + Duration::from_millis(100), 0));
            assert!(!reclaim.watch(start + Duration::from_millis(890), 0));
        }
    }
}
