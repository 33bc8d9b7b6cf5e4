//! How much of something is taken from the peer.

use std::time::{Duration, Instant};

/// A counter that starts again with each window.
#[derive(Debug)]
pub(super) struct Budget {
    start: Instant,
    used: u32,
    window: Duration,
    limit: u32,
}

impl Budget {
    pub(super) fn new(window: Duration, limit: u32, now: Instant) -> Self {
        Self {
            start: now,
            used: 0,
            window,
            limit,
        }
    }

    pub(super) fn spend(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.start) >= self.window {
            self.start = now;
            self.used = 0;
        }
        self.used = self.used.saturating_add(1);
        self.used <= self.limit
    }
}
