//! A record as one page for people: no scripts, nothing fetched, every word of others escaped.
//!
//! The page proves nothing by itself; it says so, and how to check the record that it was made from.

use std::fmt::Write;

use quorate_session::{
    Pid, Record,
    record::{PartyVerdict, RunVerdict, Verdict},
    safety_words,
};

use crate::{record, text};

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1b1b1b;background:#fff}\
h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2rem}table{border-collapse:collapse;width:100%}\
th,td{text-align:left;vertical-align:top;padding:.3rem .6rem;border-bottom:1px solid #ddd}\
code{font-size:.85em;overflow-wrap:anywhere}.missing{font-weight:bold}";

/// The page.
pub fn page(record: &Record, verdict: &Verdict) -> String {
    let subject = &verdict.invitation.subject;
    let title = escape(&subject.title);
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
<meta name=\"viewport\" content=\"width=device-width\">\n<title>Record of {title}</title>\n\
<style>{STYLE}</style>\n</head>\n<body>\n<h1>Record of a computation: {title}</h1>\n<p>{}</p>\n",
        escape(record::meaning(verdict))
    );
    html.push_str("<table>\n");
    for (label, value) in [
        ("Session", verdict.session.to_string()),
        ("Record", record.digest().to_string()),
        ("Organizer", record::organizer(verdict)),
        (
            "Program",
            format!("{} {}", subject.program.entry, subject.program.manifest),
        ),
        (
            "Threshold",
            format!("{} of {}", subject.mpc.t, subject.mpc.m),
        ),
    ] {
        row(&mut html, label, &value);
    }
    for arg in &subject.program.args {
        row(&mut html, "Argument", arg);
    }
    if let Some(cancel) = &verdict.cancel {
        row(&mut html, "Cancelled", &cancel.reason);
    }
    html.push_str("</table>\n");
    for run in &verdict.runs {
        write_run(&mut html, verdict, run);
    }
    let missing = record::missing(verdict);
    if !missing.is_empty() {
        html.push_str("<h2>Missing signatures</h2>\n<ul>\n");
        for what in missing {
            push(
                &mut html,
                format_args!("<li class=\"missing\">{}</li>\n", escape(&what)),
            );
        }
        html.push_str("</ul>\n");
    }
    html.push_str("<h2>How to check this</h2>\n<p>This page is only a view. The proof is the record itself: ask for it (<code>quorate receipt export --format json</code>), \
then run <code>quorate verify FILE</code>. It works offline, and must name the record digest above.</p>\n</body>\n</html>");
    html
}

fn write_run(html: &mut String, verdict: &Verdict, run: &RunVerdict) {
    html.push_str("<h2>Roster</h2>\n<p>");
    match run.named {
        Some(named) => {
            let words = safety_words(&named).join(" ");
            push(
                html,
                format_args!("<code>{named}</code><br>{}", escape(&words)),
            );
        }
        None => html.push_str("Nobody confirmed one."),
    }
    html.push_str(
        "</p>\n<table>\n<tr><th>Party</th><th>Join</th><th>Confirm</th><th>Receipt</th></tr>\n",
    );
    for (index, party) in run.parties.iter().enumerate() {
        let pid = Pid(u16::try_from(index).unwrap_or(u16::MAX));
        let did = verdict
            .did(pid)
            .map(ToString::to_string)
            .unwrap_or_default();
        push(
            html,
            format_args!(
                "<tr><td>{index} {}<br><code>{}</code></td><td>{}</td><td>{}</td><td>{}</td></tr>\n",
                escape(verdict.name(pid)),
                escape(&did),
                there(party.join.is_some()),
                there(party.confirm.is_some()),
                receipts(party)
            ),
        );
    }
    html.push_str("</table>\n");
    for contradiction in run.contradictions() {
        push(
            html,
            format_args!(
                "<p class=\"missing\">Contradiction: {}</p>\n",
                escape(&contradiction.to_string())
            ),
        );
    }
}

fn receipts(party: &PartyVerdict) -> String {
    let receipts = party
        .receipts
        .iter()
        .map(|receipt| escape(&record::outcome(receipt)));
    let aborts = party
        .aborts
        .iter()
        .map(|abort| format!("stopped: {} {}", abort.code.0, escape(&abort.note)));
    let all: Vec<String> = receipts.chain(aborts).collect();
    if party.receipts.is_empty() {
        return format!("{}<br>{}", there(false), all.join("<br>"));
    }
    all.join("<br>")
}

fn there(signed: bool) -> &'static str {
    if signed {
        "signed"
    } else {
        "<span class=\"missing\">missing</span>"
    }
}

fn row(html: &mut String, label: &str, value: &str) {
    push(
        html,
        format_args!(
            "<tr><th>{label}</th><td><code>{}</code></td></tr>\n",
            escape(value)
        ),
    );
}

fn push(html: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a text cannot fail.
    let _ = html.write_fmt(text);
}

/// Safe between tags and in quoted attributes, and without characters that move or disguise text.
fn escape(text: &str) -> String {
    let mut out = String::new();
    for c in text::escaped(text).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_others_is_markup() {
        let hostile = "<script>alert('a&b')</script>\u{202e}\" onload=\"x";
        let safe = escape(hostile);
        assert!(!safe.contains(['<', '>', '"', '\'', '\u{202e}']), "{safe}");
        assert_eq!(escape("Süd & Öst"), "Süd &amp; Öst");
    }
}
