//! The distributed hash table that keeps rendezvous records: libp2p's Kademlia under a name of its own.
//!
//! ```text
//!  party ─ Query: own small swarm, throwaway identity ──► node ◄──► node      relays are nodes (server mode)
//!            put, get                                       │ Shelf: keeps what `check_value` takes
//! ```
//! Parties ask and store; they never serve, and listen nowhere. Nodes keep records whose keys, signatures, times and sizes
//! are right, for half an hour, and answer with them. Queries go along `PATHS` disjoint paths.
//!
//! Limits: see the constants of this module and of its parts.
//!
//! Security. Requires: nothing of nodes. Provides: what comes out is bytes for `quorate_session::rendezvous` to judge, at
//! most so many per lookup; addresses that nodes name are dialled only within the scope, and never on loopback unless the
//! nodes that were configured are there too. Does not provide: that records are found, where all nodes that were
//! configured are hostile, or the twenty nearest to a key are.

mod behaviour;
mod crowd;
mod node;
mod query;
mod shelf;

use std::{num::NonZeroUsize, time::Duration};

use libp2p::{StreamProtocol, kad};
use quorate_session::limits::RENDEZVOUS_LIFETIME_SECONDS;

pub(in crate::overlay) use behaviour::{Behaviour, Extent};
pub use crowd::{Crowd, Lookup};
pub use node::{Node, NodeConfig, NodeStatus};
pub use query::{Answer, Dht, DhtConfig};

/// The protocol between nodes.
const PROTOCOL: StreamProtocol = StreamProtocol::new("/quorate/kad/1");
/// Disjoint paths of one query.
const PATHS: NonZeroUsize = NonZeroUsize::new(3).expect("not zero");
/// A query that is not over after this time is ended.
const QUERY_WAIT: Duration = Duration::from_secs(20);
/// A node must answer one request within this time.
const REQUEST_WAIT: Duration = Duration::from_secs(5);
/// Largest message between nodes, in bytes.
const MAX_MESSAGE_BYTES: usize = 16 * 1024;

/// What is the same for parties and nodes.
fn config() -> kad::Config {
    let mut config = kad::Config::new(PROTOCOL);
    config
        .disjoint_query_paths(true)
        .set_parallelism(PATHS)
        .set_query_timeout(QUERY_WAIT)
        .set_substreams_timeout(REQUEST_WAIT)
        .set_max_packet_size(MAX_MESSAGE_BYTES)
        .set_record_ttl(Some(Duration::from_secs(
            RENDEZVOUS_LIFETIME_SECONDS.unsigned_abs(),
        )))
        // Parties publish again; a node that copied records would only spread what it was given.
        .set_replication_interval(None)
        .set_publication_interval(None)
        .set_provider_publication_interval(None)
        .set_caching(kad::Caching::Disabled);
    config
}
