//! Cookie keys: one master secret, a key per time slot, the keys of two slots in use.
//!
//! The key of a slot is a PRF of the master and the slot's number. With
//! `cookie.secret_file` the number is wall clock time divided by the slot's length:
//! machines that share the master and roughly the time accept each other's cookies.
//! Without it nobody else has to agree, and slots are counted along `CLOCK_BOOTTIME`,
//! which no one can set.
//!
//! Whatever happens (a step of the clock, a process that was stopped for hours), the
//! key that made cookies until now is the last slot's key afterwards, so that the
//! handshakes in flight go on. Each change turns the parity of the slot's number, by
//! which a cookie says which key it is from.

use siphasher::sip128::{Hasher128, SipHasher24};
use std::fmt;
use std::hash::Hasher;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Duration;
use tcp_common::abi::Secrets;
use tcp_common::cookie::Key;

/// Octets of a secret file that are looked at.
const MAX_FILE: u64 = 256;

/// The master secret, 128 bits.
#[derive(Clone, PartialEq, Eq)]
pub struct Master([u8; 16]);

impl fmt::Debug for Master {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Master(..)")
    }
}

/// Why there is no master secret.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `cookie.secret_file` cannot be read.
    #[error("cookie.secret_file {0}: {1}")]
    File(String, std::io::Error),
    /// `cookie.secret_file` is not 128 bits.
    #[error("cookie.secret_file {0}: expected 32 hexadecimal digits or 16 octets")]
    Format(String),
    /// `cookie.secret_file` is not private.
    #[error(
        "cookie.secret_file {0}: others than the owner can read or write it (mode {1:04o}); chmod 600 it"
    )]
    Mode(String, u32),
    /// The file for a new secret cannot be made.
    #[error("secret new {0}: {1}")]
    Create(String, std::io::Error),
    /// The system's random source failed.
    #[error("no random numbers from the system: {0}")]
    Random(getrandom::Error),
}

impl Master {
    /// From the system's random source.
    pub fn random() -> Result<Self, Error> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(Error::Random)?;
        Ok(Self(bytes))
    }

    /// From a file.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let name = path.display().to_string();
        let failed = |e| Error::File(name.clone(), e);
        let file = std::fs::File::open(path).map_err(failed)?;
        let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(Error::Mode(name, mode));
        }
        let mut bytes = Vec::new();
        file.take(MAX_FILE)
            .read_to_end(&mut bytes)
            .map_err(failed)?;
        Self::parse(&bytes).ok_or(Error::Format(name))
    }

    /// Writes the secret to a new file, mode 0600. An error if there is one already.
    pub fn create(&self, path: &Path) -> Result<(), Error> {
        let failed = |e| Error::Create(path.display().to_string(), e);
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(failed)?;
        let hex = format!("{:032x}\n", u128::from_be_bytes(self.0));
        file.write_all(hex.as_bytes())
            .and_then(|()| file.sync_all())
            .map_err(failed)
    }

    /// A fingerprint for comparing machines, 16 hexadecimal digits. It is a PRF of a
    /// constant under the secret and says nothing about it or about any key.
    pub fn id(&self) -> String {
        let mut prf = SipHasher24::new_with_key(&self.0);
        prf.write(b"tcp-xdp secret id");
        format!("{:016x}", prf.finish128().h1)
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        if let Ok(raw) = <[u8; 16]>::try_from(bytes) {
            return Some(Self(raw));
        }
        let text = std::str::from_utf8(bytes).ok()?.trim();
        if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        Some(Self(u128::from_str_radix(text, 16).ok()?.to_be_bytes()))
    }

    /// The key of a slot: SipHash-2-4-128 of its number under the master.
    pub fn key(&self, slot: u64) -> Key {
        let mut prf = SipHasher24::new_with_key(&self.0);
        prf.write(&slot.to_le_bytes());
        let hash = prf.finish128();
        Key {
            k0: hash.h1,
            k1: hash.h2,
        }
    }
}

/// What the clocks say.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Time since the Unix epoch; it may jump.
    pub wall: Duration,
    /// Time since boot, suspension included (`CLOCK_BOOTTIME`).
    pub boot: Duration,
}

impl Now {
    /// Asks the clocks.
    pub fn read() -> Self {
        let wall = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        let boot = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)
            .map(Duration::from)
            .unwrap_or_default();
        Self { wall, boot }
    }
}

/// Who counts slots alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// This process only.
    Local,
    /// All machines with the same master, by the wall clock.
    Shared,
}

impl fmt::Debug for Rotation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rotation")
            .field("clock", &self.clock)
            .field("slot", &self.slot)
            .finish_non_exhaustive()
    }
}

/// How long keys stay as they are after a jump, if a slot is not shorter: handshakes
/// that are in flight have ended by then.
const SETTLE: Duration = Duration::from_secs(5);
/// A change of keys that is later than this leaves the last key too little of its slot.
const LATE: Duration = Duration::from_secs(1);

/// Which slot it is, and the keys that go with it.
pub struct Rotation {
    master: Master,
    /// A master for later, and the first slot that is its.
    next: Option<(u64, Master)>,
    clock: Clock,
    length: Duration,
    slot: u64,
    /// Of this slot, the last, and the two before that; not always those of the
    /// numbers below `slot`.
    keys: [Key; 4],
    /// When this slot began, by `boot`.
    started: Duration,
    /// Nothing changes before, by `boot`.
    settled: Duration,
    /// After a jump the last slot's key is the one that was in use, and not the one
    /// that other machines have.
    jumped: bool,
}

impl Rotation {
    /// Starts in the slot of `now`.
    pub fn new(master: Master, length: Duration, clock: Clock, now: Now) -> Self {
        let mut rotation = Self {
            master,
            next: None,
            clock,
            length,
            slot: match clock {
                Clock::Local => 0,
                Clock::Shared => slot_of(now.wall, length),
            },
            keys: [Key::default(); 4],
            started: now.boot,
            settled: now.boot,
            jumped: false,
        };
        rotation.derive();
        rotation
    }

    /// Moves on to the slot of `now`; true if the keys are others than before.
    ///
    /// By the wall clock: when it is set back by less than a slot, the slot lasts until
    /// time catches up, and its keys do not come back. A longer step is followed, ahead
    /// or back, since the other machines are there; the key in use stays acceptable
    /// for `SETTLE`.
    pub fn advance(&mut self, now: Now) -> bool {
        if now.boot < self.settled {
            return false;
        }
        if self.clock == Clock::Local {
            let due = match &self.next {
                Some(_) => self.settle(),
                None => self.length,
            };
            if now.boot.saturating_sub(self.started) < due {
                return false;
            }
            if let Some((_, master)) = self.next.take() {
                self.master = master;
            }
            self.enter(self.slot.wrapping_add(1), now);
            return true;
        }
        let derived = std::mem::take(&mut self.jumped);
        if derived {
            self.derive();
        }
        let target = slot_of(now.wall, self.length);
        if target == self.slot || target.wrapping_add(1) == self.slot {
            return derived;
        }
        if target == self.slot + 1 {
            self.enter(target, now);
            let begin = Duration::from_secs(self.length.as_secs().saturating_mul(target));
            if now.wall.saturating_sub(begin) > LATE {
                // Late: the last key has had less than its time.
                self.settled = now.boot + self.settle();
            }
            return true;
        }
        // The key in use keeps its place, so the new one takes the other parity's: of
        // this slot, or of the one before it, which the others accept as well.
        let odd = (target ^ self.slot) & 1 == 1;
        self.enter(if odd { target } else { target.wrapping_sub(1) }, now);
        self.settled = now.boot + self.settle();
        self.jumped = true;
        true
    }

    /// Tells that the keys of the last [`Self::advance`] make cookies only since `now`: the process
    /// may have been stopped between the two, and the last key has its time from here on.
    pub fn in_use(&mut self, now: Now) {
        match self.clock {
            Clock::Local => self.started = now.boot,
            Clock::Shared if now.boot.saturating_sub(self.started) > LATE => {
                self.settled = self.settled.max(now.boot + self.settle());
            }
            Clock::Shared => {}
        }
    }

    /// Takes another master into use, after the time that is returned: with the shared
    /// clock at the next slot, so that machines change together; else at once, or when
    /// this slot has lasted a moment. Cookies live on as at any change of slot.
    pub fn replace(&mut self, master: Master, now: Now) -> Duration {
        match self.clock {
            Clock::Local => {
                self.next = Some((0, master));
                (self.started + self.settle()).saturating_sub(now.boot)
            }
            Clock::Shared => {
                if let Some((since, next)) = self.next.take()
                    && since <= self.slot
                {
                    self.master = next;
                }
                let since = self.slot.max(slot_of(now.wall, self.length)) + 1;
                self.next = Some((since, master));
                let begin = Duration::from_secs(self.length.as_secs().saturating_mul(since));
                begin.saturating_sub(now.wall)
            }
        }
    }

    /// [`Master::id`] of the secret that makes cookies now.
    pub fn id(&self) -> String {
        match self.clock {
            Clock::Local => self.master.id(),
            Clock::Shared => self.master_of(self.slot).id(),
        }
    }

    /// The keys of this slot and the last, and of the two before.
    pub fn secrets(&self) -> Secrets {
        let current = (self.slot & 1) as usize;
        let mut secrets = Secrets {
            current: current as u32,
            ..Secrets::default()
        };
        (secrets.keys[current], secrets.keys[1 - current]) = (self.keys[0], self.keys[1]);
        (secrets.old[current], secrets.old[1 - current]) = (self.keys[2], self.keys[3]);
        secrets
    }

    /// How long nothing changes, if the clocks go on as they do.
    pub fn remaining(&self, now: Now) -> Duration {
        let settled = self.settled.saturating_sub(now.boot);
        let slot = match (self.clock, &self.next) {
            (Clock::Local, next) => {
                let lasts = match next {
                    Some(_) => self.settle(),
                    None => self.length,
                };
                (self.started + lasts).saturating_sub(now.boot)
            }
            (Clock::Shared, _) => {
                let end = self.length.as_secs().saturating_mul(self.slot + 1);
                Duration::from_secs(end).saturating_sub(now.wall)
            }
        };
        settled.max(slot)
    }

    fn settle(&self) -> Duration {
        SETTLE.min(self.length)
    }

    fn master_of(&self, slot: u64) -> &Master {
        match &self.next {
            Some((since, next)) if self.clock == Clock::Shared && slot >= *since => next,
            _ => &self.master,
        }
    }

    fn key(&self, slot: u64) -> Key {
        self.master_of(slot).key(slot)
    }

    fn enter(&mut self, slot: u64, now: Now) {
        debug_assert!((slot ^ self.slot) & 1 == 1, "the parity turns");
        self.slot = slot;
        self.started = now.boot;
        self.keys.rotate_right(1);
        self.keys[0] = self.key(slot);
    }

    fn derive(&mut self) {
        self.keys = [0, 1, 2, 3].map(|back| self.key(self.slot.wrapping_sub(back)));
    }
}

fn slot_of(wall: Duration, length: Duration) -> u64 {
    wall.as_secs() / length.as_secs().max(1)
}

#[cfg(test)]
mod tests;
