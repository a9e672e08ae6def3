//! An SVG image: two lifelines in the colours of their states, a slanted arrow a segment.

use super::{Flow, Item, Row, duration};
use std::fmt::Write as _;

const WIDTH: f64 = 1080.0;
/// The lifelines.
const CLIENT: f64 = 290.0;
const SERVER: f64 = 800.0;
/// How far an arrow falls.
const SLANT: f64 = 14.0;
const ROW: f64 = 40.0;
/// A row with a second line of text.
const TALL: f64 = 54.0;
const GAP: f64 = 34.0;
/// Head of a connection, above its first row.
const HEAD: f64 = 112.0;
const FOOT: f64 = 66.0;

const INK: &str = "#0f172a";
const DIM: &str = "#64748b";
const XDP: &str = "#d97706";

const STYLE: &str = "\
    text{font-family:'DejaVu Sans','Segoe UI',Helvetica,Arial,sans-serif;font-size:12px;fill:#0f172a}\
    .n{font-family:'DejaVu Sans Mono',Menlo,Consolas,monospace;font-size:11.5px}\
    .d{font-size:10.5px;fill:#64748b}\
    .t{font-family:'DejaVu Sans Mono',Menlo,Consolas,monospace;font-size:11px;fill:#64748b;text-anchor:end}\
    .s{font-size:10.5px;font-weight:bold;letter-spacing:.4px}\
    .h{font-size:17px;font-weight:bold}\
    .m{text-anchor:middle}";

/// All connections below each other.
pub(super) fn draw(flows: &[Flow]) -> String {
    let mut body = String::new();
    let mut y = 0.0;
    for flow in flows {
        y = connection(&mut body, flow, y);
    }
    legend(&mut body, y + 26.0);
    let height = y + FOOT;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         height=\"{height}\"><style>{STYLE}</style><rect width=\"100%\" height=\"100%\" \
         fill=\"#ffffff\"/>{body}</svg>\n"
    )
}

/// One connection from `top` on; where the next may begin.
fn connection(out: &mut String, flow: &Flow, top: f64) -> f64 {
    let items = flow.items();
    let _ = write!(
        out,
        "<text class=\"h m\" x=\"{}\" y=\"{}\">{} ⇄ {}</text>\
         <text class=\"d m\" x=\"{}\" y=\"{}\">{} segments in {}</text>",
        WIDTH / 2.0,
        top + 34.0,
        flow.remote,
        flow.local,
        WIDTH / 2.0,
        top + 53.0,
        flow.segments(),
        duration(flow.duration()),
    );
    for (x, name) in [(CLIENT, "client"), (SERVER, "server")] {
        let _ = write!(
            out,
            "<rect x=\"{}\" y=\"{}\" width=\"96\" height=\"24\" rx=\"6\" fill=\"{INK}\"/>\
             <text class=\"m\" x=\"{x}\" y=\"{}\" style=\"fill:#fff;font-weight:bold\">{name}</text>",
            x - 48.0,
            top + 68.0,
            top + 84.5,
        );
    }
    // The lifelines lie below the arrows, but are known only when these are placed.
    let mut arrows = String::new();
    let mut sides = [Side::new(CLIENT, "LISTEN"), Side::new(SERVER, "LISTEN")];
    sides[0].begin = top + 92.0;
    sides[1].begin = top + 92.0;
    let mut y = top + HEAD;
    let start = flow.head.first().map_or(0.0, |row| row.segment.at);
    for item in &items {
        match item {
            Item::Row(row) => {
                arrow(&mut arrows, row, y, row.segment.at - start);
                let (client, server) = if row.is_in() {
                    (y, y + SLANT)
                } else {
                    (y + SLANT, y)
                };
                sides[0].change(out, &mut arrows, client, &row.segment.client);
                sides[1].change(out, &mut arrows, server, &row.segment.server);
                y += if second_line(row).is_empty() {
                    ROW
                } else {
                    TALL
                };
            }
            Item::Gap(gap) => {
                pause(&mut arrows, y - 4.0, &format!("{} later", duration(*gap)));
                y += GAP;
            }
            Item::Skipped(n) => {
                pause(&mut arrows, y - 4.0, &format!("{n} segments more"));
                y += GAP;
            }
        }
    }
    for side in &mut sides {
        side.finish(out, y);
    }
    out.push_str(&arrows);
    y + 8.0
}

/// A lifeline.
struct Side {
    x: f64,
    state: String,
    begin: f64,
}

impl Side {
    fn new(x: f64, state: &str) -> Self {
        Self {
            x,
            state: state.to_owned(),
            begin: 0.0,
        }
    }

    /// Another state from `y` on: the bar so far, and the new state's name.
    fn change(&mut self, bars: &mut String, names: &mut String, y: f64, state: &str) {
        if self.state == state {
            return;
        }
        self.finish(bars, y);
        state.clone_into(&mut self.state);
        let width = 18.0 + 7.6 * state.len() as f64;
        let x = if self.x < WIDTH / 2.0 {
            self.x - 12.0 - width
        } else {
            self.x + 12.0
        };
        let color = color_of(state);
        let _ = write!(
            names,
            "<rect x=\"{x:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"19\" rx=\"9.5\" fill=\"{color}\" \
             fill-opacity=\".16\" stroke=\"{color}\"/>\
             <text class=\"s m\" x=\"{:.1}\" y=\"{:.1}\">{state}</text>",
            y - 9.5,
            x + width / 2.0,
            y + 4.0,
        );
    }

    fn finish(&mut self, bars: &mut String, y: f64) {
        let (x, begin) = (self.x - 3.5, self.begin);
        let _ = write!(
            bars,
            "<rect x=\"{x}\" y=\"{begin:.1}\" width=\"7\" height=\"{:.1}\" fill=\"{}\"/>",
            y - begin,
            color_of(&self.state),
        );
        self.begin = y;
    }
}

/// Opening amber, open green, our or their end violet and blue, over grey.
fn color_of(state: &str) -> &'static str {
    match state {
        "SYN-SENT" | "SYN-RECEIVED" => "#f59e0b",
        "ESTABLISHED" => "#10b981",
        "FIN-WAIT-1" | "FIN-WAIT-2" | "CLOSING" => "#8b5cf6",
        "CLOSE-WAIT" | "LAST-ACK" => "#3b82f6",
        "TIME-WAIT" => "#94a3b8",
        "CLOSED" => "#475569",
        _ => "#e2e8f0",
    }
}

fn color(row: &Row) -> &'static str {
    let flags = row.segment.flags.as_str();
    if flags.contains("RST") {
        "#dc2626"
    } else if row.segment.note.contains("retransmission") {
        "#ea580c"
    } else if row.segment.by_xdp {
        XDP
    } else if flags.contains("FIN") {
        "#7c3aed"
    } else if row.segment.len > 0 {
        "#0369a1"
    } else {
        DIM
    }
}

fn second_line(row: &Row) -> String {
    row.details()
}

fn arrow(out: &mut String, row: &Row, y: f64, at: f64) {
    let (from, to) = if row.is_in() {
        (CLIENT + 4.0, SERVER - 4.0)
    } else {
        (SERVER - 4.0, CLIENT + 4.0)
    };
    let color = color(row);
    let way = (to - from).signum();
    let dash = if row.segment.by_xdp {
        " stroke-dasharray=\"7 4\""
    } else {
        ""
    };
    let width = if row.segment.len > 0 { 2.2 } else { 1.5 };
    let end = y + SLANT;
    let _ = write!(
        out,
        "<text class=\"t\" x=\"96\" y=\"{:.1}\">{}</text>\
         <line x1=\"{from}\" y1=\"{y:.1}\" x2=\"{:.1}\" y2=\"{end:.1}\" stroke=\"{color}\" \
         stroke-width=\"{width}\"{dash}/>\
         <path d=\"M{to} {end:.1}l{:.1} -5.5l0 10z\" fill=\"{color}\"/>",
        y + 4.0,
        duration(at),
        to - way * 8.0,
        -way * 10.0,
    );
    let angle = way * (SLANT / (SERVER - CLIENT)).atan().to_degrees();
    let (x, middle) = (f64::midpoint(CLIENT, SERVER), y + SLANT / 2.0);
    let flags = row.segment.flags.replace(',', " ");
    let _ = write!(
        out,
        "<g transform=\"rotate({angle:.3} {x} {middle:.1})\"><text class=\"n m\" x=\"{x}\" \
         y=\"{:.1}\" xml:space=\"preserve\"><tspan style=\"fill:{color};font-weight:bold\">{}</tspan>  {}</text>",
        middle - 6.0,
        escape(&flags),
        escape(&row.numbers()),
    );
    let details = second_line(row);
    if !details.is_empty() {
        let _ = write!(
            out,
            "<text class=\"d m\" x=\"{x}\" y=\"{:.1}\">{}</text>",
            middle + 14.0,
            escape(&details)
        );
    }
    out.push_str("</g>");
    if row.segment.by_xdp {
        let at = from + way * 30.0;
        let tag = y + SLANT * 30.0 / (SERVER - CLIENT);
        let _ = write!(
            out,
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"36\" height=\"16\" rx=\"4\" fill=\"{XDP}\"/>\
             <text class=\"s m\" x=\"{at:.1}\" y=\"{:.1}\" style=\"fill:#fff\">XDP</text>",
            at - 18.0,
            tag - 8.0,
            tag + 3.8,
        );
    }
}

/// Time passes, or segments are left out: the lifelines are broken.
fn pause(out: &mut String, y: f64, text: &str) {
    for x in [CLIENT, SERVER] {
        for i in 0..3 {
            let _ = write!(
                out,
                "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"11\" height=\"3\" fill=\"#fff\"/>",
                x - 5.5,
                y - 5.0 + 6.0 * f64::from(i),
            );
        }
    }
    let _ = write!(
        out,
        "<line x1=\"{}\" y1=\"{y:.1}\" x2=\"{}\" y2=\"{y:.1}\" stroke=\"#cbd5e1\" stroke-dasharray=\"2 5\"/>\
         <rect x=\"{}\" y=\"{:.1}\" width=\"160\" height=\"18\" fill=\"#fff\"/>\
         <text class=\"d m\" x=\"{}\" y=\"{:.1}\">{}</text>",
        CLIENT + 14.0,
        SERVER - 14.0,
        f64::midpoint(CLIENT, SERVER) - 80.0,
        y - 9.0,
        f64::midpoint(CLIENT, SERVER),
        y + 3.5,
        escape(text),
    );
}

fn legend(out: &mut String, y: f64) {
    let mut x = 120.0;
    let _ = write!(
        out,
        "<line x1=\"{x}\" y1=\"{y}\" x2=\"{}\" y2=\"{y}\" stroke=\"{XDP}\" stroke-width=\"1.5\" \
         stroke-dasharray=\"7 4\"/><text class=\"d\" x=\"{}\" y=\"{}\">answered in XDP</text>",
        x + 34.0,
        x + 41.0,
        y + 3.5,
    );
    x += 170.0;
    for (state, name) in [
        ("SYN-SENT", "opening"),
        ("ESTABLISHED", "open"),
        ("FIN-WAIT-1", "closed first"),
        ("CLOSE-WAIT", "the other closed first"),
        ("TIME-WAIT", "time-wait"),
    ] {
        let _ = write!(
            out,
            "<rect x=\"{x}\" y=\"{:.1}\" width=\"14\" height=\"8\" rx=\"2\" fill=\"{}\"/>\
             <text class=\"d\" x=\"{}\" y=\"{}\">{name}</text>",
            y - 4.0,
            color_of(state),
            x + 20.0,
            y + 3.5,
        );
        x += 44.0 + 7.0 * name.len() as f64;
    }
    let _ = write!(
        out,
        "<text class=\"d\" x=\"{x}\" y=\"{}\">numbers count from the ISNs</text>",
        y + 3.5
    );
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
