//! Whereabouts: where a party of a session can be reached in one hour, the signed inside of a rendezvous record.
//!
//! It names the session by its id and not by the digest of an invitation: two groups that were given different invitations
//! with one id find each other, and see that they were.
//!
//! Limits: [`MAX_PUBLISHED_ADDRESSES`] addresses of [`MAX_ADDRESS_BYTES`], [`RENDEZVOUS_LIFETIME_SECONDS`]; what does not fit
//! into [`RENDEZVOUS_PLAIN_BYTES`](crate::limits::RENDEZVOUS_PLAIN_BYTES) is not published. Security. Provides: the DID's
//! holder gave these addresses and this PeerId for this session and hour. Does not provide: that somebody answers there.

use super::{check_lifetime, check_version, from_to};
use crate::{
    limits::{MAX_ADDRESS_BYTES, MAX_PUBLISHED_ADDRESSES, RENDEZVOUS_LIFETIME_SECONDS},
    peer_id::PeerId,
};
use quorate_identity::{
    B64, Code, Did, Digest, Rejection, Relationship, Statement, UnixTime, Validity,
};
use serde::{Deserialize, Serialize};

/// "I, `iss`, am PeerId `peer` in session `sid`, and can be reached at these addresses in this hour."
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Whereabouts {
    /// Protocol version.
    pub v: u8,
    /// Who can be reached.
    pub iss: Did,
    /// Session id of the invitation.
    pub sid: B64<32>,
    /// The hour since 1970 that it was published for.
    pub hour: u64,
    /// Larger with every publication of a party.
    pub seq: u64,
    /// Overlay identity of the party's current epoch.
    pub peer: PeerId,
    /// Addresses, the best first: multiaddrs without the PeerId at their end.
    pub addr: Vec<String>,
    /// Digest of the party's current join.
    pub join: Digest,
    /// Issued at.
    pub iat: UnixTime,
    /// Expires at.
    pub exp: UnixTime,
}

impl Statement for Whereabouts {
    const TYP: &'static str = "quorate-whereabouts+jwt";
    const RELATIONSHIP: Relationship = Relationship::Authentication;

    fn issuer(&self) -> &Did {
        &self.iss
    }

    fn validity(&self) -> Validity {
        from_to(self.iat, self.exp)
    }

    fn check(&self) -> Result<(), Rejection> {
        check_version(self.v)?;
        let text = "whereabouts must live half an hour at most";
        check_lifetime(
            self.iat,
            self.exp,
            RENDEZVOUS_LIFETIME_SECONDS,
            "S13.6",
            text,
        )?;
        if self.addr.len() > MAX_PUBLISHED_ADDRESSES
            || self.addr.iter().any(|text| text.len() > MAX_ADDRESS_BYTES)
        {
            let text = "whereabouts have too many addresses, or one that is too long";
            return Err(Rejection::new(Code::Limit, "S13.7", text));
        }
        let is_shaped =
            |text: &String| text.starts_with('/') && text.bytes().all(|b| b.is_ascii_graphic());
        if !self.addr.iter().all(is_shaped) {
            let text = "an address in whereabouts is no multiaddr";
            return Err(Rejection::new(Code::Format, "S13.7", text));
        }
        Ok(())
    }
}
