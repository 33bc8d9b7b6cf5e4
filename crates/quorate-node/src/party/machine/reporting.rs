//! What the user is told while the session goes on: the mesh once, waits when they change or last.

use std::time::Duration;

use super::{Machine, Waiting, clock, show};
use crate::party::{LinkReport, PartyEvent};

/// The word for a path that this end has not chosen yet, although the other end may use one.
const DOWN: &str = "down";
/// How often a wait is reported again while nothing changes.
const WAITING_INTERVAL: Duration = Duration::from_secs(30);
/// How long a party may hold the start before the others are told that they wait for it.
const START_PATIENCE: Duration = Duration::from_secs(2);

impl Machine {
    /// Shows the mesh once, as soon as every round trip is known, or at the latest when the program
    /// is connected over it.
    pub(super) fn report_mesh(&mut self, at_the_latest: bool) {
        let Some(installed) = self.installed.as_mut().filter(|i| !i.reported) else {
            return;
        };
        let session = &self.session;
        let peers = &installed.plan.peers;
        // The cheap question first: it is asked after every event.
        if !at_the_latest && peers.iter().any(|p| session.rtt(p.pid).is_none()) {
            return;
        }
        let paths = installed.mesh.links();
        if !at_the_latest && paths.iter().any(|l| l.path == DOWN) {
            return;
        }
        installed.reported = true;
        let path = |index| {
            paths
                .iter()
                .find(|l| l.index == index)
                .map_or_else(String::new, |l| l.path.clone())
        };
        let micros = |rtt: Duration| u64::try_from(rtt.as_micros()).ok();
        let links = peers.iter().map(|peer| LinkReport {
            index: peer.pid.0,
            path: path(peer.pid.0),
            rtt_us: session.rtt(peer.pid).and_then(micros),
        });
        show(
            &self.events,
            PartyEvent::Mesh {
                links: links.collect(),
            },
        );
    }

    /// Says that an earlier start of this session here got as far as a run that came to nothing.
    pub(super) fn report_lost_run(&self) {
        let lost = self.session.runs();
        if lost > 0 {
            let text = format!(
                "run {lost} of this session was lost here; if all take part again, the next is run {}",
                lost + 1
            );
            show(&self.events, PartyEvent::Note { text });
        }
    }

    /// Tells who is waited for: when that changes, and every [`WAITING_INTERVAL`].
    pub(super) fn report_waiting(&mut self) {
        let now = clock::now();
        let state = self.session.state();
        let parties = || self.session.waiting().map(|(pid, _)| pid.0);
        let what = self.session.waiting().next().map_or("", |(_, what)| what);
        let same = state == self.waiting.state && what == self.waiting.what;
        if !same || !parties().eq(self.waiting.parties.iter().copied()) {
            // In a healthy session the start is a matter of milliseconds.
            let patience = match what {
                "start" => START_PATIENCE,
                _ => Duration::ZERO,
            };
            self.waiting = Waiting {
                parties: parties().collect(),
                what,
                state,
                since: now,
                next_report: now + patience,
            };
        }
        if now < self.waiting.next_report {
            return;
        }
        self.waiting.next_report = now + WAITING_INTERVAL;
        if !self.waiting.parties.is_empty() {
            show(
                &self.events,
                PartyEvent::Waiting {
                    parties: self.waiting.parties.clone(),
                    what: what.into(),
                    seconds: (now - self.waiting.since).as_secs(),
                },
            );
        }
    }
}
