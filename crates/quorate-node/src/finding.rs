//! One thing that was looked at: how it is, and what to do about it.

/// How one thing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// It works, but not as well as it could, or not for everybody.
    Warn,
    /// It does not work.
    Fail,
}

impl Verdict {
    /// Its word: `ok`, `warn`, `fail`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at, a fixed word for scripts.
    pub id: &'static str,
    /// How it is.
    pub verdict: Verdict,
    /// What was seen.
    pub text: String,
    /// What to do, unless all is well.
    pub remedy: Option<String>,
}

impl Finding {
    /// All is well.
    pub fn ok(id: &'static str, text: impl Into<String>) -> Self {
        Self {
            id,
            verdict: Verdict::Ok,
            text: text.into(),
            remedy: None,
        }
    }

    /// It works, but.
    pub fn warn(id: &'static str, text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            id,
            verdict: Verdict::Warn,
            text: text.into(),
            remedy: Some(remedy.into()),
        }
    }

    /// It does not work.
    pub fn fail(id: &'static str, text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            id,
            verdict: Verdict::Fail,
            text: text.into(),
            remedy: Some(remedy.into()),
        }
    }
}
