//! Holds docs/conformance.md to what is there: files, items and tests.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The Rust files below a directory.
fn rust_files(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten() {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
}

/// The names of all functions that follow `#[test]`, or stand in a `proptest!`.
fn tests() -> HashSet<String> {
    let mut files = Vec::new();
    for dir in [
        "tcp-common/src",
        "tcp-user/src",
        "tcp-user/tests",
        "xtask/src",
    ] {
        rust_files(&root().join(dir), &mut files);
    }
    let mut names = HashSet::new();
    for file in files {
        let text = fs::read_to_string(file).expect("readable");
        let mut is_test = false;
        for line in text.lines().map(str::trim) {
            if line == "#[test]" || line.starts_with("#[tokio::test") {
                is_test = true;
            } else if let Some(rest) = line
                .strip_prefix("async ")
                .unwrap_or(line)
                .strip_prefix("fn ")
            {
                if is_test && let Some((name, _)) = rest.split_once('(') {
                    names.insert(name.to_string());
                }
                is_test = false;
            }
        }
    }
    names
}

/// What stands in backticks in a cell.
fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// Whether a file has the word.
fn has_word(text: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    text.split(|c| !part(c)).any(|w| w == word)
}

/// What is wrong with a row.
fn faults(cells: &[&str], tests: &HashSet<String>) -> Vec<String> {
    let [rule, what, place, shown, note] = cells else {
        return vec![format!("{} cells instead of 5", cells.len())];
    };
    let mut faults = Vec::new();
    if rule.is_empty() || what.is_empty() {
        faults.push("no rule".to_string());
    }
    let open = ["not done: ", "not yet: "]
        .iter()
        .find_map(|prefix| note.strip_prefix(prefix));
    let (places, shown) = (quoted(place), quoted(shown));
    match open {
        Some(reason) if reason.len() < 10 => faults.push("no reason".to_string()),
        None if places.is_empty() || shown.is_empty() => {
            faults.push("neither place and test nor reason".to_string());
        }
        _ => {}
    }
    for place in places {
        let Some((file, item)) = place.split_once("::") else {
            faults.push(format!("{place} is no place"));
            continue;
        };
        let path = match file.strip_prefix("proto/") {
            Some(rest) => root().join("tcp-user/src/proto").join(rest),
            None => root().join(file),
        };
        match fs::read_to_string(path) {
            Ok(text) if has_word(&text, item) => {}
            Ok(_) => faults.push(format!("{file} has no {item}")),
            Err(e) => faults.push(format!("{file}: {e}")),
        }
    }
    // Tests that a note mentions count, too.
    let mentioned = note
        .split_once("(test ")
        .and_then(|(_, rest)| rest.split_once(')'))
        .map(|(name, _)| name);
    for test in shown.into_iter().chain(mentioned) {
        if !tests.contains(test) {
            faults.push(format!("no test {test}"));
        }
    }
    faults
}

#[test]
fn every_row_of_the_sheet_has_a_place_and_a_test_or_a_reason() {
    let sheet = fs::read_to_string(root().join("docs/conformance.md")).expect("the sheet");
    let tests = tests();
    let (mut done, mut later, mut never) = (0, 0, 0);
    let mut wrong = Vec::new();
    for (number, line) in (1..).zip(sheet.lines()) {
        let Some(cells) = line
            .strip_prefix("| ")
            .and_then(|rest| rest.strip_suffix(" |"))
        else {
            continue;
        };
        let cells: Vec<_> = cells.split('|').map(str::trim).collect();
        if cells.first() == Some(&"rule") {
            continue;
        }
        match cells.last() {
            Some(note) if note.starts_with("not yet") => later += 1,
            Some(note) if note.starts_with("not done") => never += 1,
            _ => done += 1,
        }
        wrong.extend(
            faults(&cells, &tests)
                .iter()
                .map(|fault| format!("docs/conformance.md:{number}: {fault}")),
        );
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    let total = done + later + never;
    let counts = format!("{total} rows: {done} done, {later} not yet, {never} not done.");
    assert!(sheet.contains(&counts), "the sheet should say: {counts}");
}

#[test]
fn a_row_that_is_wrong_is_found() {
    let tests = HashSet::from(["shown".to_string()]);
    let place = "`tcp-user/tests/conformance.rs::faults`";
    assert_eq!(faults(&["r", "w", place, "`shown`", ""], &tests), [""; 0]);
    for row in [
        ["r", "w", place, "`hidden`", ""],
        ["r", "w", place, "", ""],
        ["r", "w", "", "`shown`", ""],
        ["r", "w", "", "", "not done: "],
        ["r", "w", "", "", "because"],
        ["r", "w", "`proto/mod.rs::no_such_item`", "`shown`", ""],
        ["r", "w", "`proto/none.rs::faults`", "`shown`", ""],
    ] {
        assert_eq!(faults(&row, &tests).len(), 1, "{row:?}");
    }
}
