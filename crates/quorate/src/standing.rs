//! Showing how a session stands: as a block for a look, as lines for somebody who stays.

use std::{collections::BTreeMap, process::ExitCode};

use quorate_identity::{Code, UnixTime};
use quorate_node::{
    control::{Found, Life, LinkStatus, PartyStatus, SessionStatus, sessions},
    files::Home,
};
use serde_json::Value;

use crate::{failure::Failure, invitation::now, report::schema, text};

/// Characters of a digest that name a session; as many as are shown.
pub const SHOWN_DIGEST: usize = 8;
/// Fewest characters of a digest that are taken for it.
const MIN_DIGEST: usize = 6;

/// The session on this home that the user means; without a name, the only one.
pub fn choose(home: &Home, name: Option<&str>) -> Result<Found, Failure> {
    let on: Vec<Found> = sessions(home)?.into_iter().filter(|s| s.alive).collect();
    let names = |of: &[Found]| {
        let one = |s: &Found| {
            format!(
                "{} ({})",
                text::foreign(&s.about.session),
                short(&s.about.digest)
            )
        };
        of.iter().map(one).collect::<Vec<_>>().join(", ")
    };
    let meant: Vec<Found> = match name {
        None => on.clone(),
        Some(name) => on
            .iter()
            .filter(|s| is_meant(name, &s.about.session, &s.about.digest))
            .cloned()
            .collect(),
    };
    match <[Found; 1]>::try_from(meant) {
        Ok([one]) => Ok(one),
        Err(none) if none.is_empty() => {
            let why = match name {
                Some(name) => format!("no session {:?} is on", text::name(name)),
                None => "no session is on".into(),
            };
            let failure = Failure::new(Code::NoSession, why);
            Err(if on.is_empty() {
                failure
            } else {
                failure.note("on", names(&on))
            })
        }
        Err(several) => Err(Failure::new(Code::Usage, "several sessions are on")
            .note("on", names(&several))
            .hint("name one of them, or give the beginning of its digest")),
    }
}

/// Whether a user who wrote `text` means the session of this name and digest.
pub fn is_meant(text: &str, name: &str, digest: &str) -> bool {
    text == name || (text.len() >= MIN_DIGEST && digest.starts_with(text))
}

/// The beginning of a digest.
pub fn short(digest: &str) -> &str {
    digest.get(..SHOWN_DIGEST).unwrap_or(digest)
}

/// The status as the document that `--json` prints.
pub fn document(status: &SessionStatus) -> Value {
    let mut value = serde_json::to_value(status).unwrap_or_default();
    if let Value::Object(members) = &mut value {
        members.insert("schema".into(), schema("status").into());
    }
    value
}

/// The lines of a session that is looked at.
pub fn block(status: &SessionStatus) -> Vec<String> {
    let mut lines = vec![text::row(
        &text::foreign(&status.session),
        &headline(status),
    )];
    if let Some(end) = &status.end {
        let code = end
            .code
            .as_deref()
            .map_or(String::new(), |code| format!("   {code}"));
        lines.push(text::row(
            "",
            &format!("{}{code}", text::foreign(&end.detail)),
        ));
        return lines;
    }
    let width = status
        .parties
        .iter()
        .map(|p| text::name(&p.name).chars().count() + 6)
        .max();
    for party in &status.parties {
        let you = if party.you { " (you)" } else { "" };
        let name = format!("{}{you}", text::name(&party.name));
        let width = width.unwrap_or(0);
        let line = format!("{name:<width$}  {}", shown_state(party));
        lines.push(text::row("", line.trim_end()));
    }
    if !status.words.is_empty() {
        lines.push(text::row("words", &status.words.join("-")));
    }
    lines.extend(
        status
            .links
            .iter()
            .map(|link| text::row("link", &link_line(status, link))),
    );
    lines.extend(relays(status));
    if let Some(log) = &status.log {
        lines.push(text::row("log", &text::foreign(log)));
    }
    lines
}

/// Which parties relay for the others.
fn relays(status: &SessionStatus) -> Option<String> {
    let serving = status.parties.iter().filter(|p| p.relays);
    let names: Vec<String> = serving.map(|p| text::name(&p.name)).collect();
    let verb = if names.len() == 1 { "relays" } else { "relay" };
    let line = || text::row("relays", &format!("{} {verb} for others", names.join(", ")));
    (!names.is_empty()).then(line)
}

/// The links of a session that is on, as a table with a heading.
pub fn links(status: &SessionStatus) -> Vec<String> {
    let heading = ["LINK", "PATH", "RTT", "BYTES", "WHY"].map(str::to_owned);
    let mut rows = vec![heading];
    rows.extend(status.links.iter().map(|link| {
        [
            ends(status, link),
            path(link),
            round_trip(link),
            traffic(link),
            text::foreign(&link.detail),
        ]
    }));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: [usize; 5] = std::array::from_fn(|column| width(column).unwrap_or(0));
    let mut lines = vec![text::row(
        &text::foreign(&status.session),
        &headline(status),
    )];
    lines.extend(rows.iter().map(|row| {
        let cells = row.iter().zip(widths);
        let cells: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        text::row("", cells.join("  ").trim_end())
    }));
    lines.extend(relays(status));
    lines
}

/// How far a party is, and what it is waited for.
fn shown_state(party: &PartyStatus) -> String {
    let waits = party.waiting_for.as_deref();
    let waits = waits.map_or(String::new(), |what| {
        format!("   waiting for {}", text::foreign(what))
    });
    format!("{}{waits}", text::foreign(&party.state))
}

fn link_line(status: &SessionStatus, link: &LinkStatus) -> String {
    format!(
        "{}   {} {}   {}   {}",
        ends(status, link),
        path(link),
        round_trip(link),
        traffic(link),
        text::foreign(&link.detail)
    )
}

fn ends(status: &SessionStatus, link: &LinkStatus) -> String {
    let name = |index: u16| {
        let party = status.parties.iter().find(|p| p.index == index);
        party.map_or_else(|| format!("party {index}"), |p| text::name(&p.name))
    };
    format!("{} – {}", name(link.a), name(link.b))
}

fn path(link: &LinkStatus) -> String {
    text::foreign(&link.path)
}

fn round_trip(link: &LinkStatus) -> String {
    link.rtt_ms
        .map_or_else(|| "–".into(), |ms| format!("{ms:.1} ms"))
}

fn traffic(link: &LinkStatus) -> String {
    format!("↑{} ↓{}", text::bytes(link.tx), text::bytes(link.rx))
}

/// State, program, run and how long it may still take.
pub fn headline(status: &SessionStatus) -> String {
    let mut parts = vec![
        status.state.word().to_owned(),
        text::foreign(&status.program),
    ];
    if status.run > 0 {
        parts.push(format!("run {}", status.run));
    }
    if let Some(end) = &status.end {
        parts[0] = (if end.exit == 0 { "finished" } else { "aborted" }).into();
        parts.push(match age(&end.at) {
            Some(seconds) => format!("{} ago", text::duration(seconds)),
            None => text::foreign(&end.at),
        });
        parts.push(format!(
            "receipts {}/{}",
            end.receipts,
            status.parties.len()
        ));
    } else {
        parts.push(format!("until {}", text::foreign(&status.expires)));
    }
    parts.push(short(&status.digest).to_owned());
    parts.join(" · ")
}

fn age(at: &str) -> Option<i64> {
    let at = UnixTime::from_rfc3339(at).ok()?;
    Some(now().0 - at.0)
}

/// What changed since the last look, as lines: for one who stays.
#[derive(Default)]
pub struct Changes {
    life: Option<Life>,
    run: u32,
    /// How each party is shown.
    parties: BTreeMap<u16, String>,
    /// The path of each pair.
    paths: BTreeMap<(u16, u16), String>,
}

impl Changes {
    /// The lines to print for this status.
    pub fn since(&mut self, status: &SessionStatus) -> Vec<String> {
        let mut lines = Vec::new();
        if self.life.is_none() {
            lines.extend(block(status));
        } else if status.end.is_none() {
            if self.life != Some(status.state) || self.run != status.run {
                lines.push(text::row(status.state.word(), &headline(status)));
            }
            for party in &status.parties {
                let shown = shown_state(party);
                if self.parties.get(&party.index) != Some(&shown) {
                    lines.push(text::row(&text::name(&party.name), &shown));
                }
            }
            for link in &status.links {
                if self.paths.get(&(link.a, link.b)) != Some(&link.path) {
                    lines.push(text::row("link", &link_line(status, link)));
                }
            }
        }
        self.life = Some(status.state);
        self.run = status.run;
        self.parties = status
            .parties
            .iter()
            .map(|p| (p.index, shown_state(p)))
            .collect();
        let paths = status.links.iter();
        self.paths = paths.map(|l| ((l.a, l.b), l.path.clone())).collect();
        lines
    }
}

/// How a command ends that followed a session which another process took part in: as that one did.
pub fn conclude(status: Option<SessionStatus>) -> Result<ExitCode, Failure> {
    let Some((status, end)) = status.and_then(|s| s.end.clone().map(|end| (s, end))) else {
        return Err(Failure::new(Code::NoSession, "the process that took part ended without a word")
            .hint("run `quorate join` again to take part anew; `quorate clean` removes what is left of the first"));
    };
    let Some(code) = end.code else {
        return Ok(ExitCode::from(end.exit));
    };
    let code = Code::ALL
        .iter()
        .find(|c| c.as_str() == code)
        .copied()
        .unwrap_or(Code::Internal);
    let failure = Failure::new(code, end.detail);
    let who = end
        .whom
        .and_then(|index| status.parties.iter().find(|p| p.index == index));
    Err(match who {
        Some(party) => failure.note(
            "who",
            format!(
                "{} ({})",
                text::name(&party.name),
                text::foreign(&party.did)
            ),
        ),
        None => failure,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn example() -> SessionStatus {
        let mut text: Value =
            serde_json::from_str(include_str!("../../../schemas/v1/examples/status.json")).unwrap();
        text.as_object_mut().unwrap().remove("schema");
        let mut status: SessionStatus = serde_json::from_value(text).unwrap();
        status.end = None;
        status
    }

    #[test]
    fn the_table_of_links_has_one_row_per_pair_with_its_path_and_why() {
        let status = example();
        let lines = links(&status);
        let serving = status.parties.iter().filter(|p| p.relays).count();
        assert_eq!(serving, 1, "the example has a party that serves as a relay");
        assert_eq!(lines.len(), status.links.len() + 3, "{lines:#?}");
        assert!(lines[lines.len() - 1].ends_with("alba relays for others"));
        assert!(lines[1].contains("LINK") && lines[1].contains("WHY"));
        for (line, link) in lines[2..].iter().zip(&status.links) {
            assert!(
                line.contains(&link.path) && line.contains(&link.detail),
                "{line}"
            );
        }
        assert!(!status.links.is_empty(), "the example has a link");
    }

    #[test]
    fn who_stays_is_told_when_a_path_changes_and_only_then() {
        let mut status = example();
        let mut changes = Changes::default();
        changes.since(&status);
        assert!(changes.since(&status).is_empty());
        status.links[0].path = "relayed via north".into();
        let lines = changes.since(&status);
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].contains("relayed via north"));
    }
}
