//! What can go wrong on this machine, as opposed to what somebody else did wrong.

use quorate_identity::{Code, Rejection};

/// A failure of the environment: a file, a socket, a program. Carries the code that users see, the
/// cause in words and, where there is a better one than the code's own, the next step.
#[derive(Debug, thiserror::Error)]
#[error("{detail}")]
pub struct Fault {
    /// What kind of failure.
    pub code: Code,
    /// The cause in words; never contains a secret.
    pub detail: String,
    /// What to do, when it is more specific than [`Code::next_step`].
    pub hint: Option<String>,
}

impl Fault {
    /// A failure under `code` because of `detail`.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
            hint: None,
        }
    }

    /// Adds the next step.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl From<Rejection> for Fault {
    fn from(rejection: Rejection) -> Self {
        Self::new(rejection.code, rejection.detail)
    }
}
