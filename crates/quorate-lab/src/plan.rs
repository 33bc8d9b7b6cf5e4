//! What a lab consists of, as data: sites, and the links between their regions.
//!
//! Scenario files contain exactly this, so the fields have the names and units that people write.

use crate::{Nat, Outcome, Trouble, mapper::Speaks};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Sites in one lab, so that each has an address in one network of 256.
pub const MAX_SITES: usize = 250;
/// Hosts at one site.
pub const MAX_HOSTS: usize = 100;
/// The smallest MTU of a link: what IPv6 needs.
pub const MIN_MTU: u16 = 1280;
/// MTU where nothing else is said.
pub const DEFAULT_MTU: u16 = 1500;
/// How long a limited link's queue is, in milliseconds, where nothing else is said.
pub const DEFAULT_QUEUE_MS: f64 = 200.0;

/// A lab.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Plan {
    /// Decides every loss, jitter and duplicate.
    pub seed: u64,
    /// Places with hosts.
    #[serde(rename = "site")]
    pub sites: Vec<Site>,
    /// Conditions between regions; each holds in both directions.
    #[serde(rename = "link")]
    pub links: Vec<Between>,
    /// Conditions between regions that are not listed, and inside of a region.
    pub elsewhere: LinkSpec,
}

/// A place: hosts on one LAN behind one NAT, or one host in the open.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Site {
    /// Its name.
    pub name: String,
    /// What stands between it and the Internet.
    pub nat: Nat,
    /// Where it is.
    #[serde(default = "somewhere")]
    pub region: String,
    /// Names of its hosts; one of the site's name where none is listed.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// The site whose LAN it hangs on: a carrier-grade NAT that several homes share.
    #[serde(default)]
    pub behind: Option<String>,
    /// Whether it has IPv6 besides IPv4: no NAT, and a stateful firewall unless it is open.
    #[serde(default)]
    pub ipv6: bool,
    /// Whether its hosts have no IPv6 at all, not even inside.
    #[serde(default)]
    pub ipv6_off: bool,
    /// Whether its router forwards ports on request, and by which protocol.
    #[serde(default)]
    pub maps_ports: Option<Speaks>,
    /// MTU of its line.
    #[serde(default = "default_mtu")]
    pub mtu: u16,
}

/// Conditions between two regions.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Between {
    /// The two, which may be the same.
    pub between: [String; 2],
    /// What packets between them meet. Nested, since flattening would accept misspelt fields.
    pub with: LinkSpec,
}

/// What packets meet on their way, in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LinkSpec {
    /// One way.
    pub delay_ms: f64,
    /// Added or taken away, evenly spread.
    pub jitter_ms: f64,
    /// Of a hundred packets.
    pub loss_percent: f64,
    /// Mean number of packets lost in a row; 1 is independent loss.
    pub burst: f64,
    /// Of a hundred packets.
    pub duplicate_percent: f64,
    /// Whether jitter may change the order.
    pub reorder: bool,
    /// Megabits per second; 0 is unlimited.
    pub rate_mbit: f64,
    /// How much a limited link holds back before it drops.
    pub queue_ms: f64,
    /// Longest packet; 0 is unlimited.
    pub mtu: u16,
    /// Whether longer packets vanish without the ICMP message that says so.
    pub black_hole: bool,
}

impl Default for LinkSpec {
    fn default() -> Self {
        Self {
            delay_ms: 0.0,
            jitter_ms: 0.0,
            loss_percent: 0.0,
            burst: 1.0,
            duplicate_percent: 0.0,
            reorder: false,
            rate_mbit: 0.0,
            queue_ms: DEFAULT_QUEUE_MS,
            mtu: 0,
            black_hole: false,
        }
    }
}

impl LinkSpec {
    /// Only a delay.
    pub fn delay(milliseconds: f64) -> Self {
        Self {
            delay_ms: milliseconds,
            ..Self::default()
        }
    }

    fn check(&self) -> Outcome<()> {
        let percent = |v: f64| (0.0..=100.0).contains(&v);
        let span = |v: f64| (0.0..=60_000.0).contains(&v);
        let fits = percent(self.loss_percent)
            && percent(self.duplicate_percent)
            && span(self.delay_ms)
            && span(self.jitter_ms)
            && span(self.queue_ms)
            && (1.0..=1000.0).contains(&self.burst)
            && (0.0..=100_000.0).contains(&self.rate_mbit)
            && (self.mtu == 0 || self.mtu >= 576);
        if fits {
            Ok(())
        } else {
            Err(Trouble::new(format!("no link can be like this: {self:?}")))
        }
    }
}

fn somewhere() -> String {
    "somewhere".into()
}

fn default_mtu() -> u16 {
    DEFAULT_MTU
}

impl Site {
    /// A site with one host of its name.
    pub fn new(name: impl Into<String>, nat: Nat) -> Self {
        Self {
            name: name.into(),
            nat,
            region: somewhere(),
            hosts: Vec::new(),
            behind: None,
            ipv6: false,
            ipv6_off: false,
            maps_ports: None,
            mtu: DEFAULT_MTU,
        }
    }

    /// The same with a router that forwards ports on request.
    pub fn mapping_ports(mut self, speaks: Speaks) -> Self {
        self.maps_ports = Some(speaks);
        self
    }

    /// The same in a region.
    pub fn region(mut self, region: impl Into<String>) -> Self {
        self.region = region.into();
        self
    }

    /// The same with these hosts.
    pub fn hosts(mut self, hosts: &[&str]) -> Self {
        self.hosts = hosts.iter().map(|h| (*h).to_owned()).collect();
        self
    }

    /// The same on the LAN of another site.
    pub fn behind(mut self, site: impl Into<String>) -> Self {
        self.behind = Some(site.into());
        self
    }

    /// The same with IPv6.
    pub fn with_ipv6(mut self) -> Self {
        self.ipv6 = true;
        self
    }
}

impl Plan {
    /// The names of a site's hosts.
    pub fn host_names(&self, site: &Site) -> Vec<String> {
        let shared = self
            .sites
            .iter()
            .any(|s| s.behind.as_deref() == Some(&site.name));
        match (site.hosts.is_empty(), shared) {
            (false, _) => site.hosts.clone(),
            (true, false) => vec![site.name.clone()],
            (true, true) => Vec::new(),
        }
    }

    /// The oracle: how two hosts reach each other; `None` where a name is unknown.
    pub fn reach(&self, one: &str, other: &str) -> Option<crate::nat::Reach> {
        use crate::nat::Reach;
        let site = |host: &str| {
            let of = |s: &&Site| self.host_names(s).iter().any(|h| h == host);
            self.sites.iter().find(of)
        };
        let (a, b) = (site(one)?, site(other)?);
        if a.name == b.name {
            return Some(Reach::Direct);
        }
        let both_v6 = |s: &Site| s.ipv6 || !s.nat.has_ipv4();
        let udp = |s: &Site| !matches!(s.nat, Nat::UdpBlock | Nat::Tcp443);
        if both_v6(a) && both_v6(b) && udp(a) && udp(b) {
            return Some(Reach::Direct);
        }
        let carrier = |s: &Site| {
            let name = s.behind.as_deref()?;
            self.sites.iter().find(|c| c.name == name)
        };
        match (carrier(a), carrier(b)) {
            (Some(x), Some(y)) if x.name == y.name => {
                // Both see each other only at the carrier's outer address.
                let open = x.nat == Nat::Hairpin;
                Some(if open {
                    a.nat.reach(b.nat)
                } else {
                    Reach::Relay
                })
            }
            (x, y) => {
                // A forwarded port lets everybody in, but no further than to the next NAT.
                let seen = |s: &Site, c: Option<&Site>| match s.maps_ports {
                    Some(Speaks::Pcp | Speaks::NatPmp)
                        if c.is_none() && s.nat.layers().1.is_none() =>
                    {
                        Nat::FullCone
                    }
                    _ => worse(s.nat, c.map(|c| c.nat)),
                };
                Some(seen(a, x).reach(seen(b, y)))
            }
        }
    }

    /// Whether one is in the open and the other lets TCP out to any port, but no UDP.
    pub fn meets_by_tcp(&self, one: &str, other: &str) -> bool {
        let nat = |host: &str| {
            let of = |s: &&Site| self.host_names(s).iter().any(|h| h == host);
            self.sites.iter().find(of).map(|s| s.nat)
        };
        let pair = [nat(one), nat(other)];
        pair.contains(&Some(Nat::Open)) && pair.contains(&Some(Nat::UdpBlock))
    }

    /// Refuses what cannot be built.
    pub fn check(&self) -> Outcome<()> {
        if self.sites.is_empty() || self.sites.len() > MAX_SITES {
            return Err(Trouble::new(format!("a lab has 1 to {MAX_SITES} sites")));
        }
        let mut names = BTreeSet::new();
        let mut hosts = BTreeSet::new();
        for site in &self.sites {
            let refuse = |why: &str| Err(Trouble::new(format!("site {}: {why}", site.name)));
            if !plain(&site.name) || !names.insert(&site.name) {
                return refuse("its name is taken, or has other signs than a-z, 0-9, - and '");
            }
            if site.mtu < MIN_MTU || site.mtu > 9000 {
                return refuse("its MTU is not within 1280 and 9000");
            }
            let own = self.host_names(site);
            if own.len() > MAX_HOSTS || (site.nat == Nat::Open && own.len() > 1) {
                return refuse("it has too many hosts; in the open there is one");
            }
            let unfit = [Nat::Open, Nat::UdpBlock, Nat::Tcp443, Nat::V6Firewall];
            if site.maps_ports.is_some() && (unfit.contains(&site.nat) || own.is_empty()) {
                return refuse("it has no router for homes that could forward ports");
            }
            for host in own {
                if !plain(&host) || !hosts.insert(host) {
                    return refuse("a host's name is taken, or has other signs than a-z, 0-9, -");
                }
            }
            let Some(carrier) = &site.behind else {
                continue;
            };
            let found = self.sites.iter().find(|s| &s.name == carrier);
            let fits = found.is_some_and(|c| {
                c.behind.is_none() && c.nat != Nat::Open && c.nat.layers().1.is_none()
            });
            if !fits || matches!(site.nat, Nat::Open | Nat::V6Firewall) || site.ipv6 {
                return refuse(
                    "it is behind no site, or one that cannot carry it; such homes have IPv4 only",
                );
            }
            if site.nat.layers().1.is_some() {
                return refuse("it has a carrier of its own already");
            }
        }
        self.elsewhere.check()?;
        self.links.iter().try_for_each(|l| l.with.check())
    }
}

/// What two NATs in a row look like from outside, as far as the oracle knows it.
fn worse(home: Nat, carrier: Option<Nat>) -> Nat {
    match carrier {
        Some(Nat::Sym) => Nat::CarrierSym,
        Some(Nat::UdpBlock | Nat::Tcp443) => Nat::UdpBlock,
        Some(Nat::Port | Nat::NoInput) if home != Nat::Sym => Nat::CarrierPort,
        _ => home,
    }
}

fn plain(name: &str) -> bool {
    let sign = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '\'';
    (1..=32).contains(&name.len()) && name.chars().all(sign)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::nat::Reach;

    fn plan(sites: Vec<Site>) -> Plan {
        Plan {
            sites,
            ..Plan::default()
        }
    }

    #[test]
    fn names_are_unique_and_carriers_exist() {
        let twice = plan(vec![Site::new("a", Nat::Open), Site::new("a", Nat::Port)]);
        assert!(twice.check().is_err());
        let nowhere = plan(vec![Site::new("a", Nat::Port).behind("b")]);
        assert!(nowhere.check().is_err());
        let fine = plan(vec![
            Site::new("b", Nat::Port),
            Site::new("a", Nat::Port).behind("b"),
        ]);
        fine.check().unwrap();
        assert_eq!(fine.host_names(&fine.sites[0]), Vec::<String>::new());
    }

    #[test]
    fn a_lan_is_direct_and_a_carrier_only_with_hairpin() {
        let carried = |nat| {
            plan(vec![
                Site::new("c", nat),
                Site::new("a", Nat::Port).behind("c"),
                Site::new("b", Nat::Port).behind("c"),
                Site::new("lan", Nat::Sym).hosts(&["x", "y"]),
            ])
        };
        let plain = carried(Nat::Port);
        assert_eq!(plain.reach("a", "b"), Some(Reach::Relay));
        assert_eq!(plain.reach("x", "y"), Some(Reach::Direct));
        assert_eq!(plain.reach("a", "x"), Some(Reach::Relay));
        assert_eq!(plain.reach("a", "z"), None);
        assert_eq!(carried(Nat::Hairpin).reach("a", "b"), Some(Reach::Direct));
    }

    #[test]
    fn a_forwarded_port_makes_direct_what_no_carrier_hides() {
        let plan = plan(vec![
            Site::new("a", Nat::Port).mapping_ports(Speaks::Pcp),
            Site::new("b", Nat::Port),
            Site::new("c", Nat::CarrierPort).mapping_ports(Speaks::Pcp),
            Site::new("s", Nat::Sym).mapping_ports(Speaks::Silent),
        ]);
        assert_eq!(plan.reach("a", "s"), Some(Reach::Direct));
        assert_eq!(plan.reach("b", "s"), Some(Reach::Relay));
        assert_eq!(plan.reach("c", "s"), Some(Reach::Relay));
    }

    #[test]
    fn misspelt_fields_are_refused() {
        let text = "[[site]]\nname = \"a\"\nnat = \"port\"\nregio = \"eu\"\n";
        assert!(toml::from_str::<Plan>(text).is_err());
        let text = "[[link]]\nbetween = [\"a\", \"b\"]\nwith = { delay = 3 }\n";
        assert!(toml::from_str::<Plan>(text).is_err());
    }
}
