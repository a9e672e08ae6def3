//! Our XDP program with known maps, to be run without an interface.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
    path::Path,
};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, Map, MapData, PerCpuArray, XskMap},
    programs::Xdp,
};
use tcp_common::{
    abi::{self, Config, FILTER_BLOCK, FilterBlock, Flow, Secrets, port},
    cookie::Key,
    counters::{COUNT, Counter},
    flow::{Addr, FlowKey},
};

/// The port that is served on every address.
pub(crate) const PORT: u16 = 80;
/// The served addresses.
pub(crate) const ADDRESS4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub(crate) const ADDRESS6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

/// The loaded program.
pub(crate) struct Program {
    ebpf: Ebpf,
    /// An AF_XDP socket: a redirect to it succeeds. It is bound to nothing, and a test run stops at
    /// the verdict.
    socket: OwnedFd,
}

impl Program {
    /// Loads the object with room for `flows` connections.
    pub(crate) fn load(object: &Path, flows: u32) -> Result<Self> {
        let ebpf = EbpfLoader::new()
            .map_max_entries(abi::FLOWS, flows)
            .map_max_entries(abi::XSKS, 1)
            .load_file(object)
            .with_context(|| format!("cannot load {}", object.display()))?;
        let socket = xdp_socket().context("cannot make an AF_XDP socket")?;
        let mut program = Self { ebpf, socket };
        let config = Config {
            window: 65_535,
            mss_v4: 1460,
            mss_v6: 1440,
            window_scale: 7,
            hop_limit: 64,
            own_v4: Addr::from(IpAddr::from(ADDRESS4)).0[3],
            own_v6: Addr::from(IpAddr::from(ADDRESS6)),
            ..Config::default()
        };
        program.array(abi::CONFIG)?.set(0, config, 0)?;
        let secrets = Secrets {
            keys: [Key { k0: 1, k1: 2 }, Key { k0: 3, k1: 4 }],
            ..Secrets::default()
        };
        program.array(abi::SECRETS)?.set(0, secrets, 0)?;
        program
            .array(abi::PORTS)?
            .set(u32::from(PORT), port::ANY_ADDR, 0)?;
        for address in [IpAddr::from(ADDRESS4), ADDRESS6.into()] {
            let mut addresses = HashMap::<_, Addr, u32>::try_from(program.map(abi::ADDRS)?)?;
            addresses.insert(Addr::from(address), 1, 0)?;
        }
        let socket = program.socket.try_clone()?;
        XskMap::try_from(program.map(abi::XSKS)?)?.set(0, socket, 0)?;
        let xdp: &mut Xdp = program
            .ebpf
            .program_mut(abi::PROGRAM)
            .context("the object has no program")?
            .try_into()?;
        xdp.load().context("the kernel refuses the XDP program")?;
        Ok(program)
    }

    /// The program's descriptor.
    pub(crate) fn fd(&self) -> Result<BorrowedFd<'_>> {
        let program = self
            .ebpf
            .program(abi::PROGRAM)
            .context("the object has no program")?;
        Ok(program.fd()?.as_fd())
    }

    pub(crate) fn add_flow(&mut self, flow: &FlowKey) -> Result<()> {
        let mut flows = HashMap::<_, FlowKey, Flow>::try_from(self.map(abi::FLOWS)?)?;
        flows.insert(flow, Flow::default(), 0)?;
        self.filter(flow, 1)
    }

    pub(crate) fn remove_flow(&mut self, flow: &FlowKey) -> Result<()> {
        let mut flows = HashMap::<_, FlowKey, Flow>::try_from(self.map(abi::FLOWS)?)?;
        flows.remove(flow)?;
        self.filter(flow, -1)
    }

    /// Adds to the count of the flow's slot, as the program and the server do.
    fn filter(&mut self, flow: &FlowKey, number: i32) -> Result<()> {
        let slot = flow.filter_slot();
        let index = (slot / FILTER_BLOCK) as u32;
        let mut filter = self.array::<FilterBlock>(abi::FLOW_FILTER)?;
        let mut block = filter.get(&index, 0)?;
        let count = &mut block[slot % FILTER_BLOCK];
        *count = count.wrapping_add_signed(number);
        Ok(filter.set(index, block, 0)?)
    }

    /// The counters, summed over the CPUs.
    pub(crate) fn counters(&self) -> Result<Vec<u64>> {
        let map = self.ebpf.map(abi::COUNTERS).context("no counters")?;
        let map = PerCpuArray::<_, u64>::try_from(map)?;
        (0..COUNT as u32)
            .map(|index| Ok(map.get(&index, 0)?.iter().sum()))
            .collect()
    }

    fn map(&mut self, name: &str) -> Result<&mut Map> {
        self.ebpf
            .map_mut(name)
            .with_context(|| format!("the object has no map {name}"))
    }

    fn array<T: aya::Pod>(&mut self, name: &str) -> Result<Array<&mut MapData, T>> {
        Ok(self.map(name)?.try_into()?)
    }
}

/// The one counter that differs.
pub(crate) fn counted(before: &[u64], after: &[u64]) -> Option<Counter> {
    let mut changed = (0..COUNT).filter(|i| before[*i] != after[*i]);
    let index = changed.next()?;
    changed.next().is_none().then(|| Counter::ALL[index])
}

/// The `index`-th of a million clients.
pub(crate) fn client(index: u32) -> SocketAddr {
    let address = Ipv4Addr::from(0xc612_0000 | index >> 4);
    SocketAddr::new(address.into(), 1024 + (index & 15) as u16 * 1000)
}

fn xdp_socket() -> io::Result<OwnedFd> {
    // SAFETY: a system call without pointers.
    let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
