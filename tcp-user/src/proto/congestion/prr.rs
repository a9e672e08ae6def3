//! Proportional rate reduction (RFC 9937, before it RFC 6937): in recovery as much goes out as
//! arrives, scaled so that what is in flight ends at ssthresh.

/// State of one recovery, octets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Prr {
    /// `RecoverFS`: what was in flight when the loss was found.
    flight: u32,
    /// `prr_delivered` and `prr_out`.
    delivered: u64,
    out: u64,
}

impl Prr {
    /// A recovery begins with `flight` octets out: sent, neither acknowledged nor sacked
    /// before the ACK at hand. `unspent` octets were delivered before it and nothing was
    /// sent for them yet.
    pub(crate) const fn new(flight: u32, unspent: u32) -> Self {
        let flight = flight.saturating_add(unspent);
        Self {
            flight: if flight == 0 { 1 } else { flight },
            delivered: unspent as u64,
            out: 0,
        }
    }

    /// Octets were sent, new or again.
    pub(crate) fn on_sent(&mut self, octets: u32) {
        self.out += u64::from(octets);
    }

    /// An ACK delivered `delivered` octets, and `pipe` are in flight now. `safe`: it
    /// advanced SND.UNA and no further loss was found. Returns the congestion window.
    pub(crate) fn on_ack(
        &mut self,
        delivered: u32,
        pipe: u32,
        ssthresh: u32,
        mss: u32,
        safe: bool,
    ) -> u32 {
        self.delivered += u64::from(delivered);
        let mss = u64::from(mss.max(1));
        let left = self.delivered.saturating_sub(self.out);
        let count = if pipe > ssthresh {
            // Proportional rate reduction, in whole segments.
            let share = self.delivered * u64::from(ssthresh);
            let share = share.div_ceil(u64::from(self.flight));
            share.next_multiple_of(mss).saturating_sub(self.out)
        } else {
            // Slow start reduction bound (PRR-SSRB): at most a segment more than was
            // delivered, and only while nothing speaks against it.
            let grow = left.max(u64::from(delivered)) + if safe { mss } else { 0 };
            grow.min(u64::from(ssthresh - pipe))
        };
        // The fast retransmit itself.
        let count = if self.out == 0 { count.max(mss) } else { count };
        pipe.saturating_add(u32::try_from(count).unwrap_or(u32::MAX))
    }
}

#[cfg(test)]
mod tests;
