//! Receipt: what one party saw of one run. Holds no output and no digest of one, because small outputs can be guessed.

use super::{check_version, issued};
use quorate_identity::{Code, Did, Digest, Rejection, Relationship, Statement, UnixTime, Validity};
use serde::{Deserialize, Serialize};

/// How a run ended for one party.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReceiptOutcome {
    /// The program ended with exit code 0.
    Done,
    /// The party's own program failed.
    Failed,
    /// Stopped because of somebody or something else.
    Aborted,
}

/// One party's record of one run.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// Protocol version.
    pub v: u8,
    /// The party.
    pub iss: Did,
    /// Digest of the invitation.
    pub inv: Digest,
    /// Digest of the roster that ran.
    pub roster: Digest,
    /// Which run of the session this was for the party, from 1.
    pub run: u32,
    /// How it ended.
    pub outcome: ReceiptOutcome,
    /// Exit code of the program, if it ended by itself.
    pub exit: Option<i32>,
    /// Start of the program.
    pub start: UnixTime,
    /// End of the program.
    pub end: UnixTime,
    /// Bytes the program reports to have sent.
    pub bytes: Option<u64>,
    /// Issued at.
    pub iat: UnixTime,
}

impl Statement for Receipt {
    const TYP: &'static str = "quorate-receipt+jwt";
    const RELATIONSHIP: Relationship = Relationship::Authentication;

    fn issuer(&self) -> &Did {
        &self.iss
    }

    fn validity(&self) -> Validity {
        issued(self.iat)
    }

    fn check(&self) -> Result<(), Rejection> {
        check_version(self.v)?;
        if self.end < self.start || (self.outcome == ReceiptOutcome::Done && self.exit != Some(0)) {
            return Err(Rejection::new(
                Code::Format,
                "S10",
                "the receipt contradicts itself",
            ));
        }
        Ok(())
    }
}
