//! When the program may start: at once, at a time, or when the user says so.

use std::time::{Duration, Instant};

use quorate_identity::UnixTime;

use super::{Machine, clock, show};
use crate::party::{PartyEvent, Start};

/// The user's hold on the start of one session.
pub(super) struct Gate {
    start: Start,
    open: bool,
    shown: bool,
}

impl Gate {
    pub fn new(start: Start) -> Self {
        let open = matches!(start, Start::WhenFull);
        Self {
            start,
            open,
            shown: false,
        }
    }

    pub fn is_open(&self) -> bool {
        self.open
    }

    /// Comes back when the start is given free, and never if it was before.
    pub async fn opened(&mut self) {
        match &mut self.start {
            _ if self.open => std::future::pending().await,
            Start::WhenFull => {}
            Start::At(time) => {
                let (now, wall) = (clock::now(), clock::wall());
                tokio::time::sleep_until(instant(*time, wall, now).into()).await;
            }
            Start::Ask(said) => {
                if said.wait_for(|yes| *yes).await.is_err() {
                    // Nobody is there any more who could say it; the deadline ends the wait.
                    std::future::pending::<()>().await;
                }
            }
        }
    }
}

/// When `time` will be; at once if it has passed.
fn instant(time: UnixTime, wall: UnixTime, now: Instant) -> Instant {
    let seconds = u64::try_from(time.0.saturating_sub(wall.0)).unwrap_or(0);
    now + Duration::from_secs(seconds)
}

impl Machine {
    /// The start is given free.
    pub(super) fn release_start(&mut self) {
        self.gate.open = true;
        self.session.release_start(clock::wall(), clock::now());
    }

    /// Tells once that everybody else is ready and the start is this user's.
    pub(super) fn report_hold(&mut self) {
        if !self.gate.shown && self.session.awaits_release() {
            self.gate.shown = true;
            let state = "held".into();
            // The one that would come next.
            let run = self.session.runs() + 1;
            show(&self.events, PartyEvent::Program { state, run });
        }
    }
}
