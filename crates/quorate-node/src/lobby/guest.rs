//! The side that holds a ticket.

use quorate_identity::{Code, Rejection, SigningKey, Verified};
use quorate_session::{Bundle, Invitation, ProgramSource, Ticket, lobby, message::Call};
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use super::peer_of;
use crate::{
    Fault,
    contact::{self, Notice, Running, Told},
    overlay::{OverlayConfig, Purpose, Reach, Scope},
};

/// What an applicant looks for a lobby with.
pub struct ApplicantConfig {
    /// The identity to apply with.
    pub key: SigningKey,
    /// Where to look, and for what.
    pub ticket: Ticket,
    /// Where to look.
    pub scope: Scope,
    /// Addresses the user gave, besides those in the ticket.
    pub at: Vec<String>,
    /// Through which relays.
    pub reach: Reach,
}

/// What the applicant is told.
#[derive(Debug)]
pub enum ApplicantEvent {
    /// The inviter's lobby is reached, over this address.
    Found {
        /// Multiaddr text.
        address: String,
    },
    /// The link to it is lost; it is looked for again.
    Lost,
    /// This is what the ticket points at. Nothing was told about us yet.
    Call {
        /// The call, verified.
        call: Box<Verified<Call>>,
        /// The program's source, if it came along: it is the one that the call names.
        program: Option<ProgramSource>,
    },
    /// The inviter sees our application, with these words.
    Asked {
        /// The inviter sees the same three.
        words: [&'static str; 3],
    },
    /// We have a seat.
    Admitted {
        /// How many were admitted before.
        place: u16,
    },
    /// The closed invitation: verified, with the terms of the call, and we are in it.
    Invitation {
        /// The bundle it came in.
        bundle: Box<Bundle>,
        /// The invitation.
        invitation: Box<Verified<Invitation>>,
    },
    /// The inviter said no; it is over.
    Declined(Rejection),
    /// It is over for another reason.
    Closed(Rejection),
    /// A relay does not let us in.
    RelayRefused {
        /// Its `PeerId`.
        relay: String,
        /// Why.
        code: Code,
        /// The same for a person.
        text: String,
    },
    /// Something a person may want to know.
    Note(String),
}

impl Told<lobby::Applicant> for ApplicantEvent {
    fn event(event: lobby::ApplicantEvent) -> Option<Self> {
        use lobby::ApplicantEvent as Core;
        Some(match event {
            // The loop tells it with the address.
            Core::Found => return None,
            Core::Lost => Self::Lost,
            Core::Call { call, program } => Self::Call { call, program },
            Core::Asked { words } => Self::Asked { words },
            Core::Admitted { place } => Self::Admitted { place },
            Core::Invitation { bundle, invitation } => Self::Invitation { bundle, invitation },
            Core::Busy(why) => {
                Self::Note(format!("the inviter says: {}; asking again", why.detail))
            }
            Core::Declined(rejection) => Self::Declined(rejection),
            Core::Closed(rejection) => Self::Closed(rejection),
        })
    }

    fn notice(notice: Notice) -> Option<Self> {
        match notice {
            Notice::LinkUp(address) => Some(Self::Found { address }),
            Notice::RelayRefused(relay, code, text) => {
                Some(Self::RelayRefused { relay, code, text })
            }
            Notice::Note(text) => Some(Self::Note(text)),
            Notice::Listening(_) => None,
        }
    }
}

/// A running application. Dropping it ends it without waiting.
pub struct ApplicantHandle {
    running: Running<lobby::Applicant>,
}

impl ApplicantHandle {
    /// Asks for a seat, now or when the lobby is reached again. To be called after a person read the call.
    pub async fn apply(&self, name: String, card: Option<String>) {
        let apply = move |applicant: &mut lobby::Applicant, at, now| {
            applicant.apply(name, card, at, now);
        };
        self.running.order(apply).await;
    }

    /// Gives up; the inviter is told.
    pub async fn leave(&self) {
        self.running
            .order(|applicant, _, _| applicant.leave())
            .await;
    }

    /// Ends it, and waits until everything is gone.
    pub async fn stop(self) {
        self.running.stop().await;
    }
}

/// Looks for the lobby of a ticket. Nothing is said there about us before [`ApplicantHandle::apply`].
pub async fn apply(
    config: ApplicantConfig,
) -> Result<(ApplicantHandle, mpsc::Receiver<ApplicantEvent>), Fault> {
    let ApplicantConfig {
        key,
        ticket,
        scope,
        at,
        reach,
    } = config;
    let secret = Zeroizing::new(contact::random()?);
    let reach = reach.shown_by(&key);
    let core = lobby::Applicant::new(key, ticket.clone(), peer_of(&secret), contact::random()?);
    let hints = at.into_iter().chain(ticket.hints().iter().cloned());
    let (overlay, incoming) = contact::open(OverlayConfig {
        secret,
        scope,
        purpose: Purpose::Guest(ticket.peer().to_string()),
        beacon_key: ticket.beacon_key(),
        hints: hints.collect(),
        reach,
    })
    .await?;
    overlay.expect_links(1);
    let (running, events) = contact::run(core, overlay, incoming);
    Ok((ApplicantHandle { running }, events))
}
