//! The other way to a peer: datagrams over a stream of the overlay, straight or over a relay.
//!
//! The mesh sees a lane as one more route of a peer: what goes out goes to [`LaneOut::send`], what
//! comes in is the peer's by the index that the overlay has authenticated, and decrypted like
//! anything else. No address belongs to it.

use crate::overlay::{LaneReceiver, LaneSender, LaneState};
use std::{fmt, sync::Arc};
use tokio::sync::{mpsc, watch};

/// The sending half of all lanes.
pub trait LaneOut: fmt::Debug + Send + Sync {
    /// Queues a datagram; never waits. `false`: there is no lane to this peer.
    fn send(&self, index: u16, datagram: &[u8]) -> bool;
    /// The lane to this peer, if there is one.
    fn state(&self, index: u16) -> Option<LaneState>;
    /// Changes whenever the state of a lane does.
    fn changed(&self) -> watch::Receiver<u64>;
}

impl LaneOut for LaneSender {
    fn send(&self, index: u16, datagram: &[u8]) -> bool {
        Self::send(self, index, datagram)
    }

    fn state(&self, index: u16) -> Option<LaneState> {
        Self::state(self, index)
    }

    fn changed(&self) -> watch::Receiver<u64> {
        Self::changed(self)
    }
}

/// All lanes of a mesh.
#[derive(Debug)]
pub struct Lanes {
    /// Where datagrams go.
    pub out: Arc<dyn LaneOut>,
    /// Datagrams with the index of their sender.
    pub incoming: mpsc::Receiver<(u16, Vec<u8>)>,
}

impl From<(LaneSender, LaneReceiver)> for Lanes {
    fn from((sender, receiver): (LaneSender, LaneReceiver)) -> Self {
        Self {
            out: Arc::new(sender),
            incoming: receiver.into_inner(),
        }
    }
}
