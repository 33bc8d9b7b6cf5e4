//! `join TICKET`: from a ticket to the closed invitation.
//!
//! ```text
//! look for the inviter ─► call ─► checked, shown, asked ─► apply ─► asked ─► admitted ─► invitation
//!                                       │ no                         │ no
//!                                       ▼ nothing was told           ▼ E_NOT_ADMITTED
//! ```
//! Security. Requires: the lobby checked the call against the ticket and the invitation against the
//! call. Provides: nothing is told about this user before the person said yes to the call.

use std::time::Duration;

use quorate_identity::{Code, Verified};
use quorate_node::files::Inbox;
use quorate_node::lobby::{self, ApplicantConfig, ApplicantEvent, ApplicantHandle};
use quorate_session::{Bundle, Invitation, ProgramSource, Ticket, message::Call};
use tokio::sync::mpsc;

use super::{
    Claim, Consent, Invited, Options, Sent, User, agree, privacy, readiness, show_machine, stopped,
    unreached::{LOOKING, Refusals, Sought},
};
use crate::{
    failure::Failure,
    invitation::{People, check_args, describe_call},
    text,
    waiting::Waiting,
};

/// After this long without the inviter, the next step is said too.
const HINT_AFTER: Duration = Duration::from_secs(30);

/// Somebody who asks for a seat.
struct Applying<'u, 'g> {
    user: &'u User<'g>,
    options: &'u mut Options,
    name: String,
    handle: ApplicantHandle,
    events: mpsc::Receiver<ApplicantEvent>,
    waiting: Waiting<'g>,
    /// Addresses in the ticket.
    hints: Vec<String>,
    refusals: Refusals,
    call: Option<Verified<Call>>,
    /// The program that came along with it.
    sent: Option<Sent>,
}

/// Asks for a seat at the inviter of `ticket` as `name` and waits for the closed invitation.
pub async fn apply(
    user: &User<'_>,
    ticket: Ticket,
    options: &mut Options,
    name: String,
) -> Result<(Invited, Consent), Failure> {
    let hints = ticket.hints().to_vec();
    let (handle, events) = lobby::apply(ApplicantConfig {
        key: user.identity.key.clone(),
        ticket,
        scope: options.overlay_scope(),
        at: options.at.clone(),
        reach: options.reach.clone(),
    })
    .await?;
    let mut applying = Applying {
        user,
        options,
        name,
        handle,
        events,
        waiting: Waiting::new(user.global, HINT_AFTER),
        hints,
        refusals: Refusals::default(),
        call: None,
        sent: None,
    };
    let done = applying.until_invited().await;
    let Applying { handle, .. } = applying;
    if done.is_err() {
        handle.leave().await;
    }
    handle.stop().await;
    done
}

impl Applying<'_, '_> {
    async fn until_invited(&mut self) -> Result<(Invited, Consent), Failure> {
        self.waiting.begin(
            "looking",
            "for the inviter",
            "is `quorate invite` still running there? Give its address with --at; Ctrl-C stops",
        );
        let mut stop = self.user.stop.clone();
        let patience = self.options.patience.unwrap_or(LOOKING);
        let out_of_time = tokio::time::sleep(patience);
        tokio::pin!(out_of_time);
        loop {
            let event = tokio::select! {
                biased;
                _ = stop.wait_for(|s| *s != quorate_node::party::Stop::No) => return Err(stopped()),
                event = self.events.recv() => event,
                // Who has shown the call was reached; from then on its own deadlines count.
                () = &mut out_of_time, if self.call.is_none() => {
                    self.waiting.end();
                    return Err(self.not_found(patience));
                }
                () = self.waiting.tick() => continue,
            };
            let Some(event) = event else {
                return Err(Failure::new(Code::Internal, "the application ended"));
            };
            if let Some(invited) = self.on_event(event).await? {
                return Ok(invited);
            }
        }
    }

    fn not_found(&self, patience: Duration) -> Failure {
        let sought = Sought {
            cause: "the inviter could not be reached",
            source: "the ticket",
            addresses: &self.hints,
            question: "is `quorate invite` still running there?",
        };
        let failure = sought.not_found(patience, self.options);
        self.refusals.explain(failure, &self.options.reach.relays)
    }

    async fn on_event(
        &mut self,
        event: ApplicantEvent,
    ) -> Result<Option<(Invited, Consent)>, Failure> {
        match event {
            ApplicantEvent::Found { address } => {
                self.user.event("found", &[("address", address.into())]);
            }
            ApplicantEvent::Lost => {
                self.user.event("lost", &[]);
                self.waiting.begin(
                    "lost",
                    "the inviter; looking again",
                    "is `quorate invite` still running there? Ctrl-C stops",
                );
            }
            ApplicantEvent::Call { call, program } if self.call.is_none() => {
                self.on_call(*call, program.as_ref()).await?;
            }
            ApplicantEvent::Call { .. } => {}
            ApplicantEvent::Asked { words } => self.on_asked(&words.join(" ")),
            ApplicantEvent::Admitted { place } => {
                self.waiting.end();
                self.user.event("admitted", &[("place", place.into())]);
                self.user.show([text::row(
                    "admitted",
                    "you have a seat; waiting for the others",
                )]);
                self.waiting
                    .begin("waiting", "for the other seats", "Ctrl-C gives yours back");
            }
            ApplicantEvent::Invitation { bundle, invitation } => {
                self.waiting.end();
                return Ok(Some(self.invited(*bundle, *invitation)?));
            }
            ApplicantEvent::Declined(rejection) | ApplicantEvent::Closed(rejection) => {
                self.waiting.end();
                return Err(rejection.into());
            }
            ApplicantEvent::RelayRefused { relay, code, text } => {
                let user = self.user;
                self.waiting
                    .aside(|| user.relay_refused(&relay, code, &text));
                self.refusals.add(relay, code);
            }
            ApplicantEvent::Note(note) => self.waiting.aside(|| self.user.note(&note)),
        }
        Ok(None)
    }

    /// Everything that could stop this user later is looked at before anybody is asked for a seat.
    async fn on_call(
        &mut self,
        call: Verified<Call>,
        source: Option<&ProgramSource>,
    ) -> Result<(), Failure> {
        self.waiting.end();
        let user = self.user;
        readiness::check_deadline(call.subject.time.apply_by)?;
        readiness::check_scope(call.subject.net.path, self.options.scope)?;
        readiness::check_policy(call.subject.net.path)?;
        let engine = call.subject.mpc.engine().unwrap_or_default();
        check_args(&call.subject.program, engine, &call.issuer)?;
        let people = People {
            contacts: user.contacts()?,
            me: user.identity.key.did(),
        };
        user.event(
            "call",
            &[
                ("digest", call.digest().to_string().into()),
                ("issuer", call.issuer.to_string().into()),
                ("name", call.subject.name.clone().into()),
                ("title", call.subject.title.clone().into()),
            ],
        );
        privacy::check_keys([&user.identity.key.did(), &call.issuer])?;
        let mpc = &call.subject.mpc;
        privacy::check_threshold(mpc, self.options.no_privacy)?;
        readiness::check_arguments(engine, &call.subject.program.args, mpc.m.into())?;
        let sent = Sent::look_for(source, &call.subject.program, self.options)?;
        user.show(describe_call(&call, &people));
        user.show(sent.as_ref().map(|s| s.line(self.options)));
        let mut options = self.options.clone();
        options.program = options.program.or(sent.as_ref().map(|s| s.files.clone()));
        let others_see = format!(
            "your name {:?}, your DID, your network address; shares; what the program opens to all",
            self.name
        );
        let wanted = (&call.subject.program, engine);
        let (_, confined) = show_machine(user, wanted, &options, &others_see).await?;
        confined.hold(&mut self.options.execution);
        // What is agreed to is the signed program: the options of before know nothing of the one that came along.
        let options = self.options.clone();
        let asking = agree(user, sent.as_ref(), &options, "Ask for a seat?");
        self.while_lobby_lasts(asking).await?;
        self.call = Some(call);
        self.sent = sent;
        let card = super::own_card(user, &self.name)?;
        self.handle.apply(self.name.clone(), Some(card)).await;
        Ok(())
    }

    /// A person thinks; if the lobby closes meanwhile, there is nothing to think about any more.
    async fn while_lobby_lasts(
        &mut self,
        asking: impl Future<Output = Result<(), Failure>>,
    ) -> Result<(), Failure> {
        let mut stop = self.user.stop.clone();
        tokio::pin!(asking);
        loop {
            tokio::select! {
                biased;
                _ = stop.wait_for(|s| *s != quorate_node::party::Stop::No) => return Err(stopped()),
                answer = &mut asking => return answer,
                event = self.events.recv() => match event {
                    Some(ApplicantEvent::Declined(why) | ApplicantEvent::Closed(why)) => return Err(why.into()),
                    None => return Err(Failure::new(Code::Internal, "the application ended")),
                    // A lost link comes back, and the answer is sent then.
                    Some(_) => {}
                },
            }
        }
    }

    fn on_asked(&mut self, words: &str) {
        self.waiting.end();
        let inviter = self.call.as_ref().map_or("", |c| c.subject.name.as_str());
        self.user.event("asked", &[("words", words.into())]);
        self.user.show([text::row(
            "asked",
            &format!(
                "words: {words}   (\"{}\" sees the same)",
                text::name(inviter)
            ),
        )]);
        self.waiting.begin(
            "waiting",
            &format!("for \"{}\" to admit you", text::name(inviter)),
            "Ctrl-C gives up",
        );
    }

    /// New faces are asked about; the terms are those of the call, which were agreed to.
    fn invited(
        &self,
        mut bundle: Bundle,
        invitation: Verified<Invitation>,
    ) -> Result<(Invited, Consent), Failure> {
        // The program came with the call; who comes back needs it too.
        if let Some(sent) = &self.sent {
            bundle.program = sent.source_that_fits(&bundle);
        }
        // The inviter was told that it is here, and the seats are closed: there is no other way back to it.
        Inbox::of(&self.user.home).keep(&invitation.digest(), &bundle.encode())?;
        let claim = self.call.as_ref().map(|call| Claim {
            did: call.issuer.clone(),
            name: call.subject.name.clone(),
            card: None,
        });
        self.user.event(
            "invitation",
            &[
                ("digest", invitation.digest().to_string().into()),
                ("from", invitation.issuer.to_string().into()),
            ],
        );
        let invited = Invited {
            invitation,
            bundle,
            claims: claim.into_iter().collect(),
            delivery: None,
            control: None,
            program: self.sent.as_ref().map(|s| s.files.clone()),
        };
        Ok((invited, Consent::Terms))
    }
}
