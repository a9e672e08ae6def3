//! A look at options of another process's listening socket, which `ss` does not show: by a
//! second descriptor of it, closed at once.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// The MSS of a socket that has none of its own, and no connection.
const NO_MSS: i32 = 536;
/// `SO_BUF_LOCK` and its bit.
const SO_BUF_LOCK: i32 = 72;
const RECEIVE_LOCK: i32 = 2;

/// What a program has set on its listening socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Options {
    /// `SO_RCVBUF`: the buffer does not grow. `None`: the kernel does not say.
    pub fixed_buffer: Option<bool>,
    /// `TCP_WINDOW_CLAMP`, octets; zero: none.
    pub window_clamp: u32,
    /// `TCP_MAXSEG`, octets; zero: none.
    pub max_segment: u16,
}

/// The options of sockets by inode, as far as their processes can be found and asked.
pub fn options(inodes: &[u32]) -> HashMap<u32, Options> {
    let mut found = HashMap::new();
    let Ok(processes) = fs::read_dir("/proc") else {
        return found;
    };
    for process in processes.flatten() {
        if found.len() == inodes.len() {
            break;
        }
        let name = process.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let Ok(files) = fs::read_dir(process.path().join("fd")) else {
            continue;
        };
        for file in files.flatten() {
            let Some(inode) = inode(&file) else { continue };
            if !inodes.contains(&inode) || found.contains_key(&inode) {
                continue;
            }
            let fd = file.file_name();
            let fd = fd.to_str().and_then(|fd| fd.parse().ok());
            let read = fd.map(|fd| borrow(pid, fd).and_then(|socket| read(&socket)));
            match read {
                Some(Ok(options)) => {
                    found.insert(inode, options);
                }
                Some(Err(error)) => tracing::debug!(pid, inode, %error, "a listening socket"),
                None => {}
            }
        }
    }
    found
}

/// Of the socket that a descriptor is.
fn inode(file: &fs::DirEntry) -> Option<u32> {
    let target = fs::read_link(file.path()).ok()?;
    let target = target.to_str()?;
    let inode = target.strip_prefix("socket:[")?.strip_suffix(']')?;
    inode.parse().ok()
}

/// A second descriptor of another process's file.
fn borrow(pid: i32, fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    let process = own(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: no pointers.
    own(unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), fd, 0) })
}

fn own(fd: libc::c_long) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

fn read(socket: &OwnedFd) -> io::Result<Options> {
    let fd = socket.as_raw_fd();
    let lock = option(fd, libc::SOL_SOCKET, SO_BUF_LOCK).ok();
    let clamp = option(fd, libc::IPPROTO_TCP, libc::TCP_WINDOW_CLAMP)?;
    let mss = option(fd, libc::IPPROTO_TCP, libc::TCP_MAXSEG)?;
    Ok(Options {
        fixed_buffer: lock.map(|lock| lock & RECEIVE_LOCK != 0),
        window_clamp: clamp as u32,
        max_segment: if mss == NO_MSS { 0 } else { mss as u16 },
    })
}

/// The cookie of a socket's network namespace.
pub(super) fn namespace(socket: &OwnedFd) -> io::Result<u64> {
    const SO_NETNS_COOKIE: i32 = 71;
    let mut value = 0_u64;
    let mut len = size_of_val(&value) as libc::socklen_t;
    let (fd, level) = (socket.as_raw_fd(), libc::SOL_SOCKET);
    let to = (&raw mut value).cast();
    // SAFETY: `value` is as long as `len` says.
    if unsafe { libc::getsockopt(fd, level, SO_NETNS_COOKIE, to, &raw mut len) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(value)
}

/// A socket option that is one word.
pub(super) fn option(fd: RawFd, level: i32, name: i32) -> io::Result<i32> {
    let mut value = 0_i32;
    let mut len = size_of_val(&value) as libc::socklen_t;
    // SAFETY: `value` is as long as `len` says.
    let done = unsafe { libc::getsockopt(fd, level, name, (&raw mut value).cast(), &raw mut len) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{setsockopt, sockopt};
    use std::net::TcpListener;
    use std::os::fd::AsFd as _;

    #[test]
    fn what_a_program_has_set_is_read() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let plain = read(&listener.as_fd().try_clone_to_owned().expect("again"));
        assert_eq!(
            plain.expect("options"),
            Options {
                fixed_buffer: Some(false),
                ..Options::default()
            }
        );
        setsockopt(&listener, sockopt::RcvBuf, &20_000).expect("set");
        setsockopt(&listener, sockopt::TcpMaxSeg, &1000).expect("set");
        let inode = inode_of(&listener);
        // By way of /proc, as with other processes.
        let all = options(&[inode]);
        if let Some(set) = all.get(&inode) {
            assert_eq!(set.fixed_buffer, Some(true));
            assert_eq!(set.max_segment, 1000);
        } else {
            panic!("our own descriptor is not found");
        }
    }

    fn inode_of(listener: &TcpListener) -> u32 {
        let path = format!("/proc/self/fd/{}", listener.as_raw_fd());
        let target = fs::read_link(path).expect("open");
        let target = target.to_str().expect("ASCII");
        let inode = target.trim_start_matches("socket:[").trim_end_matches(']');
        inode.parse().expect("a number")
    }
}
