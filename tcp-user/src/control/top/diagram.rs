//! The states of RFC 9293's figure 5 that a server's connections pass, with counts.

use crate::proto::State;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};

/// Columns and rows of the diagram.
pub(super) const WIDTH: u16 = 53;
pub(super) const HEIGHT: u16 = 13;

/// `#` and letters are the place of a state's count.
const PICTURE: [&str; HEIGHT as usize] = [
    " LISTEN ──SYN──▶ SYN-RECEIVED ──ACK──▶ ESTABLISHED",
    "                  #RRRRRRRR             #EEEEEEEE",
    "                                        │     │",
    "            ┌────────── close ──────────┘     │ FIN",
    "            ▼                                 ▼",
    "       FIN-WAIT-1 ──FIN──▶ CLOSING        CLOSE-WAIT",
    "        #FFFFFFFF         #GGGGGGGG       #HHHHHHHH",
    "            │ ACK             │ ACK           │ close",
    "            ▼                 │               ▼",
    "       FIN-WAIT-2             │            LAST-ACK",
    "        #IIIIIIII             ▼           #JJJJJJJJ",
    "            └──FIN──────▶ TIME-WAIT           │ ACK",
    "                          #KKKKKKKK         CLOSED",
];

const PLACES: [(char, State); 8] = [
    ('R', State::SynReceived),
    ('E', State::Established),
    ('F', State::FinWait1),
    ('G', State::Closing),
    ('H', State::CloseWait),
    ('I', State::FinWait2),
    ('J', State::LastAck),
    ('K', State::TimeWait),
];

/// The colour of a state, as in the drawings of `trace --svg`.
fn color(state: State) -> Color {
    match state {
        State::Established => Color::Green,
        State::FinWait1 | State::FinWait2 | State::Closing => Color::Magenta,
        State::CloseWait | State::LastAck => Color::Blue,
        State::TimeWait => Color::Gray,
        _ => Color::Yellow,
    }
}

/// The picture with the counts of each state put in.
pub(super) fn lines(count: impl Fn(State) -> u64) -> Vec<Line<'static>> {
    PICTURE.iter().map(|row| line(row, &count)).collect()
}

fn line(row: &str, count: &impl Fn(State) -> u64) -> Line<'static> {
    let mut spans = Vec::new();
    let mut rest = row;
    while let Some(at) = rest.find('#') {
        spans.extend(names(&rest[..at]));
        let field: String = rest[at..]
            .chars()
            .take_while(|c| *c == '#' || c.is_ascii_uppercase())
            .collect();
        let state = PLACES
            .iter()
            .find(|(letter, _)| field.ends_with(*letter))
            .map_or(State::Closed, |(_, state)| *state);
        let n = count(state);
        let style = if n == 0 {
            Style::new().fg(Color::DarkGray)
        } else {
            Style::new().fg(color(state)).add_modifier(Modifier::BOLD)
        };
        spans.push(Span::styled(format!("{n:^9}"), style));
        rest = &rest[at + field.len()..];
    }
    spans.extend(names(rest));
    Line::from(spans)
}

/// States' names stand out from the lines between them.
fn names(text: &str) -> Vec<Span<'static>> {
    let mut spans = Vec::new();
    let mut rest = text;
    loop {
        let found = State::ALL
            .iter()
            .map(|state| (*state, state.to_string()))
            .filter_map(|(state, name)| rest.find(&name).map(|at| (at, state, name)))
            .min_by_key(|(at, ..)| *at);
        let Some((at, state, name)) = found else {
            spans.push(dim(rest));
            return spans;
        };
        spans.push(dim(&rest[..at]));
        rest = &rest[at + name.len()..];
        spans.push(Span::styled(name, Style::new().fg(color(state))));
    }
}

fn dim(text: &str) -> Span<'static> {
    Span::styled(text.to_owned(), Style::new().fg(Color::DarkGray))
}
