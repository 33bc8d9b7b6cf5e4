//! What was looked at, as lines and as JSON.

use quorate_node::{Finding, Verdict};
use serde_json::{Value, json};

use crate::text;

/// One line for each finding, and its remedy below it.
pub fn say(findings: &[Finding]) {
    use owo_colors::OwoColorize;
    for finding in findings {
        let word = match finding.verdict {
            Verdict::Ok => "ok".green().to_string(),
            Verdict::Warn => "warn".yellow().to_string(),
            Verdict::Fail => "fail".red().to_string(),
        };
        // Padded by hand: colour has no width.
        let pad = " ".repeat(5 - finding.verdict.as_str().len());
        let text = text::foreign(&finding.text);
        text::say(format_args!("  {word}{pad}{:<13} {text}", finding.id));
        if let Some(remedy) = &finding.remedy {
            text::say(format_args!(
                "       {:<13} → {}",
                "",
                text::foreign(remedy)
            ));
        }
    }
}

/// One finding for programs.
pub fn document(finding: &Finding) -> Value {
    json!({"id": finding.id, "verdict": finding.verdict.as_str(), "text": finding.text,
        "remedy": finding.remedy})
}
