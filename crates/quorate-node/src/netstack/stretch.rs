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
//! Security: a peer could send the pieces itself, so it gains nothing. The numbers are the peer's: those that go back
//! are left alone, and one that covers more than a stream can have in flight is not divided.

use super::{
    limits::{MAX_SOCKETS, STREAM_BUFFER},
    segment::{ACK, FIN, Flow, IPV6_HEADER, RST, SYN, Segment, TCP_HEADER, bare},
};
use std::{collections::HashMap, time::Duration};

/// What may be told at once: a batch of packets, or this part of what is in flight.
const BURST: u32 = 64 * 1024;
const BURST_PART: u32 = 8;
/// Pause between two parts of more.
const TICK: Duration = Duration::from_millis(1);
/// Over shorter round trips nothing waits.
const SHORTEST_TRIP: Duration = Duration::from_millis(4);
/// Pieces of each part, at least.
const LEAST: u32 = 4;

type Bare = [u8; IPV6_HEADER + TCP_HEADER];

#[derive(Debug)]
struct Stream {
    /// What the peer acknowledged, and what of it TCP knows.
    heard: u32,
    told: u32,
    /// The latest segment of the peer, without data.
    latest: Bare,
    round_trip: Duration,
    /// When TCP is told more, if there is more.
    due: Option<Duration>,
}

/// What is known of the way that a stream goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    pub(super) round_trip: Duration,
    /// Bytes.
    pub(super) in_flight: u32,
}

/// What every stream has acknowledged so far. Time is since any moment that does not change.
#[derive(Debug)]
pub(super) struct Acknowledged {
    streams: HashMap<Flow, Stream>,
    piece: u32,
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

impl Acknowledged {
    /// `mtu`: of the tunnel. A piece is what a full segment carries.
    pub(super) fn new(mtu: u16) -> Self {
        let headers = IPV6_HEADER + TCP_HEADER;
        let piece = usize::from(mtu).saturating_sub(headers).max(1);
        Self {
            streams: HashMap::new(),
            piece: u32::try_from(piece).unwrap_or(u32::MAX),
        }
    }

    /// Reads a segment of a peer. `None`: TCP gets it as it is.
    pub(super) fn heard(
        &mut self,
        segment: &Segment<'_>,
        now: Duration,
        line: Option<Line>,
    ) -> Option<Told> {
        let flow = segment.incoming_flow();
        if !segment.has(ACK) || segment.has(RST) {
            self.streams.remove(&flow);
            return None;
        }
        let number = segment.acknowledges();
        let known = self.streams.get_mut(&flow).filter(|_| !segment.has(SYN));
        let Some(stream) = known else {
            self.begin(flow, segment);
            return None;
        };
        let covers = number.wrapping_sub(stream.heard);
        if covers > u32::MAX / 2 {
            return None;
        }
        stream.heard = number;
        stream.latest = bare(segment, number);
        let owed = number.wrapping_sub(stream.told);
        if usize::try_from(owed).is_ok_and(|owed| owed > STREAM_BUFFER) {
            (stream.told, stream.due) = (number, None);
            return None;
        }
        let before = stream.told;
        stream.round_trip = line.map_or(Duration::ZERO, |line| line.round_trip);
        let burst = line
            .map_or(0, |line| line.in_flight / BURST_PART)
            .max(BURST);
        if owed <= burst || stream.round_trip < SHORTEST_TRIP {
            (stream.told, stream.due) = (number, None);
        } else if stream.due.is_none() {
            stream.told = before.wrapping_add(burst);
            stream.due = Some(now + TICK);
        }
        let plain = segment.payload().is_empty() && !segment.has(FIN);
        Some(Told {
            pieces: Pieces::new(stream.latest, before, stream.told, self.piece),
            acknowledges: stream.told,
            is_empty: plain && stream.told != number && stream.told == before,
        })
    }

    fn begin(&mut self, flow: Flow, segment: &Segment<'_>) {
        if self.streams.len() >= MAX_SOCKETS {
            self.streams.clear();
        }
        let number = segment.acknowledges();
        let stream = Stream {
            heard: number,
            told: number,
            latest: bare(segment, number),
            round_trip: Duration::ZERO,
            due: None,
        };
        self.streams.insert(flow, stream);
    }

    /// When to call [`Acknowledged::next_due`].
    pub(super) fn next_timeout(&self) -> Option<Duration> {
        self.streams.values().filter_map(|s| s.due).min()
    }

    /// What one stream is told now; call it until there is none.
    pub(super) fn next_due(&mut self, now: Duration) -> Option<Pieces> {
        let mut streams = self.streams.values_mut();
        let (stream, due) =
            streams.find_map(|s| s.due.filter(|at| *at <= now).map(|at| (s, at)))?;
        let owed = stream.heard.wrapping_sub(stream.told);
        // Half a round trip for all of it, also where the timer is late.
        let elapsed = (now.saturating_sub(due) + TICK).as_secs_f64();
        let share = 2.0 * elapsed / stream.round_trip.max(TICK).as_secs_f64();
        let least = self.piece.saturating_mul(LEAST);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "not negative, and bounded by what is owed"
        )]
        let part = ((f64::from(owed) * share) as u32).max(least).min(owed);
        let before = stream.told;
        stream.told = before.wrapping_add(part);
        stream.due = (part < owed).then(|| now + TICK);
        let end = stream.told.wrapping_add(1);
        Some(Pieces::new(stream.latest, before, end, self.piece).and_whole(stream.told))
    }
}

/// Acknowledgements without data, each of one piece more.
#[derive(Debug)]
pub(super) struct Pieces {
    packet: Bare,
    said: u32,
    end: u32,
    piece: u32,
    whole: Option<u32>,
}

impl Pieces {
    /// Those after `said` that come before `end`.
    fn new(packet: Bare, said: u32, end: u32, piece: u32) -> Self {
        Self {
            packet,
            said,
            end,
            piece,
            whole: None,
        }
    }

    /// And at last this number.
    fn and_whole(mut self, number: u32) -> Self {
        self.whole = Some(number);
        self.end = number;
        self
    }

    /// The next one.
    pub(super) fn next(&mut self) -> Option<&[u8]> {
        let left = self.end.wrapping_sub(self.said);
        let number = if left > self.piece {
            self.said = self.said.wrapping_add(self.piece);
            self.said
        } else {
            self.said = self.end;
            self.whole.take()?
        };
        self.packet[IPV6_HEADER + 8..IPV6_HEADER + 12].copy_from_slice(&number.to_be_bytes());
        Some(&self.packet)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::segment::TCP;
    use super::*;

    const MTU: u16 = 1060;
    const TRIP: Duration = Duration::from_millis(100);

    const LINE: Line = Line {
        round_trip: TRIP,
        in_flight: 0,
    };

    fn segment(flags: u8, ack: u32, data: usize) -> Vec<u8> {
        let mut packet = vec![0; IPV6_HEADER + TCP_HEADER + data];
        packet[0] = 0x60;
        packet[6] = TCP;
        packet[23] = 7;
        packet[IPV6_HEADER + 8..IPV6_HEADER + 12].copy_from_slice(&ack.to_be_bytes());
        packet[IPV6_HEADER + 12] = 5 << 4;
        packet[IPV6_HEADER + 13] = flags;
        packet
    }

    fn all(mut pieces: Pieces) -> Vec<u32> {
        let mut numbers = Vec::new();
        while let Some(piece) = pieces.next() {
            assert_eq!(piece[4..6], 20_u16.to_be_bytes());
            assert_eq!(piece[IPV6_HEADER + 13], ACK);
            let at = IPV6_HEADER + 8;
            numbers.push(u32::from_be_bytes(piece[at..at + 4].try_into().unwrap()));
        }
        numbers
    }

    fn hear(
        known: &mut Acknowledged,
        packet: &[u8],
        now: Duration,
    ) -> Option<(Vec<u32>, u32, bool)> {
        let segment = Segment::parse(packet).unwrap();
        let told = known.heard(&segment, now, Some(LINE))?;
        Some((all(told.pieces), told.acknowledges, told.is_empty))
    }

    fn numbers(known: &mut Acknowledged, packet: &[u8]) -> Vec<u32> {
        hear(known, packet, Duration::ZERO).map_or_else(Vec::new, |(numbers, ..)| numbers)
    }

    #[test]
    fn a_stretched_acknowledgement_comes_in_pieces_and_then_whole() {
        let mut known = Acknowledged::new(MTU);
        let begin = u32::MAX - 999;
        assert!(numbers(&mut known, &segment(SYN | ACK, begin, 0)).is_empty());
        // Across the end of the numbers, with data and an end of its own.
        let packet = segment(ACK | FIN, 2500, 30);
        assert_eq!(numbers(&mut known, &packet), [0, 1000, 2000]);
        assert!(numbers(&mut known, &segment(ACK, 3500, 0)).is_empty());
        assert_eq!(numbers(&mut known, &segment(ACK, 4501, 0)), [4500]);
    }

    #[test]
    fn what_tells_nothing_new_or_cannot_be_true_is_not_divided() {
        let mut known = Acknowledged::new(MTU);
        assert!(numbers(&mut known, &segment(ACK, 5000, 0)).is_empty());
        for ack in [5000, 2000, 5000 + (1 << 31) + 1] {
            assert!(numbers(&mut known, &segment(ACK, ack, 0)).is_empty());
        }
        assert_eq!(numbers(&mut known, &segment(ACK, 6500, 0)), [6000]);
        assert!(numbers(&mut known, &segment(ACK, 6500 + (1 << 30), 0)).is_empty());
        // Another connection between the same ports.
        assert!(numbers(&mut known, &segment(SYN, 0, 0)).is_empty());
        assert!(numbers(&mut known, &segment(ACK, 9000, 0)).is_empty());
    }

    #[test]
    fn a_whole_window_at_once_is_told_within_half_a_round_trip_and_no_duplicate_is_made_of_it() {
        let mut known = Acknowledged::new(MTU);
        numbers(&mut known, &segment(ACK, 0, 0));
        let window = 1_000_000;
        let mut now = Duration::from_secs(1);
        let (pieces, told, empty) = hear(&mut known, &segment(ACK, window, 0), now).unwrap();
        assert_eq!((pieces.len(), told, empty), (65, BURST, false));
        // Meanwhile: another acknowledgement, and data.
        let (pieces, told, empty) = hear(&mut known, &segment(ACK, window + 5, 0), now).unwrap();
        assert_eq!((pieces.len(), told, empty), (0, BURST, true));
        let (_, told, empty) = hear(&mut known, &segment(ACK, window + 5, 9), now).unwrap();
        assert_eq!((told, empty), (BURST, false));
        let mut last = told;
        let begin = now;
        while let Some(at) = known.next_timeout() {
            now = at;
            let told = all(known.next_due(now).unwrap());
            for number in told {
                assert!(number > last && number - last <= 1000);
                last = number;
            }
            assert!(known.next_due(now).is_none());
        }
        assert_eq!(last, window + 5);
        let took = now.saturating_sub(begin);
        assert!(took > TRIP / 4 && took < TRIP * 3, "{took:?}");
        // Without distance nothing waits.
        let far = segment(ACK, 3_000_000, 0);
        let far = Segment::parse(&far).unwrap();
        assert!(
            known
                .heard(&far, now, None)
                .is_none_or(|told| told.acknowledges == 3_000_000)
        );
        assert_eq!(known.next_timeout(), None);
    }

    #[test]
    fn streams_without_number_take_no_memory_without_bound() {
        let mut known = Acknowledged::new(MTU);
        let mut packet = segment(ACK, 1, 0);
        for port in 0..u16::MAX {
            packet[IPV6_HEADER..IPV6_HEADER + 2].copy_from_slice(&port.to_be_bytes());
            let _ = numbers(&mut known, &packet);
        }
        assert!(known.streams.len() <= MAX_SOCKETS);
    }
}
