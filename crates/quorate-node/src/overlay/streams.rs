//! Streams of one protocol on one connection: a libp2p connection handler that opens and takes them, and leaves what they
//! mean to its behaviour.
//!
//! ```text
//!   Open ──► asked for ──► Report::Opened (ours) or Failed
//!   the peer opens one, where we offer that ──► Report::Opened (theirs)
//! ```
//! Limits: [`MAX_ASKED`] of ours asked for at a time; of theirs [`MAX_WAITING`] wait for the behaviour, more are dropped.
//!
//! Security: none of its own; the connection is authenticated.

use std::{
    collections::VecDeque,
    convert::Infallible,
    option,
    task::{Context, Poll},
};

use futures::future;
use libp2p::{
    StreamProtocol,
    core::upgrade::{InboundUpgrade, ReadyUpgrade, UpgradeInfo},
    swarm::{
        ConnectionHandler, ConnectionHandlerEvent, Stream, StreamUpgradeError, SubstreamProtocol,
        handler::{
            ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound,
        },
    },
};

/// Streams of ours that are asked for at a time.
const MAX_ASKED: usize = 2;
/// Streams of the peer that wait for the behaviour.
const MAX_WAITING: usize = 4;

/// The behaviour's order: open a stream.
#[derive(Debug)]
pub(super) struct Open;

/// What a handler reports.
#[derive(Debug)]
pub(super) enum Report {
    /// A stream is open; `inbound` if the peer opened it.
    Opened { stream: Stream, inbound: bool },
    /// None that was asked for; `foreign` if the peer does not speak the protocol.
    Failed { foreign: bool },
}

/// The streams of one connection.
#[derive(Debug)]
pub(super) struct Handler {
    protocol: StreamProtocol,
    takes: bool,
    asked: usize,
    reports: VecDeque<Report>,
}

impl Handler {
    /// Opens streams, and takes some if it `takes`.
    pub fn new(protocol: StreamProtocol, takes: bool) -> Self {
        Self {
            protocol,
            takes,
            asked: 0,
            reports: VecDeque::new(),
        }
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Open;
    type ToBehaviour = Report;
    type InboundProtocol = Offer;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Offer> {
        SubstreamProtocol::new(Offer(self.takes.then(|| self.protocol.clone())), ())
    }

    fn on_behaviour_event(&mut self, _: Open) {
        self.asked = (self.asked + 1).min(MAX_ASKED);
    }

    fn poll(
        &mut self,
        _: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, (), Report>> {
        if let Some(report) = self.reports.pop_front() {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(report));
        }
        if self.asked > 0 {
            self.asked -= 1;
            let upgrade = ReadyUpgrade::new(self.protocol.clone());
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest {
                protocol: SubstreamProtocol::new(upgrade, ()),
            });
        }
        Poll::Pending
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<'_, Self::InboundProtocol, Self::OutboundProtocol>,
    ) {
        let report = match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: stream,
                ..
            }) if self.reports.len() < MAX_WAITING => Report::Opened {
                stream,
                inbound: true,
            },
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol: stream,
                ..
            }) => Report::Opened {
                stream,
                inbound: false,
            },
            ConnectionEvent::DialUpgradeError(DialUpgradeError { error, .. }) => Report::Failed {
                foreign: matches!(error, StreamUpgradeError::<Infallible>::NegotiationFailed),
            },
            _ => return,
        };
        self.reports.push_back(report);
    }
}

/// The protocol, where streams are taken.
#[derive(Debug, Clone)]
pub(super) struct Offer(Option<StreamProtocol>);

impl UpgradeInfo for Offer {
    type Info = StreamProtocol;
    type InfoIter = option::IntoIter<StreamProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.clone().into_iter()
    }
}

impl<C> InboundUpgrade<C> for Offer {
    type Output = C;
    type Error = Infallible;
    type Future = future::Ready<Result<C, Infallible>>;

    fn upgrade_inbound(self, stream: C, _: StreamProtocol) -> Self::Future {
        future::ready(Ok(stream))
    }
}
