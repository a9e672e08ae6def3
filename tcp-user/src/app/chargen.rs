//! RFC 864: the rotating pattern of 72-character lines, until the peer closes.

use super::Context;

const LINE: usize = 74;
/// The pattern repeats after 95 lines.
const PERIOD: usize = 95 * LINE;

/// The pattern twice, so that a whole period starts anywhere in the first.
pub(super) struct Pattern(Box<[u8]>);

impl Pattern {
    pub(super) fn new() -> Self {
        let lines = (0..2 * 95).flat_map(|line| {
            (0..LINE - 2)
                .map(move |column| b' ' + ((line + column) % 95) as u8)
                .chain(*b"\r\n")
        });
        Self(lines.collect())
    }
}

/// State of a chargen connection.
#[derive(Default)]
pub(super) struct Chargen {
    position: usize,
    finished: bool,
}

impl Chargen {
    pub(super) fn run(&mut self, cx: &mut Context<'_>) {
        cx.discard();
        if self.finished {
            return;
        }
        if cx.draining || cx.endpoint.is_read_closed(cx.id) {
            self.finished = true;
            cx.finish();
            return;
        }
        loop {
            let data = &cx.shared.chargen.0[self.position..self.position + PERIOD];
            let Ok(taken) = cx.endpoint.write(cx.now, cx.id, data) else {
                return;
            };
            self.position = (self.position + taken) % PERIOD;
            if taken < PERIOD {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_shift_by_one() {
        let pattern = Pattern::new();
        let line = |i: usize| &pattern.0[i * LINE..(i + 1) * LINE];
        assert_eq!(line(0)[..3], *b" !\"");
        assert_eq!(line(1)[..3], *b"!\"#");
        assert!(line(94).ends_with(b"\r\n"));
        assert_eq!(line(0), line(95));
        assert_eq!(pattern.0.len(), 2 * PERIOD);
    }
}
