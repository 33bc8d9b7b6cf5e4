//! Which relays this party uses: what it says on the command line, or else keeps for every session.
//!
//! ```text
//! --relay ADDR… --relay-pass ADDR…  else  QUORATE_RELAY=ADDR,ADDR  else  DATA/relays, one a line (# begins a remark)
//! ```
//! A relay with a list learns the own DID only where the user said so: by `--relay-pass`, or by the word `pass` behind the
//! address in the file.
//!
//! An address on the command line that cannot be one is refused; in the other two places too, since
//! somebody who believes that a relay is in use must not learn of it by silence.

use quorate_identity::{Code, SigningKey};
use quorate_node::{
    files::{Home, read_bounded},
    lobby::peer_of,
    overlay::{Reach, Relaying, Scope, check_relay},
};
use quorate_session::{
    RendezvousSecret,
    limits::{MAX_HINTS, MAX_RENDEZVOUS_ADDRESSES},
};

use crate::{args::PartArgs, failure::Failure, text};

/// Addresses for an invitation: the way to the organizer, who takes part, over each relay.
pub fn meeting_hints(
    relays: &[String],
    organizer: &SigningKey,
    secret: &RendezvousSecret,
) -> Vec<String> {
    let peer = peer_of(&secret.meeting(organizer));
    let relays = relays.iter().take(MAX_HINTS);
    relays
        .map(|relay| format!("{relay}/p2p-circuit/p2p/{peer}"))
        .collect()
}

/// The environment variable.
const VARIABLE: &str = "QUORATE_RELAY";
/// The file among the user's data.
const FILE: &str = "relays";
/// The word behind the address of a relay that may learn the own DID.
const PASS: &str = "pass";
/// The file of nodes that are asked in every session, besides the relays.
const NETWORK_FILE: &str = "network";
/// Largest such file, in bytes.
const MAX_FILE_BYTES: u64 = 16 * 1024;

/// The relays of this party.
pub fn of(part: &PartArgs, home: &Home) -> Result<Reach, Failure> {
    if part.no_relay {
        return Ok(Reach {
            relaying: Relaying::Never,
            map_ports: !part.no_port_mapping,
            ..Reach::default()
        });
    }
    let scope = if part.local { Scope::Local } else { Scope::Lan };
    let (named, source) = if part.relay.is_empty() && part.relay_pass.is_empty() {
        kept(home)?
    } else {
        let all = part.relay.iter().map(|relay| (relay.clone(), false));
        let passes = part.relay_pass.iter().map(|relay| (relay.clone(), true));
        (all.chain(passes).collect(), "--relay")
    };
    for (relay, _) in &named {
        // What is kept is for every session: on one machine, relays elsewhere are no use and no fault.
        let scope = if source == "--relay" {
            scope
        } else {
            Scope::Lan
        };
        check_relay(relay, scope).map_err(|why| refused(relay, source, why))?;
    }
    let usable = named.into_iter();
    let usable: Vec<Named> = usable
        .filter(|(relay, _)| check_relay(relay, scope).is_ok())
        .collect();
    let passes = usable.iter().filter(|(_, pass)| *pass);
    let passes = passes.map(|(relay, _)| relay.clone()).collect();
    let mut relays: Vec<String> = Vec::new();
    for (relay, _) in usable {
        if !relays.contains(&relay) {
            relays.push(relay);
        }
    }
    let usable = relays;
    if usable.len() > MAX_RENDEZVOUS_ADDRESSES {
        let text = format!(
            "{} relays; {MAX_RENDEZVOUS_ADDRESSES} are possible",
            usable.len()
        );
        return Err(Failure::new(Code::Usage, text).note("from", source));
    }
    if part.own_relays && usable.is_empty() {
        let text = "--own-relays, but there is no relay of yours";
        return Err(Failure::new(Code::Usage, text)
            .hint("name one: --relay ADDR; to use none at all: --no-relay"));
    }
    Ok(Reach {
        relays: usable,
        relaying: if part.own_relays {
            Relaying::OwnOnly
        } else {
            Relaying::Any
        },
        map_ports: !part.no_port_mapping,
        passes,
        ..Reach::default()
    })
}

/// The relays of a session as `again` uses them: one's own, then those of the invitation, as lines of the file of relays.
pub fn to_remember(own: &Reach, of_session: &[String]) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let session: &[String] = match own.relaying {
        Relaying::Any => of_session,
        Relaying::OwnOnly | Relaying::Never => &[],
    };
    for relay in own.relays.iter().chain(session) {
        let line = if own.passes.contains(relay) {
            format!("{relay} {PASS}")
        } else {
            relay.clone()
        };
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    lines.truncate(MAX_RENDEZVOUS_ADDRESSES);
    lines
}

/// Adds the relays of an earlier session to those that are kept, where the user named none this time.
pub fn remember(reach: &mut Reach, lines: &[String], scope: Scope) {
    if reach.relaying != Relaying::Any {
        return;
    }
    let lines = lines.iter().cloned().map(named);
    for (relay, pass) in lines.filter(|(relay, _)| check_relay(relay, scope).is_ok()) {
        if reach.relays.contains(&relay) || reach.relays.len() >= MAX_RENDEZVOUS_ADDRESSES {
            continue;
        }
        if pass {
            reach.passes.push(relay.clone());
        }
        reach.relays.push(relay);
    }
}

/// The nodes that keep rendezvous records for this party, besides its relays.
pub fn network(part: &PartArgs, home: &Home) -> Result<Vec<String>, Failure> {
    let scope = if part.local { Scope::Local } else { Scope::Lan };
    let (nodes, source) = if part.network.is_empty() {
        (lines(home, NETWORK_FILE)?, "the file of nodes")
    } else {
        (part.network.clone(), "--network")
    };
    if let Some(name) = nodes.iter().find(|node| !node.starts_with('/')) {
        let text = format!("there is no network {}", text::foreign(name));
        return Err(Failure::new(Code::Address, text)
            .note("from", source)
            .hint("name nodes by their addresses; any `quorate relay run` is one. The public libp2p network keeps no records of this kind"));
    }
    for node in &nodes {
        let scope = if source == "--network" {
            scope
        } else {
            Scope::Lan
        };
        check_relay(node, scope).map_err(|why| refused(node, source, why))?;
    }
    let usable = nodes.into_iter().filter(|n| check_relay(n, scope).is_ok());
    Ok(usable.take(MAX_RENDEZVOUS_ADDRESSES).collect())
}

/// What was named on the command line, or else what is kept.
pub fn named_or_kept(named: &[String], home: &Home) -> Result<Vec<String>, Failure> {
    if named.is_empty() {
        let (all, _) = kept(home)?;
        return Ok(all.into_iter().map(|(relay, _)| relay).collect());
    }
    Ok(named.to_vec())
}

/// The address of a relay, and whether it may learn the own DID.
type Named = (String, bool);

fn kept(home: &Home) -> Result<(Vec<Named>, &'static str), Failure> {
    if let Ok(text) = std::env::var(VARIABLE) {
        let all = text.split([',', ' ']).filter(|r| !r.is_empty());
        return Ok((
            all.map(|relay| (relay.to_owned(), false)).collect(),
            VARIABLE,
        ));
    }
    let all = lines(home, FILE)?.into_iter().map(named);
    Ok((all.collect(), "the file of relays"))
}

/// A line of the file of relays.
fn named(line: String) -> Named {
    match line.strip_suffix(PASS) {
        Some(relay) if relay.ends_with(char::is_whitespace) => (relay.trim_end().to_owned(), true),
        _ => (line, false),
    }
}

/// The lines of a file among the user's data, without remarks.
fn lines(home: &Home, name: &str) -> Result<Vec<String>, Failure> {
    let path = home.data().join(name);
    let bytes = read_bounded(&path, MAX_FILE_BYTES)?.unwrap_or_default();
    let text = String::from_utf8(bytes).map_err(|_| {
        Failure::new(Code::Usage, format!("the list of {name} is not text"))
            .note("file", path.display().to_string())
    })?;
    let lines = text
        .lines()
        .map(|l| l.split('#').next().unwrap_or_default().trim());
    Ok(lines.filter(|l| !l.is_empty()).map(str::to_owned).collect())
}

fn refused(relay: &str, source: &str, why: &str) -> Failure {
    let text = format!(
        "{} is not the address of a relay: {why}",
        text::foreign(relay)
    );
    Failure::new(Code::Address, text)
        .note("from", source)
        .hint("`quorate relay run` shows the addresses of a relay; they end in /p2p/12D3Koo…")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u8) -> String {
        format!(
            "/ip4/203.0.113.{n}/tcp/4001/p2p/12D3KooWDFXiHd5vZo96K6Z27XH74URUXMRKPHAzwxyj5u6ptkcg"
        )
    }

    #[test]
    fn again_remembers_the_relays_of_a_session_and_which_may_learn_who_one_is() {
        let own = Reach {
            relays: vec![address(1), address(2)],
            passes: vec![address(2)],
            ..Reach::default()
        };
        let lines = to_remember(&own, &[address(3), address(1)]);
        let expected = [address(1), format!("{} pass", address(2)), address(3)];
        assert_eq!(lines, expected);
        let mut next = Reach {
            relays: vec![address(3)],
            ..Reach::default()
        };
        remember(&mut next, &lines, Scope::Lan);
        assert_eq!(next.relays, [address(3), address(1), address(2)]);
        assert_eq!(next.passes, [address(2)]);
    }

    #[test]
    fn who_uses_own_relays_only_or_none_remembers_none_of_others() {
        for relaying in [Relaying::OwnOnly, Relaying::Never] {
            let own = Reach {
                relays: vec![address(1)],
                relaying,
                ..Reach::default()
            };
            assert_eq!(to_remember(&own, &[address(3)]), [address(1)]);
            let mut next = own.clone();
            remember(&mut next, &[address(3)], Scope::Lan);
            assert_eq!(next.relays, [address(1)]);
        }
    }
}
