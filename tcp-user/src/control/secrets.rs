//! Cookie keys: one master secret, a key per time slot, the keys of two slots in use.
//!
//! The key of a slot is a PRF of the master and the slot's number, the number is
//! wall clock time divided by the slot's length. Machines that share the master and
//! roughly the time therefore accept each other's cookies.

use siphasher::sip128::{Hasher128, SipHasher24};
use std::fmt;
use std::hash::Hasher;
use std::path::Path;
use std::time::Duration;
use tcp_common::abi::Secrets;
use tcp_common::cookie::Key;

/// The master secret, 128 bits.
#[derive(Clone)]
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
        let bytes = std::fs::read(path).map_err(|e| Error::File(name.clone(), e))?;
        Self::parse(&bytes).ok_or(Error::Format(name))
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

/// Which slot it is, and the keys that go with it.
#[derive(Debug)]
pub struct Rotation {
    master: Master,
    length: Duration,
    slot: u64,
}

impl Rotation {
    /// Starts in the slot of `wall`, time since the Unix epoch.
    pub fn new(master: Master, length: Duration, wall: Duration) -> Self {
        let slot = slot_of(wall, length);
        Self {
            master,
            length,
            slot,
        }
    }

    /// Moves on to the slot of `wall`; the new slot if it is another. Never goes
    /// back: when the clock is set back, the slot lasts until time catches up.
    pub fn advance(&mut self, wall: Duration) -> Option<u64> {
        let slot = slot_of(wall, self.length);
        (slot > self.slot).then(|| {
            self.slot = slot;
            slot
        })
    }

    /// The keys of this slot and the last, and of the two before.
    pub fn secrets(&self) -> Secrets {
        let current = (self.slot & 1) as usize;
        let key = |back| self.master.key(self.slot.wrapping_sub(back));
        let mut secrets = Secrets {
            current: current as u32,
            ..Secrets::default()
        };
        (secrets.keys[current], secrets.keys[1 - current]) = (key(0), key(1));
        (secrets.old[current], secrets.old[1 - current]) = (key(2), key(3));
        secrets
    }

    /// How long the present slot still lasts.
    pub fn remaining(&self, wall: Duration) -> Duration {
        let end = self.length.as_secs().saturating_mul(self.slot + 1);
        Duration::from_secs(end).saturating_sub(wall)
    }
}

fn slot_of(wall: Duration, length: Duration) -> u64 {
    wall.as_secs() / length.as_secs().max(1)
}

/// Time since the Unix epoch.
pub fn wall_clock() -> Duration {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn rotation(seconds: u64) -> Rotation {
        Rotation::new(Master([7; 16]), at(64), at(seconds))
    }

    #[test]
    fn a_slot_overlaps_with_the_next() {
        let mut r = rotation(6400);
        let before = r.secrets();
        assert_eq!(r.advance(at(6463)), None);
        assert_eq!(r.advance(at(6464)), Some(101));
        let after = r.secrets();
        assert_eq!((before.current, after.current), (0, 1));
        assert!(before.keys[0] == after.keys[0], "the last slot's key stays");
        assert!(before.keys[1] == after.old[1], "the one before it is old");
        assert!(before.keys[1] != after.keys[1]);
        assert_eq!(r.remaining(at(6464)), at(64));
        assert_eq!(r.remaining(at(6527)), at(1));
    }

    #[test]
    fn a_clock_set_back_does_not_bring_an_old_key_back() {
        let mut r = rotation(6400);
        let secrets = r.secrets();
        assert_eq!(r.advance(at(10)), None);
        assert!(r.secrets() == secrets);
        assert_eq!(r.advance(at(6463)), None);
        assert_eq!(r.advance(at(6500)), Some(101));
    }

    #[test]
    fn a_jump_ahead_replaces_both_keys() {
        let mut r = rotation(6400);
        let before = r.secrets();
        assert!(r.advance(at(64_000)).is_some());
        let after = r.secrets();
        assert!(before.keys.iter().all(|k| !after.keys.contains(k)));
    }

    #[test]
    fn machines_with_one_master_agree() {
        assert!(rotation(6400).secrets() == rotation(6410).secrets());
        let other = Rotation::new(Master([8; 16]), at(64), at(6400));
        assert!(other.secrets() != rotation(6400).secrets());
    }

    #[test]
    fn the_file_holds_hex_or_octets() {
        let hex = Master::parse(b"000102030405060708090a0b0c0d0e0f\n").expect("hex");
        let raw =
            Master::parse(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]).expect("raw");
        assert_eq!(hex.0, raw.0);
        for bad in [
            "",
            "00",
            "zz0102030405060708090a0b0c0d0e0f",
            "+00102030405060708090a0b0c0d0e0f",
        ] {
            assert!(Master::parse(bad.as_bytes()).is_none(), "{bad}");
        }
    }

    #[test]
    fn random_masters_differ() {
        let a = Master::random().expect("random");
        let b = Master::random().expect("random");
        assert_ne!(a.0, b.0);
    }
}
