//! Kem: the lower-numbered party of a pair sends the higher one an encapsulated secret, fresh for one roster.

use super::{Pid, check_version, issued};
use quorate_identity::{B64, Did, Digest, Rejection, Relationship, Statement, UnixTime, Validity};
use serde::{Deserialize, Serialize};

/// A key share for one pair of one roster.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kem {
    /// Protocol version.
    pub v: u8,
    /// The lower-numbered party of the pair.
    pub iss: Did,
    /// Digest of the invitation.
    pub inv: Digest,
    /// Digest of the roster.
    pub roster: Digest,
    /// The higher-numbered party of the pair.
    pub to: Pid,
    /// X-Wing ciphertext: ML-KEM-768 (1088 bytes) and X25519 (32 bytes).
    pub ct: B64<1120>,
    /// Issued at.
    pub iat: UnixTime,
}

impl Statement for Kem {
    const TYP: &'static str = "quorate-kem+jwt";
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
