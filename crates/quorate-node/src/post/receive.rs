//! The side that waits for invitations of its contacts.

use quorate_identity::{Code, Did, Rejection, SigningKey, Verified};
use quorate_session::{Bundle, Invitation, post};
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use crate::{
    Fault,
    contact::{self, Notice, Running, Told},
    lobby::peer_of,
    overlay::{OverlayConfig, Purpose, Reach, Scope},
};

/// From whom invitations are taken, and how.
pub struct ReceiveConfig {
    /// The identity that was invited.
    pub key: SigningKey,
    /// Whose invitations are taken; nobody else gets an answer.
    pub contacts: Vec<Did>,
    /// Where to look for them.
    pub scope: Scope,
    /// Addresses the user gave.
    pub at: Vec<String>,
    /// Through which relays.
    pub reach: Reach,
}

/// What the receiver is told.
#[derive(Debug)]
pub enum ReceiveEvent {
    /// The post listens on this address.
    Listening {
        /// Multiaddr text with `/p2p/…`.
        address: String,
    },
    /// An invitation: a contact issued and signed it, it is valid, and we are one of its parties.
    Offer {
        /// The contact.
        from: Did,
        /// The bundle, opened if it was sealed.
        bundle: Box<Bundle>,
        /// The invitation in it.
        invitation: Box<Verified<Invitation>>,
    },
    /// Something was refused; the post goes on.
    Refused(Rejection),
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

impl Told<post::Receiver> for ReceiveEvent {
    fn event(event: post::ReceiveEvent) -> Option<Self> {
        use post::ReceiveEvent as Core;
        Some(match event {
            Core::Offer {
                from,
                bundle,
                invitation,
            } => Self::Offer {
                from,
                bundle,
                invitation,
            },
            Core::Refused(rejection) => Self::Refused(rejection),
        })
    }

    fn notice(notice: Notice) -> Option<Self> {
        match notice {
            Notice::Listening(address) => Some(Self::Listening { address }),
            Notice::RelayRefused(relay, code, text) => {
                Some(Self::RelayRefused { relay, code, text })
            }
            Notice::Note(text) => Some(Self::Note(text)),
            Notice::LinkUp(_) => None,
        }
    }
}

/// A running receiver. Dropping it ends it without waiting.
pub struct ReceiveHandle {
    addresses: Vec<String>,
    unknown: Vec<Did>,
    running: Running<post::Receiver>,
}

impl ReceiveHandle {
    /// The addresses listened on, each with `/p2p/…`.
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// Contacts that cannot be recognized, because their key is not in the DID itself.
    pub fn unknown(&self) -> &[Did] {
        &self.unknown
    }

    /// Ends it, and waits until everything is gone.
    pub async fn stop(self) {
        self.running.stop().await;
    }
}

/// Takes invitations of contacts, until it is stopped. The sender is told as soon as one is here and valid.
pub async fn receive(
    config: ReceiveConfig,
) -> Result<(ReceiveHandle, mpsc::Receiver<ReceiveEvent>), Fault> {
    let secret = Zeroizing::new(contact::random()?);
    let (core, unknown) = post::Receiver::new(&config.key, &config.contacts, peer_of(&secret))?;
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
    let handle = ReceiveHandle {
        addresses,
        unknown,
        running,
    };
    Ok((handle, events))
}
