//! The screen of `tcp-user top`, laid out for 80×24 and more.

use super::{Model, diagram};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Paragraph, Sparkline};

/// What is below it is told instead of being drawn.
const LEAST: (u16, u16) = (80, 24);

pub(super) fn draw(frame: &mut Frame<'_>, model: &Model) {
    let area = frame.area();
    if area.width < LEAST.0 || area.height < LEAST.1 {
        let text = format!(
            "{}×{} is too small: {}×{}",
            area.width, area.height, LEAST.0, LEAST.1
        );
        frame.render_widget(Paragraph::new(text), area);
        return;
    }
    let lines = model.lines.len() as u16;
    let [title, upper, lower] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(lines + 2),
        Constraint::Min(diagram::HEIGHT + 2),
    ])
    .areas(area);
    self::title(frame, model, title);
    let left = Constraint::Min(diagram::WIDTH + 2);
    // The right column takes a third of what is more than needed.
    let right = 25 + (area.width - LEAST.0) / 3;
    let [rates, refused] = Layout::horizontal([left, Constraint::Length(right)]).areas(upper);
    self::rates(frame, model, rates);
    self::refused(frame, model, refused);
    let [states, peers] = Layout::horizontal([left, Constraint::Length(right)]).areas(lower);
    self::states(frame, model, states);
    let listens = (model.stats.listens.len() as u16 + 2)
        .min(lower.height / 3)
        .max(4);
    let [peers, listens] =
        Layout::vertical([Constraint::Min(3), Constraint::Length(listens)]).areas(peers);
    self::peers(frame, model, peers);
    self::listens(frame, model, listens);
}

fn block(title: &str) -> Block<'static> {
    Block::bordered()
        .border_style(Style::new().fg(Color::DarkGray))
        .title(Span::styled(
            format!(" {title} "),
            Style::new().fg(Color::Cyan).add_modifier(Modifier::BOLD),
        ))
}

fn title(frame: &mut Frame<'_>, model: &Model, area: Rect) {
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let keys = if model.paused {
        Span::styled("PAUSED  p goes on  q quits ", bold.fg(Color::Yellow))
    } else {
        Span::styled("p pauses  q quits ", Style::new().fg(Color::DarkGray))
    };
    let [left, right] =
        Layout::horizontal([Constraint::Min(0), Constraint::Length(keys.width() as u16)])
            .areas(area);
    let name = Line::from(vec![
        Span::styled(" tcp-xdp ", bold.fg(Color::Cyan)),
        Span::raw(model.server.clone()),
    ]);
    frame.render_widget(name, left);
    frame.render_widget(keys, right);
}

fn rates(frame: &mut Frame<'_>, model: &Model, area: Rect) {
    let block = block("per second");
    let inner = block.inner(area);
    frame.render_widget(block, area);
    for (i, line) in model.lines.iter().enumerate() {
        let row = Rect {
            y: inner.y + i as u16,
            height: 1,
            ..inner
        };
        let [text, graph] =
            Layout::horizontal([Constraint::Length(20), Constraint::Min(0)]).areas(row);
        let color = if line.name == "refused" && line.now > 0.0 {
            Color::Red
        } else {
            Color::Green
        };
        let text_line = Line::from(vec![
            Span::raw(format!(" {:<10}", line.name)),
            Span::styled(
                format!("{:>8} ", short(line.now)),
                Style::new().fg(color).add_modifier(Modifier::BOLD),
            ),
        ]);
        frame.render_widget(text_line, text);
        let fits = line.history.len().saturating_sub(usize::from(graph.width));
        let data: Vec<u64> = line.history.iter().skip(fits).copied().collect();
        frame.render_widget(Sparkline::default().data(&data).style(color), graph);
    }
}

fn refused(frame: &mut Frame<'_>, model: &Model, area: Rect) {
    let rows = model
        .refused
        .iter()
        .map(|(name, rate, total)| {
            // Of what has stopped, the total.
            let (text, color) = if *rate > 0.0 {
                (format!("{}/s", short(*rate)), Color::Red)
            } else {
                (short(*total as f64), Color::DarkGray)
            };
            (name.clone(), text, color)
        })
        .collect();
    table(frame, "refused", rows, "nothing", area);
}

fn states(frame: &mut Frame<'_>, model: &Model, area: Rect) {
    let total: u64 = model.stats.states.values().sum();
    let block = block(&format!("connections: {}", grouped(total)));
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let lines = diagram::lines(|state| {
        let name = state.to_string();
        model.stats.states.get(&name).copied().unwrap_or(0)
    });
    let x = inner.x + (inner.width - diagram::WIDTH) / 2;
    let y = inner.y + (inner.height - diagram::HEIGHT) / 2;
    let middle = Rect::new(x, y, diagram::WIDTH, diagram::HEIGHT);
    frame.render_widget(Paragraph::new(lines), middle);
}

fn peers(frame: &mut Frame<'_>, model: &Model, area: Rect) {
    let rows = model
        .peers
        .iter()
        .map(|(peer, rate)| {
            let color = if *rate > 0.0 {
                Color::Green
            } else {
                Color::DarkGray
            };
            (peer.to_string(), format!("{}B/s", short(*rate)), color)
        })
        .collect();
    table(frame, "busiest peers", rows, "nobody", area);
}

fn listens(frame: &mut Frame<'_>, model: &Model, area: Rect) {
    let rows = model
        .stats
        .listens
        .iter()
        .map(|l| {
            let rate = model.rates.listens.get(&l.listen.place);
            let rate = rate.copied().unwrap_or(0.0);
            let color = if rate > 0.0 {
                Color::Green
            } else {
                Color::DarkGray
            };
            let name = format!("{} {}", l.listen.place, l.listen.app);
            (name, format!("{}/s", short(rate)), color)
        })
        .collect();
    table(frame, "accepted", rows, "no listens", area);
}

/// Names on the left, values on the right; what does not fit is counted in the last row.
fn table(
    frame: &mut Frame<'_>,
    title: &str,
    rows: Vec<(String, String, Color)>,
    none: &str,
    area: Rect,
) {
    let block = block(title);
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let width = usize::from(inner.width);
    let dim = Style::new().fg(Color::DarkGray);
    if rows.is_empty() {
        frame.render_widget(Line::styled(format!(" {none}"), dim), inner);
        return;
    }
    let height = usize::from(inner.height);
    let shown = if rows.len() > height {
        height.saturating_sub(1)
    } else {
        height
    };
    let more = rows.len().saturating_sub(shown);
    let mut lines: Vec<Line<'_>> = rows
        .into_iter()
        .take(shown)
        .map(|(name, value, color)| {
            let room = width.saturating_sub(value.chars().count() + 3);
            Line::from(vec![
                Span::raw(format!(" {:<room$} ", cut(&name, room))),
                Span::styled(value, Style::new().fg(color)),
            ])
        })
        .collect();
    if more > 0 {
        lines.push(Line::styled(format!(" and {more} more"), dim));
    }
    frame.render_widget(Paragraph::new(lines), inner);
}

/// The front of a name that is too long.
fn cut(name: &str, room: usize) -> String {
    if name.chars().count() <= room {
        return name.to_owned();
    }
    let mut front: String = name.chars().take(room.saturating_sub(1)).collect();
    front.push('…');
    front
}

/// At most six characters: `12345`, `123.4k`, `1.234M`.
fn short(value: f64) -> String {
    for (unit, factor) in [("G", 1e9), ("M", 1e6), ("k", 1e3)] {
        if value >= factor * 100.0 {
            return format!("{:.1}{unit}", value / factor);
        }
        if value >= factor * 10.0 || (value >= factor && factor > 1e3) {
            return format!("{:.2}{unit}", value / factor);
        }
    }
    format!("{value:.0}")
}

/// `1,234,567`.
fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_grouped() {
        let shorts = [0.0, 999.4, 9_999.0, 12_340.0, 184_760.0, 1_234_567.0, 2.5e9];
        let texts: Vec<String> = shorts.iter().map(|n| short(*n)).collect();
        assert_eq!(
            texts,
            ["0", "999", "9999", "12.34k", "184.8k", "1.23M", "2.50G"]
        );
        assert_eq!(
            [grouped(1), grouped(1234), grouped(1_234_567)],
            ["1", "1,234", "1,234,567"]
        );
        assert_eq!(cut("drop_flow_table_full", 10), "drop_flow…");
    }
}
