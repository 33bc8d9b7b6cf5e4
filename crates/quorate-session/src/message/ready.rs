//! Ready: the party exchanged authenticated data with every peer inside the mesh, and its guard listens.
//!
//! Sent only inside the tunnel to the party it is meant for, and believed only from there: a ready that arrives in the
//! tunnel shows that the tunnel works.

use super::{check_version, issued};
use quorate_identity::{Did, Digest, Rejection, Relationship, Statement, UnixTime, Validity};
use serde::{Deserialize, Serialize};

/// "My mesh of this roster works."
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ready {
    /// Protocol version.
    pub v: u8,
    /// The party.
    pub iss: Did,
    /// Digest of the invitation.
    pub inv: Digest,
    /// Digest of the roster.
    pub roster: Digest,
    /// Issued at.
    pub iat: UnixTime,
}

impl Statement for Ready {
    const TYP: &'static str = "quorate-ready+jwt";
    const RELATIONSHIP: Relationship = Relationship::Authentication;

    fn issuer(&self) -> &Did {
        &self.iss
    }

    fn validity(&self) -> Validity {
        issued(self.iat)
    }

    fn check(&self) -> Result<(), Rejection> {
        check_version(self.v)
    }
}
