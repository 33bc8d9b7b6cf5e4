//! Frames of the lobby: JSON, each kind with its own members and no others.

use crate::{
    contact::read_frame,
    limits::{MAX_BUNDLE_CHARS, MAX_FRAME_BYTES, MAX_NOTE_CHARS, MAX_PROGRAM_SOURCE_BYTES},
    message::{CodeText, is_unprintable},
};
use quorate_identity::{B64, Code, Digest, MAX_STATEMENT_BYTES, Rejection};
use serde::{Deserialize, Serialize};

/// One message between an applicant and the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "t", rename_all = "lowercase", deny_unknown_fields)]
pub enum Frame {
    /// Applicant: show me the call whose digest begins so.
    Find {
        /// From the ticket.
        call: B64<16>,
    },
    /// Host: this is it.
    Call {
        /// The call, a compact JWS.
        jws: String,
        /// Digest of what [`Frame::Heard`] will reveal.
        commit: Digest,
        /// The program's source, base64url, if the inviter sends it along.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        program: Option<String>,
    },
    /// Applicant: I ask for a seat.
    Apply {
        /// An application, a compact JWS.
        jws: String,
    },
    /// Host: your application is here; a person will decide.
    Heard {
        /// What the host had committed to.
        reveal: B64<32>,
    },
    /// Host: you have a seat.
    Admitted {
        /// How many were admitted before.
        place: u16,
    },
    /// Host: you do not get one.
    Declined {
        /// Why.
        code: CodeText,
        /// Why, in words.
        note: String,
    },
    /// Host: the closed invitation.
    Bundle {
        /// Text form of a bundle.
        text: String,
    },
    /// Applicant: I have it.
    Taken {
        /// Digest of the invitation in it.
        inv: Digest,
    },
    /// Applicant: I do not want a seat any more.
    Leave {},
}

impl Frame {
    /// Reads one frame.
    pub fn parse(bytes: &[u8]) -> Result<Self, Rejection> {
        let frame: Self = read_frame(bytes, MAX_FRAME_BYTES, "F5")?;
        frame.check()?;
        Ok(frame)
    }

    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    fn check(&self) -> Result<(), Rejection> {
        let fits = match self {
            Self::Call { jws, program, .. } => {
                let source = program.as_ref().map_or(0, String::len);
                jws.len() <= MAX_STATEMENT_BYTES
                    && source <= MAX_PROGRAM_SOURCE_BYTES.div_ceil(3) * 4
            }
            Self::Apply { jws } => jws.len() <= MAX_STATEMENT_BYTES,
            Self::Bundle { text } => text.len() <= MAX_BUNDLE_CHARS,
            Self::Declined { note, .. } => {
                note.chars().count() <= MAX_NOTE_CHARS && !note.chars().any(is_unprintable)
            }
            Self::Find { .. }
            | Self::Heard { .. }
            | Self::Admitted { .. }
            | Self::Taken { .. }
            | Self::Leave {} => true,
        };
        if fits {
            return Ok(());
        }
        let text = "a frame holds more than its kind may";
        Err(Rejection::new(Code::Limit, "F5", text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn frames_round_trip_and_unknown_members_are_refused() {
        let call = Frame::Call {
            jws: "a.b.c".into(),
            commit: Digest([1; 32]),
            program: None,
        };
        for frame in [
            Frame::Find { call: B64([1; 16]) },
            call,
            Frame::Leave {},
            Frame::Admitted { place: 2 },
        ] {
            assert_eq!(Frame::parse(&frame.encode()), Ok(frame));
        }
        for bad in [
            &br#"{"t":"leave","x":1}"#[..],
            br#"{"t":"find"}"#,
            br#"{"t":"hello","tag":""}"#,
            br#"{"t":"admitted","place":70000}"#,
            br#"{"t":"declined","code":"E_NONE","note":""}"#,
            b"[]",
            b"",
        ] {
            assert!(Frame::parse(bad).is_err());
        }
    }

    #[test]
    fn frames_beyond_their_limits_are_refused() {
        let declined = |note: String| Frame::Declined {
            code: CodeText(Code::Full),
            note,
        };
        for frame in [
            Frame::Bundle {
                text: "x".repeat(MAX_BUNDLE_CHARS + 1),
            },
            Frame::Apply {
                jws: "x".repeat(MAX_STATEMENT_BYTES + 1),
            },
            declined("x".repeat(MAX_NOTE_CHARS + 1)),
            declined("\u{202e}".into()),
        ] {
            let refusal = Frame::parse(&frame.encode()).expect_err("beyond");
            assert_eq!((refusal.code, refusal.rule), (Code::Limit, "F5"));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Frame::parse(&bytes);
        }
    }
}
