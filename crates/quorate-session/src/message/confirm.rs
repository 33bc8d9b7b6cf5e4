//! Confirm: a party says which roster it holds, after it stored it and stopped using any older one.
//!
//! `roster` is what counts. `joins` lists the digests the roster was built from, in the order of the parties, so that two
//! parties with different rosters can say who differs and ask for the join they lack; nothing is installed on its ground.

use super::{check_version, issued};
use crate::limits::MAX_PARTIES;
use quorate_identity::{
    Code, Did, Digest, Rejection, Relationship, Statement, UnixMillis, UnixTime, Validity,
};
use serde::{Deserialize, Serialize};

/// "I hold this roster and no older one."
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Confirm {
    /// Protocol version.
    pub v: u8,
    /// The party.
    pub iss: Did,
    /// Digest of the invitation.
    pub inv: Digest,
    /// Digest of the roster.
    pub roster: Digest,
    /// The party's own epoch in that roster.
    pub epoch: UnixMillis,
    /// Digests of the joins in the roster, by position.
    pub joins: Vec<Digest>,
    /// Issued at.
    pub iat: UnixTime,
}

impl Statement for Confirm {
    const TYP: &'static str = "quorate-confirm+jwt";
    const RELATIONSHIP: Relationship = Relationship::Authentication;

    fn issuer(&self) -> &Did {
        &self.iss
    }

    fn validity(&self) -> Validity {
        issued(self.iat)
    }

    fn check(&self) -> Result<(), Rejection> {
        check_version(self.v)?;
        if self.joins.len() > MAX_PARTIES {
            return Err(Rejection::new(
                Code::Limit,
                "S6",
                "a confirm lists more joins than there can be parties",
            ));
        }
        Ok(())
    }
}
