//! Stretched acknowledgements, given to TCP in pieces and in time.
//!
//! ```text
//!   peer acknowledges a batch:   ack 64,000 ──────────────────────────► one segment more may be in flight
//!   the same here:               ack 1,360, 2,720, …, 62,560, 64,000 ─► 48 segments more
//! ```
//! **In pieces.** Packets travel in batches, and a batch is acknowledged once. TCP as smoltcp has it lets its congestion
//! window grow by one segment with each acknowledgement, however much that one covers (RFC 5681, section 3.1); it would
//! take minutes to become fast over long distances. Counting bytes (RFC 3465) is what is wanted. So what a stretched
//! acknowledgement covers is told in pieces of a segment before it is told whole.
//!
//! **In time.** When the hole before much that arrived is filled, one acknowledgement covers a whole window, and TCP
//! would send the next window at once, which no queue on the way may have room for. So what covers more than a batch,
//! or more than an eighth of what is in flight, is told within half a round trip.
//!
//! Security: a peer could send the pieces itself, so it gains nothing. The numbers are the peer's: only what is in flight
//! is divided, and each byte of it once.

use super::super::segment::{Bare, FIN, IPV6_HEADER, Segment, bare};
use std::time::Duration;

/// What may be told at once: a batch of packets, or this part of what is in flight.
const BURST: u32 = 64 * 1024;
const BURST_PART: u32 = 8;
/// Pause between two parts of more.
const TICK: Duration = Duration::from_millis(1);
/// Over shorter round trips nothing waits.
const SHORTEST_TRIP: Duration = Duration::from_millis(4);
/// Pieces of each part, at least.
const LEAST: u32 = 4;

/// What is known of the way that a stream goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    /// Unknown: zero.
    pub(super) round_trip: Duration,
    /// The number of the first byte that is not acknowledged, and the bytes from it on.
    pub(super) first: u32,
    pub(super) in_flight: u32,
}

/// What of one stream is acknowledged, and what of that TCP knows. Time is since any moment that does not change.
#[derive(Debug)]
pub(super) struct Stretch {
    heard: u32,
    told: u32,
    /// Of the peer's latest segment.
    latest: Option<Bare>,
    round_trip: Duration,
    piece: u32,
    /// When TCP is told more, if there is more.
    due: Option<Duration>,
}

/// What TCP is to be told with a segment.
#[derive(Debug)]
pub(super) struct Told {
    /// Before it.
    pub(super) pieces: Pieces,
    /// The acknowledgement that it gets.
    pub(super) acknowledges: u32,
    /// The segment itself says nothing then, and would look like a duplicate.
    pub(super) is_empty: bool,
}

impl Stretch {
    /// Everything before `first` is acknowledged. A piece is what a full segment carries.
    pub(super) fn new(first: u32, piece: usize) -> Self {
        Self {
            heard: first,
            told: first,
            latest: None,
            round_trip: Duration::ZERO,
            piece: u32::try_from(piece).unwrap_or(u32::MAX),
            due: None,
        }
    }

    /// Reads a segment of the peer with the flag ACK, before what is known of the line takes it in. `None`: TCP gets it as
    /// it is.
    pub(super) fn heard(
        &mut self,
        segment: &Segment<'_>,
        now: Duration,
        line: Line,
    ) -> Option<Told> {
        let number = segment.acknowledges();
        // An end of the stream has a number too.
        if number.wrapping_sub(line.first) > line.in_flight.saturating_add(1) {
            return None;
        }
        self.heard = number;
        self.latest = Some(bare(segment, segment.next_sequence(), number));
        self.round_trip = line.round_trip;
        let before = self.told;
        let owed = number.wrapping_sub(before);
        let burst = (line.in_flight / BURST_PART).max(BURST);
        if owed <= burst || line.round_trip < SHORTEST_TRIP {
            (self.told, self.due) = (number, None);
        } else if self.due.is_none() {
            self.told = before.wrapping_add(burst);
            self.due = Some(now + TICK);
        }
        let packet = bare(segment, segment.sequence(), number);
        let plain = segment.payload().is_empty() && !segment.has(FIN);
        Some(Told {
            pieces: Pieces::new(packet, before, self.told, self.piece),
            acknowledges: self.told,
            is_empty: plain && self.told != number && self.told == before,
        })
    }

    /// When TCP is told more.
    pub(super) fn next_timeout(&self) -> Option<Duration> {
        self.due
    }

    /// What TCP is told now, if it is time.
    pub(super) fn next_due(&mut self, now: Duration) -> Option<Pieces> {
        let due = self.due.filter(|at| *at <= now)?;
        let latest = self.latest?;
        let owed = self.heard.wrapping_sub(self.told);
        // Half a round trip for all of it, also where the timer is late.
        let elapsed = (now.saturating_sub(due) + TICK).as_secs_f64();
        let share = 2.0 * elapsed / self.round_trip.max(TICK).as_secs_f64();
        let least = self.piece.saturating_mul(LEAST);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "not negative, and bounded by what is owed"
        )]
        let part = ((f64::from(owed) * share) as u32).max(least).min(owed);
        let before = self.told;
        self.told = before.wrapping_add(part);
        self.due = (part < owed).then(|| now + TICK);
        Some(Pieces::new(latest, before, self.told, self.piece).and_end())
    }
}

/// Acknowledgements without data, each of one piece more.
#[derive(Debug)]
pub(in crate::netstack) struct Pieces {
    packet: Bare,
    said: u32,
    end: u32,
    piece: u32,
    /// The end is one of them.
    and_end: bool,
}

impl Pieces {
    /// Those after `said` that come before `end`.
    fn new(packet: Bare, said: u32, end: u32, piece: u32) -> Self {
        Self {
            packet,
            said,
            end,
            piece,
            and_end: false,
        }
    }

    fn and_end(mut self) -> Self {
        self.and_end = self.said != self.end;
        self
    }

    /// The next one.
    pub(in crate::netstack) fn next(&mut self) -> Option<&[u8]> {
        let left = self.end.wrapping_sub(self.said);
        let number = if left > self.piece {
            self.said = self.said.wrapping_add(self.piece);
            self.said
        } else {
            if !std::mem::take(&mut self.and_end) {
                return None;
            }
            self.said = self.end;
            self.end
        };
        self.packet[IPV6_HEADER + 8..IPV6_HEADER + 12].copy_from_slice(&number.to_be_bytes());
        Some(&self.packet)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::super::segment::{ACK, TCP};
    use super::*;

    const PIECE: usize = 1000;
    const TRIP: Duration = Duration::from_millis(100);

    fn segment(flags: u8, seq: u32, ack: u32, data: usize) -> Vec<u8> {
        let mut packet = vec![0; IPV6_HEADER + 20 + data];
        packet[0] = 0x60;
        packet[6] = TCP;
        packet[IPV6_HEADER + 4..IPV6_HEADER + 8].copy_from_slice(&seq.to_be_bytes());
        packet[IPV6_HEADER + 8..IPV6_HEADER + 12].copy_from_slice(&ack.to_be_bytes());
        packet[IPV6_HEADER + 12] = 5 << 4;
        packet[IPV6_HEADER + 13] = flags;
        packet
    }

    fn line(first: u32, in_flight: u32) -> Line {
        Line {
            round_trip: TRIP,
            first,
            in_flight,
        }
    }

    /// Sequence and acknowledgement of all.
    fn all(mut pieces: Pieces) -> Vec<(u32, u32)> {
        let mut numbers = Vec::new();
        while let Some(piece) = pieces.next() {
            let piece = Segment::parse(piece).unwrap();
            assert_eq!((piece.flags(), piece.payload().len()), (ACK, 0));
            numbers.push((piece.sequence(), piece.acknowledges()));
        }
        numbers
    }

    /// Pieces, the acknowledgement of the segment, whether it is left out.
    type Hearing = (Vec<(u32, u32)>, u32, bool);

    fn hear(stretch: &mut Stretch, packet: &[u8], line: Line) -> Option<Hearing> {
        let segment = Segment::parse(packet).unwrap();
        let told = stretch.heard(&segment, Duration::from_secs(1), line)?;
        Some((all(told.pieces), told.acknowledges, told.is_empty))
    }

    #[test]
    fn a_stretched_acknowledgement_comes_in_pieces_and_then_whole() {
        let first = u32::MAX - 999;
        let mut stretch = Stretch::new(first, PIECE);
        // Across the end of the numbers, with data and an end of its own.
        let packet = segment(ACK | FIN, 9, 2500, 30);
        let (pieces, told, empty) = hear(&mut stretch, &packet, line(first, 9000)).unwrap();
        assert_eq!(pieces, [(9, 0), (9, 1000), (9, 2000)]);
        assert_eq!((told, empty), (2500, false));
        let (pieces, ..) =
            hear(&mut stretch, &segment(ACK, 39, 3500, 0), line(2500, 5000)).unwrap();
        assert!(pieces.is_empty());
    }

    #[test]
    fn what_tells_nothing_new_or_was_never_sent_is_not_divided() {
        let mut stretch = Stretch::new(5000, PIECE);
        let in_flight = line(5000, 3000);
        for ack in [4999, 2000, 8002, 5000 + (1 << 20), 5000 + (1 << 31)] {
            assert!(hear(&mut stretch, &segment(ACK, 0, ack, 0), in_flight).is_none());
        }
        let (pieces, told, empty) =
            hear(&mut stretch, &segment(ACK, 0, 5000, 0), in_flight).unwrap();
        assert_eq!((pieces.len(), told, empty), (0, 5000, false));
        let (pieces, ..) = hear(&mut stretch, &segment(ACK, 0, 6500, 0), in_flight).unwrap();
        assert_eq!(pieces, [(0, 6000)]);
    }

    #[test]
    fn a_whole_window_at_once_is_told_within_half_a_round_trip_and_no_duplicate_is_made_of_it() {
        let mut stretch = Stretch::new(0, PIECE);
        let window = 400_000;
        let packet = segment(ACK, 50, window, 0);
        let (pieces, told, empty) = hear(&mut stretch, &packet, line(0, window)).unwrap();
        assert_eq!((pieces.len(), told, empty), (65, BURST, false));
        // Meanwhile: another acknowledgement, and data.
        let later = line(window, 500);
        let (pieces, told, empty) =
            hear(&mut stretch, &segment(ACK, 50, window + 5, 0), later).unwrap();
        assert_eq!((pieces.len(), told, empty), (0, BURST, true));
        let (_, told, empty) = hear(&mut stretch, &segment(ACK, 50, window + 5, 9), later).unwrap();
        assert_eq!((told, empty), (BURST, false));
        let mut last = told;
        let begin = Duration::from_secs(1);
        let mut now = begin;
        while let Some(at) = stretch.next_timeout() {
            now = at;
            for (sequence, number) in all(stretch.next_due(now).unwrap()) {
                assert_eq!(sequence, 59, "after the data");
                assert!(number > last && number - last <= 1000);
                last = number;
            }
            assert!(stretch.next_due(now).is_none());
        }
        assert_eq!(last, window + 5);
        let took = now.saturating_sub(begin);
        assert!(took > TRIP / 4 && took < TRIP * 3, "{took:?}");
    }

    #[test]
    fn over_no_distance_nothing_waits() {
        let mut stretch = Stretch::new(0, PIECE);
        let near = Line {
            round_trip: Duration::from_millis(1),
            ..line(0, 400_000)
        };
        let (pieces, told, _) = hear(&mut stretch, &segment(ACK, 0, 400_000, 0), near).unwrap();
        assert_eq!((pieces.len(), told), (399, 400_000));
        assert_eq!(stretch.next_timeout(), None);
    }
}
