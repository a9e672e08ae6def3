//! A Mermaid sequence diagram, for Markdown.

use super::{Flow, Item, duration};
use std::fmt::Write as _;

pub(super) fn draw(flow: &Flow) -> String {
    let mut out = String::from("sequenceDiagram\n");
    let _ = writeln!(out, "    participant C as client {}", flow.remote);
    let _ = writeln!(out, "    participant S as server {}", flow.local);
    let (mut client, mut server) = (String::new(), String::new());
    for item in flow.items() {
        let row = match item {
            Item::Row(row) => row,
            Item::Gap(gap) => {
                let _ = writeln!(out, "    Note over C,S: {} later", duration(gap));
                continue;
            }
            Item::Skipped(n) => {
                let _ = writeln!(out, "    Note over C,S: {n} segments more");
                continue;
            }
        };
        // Dashed: XDP made or took it.
        let arrow = if row.segment.by_xdp { "-->>" } else { "->>" };
        let (from, to) = if row.is_in() { ("C", "S") } else { ("S", "C") };
        let _ = write!(
            out,
            "    {from}{arrow}{to}: {} {}",
            row.segment.flags.replace(',', "+"),
            row.numbers().replace("  ", " ")
        );
        let details = row.details();
        if !details.is_empty() {
            // A semicolon or a hash would end the line.
            let _ = write!(out, "<br/>{}", details.replace([';', '#'], ","));
        }
        if row.segment.by_xdp {
            out.push_str(" (XDP)");
        }
        out.push('\n');
        for (last, now, place) in [
            (&mut client, &row.segment.client, "left of C"),
            (&mut server, &row.segment.server, "right of S"),
        ] {
            if last != now {
                last.clone_from(now);
                let _ = writeln!(out, "    Note {place}: {now}");
            }
        }
    }
    out
}
