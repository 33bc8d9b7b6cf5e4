//! What is said on the control socket: one request, then answers, each a JSON object on a line.
//!
//! ```text
//! client ── {"v":1,"do":"status"} ──► session      {"v":1,"answer":"status","status":{…}}
//!        ── {"v":1,"do":"watch"} ───►              the same line on every change, until the session is clean
//!        ── {"v":1,"do":"leave"} ───►              {"v":1,"answer":"done"}
//!        ── {"v":1,"do":"cancel","reason":…} ──►   {"v":1,"answer":"done"} or {"v":1,"answer":"refused","code":…,"detail":…}
//! ```
//!
//! Limits: [`MAX_REQUEST_BYTES`], [`MAX_ANSWER_BYTES`]. A request is read strictly, in [`quorate_session::control`].

use quorate_identity::Rejection;
pub use quorate_session::control::{CONTROL_VERSION, MAX_REQUEST_BYTES, Request};
use serde::Serialize;
use serde_json::Value;

use super::SessionStatus;

/// Longest answer that a client reads, in bytes: 64 parties with long names stay far below.
pub const MAX_ANSWER_BYTES: usize = 1 << 20;

/// What a session answers.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "answer", rename_all = "lowercase")]
pub enum Answer {
    /// How it stands.
    Status {
        /// [`CONTROL_VERSION`].
        v: u8,
        /// The session.
        status: Box<SessionStatus>,
    },
    /// It will be done.
    Done {
        /// [`CONTROL_VERSION`].
        v: u8,
    },
    /// It will not.
    Refused {
        /// [`CONTROL_VERSION`].
        v: u8,
        /// The refusal code.
        code: String,
        /// Why, in words.
        detail: String,
    },
}

impl Answer {
    pub(super) fn status(status: SessionStatus) -> Self {
        Self::Status {
            v: CONTROL_VERSION,
            status: Box::new(status),
        }
    }

    pub(super) fn of(result: Result<(), Rejection>) -> Self {
        let v = CONTROL_VERSION;
        match result {
            Ok(()) => Self::Done { v },
            Err(why) => Self::Refused {
                v,
                code: why.code.as_str().into(),
                detail: why.detail,
            },
        }
    }

    pub(super) fn line(&self) -> Vec<u8> {
        line(self)
    }

    /// Reads one line. Members that a later version may add are passed over.
    pub fn parse(line: &[u8]) -> Result<Self, serde_json::Error> {
        // By hand: numbers with a fraction do not survive serde's buffering of tagged enums.
        let mut value: Value = serde_json::from_slice(line)?;
        let v = CONTROL_VERSION;
        match value["answer"].as_str() {
            Some("status") => Ok(Self::Status {
                v,
                status: serde_json::from_value(value["status"].take())?,
            }),
            Some("done") => Ok(Self::Done { v }),
            Some("refused") => Ok(Self::Refused {
                v,
                code: serde_json::from_value(value["code"].take())?,
                detail: serde_json::from_value(value["detail"].take())?,
            }),
            _ => Err(serde::de::Error::custom("it is no known kind of answer")),
        }
    }
}

fn line(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(value).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use quorate_identity::Code;

    #[test]
    fn an_answer_with_fractions_is_read_back() {
        let mut status = crate::control::status::tests::status();
        status.links.push(crate::control::LinkStatus {
            a: 0,
            b: 1,
            path: "local".into(),
            via: None,
            rtt_ms: Some(46.9),
            tx: 1,
            rx: u64::MAX,
            reason: String::new(),
            detail: String::new(),
            since: "2026-11-22T16:00:00Z".into(),
            overlay: None,
        });
        let answer = Answer::status(status);
        assert_eq!(Answer::parse(&answer.line()).unwrap(), answer);
        let refused = Answer::of(Err(Rejection::new(Code::Limit, "N14", "no")));
        assert_eq!(Answer::parse(&refused.line()).unwrap(), refused);
        assert!(Answer::parse(br#"{"answer":"maybe"}"#).is_err());
        assert!(Answer::parse(b"[]").is_err());
    }

    proptest! {
        #[test]
        fn no_answer_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Answer::parse(&bytes);
        }
    }
}
