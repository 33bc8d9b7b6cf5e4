//! What peers can make a relay keep in memory, computed from its limits.
//!
//! ```text
//!   per connection   unread and unsent bytes of QUIC; buffers of noise, of one frame, of answers of the DHT
//!   together         unread bytes of TCP (a budget), what circuits wait to send over TCP, records of the DHT
//! ```
//! The unit of systemd gets a limit that this fits into, so that a relay whose peers all do their worst refuses
//! them by its own rules before the kernel ends it. What the kernel keeps for sockets is not counted; it
//! gives way when memory is short.
//!
//! Limits: the constants below; none is a guess of what peers usually do.
//!
//! Security: provides an upper bound as long as the libraries keep what their configuration says.

use super::RelayLimits;

/// Streams of one connection beside the circuits of its peer.
pub(super) const MAX_STREAMS_BESIDE: u32 = 64;
/// Connections beside those that hold reservations, of parties that only dial: as many, but these at least and at most.
const FEWEST_BESIDE: u32 = 16;
const CONNECTIONS_BESIDE: u32 = 128;
/// QUIC flow control: unread bytes of one connection.
pub(super) const QUIC_CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// Bytes that all TCP connections together hold unread.
pub(super) const UNREAD_BYTES: usize = 192 * 1024 * 1024;

/// What quinn keeps of one connection until it is acknowledged; libp2p leaves it as it is.
const QUIC_SEND_WINDOW: u64 = 10_000_000;
/// Buffers of one connection: noise, a frame that is coming in, answers to queries that wait to be sent.
const CONNECTION_BUFFERS: u64 = MIB;
/// What one end of a circuit waits to send over TCP: yamux takes ten frames of 16 KiB.
const CIRCUIT_BACKLOG: u64 = 10 * 16 * 1024;
/// Records of the DHT with what finds them.
const RECORDS: u64 = 32 * MIB;
/// The process without peers.
const PROCESS: u64 = 64 * MIB;
const MIB: u64 = 1024 * 1024;

/// `MemoryMax` of a relay with its default limits.
const DEFAULT_UNIT_BYTES: u64 = 4 * 1024 * MIB;
const _: () = assert!(RelayLimits::DEFAULT.memory_bytes() <= DEFAULT_UNIT_BYTES);

impl RelayLimits {
    /// Connections at a time.
    pub(super) const fn connections(&self) -> u32 {
        let beside = match self.reservations {
            n if n < FEWEST_BESIDE => FEWEST_BESIDE,
            n if n > CONNECTIONS_BESIDE => CONNECTIONS_BESIDE,
            n => n,
        };
        self.reservations.saturating_add(beside)
    }

    /// What peers can make a relay with these limits keep, in bytes.
    pub const fn memory_bytes(&self) -> u64 {
        let connections = self.connections() as u64;
        let each = QUIC_CONNECTION_WINDOW as u64 + QUIC_SEND_WINDOW + CONNECTION_BUFFERS;
        let circuits = self.circuits as u64 * 2 * CIRCUIT_BACKLOG;
        connections * each + circuits + UNREAD_BYTES as u64 + RECORDS + PROCESS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_peers_can_make_a_relay_keep_grows_with_its_limits() {
        let default = RelayLimits::default();
        let one_more = RelayLimits {
            reservations: default.reservations + 1,
            ..default
        };
        let grown = one_more.memory_bytes() - default.memory_bytes();
        assert!((10 * MIB..20 * MIB).contains(&grown), "{grown}");
        // What the guide says of a machine with 2 GB.
        let small = RelayLimits {
            reservations: 48,
            circuits: 64,
            ..default
        };
        assert!(small.memory_bytes() < 7 * 256 * MIB);
    }
}
