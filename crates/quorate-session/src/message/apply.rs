//! Apply: a request for a seat, bound to one call and to both ends of one authenticated overlay connection.
//!
//! It lives two minutes and names both PeerIds, so nobody can carry it into another lobby or to another connection.
//!
//! Limits: [`APPLY_LIFETIME_SECONDS`]; with a card about 9 KB. Security. Provides: whoever is at the other end of the link
//! holds the DID's key and wants a seat in this call. Does not provide: that the name is true.

use super::{check_lifetime, check_text, check_version, from_to};
use crate::{
    limits::{APPLY_LIFETIME_SECONDS, MAX_CARD_BYTES, MAX_NAME_CHARS},
    peer_id::PeerId,
};
use quorate_identity::{
    B64, Code, Did, Digest, Rejection, Relationship, Statement, UnixTime, Validity,
};
use serde::{Deserialize, Serialize};

/// "I, `iss`, who call myself `name`, ask for a seat in `call`, from PeerId `local`, of PeerId `remote`."
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Apply {
    /// Protocol version.
    pub v: u8,
    /// Who asks.
    pub iss: Did,
    /// Digest of the call.
    pub call: Digest,
    /// What the applicant calls itself.
    pub name: String,
    /// PeerId of the applicant on this link.
    pub local: PeerId,
    /// PeerId of the inviter's lobby.
    pub remote: PeerId,
    /// Nonce.
    pub n: B64<16>,
    /// The applicant's card, a compact JWS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub card: Option<String>,
    /// Issued at.
    pub iat: UnixTime,
    /// Expires at.
    pub exp: UnixTime,
}

impl Statement for Apply {
    const TYP: &'static str = "quorate-apply+jwt";
    const RELATIONSHIP: Relationship = Relationship::Authentication;

    fn issuer(&self) -> &Did {
        &self.iss
    }

    fn validity(&self) -> Validity {
        from_to(self.iat, self.exp)
    }

    fn check(&self) -> Result<(), Rejection> {
        check_version(self.v)?;
        check_text("the applicant's name", &self.name, MAX_NAME_CHARS)?;
        let text = "an application must live two minutes at most";
        check_lifetime(self.iat, self.exp, APPLY_LIFETIME_SECONDS, "F4", text)?;
        if self
            .card
            .as_ref()
            .is_some_and(|card| card.len() > MAX_CARD_BYTES)
        {
            let text = "the card of an application is too long";
            return Err(Rejection::new(Code::Limit, "F4", text));
        }
        Ok(())
    }
}
