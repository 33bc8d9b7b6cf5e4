//! The kinds of NAT and firewall, as nftables rules, and what each pair of them allows.
//!
//! | kind | mapping / filtering (RFC 4787) | how |
//! |---|---|---|
//! | `open` | – | no NAT |
//! | `fullcone` | EIM / EIF | mappings learnt into maps as packets leave; inbound goes through the reverse map |
//! | `addr` | EIM / ADF | the same, and a set of whom was sent to |
//! | `port` | EIM / APDF | plain masquerade, unasked input dropped: the common home router |
//! | `noinput` | EIM / APDF | masquerade, but unasked input is not dropped: a peer that starts first takes the port |
//! | `sym` | APDM / APDF | masquerade with random ports: "symmetric" |
//! | `cg-pp`, `cg-ps` | two in a row over 100.64.0.0/10 | a home router behind a carrier-grade NAT, friendly or symmetric |
//! | `udpblock` | – | only TCP goes out |
//! | `tcp443` | – | only TCP to port 443 goes out |
//! | `v6fw` | – | IPv6 without NAT behind a stateful firewall |
//!
//! EIM and APDM: endpoint-independent, address-and-port-dependent mapping. EIF, ADF, APDF: such filtering.

use serde::{Deserialize, Serialize};
use std::fmt;

/// How long a learnt mapping lives without a packet.
pub const MAPPING_SECONDS: u32 = 300;

/// What stands between a site and the Internet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Nat {
    /// Nothing.
    #[serde(rename = "open")]
    Open,
    /// Anybody may answer at a mapped port.
    #[serde(rename = "fullcone")]
    FullCone,
    /// As `fullcone`; hosts behind it also reach each other at their outer addresses.
    #[serde(rename = "hairpin")]
    Hairpin,
    /// Whoever was sent to may answer, from any port.
    #[serde(rename = "addr")]
    Addr,
    /// Only the address and port that was sent to may answer.
    #[serde(rename = "port")]
    Port,
    /// As `port`, on a router that takes unasked packets for its own.
    #[serde(rename = "noinput")]
    NoInput,
    /// A new outer port for each destination.
    #[serde(rename = "sym")]
    Sym,
    /// `port` behind a carrier's `port`.
    #[serde(rename = "cg-pp")]
    CarrierPort,
    /// `port` behind a carrier's `sym`.
    #[serde(rename = "cg-ps")]
    CarrierSym,
    /// A firewall that drops UDP.
    #[serde(rename = "udpblock")]
    UdpBlock,
    /// A firewall that lets only TCP to port 443 out.
    #[serde(rename = "tcp443")]
    Tcp443,
    /// IPv6 only, a firewall that lets answers in.
    #[serde(rename = "v6fw")]
    V6Firewall,
}

/// How two parties can reach each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reach {
    /// Without a relay.
    Direct,
    /// Through a relay only.
    Relay,
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Direct => "D",
            Self::Relay => "relay",
        })
    }
}

impl fmt::Display for Nat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl std::str::FromStr for Nat {
    type Err = crate::Trouble;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|n| n.name() == text)
            .ok_or_else(|| {
                let known: Vec<_> = Self::ALL.iter().map(|n| n.name()).collect();
                crate::Trouble::new(format!("no NAT `{text}`; there are {}", known.join(", ")))
            })
    }
}

impl Nat {
    /// Every kind.
    pub const ALL: [Self; 12] = [
        Self::Open,
        Self::FullCone,
        Self::Hairpin,
        Self::Addr,
        Self::Port,
        Self::NoInput,
        Self::Sym,
        Self::CarrierPort,
        Self::CarrierSym,
        Self::UdpBlock,
        Self::Tcp443,
        Self::V6Firewall,
    ];

    /// The kinds of the connectivity table, in its order.
    pub const TABLE: [Self; 11] = [
        Self::Open,
        Self::FullCone,
        Self::Addr,
        Self::Port,
        Self::NoInput,
        Self::Sym,
        Self::CarrierPort,
        Self::CarrierSym,
        Self::UdpBlock,
        Self::Tcp443,
        Self::V6Firewall,
    ];

    /// Its word in scenario files and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::FullCone => "fullcone",
            Self::Hairpin => "hairpin",
            Self::Addr => "addr",
            Self::Port => "port",
            Self::NoInput => "noinput",
            Self::Sym => "sym",
            Self::CarrierPort => "cg-pp",
            Self::CarrierSym => "cg-ps",
            Self::UdpBlock => "udpblock",
            Self::Tcp443 => "tcp443",
            Self::V6Firewall => "v6fw",
        }
    }

    /// The home router's kind and, where there is one, the carrier's behind it.
    pub fn layers(self) -> (Self, Option<Self>) {
        match self {
            Self::CarrierPort => (Self::Port, Some(Self::Port)),
            Self::CarrierSym => (Self::Port, Some(Self::Sym)),
            plain => (plain, None),
        }
    }

    /// Whether hosts behind it have IPv4, and IPv6 when the site does not ask for it.
    pub fn has_ipv4(self) -> bool {
        self != Self::V6Firewall
    }

    /// Whether UDP passes at all.
    fn passes_udp(self) -> bool {
        !matches!(self, Self::UdpBlock | Self::Tcp443)
    }

    /// Whether each destination sees another port.
    fn maps_per_destination(self) -> bool {
        matches!(self, Self::Sym | Self::CarrierSym)
    }

    /// Whether an inside port that sent to an address is reachable from every port of it.
    fn admits_other_ports(self) -> bool {
        matches!(
            self,
            Self::Open | Self::FullCone | Self::Hairpin | Self::Addr
        )
    }

    /// The oracle: how two parties at different sites of these kinds reach each other over UDP,
    /// given that answers follow the observed source and both start at about the same time.
    pub fn reach(self, other: Self) -> Reach {
        let families_meet = self.has_ipv4() == other.has_ipv4();
        if !families_meet || !self.passes_udp() || !other.passes_udp() {
            return Reach::Relay;
        }
        let blocked = |a: Self, b: Self| a.maps_per_destination() && !b.admits_other_ports();
        if blocked(self, other) || blocked(other, self) {
            return Reach::Relay;
        }
        Reach::Direct
    }

    /// The rules of a gateway of this kind, between the interfaces `lan` and `wan`. `outer` is its
    /// IPv4 address on `wan`.
    pub fn rules(self, outer: &str) -> String {
        let drop_input = filter("drop", "");
        match self {
            Self::Open => String::new(),
            Self::FullCone => {
                drop_input
                    + &learning(
                        "iifname \"wan\" meta l4proto udp dnat ip to udp dport map @inward",
                        "",
                    )
            }
            Self::Hairpin => {
                let inbound =
                    format!("ip daddr {outer} meta l4proto udp dnat ip to udp dport map @inward");
                let hairpin = format!(
                    "iifname \"lan\" oifname \"lan\" meta l4proto udp ct original ip daddr {outer} snat ip to ip saddr . udp sport map @outward
    iifname \"lan\" oifname \"lan\" ct status dnat masquerade"
                );
                drop_input + &learning(&inbound, &hairpin)
            }
            Self::Addr => {
                drop_input
                    + &learning(
                        "iifname \"wan\" meta l4proto udp ip saddr . udp dport @asked dnat ip to udp dport map @inward",
                        "",
                    )
            }
            Self::NoInput => filter("accept", "") + &masquerade(""),
            Self::Sym => drop_input + &masquerade(" fully-random"),
            Self::UdpBlock => filter("drop", "meta l4proto udp drop") + &masquerade(""),
            Self::Tcp443 => {
                let only = "iifname \"lan\" tcp dport 443 accept
    iifname \"lan\" meta l4proto ipv6-icmp accept
    iifname \"lan\" drop";
                filter("drop", only) + &masquerade("")
            }
            Self::V6Firewall => drop_input,
            Self::Port | Self::CarrierPort | Self::CarrierSym => drop_input + &masquerade(""),
        }
    }

    /// Commands that forget what the kind learnt besides conntrack.
    pub fn forget(self) -> &'static str {
        match self {
            Self::FullCone | Self::Hairpin | Self::Addr => {
                "flush map ip nat outward\nflush map ip nat inward\nflush set ip nat asked\n"
            }
            _ => "",
        }
    }
}

/// Who may come in, who may pass.
fn filter(unasked_input: &str, first: &str) -> String {
    format!(
        r#"table inet filter {{
  chain input {{ type filter hook input priority 0; policy {unasked_input};
    iifname {{ "lo", "lan" }} accept
    ct state established,related accept
    meta l4proto ipv6-icmp accept
  }}
  chain forward {{ type filter hook forward priority 0; policy drop;
    {first}
    ct state established,related accept
    ct status dnat accept
    iifname "lan" accept
  }}
}}
"#
    )
}

/// Linux' own NAT: ports are kept where free, answers are matched by address and port.
fn masquerade(how: &str) -> String {
    format!(
        r#"table ip nat {{
  chain leaving {{ type nat hook postrouting priority srcnat;
    oifname "wan" masquerade{how}
  }}
}}
"#
    )
}

/// NAT that keeps one outer port per inside port whatever the destination: mappings are learnt
/// after translation and looked up before the next one.
fn learning(inbound: &str, hairpin: &str) -> String {
    format!(
        r#"table ip nat {{
  map outward {{ type ipv4_addr . inet_service : ipv4_addr . inet_service; flags dynamic,timeout; size 4096; }}
  map inward {{ type inet_service : ipv4_addr . inet_service; flags dynamic,timeout; size 4096; }}
  set asked {{ type ipv4_addr . inet_service; flags dynamic,timeout; size 4096; }}
  chain arriving {{ type nat hook prerouting priority dstnat;
    {inbound}
  }}
  chain leaving {{ type nat hook postrouting priority srcnat;
    oifname "wan" meta l4proto udp snat ip to ip saddr . udp sport map @outward
    oifname "wan" meta l4proto udp udp sport @inward masquerade random
    oifname "wan" masquerade
    {hairpin}
  }}
  chain learn {{ type filter hook postrouting priority 150;
    oifname "wan" meta l4proto udp ct direction original update @outward {{ ct original ip saddr . ct original proto-src timeout {MAPPING_SECONDS}s : ip saddr . udp sport }}
    oifname "wan" meta l4proto udp ct direction original update @inward {{ udp sport timeout {MAPPING_SECONDS}s : ct original ip saddr . ct original proto-src }}
    oifname "wan" meta l4proto udp update @asked {{ ip daddr . udp sport timeout {MAPPING_SECONDS}s }}
  }}
}}
"#
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// The table as it was measured; rows and columns in the order of [`Nat::TABLE`].
    const MEASURED: [&str; 8] = [
        "DDDDDDDD", "DDDDDDDD", "DDDDDDDD", "DDDDDrDr", "DDDDDrDr", "DDDrrrrr", "DDDDDrDr",
        "DDDrrrrr",
    ];

    #[test]
    fn the_oracle_is_the_measured_table() {
        for (row, measured) in Nat::TABLE.iter().zip(MEASURED) {
            for (column, cell) in Nat::TABLE.iter().zip(measured.chars()) {
                let expected = if cell == 'D' {
                    Reach::Direct
                } else {
                    Reach::Relay
                };
                assert_eq!(row.reach(*column), expected, "{row} and {column}");
            }
        }
    }

    #[test]
    fn what_lets_no_udp_out_is_always_relayed_and_ipv6_meets_ipv6() {
        for other in Nat::ALL {
            assert_eq!(Nat::UdpBlock.reach(other), Reach::Relay);
            assert_eq!(other.reach(Nat::Tcp443), Reach::Relay);
        }
        assert_eq!(Nat::V6Firewall.reach(Nat::V6Firewall), Reach::Direct);
        assert_eq!(Nat::V6Firewall.reach(Nat::FullCone), Reach::Relay);
    }

    #[test]
    fn each_kind_is_found_by_its_name() {
        for nat in Nat::ALL {
            assert_eq!(nat.name().parse::<Nat>().unwrap(), nat);
        }
        assert!("cone".parse::<Nat>().is_err());
    }
}
