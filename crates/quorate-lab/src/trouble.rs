//! What went wrong in the lab, as a sentence for the person in front of it.

use std::fmt;

/// A failure with all that led to it, outermost first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble(String);

/// What the lab's functions give.
pub type Outcome<T> = Result<T, Trouble>;

impl Trouble {
    /// A failure in these words.
    pub fn new(words: impl Into<String>) -> Self {
        Self(words.into())
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Trouble {}

/// Says during what something failed.
pub trait Context<T> {
    /// Puts `during` in front of the cause.
    fn during(self, during: impl fmt::Display) -> Outcome<T>;
}

impl<T, E: fmt::Display> Context<T> for Result<T, E> {
    fn during(self, during: impl fmt::Display) -> Outcome<T> {
        self.map_err(|cause| Trouble(format!("{during}: {cause}")))
    }
}
