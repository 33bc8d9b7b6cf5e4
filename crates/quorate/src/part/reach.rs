//! Which relays this party uses: what it says on the command line, or else keeps for every session.
//!
//! ```text
//! --relay ADDR…  else  QUORATE_RELAY=ADDR,ADDR  else  DATA/relays, one a line (# begins a remark)
//! ```
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
/// The file of nodes that are asked in every session, besides the relays.
const NETWORK_FILE: &str = "network";
/// Largest such file, in bytes.
const MAX_FILE_BYTES: u64 = 16 * 1024;

/// The relays of this party.
pub fn of(part: &PartArgs, home: &Home) -> Result<Reach, Failure> {
    if part.no_relay {
        return Ok(Reach {
            relays: Vec::new(),
            relaying: Relaying::Never,
            map_ports: !part.no_port_mapping,
        });
    }
    let scope = if part.local { Scope::Local } else { Scope::Lan };
    let (relays, source) = if part.relay.is_empty() {
        kept(home)?
    } else {
        (part.relay.clone(), "--relay")
    };
    for relay in &relays {
        // What is kept is for every session: on one machine, relays elsewhere are no use and no fault.
        let scope = if source == "--relay" {
            scope
        } else {
            Scope::Lan
        };
        check_relay(relay, scope).map_err(|why| refused(relay, source, why))?;
    }
    let usable = relays.into_iter();
    let usable: Vec<String> = usable.filter(|r| check_relay(r, scope).is_ok()).collect();
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
    })
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
        return kept(home).map(|(relays, _)| relays);
    }
    Ok(named.to_vec())
}

fn kept(home: &Home) -> Result<(Vec<String>, &'static str), Failure> {
    if let Ok(text) = std::env::var(VARIABLE) {
        let all = text.split([',', ' ']).filter(|r| !r.is_empty());
        return Ok((all.map(str::to_owned).collect(), VARIABLE));
    }
    Ok((lines(home, FILE)?, "the file of relays"))
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
