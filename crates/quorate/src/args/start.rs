//! `--start`: when this party lets the program start.

use quorate_identity::UnixTime;
use serde::{Deserialize, Serialize};

use crate::{invitation::now, text};

/// When this party lets the program start, once everybody is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StartWhen {
    /// At once.
    Full,
    /// When its user says so.
    Ask,
    /// Not before this time.
    At(UnixTime),
}

/// `when-full`, `ask`, a time from now, or a moment in UTC.
pub fn parse_start(text: &str) -> Result<StartWhen, String> {
    match text {
        "when-full" => return Ok(StartWhen::Full),
        "ask" => return Ok(StartWhen::Ask),
        _ => {}
    }
    if let Ok(time) = UnixTime::from_rfc3339(text) {
        return Ok(StartWhen::At(time));
    }
    let wait = text::parse_duration(text).map_err(|_| {
        format!("{text:?} is not when-full, ask, a time such as 20m, or one such as 2026-11-22T16:00:00Z")
    })?;
    let seconds = i64::try_from(wait.as_secs()).map_err(|_| format!("{text:?} is too far away"))?;
    Ok(StartWhen::At(now().plus_seconds(seconds)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_are_words_waits_and_moments() {
        assert_eq!(parse_start("when-full"), Ok(StartWhen::Full));
        assert_eq!(parse_start("ask"), Ok(StartWhen::Ask));
        let moment = parse_start("2026-11-22T16:00:00Z");
        assert_eq!(moment, Ok(StartWhen::At(UnixTime(1_795_363_200))));
        let wait = parse_start("20m");
        assert!(matches!(wait, Ok(StartWhen::At(t)) if t > now()));
        for wrong in ["", "now", "16:00", "yes", "9999999999999999999d"] {
            assert!(parse_start(wrong).is_err(), "{wrong}");
        }
    }
}
