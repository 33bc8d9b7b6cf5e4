//! The inviter's side.

use quorate_identity::{Code, Did, Rejection, SigningKey, Verified};
use quorate_session::{
    Bundle, PeerId, ProgramSource, Ticket,
    limits::MAX_TICKET_HINTS,
    lobby::{self, ApplicantId, Misuse},
    message::{Call, Card},
};
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use super::own_address;
use crate::{
    Fault,
    contact::{self, Notice, Running, Told},
    overlay::{OverlayConfig, Purpose, Reach, Relaying, Scope, written_out},
    party::clock,
};

/// What a lobby is opened with.
pub struct HostConfig {
    /// The call; it names the PeerId of `overlay_secret`, see [`peer_of`].
    pub call: Verified<Call>,
    /// Ed25519 seed of the lobby's overlay identity; to be used once.
    pub overlay_secret: Zeroizing<[u8; 32]>,
    /// Where to listen.
    pub scope: Scope,
    /// The program's source, to be sent along with the call.
    pub program: Option<ProgramSource>,
    /// Whom the inviter knows: strangers cannot take their places, however many ask.
    pub contacts: Vec<Did>,
    /// Addresses for the ticket. If there are none, those of this machine that others may reach are chosen in
    /// [`Scope::Lan`].
    pub hints: Vec<String>,
    /// Through which relays.
    pub reach: Reach,
}

/// What the inviter is told.
#[derive(Debug)]
pub enum HostEvent {
    /// The lobby listens on this address.
    Listening {
        /// Multiaddr text with `/p2p/…`.
        address: String,
    },
    /// Somebody asks for a seat: admit or refuse.
    Applied {
        /// Names the application.
        id: ApplicantId,
        /// The DID that was proven.
        did: Did,
        /// What it calls itself; anybody can call itself anything.
        name: String,
        /// The applicant sees the same three.
        words: [&'static str; 3],
        /// Its card, if it sent one.
        card: Option<Box<Verified<Card>>>,
    },
    /// An applicant is gone; its seat, if it had one, is free.
    Left {
        /// Which.
        id: ApplicantId,
        /// Its DID.
        did: Did,
    },
    /// It has a seat.
    Admitted {
        /// Which.
        id: ApplicantId,
        /// How many were admitted before.
        place: u16,
    },
    /// All seats are taken: build the closed invitation, sign it, and call [`HostHandle::seal`].
    Full,
    /// It holds the closed invitation.
    Delivered {
        /// Which.
        id: ApplicantId,
        /// Its DID.
        did: Did,
    },
    /// All hold it.
    AllDelivered,
    /// Something was refused; the lobby goes on.
    Refused(Rejection),
    /// Nobody can apply any more.
    Closed(Rejection),
    /// Something a person may want to know.
    Note(String),
}

impl Told<lobby::Host> for HostEvent {
    fn event(event: lobby::HostEvent) -> Option<Self> {
        use lobby::HostEvent as Core;
        Some(match event {
            Core::Applied {
                id,
                did,
                name,
                words,
                card,
            } => Self::Applied {
                id,
                did,
                name,
                words,
                card,
            },
            Core::Left { id, did } => Self::Left { id, did },
            Core::Admitted { id, place } => Self::Admitted { id, place },
            Core::Full => Self::Full,
            Core::Delivered { id, did } => Self::Delivered { id, did },
            Core::AllDelivered => Self::AllDelivered,
            Core::Refused(rejection) => Self::Refused(rejection),
            Core::Closed(rejection) => Self::Closed(rejection),
        })
    }

    fn notice(notice: Notice) -> Option<Self> {
        match notice {
            Notice::Listening(address) => Some(Self::Listening { address }),
            Notice::Note(text) | Notice::RelayRefused(_, _, text) => Some(Self::Note(text)),
            Notice::LinkUp(_) => None,
        }
    }
}

/// A running lobby. Dropping it ends it without waiting.
pub struct HostHandle {
    ticket: Ticket,
    addresses: Vec<String>,
    running: Running<lobby::Host>,
}

impl HostHandle {
    /// The ticket to hand out.
    pub fn ticket(&self) -> &Ticket {
        &self.ticket
    }

    /// The addresses listened on, each with `/p2p/…`.
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// Gives an applicant a seat.
    pub async fn admit(&self, id: ApplicantId) -> Result<(), Misuse> {
        let admitted = self.running.order(move |host, _, _| host.admit(id)).await;
        admitted.unwrap_or(Err(Misuse::Closed))
    }

    /// Refuses an applicant; its DID is not heard again.
    pub async fn refuse(&self, id: ApplicantId, why: &str) -> Result<(), Misuse> {
        let why = why.to_owned();
        let refused = self
            .running
            .order(move |host, _, _| host.refuse(id, &why))
            .await;
        refused.unwrap_or(Err(Misuse::Closed))
    }

    /// DIDs that have a seat, in the order of their admission.
    pub async fn admitted(&self) -> Vec<Did> {
        let admitted = self.running.order(|host, _, _| host.admitted()).await;
        admitted.unwrap_or_default()
    }

    /// Sends the closed invitation to everybody who has a seat. Keep the lobby until [`HostEvent::AllDelivered`].
    pub async fn seal(&self, bundle: &Bundle) -> Result<(), Rejection> {
        let text = bundle.encode();
        let sealed = self
            .running
            .order(move |host, _, now| host.seal(&text, now))
            .await;
        sealed.unwrap_or_else(|| Err(Rejection::new(Code::Internal, "F8", "the lobby has ended")))
    }

    /// Tells everybody who still waits that the lobby is closed, and ends it.
    pub async fn stop(self) {
        self.running
            .order(|host, _, _| host.close(Code::Cancelled, "the inviter closed the lobby"))
            .await;
        self.running.stop().await;
    }
}

/// The PeerId of an overlay secret, for the call.
pub fn peer_of(overlay_secret: &[u8; 32]) -> PeerId {
    PeerId::of(&SigningKey::from_seed(overlay_secret).public())
}

/// Opens the lobby of a call.
pub async fn host(config: HostConfig) -> Result<(HostHandle, mpsc::Receiver<HostEvent>), Fault> {
    let HostConfig {
        call,
        overlay_secret,
        scope,
        program,
        contacts,
        hints,
        reach,
    } = config;
    let peer = peer_of(&overlay_secret);
    if peer != call.subject.peer {
        let text = "the call was signed for another lobby";
        return Err(Fault::new(Code::Internal, text));
    }
    let plain = Ticket::new(peer, &call.digest(), &[])?;
    let core = lobby::Host::new(
        call.clone(),
        program.as_ref(),
        contact::random()?,
        clock::wall(),
        clock::now(),
    )?
    .knowing(contacts);
    // The guest adds whom it looks for: that is in the ticket anyway.
    let relay = reach.relays.first();
    let circuit = match relay.filter(|_| reach.relaying != Relaying::Never) {
        // Guests look up no name that a ticket alone names. What is wrong with one, the overlay says.
        Some(relay) => written_out(relay, &reach.names, scope)
            .await
            .ok()
            .and_then(|all| Some(format!("{}/p2p-circuit", all.first()?))),
        None => None,
    };
    let (overlay, incoming) = contact::open(OverlayConfig {
        secret: overlay_secret,
        scope,
        purpose: Purpose::Lobby,
        beacon_key: plain.beacon_key(),
        hints: Vec::new(),
        reach,
    })
    .await?;
    let addresses = overlay.addresses();
    let hints = match scope {
        _ if !hints.is_empty() => hints.into_iter().take(MAX_TICKET_HINTS).collect(),
        Scope::Lan => own_address::hints(&addresses, circuit),
        Scope::Local => circuit.into_iter().collect(),
    };
    let ticket = Ticket::new(peer, &call.digest(), &hints)?;
    let (running, events) = contact::run(core, overlay, incoming);
    let handle = HostHandle {
        ticket,
        addresses,
        running,
    };
    Ok((handle, events))
}
