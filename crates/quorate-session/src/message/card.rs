//! Card: what a person hands out to be invited by: a DID, the name that goes with it, a key to seal invitations to.
//!
//! Self-issued: the issuer is whom it is about. The seal key is derived from the identity's seed, so a card can be made
//! again and nothing more has to be kept.
//!
//! Limits: [`MAX_CARD_SECONDS`]; about 3 KB. Security. Provides: the name and the seal key are what the DID's key signed.
//! Does not provide: that the name is true, or that the DID belongs to whom one thinks; the way the card came does.

use super::{JOIN_KEM, KemKey, PROTOCOL_VERSION, check_text, check_version, invitation::uuid_urn};
use crate::{
    keys::check_encapsulation_key,
    limits::{MAX_CARD_SECONDS, MAX_NAME_CHARS},
};
use quorate_identity::{
    B64, Code, Credential, Did, DidKeyResolver, Rejection, Resolver, Statement, Subject, UnixTime,
    Unverified, Verified,
};
use serde::{Deserialize, Serialize};

/// A contact card.
pub type Card = Credential<CardSubject>;

/// What a card says about its issuer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CardSubject {
    /// Protocol version.
    pub v: u8,
    /// What the issuer calls itself.
    pub name: String,
    /// Key that invitations to the issuer can be sealed to.
    pub seal: KemKey,
}

impl Subject for CardSubject {
    const TYPE: &'static str = "QuorateCard";

    fn check(&self) -> Result<(), Rejection> {
        check_version(self.v)?;
        check_text("the name", &self.name, MAX_NAME_CHARS)?;
        if self.seal.alg != JOIN_KEM {
            let text = format!("the card has no {JOIN_KEM} key");
            return Err(Rejection::new(Code::Pq, "F3", text));
        }
        check_encapsulation_key(&self.seal.ek.0).map_err(|r| Rejection { rule: "F3", ..r })
    }
}

/// The card of `issuer` with the seal key `ek`, ready to be signed. `uuid` is random.
pub fn card(
    issuer: Did,
    name: String,
    ek: [u8; 1216],
    uuid: [u8; 16],
    valid_from: UnixTime,
    valid_until: UnixTime,
) -> Result<Card, Rejection> {
    let card = Card {
        id: uuid_urn(uuid),
        issuer,
        valid_from,
        valid_until,
        subject: CardSubject {
            v: PROTOCOL_VERSION,
            name,
            seal: KemKey {
                alg: JOIN_KEM.into(),
                ek: B64(ek),
            },
        },
    };
    card.check()?;
    check_lifetime(&card)?;
    Ok(card)
}

/// Reads a card and verifies it by its issuer's own keys.
pub fn verify_card(text: &str, at: UnixTime) -> Result<Verified<Card>, Rejection> {
    let card = Unverified::<Card>::parse(text.trim())?;
    check_lifetime(card.claims_unproven())?;
    let issuer = card.issuer().clone();
    let keys = DidKeyResolver.resolve(&issuer).ok_or_else(|| {
        let text =
            format!("{issuer} cannot be resolved: only did:key is supported by this version");
        Rejection::new(Code::DidResolve, "D3", text).about(issuer.clone())
    })??;
    card.verify(&keys, at)
}

fn check_lifetime(card: &Card) -> Result<(), Rejection> {
    if card.valid_until.0.saturating_sub(card.valid_from.0) > MAX_CARD_SECONDS {
        let text = "the card is valid for more than two years";
        return Err(Rejection::new(Code::Limit, "F3", text));
    }
    Ok(())
}
