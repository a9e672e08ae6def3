//! RFC 863: reads and drops; closes when the peer does.

use super::Context;

/// State of a discard connection.
#[derive(Default)]
pub(super) struct Discard {
    finished: bool,
}

impl Discard {
    pub(super) fn run(&mut self, cx: &mut Context<'_>) {
        cx.discard();
        if !self.finished && cx.endpoint.is_read_closed(cx.id) {
            self.finished = true;
            cx.shutdown();
        }
    }
}
