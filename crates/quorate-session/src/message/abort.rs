//! Abort: a party stops, and everybody with it.
//!
//! An abort counts while `epoch` is its issuer's current one: whoever stopped in an epoch takes part
//! again only with a new one. So an abort of an earlier run cannot stop a later one. `roster` says
//! what was given up, for the record.

use super::{Pid, check_text, check_version, issued};
use crate::limits::MAX_NOTE_CHARS;
use quorate_identity::{
    Code, Did, Digest, Rejection, Relationship, Statement, UnixMillis, UnixTime, Validity,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A refusal code on the wire: its text form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodeText(pub Code);

impl Serialize for CodeText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.as_str())
    }
}

impl<'de> Deserialize<'de> for CodeText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse()
            .map(Self)
            .map_err(|_| serde::de::Error::custom("unknown refusal code"))
    }
}

/// "I stop; so must you."
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Abort {
    /// Protocol version.
    pub v: u8,
    /// Who stops.
    pub iss: Did,
    /// Digest of the invitation.
    pub inv: Digest,
    /// Digest of the roster that is given up; none before there was one.
    pub roster: Option<Digest>,
    /// The issuer's current epoch.
    pub epoch: UnixMillis,
    /// Why.
    pub code: CodeText,
    /// Who is at fault, when that is known.
    pub whom: Option<Pid>,
    /// Why, in words.
    pub note: String,
    /// Issued at.
    pub iat: UnixTime,
}

impl Statement for Abort {
    const TYP: &'static str = "quorate-abort+jwt";
    const RELATIONSHIP: Relationship = Relationship::Authentication;

    fn issuer(&self) -> &Did {
        &self.iss
    }

    fn validity(&self) -> Validity {
        issued(self.iat)
    }

    fn check(&self) -> Result<(), Rejection> {
        check_version(self.v)?;
        check_text("the note of an abort", &self.note, MAX_NOTE_CHARS)
    }
}
