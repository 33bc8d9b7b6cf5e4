//! Giving up when nobody is found: what was tried, and what can be done.
//!
//! ```text
//! looking ─ found before `--wait` ended ─► goes on without it
//!     └──── not found ─► E_NO_PATH: the addresses that were tried, the ways of looking, the next step
//!                        E_NOT_LISTED, or what else its relays say, where none of the user's relays let the user in
//! ```

use std::{collections::BTreeMap, time::Duration};

use quorate_identity::Code;
use quorate_node::{
    overlay::Relaying,
    party::{PartyEvent, Rendezvous, Scope, Stop},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::Options;
use crate::{failure::Failure, text};

/// How long the inviter of a ticket and the post of contacts are looked for without `--wait`.
pub const LOOKING: Duration = Duration::from_mins(1);

/// Relays that did not let the user in.
#[derive(Default)]
pub struct Refusals(BTreeMap<String, Code>);

impl Refusals {
    /// The relay with this `PeerId` did not.
    pub fn add(&mut self, relay: String, code: Code) {
        self.0.insert(relay, code);
    }

    /// The failure of a search that nobody was found in: it is the relays', where the user named some and none let the
    /// user in.
    pub fn explain(&self, failure: Failure, relays: &[String]) -> Failure {
        let of = |address: &String| {
            let peer = address.rsplit('/').next().unwrap_or_default();
            self.0.get(peer).copied()
        };
        let all: Option<Vec<Code>> = relays.iter().map(of).collect();
        let Some(code) = all.and_then(|codes| codes.first().copied()) else {
            return failure;
        };
        let text = format!("no relay of yours lets you in, and {}", failure.detail());
        let shown: Vec<_> = relays.iter().map(|r| text::foreign(r)).collect();
        Failure::new(code, text).note("relays", shown.join(", "))
    }
}

/// What was looked for: in words, and at which addresses that came with it.
pub struct Sought<'a> {
    /// Such as "the inviter could not be reached".
    pub cause: &'a str,
    /// Such as "the ticket": where `addresses` are from.
    pub source: &'a str,
    pub addresses: &'a [String],
    /// What has to run there.
    pub question: &'a str,
}

impl Sought<'_> {
    /// The refusal after `patience`.
    pub fn not_found(&self, patience: Duration, options: &Options) -> Failure {
        let waited = text::duration(i64::try_from(patience.as_secs()).unwrap_or(i64::MAX));
        let listed = |addresses: &[String]| {
            let shown: Vec<_> = addresses.iter().map(|a| text::foreign(a)).collect();
            shown.join(", ")
        };
        let told = match self.addresses {
            [] => format!("{} names no address", self.source),
            addresses => format!("{}: {}", self.source, listed(addresses)),
        };
        let given = match options.at.as_slice() {
            [] => "none was given".to_owned(),
            addresses => listed(addresses),
        };
        let here = match options.scope {
            Scope::Local => "the beacon of this machine; no network (--local)",
            Scope::Lan => "the beacon of this machine; mDNS in the networks it is in",
        };
        let relays = match (options.reach.relays.as_slice(), options.reach.relaying) {
            (_, Relaying::Never) => "none (--no-relay)".to_owned(),
            ([], _) => "none of yours (--relay)".to_owned(),
            (relays, _) => listed(relays),
        };
        let next = match options.scope {
            Scope::Local => "is the other party on this machine? Then",
            Scope::Lan => "give an address of theirs with --at, a relay with --relay, or",
        };
        Failure::new(Code::NoPath, format!("{} within {waited}", self.cause))
            .note("tried", told)
            .note("--at", given)
            .note("relays", relays)
            .note("searched", here)
            .hint(format!("{} {next} wait longer: --wait 30m", self.question))
    }
}

/// Passes the user's wish to stop on to a session, and ends it when nobody was reached in time.
pub struct Patience {
    /// When it is over, and what is said then.
    until: Option<(Instant, Failure)>,
    over: bool,
    /// How far looking through nodes came.
    nodes: Option<Rendezvous>,
    /// The user's relays, and those that refused the user.
    relays: Vec<String>,
    refusals: Refusals,
    user: watch::Receiver<Stop>,
    wish: watch::Sender<Stop>,
}

impl Patience {
    /// Begins now, if there is a limit at all. The session gets the wish that is returned.
    pub fn new(
        limit: Option<(Duration, Failure)>,
        relays: Vec<String>,
        user: &watch::Receiver<Stop>,
    ) -> (Self, watch::Receiver<Stop>) {
        let mut user = user.clone();
        let (wish, stop) = watch::channel(*user.borrow_and_update());
        let until =
            limit.and_then(|(limit, failure)| Some((Instant::now().checked_add(limit)?, failure)));
        let patience = Self {
            until,
            over: false,
            nodes: None,
            relays,
            refusals: Refusals::default(),
            user,
            wish,
        };
        (patience, stop)
    }

    /// Whoever answered at all was reached.
    pub fn look_at(&mut self, event: &PartyEvent, me: u16) {
        if let PartyEvent::Rendezvous(nodes) = event {
            self.nodes = Some(*nodes);
        }
        if let PartyEvent::RelayRefused { relay, code, .. } = event
            && let Ok(code) = code.parse()
        {
            self.refusals.add(relay.clone(), code);
        }
        if let PartyEvent::Party { index, phase } = event
            && !self.over
            && *index != me
            && phase != "invited"
        {
            self.until = None;
        }
    }

    /// One wish passed on. May be given up at any time.
    pub async fn step(&mut self) {
        let limit = self
            .until
            .as_ref()
            .filter(|_| !self.over)
            .map(|(at, _)| *at);
        let out_of_time = async {
            match limit {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Ok(()) = self.user.changed() => {
                let wish = *self.user.borrow_and_update();
                self.wish.send_replace(wish);
            }
            () = out_of_time => {
                self.over = true;
                self.wish.send_if_modified(|wish| {
                    let first = *wish == Stop::No;
                    *wish = (*wish).max(Stop::Gracefully);
                    first
                });
            }
            else => std::future::pending().await,
        }
    }

    /// What is said if it ended the session.
    pub fn ended_it(self) -> Option<Failure> {
        let failure = self
            .until
            .filter(|_| self.over)
            .map(|(_, failure)| failure)?;
        let failure = failure.note("nodes", nodes_line(self.nodes));
        Some(self.refusals.explain(failure, &self.relays))
    }
}

/// What became of looking through nodes that keep rendezvous records.
fn nodes_line(nodes: Option<Rendezvous>) -> String {
    let Some(nodes) = nodes else {
        return "none was asked; name a relay that all of you use: --relay ADDR".into();
    };
    let Rendezvous {
        named,
        connected,
        kept_by,
        looked_up,
        answers,
        refused,
    } = nodes;
    let usable = answers.saturating_sub(refused);
    let said = match (connected, kept_by) {
        (0, 0) => "none of them answers".to_owned(),
        (_, 0) => "none of them keeps where you are".to_owned(),
        _ => format!("{kept_by} keep where you are"),
    };
    let heard = match (looked_up, usable, refused) {
        (0, ..) => "nothing was looked up yet".to_owned(),
        (_, 0, 0) => format!("{looked_up} lookups found nobody: the others have not been there"),
        (_, 0, refused) => format!("{looked_up} lookups gave {refused} false answers"),
        (_, _, 0) => format!("{looked_up} lookups gave addresses, and nobody answers there"),
        (_, _, refused) => format!(
            "{looked_up} lookups gave addresses, and nobody answers there; {refused} false answers"
        ),
    };
    format!("{named} named; {said}; {heard}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relays_are_to_blame_where_each_of_the_users_refused() {
        let relays = |names: &[&str]| -> Vec<String> {
            let named = names
                .iter()
                .map(|n| format!("/ip4/203.0.113.1/tcp/4001/p2p/{n}"));
            named.collect()
        };
        let mut refusals = Refusals::default();
        let judged = |refusals: &Refusals, names: &[&str]| {
            let failure = Failure::new(Code::NoPath, "nobody came");
            refusals.explain(failure, &relays(names)).code()
        };
        assert_eq!(judged(&refusals, &["one"]), Code::NoPath);
        refusals.add("one".into(), Code::NotListed);
        assert_eq!(judged(&refusals, &["one"]), Code::NotListed);
        assert_eq!(judged(&refusals, &["one", "two"]), Code::NoPath);
        assert_eq!(judged(&refusals, &[]), Code::NoPath);
    }

    #[test]
    fn what_nodes_did_is_said_in_one_line() {
        let nodes = Rendezvous {
            named: 2,
            ..Rendezvous::default()
        };
        assert_eq!(
            nodes_line(Some(nodes)),
            "2 named; none of them answers; nothing was looked up yet"
        );
        let nodes = Rendezvous {
            connected: 1,
            kept_by: 1,
            looked_up: 9,
            ..nodes
        };
        assert_eq!(
            nodes_line(Some(nodes)),
            "2 named; 1 keep where you are; 9 lookups found nobody: the others have not been there"
        );
        assert!(nodes_line(None).contains("--relay"));
    }
}
