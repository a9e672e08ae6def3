//! The XDP program that is on an interface already: which it is, what holds it there,
//! and how to take it away.

use super::netlink::{self, Hook};
use std::fmt;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd, FromRawFd, OwnedFd, RawFd};

const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_LINK_GET_FD_BY_ID: libc::c_long = 30;
const BPF_LINK_GET_NEXT_ID: libc::c_long = 31;
const BPF_LINK_DETACH: libc::c_long = 34;
const BPF_LINK_TYPE_XDP: u32 = 6;

/// A program on an interface.
#[derive(Debug)]
pub struct Attached {
    /// The interface's index.
    index: u32,
    /// The program's id.
    pub id: u32,
    /// Its name, at most 15 octets; empty if it has none.
    pub name: String,
    /// Where it sits.
    pub hook: Hook,
    /// The BPF link that holds it; without one it was attached by netlink.
    link: Option<(u32, OwnedFd)>,
}

impl fmt::Display for Attached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = if self.name.is_empty() {
            "(no name)"
        } else {
            &self.name
        };
        write!(f, "{name} (id {}, {}, ", self.id, self.hook.name())?;
        match &self.link {
            Some((id, _)) => write!(f, "held by BPF link {id})"),
            None => f.write_str("attached by netlink)"),
        }
    }
}

/// What is on the interface. Empty also where the kernel tells nothing.
pub fn find(index: u32) -> Vec<Attached> {
    let programs = match netlink::link(index) {
        Ok(link) => link.programs,
        Err(error) => {
            tracing::debug!(%error, "XDP programs");
            return Vec::new();
        }
    };
    programs
        .into_iter()
        .map(|(hook, id)| Attached {
            index,
            id,
            name: program_name(id),
            hook,
            link: link_of(index, id),
        })
        .collect()
}

impl Attached {
    /// Takes the program off its interface. A process that holds the link keeps it,
    /// but it does nothing any more.
    pub fn detach(&self) -> io::Result<()> {
        if let Some((_, link)) = &self.link {
            let mut attr = Attr::default();
            attr.0[0] = link.as_raw_fd() as u32;
            return bpf(BPF_LINK_DETACH, &mut attr).map(|_| ());
        }
        let program = aya::programs::loaded_programs()
            .filter_map(Result::ok)
            .find(|p| p.id() == self.id)
            .ok_or(io::ErrorKind::NotFound)?;
        let fd = program.fd().map_err(io::Error::other)?;
        netlink::detach_xdp(self.index, self.hook, fd.as_fd())
    }
}

fn program_name(id: u32) -> String {
    aya::programs::loaded_programs()
        .filter_map(Result::ok)
        .find(|p| p.id() == id)
        .and_then(|p| p.name_as_str().map(str::to_owned))
        .unwrap_or_default()
}

/// The XDP link of this program on this interface. Links that we may not see are
/// passed over.
fn link_of(index: u32, program: u32) -> Option<(u32, OwnedFd)> {
    let mut id = 0;
    loop {
        let mut attr = Attr::default();
        attr.0[0] = id;
        bpf(BPF_LINK_GET_NEXT_ID, &mut attr).ok()?;
        id = attr.0[1];
        let mut attr = Attr::default();
        attr.0[0] = id;
        let Ok(fd) = bpf(BPF_LINK_GET_FD_BY_ID, &mut attr) else {
            continue;
        };
        // SAFETY: the kernel has just made this descriptor for us.
        let fd = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
        if let Ok([kind, _, of, _, on, ..]) = link_info(&fd)
            && (kind, of, on) == (BPF_LINK_TYPE_XDP, program, index)
        {
            return Some((id, fd));
        }
    }
}

/// The first words of `struct bpf_link_info`: type, id, program, padding, and for an
/// XDP link the interface.
fn link_info(link: &OwnedFd) -> io::Result<[u32; 64]> {
    let mut info = [0_u32; 64];
    let at = info.as_mut_ptr() as u64;
    let mut attr = Attr::default();
    attr.0[0] = link.as_raw_fd() as u32;
    attr.0[1] = size_of_val(&info) as u32;
    (attr.0[2], attr.0[3]) = halves(at);
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(info)
}

/// A 64-bit field as the two words that it takes up.
const fn halves(value: u64) -> (u32, u32) {
    let (high, low) = ((value >> 32) as u32, value as u32);
    if cfg!(target_endian = "little") {
        (low, high)
    } else {
        (high, low)
    }
}

/// `union bpf_attr`, larger than any kernel's so far; what a kernel does not know must
/// be zero.
#[repr(C, align(8))]
struct Attr([u32; 40]);

impl Default for Attr {
    fn default() -> Self {
        Self([0; 40])
    }
}

fn bpf(command: libc::c_long, attr: &mut Attr) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is live and as long as is said; pointers in it (`link_info`) are to
    // live memory of the length beside them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attr),
            size_of::<Attr>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

/// Whether the kernel has BPF for us: an error as it says it.
pub fn probe_bpf() -> io::Result<()> {
    let mut attr = Attr::default();
    match bpf(BPF_LINK_GET_NEXT_ID, &mut attr) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other.map(|_| ()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pointer_is_two_words_in_memory_order() {
        let (first, second) = halves(0x0102_0304_0506_0708);
        let octets = [first.to_ne_bytes(), second.to_ne_bytes()].concat();
        assert_eq!(octets, 0x0102_0304_0506_0708_u64.to_ne_bytes());
    }

    #[test]
    fn nothing_is_on_loopback() {
        let index = nix::net::if_::if_nametoindex("lo").expect("every namespace has lo");
        assert!(find(index).is_empty());
    }
}
