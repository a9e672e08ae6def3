//! Which octets beyond RCV.NXT have arrived. The octets themselves lie in
//! [`super::recv_buffer::RecvBuffer`].

/// Separate ranges at most; a segment that would make one more is refused and comes again.
pub(crate) const MAX_RANGES: usize = 32;

/// The segment would make more than [`MAX_RANGES`] ranges; nothing was changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TooManyHoles;

#[derive(Clone, Copy, Default, Debug)]
struct Range {
    start: u32,
    end: u32,
    /// Higher: inserted or extended later.
    stamp: u32,
}

#[derive(Clone, Debug)]
struct Holes {
    /// Sorted, neither overlapping nor touching, all beyond `front`.
    ranges: [Range; MAX_RANGES],
    count: usize,
    stamp: u32,
}

/// Ranges of arrived octets as offsets relative to RCV.NXT. Allocates only while there
/// is a hole: 16 octets in order.
#[derive(Clone, Default, Debug)]
pub(crate) struct Assembler {
    /// `[0, front)` has arrived and was not popped.
    front: u32,
    holes: Option<Box<Holes>>,
}

impl Assembler {
    /// Nothing beyond RCV.NXT.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Octets `[offset, offset + len)` have arrived, `offset` relative to RCV.NXT. What
    /// had arrived before may be part of it.
    pub(crate) fn insert(&mut self, offset: u32, len: u32) -> Result<(), TooManyHoles> {
        let end = offset.saturating_add(len);
        if offset == end {
            return Ok(());
        }
        if offset <= self.front {
            self.front = self.front.max(end);
            self.absorb();
            return Ok(());
        }
        self.holes
            .get_or_insert_with(|| {
                Box::new(Holes {
                    ranges: [Range::default(); MAX_RANGES],
                    count: 0,
                    stamp: 0,
                })
            })
            .insert(offset, end)
    }

    /// Takes over into `front` what touches it now.
    fn absorb(&mut self) {
        let Some(holes) = &mut self.holes else { return };
        let mut taken = 0;
        for r in holes.used() {
            if r.start > self.front {
                break;
            }
            self.front = self.front.max(r.end);
            taken += 1;
        }
        holes.remove(0, taken);
        if holes.count == 0 {
            self.holes = None;
        }
    }

    /// Octets that follow RCV.NXT without a hole. They are forgotten and all offsets
    /// from now on are relative to RCV.NXT plus that many.
    pub(crate) fn pop_front(&mut self) -> u32 {
        let popped = std::mem::take(&mut self.front);
        if let Some(holes) = &mut self.holes {
            let count = holes.count;
            for r in &mut holes.ranges[..count] {
                r.start -= popped;
                r.end -= popped;
            }
        }
        popped
    }

    /// Whether nothing is waiting beyond RCV.NXT.
    pub(crate) fn is_empty(&self) -> bool {
        self.front == 0 && self.holes.is_none()
    }

    /// All ranges `[start, end)`, sorted.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        let front = (self.front > 0).then_some((0, self.front));
        let beyond = self.holes.iter().flat_map(|h| h.used());
        front.into_iter().chain(beyond.map(|r| (r.start, r.end)))
    }

    /// The range beyond a hole that grew last: what the first SACK block must hold
    /// (RFC 2018 §4).
    pub(crate) fn last_inserted(&self) -> Option<(u32, u32)> {
        self.recent::<1>().first().copied()
    }

    /// Up to `N` ranges beyond a hole, the one that grew last first: SACK blocks in the
    /// order of RFC 2018 §4.
    pub(crate) fn recent<const N: usize>(&self) -> Recent<N> {
        let mut out = Recent {
            ranges: [(0, 0); N],
            count: 0,
        };
        let Some(holes) = &self.holes else { return out };
        let mut below = u32::MAX;
        while out.count < N {
            let next = holes.used().iter().filter(|r| r.stamp < below);
            let Some(r) = next.max_by_key(|r| r.stamp) else {
                break;
            };
            out.ranges[out.count] = (r.start, r.end);
            out.count += 1;
            below = r.stamp;
        }
        out
    }

    /// Whether all of `[offset, offset + len)` had arrived: a duplicate beyond RCV.NXT
    /// (RFC 2883).
    pub(crate) fn contains(&self, offset: u32, len: u32) -> bool {
        let end = offset.saturating_add(len);
        self.ranges().any(|(s, e)| s <= offset && end <= e)
    }
}

/// What [`Assembler::recent`] found; a slice.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recent<const N: usize> {
    ranges: [(u32, u32); N],
    count: usize,
}

impl<const N: usize> std::ops::Deref for Recent<N> {
    type Target = [(u32, u32)];
    fn deref(&self) -> &Self::Target {
        &self.ranges[..self.count]
    }
}

impl Holes {
    fn used(&self) -> &[Range] {
        &self.ranges[..self.count]
    }

    fn remove(&mut self, from: usize, to: usize) {
        self.ranges.copy_within(to..self.count, from);
        self.count -= to - from;
    }

    fn insert(&mut self, start: u32, end: u32) -> Result<(), TooManyHoles> {
        // [first, past) are the ranges that overlap or touch the new one.
        let first = self.used().partition_point(|r| r.end < start);
        let past = self.used().partition_point(|r| r.start <= end);
        let mut new = Range {
            start,
            end,
            stamp: self.next_stamp(),
        };
        if first == past {
            if self.count == MAX_RANGES {
                return Err(TooManyHoles);
            }
            self.ranges.copy_within(first..self.count, first + 1);
            self.count += 1;
        } else {
            new.start = start.min(self.ranges[first].start);
            new.end = end.max(self.ranges[past - 1].end);
            self.remove(first + 1, past);
        }
        self.ranges[first] = new;
        Ok(())
    }

    /// Stamps start anew when they run out; their order is lost then, which costs nothing but
    /// the order of SACK blocks once.
    fn next_stamp(&mut self) -> u32 {
        if self.stamp == u32::MAX - 1 {
            self.stamp = 0;
            let count = self.count;
            for r in &mut self.ranges[..count] {
                self.stamp += 1;
                r.stamp = self.stamp;
            }
        }
        self.stamp += 1;
        self.stamp
    }
}

#[cfg(test)]
mod tests;
