//! The maps, and the few things that are done with them.

use crate::Outcome;
use crate::shield::Cookie;
use aya_ebpf::bindings::xdp_action::XDP_DROP;
use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC};
use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;
use aya_ebpf::macros::map;
use aya_ebpf::maps::lpm_trie::Key as Prefix;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, XskMap};
use aya_ebpf::programs::XdpContext;
use core::arch::asm;
use tcp_common::abi::{
    BURST, Config, FILTER_BLOCK, FILTER_SLOTS, FilterBlock, Flow, ListenKey, SYN_BURST, Secrets,
    Shield, flag, policy, port, source,
};
use tcp_common::counters::{COUNT, Counter};
use tcp_common::flow::{Addr, FlowKey};

#[map]
static CONFIG: Array<Config> = Array::with_max_entries(1, 0);
#[map]
static SECRETS: Array<Secrets> = Array::with_max_entries(1, 0);
#[map]
static PORTS: Array<u32> = Array::with_max_entries(65_536, 0);
#[map]
static LISTENS: HashMap<ListenKey, u32> = HashMap::with_max_entries(65_536, BPF_F_NO_PREALLOC);
#[map]
static ADDRS: HashMap<Addr, u32> = HashMap::with_max_entries(4096, BPF_F_NO_PREALLOC);
// The loader sets the size (`tcp.max_connections`); not preallocated, so that
// memory follows the connections there are.
#[map]
static FLOWS: HashMap<FlowKey, Flow> = HashMap::with_max_entries(1, BPF_F_NO_PREALLOC);
#[map]
static FLOW_FILTER: Array<FilterBlock> =
    Array::with_max_entries((FILTER_SLOTS / FILTER_BLOCK) as u32, BPF_F_MMAPABLE);
#[map]
static SOURCES: LpmTrie<Addr, u32> = LpmTrie::with_max_entries(65_536, BPF_F_NO_PREALLOC);
#[map]
static SHIELDS: HashMap<ListenKey, Shield> = HashMap::with_max_entries(65_536, BPF_F_NO_PREALLOC);
#[map]
static ROUTE_MSS: LpmTrie<Addr, u32> = LpmTrie::with_max_entries(65_536, BPF_F_NO_PREALLOC);
#[map]
static COOKIE: PerCpuArray<Cookie> = PerCpuArray::with_max_entries(1, 0);
#[map]
static ADMITTED: LruHashMap<FlowKey, u64> = LruHashMap::with_max_entries(16_384, 0);
#[map]
static SYN_ACK_LIMIT: LruHashMap<Addr, u64> = LruHashMap::with_max_entries(65_536, 0);
#[map]
static RST_LIMIT: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);
#[map]
static SYN_LIMIT: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(COUNT as u32, 0);
#[map]
static XSKS: XskMap = XskMap::with_max_entries(64, 0);

const BPF_NOEXIST: u64 = 1;
const EEXIST: i32 = -17;

/// Counts a frame under the counter with this index.
#[inline(always)]
pub fn count(index: u32) {
    if let Some(slot) = COUNTERS.get_ptr_mut(index) {
        // SAFETY: the slot belongs to this CPU, and XDP does not preempt itself.
        unsafe { *slot += 1 };
    }
}

/// How to answer; `None` before the loader has filled it in.
#[inline(always)]
pub fn config() -> Option<&'static Config> {
    CONFIG.get(0)
}

/// The cookie keys.
#[inline(always)]
pub fn secrets() -> Option<&'static Secrets> {
    SECRETS.get(0)
}

/// [`port`] bits of a port in network order; zero if it is not served.
#[inline(always)]
pub fn port(port_be: u16) -> u32 {
    PORTS
        .get(u32::from(u16::from_be(port_be)))
        .copied()
        .unwrap_or(0)
}

/// The count of the flow's slot in the filter; nothing before the map is there.
#[inline(always)]
fn filter_count(flow: &FlowKey) -> Option<*mut u32> {
    let slot = flow.filter_slot();
    let block = FLOW_FILTER.get_ptr_mut((slot / FILTER_BLOCK) as u32)?;
    // SAFETY: inside the block.
    Some(unsafe { block.cast::<u32>().add(slot % FILTER_BLOCK) })
}

/// Whether the flow has a connection (or TIME-WAIT entry) in userspace.
#[inline(always)]
pub fn is_known(flow: &FlowKey) -> bool {
    match filter_count(flow) {
        // SAFETY: a word of the map, read at once. It may change at any time, but it is
        // never less than the entries of `FLOWS`: what overtakes its own connection's
        // first ACK on another CPU is of no connection yet.
        Some(count) if unsafe { count.read_volatile() } == 0 => false,
        _ => FLOWS.get_ptr(flow).is_some(),
    }
}

/// What is done for the flow's local end, given its port's bits: [`policy`], or zero
/// if it is not served. A listen on one address goes before one on all.
#[inline(always)]
pub fn listen(bits: u32, flow: &FlowKey) -> u32 {
    if bits & port::SOME_ADDR != 0 {
        let key = ListenKey {
            addr: flow.local,
            port_be: flow.local_port_be,
            reserved: 0,
        };
        if let Some(policy) = LISTENS.get_ptr(&key) {
            // SAFETY: a value of the map; a torn read of a word cannot be.
            return unsafe { *policy };
        }
    }
    if bits & port::ANY_ADDR == 0 || !is_own(&flow.local) {
        return 0;
    }
    const OTHERS: u32 = port::ANY_OBSERVE | port::ANY_KERNEL | port::ANY_ADAPTIVE;
    if bits & OTHERS == 0 {
        policy::COOKIE
    } else if bits & port::ANY_OBSERVE != 0 {
        policy::OBSERVE
    } else if bits & port::ANY_KERNEL != 0 {
        policy::KERNEL
    } else {
        policy::ADAPTIVE
    }
}

/// How SYNs to the kernel's listener on the flow's local end are answered: one that is bound
/// to the address goes before one on all.
#[inline(always)]
pub fn shield(flow: &FlowKey) -> Option<Shield> {
    let mut key = ListenKey {
        addr: flow.local,
        port_be: flow.local_port_be,
        reserved: 0,
    };
    let shield = SHIELDS.get_ptr(&key).or_else(|| {
        key.addr = if flow.is_v4() {
            Addr::v4(0)
        } else {
            Addr::default()
        };
        SHIELDS.get_ptr(&key)
    })?;
    // SAFETY: a value of the map, of one word that userspace replaces as a whole.
    Some(unsafe { *shield })
}

/// The MSS of the route to a peer; `None`: the interface's.
#[inline(always)]
pub fn route_mss(peer: &Addr) -> Option<u16> {
    ROUTE_MSS
        .get(Prefix::new(128, *peer))
        .map(|mss| *mss as u16)
        .filter(|mss| *mss != 0)
}

/// A place for this run's cookie.
#[inline(always)]
pub fn cookie() -> Option<&'static mut Cookie> {
    // SAFETY: the slot belongs to this CPU, and XDP does not preempt itself.
    COOKIE.get_ptr_mut(0).map(|slot| unsafe { &mut *slot })
}

/// Remembers a connection that the kernel is about to make.
#[inline(always)]
pub fn admit(flow: &FlowKey) {
    // Without room for it its next segments are judged by their cookie, as the first was.
    let _ = ADMITTED.insert(flow, &coarse_now(), 0);
}

/// Whether the flow was [`admit`]ted a moment ago.
#[inline(always)]
pub fn is_admitted(flow: &FlowKey) -> bool {
    const MOMENT: u64 = 1_000_000_000;
    ADMITTED.get_ptr(flow).is_some_and(|since| {
        // SAFETY: a value of the map; a torn read of a word cannot be.
        let since = unsafe { *since };
        coarse_now().wrapping_sub(since) < MOMENT
    })
}

/// Whether the interface has this address.
#[inline(always)]
fn is_own(addr: &Addr) -> bool {
    config().is_some_and(|config| config.is_own(addr)) || ADDRS.get_ptr(addr).is_some()
}

/// Whether the allow and deny lists let this source in.
#[inline(always)]
pub fn is_allowed(flags: u32, source: &Addr) -> bool {
    if flags & flag::CHECK_SOURCES == 0 {
        return true;
    }
    match SOURCES.get(Prefix::new(128, *source)) {
        Some(what) => *what != source::DENY,
        None => flags & flag::DEFAULT_DENY == 0,
    }
}

/// Whether one more SYN-ACK may go to this source's prefix.
#[inline(always)]
pub fn may_answer(interval: u32, source: &Addr) -> bool {
    if interval == 0 {
        return true;
    }
    let prefix = if source.is_v4() {
        Addr::v4(source.0[3] & 0xffff_ff00_u32.to_be())
    } else {
        Addr([source.0[0], source.0[1], 0, 0])
    };
    let now = coarse_now();
    if let Some(due) = SYN_ACK_LIMIT.get_ptr_mut(&prefix) {
        // SAFETY: a value of the map. Two CPUs at once may let one more through.
        return unsafe { take(&mut *due, interval, BURST, now) };
    }
    // No room for the prefix: then its SYNs have to wait.
    SYN_ACK_LIMIT
        .insert(&prefix, &(now + u64::from(interval)), 0)
        .is_ok()
}

/// Whether one more RST may go out.
#[inline(always)]
pub fn may_reset(interval: u32) -> bool {
    if interval == 0 {
        return true;
    }
    match RST_LIMIT.get_ptr_mut(0) {
        // SAFETY: the slot belongs to this CPU, and XDP does not preempt itself.
        Some(due) => unsafe { take(&mut *due, interval, BURST, coarse_now()) },
        None => false,
    }
}

/// Whether one more SYN may go to userspace.
#[inline(always)]
pub fn may_hand_up(interval: u32) -> bool {
    if interval == 0 {
        return false;
    }
    match SYN_LIMIT.get_ptr_mut(0) {
        // SAFETY: the slot belongs to this CPU, and XDP does not preempt itself.
        Some(due) => unsafe { take(&mut *due, interval, SYN_BURST, coarse_now()) },
        None => false,
    }
}

/// One cell of GCRA: `due` is when the answers so far will be paid for.
#[inline(always)]
fn take(due: &mut u64, interval: u32, burst: u32, now: u64) -> bool {
    let start = if *due > now { *due } else { now };
    if start - now > u64::from(interval) * u64::from(burst) {
        return false;
    }
    *due = start + u64::from(interval);
    true
}

/// `CLOCK_MONOTONIC` of the last tick, nanoseconds.
#[inline(always)]
pub fn coarse_now() -> u64 {
    // SAFETY: the helper takes no arguments.
    unsafe { bpf_ktime_get_coarse_ns() }
}

/// Enters a flow; `false` if the table is full. Done here and not in userspace:
/// more segments may be right behind the ACK, and only the first has the cookie.
#[inline(always)]
pub fn add_flow(flow: &FlowKey, queue: u32) -> bool {
    let value = Flow {
        created: Flow::age_unit(coarse_now()),
        queue,
    };
    add_to_filter(flow, 1);
    match FLOWS.insert(flow, &value, BPF_NOEXIST) {
        Ok(()) => true,
        Err(error) => {
            add_to_filter(flow, u32::MAX);
            error == EEXIST
        }
    }
}

/// Adds to the count of the flow's slot, as userspace and other CPUs do. `core` has no
/// atomic addition here: the target says that it cannot compare and swap.
#[inline(always)]
fn add_to_filter(flow: &FlowKey, value: u32) {
    if let Some(count) = filter_count(flow) {
        let value = u64::from(value);
        // SAFETY: the instruction adds to that word of the map.
        unsafe {
            asm!("lock *(u32 *)({0} + 0) += {1}", in(reg) count, in(reg) value, options(nostack));
        }
    }
}

/// Hands the frame to the AF_XDP socket of its queue. Never falls back to PASS:
/// the kernel would answer with RST.
#[inline(always)]
pub fn to_userspace(ctx: &XdpContext, counter: Counter) -> Outcome {
    match XSKS.redirect(ctx.rx_queue_index(), u64::from(XDP_DROP)) {
        Ok(_) => counter.into(),
        Err(_) => Counter::DropNoSocket.into(),
    }
}
