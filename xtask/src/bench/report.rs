//! Figures, tables and the JSON files.

use std::{
    env,
    fmt::Write as _,
    fs,
    io::{self, IsTerminal as _},
    os::unix::fs::chown,
    path::Path,
    thread,
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

/// The middle value, or the mean of the two in the middle; NaN of none.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// The mean of the lower nine tenths: without the runs that an interrupt fell into.
pub(crate) fn undisturbed_mean(values: &mut [u32]) -> f64 {
    values.sort_unstable();
    let kept = &values[..(values.len() * 9).div_ceil(10)];
    let sum: u64 = kept.iter().map(|value| u64::from(*value)).sum();
    sum as f64 / kept.len() as f64
}

/// The value at a fraction of the sorted values, 0 the first and 1 the last; NaN of none.
pub(crate) fn quantile(sorted: &[f64], fraction: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted
        .get((last as f64 * fraction).round() as usize)
        .copied()
        .unwrap_or(f64::NAN)
}

/// Rows of cells under a heading; the first column is text, the others are numbers.
pub(crate) fn table(heading: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([heading[column].chars().count()]).max()
    };
    let widths: Vec<usize> = (0..heading.len()).map(|c| width(c).unwrap_or(0)).collect();
    let mut text = String::new();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        for (column, (cell, width)) in cells.zip(&widths).enumerate() {
            let _ = if column == 0 {
                write!(text, "{cell:width$}")
            } else {
                write!(text, "  {cell:>width$}")
            };
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    };
    line(&mut heading.iter().copied());
    for row in rows {
        line(&mut row.iter().map(String::as_str));
    }
    text
}

/// Says which round is on, where somebody watches.
pub(crate) fn progress(round: u32, rounds: u32) {
    if io::stderr().is_terminal() {
        let end = if round == rounds { "\n" } else { "" };
        eprint!("\rround {round} of {rounds}{end}");
    }
}

/// The machine, for whoever reads the figures later.
pub(crate) fn machine() -> Value {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let cpu = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map(|(_, name)| name.to_owned());
    json!({
        "cpu": cpu,
        "cpus": thread::available_parallelism().map_or(0, usize::from),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "load": read("/proc/loadavg").trim(),
    })
}

/// Writes `value` to `DIRECTORY/NAME.json`, for the user who called sudo if there is one.
pub(crate) fn write(directory: &Path, name: &str, value: &Value) -> Result<()> {
    let id = |name| env::var(name).ok()?.parse().ok();
    let (user, group) = (id("SUDO_UID"), id("SUDO_GID"));
    let path = directory.join(name).with_extension("json");
    fs::create_dir_all(directory)
        .and_then(|()| fs::write(&path, format!("{value:#}\n")))
        .and_then(|()| chown(directory, user, group))
        .and_then(|()| chown(&path, user, group))
        .with_context(|| format!("cannot write {}", path.display()))?;
    println!("written to {}", path.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_and_the_mean() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(&[4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
        assert!(median(&[]).is_nan());
        let mut values = [10, 10, 10, 10, 10, 10, 10, 10, 10, 5000];
        assert!((undisturbed_mean(&mut values) - 10.0).abs() < 1e-9);
    }

    #[test]
    fn columns_are_aligned() {
        let rows = [vec!["a".into(), "1".into()], vec!["bb".into(), "22".into()]];
        assert_eq!(table(&["", "ns"], &rows), "    ns\na    1\nbb  22\n");
    }
}
