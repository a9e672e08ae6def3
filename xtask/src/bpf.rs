//! The little of BPF that needs no compiler and no library: XDP programs of a few instructions, their
//! attachment, and `BPF_PROG_TEST_RUN`.

use std::{
    io,
    mem::size_of,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
    time::Duration,
};

use nix::sys::socket::{
    self, AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType,
};

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_TEST_RUN: libc::c_long = 10;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_F_TEST_XDP_LIVE_FRAMES: u32 = 1 << 1;

/// `enum xdp_action`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Verdict {
    /// `XDP_DROP`.
    Drop = 1,
    /// `XDP_PASS`.
    Pass = 2,
    /// `XDP_TX`.
    Tx = 3,
}

/// `struct bpf_insn`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

impl Instruction {
    const fn new(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Self {
        Self {
            code,
            registers: source << 4 | destination,
            offset,
            immediate,
        }
    }

    /// `r0 = verdict; exit`.
    pub const fn always(verdict: Verdict) -> [Self; 2] {
        [
            // BPF_ALU64 | BPF_MOV | BPF_K
            Self::new(0xb7, 0, 0, 0, verdict as i32),
            // BPF_JMP | BPF_EXIT
            Self::new(0x95, 0, 0, 0, 0),
        ]
    }

    /// Swaps the link addresses and sends the frame back: the least that an answer takes.
    pub const fn bounce() -> [Self; 16] {
        // BPF_LDX | BPF_MEM and BPF_STX | BPF_MEM with the sizes BPF_W and BPF_H.
        const LOAD32: u8 = 0x61;
        const LOAD16: u8 = 0x69;
        const STORE32: u8 = 0x63;
        const STORE16: u8 = 0x6b;
        [
            // r2 = ctx->data; r3 = ctx->data_end
            Self::new(LOAD32, 2, 1, 0, 0),
            Self::new(LOAD32, 3, 1, 4, 0),
            // r0 = XDP_DROP; if data + 14 > data_end: exit
            Self::new(0xb7, 0, 0, 0, Verdict::Drop as i32),
            Self::new(0xbf, 4, 2, 0, 0),
            Self::new(0x07, 4, 0, 0, 14),
            Self::new(0x2d, 4, 3, 9, 0),
            Self::new(LOAD32, 5, 2, 0, 0),
            Self::new(LOAD16, 1, 2, 4, 0),
            Self::new(LOAD32, 3, 2, 6, 0),
            Self::new(LOAD16, 4, 2, 10, 0),
            Self::new(STORE32, 2, 3, 0, 0),
            Self::new(STORE16, 2, 4, 4, 0),
            Self::new(STORE32, 2, 5, 6, 0),
            Self::new(STORE16, 2, 1, 10, 0),
            Self::new(0xb7, 0, 0, 0, Verdict::Tx as i32),
            Self::new(0x95, 0, 0, 0, 0),
        ]
    }
}

/// Loads an XDP program.
pub fn load(instructions: &[Instruction]) -> io::Result<OwnedFd> {
    /// The head of `union bpf_attr` as `BPF_PROG_LOAD` reads it; the kernel takes the rest for zero.
    #[repr(C)]
    struct Attributes {
        program_type: u32,
        instruction_count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log_buffer: u64,
        kernel_version: u32,
        flags: u32,
    }

    let attributes = Attributes {
        program_type: BPF_PROG_TYPE_XDP,
        instruction_count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buffer: 0,
        kernel_version: 0,
        flags: 0,
    };
    // SAFETY: `attributes` is a prefix of `union bpf_attr`, its size is passed, and the instructions
    // and the licence that it points to live until the call returns.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_LOAD,
            &raw const attributes,
            size_of::<Attributes>(),
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// `struct bpf_attr.test` (`BPF_PROG_TEST_RUN`).
#[derive(Default)]
#[repr(C)]
struct TestRun {
    program: u32,
    return_value: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    padding: u32,
}

impl TestRun {
    fn perform(&mut self) -> io::Result<()> {
        // SAFETY: `self` is a prefix of `union bpf_attr`, its size is passed, and the callers keep the
        // buffers that it points to alive until the call returns.
        let result = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                BPF_PROG_TEST_RUN,
                &raw mut *self,
                size_of::<Self>(),
            )
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

/// What a program made of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ran {
    /// The XDP action.
    pub action: u32,
    /// Octets of the frame afterwards.
    pub len: usize,
    /// Time that one run took, to the nanosecond.
    pub time: Duration,
}

/// Runs an XDP program on a frame `repeat` times, each on what the one before left. The frame
/// afterwards goes to `out`, which must have room for it, or be empty.
pub fn test_run(
    program: BorrowedFd<'_>,
    frame: &[u8],
    out: &mut [u8],
    repeat: u32,
) -> io::Result<Ran> {
    let mut run = TestRun {
        program: program.as_raw_fd() as u32,
        data_size_in: frame.len() as u32,
        data_in: frame.as_ptr() as u64,
        data_size_out: out.len() as u32,
        data_out: if out.is_empty() {
            0
        } else {
            out.as_mut_ptr() as u64
        },
        repeat,
        ..TestRun::default()
    };
    run.perform()?;
    Ok(Ran {
        action: run.return_value,
        len: run.data_size_out as usize,
        time: Duration::from_nanos(u64::from(run.duration)),
    })
}

/// Runs an XDP program `repeat` times in batches on real frames, each of them made like `frame`, as
/// if they had been received on queue 0 of the interface with this index; `XDP_TX` sends them out
/// there. The interface must have an XDP program. A signal to the calling thread ends it early.
pub fn run_live(
    program: BorrowedFd<'_>,
    frame: &[u8],
    interface: u32,
    repeat: u32,
    batch: u32,
) -> io::Result<()> {
    /// `struct xdp_md`.
    #[repr(C)]
    struct Context {
        data: u32,
        data_end: u32,
        data_meta: u32,
        ingress_ifindex: u32,
        rx_queue_index: u32,
        egress_ifindex: u32,
    }
    let context = Context {
        data: 0,
        data_end: frame.len() as u32,
        data_meta: 0,
        ingress_ifindex: interface,
        rx_queue_index: 0,
        egress_ifindex: 0,
    };
    let mut run = TestRun {
        program: program.as_raw_fd() as u32,
        data_size_in: frame.len() as u32,
        data_in: frame.as_ptr() as u64,
        repeat,
        ctx_size_in: size_of::<Context>() as u32,
        ctx_in: (&raw const context) as u64,
        flags: BPF_F_TEST_XDP_LIVE_FRAMES,
        batch_size: batch,
        ..TestRun::default()
    };
    match run.perform() {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
        other => other,
    }
}

/// Attaches an XDP program to an interface of the calling thread's network namespace, in native mode.
///
/// It stays when the process is gone. The error says what the kernel said: no root, a driver without
/// native XDP, an MTU too large for it.
pub fn attach(interface: &str, program: &OwnedFd) -> io::Result<()> {
    let index = nix::net::if_::if_nametoindex(interface)?;
    set_link_xdp(index, program.as_raw_fd())
}

/// Takes the XDP program off that [`attach`] put there.
pub fn detach(interface: &str) -> io::Result<()> {
    set_link_xdp(nix::net::if_::if_nametoindex(interface)?, -1)
}

/// `RTM_SETLINK` with `IFLA_XDP { IFLA_XDP_FD, IFLA_XDP_FLAGS }`; the kernel keeps the program.
fn set_link_xdp(index: u32, program: i32) -> io::Result<()> {
    let socket = socket::socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )?;
    let kernel = NetlinkAddr::new(0, 0);
    let request = set_link_request(index, program);
    socket::sendto(socket.as_raw_fd(), &request, &kernel, MsgFlags::empty())?;

    // The answer is an `nlmsgerr`: a header of 16 bytes, then an errno, negated, or zero.
    let mut answer = [0; 4096];
    let len = socket::recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    let word = |at: usize| answer[at..at + 4].try_into().map(i32::from_ne_bytes);
    match (len >= 20, word(16)) {
        (true, Ok(0)) => Ok(()),
        (true, Ok(errno)) => Err(io::Error::from_raw_os_error(-errno)),
        _ => Err(io::Error::other("short answer from rtnetlink")),
    }
}

fn set_link_request(index: u32, program: i32) -> Vec<u8> {
    // linux/if_link.h; libc has none of the three.
    const IFLA_XDP_FD: u16 = 1;
    const IFLA_XDP_FLAGS: u16 = 3;
    const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

    let mut xdp = attribute(IFLA_XDP_FD, &program.to_ne_bytes());
    xdp.extend(attribute(IFLA_XDP_FLAGS, &XDP_FLAGS_DRV_MODE.to_ne_bytes()));

    // struct ifinfomsg: family and padding, device type, index, flags, change mask.
    let mut body = vec![0; 4];
    body.extend(index.to_ne_bytes());
    body.extend([0; 8]);
    body.extend(attribute(libc::IFLA_XDP | libc::NLA_F_NESTED as u16, &xdp));

    // struct nlmsghdr: length, type, flags, sequence number, port.
    let mut message = Vec::with_capacity(16 + body.len());
    message.extend((16 + body.len() as u32).to_ne_bytes());
    message.extend(libc::RTM_SETLINK.to_ne_bytes());
    message.extend(((libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16).to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    message
}

/// A netlink attribute. Every value here is a multiple of four long, so none needs padding.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(4 + value.len());
    bytes.extend((4 + value.len() as u16).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes
}
