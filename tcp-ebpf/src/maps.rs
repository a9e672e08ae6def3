//! The maps, and the few things that are done with them.

use crate::Outcome;
use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::bindings::xdp_action::XDP_DROP;
use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, PerCpuArray, XskMap};
use aya_ebpf::programs::XdpContext;
use tcp_common::abi::{Config, Flow, ListenKey, Secrets, port};
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

/// Whether the flow has a connection (or TIME-WAIT entry) in userspace.
#[inline(always)]
pub fn is_known(flow: &FlowKey) -> bool {
    FLOWS.get_ptr(flow).is_some()
}

/// Whether the flow's local end is served, given its port's bits.
#[inline(always)]
pub fn is_served(bits: u32, flow: &FlowKey) -> bool {
    if bits & port::SOME_ADDR != 0 {
        let key = ListenKey {
            addr: flow.local,
            port_be: flow.local_port_be,
            reserved: 0,
        };
        if LISTENS.get_ptr(&key).is_some() {
            return true;
        }
    }
    bits & port::ANY_ADDR != 0 && ADDRS.get_ptr(&flow.local).is_some()
}

/// Enters a flow; `false` if the table is full. Done here and not in userspace:
/// more segments may be right behind the ACK, and only the first has the cookie.
#[inline(always)]
pub fn add_flow(flow: &FlowKey) -> bool {
    let value = Flow {
        // SAFETY: the helper takes no arguments.
        created: unsafe { bpf_ktime_get_coarse_ns() },
    };
    match FLOWS.insert(flow, &value, BPF_NOEXIST) {
        Ok(()) | Err(EEXIST) => true,
        Err(_) => false,
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
