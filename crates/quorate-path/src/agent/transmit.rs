//! What an agent wants sent.

use std::net::SocketAddr;

/// A STUN message to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// From which own address.
    pub source: SocketAddr,
    /// To where.
    pub destination: SocketAddr,
    /// The bytes of the datagram.
    pub contents: Vec<u8>,
    /// How many routers may pass it on, if not as many as usual.
    pub hops: Option<u8>,
}
