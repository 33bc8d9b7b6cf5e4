//! Who may use a relay that is not for everybody: a small libp2p behaviour without a protocol.
//!
//! ```text
//!   incoming ─► handshake: the PeerId is proven ─► a guest? ─ yes ─► reservations, circuits
//!                                                     └ no: the connection ends before any stream is open
//! ```
//! A party that serves as a relay does so for the parties of its session, and learns their PeerIds when they prove
//! themselves or when another party brings their signed joins. Who comes too early comes again.
//!
//! Limits: [`MAX_GUESTS`].
//!
//! Security: requires that the list comes from what parties signed. Provides: nobody else gets a reservation, a circuit
//! or an answer; what a stranger costs is a handshake, of which there is a bounded number at a time. Who was a
//! guest and is one no more keeps the connection that it has.

use std::{
    collections::HashSet,
    convert::Infallible,
    sync::{Arc, PoisonError, RwLock},
    task::{Context, Poll},
};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint as Role, transport::PortUse},
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandlerInEvent, ToSwarm,
        dummy,
    },
};
use quorate_session::limits::MAX_PARTIES;

/// Peers on a list; further ones are left out.
const MAX_GUESTS: usize = MAX_PARTIES;

/// A list of guests, shared with who keeps it.
#[derive(Clone, Debug, Default)]
pub struct Guests(Arc<RwLock<HashSet<PeerId>>>);

impl Guests {
    /// These `PeerId`s, `12D3Koo…`, and no others are guests from now on. What is none is left out.
    pub fn set<'a>(&self, peers: impl IntoIterator<Item = &'a str>) {
        let peers = peers.into_iter().filter_map(|text| text.parse().ok());
        let peers = peers.take(MAX_GUESTS).collect();
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = peers;
    }

    fn has(&self, peer: &PeerId) -> bool {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        all.contains(peer)
    }
}

#[derive(Debug, thiserror::Error)]
#[error("not a party of the session that this relay is for")]
struct NoGuest;

/// See the module's text.
pub(super) struct Behaviour(Option<Guests>);

impl Behaviour {
    /// Without a list everybody is let in.
    pub fn new(guests: Option<Guests>) -> Self {
        Self(guests)
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<dummy::ConnectionHandler, ConnectionDenied> {
        if self.0.as_ref().is_none_or(|guests| guests.has(&peer)) {
            Ok(dummy::ConnectionHandler)
        } else {
            Err(ConnectionDenied::new(NoGuest))
        }
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Role,
        _: PortUse,
    ) -> Result<dummy::ConnectionHandler, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: Infallible) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}
