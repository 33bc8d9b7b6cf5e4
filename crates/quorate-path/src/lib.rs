//! How to reach a peer: candidates, connectivity checks and the path in use, as a pure state machine.
//!
//! One [`Agent`] per peer. The two ends exchange *signals* (credentials and candidates) over a
//! channel that is already authenticated, then send each other STUN checks until one pair of
//! addresses answers in both directions; the controlling end nominates the best of them.
//!
//! ```text
//!   lower index (controlling)                     higher index (controlled)
//!      | signal{ufrag, password, candidates} ------------> |
//!      | <------------ signal{ufrag, password, candidates} |
//!      | STUN Binding request (HMAC) --------------------> |   Source(addr)
//!      | <----------------------------- Binding success     |
//!      | STUN Binding request + USE-CANDIDATE ------------> |   Changed(Direct)
//!      | <----------------------------- Binding success     |   Changed(Direct) on both
//!      | a check every few seconds, both ways ...           |
//! ```
//!
//! The crate knows peers by index and never hears of a DID. It opens no socket, reads no clock and
//! draws no key: credentials come from the caller's operating-system generator. The ICE library
//! below (`is`) draws STUN transaction ids and its tie breaker from a fast, non-cryptographic
//! generator of its own; what keeps a stranger out is the HMAC under the exchanged password, not
//! the unpredictability of those ids.
//!
//! **Limits.** See the constants of [`limits`]. **Requires** that signals come from the peer
//! they claim to come from. **Provides** that an address is reported only after a message from it
//! carried a correct HMAC. **Does not provide** confidentiality or integrity of data: WireGuard
//! does. An attacker on the path can relay checks and so become a hop; it sees ciphertext only.
//!
//! Source: RFC 8445 (ICE), RFC 8489 (STUN), RFC 8838 (trickle ICE).

mod agent;
mod candidate;
mod gather;
mod path;
mod signal;
pub mod stun;

pub use agent::{Agent, AgentConfig, Transmit};
pub use candidate::{Candidate, CandidateKind, Credentials, Scope, filter, is_public};
pub use gather::{Gatherer, Mapping, Nat, candidates};
pub use path::{How, Lane, Path, PathEvent, Policy, Reason, Whose};

use serde::{Deserialize, Serialize};
use std::fmt;

/// A party of the session, by its index in the roster. Paths are found between indices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PeerIndex(pub u16);

impl fmt::Display for PeerIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Every bound of this crate, by name.
pub mod limits {
    use std::time::Duration;

    /// Candidates one end may offer.
    pub const MAX_CANDIDATES: usize = 16;
    /// Different remote candidates an agent accepts in one round.
    pub const MAX_REMOTE_CANDIDATES: usize = 32;
    /// Different authenticated source addresses of one peer; the oldest makes room.
    pub const MAX_SOURCES: usize = 32;
    /// Pairs of addresses that are checked at the same time.
    pub const MAX_PAIRS: usize = 64;
    /// Bytes of one signal.
    pub const MAX_SIGNAL_BYTES: usize = 2048;
    /// Signals accepted from the peer within [`SIGNAL_WINDOW`].
    pub const MAX_SIGNALS_PER_WINDOW: u32 = 32;
    /// See [`MAX_SIGNALS_PER_WINDOW`].
    pub const SIGNAL_WINDOW: Duration = Duration::from_secs(10);
    /// STUN messages an agent looks at within [`CHECK_WINDOW`]; more are dropped unread.
    pub const MAX_CHECKS_PER_WINDOW: u32 = 400;
    /// See [`MAX_CHECKS_PER_WINDOW`].
    pub const CHECK_WINDOW: Duration = Duration::from_secs(1);
    /// Bytes of one STUN message; a check of ours has about 120.
    pub const MAX_CHECK_BYTES: usize = 1024;
    /// Pause between two checks to one peer on loopback.
    pub const PACE_LOCAL: Duration = Duration::from_millis(5);
    /// Pause between two checks to one peer elsewhere: at most 50 packets a second, so that
    /// candidates which point at a stranger cannot turn us into a flood.
    pub const PACE: Duration = Duration::from_millis(20);
    /// First wait for an answer to a check; doubles up to [`CHECK_INTERVAL`]. Shorter than most
    /// round trips: an answer to any of the last checks counts.
    pub const FIRST_CHECK_TIMEOUT: Duration = Duration::from_millis(100);
    /// How often a working path is checked again, more often while answers are missing.
    pub const CHECK_INTERVAL: Duration = Duration::from_secs(2);
    /// Unanswered checks after which a pair is given up: after 19 s, so that a process that is
    /// frozen for twelve seconds keeps its path.
    pub const MAX_UNANSWERED: usize = 12;
    /// A direct path without an answer for this long is not used while there is a lane: at least
    /// four checks in a row were lost.
    pub const DIRECT_SILENCE: Duration = Duration::from_millis(5500);
    /// A direct path without an answer for this long is left for another address from which the peer checks: at least
    /// two checks in a row were lost.
    pub const MOVED_SILENCE: Duration = Duration::from_secs(3);
    /// Addresses from which checks of the peer are taken in one round.
    pub const MAX_CHECK_SOURCES: u64 = 256;
    /// How long a search for a direct path takes at most before its failure is told as a reason.
    pub const SEARCH: Duration = Duration::from_secs(15);
    /// How long the simultaneous start waits for the other end's complete list of addresses.
    pub const START_PATIENCE: Duration = Duration::from_secs(5);
    /// Longest round trip of signals that the simultaneous start makes up for.
    pub const MAX_START_DELAY: Duration = Duration::from_secs(2);
    /// Wait before a relayed pair tries again to become direct. No check is sent meanwhile, and a
    /// NAT forgets an entry that hinders after 30 s of silence.
    pub const ROUND_FIRST: Duration = Duration::from_secs(35);
    /// Tries before that wait doubles each time.
    pub const ROUND_TRIES: u32 = 3;
    /// Longest such wait.
    pub const ROUND_LAST: Duration = Duration::from_mins(8);
    /// Least time between two rounds that begin because own addresses changed or a path was lost.
    pub const ROUND_PAUSE: Duration = Duration::from_secs(5);
    /// How far ahead of ours the round of a signal may be.
    pub const MAX_ROUND_STEP: u32 = 1000;
    /// Openers that an agent sends in one round.
    pub const MAX_OPENERS: usize = 32;
    /// Routers that an opener passes: those of a home and of its carrier, and none near the peer.
    pub const OPENER_HOPS: u8 = 4;
    /// STUN servers asked.
    pub const MAX_STUN_SERVERS: usize = 16;
    /// Datagrams per question to a STUN server.
    pub const STUN_TRIES: u32 = 5;
    /// Wait before the first repetition of a question; doubles each time.
    pub const STUN_FIRST_TIMEOUT: Duration = Duration::from_millis(250);
    /// How long an unanswered question is waited for.
    pub const STUN_PATIENCE: Duration = Duration::from_secs(5);
    /// The same once another server has answered, if three times its round trip is not longer.
    pub const STUN_GRACE: Duration = Duration::from_millis(500);
    /// How often servers are asked again: keeps mappings alive, which last 30 s and more.
    pub const STUN_REFRESH: Duration = Duration::from_secs(20);
    /// The signal is repeated at this pace until the peer confirms to have it.
    pub const SIGNAL_REPEAT: Duration = Duration::from_secs(2);
    /// Shortest pause between two signals to the peer.
    pub const SIGNAL_PAUSE: Duration = Duration::from_millis(50);
    /// Wait before all pairs are tried again after the last one failed, where there is no lane;
    /// doubles each time.
    pub const RETRY_FIRST: Duration = Duration::from_secs(1);
    /// Longest such wait.
    pub const RETRY_LAST: Duration = Duration::from_secs(16);
}

/// Why something from outside was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// More bytes than [`limits::MAX_SIGNAL_BYTES`].
    #[error("the signal has {0} bytes, more than {max}", max = limits::MAX_SIGNAL_BYTES)]
    TooLarge(usize),
    /// Not the JSON object that a signal is.
    #[error("the signal cannot be read: {0}")]
    Format(String),
    /// A signal of another version.
    #[error("the signal has version {0}, this end speaks version 2")]
    Version(u32),
    /// Credentials too short, too long or with characters outside RFC 8445.
    #[error("the credentials are malformed: {0}")]
    Credentials(&'static str),
    /// A round that is too far ahead.
    #[error("round {0} is too far ahead")]
    Round(u32),
    /// More candidates than [`limits::MAX_CANDIDATES`].
    #[error("{0} candidates, more than {max}", max = limits::MAX_CANDIDATES)]
    TooMany(usize),
    /// More signals than [`limits::MAX_SIGNALS_PER_WINDOW`].
    #[error("too many signals")]
    RateLimited,
    /// An address nobody can be reached at from here.
    #[error("{0} is not an address of a peer: {1}")]
    Address(std::net::SocketAddr, &'static str),
    /// Not an answer of a STUN server.
    #[error("not an answer of a STUN server: {0}")]
    Stun(&'static str),
}
