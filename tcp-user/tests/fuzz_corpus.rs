//! Replays the corpus of the fuzz targets; no nightly and no cargo-fuzz needed.
//! docs/fuzzing.md says how the corpus grows.

#[path = "../../fuzz/src/targets.rs"]
#[expect(dead_code, reason = "part of it makes the first inputs")]
mod targets;

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
