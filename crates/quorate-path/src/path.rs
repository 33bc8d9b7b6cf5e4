//! The path in use towards a peer, why it changed, and the fixed words for both.

use std::{fmt, net::SocketAddr, time::Instant};

/// How two ends reach each other directly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Both on one machine.
    Local,
    /// Between addresses that each end offered as its own.
    Plain,
    /// Through at least one address translator that was opened from inside.
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
    /// Over a relay.
    Relayed {
        /// Its name.
        via: String,
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
            } => f.write_str("direct"),
            Self::Direct {
                how: How::HolePunched,
                ..
            } => f.write_str("direct (hole punched)"),
            Self::Relayed { via } => write!(f, "relayed via {via}"),
            Self::Down { .. } => f.write_str("down"),
        }
    }
}

/// Why a path changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// The first pair of addresses answered in both directions.
    FirstAnswer,
    /// A pair of higher priority answered.
    BetterAnswer,
    /// An address answers again after the path was down.
    AnswersAgain,
    /// Nothing answered for too long.
    NoAnswer,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FirstAnswer => "the first address answered",
            Self::BetterAnswer => "a better address answered",
            Self::AnswersAgain => "an address answers again",
            Self::NoAnswer => "no address answers any more",
        })
    }
}

/// What an agent found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathEvent {
    /// Packets to the peer take this path from now on.
    Changed {
        /// The new path.
        path: Path,
        /// Why.
        reason: Reason,
    },
    /// A check with the right HMAC came from this address: packets from it are the peer's.
    Source(SocketAddr),
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
        let relayed = Path::Relayed {
            via: "relay.example".into(),
        };
        assert_eq!(relayed.to_string(), "relayed via relay.example");
        let now = Instant::now();
        let down = Path::Down { since: Some(now) };
        assert_eq!(down.words(now + Duration::from_secs(7)), "down since 7 s");
    }
}
