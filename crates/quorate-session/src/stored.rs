//! What a party keeps of a session across restarts: nothing secret, one small JSON object.
//!
//! It is written before anything is sent that depends on it. After a crash the party joins again with a higher epoch; the
//! record keeps it from reusing an epoch, from joining too often, from taking others' replayed joins, and from starting a session again that has ended.

use crate::{limits::MAX_PARTIES, message::PROTOCOL_VERSION};
use quorate_identity::{Code, Digest, Rejection, UnixMillis, json};
use serde::{Deserialize, Serialize};

/// Largest record, in bytes.
const MAX_RECORD_BYTES: usize = 4096;

/// A party's record of one session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stored {
    /// Version of this record.
    pub v: u8,
    /// Digest of the invitation.
    pub inv: Digest,
    /// The newest epoch this party used.
    pub epoch: UnixMillis,
    /// How often it joined.
    pub joins: u32,
    /// How many runs were started.
    pub runs: u32,
    /// The newest roster it confirmed.
    pub roster: Option<Digest>,
    /// Per position, the lowest epoch that counts: that of the newest join seen, or the next after one that was aborted.
    #[serde(default)]
    pub epochs: Vec<UnixMillis>,
    /// How the session ended, once it cannot go on.
    pub closed: Option<Closure>,
}

/// Why a session cannot be joined again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Closure {
    /// The computation was done.
    Finished,
    /// The organizer cancelled.
    Cancelled,
    /// A party or the organizer was caught saying two things.
    Distrusted,
}

impl Stored {
    /// The record of a session that nothing happened in yet.
    pub fn new(inv: Digest) -> Self {
        Self {
            v: PROTOCOL_VERSION,
            inv,
            epoch: UnixMillis(0),
            joins: 0,
            runs: 0,
            roster: None,
            epochs: Vec::new(),
            closed: None,
        }
    }

    /// Reads a record; a damaged one is `E_STATE`.
    pub fn parse(bytes: &[u8]) -> Result<Self, Rejection> {
        let damaged = |why: String| {
            Rejection::new(
                Code::State,
                "S11",
                format!("the session's record is damaged: {why}"),
            )
        };
        if bytes.len() > MAX_RECORD_BYTES {
            return Err(damaged("too large".into()));
        }
        let value = json::parse_strict(bytes).map_err(|e| damaged(e.detail))?;
        let stored: Self = serde_json::from_value(value).map_err(|e| damaged(e.to_string()))?;
        if stored.epochs.len() > MAX_PARTIES {
            return Err(damaged("more parties than there can be".into()));
        }
        if stored.v != PROTOCOL_VERSION {
            return Err(damaged(format!("version {}", stored.v)));
        }
        Ok(stored)
    }

    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let bytes = serde_json::to_vec(self);
        debug_assert!(bytes.is_ok(), "numbers and strings only");
        bytes.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_round_trips_and_damage_is_named() {
        let mut stored = Stored::new(Digest([3; 32]));
        stored.closed = Some(Closure::Cancelled);
        stored.epochs = vec![UnixMillis(1 << 52); MAX_PARTIES];
        let bytes = stored.encode();
        assert_eq!(Stored::parse(&bytes).expect("own form"), stored);
        for cut in 0..bytes.len() {
            assert_eq!(
                Stored::parse(&bytes[..cut]).expect_err("cut").code,
                Code::State
            );
        }
    }
}
