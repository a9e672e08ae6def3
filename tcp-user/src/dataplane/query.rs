//! What control asks about the connections of a worker, answered with little memory.

use crate::proto::{ConnInfo, Endpoint, Instant, State};
use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tcp_common::flow::FlowKey;

/// Which connections.
#[derive(Clone)]
pub struct Query {
    /// Those that are meant.
    pub filter: Arc<dyn Fn(&ConnInfo) -> bool + Send + Sync>,
    /// The larger, the earlier; of equal ones any.
    pub rank: fn(&ConnInfo) -> u64,
    /// So many of the first at most.
    pub limit: usize,
}

impl Query {
    /// All, in no order.
    pub fn all() -> Self {
        Self {
            filter: Arc::new(|_| true),
            rank: |_| 0,
            limit: usize::MAX,
        }
    }

    /// The answer, in order. Never holds more than twice the limit.
    pub fn select(&self, infos: impl Iterator<Item = ConnInfo>) -> Vec<ConnInfo> {
        let key = |info: &ConnInfo| std::cmp::Reverse((self.rank)(info));
        let mut best = Vec::new();
        for info in infos.filter(|info| (self.filter)(info)) {
            best.push(info);
            if self.limit > 0 && best.len() >= self.limit.saturating_mul(2) {
                best.select_nth_unstable_by_key(self.limit - 1, key);
                best.truncate(self.limit);
            }
        }
        best.sort_by_key(key);
        best.truncate(self.limit);
        best
    }
}

impl fmt::Debug for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Query").finish_non_exhaustive()
    }
}

/// Local ends whose connections are to end.
pub type Drained = Arc<dyn Fn(SocketAddr) -> bool + Send + Sync>;

/// How many connections there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// By state.
    pub states: HashMap<State, u64>,
    /// Open ones by local end, TIME-WAIT left out.
    pub open: HashMap<SocketAddr, u64>,
    /// Accepted since the start, by local end.
    pub accepted: HashMap<SocketAddr, u64>,
}

impl Census {
    /// Adds another worker's.
    pub fn add(&mut self, other: &Self) {
        fn sum<K: Copy + Eq + std::hash::Hash>(to: &mut HashMap<K, u64>, from: &HashMap<K, u64>) {
            for (key, n) in from {
                *to.entry(*key).or_default() += n;
            }
        }
        sum(&mut self.states, &other.states);
        sum(&mut self.open, &other.open);
        sum(&mut self.accepted, &other.accepted);
    }
}

/// Counting takes a look at every connection, so it is not done more often than this.
const FRESH: Duration = Duration::from_millis(200);

/// Takes the census of one worker.
#[derive(Debug, Default)]
pub(super) struct Taker {
    last: Census,
    taken: Option<Instant>,
}

impl Taker {
    /// A connection was accepted.
    pub(super) fn count(&mut self, flow: Option<FlowKey>) {
        if let Some(flow) = flow {
            *self.last.accepted.entry(flow.local()).or_default() += 1;
        }
    }

    /// Now, or a moment ago.
    pub(super) fn take(&mut self, now: Instant, endpoint: &Endpoint) -> Census {
        if self.taken.is_none_or(|at| now - at >= FRESH) {
            self.taken = Some(now);
            self.last.states.clear();
            self.last.open.clear();
            for (state, flow) in endpoint.states() {
                *self.last.states.entry(state).or_default() += 1;
                if state != State::TimeWait {
                    *self.last.open.entry(flow.local()).or_default() += 1;
                }
            }
        }
        self.last.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tcp_common::flow::Addr;

    fn info(port: u16, bytes_in: u64) -> ConnInfo {
        let local: std::net::IpAddr = [10, 0, 0, 2].into();
        let flow = FlowKey {
            remote: Addr::from(local),
            local: Addr::from(local),
            remote_port_be: port.to_be(),
            local_port_be: 80_u16.to_be(),
        };
        ConnInfo {
            bytes_in,
            ..ConnInfo::bare(flow, State::Established)
        }
    }

    #[test]
    fn the_first_by_rank_are_found_among_many() {
        let query = Query {
            filter: Arc::new(|info| info.flow.remote().port() != 7),
            rank: |info| info.bytes_in,
            limit: 3,
        };
        let many = (1..=1000_u16).map(|port| info(port, u64::from(port * 37 % 1009)));
        let found: Vec<u64> = query.select(many).iter().map(|i| i.bytes_in).collect();
        let mut all: Vec<u64> = (1..=1000_u64)
            .filter(|port| *port != 7)
            .map(|port| port * 37 % 1009)
            .collect();
        all.sort_unstable_by_key(|n| std::cmp::Reverse(*n));
        assert_eq!(found, all[..3]);
        assert_eq!(Query::all().select((1..=9).map(|p| info(p, 0))).len(), 9);
        let none = Query {
            limit: 0,
            ..Query::all()
        };
        assert!(none.select((1..=9).map(|p| info(p, 0))).is_empty());
    }
}
