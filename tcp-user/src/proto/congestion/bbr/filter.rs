//! The largest of the last rounds.

/// Keeps the best of three ages (Kathleen Nichols' algorithm), which is exact for a maximum that
/// is young and off by no more than a part of the window for one that is old.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct WindowedMax<T> {
    /// The largest, the largest after it, and the largest after that, each with its round.
    best: [(u64, T); 3],
}

impl<T: Copy + PartialOrd> WindowedMax<T> {
    pub(super) fn get(&self) -> T {
        self.best[0].1
    }

    /// Takes a value of round `round`; those older than `window` rounds are forgotten.
    pub(super) fn add(&mut self, value: T, round: u64, window: u64) {
        let new = (round, value);
        if value >= self.best[0].1 || round.saturating_sub(self.best[2].0) > window {
            self.best = [new; 3];
            return;
        }
        if value >= self.best[1].1 {
            self.best[1] = new;
            self.best[2] = new;
        } else if value >= self.best[2].1 {
            self.best[2] = new;
        }
        let age = round - self.best[0].0;
        if age > window {
            self.best = [self.best[1], self.best[2], new];
            if round - self.best[0].0 > window {
                self.best = [self.best[1], self.best[2], new];
            }
        } else if self.best[1].0 == self.best[0].0 && age > window / 4 {
            // No second choice for a quarter of the window.
            self.best[1] = new;
            self.best[2] = new;
        } else if self.best[2].0 == self.best[1].0 && age > window / 2 {
            self.best[2] = new;
        }
    }
}
