//! Slots along both clocks, and files.

use super::*;

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Both clocks; `boot` runs from zero.
fn at(wall: u64, boot: u64) -> Now {
    Now {
        wall: s(wall),
        boot: s(boot),
    }
}

fn shared(wall: u64) -> Rotation {
    Rotation::new(Master([7; 16]), s(64), Clock::Shared, at(wall, 0))
}

fn local() -> Rotation {
    Rotation::new(Master([7; 16]), s(64), Clock::Local, at(6400, 0))
}

/// The key that makes cookies.
fn current(secrets: &Secrets) -> Key {
    secrets.keys[secrets.current as usize]
}

/// Whether cookies that were made under `before` are accepted under `after`.
fn lives_on(before: &Secrets, after: &Secrets) -> bool {
    let parity = before.current as usize;
    after.keys[parity] == before.keys[parity]
}

#[test]
fn a_slot_overlaps_with_the_next() {
    let mut r = shared(6400);
    let before = r.secrets();
    assert!(!r.advance(at(6463, 63)));
    assert!(r.advance(at(6464, 64)));
    let after = r.secrets();
    assert_eq!((before.current, after.current), (0, 1));
    assert!(before.keys[0] == after.keys[0], "the last slot's key stays");
    assert!(before.keys[1] == after.old[1], "the one before it is old");
    assert!(before.keys[1] != after.keys[1]);
    assert_eq!(r.remaining(at(6464, 64)), s(64));
    assert_eq!(r.remaining(at(6527, 127)), s(1));
    assert!(r.secrets() == shared(6464).secrets(), "as if started there");
}

#[test]
fn a_clock_set_back_a_little_does_not_bring_an_old_key_back() {
    let mut r = shared(6400);
    let secrets = r.secrets();
    assert!(!r.advance(at(6390, 1)));
    assert!(r.secrets() == secrets);
    assert!(!r.advance(at(6463, 74)));
    assert!(r.advance(at(6464, 75)));
    assert!(lives_on(&secrets, &r.secrets()));
}

#[test]
fn after_a_step_of_the_clock_handshakes_go_on_and_machines_agree_again() {
    for steps in [2, 3, 4, 5, 1000, 1001, -2, -3, -50] {
        let mut r = shared(6400);
        let before = r.secrets();
        let wall = (6400 + steps * 64) as u64;
        assert!(r.advance(at(wall, 10)), "{steps}");
        let jumped = r.secrets();
        assert!(lives_on(&before, &jumped), "{steps}");
        assert!(current(&before) != current(&jumped), "{steps}");
        let others = shared(wall).secrets();
        assert!(
            lives_on(&jumped, &others),
            "{steps}: others accept what is made now"
        );
        assert!(!r.advance(at(wall + 4, 14)), "{steps}: no change so soon");
        assert!(r.advance(at(wall + 5, 15)), "{steps}");
        assert!(r.secrets() == others, "{steps}: as the others have it");
        assert!(lives_on(&jumped, &r.secrets()), "{steps}");
        assert!(!r.advance(at(wall + 6, 16)), "{steps}");
    }
}

#[test]
fn a_process_that_comes_late_gives_the_last_key_its_time() {
    let mut r = shared(6400);
    let before = r.secrets();
    // Stopped until one second before the end of the next slot.
    assert!(r.advance(at(6527, 127)));
    assert!(lives_on(&before, &r.secrets()));
    assert!(!r.advance(at(6529, 129)));
    assert!(lives_on(&before, &r.secrets()), "still");
    assert!(r.advance(at(6532, 132)));
    assert!(!lives_on(&before, &r.secrets()));
}

#[test]
fn a_process_that_is_stopped_while_it_changes_keys_gives_the_last_one_its_time() {
    let mut r = local();
    let before = r.secrets();
    assert!(r.advance(at(6464, 64)));
    // Until here XDP has made cookies with the old one.
    r.in_use(at(6600, 200));
    assert!(!r.advance(at(6663, 263)));
    assert!(lives_on(&before, &r.secrets()));
    assert!(r.advance(at(6664, 264)));

    let mut r = shared(6400);
    let before = r.secrets();
    assert!(r.advance(at(6464, 64)));
    r.in_use(at(6600, 200));
    assert!(!r.advance(at(6604, 204)));
    assert!(lives_on(&before, &r.secrets()));
    assert!(r.advance(at(6605, 205)));
    // In time it changes nothing.
    let mut r = shared(6400);
    assert!(r.advance(at(6464, 64)));
    r.in_use(at(6464, 64));
    assert!(r.advance(at(6528, 128)));
}

#[test]
fn without_a_file_the_wall_clock_does_not_matter() {
    let mut r = local();
    let before = r.secrets();
    assert!(!r.advance(at(1_000_000, 63)));
    assert!(!r.advance(at(0, 63)));
    assert_eq!(r.remaining(at(0, 63)), s(1));
    assert!(r.advance(at(0, 64)));
    let after = r.secrets();
    assert!(lives_on(&before, &after));
    assert!(before.keys[1] == after.old[1]);
}

#[test]
fn without_a_file_a_pause_of_many_slots_is_one_slot() {
    let mut r = local();
    let before = r.secrets();
    assert!(r.advance(at(6400, 64 * 10)));
    assert!(lives_on(&before, &r.secrets()));
    assert!(!r.advance(at(6400, 64 * 11 - 1)), "for a whole slot");
    assert!(r.advance(at(6400, 64 * 11)));
    assert!(!lives_on(&before, &r.secrets()));
}

#[test]
fn a_new_random_master_takes_over_when_the_last_slot_has_ended() {
    let mut r = local();
    let (before, id) = (r.secrets(), r.id());
    assert_eq!(r.replace(Master([8; 16]), at(6400, 2)), s(3));
    assert_eq!(r.remaining(at(6400, 2)), s(3));
    assert!(!r.advance(at(6400, 4)));
    assert!(r.advance(at(6400, 5)));
    let after = r.secrets();
    assert!(lives_on(&before, &after), "handshakes go on");
    assert!(current(&after) == Master([8; 16]).key(1));
    assert_ne!(r.id(), id);
    assert!(!r.advance(at(6400, 68)), "a whole slot from there");
    assert!(r.advance(at(6400, 69)));
    // Later in a slot it is at once.
    assert_eq!(r.replace(Master([9; 16]), at(6400, 80)), s(0));
    assert!(r.advance(at(6400, 80)));
}

#[test]
fn machines_change_a_shared_master_at_the_same_slot() {
    let (mut a, mut b) = (shared(6400), shared(6430));
    let before = a.secrets();
    let new = Master([8; 16]);
    assert_eq!(a.replace(new.clone(), at(6410, 10)), s(54));
    assert_eq!(b.replace(new.clone(), at(6440, 10)), s(24));
    assert!(!a.advance(at(6463, 63)) && a.secrets() == before);
    assert_eq!(a.id(), Master([7; 16]).id());
    assert!(a.advance(at(6464, 64)) && b.advance(at(6464, 34)));
    assert!(a.secrets() == b.secrets());
    assert!(lives_on(&before, &a.secrets()));
    assert_eq!(a.id(), new.id());
    assert!(a.advance(at(6528, 128)));
    let started = Rotation::new(new.clone(), s(64), Clock::Shared, at(6528, 0));
    assert!(
        a.secrets().keys == started.secrets().keys,
        "of the new one only"
    );
    // And once more.
    let third = Master([9; 16]);
    a.replace(third.clone(), at(6530, 130));
    assert_eq!(a.id(), new.id());
    assert!(a.advance(at(6592, 192)));
    assert_eq!(a.id(), third.id());
}

#[test]
fn machines_with_one_master_agree() {
    assert!(shared(6400).secrets() == shared(6410).secrets());
    let other = Rotation::new(Master([8; 16]), s(64), Clock::Shared, at(6400, 0));
    assert!(other.secrets() != shared(6400).secrets());
}

#[test]
fn the_file_holds_hex_or_octets() {
    let hex = Master::parse(b"000102030405060708090a0b0c0d0e0f\n").expect("hex");
    let raw = Master::parse(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]).expect("raw");
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
fn a_new_file_is_private_and_never_overwrites() {
    let path = std::env::temp_dir().join(format!("tcp-xdp-secret-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let master = Master::random().expect("random");
    master.create(&path).expect("created");
    let mode = std::fs::metadata(&path)
        .expect("there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(Master::read(&path).expect("readable") == master);
    assert!(matches!(master.create(&path), Err(Error::Create(..))));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).expect("chmod");
    let refused = Master::read(&path)
        .map(|_| ())
        .expect_err("others can read it");
    assert!(refused.to_string().contains("0640"), "{refused}");
    std::fs::remove_file(&path).expect("there");
}

#[test]
fn an_id_tells_masters_apart_and_not_more() {
    let master = Master([7; 16]);
    assert_eq!(master.id(), Master([7; 16]).id());
    assert_ne!(master.id(), Master([8; 16]).id());
    assert_eq!(master.id().len(), 16);
    assert!(!master.id().contains("0707"));
}

#[test]
fn random_masters_differ() {
    let a = Master::random().expect("random");
    let b = Master::random().expect("random");
    assert_ne!(a.0, b.0);
}
