//! What a relay says about itself: the answer on a stream of [`PROTOCOL`].
//!
//! ```text
//!  anybody ── stream /quorate/relay/1 ──► relay
//!          ◄── one JSON object, end ─────
//! ```
//! A party needs it to find the relay's STUN ports, to choose between relays, and to know before a
//! run what would cut it: how long a circuit may last, how much and how fast it carries.
//!
//! Limits: [`MAX_ANNOUNCEMENT_BYTES`], [`MAX_RELAY_NAME_CHARS`], [`MAX_STUN_PORTS`]; see
//! `limits.rs`.
//!
//! Security. Requires: the stream is of an authenticated connection to the relay that was meant.
//! Provides: bytes from a relay end in an [`Announcement`] within its limits or in a refusal. Does
//! not provide: that the relay keeps to what it says. A relay is not trusted: it can withhold,
//! delay and count what it carries, and nothing else.

use quorate_identity::{Code, Rejection, UnixTime, json::parse_strict};
use serde::{Deserialize, Serialize};

use crate::{
    limits::{MAX_ANNOUNCEMENT_BYTES, MAX_RELAY_NAME_CHARS, MAX_STUN_PORTS},
    message::is_unprintable,
};

/// The protocol of the stream that carries an announcement.
pub const PROTOCOL: &str = "/quorate/relay/1";
/// Version of the object.
const VERSION: u64 = 1;
/// The rule of `docs/protocol.md`.
const RULE: &str = "S12";

/// What a relay says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// What its operator calls it; a text of somebody else, to be shown beside its address only.
    pub name: Option<String>,
    /// UDP ports at the relay's address that answer STUN Binding requests; none or two, so that
    /// one relay alone shows whether a NAT's mapping depends on the destination.
    pub stun: Vec<u16>,
    /// What it carries at most.
    pub limits: Limits,
    /// What it carries at present.
    pub load: Load,
    /// Who may use it.
    pub access: Access,
    /// Its clock.
    pub at: UnixTime,
}

/// What a relay carries at most. Where a zero is allowed, it means "no such limit".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Circuits at a time; not zero.
    pub circuits: u32,
    /// Reservations at a time; not zero.
    pub reservations: u32,
    /// How long one circuit lasts; not zero.
    pub circuit_seconds: u32,
    /// Bytes of one circuit, both directions together; zero: no limit.
    pub circuit_bytes: u64,
    /// Bits per second of one direction of one circuit; zero: no limit.
    pub circuit_bits_per_second: u64,
    /// Bits per second of all circuits together; zero: no limit.
    pub total_bits_per_second: u64,
}

/// What a relay carries at present.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Load {
    /// Circuits.
    pub circuits: u32,
    /// Reservations.
    pub reservations: u32,
    /// Bits per second, over the last seconds.
    pub bits_per_second: u64,
}

/// Who may use a relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// Everybody.
    Open,
    /// Whom its operator listed.
    Listed,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    v: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    stun: Vec<u16>,
    limits: Limits,
    load: Load,
    access: Access,
    at: i64,
}

impl Announcement {
    /// Reads what a relay sent: all bytes up to the end of its stream.
    pub fn parse(bytes: &[u8]) -> Result<Self, Rejection> {
        if bytes.len() > MAX_ANNOUNCEMENT_BYTES {
            let text = format!("the announcement is larger than {MAX_ANNOUNCEMENT_BYTES} bytes");
            return Err(Rejection::new(Code::Limit, RULE, text));
        }
        let malformed =
            |why: &str| Rejection::new(Code::Format, RULE, format!("not an announcement: {why}"));
        let value = parse_strict(bytes).map_err(|e| malformed(&e.detail))?;
        match value.get("v").map(serde_json::Value::as_u64) {
            Some(Some(VERSION)) => {}
            Some(Some(v)) => {
                let text = format!("the announcement is of version {v}, this is {VERSION}");
                return Err(Rejection::new(Code::Version, RULE, text));
            }
            _ => return Err(malformed("no version")),
        }
        let wire: Wire = serde_json::from_value(value).map_err(|e| malformed(&e.to_string()))?;
        let announcement = Self {
            name: wire.name,
            stun: wire.stun,
            limits: wire.limits,
            load: wire.load,
            access: wire.access,
            at: UnixTime(wire.at),
        };
        announcement.check().map_err(malformed)?;
        Ok(announcement)
    }

    /// The bytes to send; refused if they would not be read by [`parse`](Self::parse).
    pub fn encode(&self) -> Result<Vec<u8>, Rejection> {
        let wire = Wire {
            v: VERSION,
            name: self.name.clone(),
            stun: self.stun.clone(),
            limits: self.limits,
            load: self.load,
            access: self.access,
            at: self.at.0,
        };
        let bytes = serde_json::to_vec(&wire).expect("plain members are JSON");
        Self::parse(&bytes).map(|_| bytes)
    }

    fn check(&self) -> Result<(), &'static str> {
        let name = self.name.as_deref().unwrap_or("-");
        if name.is_empty()
            || name.chars().count() > MAX_RELAY_NAME_CHARS
            || name.chars().any(is_unprintable)
        {
            return Err("a name that is empty, too long or not printable");
        }
        let distinct = |ports: &[u16]| ports.windows(2).all(|two| two[0] != two[1]);
        if ![0, MAX_STUN_PORTS].contains(&self.stun.len())
            || self.stun.contains(&0)
            || !distinct(&self.stun)
        {
            return Err("STUN ports that are not two different ones, or none");
        }
        let limits = &self.limits;
        if [limits.circuits, limits.reservations, limits.circuit_seconds].contains(&0) {
            return Err("a limit of zero where something must be possible");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn announcement() -> Announcement {
        Announcement {
            name: Some("relay of Example".into()),
            stun: vec![4002, 4003],
            limits: Limits {
                circuits: 256,
                reservations: 128,
                circuit_seconds: 86_400,
                circuit_bytes: 0,
                circuit_bits_per_second: 50_000_000,
                total_bits_per_second: 0,
            },
            load: Load::default(),
            access: Access::Open,
            at: UnixTime(1_795_000_000),
        }
    }

    fn text() -> String {
        String::from_utf8(announcement().encode().expect("within limits")).expect("JSON")
    }

    #[test]
    fn an_announcement_is_read_as_it_was_written() {
        let bytes = announcement().encode().expect("within limits");
        assert_eq!(Announcement::parse(&bytes), Ok(announcement()));
        let plain = Announcement {
            name: None,
            stun: Vec::new(),
            access: Access::Listed,
            ..announcement()
        };
        let bytes = plain.encode().expect("within limits");
        assert_eq!(Announcement::parse(&bytes), Ok(plain));
    }

    #[test]
    fn an_announcement_beyond_its_limits_or_of_another_form_is_refused() {
        let long = format!("{}{}", text(), " ".repeat(MAX_ANNOUNCEMENT_BYTES));
        let refusal = Announcement::parse(long.as_bytes()).expect_err("too long");
        assert_eq!((refusal.code, refusal.rule), (Code::Limit, "S12"));
        let newer = text().replace("\"v\":1", "\"v\":2");
        let refusal = Announcement::parse(newer.as_bytes()).expect_err("newer");
        assert_eq!((refusal.code, refusal.rule), (Code::Version, "S12"));
        for (from, to) in [
            ("[4002,4003]", "[4002]"),
            ("[4002,4003]", "[4002,4002]"),
            ("[4002,4003]", "[0,4003]"),
            ("[4002,4003]", "[1,2,3]"),
            ("[4002,4003]", "[4002,70000]"),
            ("\"open\"", "\"closed\""),
            ("relay of Example", ""),
            ("relay of Example", "a\u{202e}b"),
            ("relay of Example", "a\\u0007b"),
            ("\"reservations\":128", "\"reservations\":0"),
            ("\"circuit_seconds\":86400", "\"circuit_seconds\":-1"),
            ("\"v\":1,", ""),
            ("\"v\":1", "\"v\":1,\"v\":1"),
            ("\"v\":1", "\"v\":1,\"more\":2"),
        ] {
            let changed = text().replacen(from, to, 1);
            assert_ne!(changed, text(), "{from}");
            let refusal = Announcement::parse(changed.as_bytes()).expect_err(to);
            assert_eq!((refusal.code, refusal.rule), (Code::Format, "S12"), "{to}");
        }
        let long = Announcement {
            name: Some("x".repeat(MAX_RELAY_NAME_CHARS + 1)),
            ..announcement()
        };
        assert!(long.encode().is_err());
    }

    #[test]
    fn the_longest_announcement_fits() {
        let longest = Announcement {
            name: Some("\u{10ffff}".repeat(MAX_RELAY_NAME_CHARS)),
            stun: vec![65_534, 65_535],
            limits: Limits {
                circuits: u32::MAX,
                reservations: u32::MAX,
                circuit_seconds: u32::MAX,
                circuit_bytes: (1 << 53) - 1,
                circuit_bits_per_second: (1 << 53) - 1,
                total_bits_per_second: (1 << 53) - 1,
            },
            load: Load {
                circuits: u32::MAX,
                reservations: u32::MAX,
                bits_per_second: (1 << 53) - 1,
            },
            access: Access::Listed,
            at: UnixTime((1 << 53) - 1),
        };
        assert_eq!(longest.encode().map(|b| b.len() < 1000), Ok(true));
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = Announcement::parse(&bytes);
        }

        #[test]
        fn one_changed_byte_ends_in_an_answer(at in 0_usize..300, byte in any::<u8>()) {
            let mut bytes = text().into_bytes();
            let length = bytes.len();
            bytes[at % length] = byte;
            if let Ok(read) = Announcement::parse(&bytes) {
                prop_assert!(read.encode().is_ok());
            }
        }
    }
}
