//! Record: everything that was signed in a session, as one text that anybody can check later, offline.
//!
//! ```text
//! Record { v, invitation, dids[], runs[] { joins[], confirms[], receipts[], aborts[] }, cancel }
//!    bytes ─ parse ─► Record ─ verify ─► Verdict: who signed what, what is missing, what contradicts
//! ```
//! A run is what was signed under one roster. A party that started a session again holds several; the newest is last.
//!
//! Form: JSON in the canonical form of RFC 8785 (JCS), so that a record has one text and one digest. Lists are ordered:
//! documents by DID, runs by epoch, statements by position and digest.
//!
//! Limits: [`MAX_RECORD_BYTES`], [`MAX_RECORD_RUNS`]; per run one join and one confirm of each party, and as many receipts
//! and aborts as a ledger keeps.
//!
//! Security. Requires: nothing but the bytes; the DID documents are in the record, and a `did:key` is its own document.
//! Provides: see [`Record::verify`]. Does not provide: that times in it are true (they are what the signers' clocks said),
//! that the record has every run, or that a party computed what it says. Nothing in a record is secret, but it tells who
//! computed what with whom.
//!
//! Source: docs/protocol.md, R1 to R7.

mod merge;
mod snapshot;
mod verdict;
mod verify;

pub use snapshot::{Snapshot, SnapshotKey};
pub use verdict::{Contradiction, Lack, PartyVerdict, RunVerdict, Standing, Verdict};

use crate::{
    limits::{MAX_PARTIES, MAX_RECORD_BYTES, MAX_RECORD_RUNS},
    message::Invitation,
};
use quorate_identity::{Code, Digest, Rejection, Verified, json};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The version of the record's form. Version 1 was the invitation with bare receipts.
pub const RECORD_VERSION: u8 = 2;

/// Everything that was signed in one session.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// [`RECORD_VERSION`].
    pub v: u8,
    /// The invitation, compact JWS.
    pub invitation: String,
    /// What the DIDs of the parties and of the organizer resolved to.
    pub dids: Vec<Snapshot>,
    /// What was signed, roster by roster; the newest last.
    pub runs: Vec<Run>,
    /// The organizer's cancel, if there is one.
    pub cancel: Option<String>,
}

/// The statements under one roster, compact JWS each, by position.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// The joins that the roster is made of, or those there were when the session ended before.
    pub joins: Vec<String>,
    /// The confirms of that roster.
    pub confirms: Vec<String>,
    /// The receipts for that roster.
    pub receipts: Vec<String>,
    /// Who stopped it, and why.
    pub aborts: Vec<String>,
}

/// Short: a record is hundreds of kilobytes of signatures.
impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count =
            |list: fn(&Run) -> &Vec<String>| self.runs.last().map_or(0, |run| list(run).len());
        f.debug_struct("Record")
            .field("runs", &self.runs.len())
            .field("joins", &count(|run| &run.joins))
            .field("confirms", &count(|run| &run.confirms))
            .field("receipts", &count(|run| &run.receipts))
            .finish_non_exhaustive()
    }
}

impl Record {
    /// A record of one run; `None` where nothing was signed but the invitation.
    pub(crate) fn new(
        invitation: &Verified<Invitation>,
        mut dids: Vec<Snapshot>,
        run: Option<Run>,
        cancel: Option<String>,
    ) -> Self {
        dids.sort_by(|a, b| a.did.cmp(&b.did));
        dids.dedup_by(|a, b| a.did == b.did);
        Self {
            v: RECORD_VERSION,
            invitation: invitation.text().to_string(),
            dids,
            runs: run.into_iter().collect(),
            cancel,
        }
    }

    /// Reads a record in its one form. Says nothing about signatures: that is [`Record::verify`].
    pub fn parse(bytes: &[u8]) -> Result<Self, Rejection> {
        if bytes.len() > MAX_RECORD_BYTES {
            let text = format!("a record is larger than {MAX_RECORD_BYTES} bytes");
            return Err(Rejection::new(Code::Limit, "R1", text));
        }
        let value = json::parse_strict(bytes)?;
        let malformed =
            |why: String| Rejection::new(Code::Format, "R1", format!("not a record: {why}"));
        if value.get("receipts").is_some() && value.get("runs").is_none() {
            let text = "a record of an older form: receipts without what they are about";
            return Err(Rejection::new(Code::Record, "R1", text));
        }
        let record: Self =
            serde_json::from_value(value).map_err(|error| malformed(error.to_string()))?;
        if record.v != RECORD_VERSION {
            let text = format!(
                "a record of version {}, this is version {RECORD_VERSION}",
                record.v
            );
            return Err(Rejection::new(Code::Version, "R1", text));
        }
        record.check_lengths()?;
        if record.encode() != bytes {
            return Err(malformed("not in its one form".into()));
        }
        Ok(record)
    }

    /// Its one text.
    pub fn encode(&self) -> Vec<u8> {
        let bytes = serde_jcs::to_vec(self);
        debug_assert!(bytes.is_ok(), "texts, lists and one small number");
        bytes.unwrap_or_default()
    }

    /// The name of this record: two parties that hold the same one hold the same statements.
    pub fn digest(&self) -> Digest {
        Digest::of("quorate/1/record", &self.encode())
    }

    fn check_lengths(&self) -> Result<(), Rejection> {
        let fits = self.runs.len() <= MAX_RECORD_RUNS && self.dids.len() <= MAX_PARTIES + 1;
        if fits {
            return Ok(());
        }
        let text = "a record lists more than a session can have";
        Err(Rejection::new(Code::Limit, "R1", text))
    }
}
