//! What the sessions that are on say about one party.

use quorate_node::{
    Finding,
    control::{self, LinkStatus, PartyStatus, SessionStatus},
    files::Home,
};

use crate::text;

/// The word of these findings.
const ID: &str = "with";

/// How this party stands in every session that is on.
pub fn party(home: &Home, wanted: &str) -> Vec<Finding> {
    let sessions = control::sessions(home).unwrap_or_default();
    let on = sessions.iter().filter(|s| s.alive);
    let findings: Vec<Finding> = on
        .filter_map(|found| found.status().ok())
        .filter_map(|status| in_session(&status, wanted))
        .collect();
    if !findings.is_empty() {
        return findings;
    }
    vec![Finding::fail(
        ID,
        format!("no session with {} is on", text::name(wanted)),
        "start the session on both sides (quorate join), then run this again while it waits",
    )]
}

fn in_session(status: &SessionStatus, wanted: &str) -> Option<Finding> {
    let party = status.parties.iter().find(|p| is_meant(p, wanted))?;
    let link = status.links.iter().find(|l| is_with(l, party.index));
    Some(judged(party, link))
}

fn is_meant(party: &PartyStatus, wanted: &str) -> bool {
    !party.you && (party.name == wanted || party.did == wanted)
}

fn is_with(link: &LinkStatus, index: u16) -> bool {
    link.a == index || link.b == index
}

fn judged(party: &PartyStatus, link: Option<&LinkStatus>) -> Finding {
    let name = text::name(&party.name);
    let Some(link) = link else {
        let text = format!("{name}: {}; there is no path yet", party.state);
        let remedy = format!(
            "ask {name} whether quorate runs there, and for the output of quorate doctor; name the same relay on both sides"
        );
        return Finding::warn(ID, text, remedy);
    };
    let rtt = link
        .rtt_ms
        .map_or(String::new(), |ms| format!(", round trip {ms:.1} ms"));
    let why = if link.reason.is_empty() {
        String::new()
    } else {
        format!(": {}", text::foreign(&link.reason))
    };
    let text = format!("{name}: {}{rtt}{why}", text::foreign(&link.path));
    match link.path.as_str() {
        "local" | "direct" | "direct (hole punched)" => Finding::ok(ID, text),
        path if path.starts_with("relayed") => Finding::ok(ID, text),
        _ => {
            let remedy = format!(
                "name the same relay on both sides (--relay); ask {name} for the output of quorate doctor"
            );
            Finding::fail(ID, text, remedy)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_node::Verdict;

    fn party() -> PartyStatus {
        PartyStatus {
            index: 1,
            name: "ost".into(),
            did: "did:key:z6Mk".into(),
            state: "linked".into(),
            you: false,
            waiting_for: None,
            relays: false,
        }
    }

    fn link(path: &str) -> LinkStatus {
        LinkStatus {
            a: 0,
            b: 1,
            path: path.into(),
            via: None,
            rtt_ms: Some(9.0),
            tx: 0,
            rx: 0,
            reason: "endpoint-dependent-mapping".into(),
            detail: String::new(),
            since: String::new(),
            overlay: None,
        }
    }

    #[test]
    fn a_path_that_is_down_fails_with_its_reason() {
        let down = judged(&party(), Some(&link("down")));
        assert_eq!(down.verdict, Verdict::Fail);
        assert!(down.text.contains("endpoint-dependent-mapping"));
        let relayed = judged(&party(), Some(&link("relayed")));
        assert_eq!(relayed.verdict, Verdict::Ok);
        assert_eq!(judged(&party(), None).verdict, Verdict::Warn);
    }

    #[test]
    fn a_party_is_found_by_name_or_did_and_never_oneself() {
        assert!(is_meant(&party(), "ost") && is_meant(&party(), "did:key:z6Mk"));
        let me = PartyStatus {
            you: true,
            ..party()
        };
        assert!(!is_meant(&me, "ost"));
    }
}
