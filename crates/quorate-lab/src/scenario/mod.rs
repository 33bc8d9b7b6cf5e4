//! Sessions of the real program in the lab, as small files that people read.
//!
//! ```toml
//! title = "A router that restarts under a running session"
//! session = { parties = ["noord", "sud", "ost"], hold = true }
//! expect = { pause_seconds = 15.0 }
//!
//! [lab]
//! elsewhere = { delay_ms = 20 }
//! site = [ { name = "noord", nat = "port" }, { name = "sud", nat = "port" },
//!          { name = "ost", nat = "open" }, { name = "relay", nat = "open" } ]
//!
//! [[relay]]
//! host = "relay"
//!
//! [[fault]]
//! after = "running"
//! seconds = 2.0
//! does = { reboot = { site = "sud" } }
//! ```
//!
//! The lab starts relays and parties as processes of the `quorate` binary, one on each host, reads
//! what they say as JSON, does the faults in their order, and compares the end with `expect`.

mod hidden;
pub mod play;
pub mod process;
pub mod stage;

use crate::{Context as _, LinkSpec, Outcome, Plan, Trouble};
use serde::Deserialize;
use std::{collections::BTreeMap, path::Path};

/// A scenario.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// What it shows.
    pub title: String,
    /// Sites and links.
    pub lab: Plan,
    /// Who carries what cannot be direct.
    #[serde(default, rename = "relay")]
    pub relays: Vec<Relay>,
    /// Commands that are run to their end before the session begins.
    #[serde(default, rename = "ask")]
    pub asks: Vec<Ask>,
    /// Who computes what.
    #[serde(default)]
    pub session: SessionPlan,
    /// What goes wrong, in this order.
    #[serde(default, rename = "fault")]
    pub faults: Vec<Fault>,
    /// How it ends.
    #[serde(default)]
    pub expect: Expect,
}

/// A relay.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Relay {
    /// Its host, in the open.
    pub host: String,
    /// More arguments of `quorate relay run`.
    #[serde(default)]
    pub arguments: Vec<String>,
    /// Whether the parties are told of it.
    #[serde(default = "yes")]
    pub told: bool,
}

/// A command that ends by itself.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ask {
    /// Where.
    pub host: String,
    /// What follows `quorate`; `{relay WORD}` is the first relay's address with this word in it, `{python}` the Python
    /// of the parties.
    pub words: Vec<String>,
    /// Its exit code.
    #[serde(default)]
    pub exit: i32,
    /// What it says, on either stream.
    #[serde(default)]
    pub says: Vec<String>,
}

/// A session; none without parties.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionPlan {
    /// Hosts; the first signs the invitation.
    #[serde(default)]
    pub parties: Vec<String>,
    /// A program carried in quorate, or a file beside the scenario. Ignored with `hold`.
    #[serde(default)]
    pub program: String,
    /// Arguments that all sign.
    #[serde(default)]
    pub public: Vec<String>,
    /// Arguments of each party.
    #[serde(default)]
    pub private: Vec<String>,
    /// Compute rounds until the faults are over and everything has settled.
    #[serde(default)]
    pub hold: bool,
    /// How long that is after the last fault.
    #[serde(default = "settle")]
    pub settle_seconds: f64,
    /// More arguments of `quorate invite`.
    #[serde(default)]
    pub invite: Vec<String>,
    /// More arguments of `quorate join`.
    #[serde(default)]
    pub join: Vec<String>,
    /// Whether each party is told, as by hand, at which relay those before it can be reached; without relays, where the
    /// first one listens.
    #[serde(default)]
    pub introduce: bool,
    /// Whether parties run without any capability.
    #[serde(default)]
    pub unprivileged: bool,
    /// Seconds after the others that a party starts.
    #[serde(default)]
    pub late: BTreeMap<String, f64>,
}

/// Something that goes wrong.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// Once every party is this far.
    pub after: Phase,
    /// And so many seconds more; the fault before it is over in any case.
    #[serde(default)]
    pub seconds: f64,
    /// What.
    pub does: Action,
}

/// How far a party is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Its process was started.
    Started,
    /// It looks for the others.
    Joining,
    /// It signs the roster.
    Confirming,
    /// It has keys for all others and builds the mesh.
    Keyed,
    /// It reaches all others.
    Ready,
    /// Its program runs.
    Running,
    /// Its program has ended.
    Closing,
}

/// What goes wrong.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Action {
    /// Nothing passes between a site and another, or all.
    Cut {
        /// The site.
        site: String,
        /// The other one.
        other: Option<String>,
        /// Only from the site, not to it.
        #[serde(default)]
        one_way: bool,
    },
    /// What was cut passes again.
    Mend {
        /// The site.
        site: String,
        /// The other one.
        other: Option<String>,
    },
    /// A site's routers forget every connection.
    Reboot {
        /// The site.
        site: String,
    },
    /// A site's routers forget UDP mappings after so many idle seconds.
    Expire {
        /// The site.
        site: String,
        /// The lifetime.
        seconds: u32,
    },
    /// A site gets another outer address.
    Readdress {
        /// The site.
        site: String,
    },
    /// A host is carried to another site.
    Carry {
        /// The host.
        host: String,
        /// The site.
        site: String,
    },
    /// Other conditions between two regions.
    Link {
        /// The two.
        between: [String; 2],
        /// The conditions.
        with: LinkSpec,
    },
    /// Other conditions on everything from and to a site.
    Line {
        /// The site.
        site: String,
        /// The conditions.
        with: LinkSpec,
    },
    /// `kill -9` of what runs on a host.
    Kill {
        /// The host.
        host: String,
    },
    /// A killed party joins again, a killed relay starts again.
    Restart {
        /// The host.
        host: String,
    },
    /// A process is stopped, as by a laptop's lid.
    Sleep {
        /// The host.
        host: String,
    },
    /// And goes on.
    Wake {
        /// The host.
        host: String,
    },
    /// Ctrl-C.
    Interrupt {
        /// The host.
        host: String,
    },
}

/// How a scenario ends.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Expect {
    /// `finished` or `aborted`.
    pub outcome: End,
    /// Where it is aborted: codes, of which each party names one.
    pub codes: Vec<String>,
    /// The exit code of every party that was not killed.
    pub exit: Option<i32>,
    /// What every party says on stderr that was not killed.
    pub says: Vec<String>,
    /// From the first start to the last end.
    pub within_seconds: f64,
    /// From the last fault to the last end; 0 is not looked at.
    pub end_seconds: f64,
    /// The longest time without a round of the computation; 0 is not looked at. Needs `hold`.
    pub pause_seconds: f64,
    /// What each party's program prints.
    pub output: Option<String>,
    /// Whether each pair is at last as the oracle says.
    pub oracle: bool,
    /// Whether `status --json` of all parties says the same of each pair.
    pub agreed: bool,
    /// Pairs of hosts, and how the word for their path begins: `"noord sud" = "direct"`; or with the reason's word:
    /// `"noord sud" = "direct, port-mapped"`.
    pub paths: BTreeMap<String, String>,
    /// Whether some router ever forwarded a port on request. All have to be given back in any case.
    pub forwarded: Option<bool>,
    /// Pairs of hosts, and how `status --json` of both says that they exchange messages: `"noord sud" = "direct"`.
    pub overlay: BTreeMap<String, String>,
    /// Hosts of which `status --json` of all parties says that they relay for others, and of no other ones; not looked at
    /// where it is left out.
    pub serving: Option<Vec<String>>,
    /// What must not be seen on any line nor in the memory of a relay, besides the DIDs and the program.
    pub hidden: Vec<String>,
}

/// How a session ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum End {
    /// With a result.
    #[default]
    Finished,
    /// With a named reason.
    Aborted,
    /// Either of the two, for all the same.
    Either,
}

impl Default for Expect {
    fn default() -> Self {
        Self {
            outcome: End::Finished,
            codes: Vec::new(),
            exit: None,
            says: Vec::new(),
            within_seconds: 120.0,
            end_seconds: 0.0,
            pause_seconds: 0.0,
            output: None,
            oracle: false,
            agreed: false,
            paths: BTreeMap::new(),
            forwarded: None,
            overlay: BTreeMap::new(),
            serving: None,
            hidden: Vec::new(),
        }
    }
}

fn yes() -> bool {
    true
}

fn settle() -> f64 {
    3.0
}

impl Scenario {
    /// Reads and checks a file.
    pub fn read(path: &Path) -> Outcome<Self> {
        let text = std::fs::read_to_string(path).during(path.display())?;
        Self::parse(&text).during(path.display())
    }

    /// Reads and checks a text.
    pub fn parse(text: &str) -> Outcome<Self> {
        let scenario: Self = toml::from_str(text).during("it is not understood")?;
        scenario.check()?;
        Ok(scenario)
    }

    fn check(&self) -> Outcome<()> {
        self.lab.check()?;
        let hosts: Vec<String> = self
            .lab
            .sites
            .iter()
            .flat_map(|s| self.lab.host_names(s))
            .collect();
        let site = |name: &String| self.lab.sites.iter().any(|s| &s.name == name);
        let unknown = |name: &String| Err(Trouble::new(format!("there is no `{name}`")));
        let relays = self.relays.iter().map(|r| &r.host);
        let named = self.session.parties.iter().chain(relays);
        for host in named.chain(self.session.late.keys()) {
            if !hosts.contains(host) {
                return unknown(host);
            }
        }
        if let Some(ask) = self.asks.iter().find(|a| !hosts.contains(&a.host)) {
            return unknown(&ask.host);
        }
        let parties = self.session.parties.len();
        if parties == 1 || parties > 32 {
            return Err(Trouble::new("a session here has 2 to 32 parties"));
        }
        if parties > 0 && !self.session.hold && self.session.program.is_empty() {
            return Err(Trouble::new("the session has neither a program nor `hold`"));
        }
        let pairs = self.expect.paths.keys().chain(self.expect.overlay.keys());
        for names in pairs.chain(self.expect.serving.iter().flatten()) {
            for host in names.split_whitespace() {
                if !self.session.parties.iter().any(|p| p == host) {
                    return unknown(&host.to_owned());
                }
            }
        }
        for fault in &self.faults {
            let (sites, host) = fault.does.names();
            if let Some(name) = sites.into_iter().find(|s| !site(s)) {
                return unknown(name);
            }
            if let Some(name) = host.filter(|h| !hosts.contains(h)) {
                return unknown(name);
            }
        }
        Ok(())
    }
}

impl Action {
    /// The sites and the host that it names.
    fn names(&self) -> (Vec<&String>, Option<&String>) {
        match self {
            Self::Cut { site, other, .. } | Self::Mend { site, other } => {
                (std::iter::once(site).chain(other).collect(), None)
            }
            Self::Reboot { site }
            | Self::Expire { site, .. }
            | Self::Readdress { site }
            | Self::Line { site, .. } => (vec![site], None),
            Self::Carry { host, site } => (vec![site], Some(host)),
            Self::Link { .. } => (Vec::new(), None),
            Self::Kill { host }
            | Self::Restart { host }
            | Self::Sleep { host }
            | Self::Wake { host }
            | Self::Interrupt { host } => (Vec::new(), Some(host)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const SMALL: &str = r#"
title = "two"
session = { parties = ["a", "b"], hold = true }
[lab]
site = [ { name = "a", nat = "port" }, { name = "b", nat = "open" } ]
"#;

    #[test]
    fn a_small_scenario_is_read() {
        let scenario = Scenario::parse(SMALL).unwrap();
        assert_eq!(scenario.session.parties, ["a", "b"]);
        assert_eq!(scenario.expect.outcome, End::Finished);
    }

    #[test]
    fn unknown_names_and_words_are_refused() {
        for more in [
            "[[fault]]\nafter = \"running\"\ndoes = { reboot = { site = \"c\" } }",
            "[[fault]]\nafter = \"running\"\ndoes = { reboot = { sit = \"a\" } }",
            "[[fault]]\nafter = \"walking\"\ndoes = { reboot = { site = \"a\" } }",
            "[expect]\npaths = { \"a c\" = \"direct\" }",
            "[[relay]]\nhost = \"c\"",
        ] {
            let text = format!("{SMALL}\n{more}\n");
            assert!(Scenario::parse(&text).is_err(), "{more}");
        }
        let fine = "[[fault]]\nafter = \"running\"\ndoes = { reboot = { site = \"a\" } }";
        Scenario::parse(&format!("{SMALL}\n{fine}\n")).unwrap();
    }
}
