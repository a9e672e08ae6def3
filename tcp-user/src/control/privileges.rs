//! What the process may do once it is set up: little.
//!
//! Attaching the program, loading the maps and opening AF_XDP sockets takes `CAP_BPF`,
//! `CAP_NET_ADMIN` and `CAP_NET_RAW`. What comes after works on descriptors that are open:
//! frames need no capability, the program is detached when its link is closed, addresses are
//! read over netlink by anyone. Only changes of maps may take `CAP_BPF` (where
//! `kernel.unprivileged_bpf_disabled` is set), and the settings that `--tune` takes back at
//! the end are `CAP_NET_ADMIN`'s. The options of a kernel listener behind the shield are read through
//! a descriptor borrowed from its process, every second: `CAP_SYS_PTRACE`, and
//! `CAP_DAC_READ_SEARCH` to find it. A server that starts without such a listener keeps
//! neither; one that is added later counts as one whose options are unknown.
//!
//! Capabilities belong to threads: they are dropped before the first is started.

use anyhow::{Context, Result, anyhow, bail};
use caps::{CapSet, Capability, CapsHashSet};
use nix::unistd::{Gid, Uid, User, geteuid, setgroups, setresgid, setresuid};
use std::path::Path;

/// `--user`, and what has to be kept.
#[derive(Clone, Debug, Default)]
pub struct Privileges {
    /// The user to become; `None`: as before.
    pub user: Option<String>,
}

/// A user that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Account {
    uid: Uid,
    gid: Gid,
}

impl Privileges {
    /// Looks the user up, before anything is done. `tune` cannot be taken back by
    /// another user than root.
    pub(super) fn account(&self, tune: bool) -> Result<Option<Account>> {
        let Some(name) = &self.user else {
            return Ok(None);
        };
        let user = User::from_name(name)
            .with_context(|| format!("--user {name}"))?
            .ok_or_else(|| anyhow!("--user {name}: no such user"))?;
        if user.uid != geteuid() && !geteuid().is_root() {
            bail!("--user {name}: only root can become another user");
        }
        if tune {
            bail!("--user {name}: not with --tune, whose settings root takes back at the end");
        }
        Ok(Some(Account {
            uid: user.uid,
            gid: user.gid,
        }))
    }
}

/// What the server still needs; `shield`: it looks at listeners of other processes.
pub(super) fn needed(tune: bool, shield: bool) -> CapsHashSet {
    let mut keep = CapsHashSet::from([Capability::CAP_BPF]);
    if tune {
        keep.insert(Capability::CAP_NET_ADMIN);
    }
    if shield {
        keep.extend([Capability::CAP_SYS_PTRACE, Capability::CAP_DAC_READ_SEARCH]);
    }
    keep
}

/// Gives a file to the account.
pub(super) fn give(path: &Path, account: Option<Account>) -> Result<()> {
    if let Some(Account { uid, gid }) = account {
        std::os::unix::fs::chown(path, Some(uid.as_raw()), Some(gid.as_raw()))
            .with_context(|| path.display().to_string())?;
    }
    Ok(())
}

/// Becomes the account, keeps what is needed of what there is, and lets nothing be
/// gained any more. For a process with one thread.
pub(super) fn drop_to(account: Option<Account>, needed: &CapsHashSet) -> Result<()> {
    // Without CAP_SETPCAP the bounding set stays; it gives nothing by itself.
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)? {
        for capability in caps::read(None, CapSet::Bounding)? {
            if !needed.contains(&capability) {
                caps::drop(None, CapSet::Bounding, capability)?;
            }
        }
    }
    if let Some(Account { uid, gid }) = account
        && geteuid().is_root()
    {
        caps::securebits::set_keepcaps(true)?;
        setgroups(&[gid])?;
        setresgid(gid, gid, gid)?;
        setresuid(uid, uid, uid)?;
        caps::securebits::set_keepcaps(false)?;
    }
    let there = caps::read(None, CapSet::Permitted)?;
    let keep: CapsHashSet = there.intersection(needed).copied().collect();
    caps::clear(None, CapSet::Ambient)?;
    caps::clear(None, CapSet::Effective)?;
    caps::set(None, CapSet::Permitted, &keep)?;
    caps::set(None, CapSet::Effective, &keep)?;
    caps::clear(None, CapSet::Inheritable)?;
    nix::sys::prctl::set_no_new_privs()?;
    tracing::info!(?keep, uid = %geteuid(), "privileges");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_exist_and_what_cannot_be_is_named() {
        let account = |user: &str, tune| {
            Privileges {
                user: Some(user.into()),
            }
            .account(tune)
        };
        let error = account("no-such-user", false).expect_err("no such user");
        assert_eq!(error.to_string(), "--user no-such-user: no such user");
        if geteuid().is_root() {
            let error = account("nobody", true).expect_err("not with --tune");
            assert!(error.to_string().contains("--tune"), "{error}");
            assert!(account("nobody", false).expect("there").is_some());
        }
        assert_eq!(Privileges::default().account(true).expect("nobody"), None);
    }

    #[test]
    fn only_what_is_needed_is_kept() {
        assert_eq!(needed(false, false).len(), 1);
        assert!(needed(true, false).contains(&Capability::CAP_NET_ADMIN));
        assert!(!needed(true, true).contains(&Capability::CAP_NET_RAW));
        assert!(needed(false, true).contains(&Capability::CAP_SYS_PTRACE));
    }
}
