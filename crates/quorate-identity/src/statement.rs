//! Signed statements and the two types that keep checked ones apart from unchecked ones.
//!
//! ```text
//! text ─ parse ─► Unverified<T> ─ verify(keys of the issuer, at) ─► Verified<T>
//! claims ─ sign ──────────────────────────────────────────────────► Verified<T>
//! ```
//!
//! Security. Requires: the issuer's keys come from a resolver the caller trusts; `at` is the wall
//! clock within [`CLOCK_SKEW_SECONDS`]. Provides: a [`Verified`] value was signed by a key that the
//! issuer's DID document lists for this kind of statement, inside its time, and has the shape of its
//! type. Does not provide: that the issuer may say it in a given session; that is
//! `quorate-session`'s business.

use std::{ops::Deref, sync::Arc};

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    Code, Did, Digest, KeyId, PublicKey, Rejection, Relationship, ResolvedDid, SigningKey,
    UnixTime,
    jws::{self, CompactJws, MAX_STATEMENT_BYTES},
};

/// How far two honest clocks may lie apart, in seconds.
pub const CLOCK_SKEW_SECONDS: i64 = 300;

/// When a statement counts. Both bounds are widened by [`CLOCK_SKEW_SECONDS`] on verification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Validity {
    /// Not before this time (`nbf`, `iat`, `validFrom`).
    pub not_before: Option<UnixTime>,
    /// Not after this time (`exp`, `validUntil`).
    pub not_after: Option<UnixTime>,
}

impl Validity {
    fn check(self, at: UnixTime) -> Result<(), Rejection> {
        if let Some(from) = self.not_before
            && at < from.plus_seconds(-CLOCK_SKEW_SECONDS)
        {
            return Err(Rejection::new(
                Code::Time,
                "T3",
                format!(
                    "not valid before {}; this machine's clock says {}",
                    from.rfc3339(),
                    at.rfc3339()
                ),
            ));
        }
        if let Some(until) = self.not_after
            && at > until.plus_seconds(CLOCK_SKEW_SECONDS)
        {
            return Err(Rejection::new(
                Code::Time,
                "T2",
                format!(
                    "expired at {}; this machine's clock says {}",
                    until.rfc3339(),
                    at.rfc3339()
                ),
            ));
        }
        Ok(())
    }
}

/// A claim set that can be carried in a signed statement.
pub trait Statement: Serialize + DeserializeOwned {
    /// The JOSE `typ`, such as `quorate-join+jwt`.
    const TYP: &'static str;
    /// The verification relationship that the signing key must stand in.
    const RELATIONSHIP: Relationship;

    /// Who says it.
    fn issuer(&self) -> &Did;
    /// When it counts.
    fn validity(&self) -> Validity;
    /// Limits and shape beyond what the types say; run on parsing and before signing.
    fn check(&self) -> Result<(), Rejection> {
        Ok(())
    }
}

/// A statement whose shape is right and whose signature nobody has checked yet.
#[derive(Debug, Clone)]
pub struct Unverified<T> {
    text: Arc<str>,
    jws: CompactJws,
    claims: T,
}

impl<T: Statement> Unverified<T> {
    /// Reads a compact JWS of this type; `E_FORMAT`, `E_HEADER`, `E_ALG`, `E_KID` or the type's own
    /// refusal otherwise.
    pub fn parse(text: &str) -> Result<Self, Rejection> {
        let mut jws = CompactJws::parse(text)?;
        if jws.typ != T::TYP {
            return Err(Rejection::new(
                Code::Header,
                "J5",
                format!("this is a {}, not a {}", jws.typ, T::TYP),
            ));
        }
        let payload = std::mem::take(&mut jws.payload);
        let claims: T = serde_json::from_value(payload.clone())
            .map_err(|e| Rejection::new(Code::Format, "J7", format!("not a {}: {e}", T::TYP)))?;
        // Serde also reads arrays as structs, and absent members as null: one content has one text.
        if serde_json::to_value(&claims).ok().as_ref() != Some(&payload) {
            let why = format!("not a {}: not in its one form", T::TYP);
            return Err(Rejection::new(Code::Format, "J7", why));
        }
        claims.check()?;
        if jws.key_id.did() != claims.issuer() {
            return Err(Rejection::new(
                Code::Kid,
                "J6",
                format!(
                    "signed with a key of {}, but issued by {}",
                    jws.key_id.did(),
                    claims.issuer()
                ),
            ));
        }
        Ok(Self {
            text: text.into(),
            jws,
            claims,
        })
    }

    /// Who it claims to be from.
    pub fn issuer(&self) -> &Did {
        self.claims.issuer()
    }

    /// The verification method it claims to be signed with; under the issuer's DID.
    pub fn key_id(&self) -> &KeyId {
        &self.jws.key_id
    }

    /// The digest that names this statement, whatever its signature.
    pub fn digest(&self) -> Digest {
        jws::digest(self.signing_input())
    }

    /// The claims before anything is proven: to decide whom to resolve, never to act on.
    pub fn claims_unproven(&self) -> &T {
        &self.claims
    }

    /// Checks signature, key, relationship and time.
    pub fn verify(self, keys: &ResolvedDid, at: UnixTime) -> Result<Verified<T>, Rejection> {
        let issuer = self.claims.issuer().clone();
        let checked = self.check_signature(keys).and_then(|key| {
            self.claims.validity().check(at)?;
            Ok(key)
        });
        match checked {
            Ok(key) => Ok(Verified {
                digest: self.digest(),
                text: self.text,
                claims: self.claims,
                key,
            }),
            Err(rejection) => Err(rejection.about(issuer)),
        }
    }

    fn check_signature(&self, keys: &ResolvedDid) -> Result<PublicKey, Rejection> {
        if keys.did != *self.claims.issuer() {
            return Err(Rejection::new(
                Code::Kid,
                "J6",
                "resolved keys are those of another DID",
            ));
        }
        let method = keys.method(&self.jws.key_id).ok_or_else(|| {
            Rejection::new(
                Code::Kid,
                "J6",
                format!("{} is not in the DID document", self.jws.key_id),
            )
        })?;
        if !method.allows(T::RELATIONSHIP) {
            return Err(Rejection::new(
                Code::Kid,
                "J6",
                format!("{} may not be used for {}", self.jws.key_id, T::TYP),
            ));
        }
        if !method
            .key
            .verify(self.signing_input().as_bytes(), &self.jws.signature)
        {
            return Err(Rejection::new(
                Code::Sig,
                "J8",
                "the signature does not match: forged, or changed after it was signed",
            ));
        }
        Ok(method.key.clone())
    }

    fn signing_input(&self) -> &str {
        &self.text[..self.jws.signed_length]
    }
}

/// A statement whose signature, key, relationship and time were checked. The only way to one is
/// [`Unverified::verify`] or [`sign`].
#[derive(Debug, Clone)]
pub struct Verified<T> {
    text: Arc<str>,
    digest: Digest,
    claims: T,
    key: PublicKey,
}

impl<T> Verified<T> {
    /// The digest that names this statement.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The key that signed it.
    pub fn key(&self) -> &PublicKey {
        &self.key
    }

    /// The compact JWS, byte for byte.
    pub fn text(&self) -> &Arc<str> {
        &self.text
    }
}

impl<T> Deref for Verified<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.claims
    }
}

/// Signs `claims` with `key`, which must be the issuer's own `did:key`.
pub fn sign<T: Statement>(claims: T, key: &SigningKey) -> Result<Verified<T>, Rejection> {
    claims.check()?;
    if *claims.issuer() != key.did() {
        return Err(Rejection::new(
            Code::Kid,
            "J6",
            "the issuer is not the DID of the signing key",
        ));
    }
    let payload = serde_json::to_vec(&claims)
        .map_err(|e| Rejection::new(Code::Format, "J7", e.to_string()))?;
    let input = jws::signing_input(T::TYP, &key.key_id(), &payload);
    let signature = key.sign_bytes(input.as_bytes());
    let text = format!("{input}.{}", crate::base64url::encode(&signature));
    if text.len() > MAX_STATEMENT_BYTES {
        return Err(Rejection::new(
            Code::Limit,
            "J1",
            "the statement would be larger than 64 KiB",
        ));
    }
    Ok(Verified {
        digest: jws::digest(&input),
        text: text.into(),
        claims,
        key: key.public(),
    })
}
