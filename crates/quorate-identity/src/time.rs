//! Wall-clock time as the protocol writes it: whole seconds and whole milliseconds since 1970.

use serde::{Deserialize, Serialize};
use time::{OffsetDateTime, format_description::FormatItem, macros::format_description};

use crate::{Code, Rejection};

/// RFC 3339 with `Z` and whole seconds, the only form quorate writes and reads in credentials.
const FORMAT: &[FormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");

/// Seconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixTime(pub i64);

impl UnixTime {
    /// This time moved by `seconds`, saturating.
    pub const fn plus_seconds(self, seconds: i64) -> Self {
        Self(self.0.saturating_add(seconds))
    }

    /// RFC 3339 text in UTC, such as `2026-11-22T16:00:00Z`; out-of-range times show as the number.
    pub fn rfc3339(self) -> String {
        OffsetDateTime::from_unix_timestamp(self.0)
            .ok()
            .and_then(|t| t.format(FORMAT).ok())
            .unwrap_or_else(|| self.0.to_string())
    }

    /// Reads the one RFC 3339 form of this protocol: `YYYY-MM-DDThh:mm:ssZ`.
    pub fn from_rfc3339(text: &str) -> Result<Self, Rejection> {
        let bad = || {
            Rejection::new(
                Code::Format,
                "T1",
                "a time is not of the form YYYY-MM-DDThh:mm:ssZ",
            )
        };
        if text.len() != "YYYY-MM-DDThh:mm:ssZ".len() {
            return Err(bad());
        }
        let parsed = time::PrimitiveDateTime::parse(text, FORMAT).map_err(|_| bad())?;
        Ok(Self(parsed.assume_utc().unix_timestamp()))
    }
}

/// Milliseconds since 1970-01-01T00:00:00Z; the epoch of a join.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixMillis(pub u64);

impl UnixMillis {
    /// The same time in whole seconds.
    pub fn seconds(self) -> UnixTime {
        UnixTime(i64::try_from(self.0 / 1000).unwrap_or(i64::MAX))
    }
}

/// Serde form of a time inside a credential (RFC 3339, `Z`).
pub(crate) mod rfc3339 {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use super::UnixTime;

    #[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
    pub fn serialize<S: Serializer>(time: &UnixTime, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(&time.rfc3339())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<UnixTime, D::Error> {
        let text = String::deserialize(input)?;
        UnixTime::from_rfc3339(&text).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc3339_round_trips() {
        let t = UnixTime(1_795_363_200);
        assert_eq!(t.rfc3339(), "2026-11-22T16:00:00Z");
        assert_eq!(UnixTime::from_rfc3339("2026-11-22T16:00:00Z"), Ok(t));
    }

    #[test]
    fn other_time_forms_are_refused() {
        for text in [
            "",
            "2026-11-22T16:00:00+00:00",
            "2026-11-22T16:00:00.5Z",
            "2026-13-22T16:00:00Z",
            "2026-11-22 16:00:00Z",
            "+026-11-22T16:00:00Z",
        ] {
            assert!(UnixTime::from_rfc3339(text).is_err(), "{text}");
        }
    }
}
