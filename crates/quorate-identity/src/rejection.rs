//! A refusal of something that came from somebody else.

use crate::{Code, Did};

/// Something from outside was refused. Carries the code, the rule, the cause and, where known, who
/// is at fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail} ({})", code.as_str())]
pub struct Rejection {
    /// What kind of refusal, as users and scripts see it.
    pub code: Code,
    /// Number of the rule in `docs/protocol.md` that was broken.
    pub rule: &'static str,
    /// The cause in words; never contains a secret.
    pub detail: String,
    /// Whose statement it was, when that is known.
    pub whom: Option<Did>,
}

impl Rejection {
    /// A refusal under `code`, for breaking `rule`, because of `detail`.
    pub fn new(code: Code, rule: &'static str, detail: impl Into<String>) -> Self {
        Self {
            code,
            rule,
            detail: detail.into(),
            whom: None,
        }
    }

    /// Names the party at fault.
    pub fn about(mut self, did: Did) -> Self {
        self.whom = Some(did);
        self
    }
}
