//! The round trip of a pair: measured by the lower end through the tunnel, told to the higher end
//! with the next probe, so that both show the same.
//!
//! A measurement is smoothed, and replaces the one that is shown only if it says something else or
//! that one is old: two ends that are asked at one moment nearly always answer alike.

use super::{
    limits::{ROUND_TRIP_AGE, ROUND_TRIP_INTERVAL, ROUND_TRIP_STEP},
    probe::Content,
};
use std::time::{Duration, Instant};

/// See the module's text.
#[derive(Debug)]
pub(super) struct RoundTrip {
    next: Instant,
    number: u32,
    asked: Option<Instant>,
    smooth: Option<Duration>,
    shown: Option<(Duration, Option<Instant>)>,
}

impl RoundTrip {
    pub(super) fn new(first: Instant) -> Self {
        Self {
            next: first,
            number: 0,
            asked: None,
            smooth: None,
            shown: None,
        }
    }

    /// When the next question is due.
    pub(super) fn next(&self) -> Instant {
        self.next
    }

    /// The question, if it is due.
    pub(super) fn ask(&mut self, now: Instant) -> Option<Content> {
        (self.next <= now).then(|| self.begin(now))
    }

    /// A question in any case.
    pub(super) fn begin(&mut self, now: Instant) -> Content {
        self.number = self.number.wrapping_add(1);
        self.asked = Some(now);
        self.next = now + ROUND_TRIP_INTERVAL;
        Content {
            number: self.number,
            rtt: self.shown(),
        }
    }

    /// Takes an answer; one to another question than the last says nothing.
    pub(super) fn handle_answer(&mut self, content: Content, now: Instant) {
        let Some(asked) = self.asked.take_if(|_| content.number == self.number) else {
            return;
        };
        let sample = now.saturating_duration_since(asked);
        let smooth = self.smooth.map_or(sample, |old| (old * 3 + sample) / 4);
        self.smooth = Some(smooth);
        let stays = self.shown.is_some_and(|(shown, since)| {
            let step = (smooth.as_secs_f64() - shown.as_secs_f64()).abs();
            let age = since.map(|at| now.saturating_duration_since(at));
            step <= shown.as_secs_f64() * ROUND_TRIP_STEP
                && age.is_some_and(|age| age < ROUND_TRIP_AGE)
        });
        if !stays {
            // The other end knows it with the next question, which follows at once.
            // As precise as it travels, so that both ends show the same.
            let micros = u64::try_from(smooth.as_micros()).unwrap_or(u64::MAX);
            self.shown = Some((Duration::from_micros(micros), Some(now)));
            self.next = now;
        }
    }

    /// The higher end takes over what the lower one measured.
    pub(super) fn adopt(&mut self, content: Content) {
        if let Some(rtt) = content.rtt {
            self.shown = Some((rtt, None));
        }
    }

    /// What was measured on another path says nothing about this one. The next question is due at once: the answer shows
    /// that the path carries, and tells the streams inside to go on.
    pub(super) fn path_changed(&mut self, now: Instant) {
        self.smooth = None;
        self.asked = None;
        self.next = now;
        if let Some((_, since)) = &mut self.shown {
            *since = None;
        }
    }

    /// The round trip, as both ends show it.
    pub(super) fn shown(&self) -> Option<Duration> {
        self.shown.map(|(rtt, _)| rtt)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn measure(lower: &mut RoundTrip, higher: &mut RoundTrip, now: &mut Instant, rtt: Duration) {
        *now = lower.next().max(*now);
        let question = lower.ask(*now).unwrap();
        higher.adopt(question);
        *now += rtt;
        lower.handle_answer(question, *now);
    }

    #[test]
    fn both_ends_show_one_measurement_and_small_changes_do_not_shake_it() {
        let mut now = Instant::now();
        let (mut lower, mut higher) = (RoundTrip::new(now), RoundTrip::new(now));
        measure(&mut lower, &mut higher, &mut now, 40 * MS);
        assert_eq!(lower.shown(), Some(40 * MS));
        measure(&mut lower, &mut higher, &mut now, 41 * MS);
        for extra in 0..5 {
            measure(&mut lower, &mut higher, &mut now, (40 + extra) * MS);
            assert_eq!(lower.shown(), Some(40 * MS));
            assert_eq!(higher.shown(), lower.shown());
        }
        lower.path_changed(now);
        measure(&mut lower, &mut higher, &mut now, 90 * MS);
        assert_eq!(lower.shown(), Some(90 * MS));
        measure(&mut lower, &mut higher, &mut now, 90 * MS);
        assert_eq!(higher.shown(), Some(90 * MS));
    }

    #[test]
    fn an_answer_to_an_earlier_question_is_no_measurement() {
        let now = Instant::now();
        let mut lower = RoundTrip::new(now);
        let early = lower.begin(now);
        lower.begin(now + 200 * MS);
        lower.handle_answer(early, now + 210 * MS);
        assert_eq!(lower.shown(), None);
    }
}
