//! Replays the corpus of the fuzz targets; no nightly and no cargo-fuzz needed.
//! docs/fuzzing.md says how the corpus grows.

#[path = "../../fuzz/src/targets.rs"]
#[expect(dead_code, reason = "part of it makes the first inputs")]
mod targets;

use proptest::prelude::*;
use std::fs;
use std::path::Path;
use tcp_user::proto;

fn replay(target: &str, run: fn(&[u8])) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    let mut inputs = 0;
    for entry in fs::read_dir(dir.join(target)).expect("the corpus is committed") {
        let path = entry.expect("readable").path();
        // Shown if the test fails.
        println!("{}", path.display());
        run(&fs::read(&path).expect("readable"));
        inputs += 1;
    }
    assert!(inputs >= 5, "{inputs} inputs for {target}");
}

#[test]
fn frames_of_the_corpus_are_survived() {
    replay("frame", targets::frame);
}

#[test]
fn options_of_the_corpus_are_read_as_by_the_reference() {
    replay("options", targets::options);
}

#[test]
fn connections_of_the_corpus_keep_their_invariants() {
    replay("connection", targets::connection);
}

/// An option that is mostly right.
fn option() -> impl Strategy<Value = Vec<u8>> {
    let known = prop_oneof![
        Just((2, 2)),
        Just((3, 1)),
        Just((4, 0)),
        Just((5, 8)),
        Just((5, 16)),
        Just((8, 8)),
        (any::<u8>(), 0usize..6),
    ];
    prop_oneof![
        1 => Just(vec![1]),
        1 => prop::collection::vec(any::<u8>(), 1..4),
        8 => (known, any::<[u8; 16]>(), 0u8..20).prop_map(|((kind, len), octets, twist)| {
            let said = len as u8 + 2;
            let said = if twist == 0 { said ^ 1 } else { said };
            let mut option = vec![kind, said];
            option.extend(&octets[..len]);
            option
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_options_are_read_as_by_the_reference(list in prop::collection::vec(option(), 0..12)) {
        targets::options(&list.concat());
    }

    /// The target panics on what must not be.
    #[test]
    fn any_operations_keep_the_invariants(ops in prop::collection::vec(any::<u8>(), 0..200)) {
        targets::connection(&ops);
    }
}
