//! The envelope of a W3C Verifiable Credential 2.0, secured as JWT (`vc+jwt`, VC-JOSE-COSE).
//!
//! The payload is the credential itself. Members that quorate does not know are refused: a term
//! that one reader ignores and another obeys would let two parties accept different terms.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned};

use crate::{Code, Did, Rejection, Relationship, Statement, UnixTime, Validity, time::rfc3339};

/// First context of every credential (VC 2.0, section 4.3).
const CONTEXT_VC2: &str = "https://www.w3.org/ns/credentials/v2";
/// Context of quorate's own terms.
const CONTEXT_QUORATE: &str = "https://quorate.org/ns/v1";
/// Base type of every credential (VC 2.0, section 4.5).
const BASE_TYPE: &str = "VerifiableCredential";

/// What a kind of credential says about its subject.
pub trait Subject: Serialize + DeserializeOwned {
    /// The specific type, such as `QuorateInvitation`.
    const TYPE: &'static str;
    /// Limits and shape beyond what the types say.
    fn check(&self) -> Result<(), Rejection>;
}

/// A verifiable credential about `S`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential<S> {
    /// `id`, a URN.
    pub id: String,
    /// Who issues it.
    pub issuer: Did,
    /// Valid from this time.
    pub valid_from: UnixTime,
    /// Valid until this time.
    pub valid_until: UnixTime,
    /// The subject.
    pub subject: S,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire<S> {
    #[serde(rename = "@context")]
    context: [String; 2],
    id: String,
    #[serde(rename = "type")]
    types: [String; 2],
    issuer: Did,
    #[serde(rename = "validFrom", with = "rfc3339")]
    valid_from: UnixTime,
    #[serde(rename = "validUntil", with = "rfc3339")]
    valid_until: UnixTime,
    #[serde(rename = "credentialSubject")]
    subject: S,
}

impl<S: Subject> Serialize for Credential<S> {
    fn serialize<Out: Serializer>(&self, out: Out) -> Result<Out::Ok, Out::Error> {
        Wire {
            context: [CONTEXT_VC2.into(), CONTEXT_QUORATE.into()],
            id: self.id.clone(),
            types: [BASE_TYPE.into(), S::TYPE.into()],
            issuer: self.issuer.clone(),
            valid_from: self.valid_from,
            valid_until: self.valid_until,
            subject: &self.subject,
        }
        .serialize(out)
    }
}

impl<'de, S: Subject> Deserialize<'de> for Credential<S> {
    fn deserialize<In: Deserializer<'de>>(input: In) -> Result<Self, In::Error> {
        use serde::de::Error;
        let wire = Wire::<S>::deserialize(input)?;
        if wire.context != [CONTEXT_VC2, CONTEXT_QUORATE] {
            return Err(In::Error::custom(
                "@context is not that of a quorate credential",
            ));
        }
        if wire.types != [BASE_TYPE, S::TYPE] {
            return Err(In::Error::custom(format!("type is not {}", S::TYPE)));
        }
        Ok(Self {
            id: wire.id,
            issuer: wire.issuer,
            valid_from: wire.valid_from,
            valid_until: wire.valid_until,
            subject: wire.subject,
        })
    }
}

impl<S: Subject> Statement for Credential<S> {
    const TYP: &'static str = "vc+jwt";
    const RELATIONSHIP: Relationship = Relationship::AssertionMethod;

    fn issuer(&self) -> &Did {
        &self.issuer
    }

    fn validity(&self) -> Validity {
        Validity {
            not_before: Some(self.valid_from),
            not_after: Some(self.valid_until),
        }
    }

    fn check(&self) -> Result<(), Rejection> {
        if !is_uuid_urn(&self.id) {
            return Err(Rejection::new(
                Code::Format,
                "V1",
                "the credential's id is not a urn:uuid",
            ));
        }
        if self.valid_until < self.valid_from {
            return Err(Rejection::new(
                Code::Time,
                "V2",
                "validUntil lies before validFrom",
            ));
        }
        self.subject.check()
    }
}

/// `urn:uuid:` and a UUID in lower-case hexadecimal (RFC 9562, section 4).
fn is_uuid_urn(id: &str) -> bool {
    let Some(uuid) = id.strip_prefix("urn:uuid:") else {
        return false;
    };
    uuid.len() == 36
        && uuid.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte),
        })
}
