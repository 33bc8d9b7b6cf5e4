//! Yamux with two measures: many streams where we dialled, few where others did.
//!
//! A relay opens a stream of ours for each circuit that leads to us, so that a connection with one must carry many. Nobody
//! has to dial us for that: what strangers open carries a session, a lane and what libp2p needs.
//!
//! Limits: [`MAX_STREAMS`] and [`MAX_STREAMS_DIALLED`]; a peer that opens more loses its connection.
//!
//! Security: yamux keeps up to 256 KiB of each stream that nobody reads. Provides that a stranger makes us keep
//! [`MAX_STREAMS`] times that per connection before it proved anything. Source: yamux, "Flow control".

use libp2p::{
    core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo},
    yamux,
};

/// Streams one peer may have open on a connection that it dialled, and inside a circuit: one session, one lane, identify,
/// ping, and some air.
pub const MAX_STREAMS: u32 = 16;
/// The same on a connection that we dialled. With a relay each circuit is a stream: two for each of the other parties of
/// the largest session.
pub(super) const MAX_STREAMS_DIALLED: u32 = 192;

/// Chooses by who dialled.
#[derive(Clone)]
pub(super) struct Multiplexing {
    dialled: yamux::Config,
    accepted: yamux::Config,
}

impl Multiplexing {
    /// For connections of the network.
    pub fn direct() -> Self {
        Self {
            dialled: streams(MAX_STREAMS_DIALLED),
            accepted: streams(MAX_STREAMS),
        }
    }

    /// For connections inside circuits; no relay is reached through another one.
    pub fn in_circuits() -> Self {
        Self {
            dialled: streams(MAX_STREAMS),
            accepted: streams(MAX_STREAMS),
        }
    }
}

fn streams(most: u32) -> yamux::Config {
    let mut config = yamux::Config::default();
    config.set_max_num_streams(most as usize);
    config
}

impl UpgradeInfo for Multiplexing {
    type Info = <yamux::Config as UpgradeInfo>::Info;
    type InfoIter = <yamux::Config as UpgradeInfo>::InfoIter;

    fn protocol_info(&self) -> Self::InfoIter {
        self.dialled.protocol_info()
    }
}

impl<C> InboundConnectionUpgrade<C> for Multiplexing
where
    yamux::Config: InboundConnectionUpgrade<C>,
{
    type Output = <yamux::Config as InboundConnectionUpgrade<C>>::Output;
    type Error = <yamux::Config as InboundConnectionUpgrade<C>>::Error;
    type Future = <yamux::Config as InboundConnectionUpgrade<C>>::Future;

    fn upgrade_inbound(self, connection: C, info: Self::Info) -> Self::Future {
        self.accepted.upgrade_inbound(connection, info)
    }
}

impl<C> OutboundConnectionUpgrade<C> for Multiplexing
where
    yamux::Config: OutboundConnectionUpgrade<C>,
{
    type Output = <yamux::Config as OutboundConnectionUpgrade<C>>::Output;
    type Error = <yamux::Config as OutboundConnectionUpgrade<C>>::Error;
    type Future = <yamux::Config as OutboundConnectionUpgrade<C>>::Future;

    fn upgrade_outbound(self, connection: C, info: Self::Info) -> Self::Future {
        self.dialled.upgrade_outbound(connection, info)
    }
}
