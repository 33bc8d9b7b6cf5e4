//! What a party's run tells its user, as data: the command line makes words or JSON of it.

use serde::Serialize;

/// Something worth showing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum PartyEvent {
    /// The overlay can be reached here.
    Listening {
        /// Multiaddresses.
        addresses: Vec<String>,
    },
    /// The session reached a state.
    State {
        /// `joining`, `confirming`, `keyed`, `ready`, `running`, `closing`.
        state: String,
    },
    /// A party reached a phase.
    Party {
        /// Its index.
        index: u16,
        /// The phase.
        phase: String,
    },
    /// Who is waited for, repeated while it lasts.
    Waiting {
        /// Indexes of the parties.
        parties: Vec<u16>,
        /// For what.
        #[serde(rename = "for")]
        what: String,
        /// Seconds since the wait began.
        seconds: u64,
    },
    /// Every party signed the same roster.
    Roster {
        /// Its digest.
        digest: String,
    },
    /// The mesh works: one report per pair of this party.
    Mesh {
        /// The links.
        links: Vec<LinkReport>,
    },
    /// The path to a party changed.
    Path {
        /// Its index.
        index: u16,
        /// The word for the path.
        path: String,
        /// The word for why.
        reason: String,
        /// Why, as a sentence.
        detail: String,
    },
    /// The program runs.
    Program {
        /// `held` (everybody else is ready, the start is this user's), `started`, `connected`.
        state: String,
        /// Which run under this invitation it is here, from 1.
        run: u32,
    },
    /// The program is done; the bytes it sent, by its own count.
    Finished {
        /// Milliseconds, by its own clock.
        elapsed_ms: u64,
        /// Bytes sent to all parties.
        bytes_sent: u64,
    },
    /// Something from outside was refused; the session goes on.
    Refused {
        /// The code.
        code: String,
        /// The cause.
        detail: String,
        /// Who, where known.
        from: Option<String>,
    },
    /// Evidence that a party signed contradicting statements was kept.
    Evidence {
        /// The file.
        file: String,
    },
    /// What became of looking for the others through nodes, for who asks why nobody was found.
    Rendezvous(Rendezvous),
    /// A relay of the user or of the session does not let this party in.
    RelayRefused {
        /// Its `PeerId`.
        relay: String,
        /// The code.
        code: String,
        /// The same in words.
        text: String,
    },
    /// Something to know.
    Note {
        /// In words.
        text: String,
    },
    /// The record of the session was kept: what was signed, receipts included.
    Receipts {
        /// The file.
        file: String,
    },
    /// Everything made for the session was removed.
    Cleaned,
}

/// Looking for the others through nodes that keep rendezvous records, so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Rendezvous {
    /// Nodes that were named: relays, `--network`, and those of the invitation.
    pub named: usize,
    /// Nodes that there is a connection to.
    pub connected: usize,
    /// Nodes that keep where this party is.
    pub kept_by: usize,
    /// Lookups that ended.
    pub looked_up: u32,
    /// Answers that nodes gave.
    pub answers: u32,
    /// Those of them that were refused.
    pub refused: u32,
}

/// One link of the mesh as this party sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LinkReport {
    /// Index of the other party.
    pub index: u16,
    /// The word for the path.
    pub path: String,
    /// Round-trip time through the tunnel, in microseconds.
    pub rtt_us: Option<u64>,
}
