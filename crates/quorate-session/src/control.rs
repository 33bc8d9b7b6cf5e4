//! What a user asks of a running session on the own machine: one request, a JSON object on a line.
//!
//! ```text
//! {"v":1,"do":"status"}   {"v":1,"do":"watch"}   {"v":1,"do":"leave"}   {"v":1,"do":"cancel","reason":…}
//! ```
//! Limits: [`MAX_REQUEST_BYTES`], [`MAX_NOTE_CHARS`] for a reason. Read strictly: exactly these members.
//!
//! Security. Requires: the socket answers to its owner only, which is not seen here. Provides: whatever came is one of these
//! requests or a refusal. Source: docs/protocol.md, N14.

use crate::{limits::MAX_NOTE_CHARS, message::is_unprintable};
use quorate_identity::{Code, Rejection, json};
use serde::{Deserialize, Serialize};

/// Version of what is said on the control socket.
pub const CONTROL_VERSION: u8 = 1;
/// Longest request, in bytes, with its line end.
pub const MAX_REQUEST_BYTES: usize = 4096;

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "lowercase", deny_unknown_fields)]
pub enum Request {
    /// The status now.
    Status {
        /// [`CONTROL_VERSION`].
        v: u8,
    },
    /// The status now and after every change.
    Watch {
        /// [`CONTROL_VERSION`].
        v: u8,
    },
    /// This party leaves: all stop.
    Leave {
        /// [`CONTROL_VERSION`].
        v: u8,
    },
    /// The organizer cancels the session.
    Cancel {
        /// [`CONTROL_VERSION`].
        v: u8,
        /// Why, in words.
        reason: String,
    },
}

impl Request {
    /// Reads one line.
    pub fn parse(line: &[u8]) -> Result<Self, Rejection> {
        if line.len() > MAX_REQUEST_BYTES {
            return Err(Rejection::new(
                Code::Limit,
                "N14",
                "the request is too long",
            ));
        }
        let value = json::parse_strict(line)?;
        let request: Self = serde_json::from_value(value)
            .map_err(|e| Rejection::new(Code::Format, "N14", format!("not a request: {e}")))?;
        match &request {
            Self::Status { v } | Self::Watch { v } | Self::Leave { v } | Self::Cancel { v, .. }
                if *v != CONTROL_VERSION =>
            {
                let text = format!("speaks version {v} of the control socket, this is version 1");
                Err(Rejection::new(Code::Version, "N14", text))
            }
            Self::Cancel { reason, .. } if reason.chars().count() > MAX_NOTE_CHARS => {
                let text = format!("a reason has at most {MAX_NOTE_CHARS} characters");
                Err(Rejection::new(Code::Limit, "N14", text))
            }
            // It is signed and shown to all parties.
            Self::Cancel { reason, .. } if reason.chars().any(is_unprintable) => {
                let text = "a reason has control or direction characters";
                Err(Rejection::new(Code::Format, "N14", text))
            }
            _ => Ok(request),
        }
    }

    /// Its line.
    pub fn line(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn requests_are_read_strictly() {
        let cancel = Request::Cancel {
            v: 1,
            reason: "no".into(),
        };
        for request in [
            Request::Status { v: 1 },
            Request::Watch { v: 1 },
            Request::Leave { v: 1 },
            cancel,
        ] {
            let line = request.line();
            assert_eq!(
                Request::parse(&line[..line.len() - 1]).expect("taken"),
                request
            );
        }
        let refused = [
            (&br#"{"v":1,"do":"status","x":1}"#[..], Code::Format),
            (br#"{"v":1,"do":"halt"}"#, Code::Format),
            (br#"{"do":"status"}"#, Code::Format),
            (br#"{"v":1,"v":1,"do":"status"}"#, Code::Format),
            (br#"{"v":1,"do":"status"}{}"#, Code::Format),
            (br#"{"v":2,"do":"status"}"#, Code::Version),
            (br#"{"v":1,"do":"cancel"}"#, Code::Format),
            (
                br#"{"v":1,"do":"cancel","reason":"\u001b[2J"}"#,
                Code::Format,
            ),
            (b"", Code::Format),
            (&[b' '; MAX_REQUEST_BYTES + 1], Code::Limit),
        ];
        for (line, code) in refused {
            assert_eq!(Request::parse(line).expect_err("refused").code, code);
        }
        let long = format!(
            r#"{{"v":1,"do":"cancel","reason":"{}"}}"#,
            "x".repeat(MAX_NOTE_CHARS + 1)
        );
        assert_eq!(
            Request::parse(long.as_bytes()).expect_err("refused").code,
            Code::Limit
        );
    }

    proptest! {
        #[test]
        fn no_request_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Request::parse(&bytes);
        }
    }
}
