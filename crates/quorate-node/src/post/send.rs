//! The side that has invitations to hand over.

use quorate_identity::{Did, Rejection, SigningKey};
use quorate_session::post;
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use crate::{
    Fault,
    contact::{self, Notice, Running, Told},
    lobby::peer_of,
    overlay::{OverlayConfig, Purpose, Reach, Scope},
};

/// What is sent, and how.
pub struct SendConfig {
    /// The inviter's identity.
    pub key: SigningKey,
    /// Text forms of bundles, plain or sealed, and whom they are for.
    pub offers: Vec<(Did, String)>,
    /// Where to look for them.
    pub scope: Scope,
    /// Addresses the user gave.
    pub at: Vec<String>,
    /// Through which relays.
    pub reach: Reach,
}

/// What the sender is told.
#[derive(Debug)]
pub enum SendEvent {
    /// The post listens on this address.
    Listening {
        /// Multiaddr text with `/p2p/…`.
        address: String,
    },
    /// The receiver of an offer is there.
    Found {
        /// Who.
        did: Did,
    },
    /// It has its invitation.
    Delivered {
        /// Who.
        did: Did,
    },
    /// All have theirs.
    AllDelivered,
    /// Something was refused; the post goes on.
    Refused(Rejection),
    /// Something a person may want to know.
    Note(String),
}

impl Told<post::Sender> for SendEvent {
    fn event(event: post::SendEvent) -> Option<Self> {
        use post::SendEvent as Core;
        Some(match event {
            Core::Found { did } => Self::Found { did },
            Core::Delivered { did } => Self::Delivered { did },
            Core::AllDelivered => Self::AllDelivered,
            Core::Refused(rejection) => Self::Refused(rejection),
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

/// A running sender. Dropping it ends it without waiting.
pub struct SendHandle {
    addresses: Vec<String>,
    running: Running<post::Sender>,
}

impl SendHandle {
    /// The addresses listened on, each with `/p2p/…`.
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// Whose invitation was not handed over yet.
    pub async fn waiting(&self) -> Vec<Did> {
        let waiting = self.running.order(|sender, _, _| sender.waiting()).await;
        waiting.unwrap_or_default()
    }

    /// Ends it, and waits until everything is gone.
    pub async fn stop(self) {
        self.running.stop().await;
    }
}

/// Hands invitations over to those who are there, until it is stopped.
pub async fn send(config: SendConfig) -> Result<(SendHandle, mpsc::Receiver<SendEvent>), Fault> {
    let secret = Zeroizing::new(contact::random()?);
    let core = post::Sender::new(
        &config.key,
        config.offers,
        peer_of(&secret),
        contact::random()?,
    )?;
    let (overlay, incoming) = contact::open(OverlayConfig {
        secret,
        scope: config.scope,
        purpose: Purpose::Post,
        beacon_key: post::beacon_key(),
        hints: config.at,
        reach: config.reach.shown_by(&config.key),
    })
    .await?;
    let addresses = overlay.addresses();
    let (running, events) = contact::run(core, overlay, incoming);
    Ok((SendHandle { addresses, running }, events))
}
