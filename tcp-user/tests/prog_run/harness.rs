//! Loads the program with known maps and runs frames through it.

use aya::maps::{Array, HashMap, LpmTrie, MapData, PerCpuArray, lpm_trie};
use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use std::net::{IpAddr, SocketAddr};
use tcp_common::abi::{
    self, Config, FILTER_BLOCK, FilterBlock, Flow, Limits, ListenKey, Secrets, Shield, policy, port,
};
use tcp_common::cookie::Key;
use tcp_common::counters::{COUNT, Counter};
use tcp_common::flow::{Addr, FlowKey};

/// Keys of the even and the odd slot.
pub const SECRETS: Secrets = Secrets {
    keys: [Key { k0: 1, k1: 2 }, Key { k0: 3, k1: 4 }],
    old: [Key { k0: 5, k1: 6 }, Key { k0: 7, k1: 8 }],
    current: 0,
    reserved: 0,
};

/// What the tests' server announces.
pub const CONFIG: Config = Config {
    flags: 0,
    window: 65_535,
    mss_v4: 1460,
    mss_v6: 1440,
    window_scale: 7,
    hop_limit: 64,
    own_v4: 0,
    own_v6: Addr([0; 4]),
    limits: Limits {
        syn_ack_interval: 0,
        rst_interval: 0,
        syn_interval: 0,
    },
};

/// XDP actions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    Aborted,
    Drop,
    Pass,
    Tx,
    Redirect,
}

/// What one frame led to.
#[derive(Debug)]
pub struct Outcome {
    pub action: Action,
    /// The one counter that went up.
    pub counter: Counter,
    /// The frame after the run.
    pub frame: Vec<u8>,
}

pub struct Program {
    ebpf: Ebpf,
}

impl Program {
    /// Serves ports 80 and 7 on every one of `192.0.2.1` and `2001:db8::1`, and
    /// port 443 on `192.0.2.1` only.
    pub fn load() -> Self {
        let ebpf = EbpfLoader::new()
            .map_max_entries(abi::FLOWS, 16)
            .load(aya::include_bytes_aligned!(concat!(
                env!("OUT_DIR"),
                "/tcp-ebpf"
            )))
            .unwrap();
        let mut program = Self { ebpf };
        program.configure(CONFIG);
        program.set_secrets(SECRETS);
        for (p, bits) in [
            (80, port::ANY_ADDR),
            (7, port::ANY_ADDR),
            (443, port::SOME_ADDR),
        ] {
            program.array::<u32>(abi::PORTS).set(p, bits, 0).unwrap();
        }
        for addr in ["192.0.2.1", "2001:db8::1"] {
            let addr: IpAddr = addr.parse().unwrap();
            let mut addrs: HashMap<_, Addr, u32> = program.map(abi::ADDRS).try_into().unwrap();
            addrs.insert(Addr::from(addr), 1, 0).unwrap();
        }
        program.set_listen("192.0.2.1:443", policy::COOKIE);
        let xdp: &mut Xdp = program
            .ebpf
            .program_mut(abi::PROGRAM)
            .unwrap()
            .try_into()
            .unwrap();
        xdp.load().unwrap();
        program
    }

    fn map(&mut self, name: &str) -> &mut aya::maps::Map {
        self.ebpf.map_mut(name).unwrap()
    }

    fn array<T: aya::Pod>(&mut self, name: &str) -> Array<&mut MapData, T> {
        self.map(name).try_into().unwrap()
    }

    pub fn configure(&mut self, config: Config) {
        self.array(abi::CONFIG).set(0, config, 0).unwrap();
    }

    pub fn set_flags(&mut self, flags: u32) {
        self.configure(Config { flags, ..CONFIG });
    }

    pub fn set_secrets(&mut self, secrets: Secrets) {
        self.array(abi::SECRETS).set(0, secrets, 0).unwrap();
    }

    /// Enters `ADDR/LEN` into the allow and deny lists.
    pub fn set_source(&mut self, prefix: &str, what: u32) {
        let (addr, len) = prefix.split_once('/').unwrap();
        let addr: IpAddr = addr.parse().unwrap();
        let len: u32 = len.parse().unwrap();
        let len = if addr.is_ipv4() { 96 + len } else { len };
        let mut sources: LpmTrie<_, Addr, u32> = self.map(abi::SOURCES).try_into().unwrap();
        let key = lpm_trie::Key::new(len, Addr::from(addr));
        sources.insert(&key, what, 0).unwrap();
    }

    /// Sets the [`port`] bits of a port.
    pub fn set_port(&mut self, port: u32, bits: u32) {
        self.array(abi::PORTS).set(port, bits, 0).unwrap();
    }

    /// Sets the [`policy`] of an address and port.
    pub fn set_listen(&mut self, local: &str, policy: u32) {
        let local: SocketAddr = local.parse().unwrap();
        let key = ListenKey {
            addr: local.ip().into(),
            port_be: local.port().to_be(),
            reserved: 0,
        };
        let mut listens: HashMap<_, ListenKey, u32> = self.map(abi::LISTENS).try_into().unwrap();
        listens.insert(key, policy, 0).unwrap();
    }

    /// Takes [`Self::set_shield`] back, but not the port.
    pub fn remove_shield(&mut self, port: u16, v4: bool) {
        let mut shields: HashMap<_, ListenKey, Shield> = self.map(abi::SHIELDS).try_into().unwrap();
        shields.remove(&shield_key(port, v4)).unwrap();
    }

    /// Forgets which connections were let through to a listener of the kernel's.
    pub fn forget_admitted(&mut self) {
        let mut admitted: HashMap<_, FlowKey, u64> = self.map(abi::ADMITTED).try_into().unwrap();
        let all: Vec<FlowKey> = admitted.keys().map(Result::unwrap).collect();
        for flow in all {
            admitted.remove(&flow).unwrap();
        }
    }

    /// Shields the kernel's listener on any address of a family.
    pub fn set_shield(&mut self, port: u16, v4: bool, shield: Shield) {
        self.array(abi::PORTS)
            .set(u32::from(port), port::ANY_ADDR | port::ANY_KERNEL, 0)
            .unwrap();
        let mut shields: HashMap<_, ListenKey, Shield> = self.map(abi::SHIELDS).try_into().unwrap();
        shields.insert(shield_key(port, v4), shield, 0).unwrap();
    }

    pub fn add_flow(&mut self, flow: FlowKey) {
        let mut flows: HashMap<_, FlowKey, Flow> = self.map(abi::FLOWS).try_into().unwrap();
        flows.insert(flow, Flow::default(), 0).unwrap();
        let slot = flow.filter_slot();
        let mut filter = self.array::<FilterBlock>(abi::FLOW_FILTER);
        let index = (slot / FILTER_BLOCK) as u32;
        let mut block = filter.get(&index, 0).unwrap();
        block[slot % FILTER_BLOCK] += 1;
        filter.set(index, block, 0).unwrap();
    }

    /// Sum of the flow filter's counts.
    pub fn filtered(&mut self) -> u32 {
        let filter = self.array::<FilterBlock>(abi::FLOW_FILTER);
        filter
            .iter()
            .map(|block| block.unwrap().iter().sum::<u32>())
            .sum()
    }

    pub fn has_flow(&mut self, flow: FlowKey) -> bool {
        let flows: HashMap<_, FlowKey, Flow> = self.map(abi::FLOWS).try_into().unwrap();
        flows.get(&flow, 0).is_ok()
    }

    fn counters(&mut self) -> [u64; COUNT] {
        let map: PerCpuArray<_, u64> = self.map(abi::COUNTERS).try_into().unwrap();
        std::array::from_fn(|i| map.get(&(i as u32), 0).unwrap().iter().sum())
    }

    /// Frames counted so far, all counters.
    pub fn counted(&mut self) -> u64 {
        self.counters().iter().sum()
    }

    /// Runs one frame; asserts that exactly one counter went up by one and that
    /// its verdict is the action.
    pub fn run(&mut self, frame: &[u8]) -> Outcome {
        let before = self.counters();
        let mut out = vec![0; frame.len() + 256];
        let xdp: &Xdp = self.ebpf.program(abi::PROGRAM).unwrap().try_into().unwrap();
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.data_out = Some(&mut out);
        let result = xdp.test_run(options).unwrap();
        out.truncate(result.data_size_out as usize);
        let action = match result.return_value {
            0 => Action::Aborted,
            1 => Action::Drop,
            2 => Action::Pass,
            3 => Action::Tx,
            4 => Action::Redirect,
            other => panic!("action {other}"),
        };
        let after = self.counters();
        let mut counted = Counter::ALL
            .iter()
            .filter(|c| after[**c as usize] != before[**c as usize]);
        let counter = *counted.next().expect("counted");
        assert_eq!(counted.next(), None, "counted once");
        assert_eq!(after[counter as usize], before[counter as usize] + 1);
        let expected = match counter.verdict() {
            tcp_common::counters::Verdict::Pass => Action::Pass,
            tcp_common::counters::Verdict::Answered => Action::Tx,
            tcp_common::counters::Verdict::Redirected => Action::Redirect,
            tcp_common::counters::Verdict::Dropped => Action::Drop,
        };
        assert_eq!(action, expected, "{}", counter.name());
        if action != Action::Tx {
            assert_eq!(out, frame, "only an answer changes the frame");
        }
        Outcome {
            action,
            counter,
            frame: out,
        }
    }

    /// Runs a frame and says only where it was counted.
    pub fn counter(&mut self, frame: &[u8]) -> Counter {
        self.run(frame).counter
    }
}

/// The key of a listener on any address of a family.
fn shield_key(port: u16, v4: bool) -> ListenKey {
    ListenKey {
        addr: if v4 { Addr::v4(0) } else { Addr::default() },
        port_be: port.to_be(),
        reserved: 0,
    }
}

/// The 4-tuple of a test frame.
pub fn flow(remote: &str, local: &str) -> FlowKey {
    let remote: SocketAddr = remote.parse().unwrap();
    FlowKey::new(remote, local.parse().unwrap())
}
