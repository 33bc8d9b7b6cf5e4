//! How a command ends when it does not succeed: one form for people, one for programs.

use std::process::ExitCode;

use quorate_identity::{Code, Rejection};
use quorate_node::Fault;
use serde_json::json;

use crate::{args::Global, text};

/// A refusal or failure that ends the command.
#[derive(Debug)]
pub struct Failure {
    code: Code,
    detail: String,
    notes: Vec<(&'static str, String)>,
    hint: Option<String>,
}

impl Failure {
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
            notes: Vec::new(),
            hint: None,
        }
    }

    /// A labelled line below the error.
    pub fn note(mut self, label: &'static str, text: impl Into<String>) -> Self {
        self.notes.push((label, text.into()));
        self
    }

    /// The next step, where it is more specific than the code's own.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Its code.
    pub fn code(&self) -> Code {
        self.code
    }

    /// Its cause in words.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// Whether the user wanted it so: declined, or stopped the command.
    pub fn is_the_users(&self) -> bool {
        [Code::Declined, Code::Interrupted].contains(&self.code)
    }

    /// Prints it and gives the exit code.
    pub fn print(self, global: &Global) -> ExitCode {
        let hint = self
            .hint
            .unwrap_or_else(|| self.code.next_step().to_owned());
        if global.json {
            let notes: serde_json::Map<_, _> = self
                .notes
                .iter()
                .map(|(k, v)| ((*k).to_owned(), v.clone().into()))
                .collect();
            text::say(
                json!({"schema": crate::report::schema("error"), "event": "error", "code": self.code.as_str(),
                "exit": self.code.exit_code(), "detail": self.detail, "notes": notes, "hint": hint}),
            );
        } else {
            use owo_colors::OwoColorize;
            text::say(format_args!(
                "{} {}   {}",
                "error:".red().bold(),
                text::foreign(&self.detail),
                self.code
            ));
            for (label, note) in &self.notes {
                text::say(text::row(label, note));
            }
            text::say(format_args!(" {} {hint}", "hint:".cyan()));
        }
        ExitCode::from(self.code.exit_code())
    }
}

impl From<Rejection> for Failure {
    fn from(rejection: Rejection) -> Self {
        let failure = Self::new(rejection.code, rejection.detail);
        match rejection.whom {
            Some(did) => failure.note("by", did.to_string()),
            None => failure,
        }
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self {
            code: fault.code,
            detail: fault.detail,
            notes: Vec::new(),
            hint: fault.hint,
        }
    }
}
