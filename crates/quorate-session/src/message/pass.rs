//! Pass: a DID shown to a relay that serves listed DIDs only, bound to both ends of one authenticated connection and to the
//! relay's challenge.
//!
//! It tells the relay who comes, so that it is made only for relays that a person named for it, and only when they ask.
//!
//! Limits: [`PASS_LIFETIME_SECONDS`]. Security. Provides: whoever is at the other end of this connection holds the DID's
//! key, now. Does not provide: anything towards others than this relay.

use super::{check_lifetime, check_version, from_to};
use crate::{limits::PASS_LIFETIME_SECONDS, peer_id::PeerId};
use quorate_identity::{B64, Did, Rejection, Relationship, Statement, UnixTime, Validity};
use serde::{Deserialize, Serialize};

/// "I, `iss`, speak from PeerId `local` to the relay `remote`, which asked `n`."
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pass {
    /// Protocol version.
    pub v: u8,
    /// Who speaks.
    pub iss: Did,
    /// PeerId of the speaker on this connection.
    pub local: PeerId,
    /// PeerId of the relay.
    pub remote: PeerId,
    /// The relay's challenge.
    pub n: B64<32>,
    /// Issued at.
    pub iat: UnixTime,
    /// Expires at.
    pub exp: UnixTime,
}

impl Statement for Pass {
    const TYP: &'static str = "quorate-pass+jwt";
    const RELATIONSHIP: Relationship = Relationship::Authentication;

    fn issuer(&self) -> &Did {
        &self.iss
    }

    fn validity(&self) -> Validity {
        from_to(self.iat, self.exp)
    }

    fn check(&self) -> Result<(), Rejection> {
        check_version(self.v)?;
        let text = "a pass must live two minutes at most";
        check_lifetime(self.iat, self.exp, PASS_LIFETIME_SECONDS, "S14.2", text)
    }
}
