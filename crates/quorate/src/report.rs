//! What a running session tells its user: lines for people, or one JSON object a line.

use std::{collections::BTreeSet, io::IsTerminal, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};
use quorate_identity::{Digest, Verified};
use quorate_node::party::PartyEvent;
use quorate_session::{Invitation, Pid, safety_words};
use serde_json::{Value, json};

use crate::{args::Global, text};

/// Names of schemas are URLs that do not move.
pub fn schema(name: &str) -> String {
    format!("https://quorate.org/schemas/v1/{name}.json")
}

/// A note as an event, where there are no lines for people.
pub fn note(note: &str) {
    text::say(json!({"schema": schema("event"), "event": "note", "text": note}));
}

/// How often the living line of a wait moves.
const SPIN: Duration = Duration::from_millis(500);

/// The safety words of a roster: the same at all parties, or something is wrong.
fn words(roster: &str) -> String {
    let digest: Result<Digest, _> = roster.parse();
    digest.map_or_else(|_| roster.to_owned(), |d| safety_words(&d).join("-"))
}

/// Shows the events of one party's session.
#[allow(clippy::struct_excessive_bools)] // independent switches and marks
pub struct Report {
    json: bool,
    quiet: bool,
    names: Vec<String>,
    /// Who can invite again.
    organizer: String,
    me: usize,
    program: String,
    bytes_sent: Option<u64>,
    elapsed_ms: Option<u64>,
    joined: BTreeSet<u16>,
    local: bool,
    ran: bool,
    sealed: bool,
    shown_addresses: bool,
    spinner: Option<ProgressBar>,
}

impl Report {
    pub fn new(global: &Global, invitation: &Verified<Invitation>, me: usize, local: bool) -> Self {
        let subject = &invitation.subject;
        Self {
            json: global.json,
            quiet: global.quiet,
            names: subject
                .parties
                .iter()
                .map(|p| text::name(&p.name))
                .collect(),
            me,
            organizer: match subject.parties.iter().find(|p| p.did == invitation.issuer) {
                Some(party) => text::foreign(&party.name),
                None => invitation.issuer.to_string(),
            },
            program: text::foreign(&subject.program.entry),
            bytes_sent: None,
            elapsed_ms: None,
            joined: BTreeSet::new(),
            local,
            ran: false,
            sealed: false,
            shown_addresses: false,
            spinner: None,
        }
    }

    /// Shows one event.
    pub fn show(&mut self, event: &PartyEvent) {
        // Of interest only where nobody is found; see `part/unreached.rs`.
        if matches!(event, PartyEvent::Rendezvous(_)) {
            return;
        }
        if let PartyEvent::Finished {
            elapsed_ms,
            bytes_sent,
        } = event
        {
            self.elapsed_ms = Some(*elapsed_ms);
            self.bytes_sent = Some(*bytes_sent);
        }
        self.ran |= matches!(event, PartyEvent::Program { state, .. } if state != "held");
        self.sealed |= matches!(event, PartyEvent::Roster { .. });
        if self.json {
            let mut value =
                serde_json::to_value(event).unwrap_or_else(|_| json!({"event": "unprintable"}));
            if let Value::Object(members) = &mut value {
                members.insert("schema".into(), schema("event").into());
                if let PartyEvent::Roster { digest } = event {
                    members.insert("words".into(), words(digest).into());
                }
            }
            text::say(value);
            return;
        }
        if self.quiet {
            return;
        }
        if matches!(
            event,
            PartyEvent::Roster { .. } | PartyEvent::Program { .. } | PartyEvent::Cleaned
        ) {
            self.stop_spinner();
        }
        let Some(line) = self.line(event) else { return };
        if matches!(event, PartyEvent::Waiting { .. }) && std::io::stderr().is_terminal() {
            self.spin(line);
        } else if let Some(spinner) = &self.spinner {
            spinner.suspend(|| text::say(line));
        } else {
            text::say(line);
        }
    }

    /// On a terminal a wait is one line that lives; elsewhere it is a line now and then.
    fn spin(&mut self, line: String) {
        let spinner = self.spinner.get_or_insert_with(|| {
            let spinner = ProgressBar::new_spinner();
            let style = ProgressStyle::with_template("{msg} · {elapsed} {spinner}");
            spinner.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            spinner.enable_steady_tick(SPIN);
            spinner
        });
        spinner.reset_elapsed();
        spinner.set_message(line);
    }

    fn stop_spinner(&mut self) {
        if let Some(spinner) = self.spinner.take() {
            spinner.finish_and_clear();
        }
    }

    /// Whose session is reported.
    pub fn me(&self) -> Pid {
        Pid(self.me_index())
    }

    /// Whether the program was started at all.
    pub fn ran(&self) -> bool {
        self.ran
    }

    /// A line that is not about the session itself.
    pub fn aside(&self, line: &str) {
        if self.json || self.quiet {
            return;
        }
        match &self.spinner {
            Some(spinner) => spinner.suspend(|| text::say(line)),
            None => text::say(line),
        }
    }

    /// Whether all parties signed the same roster, so that each has proven its DID.
    pub fn sealed(&self) -> bool {
        self.sealed
    }

    /// The line for the end of a good run.
    pub fn finished(&self, receipts: usize) {
        if self.json {
            text::say(
                json!({"schema": schema("event"), "event": "ended", "outcome": "finished",
                "receipts": receipts, "parties": self.names.len(), "elapsed_ms": self.elapsed_ms, "bytes_sent": self.bytes_sent}),
            );
        } else if !self.quiet {
            text::say(text::row("finished", &self.summary(receipts)));
            text::say(text::row(
                "cleaned",
                "mesh, session keys, sockets and run folder are removed",
            ));
        }
    }

    fn summary(&self, receipts: usize) -> String {
        let mut parts = Vec::new();
        if let Some(ms) = self.elapsed_ms {
            parts.push(text::elapsed(ms));
        }
        if let Some(bytes) = self.bytes_sent {
            parts.push(format!("{} sent by this party", text::bytes(bytes)));
        }
        parts.push(format!("receipts {receipts}/{}", self.names.len()));
        parts.join(" · ")
    }

    fn line(&mut self, event: &PartyEvent) -> Option<String> {
        Some(match event {
            PartyEvent::Listening { addresses } => {
                if self.shown_addresses {
                    return None;
                }
                let address = addresses.iter().find(|a| self.worth_telling(a))?;
                self.shown_addresses = true;
                text::row(
                    "reachable",
                    &format!("at {address}   (for --at, where the others do not find you)"),
                )
            }
            PartyEvent::State { state } => Self::state_line(state)?,
            PartyEvent::Party { index, phase } => self.joined_line(*index, phase)?,
            PartyEvent::Waiting {
                parties,
                what,
                seconds,
            } => self.waiting_line(parties, what, *seconds)?,
            PartyEvent::Roster { digest } => {
                let m = self.names.len();
                text::row(
                    "sealed",
                    &format!(
                        "{m}/{m} signed the same session · safety words  {}   (read them out)",
                        words(digest)
                    ),
                )
            }
            PartyEvent::Mesh { links } => {
                let links: Vec<_> = links
                    .iter()
                    .map(|l| {
                        let rtt = l.rtt_us.map_or_else(String::new, |us| {
                            format!(" {}.{} ms", us / 1000, us % 1000 / 100)
                        });
                        format!(
                            "{}–{}{rtt} {}",
                            self.name(self.me_index()),
                            self.name(l.index),
                            l.path
                        )
                    })
                    .collect();
                text::row(
                    "mesh",
                    &format!(
                        "{}   WireGuard, no root, no open TCP port",
                        links.join("   ")
                    ),
                )
            }
            PartyEvent::Program { state, .. } if state == "held" => {
                text::row("ready", "everybody is; the program starts when you say so")
            }
            PartyEvent::Program { state, run } if state == "started" && *run > 1 => {
                text::row("running", &format!("{} · run {run}", self.program))
            }
            PartyEvent::Program { state, .. } if state == "started" => {
                text::row("running", &self.program.clone())
            }
            PartyEvent::Refused { code, detail, from } => {
                let from = from
                    .as_deref()
                    .map_or_else(String::new, |f| format!("  from {}", text::foreign(f)));
                text::row(
                    "refused",
                    &format!("{}{from}   {code}", text::foreign(detail)),
                )
            }
            PartyEvent::Receipts { file } => text::row("receipts", &format!("kept in {file}")),
            PartyEvent::Evidence { file } => text::row("evidence", &format!("kept in {file}")),
            PartyEvent::Note { text: note } | PartyEvent::RelayRefused { text: note, .. } => {
                text::row("note", &text::foreign(note))
            }
            _ => return None,
        })
    }

    /// A party is in from its join on; what we hear of it first may be a later phase.
    fn joined_line(&mut self, index: u16, phase: &str) -> Option<String> {
        let is_in = !["invited", "linked"].contains(&phase) && usize::from(index) != self.me;
        let news = is_in && self.joined.insert(index);
        news.then(|| text::row("joined", &self.name(index)))
    }

    fn state_line(state: &str) -> Option<String> {
        (state == "closing").then(|| text::row("ended", "exchanging receipts"))
    }

    fn waiting_line(&self, parties: &[u16], what: &str, seconds: u64) -> Option<String> {
        // The short waits of a healthy session are not worth a line.
        if seconds == 0 && what != "connection" {
            return None;
        }
        let names: Vec<_> = parties.iter().map(|p| self.name(*p)).collect();
        let since = match seconds {
            0 => String::new(),
            s => format!(
                " · {}",
                text::duration(i64::try_from(s).unwrap_or(i64::MAX))
            ),
        };
        let alone = what == "connection" && parties.len() + 1 == self.names.len();
        let hint = match seconds {
            0..30 => String::new(),
            30..60 => " · have they run `quorate join`? Ctrl-C stops".into(),
            _ if alone => format!(
                " · nobody answers: have they run `quorate join`? If they took part and stopped already, ask {} for a new invitation; Ctrl-C stops",
                self.organizer
            ),
            _ => " · have they run `quorate join`? Ctrl-C stops".into(),
        };
        Some(text::row(
            "waiting",
            &format!("for {} · {what}{since}{hint}", names.join(", ")),
        ))
    }

    /// An address that a person on another machine (or, with `--local`, on this one) can use.
    fn worth_telling(&self, address: &str) -> bool {
        let loopback = address.starts_with("/ip4/127.") || address.starts_with("/ip6/::1/");
        loopback == self.local && address.starts_with("/ip4/") && address.contains("/tcp/")
    }

    fn me_index(&self) -> u16 {
        u16::try_from(self.me).unwrap_or(u16::MAX)
    }

    fn name(&self, index: u16) -> String {
        self.names
            .get(usize::from(index))
            .cloned()
            .unwrap_or_else(|| format!("party {index}"))
    }
}
