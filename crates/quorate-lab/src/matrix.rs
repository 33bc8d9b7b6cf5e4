//! The connectivity matrix with real sessions: a party behind each kind of NAT, every pair judged.

use crate::{
    LinkSpec, Nat, Plan, Site,
    plan::Between,
    scenario::{Expect, Relay, Scenario, SessionPlan, play::Pair},
};
use std::{collections::BTreeMap, fmt::Write as _};

/// The longest that a run of the matrix may take, in seconds.
const WITHIN_SECONDS: f64 = 240.0;

/// One session with a party behind each of `kinds`, two on one LAN and two behind one carrier, the
/// relay in the open. With `twice`, there are two parties behind each kind.
pub fn scenario(kinds: &[Nat], twice: bool, groups: bool, delay_ms: f64, seed: u64) -> Scenario {
    let mut sites = vec![Site::new("relay", Nat::Open).with_ipv6().region("relay")];
    let mut parties = Vec::new();
    for kind in kinds {
        let names = [kind.name().to_owned(), format!("{kind}-2")];
        for name in names.into_iter().take(if twice { 2 } else { 1 }) {
            sites.push(Site::new(name.clone(), *kind));
            parties.push(name);
        }
    }
    if groups {
        let lan = ["lan-one", "lan-two"];
        sites.push(Site::new("lan", Nat::Port).hosts(&lan));
        sites.push(Site::new("carrier", Nat::Port));
        parties.extend(lan.map(str::to_owned));
        for home in ["home-one", "home-two"] {
            sites.push(Site::new(home, Nat::Port).behind("carrier"));
            parties.push(home.to_owned());
        }
    }
    Scenario {
        title: "every pair of NATs".into(),
        lab: Plan {
            seed,
            sites,
            links: vec![Between {
                between: ["relay".into(), "somewhere".into()],
                with: LinkSpec::delay(delay_ms / 2.0),
            }],
            elsewhere: LinkSpec::delay(delay_ms),
        },
        relays: vec![Relay {
            host: "relay".into(),
            // Two circuits of each pair, for a moment, with room to spare.
            arguments: [
                "--listen",
                "443",
                "--circuits",
                "2048",
                "--circuits-per-party",
                "256",
            ]
            .map(str::to_owned)
            .to_vec(),
            told: true,
        }],
        asks: Vec::new(),
        session: SessionPlan {
            parties,
            program: String::new(),
            public: Vec::new(),
            private: Vec::new(),
            hold: true,
            settle_seconds: 1.0,
            invite: Vec::new(),
            join: Vec::new(),
            introduce: false,
            unprivileged: false,
            late: BTreeMap::new(),
        },
        faults: Vec::new(),
        expect: Expect {
            oracle: true,
            within_seconds: WITHIN_SECONDS,
            output: Some("longest round".into()),
            ..Expect::default()
        },
    }
}

/// The pairs as a table; an exclamation mark is where the oracle says something else.
pub fn table(parties: &[String], pairs: &[Pair]) -> String {
    let mut text = String::new();
    let _ = write!(text, "{:9}", "");
    for name in parties {
        let _ = write!(text, " {name:>9}");
    }
    for (index, one) in parties.iter().enumerate() {
        let _ = write!(text, "\n{one:9}");
        for (column, other) in parties.iter().enumerate() {
            let pair = pairs
                .iter()
                .find(|p| p.names[0] == *one && p.names[1] == *other);
            let shown = pair
                .filter(|_| column > index)
                .map(Pair::shown)
                .unwrap_or_default();
            let _ = write!(text, " {shown:>9}");
        }
    }
    text
}
