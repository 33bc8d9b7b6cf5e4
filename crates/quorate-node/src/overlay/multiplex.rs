//! Streams with two measures: many where we dialled, few where others did.
//!
//! A relay opens a stream of ours for each circuit that leads to us, so that a connection with one must carry many. Nobody
//! has to dial us for that: what strangers open carries a session, a lane and what libp2p needs.
//!
//! Limits: [`MAX_STREAMS`] and [`MAX_STREAMS_DIALLED`]; a peer that opens more loses its connection. [`WINDOW_GROWTH`],
//! [`UNREAD_BYTES`].
//!
//! Security: yamux keeps up to 256 KiB of each stream that nobody reads. Provides that a stranger makes us keep
//! [`MAX_STREAMS`] times that and one growth per connection before it proved anything, and all of them [`UNREAD_BYTES`].

use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo};

use super::{
    muxer::{Config, Windows},
    unread::Budget,
};

/// Streams one peer may have open on a connection that it dialled, and inside a circuit: one session, one lane, identify,
/// ping, and some air.
pub const MAX_STREAMS: u32 = 16;
/// The same on a connection that we dialled. With a relay each circuit is a stream: two for each of the other parties of
/// the largest session.
pub(super) const MAX_STREAMS_DIALLED: u32 = 192;
/// Bytes by which the windows of one connection may grow in all: what is on its way at a gigabit a second and 60 ms.
const WINDOW_GROWTH: u32 = 8 * 1024 * 1024;
/// Bytes that all connections hold unread, those of the network and those inside circuits each.
const UNREAD_BYTES: usize = 256 * 1024 * 1024;

/// Chooses by who dialled.
#[derive(Clone)]
pub(super) struct Multiplexing {
    dialled: Config,
    accepted: Config,
}

impl Multiplexing {
    /// For connections of the network.
    pub fn direct() -> Self {
        Self::new(MAX_STREAMS_DIALLED, MAX_STREAMS)
    }

    /// For connections inside circuits; no relay is reached through another one.
    pub fn in_circuits() -> Self {
        Self::new(MAX_STREAMS, MAX_STREAMS)
    }

    fn new(dialled: u32, accepted: u32) -> Self {
        let budget = Budget::new(UNREAD_BYTES);
        let config = |streams| {
            let growth = WINDOW_GROWTH;
            Config::new(Windows { streams, growth }, budget.clone())
        };
        Self {
            dialled: config(dialled),
            accepted: config(accepted),
        }
    }
}

impl UpgradeInfo for Multiplexing {
    type Info = <Config as UpgradeInfo>::Info;
    type InfoIter = <Config as UpgradeInfo>::InfoIter;

    fn protocol_info(&self) -> Self::InfoIter {
        self.dialled.protocol_info()
    }
}

impl<C> InboundConnectionUpgrade<C> for Multiplexing
where
    Config: InboundConnectionUpgrade<C>,
{
    type Output = <Config as InboundConnectionUpgrade<C>>::Output;
    type Error = <Config as InboundConnectionUpgrade<C>>::Error;
    type Future = <Config as InboundConnectionUpgrade<C>>::Future;

    fn upgrade_inbound(self, connection: C, info: Self::Info) -> Self::Future {
        self.accepted.upgrade_inbound(connection, info)
    }
}

impl<C> OutboundConnectionUpgrade<C> for Multiplexing
where
    Config: OutboundConnectionUpgrade<C>,
{
    type Output = <Config as OutboundConnectionUpgrade<C>>::Output;
    type Error = <Config as OutboundConnectionUpgrade<C>>::Error;
    type Future = <Config as OutboundConnectionUpgrade<C>>::Future;

    fn upgrade_outbound(self, connection: C, info: Self::Info) -> Self::Future {
        self.dialled.upgrade_outbound(connection, info)
    }
}
