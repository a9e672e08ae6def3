//! RFC 862: every octet comes back. After the peer's FIN the rest is returned, then ours.

use super::Context;

/// State of an echo connection.
#[derive(Default)]
pub(super) struct Echo {
    finished: bool,
}

impl Echo {
    pub(super) fn run(&mut self, cx: &mut Context<'_>) {
        if self.finished {
            return;
        }
        loop {
            let len = cx.peek();
            if len == 0 {
                break;
            }
            let data = &cx.shared.scratch[..len];
            let Ok(taken) = cx.endpoint.write(cx.now, cx.id, data) else {
                return;
            };
            cx.consume(taken);
            if taken < len {
                // `Writable` continues.
                return;
            }
        }
        if cx.endpoint.is_read_closed(cx.id) {
            self.finished = true;
            cx.shutdown();
        }
    }
}
