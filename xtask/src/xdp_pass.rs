//! An XDP program that passes every frame, attached in native mode.
//!
//! A frame that an XDP program on one end of a veth pair sends back with `XDP_TX` is lost unless the
//! other end runs a native XDP program too. This one is two instructions long, so it needs no
//! compiler; it is attached over netlink, so it stays when the process that attached it is gone.

use std::{
    io,
    mem::size_of,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use nix::sys::socket::{
    self, AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType,
};

/// Attaches the program to an interface of the calling thread's network namespace, in native mode.
///
/// The error says what the kernel said: no root, a driver without native XDP, an MTU too large for it.
pub fn attach(interface: &str) -> io::Result<()> {
    let index = nix::net::if_::if_nametoindex(interface)?;
    set_link_xdp(index, &load()?)
}

/// Loads `r0 = XDP_PASS; exit`.
fn load() -> io::Result<OwnedFd> {
    const BPF_PROG_LOAD: libc::c_long = 5;
    const BPF_PROG_TYPE_XDP: u32 = 6;
    const XDP_PASS: i32 = 2;

    /// `struct bpf_insn`.
    #[repr(C)]
    struct Instruction {
        code: u8,
        registers: u8,
        offset: i16,
        immediate: i32,
    }
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

    let instructions = [
        // BPF_ALU64 | BPF_MOV | BPF_K
        Instruction {
            code: 0xb7,
            registers: 0,
            offset: 0,
            immediate: XDP_PASS,
        },
        // BPF_JMP | BPF_EXIT
        Instruction {
            code: 0x95,
            registers: 0,
            offset: 0,
            immediate: 0,
        },
    ];
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

/// `RTM_SETLINK` with `IFLA_XDP { IFLA_XDP_FD, IFLA_XDP_FLAGS }`; the kernel keeps the program.
fn set_link_xdp(index: u32, program: &OwnedFd) -> io::Result<()> {
    let socket = socket::socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )?;
    let kernel = NetlinkAddr::new(0, 0);
    let request = set_link_request(index, program.as_raw_fd());
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
