//! Signed statements: from the text on a link to what counts in the ledger, and on to the others.
//!
//! ```text
//! text ─ parse ─ this session? ─ known? ─ may its issuer say it? ─ resolve ─ verify ─ pinned key? ─ admit ─ pass on
//! ```
//! Only what was verified is passed on. A refused statement never ends the session, except as proof of equivocation, of a
//! split, or of our identity elsewhere.

use super::{Event, Session, Stage, weak};
use crate::{
    ledger::Admission,
    limits::{MAX_DIGESTS, MAX_UNRESOLVED, PASS_ON_DELAY},
    link::{Frame, LinkId, Proven},
    message::{Confirm, Join, Pid},
    statement::{Parsed, Statement},
};
use quorate_identity::{Code, Did, Digest, Rejection, Verified};
use std::{sync::Arc, time::Instant};

impl Session {
    /// One statement from a proven link.
    pub(super) fn handle_statement(&mut self, link: LinkId, text: String, now: Instant) {
        let verified = match self.verify_statement(link, text, now) {
            Ok(Some(verified)) => verified,
            Ok(None) => return,
            Err(rejection) => return self.refuse_and_strike(link, rejection),
        };
        self.asked.remove(&verified.digest());
        if let Statement::Ready(ready) = &verified {
            return self.handle_ready(link, ready);
        }
        if *verified.issuer() == self.key.did() && !matches!(verified, Statement::Cancel(_)) {
            return self.handle_own(link, &verified, now);
        }
        self.admit(link, &verified, now);
    }

    /// Statements of `did` that waited for its keys.
    pub(super) fn resume_statements_of(&mut self, did: &Did, now: Instant) {
        let waiting = std::mem::take(&mut self.unresolved);
        for (link, text) in waiting {
            if Parsed::parse(&text).is_ok_and(|parsed| parsed.issuer() == did) {
                self.handle_statement(link, text, now);
            } else {
                self.unresolved.push_back((link, text));
            }
        }
    }

    fn verify_statement(
        &mut self,
        link: LinkId,
        text: String,
        now: Instant,
    ) -> Result<Option<Statement>, Rejection> {
        let parsed = Parsed::parse(&text)?;
        let issuer = parsed.issuer().clone();
        if parsed.invitation() != self.inv
            && !(weak!(self, NoJoinCheck) && matches!(parsed, Parsed::Join(_)))
        {
            return Err(
                Rejection::new(Code::Stale, "S4", "a statement of another session").about(issuer),
            );
        }
        if self.ledger.contains(&parsed.digest()) {
            if weak!(self, AlarmOnRepeat) {
                self.alarm("a statement arrived twice");
            }
            return Ok(None);
        }
        self.check_right(&parsed)?;
        let Some(keys) = self.keys_of(&issuer) else {
            if self.unresolved.len() < MAX_UNRESOLVED || weak!(self, LeakQueue) {
                self.unresolved.push_back((link, text));
                self.ask_for(&issuer);
            }
            return Ok(None);
        };
        let digest = parsed.digest();
        let verified = match parsed.verify(keys, self.wall(now)) {
            // Whoever passed it on may have seen it in time: refused for good, but no offence.
            Err(rejection) if rejection.code == Code::Time => {
                self.ledger.remember_refused(digest);
                self.refuse(link, rejection);
                return Ok(None);
            }
            verified => verified?,
        };
        self.check_pinned(&issuer, verified.thumbprint())?;
        Ok(Some(verified))
    }

    /// Whether the claimed issuer may make such a statement at all.
    fn check_right(&self, parsed: &Parsed) -> Result<(), Rejection> {
        let issuer = parsed.issuer();
        let listed = matches!(self.who_is(issuer), Some(Proven::Party(_)));
        let allowed = match parsed {
            Parsed::Cancel(_) => *issuer == self.invitation.issuer,
            _ => listed,
        };
        if allowed {
            return Ok(());
        }
        let (code, text) = match parsed {
            Parsed::Cancel(_) => (Code::NotIssuer, "a cancel that is not by the organizer"),
            Parsed::Abort(_) => (Code::NotIssuer, "an abort by somebody who is not a party"),
            _ => (
                Code::NotMember,
                "a statement by somebody who is not a party",
            ),
        };
        Err(Rejection::new(code, "S5", text).about(issuer.clone()))
    }

    /// C9: a party's statements count only with a key that the invitation pins.
    pub(super) fn check_pinned(&self, did: &Did, thumbprint: Digest) -> Result<(), Rejection> {
        let Some(pid) = self.invitation.subject.pid_of(did) else {
            return Ok(());
        };
        if self.invitation.subject.parties[pid.index()]
            .keys
            .contains(&thumbprint)
        {
            return Ok(());
        }
        Err(Rejection::new(
            Code::Kid,
            "C9",
            "signed by a key that the invitation does not pin",
        )
        .about(did.clone()))
    }

    /// A statement under our own DID that we did not just make.
    fn handle_own(&mut self, link: LinkId, statement: &Statement, now: Instant) {
        let Statement::Join(join) = statement else {
            return;
        };
        if self.is_over() {
            return;
        }
        if join.epoch >= self.stored.epoch {
            let text = "a join under your identity that this session did not make";
            self.alarm_identity(join, text);
            return self.fail(Code::IdentityElsewhere, Some(self.me), text, true, now);
        }
        // An older join is our own before a crash, unless the one who made it is alive at the other end.
        if self
            .links
            .get(&link)
            .is_some_and(|link| link.pid() == Some(self.me))
        {
            // Once our own join is out, the others may already build on it; `fail` tells nobody before.
            let text = "this identity already takes part from another place";
            self.fail(Code::AlreadyJoined, Some(self.me), text, true, now);
        }
    }

    fn alarm_identity(&mut self, join: &Verified<Join>, text: &str) {
        let own = self
            .ledger
            .join(self.me)
            .map(|own| own.text().to_string())
            .unwrap_or_default();
        self.emit(Event::Evidence {
            pid: self.me,
            statements: [own, join.text().to_string()],
        });
        let rejection = Rejection::new(Code::IdentityElsewhere, "S4", text).about(join.iss.clone());
        self.emit(Event::Refused {
            link: None,
            from: Some(join.iss.clone()),
            rejection,
        });
    }

    fn admit(&mut self, link: LinkId, statement: &Statement, now: Instant) {
        // Once the session fails, only what completes its record is still of use.
        if self.is_over() && !matches!(statement, Statement::Receipt(_)) {
            return;
        }
        let pid = self
            .invitation
            .subject
            .pid_of(statement.issuer())
            .unwrap_or(self.me);
        let at = self.wall(now);
        match self.ledger.admit(statement, pid, at) {
            Ok(Admission::Known) => {}
            Ok(Admission::New) => {
                if let Statement::Confirm(confirm) = statement {
                    self.compare_confirm(link, pid, confirm);
                }
                self.pass_on(statement, link, now);
                if matches!(statement, Statement::Cancel(_)) {
                    // Who cancels has no other way to know that it was heard.
                    let digests = vec![statement.digest()];
                    self.transmit(link, &Frame::Have { digests });
                }
                if matches!(statement, Statement::Join(_)) {
                    self.show_end_to(pid);
                }
            }
            Ok(Admission::Equivocation(first, second)) => {
                self.emit(Event::Evidence {
                    pid,
                    statements: [first.to_string(), second.to_string()],
                });
                for other in self.proven_links() {
                    self.send_statements(other, &[first.clone(), second.clone()]);
                }
                let text = "signed two different joins of one epoch";
                self.fail(Code::Equivocation, Some(pid), text, true, now);
            }
            Err(rejection) => self.refuse_admission(link, pid, rejection),
        }
    }

    /// A member that floods is struck on its own link; one that passes on what others sign is not.
    fn refuse_admission(&mut self, link: LinkId, issuer: Pid, rejection: Rejection) {
        let own = self.links.get_mut(&link);
        let own = own.filter(|link| link.pid() == Some(issuer));
        if own.is_some_and(|link| rejection.code != Code::Stale || link.note_stale()) {
            self.refuse_and_strike(link, rejection);
        } else {
            self.refuse(link, rejection);
        }
    }

    /// A confirm of the same joins under another digest cannot heal; say so at once.
    fn compare_confirm(&mut self, link: LinkId, pid: Pid, confirm: &Verified<Confirm>) {
        let Stage::Confirming(agreement) = &self.stage else {
            return;
        };
        let roster = &agreement.roster;
        if confirm.roster != roster.digest() && confirm.joins == roster.joins() {
            let text = format!(
                "party {pid} confirms another roster of the same joins: it sees another key of a party"
            );
            self.refuse(
                link,
                Rejection::new(Code::RosterMismatch, "S6", text).about(confirm.iss.clone()),
            );
        }
    }

    /// Enters an own statement and sends it to everybody it is for.
    pub(super) fn publish(&mut self, statement: &Statement, now: Instant) {
        let at = self.wall(now);
        match self.ledger.admit(statement, self.me, at) {
            Ok(Admission::New | Admission::Known) => {}
            Ok(Admission::Equivocation(..)) => {
                return self.alarm("we would have signed two joins of one epoch");
            }
            Err(rejection) => {
                return self.alarm(&format!("our own statement is refused: {rejection}"));
            }
        }
        let receiver = match statement {
            Statement::Kem(kem) => Some(kem.to),
            _ => None,
        };
        let direct = |pid: Option<Pid>| receiver.is_none() || pid == receiver;
        let reachable = self
            .links
            .values()
            .any(|link| link.pid().is_some() && direct(link.pid()));
        let texts = self.with_what_it_needs(statement);
        for link in self.proven_links() {
            let pid = self.links.get(&link).and_then(crate::link::Link::pid);
            if direct(pid) || !reachable {
                self.send_statements(link, &texts);
            }
        }
    }

    /// An abort counts only together with its issuer's join, which a receiver may not have; and whoever holds both ends at
    /// once, before the join would be announced. So they travel together, whichever of the two came last.
    fn with_what_it_needs(&self, statement: &Statement) -> Vec<Arc<str>> {
        let pid = self.invitation.subject.pid_of(statement.issuer());
        let join = pid.and_then(|pid| self.ledger.join(pid));
        match (statement, pid, join) {
            (Statement::Abort(abort), _, Some(join)) if join.epoch == abort.epoch => {
                vec![join.text().clone(), abort.text().clone()]
            }
            (Statement::Join(join), Some(pid), _) => std::iter::once(join.text())
                .chain(self.ledger.abort(pid).map(Verified::text))
                .cloned()
                .collect(),
            _ => vec![statement.text().clone()],
        }
    }

    /// Passes a verified statement on: what ends a session in full, the rest by name.
    fn pass_on(&mut self, statement: &Statement, from: LinkId, now: Instant) {
        let texts = self.with_what_it_needs(statement);
        let urgent = matches!(
            statement,
            Statement::Abort(_) | Statement::Cancel(_) | Statement::Receipt(_)
        ) || texts.len() > 1;
        let receiver = match statement {
            Statement::Kem(kem) => Some(kem.to),
            _ => None,
        };
        if receiver == Some(self.me) {
            return;
        }
        if !urgent {
            self.news.insert(statement.digest());
            self.news_at.get_or_insert(now + PASS_ON_DELAY);
            return;
        }
        for link in self.proven_links().into_iter().filter(|link| *link != from) {
            self.send_statements(link, &texts);
        }
    }

    /// Announces what is new since the last time.
    pub(super) fn announce_news(&mut self, now: Instant) {
        self.news_at = None;
        let at = self.wall(now);
        let news: Vec<Digest> = std::mem::take(&mut self.news)
            .into_iter()
            .filter(|digest| !self.ledger.is_expired(digest, at))
            .collect();
        for link in self.proven_links() {
            for chunk in news.chunks(MAX_DIGESTS) {
                self.transmit(
                    link,
                    &Frame::Have {
                        digests: chunk.to_vec(),
                    },
                );
            }
        }
    }
}
