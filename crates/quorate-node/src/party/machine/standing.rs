//! How the session stands, written on its board; and what the user tells it through the control socket.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use quorate_identity::{Code, Rejection, UnixTime};
use quorate_path::Reason;
use quorate_session::{Misuse, Outcome, Pid, State, safety_words};

use super::{Machine, clock};
use crate::{
    Fault,
    control::{self, Command, EndStatus, Life, LinkStatus, seen_from},
};

/// How often the figures of the links are brought up to date while a mesh is there.
const REFRESH: Duration = Duration::from_secs(1);
/// The same while only states can change, which are written at once anyway.
const IDLE_REFRESH: Duration = Duration::from_secs(30);

/// What was written last, so that the rest of the loop costs nothing.
pub(super) struct Standing {
    /// When the figures are looked at again.
    pub next: Instant,
    state: Option<State>,
    /// Since when the path to a party is what it is.
    since: BTreeMap<u16, (String, String)>,
}

impl Standing {
    pub fn new(now: Instant) -> Self {
        Self {
            next: now,
            state: None,
            since: BTreeMap::new(),
        }
    }
}

impl Machine {
    /// Something changed that is worth writing at once.
    pub(super) fn stands_otherwise(&mut self) {
        self.standing.next = clock::now();
    }

    /// Why the path to a party is what it is, with the names of the two ends.
    pub(super) fn in_words(&self, index: u16, reason: Reason) -> String {
        let parties = &self.config.invitation.subject.parties;
        let name = |pid: Pid| parties.get(pid.index()).map_or("?", |p| p.name.as_str());
        reason.sentence(name(self.session.me()), name(Pid(index)))
    }

    /// Writes how the session stands: when its state changed, and now and then for the figures.
    pub(super) fn report_standing(&mut self) {
        let now = clock::now();
        let state = self.session.state();
        if self.standing.state == Some(state) && now < self.standing.next {
            return;
        }
        self.standing.state = Some(state);
        self.standing.next = now
            + if self.installed.is_some() {
                REFRESH
            } else {
                IDLE_REFRESH
            };
        let links = self.links();
        let times = self.config.invitation.subject.time;
        let expires = match state {
            State::Invited | State::Joining => times.join_by,
            State::Confirming | State::Keyed | State::Ready => times.start_by,
            State::Running | State::Closing | State::Closed => times.end_by,
        };
        let views = self.session.parties();
        let run = self.session.runs();
        let roster = self.session.roster().filter(|_| self.installed.is_some());
        let words = roster.map(|roster| safety_words(&roster));
        let me = self.session.me();
        let serving = &self.serving;
        self.desk.board().update(|status| {
            status.state = Life::of(state);
            if let Some(words) = words {
                status.words = words.iter().map(|word| (*word).to_owned()).collect();
            }
            status.phase = format!("{state:?}").to_lowercase();
            status.run = run;
            status.expires = expires.rfc3339();
            status.links = links;
            for (party, view) in status.parties.iter_mut().zip(&views) {
                party.state = format!("{:?}", view.phase).to_lowercase();
                party.waiting_for = view.waiting_for.map(str::to_owned);
                party.relays = serving.serves(view.pid, me);
            }
        });
    }

    fn links(&mut self) -> Vec<LinkStatus> {
        let Some(installed) = &self.installed else {
            self.standing.since.clear();
            return Vec::new();
        };
        let me = installed.plan.me.0;
        let at = clock::wall().rfc3339();
        let mut links = Vec::new();
        for link in installed.mesh.links() {
            let detail = self.in_words(link.index, link.reason);
            let since = self.standing.since.entry(link.index).or_default();
            // A path that is down says for how long, which changes all the time.
            let word = link.path.split(" since ").next().unwrap_or_default();
            if since.0 != word {
                *since = (word.to_owned(), at.clone());
            }
            // One measurement that both ends know; the session's own until there is one.
            let rtt = link.rtt.or(self.session.rtt(Pid(link.index)));
            links.push(LinkStatus {
                a: me.min(link.index),
                b: me.max(link.index),
                via: link.via,
                path: link.path,
                rtt_ms: rtt.map(|rtt| (rtt.as_secs_f64() * 10_000.0).round() / 10.0),
                tx: link.tx,
                rx: link.rx,
                reason: link.reason.code().into(),
                detail,
                since: since.1.clone(),
                overlay: self.serving.is_direct(Pid(link.index)).map(|direct| {
                    let word = if direct { "direct" } else { "relayed" };
                    word.to_owned()
                }),
            });
        }
        links
    }

    /// Writes how it ended, and keeps it for `quorate status`.
    pub(super) fn show_end(&mut self, outcome: &Result<Outcome, Fault>) {
        let at = clock::wall().rfc3339();
        let me = self.session.me();
        let count = |receipts: &[String]| u16::try_from(receipts.len()).unwrap_or(u16::MAX);
        let (state, end) = match outcome {
            Ok(Outcome::Finished { receipts, .. }) => {
                let detail = "the program ended well".into();
                let end = EndStatus {
                    at,
                    exit: 0,
                    code: None,
                    detail,
                    whom: None,
                    receipts: count(receipts),
                };
                (Life::Finished, end)
            }
            Ok(Outcome::Failed {
                code,
                whom,
                detail,
                receipts,
            }) => {
                let code = seen_from(*code, *whom, me);
                let end = EndStatus {
                    at,
                    exit: code.exit_code(),
                    code: Some(code.as_str().into()),
                    detail: detail.clone(),
                    whom: whom.map(|pid| pid.0),
                    receipts: count(receipts),
                };
                (Life::Aborted, end)
            }
            Err(fault) => {
                let end = EndStatus {
                    at,
                    exit: fault.code.exit_code(),
                    code: Some(fault.code.as_str().into()),
                    detail: fault.detail.clone(),
                    whom: Some(me.0),
                    receipts: 0,
                };
                (Life::Aborted, end)
            }
        };
        let run = self.session.runs();
        self.desk.board().update(|status| {
            status.state = state;
            status.phase = "closed".into();
            status.run = run;
            status.end = Some(end);
            for party in &mut status.parties {
                party.waiting_for = None;
                party.relays = false;
            }
        });
        let mut last = self.desk.board().now();
        // It is read only after the folder is gone.
        last.state = Life::Clean;
        last.links.clear();
        if let Err(fault) = control::keep(&self.config.home, &last) {
            tracing::warn!(%fault, "how the session ended is not kept for `quorate status`");
        }
    }

    pub(super) fn on_command(&mut self, command: Command, at: UnixTime, now: Instant) {
        match command {
            Command::Leave(reply) => {
                let me = self.session.me();
                self.session
                    .abort(Code::Left, Some(me), "left the session", at, now);
                reply.send(Ok(()));
            }
            Command::Cancel { reason, reply } => {
                let result = self.session.cancel(&reason, at, now);
                reply.send(result.map_err(|misuse| {
                    let code = match misuse {
                        Misuse::NotIssuer => Code::NotIssuer,
                        Misuse::Over | Misuse::NotInvited => Code::NoSession,
                    };
                    Rejection::new(code, "S9", misuse.to_string())
                }));
            }
        }
    }
}
