//! Hello: the signed half of the link handshake, bound to both ends of one authenticated overlay connection.
//!
//! It is short-lived and names both PeerIds, so it cannot be carried to another connection. It is the one statement that
//! is answered to instead of flooded; it decides nothing but who is at the other end of a link.

use super::{check_lifetime, check_version, from_to};
use crate::{limits::HELLO_LIFETIME_SECONDS, peer_id::PeerId};
use quorate_identity::{B64, Did, Digest, Rejection, Relationship, Statement, UnixTime, Validity};
use serde::{Deserialize, Serialize};

/// "I, `iss`, speak from PeerId `local` to PeerId `remote` about session `inv`."
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hello {
    /// Protocol version.
    pub v: u8,
    /// Who speaks.
    pub iss: Did,
    /// Session id of the invitation held.
    pub sid: B64<32>,
    /// Digest of the invitation held.
    pub inv: Digest,
    /// PeerId of the speaker on this link.
    pub local: PeerId,
    /// PeerId spoken to.
    pub remote: PeerId,
    /// Issued at.
    pub iat: UnixTime,
    /// Expires at.
    pub exp: UnixTime,
}

impl Statement for Hello {
    const TYP: &'static str = "quorate-hello+jwt";
    const RELATIONSHIP: Relationship = Relationship::Authentication;

    fn issuer(&self) -> &Did {
        &self.iss
    }

    fn validity(&self) -> Validity {
        from_to(self.iat, self.exp)
    }

    fn check(&self) -> Result<(), Rejection> {
        check_version(self.v)?;
        let text = "a link proof must live two minutes at most";
        check_lifetime(self.iat, self.exp, HELLO_LIFETIME_SECONDS, "S5", text)
    }
}
