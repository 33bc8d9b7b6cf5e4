//! The path in use towards a peer, why it is the one, and the fixed words for both.

use std::{fmt, net::SocketAddr, time::Instant};

/// How two ends reach each other directly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Both on one machine.
    Local,
    /// At least one end is reached at an address of its own, or at a port that its router forwards to it.
    Plain,
    /// Through an address translator at each end, opened from inside.
    HolePunched,
}

/// The way packets to a peer take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Path {
    /// From `local` to `remote` without anybody of ours in between.
    Direct {
        /// Own address.
        local: SocketAddr,
        /// The peer's address.
        remote: SocketAddr,
        /// What kind of direct.
        how: How,
    },
    /// Over a lane: a stream of the overlay.
    Relayed {
        /// The relay's name; `None` for a stream straight to the peer.
        via: Option<String>,
    },
    /// No address answers.
    Down {
        /// Since when; `None` before the first path.
        since: Option<Instant>,
    },
}

impl Path {
    /// Whether packets get through.
    pub fn is_up(&self) -> bool {
        !matches!(self, Self::Down { .. })
    }

    /// The words for this path with, for a path that is down, how long it has been so.
    pub fn words(&self, now: Instant) -> String {
        match self {
            Self::Down { since: Some(since) } => {
                format!(
                    "down since {} s",
                    now.saturating_duration_since(*since).as_secs()
                )
            }
            _ => self.to_string(),
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct {
                how: How::Local, ..
            } => f.write_str("local"),
            Self::Direct {
                how: How::Plain, ..
            }
            | Self::Relayed { via: None } => f.write_str("direct"),
            Self::Direct {
                how: How::HolePunched,
                ..
            } => f.write_str("direct (hole punched)"),
            Self::Relayed { via: Some(via) } => write!(f, "relayed via {via}"),
            Self::Down { .. } => f.write_str("down"),
        }
    }
}

/// A stream of the overlay that carries datagrams to the peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lane {
    /// The relay's name; `None` for a stream straight to the peer.
    pub via: Option<String>,
}

/// Which paths the parties agreed to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Direct if possible, else relayed.
    #[default]
    Any,
    /// Direct only.
    Direct,
    /// Relayed only: no address is told to the peer.
    Relay,
}

impl Policy {
    /// Whether data may take a way over a relay, or else one without.
    pub fn allows(self, relayed: bool) -> bool {
        match self {
            Self::Any => true,
            Self::Direct => !relayed,
            Self::Relay => relayed,
        }
    }
}

/// At which end something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// At this end.
    Own,
    /// At the peer.
    Peer,
    /// At both.
    Both,
}

impl Whose {
    /// `None` if it is at neither end.
    pub fn of(own: bool, peer: bool) -> Option<Self> {
        match (own, peer) {
            (true, true) => Some(Self::Both),
            (true, false) => Some(Self::Own),
            (false, true) => Some(Self::Peer),
            (false, false) => None,
        }
    }

    /// The names of whom it concerns; the two ends say the same, whoever asks.
    fn names(self, own: &str, peer: &str) -> (String, bool) {
        match self {
            Self::Own => (own.into(), false),
            Self::Peer => (peer.into(), false),
            Self::Both => {
                let (first, second) = if own <= peer {
                    (own, peer)
                } else {
                    (peer, own)
                };
                (format!("{first} and {second}"), true)
            }
        }
    }
}

/// Why a path is what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// Direct: no address translation in between.
    Untranslated,
    /// Direct: this end is reached at its own address.
    Reachable(Whose),
    /// Direct: the router there forwards a port to this end, which it was asked for.
    PortMapped(Whose),
    /// Direct: both NATs were opened from inside.
    HolePunched,
    /// A direct path is still being looked for.
    Searching,
    /// The NAT there uses a new port for each destination.
    EndpointDependent(Whose),
    /// No UDP gets through there.
    UdpBlocked(Whose),
    /// No direct address answers, or none any more.
    NoAnswer,
    /// The parties agreed to use relays only.
    RelayOnly,
    /// The parties agreed to use direct paths only, and there is none.
    DirectOnly,
}

impl Reason {
    /// The word for machines.
    pub fn code(self) -> &'static str {
        match self {
            Self::Untranslated => "no-translation",
            Self::Reachable(_) => "reachable",
            Self::PortMapped(_) => "port-mapped",
            Self::HolePunched => "hole-punched",
            Self::Searching => "searching",
            Self::EndpointDependent(_) => "endpoint-dependent-mapping",
            Self::UdpBlocked(_) => "udp-blocked",
            Self::NoAnswer => "no-answer",
            Self::RelayOnly => "relay-only",
            Self::DirectOnly => "direct-only",
        }
    }

    /// The sentence for people, with the names of the two ends.
    pub fn sentence(self, own: &str, peer: &str) -> String {
        match self {
            Self::Reachable(whose) => {
                format!("{} can be reached from outside", whose.names(own, peer).0)
            }
            Self::PortMapped(whose) => match whose.names(own, peer) {
                (who, false) => format!("{who}'s router maps a port"),
                (who, true) => format!("the routers of {who} map a port"),
            },
            Self::EndpointDependent(whose) => match whose.names(own, peer) {
                (who, false) => format!("{who}'s NAT gives a new port per destination"),
                (who, true) => format!("the NATs of {who} give a new port per destination"),
            },
            Self::UdpBlocked(whose) => {
                format!("UDP is blocked at {}", whose.names(own, peer).0)
            }
            other => other.to_string(),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Untranslated => "no address translation in between",
            Self::Reachable(_) => "one end can be reached from outside",
            Self::PortMapped(_) => "a router maps a port",
            Self::HolePunched => "both NATs were opened from inside",
            Self::Searching => "a direct path is being looked for",
            Self::EndpointDependent(_) => "a NAT gives a new port per destination",
            Self::UdpBlocked(_) => "UDP is blocked",
            Self::NoAnswer => "no direct address answers",
            Self::RelayOnly => "the invitation allows relays only",
            Self::DirectOnly => "the invitation allows direct paths only, and no address answers",
        })
    }
}

/// What an agent found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathEvent {
    /// Packets to the peer take this path from now on, or take it for another reason.
    Changed {
        /// The path now.
        path: Path,
        /// Why.
        reason: Reason,
    },
    /// A check with the right HMAC came from this address: packets from it are the peer's.
    Source(SocketAddr),
    /// Packets from this address are not the peer's any more: newer ones took its place.
    Gone(SocketAddr),
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn paths_have_their_fixed_words() {
        let at = SocketAddr::from(([10, 0, 0, 1], 1));
        let direct = |how| {
            Path::Direct {
                local: at,
                remote: at,
                how,
            }
            .to_string()
        };
        assert_eq!(direct(How::Local), "local");
        assert_eq!(direct(How::Plain), "direct");
        assert_eq!(direct(How::HolePunched), "direct (hole punched)");
        let relayed = |via| Path::Relayed { via }.to_string();
        assert_eq!(
            relayed(Some("relay.example".into())),
            "relayed via relay.example"
        );
        assert_eq!(relayed(None), "direct");
        let now = Instant::now();
        let down = Path::Down { since: Some(now) };
        assert_eq!(down.words(now + Duration::from_secs(7)), "down since 7 s");
    }

    #[test]
    fn both_ends_say_the_same_sentence() {
        let of = Reason::EndpointDependent;
        assert_eq!(
            of(Whose::Own).sentence("sud", "noord"),
            "sud's NAT gives a new port per destination"
        );
        assert_eq!(
            of(Whose::Peer).sentence("noord", "sud"),
            of(Whose::Own).sentence("sud", "noord")
        );
        assert_eq!(
            of(Whose::Both).sentence("noord", "sud"),
            of(Whose::Both).sentence("sud", "noord")
        );
        assert_eq!(
            Reason::PortMapped(Whose::Peer).sentence("noord", "sud"),
            "sud's router maps a port"
        );
        assert_eq!(
            Reason::UdpBlocked(Whose::Peer).sentence("noord", "ost"),
            "UDP is blocked at ost"
        );
    }
}
