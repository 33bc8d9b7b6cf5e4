//! Passing a program's output on as it comes, and reading MPyC's log lines on the way.
//!
//! MPyC writes its log to standard output, one line each, as `2026-01-31 12:00:00,123 TEXT`. Two
//! texts are of interest: `All 3 parties connected.` and
//! `Stop MPyC -- elapsed time: 0:00:01.234|bytes sent: 567`. They are passed on like everything
//! else. A program can print lines that look the same; what is read here is only shown to people.
//!
//! Limits: a line is remembered up to [`LONGEST_LOG_LINE`] bytes, the rest of it is passed on
//! unseen; one read buffer of [`READ_BUFFER`] bytes per stream.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// The most of one line that is kept to look at; MPyC's two lines are far shorter.
const LONGEST_LOG_LINE: usize = 200;
/// The size of one read from the program.
const READ_BUFFER: usize = 64 * 1024;
/// `2026-01-31 12:00:00,123 `, with digits as `0`.
const TIMESTAMP: &[u8] = b"0000-00-00 00:00:00,000 ";

/// What MPyC says in its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LogLine {
    Connected { parties: u16 },
    Finished { elapsed: Duration, bytes_sent: u64 },
}

/// Copy `from` to `to` until the end, handing each log line to `seen`.
///
/// When `to` fails, the rest of the output is read and thrown away: a closed terminal must not
/// stop a computation that others take part in. The first such error is the result.
pub(super) async fn pass_on(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut seen: impl FnMut(LogLine),
) -> io::Result<()> {
    let mut buffer = vec![0; READ_BUFFER];
    let mut lines = Lines::default();
    let mut result = Ok(());
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return result;
        }
        lines.take(&buffer[..count], &mut seen);
        if result.is_ok() {
            result = async {
                to.write_all(&buffer[..count]).await?;
                to.flush().await
            }
            .await;
        }
    }
}

/// Finds log lines in output that arrives in pieces.
#[derive(Default)]
struct Lines {
    line: Vec<u8>,
    /// The line is longer than any log line of interest.
    too_long: bool,
}

impl Lines {
    fn take(&mut self, piece: &[u8], seen: &mut impl FnMut(LogLine)) {
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            let (text, complete) = match part.split_last() {
                Some((b'\n', text)) => (text, true),
                _ => (part, false),
            };
            if self.line.len() + text.len() > LONGEST_LOG_LINE {
                self.too_long = true;
                self.line.clear();
            }
            if !self.too_long {
                self.line.extend_from_slice(text);
            }
            if complete {
                if !self.too_long
                    && let Some(found) = parse(&self.line)
                {
                    seen(found);
                }
                self.line.clear();
                self.too_long = false;
            }
        }
    }
}

fn parse(line: &[u8]) -> Option<LogLine> {
    let (stamp, text) = line.split_at_checked(TIMESTAMP.len())?;
    let fits = |(byte, form): (&u8, &u8)| byte == form || *form == b'0' && byte.is_ascii_digit();
    if !stamp.iter().zip(TIMESTAMP).all(fits) {
        return None;
    }
    let text = std::str::from_utf8(text).ok()?;
    if let Some(rest) = text.strip_prefix("All ") {
        let parties = rest.strip_suffix(" parties connected.")?.parse().ok()?;
        return Some(LogLine::Connected { parties });
    }
    let rest = text.strip_prefix("Stop MPyC -- elapsed time: ")?;
    let (elapsed, bytes) = rest.split_once("|bytes sent: ")?;
    Some(LogLine::Finished {
        elapsed: parse_elapsed(elapsed)?,
        bytes_sent: bytes.parse().ok()?,
    })
}

/// Python's way to write a duration: `1:02:03.456`, with `1 day, ` or `2 days, ` in front.
fn parse_elapsed(text: &str) -> Option<Duration> {
    let (days, clock) = match text.split_once(", ") {
        Some((days, clock)) => (days.split(' ').next()?.parse::<u64>().ok()?, clock),
        None => (0, text),
    };
    let (clock, millis) = clock.split_once('.')?;
    let mut seconds = days.checked_mul(24)?;
    let mut parts = 0;
    for part in clock.split(':') {
        let part: u64 = part.parse().ok()?;
        seconds = if parts == 0 {
            seconds
        } else {
            seconds.checked_mul(60)?
        }
        .checked_add(part)?;
        parts += 1;
    }
    let millis: u64 = (parts == 3 && millis.len() == 3).then(|| millis.parse().ok())??;
    Some(Duration::from_secs(seconds) + Duration::from_millis(millis))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(pieces: &[&[u8]]) -> Vec<LogLine> {
        let (mut lines, mut found) = (Lines::default(), Vec::new());
        for piece in pieces {
            lines.take(piece, &mut |line| found.push(line));
        }
        found
    }

    const CONNECTED: &[u8] = b"2026-01-31 12:00:00,123 All 3 parties connected.\n";
    const STOP: &[u8] =
        b"2026-01-31 12:00:00,123 Stop MPyC -- elapsed time: 1:02:03.456|bytes sent: 17742\n";

    #[test]
    fn log_lines_are_found_whole_and_in_single_bytes() {
        let elapsed = Duration::from_millis(3_723_456);
        let expected = vec![
            LogLine::Connected { parties: 3 },
            LogLine::Finished {
                elapsed,
                bytes_sent: 17_742,
            },
        ];
        let all = [b"2 [1, 0]\n", CONNECTED, b"3 [1, 2, 0]\n", STOP].concat();
        assert_eq!(scan(&[&all]), expected);
        let bytes: Vec<&[u8]> = all.chunks(1).collect();
        assert_eq!(scan(&bytes), expected);
    }

    #[test]
    fn days_are_understood_and_nonsense_is_not() {
        assert_eq!(
            parse_elapsed("1 day, 0:00:01.000"),
            Some(Duration::from_secs(86_401))
        );
        assert_eq!(
            parse_elapsed("2 days, 1:00:00.000"),
            Some(Duration::from_hours(49))
        );
        for text in [
            "",
            "1:2",
            "1:2:3",
            "1:2:3:4.000",
            "x:0:0.000",
            "99999999999999999 days, 1:0:0.000",
        ] {
            assert_eq!(parse_elapsed(text), None, "{text}");
        }
    }

    #[test]
    fn lines_without_a_timestamp_and_giant_lines_are_no_log_lines() {
        assert_eq!(scan(&[b"All 3 parties connected.\n"]), []);
        assert_eq!(
            scan(&[b"2026-01-31 12:00:00,123 All three parties connected.\n"]),
            []
        );
        let giant = vec![b'x'; 1 << 20];
        assert_eq!(
            scan(&[&giant, CONNECTED, CONNECTED]),
            [LogLine::Connected { parties: 3 }]
        );
    }

    #[test]
    fn a_giant_line_is_not_kept() {
        let mut lines = Lines::default();
        for _ in 0..1000 {
            lines.take(&[b'x'; 4096], &mut |_| {});
        }
        assert!(
            lines.line.capacity() <= 2 * LONGEST_LOG_LINE,
            "{}",
            lines.line.capacity()
        );
    }

    #[tokio::test]
    async fn output_arrives_unchanged_and_a_closed_writer_does_not_stop_reading() {
        let bytes: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
        let mut copy = Vec::new();
        pass_on(&bytes[..], &mut copy, |_| {})
            .await
            .expect("memory takes it");
        assert!(copy == bytes);
        let (closed, other) = tokio::io::duplex(64);
        drop(other);
        let mut count = 0;
        let text = [CONNECTED.repeat(5000), STOP.to_vec()].concat();
        pass_on(&text[..], closed, |_| count += 1)
            .await
            .expect_err("the writer is closed");
        assert_eq!(count, 5001);
    }
}
