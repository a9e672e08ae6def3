//! The flow table of the XDP program, and the filter in front of it.

use super::loader::errno;
use crate::dataplane::worker::{FlowTable, clock};
use aya::maps::{HashMap as BpfMap, MapData, MapError};
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};
use tcp_common::abi::{FILTER_SLOTS, Flow};
use tcp_common::flow::FlowKey;

/// `BPF_NOEXIST`.
const BPF_NOEXIST: u64 = 1;

/// The flow table of the XDP program. XDP enters flows with a valid cookie, userspace those
/// whose SYN was left to it; userspace removes them.
pub struct Flows {
    table: BpfMap<MapData, FlowKey, Flow>,
    filter: Filter,
}

impl FlowTable for Flows {
    fn insert(&mut self, flow: &FlowKey, queue: u32) {
        let value = Flow {
            created: Flow::age_unit(clock().0),
            queue,
        };
        // Before the entry, so that the count is never below what there is.
        self.filter.add(flow);
        if let Err(error) = self.table.insert(flow, value, BPF_NOEXIST) {
            self.filter.take_off(flow);
            // Without an entry the cookie has to do.
            if errno(&error) != Some(libc::EEXIST) {
                tracing::debug!(%flow, %error, "flow not entered");
            }
        }
    }

    fn queue(&self, flow: &FlowKey) -> Option<u32> {
        self.table.get(flow, 0).ok().map(|flow| flow.queue)
    }

    fn remove(&mut self, flow: &FlowKey) {
        match self.table.remove(flow) {
            Ok(()) => self.filter.take_off(flow),
            Err(MapError::KeyNotFound) => {}
            Err(error) if errno(&error) == Some(libc::ENOENT) => {}
            Err(error) => tracing::debug!(%flow, %error, "flow not removed"),
        }
    }
}

impl Flows {
    /// The table, and the map of its filter ([`tcp_common::abi::FLOW_FILTER`]).
    pub(super) fn new(
        table: BpfMap<MapData, FlowKey, Flow>,
        filter: BorrowedFd<'_>,
    ) -> io::Result<Self> {
        let filter = Filter::map(filter)?;
        Ok(Self { table, filter })
    }

    /// Entries made before `created`, in [`Flow::age_unit`]s.
    pub fn older_than(&self, created: u32) -> impl Iterator<Item = (FlowKey, Flow)> {
        self.table
            .iter()
            .filter_map(Result::ok)
            .filter(move |(_, flow)| flow.created < created)
    }

    /// Removes the entry unless it was made anew in the meantime.
    pub fn remove_if_still(&mut self, key: &FlowKey, flow: &Flow) {
        if self.table.get(key, 0).is_ok_and(|now| now == *flow) {
            self.remove(key);
        }
    }
}

/// `FLOW_FILTER`, shared with the XDP program.
struct Filter(NonNull<AtomicU32>);

// SAFETY: it owns its mapping, which is not tied to a thread.
unsafe impl Send for Filter {}

impl Filter {
    const OCTETS: usize = FILTER_SLOTS * size_of::<AtomicU32>();

    fn map(map: BorrowedFd<'_>) -> io::Result<Self> {
        // SAFETY: a new mapping, wherever there is room.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                Self::OCTETS,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                0,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        NonNull::new(at.cast())
            .map(Self)
            .ok_or_else(|| io::Error::other("mapped at zero"))
    }

    /// One flow more in this flow's slot.
    fn add(&self, flow: &FlowKey) {
        self.count(flow).fetch_add(1, Ordering::Relaxed);
    }

    /// One flow less.
    fn take_off(&self, flow: &FlowKey) {
        self.count(flow).fetch_sub(1, Ordering::Relaxed);
    }

    fn count(&self, flow: &FlowKey) -> &AtomicU32 {
        // SAFETY: the slot's number is below FILTER_SLOTS, the mapping has as many words and
        // lives as long as `self`, and nobody uses them but atomically.
        unsafe { self.0.add(flow.filter_slot()).as_ref() }
    }
}

impl Drop for Filter {
    fn drop(&mut self) {
        // SAFETY: the mapping of `map`, which nothing refers to any more.
        unsafe { libc::munmap(self.0.as_ptr().cast(), Self::OCTETS) };
    }
}
