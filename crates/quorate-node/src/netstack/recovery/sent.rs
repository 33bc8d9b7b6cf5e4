//! What one stream has in flight, and what became of it.

use super::{
    super::{
        limits::STREAM_BUFFER,
        segment::{FIN, IPV6_HEADER, MAX_HEADERS, Segment},
    },
    MAX_PARTS,
    stretch::Line,
};
use bytes::BytesMut;
use smoltcp::wire::{IpAddress, Ipv6Address, TcpPacket};
use std::{collections::VecDeque, ops::Range, time::Duration};

const SEQUENCE: Range<usize> = IPV6_HEADER + 4..IPV6_HEADER + 8;
const ACKNOWLEDGES: Range<usize> = IPV6_HEADER + 8..IPV6_HEADER + 12;
const WINDOW: Range<usize> = IPV6_HEADER + 14..IPV6_HEADER + 16;
/// A segment is lost when one that was sent so many later arrived (RFC 9002, section 6.1.1).
const REORDERED: u64 = 3;
/// Until the first round trip is measured.
const FIRST_PROBE: Duration = Duration::from_millis(500);
/// A busy machine answers late; this is not taken for a loss.
const SHORTEST_PROBE: Duration = Duration::from_millis(30);
/// Round trips are taken to be this long at most.
const LONGEST_TRIP: Duration = Duration::from_secs(2);
/// Probes without an answer. Afterwards TCP's own timer is what is left.
const PROBES: u32 = 3;
/// Part of the window that is left after a loss (RFC 9438, section 4.6), of ten.
const LEFT: usize = 7;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Flying,
    Arrived,
    Lost,
}

/// A stretch of bytes that was sent in one segment.
#[derive(Clone, Copy, Debug)]
struct Part {
    length: usize,
    /// Which transmission of the stream the last one of this part was, and when.
    order: u64,
    at: Duration,
    state: State,
    /// Sent more than once: its answer says nothing of the round trip.
    again: bool,
}

/// From a loss until everything is acknowledged that was in flight then.
#[derive(Clone, Copy, Debug)]
struct Episode {
    recover: u32,
    /// The window that is left, and what may be sent while more than that is in flight.
    window: usize,
    credit: usize,
}

/// What TCP is to make of a segment that was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Heard {
    /// It gets the segment itself.
    pub(super) deliver: bool,
    /// It has to reduce its window.
    pub(super) reduce: bool,
}

#[derive(Debug)]
pub(super) struct Sent {
    /// Headers of the last segment with data, with the latest acknowledgement.
    headers: [u8; MAX_HEADERS],
    headers_length: usize,
    /// The bytes from number `first` on, in parts.
    data: VecDeque<u8>,
    first: u32,
    parts: VecDeque<Part>,
    /// How many of them are lost.
    lost: usize,
    order: u64,
    /// The latest transmission of which is known that it arrived.
    arrived: u64,
    /// Parts that arrived before one that did not.
    holes: bool,
    episode: Option<Episode>,
    /// What the peer acknowledged last, and its window.
    said: Option<(u32, [u8; 2])>,
    round_trip: Option<Duration>,
    variance: Duration,
    probe_at: Option<Duration>,
    probes: u32,
    ended: bool,
}

impl Sent {
    pub(super) fn new(first: u32) -> Self {
        Self {
            headers: [0; MAX_HEADERS],
            headers_length: 0,
            data: VecDeque::new(),
            first,
            parts: VecDeque::new(),
            lost: 0,
            order: 0,
            arrived: 0,
            holes: false,
            episode: None,
            said: None,
            round_trip: None,
            variance: Duration::ZERO,
            probe_at: None,
            probes: 0,
            ended: false,
        }
    }

    /// Nothing comes any more.
    pub(super) fn is_over(&self) -> bool {
        self.ended && self.parts.is_empty()
    }

    pub(super) fn line(&self) -> Line {
        Line {
            round_trip: self.round_trip.unwrap_or_default(),
            first: self.first,
            in_flight: length(self.data.len()),
        }
    }

    pub(super) fn next_timeout(&self) -> Option<Duration> {
        self.probe_at
    }

    // --- what TCP sends ---

    /// `false`: it arrived already, or is on its way.
    pub(super) fn record(&mut self, segment: &Segment<'_>, full: usize, now: Duration) -> bool {
        self.ended |= segment.has(FIN);
        let says_more = self.keep_headers(segment);
        let payload = segment.payload();
        if payload.is_empty() {
            return true;
        }
        let offset = segment.sequence().wrapping_sub(self.first);
        let held = length(self.data.len());
        // Bytes in between were sent before this stream was known, or TCP holds more than it may.
        let between = offset > held && offset <= u32::MAX / 2;
        if between || self.data.len() > STREAM_BUFFER {
            self.forget(segment.sequence());
            self.append(payload, full, now);
            return true;
        }
        // Where it begins before what is held, that part of it is acknowledged. TCP repeats it if it does not know that.
        let (acknowledged, begin) = match offset {
            o if o > u32::MAX / 2 => (size(o.wrapping_neg()).min(payload.len()), 0),
            o => (0, size(o)),
        };
        let payload = &payload[acknowledged..];
        let repeated = payload.len().min(self.data.len() - begin);
        let fresh = &payload[repeated..];
        let needed = repeated > 0 && self.repeat(begin, begin + repeated, now);
        if !fresh.is_empty() {
            self.append(fresh, full, now);
        }
        needed || !fresh.is_empty() || acknowledged > 0 || says_more || segment.has(FIN)
    }

    fn forget(&mut self, first: u32) {
        self.data.clear();
        self.parts.clear();
        self.lost = 0;
        self.episode = None;
        self.first = first;
    }

    /// Whether it says something of the other direction that was not said before.
    fn keep_headers(&mut self, segment: &Segment<'_>) -> bool {
        let headers = segment.headers();
        let differs = |field: &Range<usize>| self.headers[field.clone()] != headers[field.clone()];
        let says_more = [ACKNOWLEDGES, WINDOW].iter().any(differs);
        if !segment.payload().is_empty() {
            self.headers[..headers.len()].copy_from_slice(headers);
            self.headers_length = headers.len();
        } else if self.headers_length > 0 {
            for field in [ACKNOWLEDGES, WINDOW] {
                self.headers[field.clone()].copy_from_slice(&headers[field]);
            }
        }
        says_more
    }

    fn append(&mut self, payload: &[u8], full: usize, now: Duration) {
        self.order += 1;
        self.data.extend(payload);
        let crowded = self.parts.len() >= MAX_PARTS;
        match self.parts.back_mut() {
            Some(last)
                if crowded
                    && last.state == State::Flying
                    && last.length + payload.len() <= full =>
            {
                last.length += payload.len();
                (last.order, last.at) = (self.order, now);
            }
            _ => self.parts.push_back(Part {
                length: payload.len(),
                order: self.order,
                at: now,
                state: State::Flying,
                again: false,
            }),
        }
        self.arm(now);
    }

    /// TCP sends this range of what is held again by itself. Whether any of it is needed.
    fn repeat(&mut self, begin: usize, end: usize, now: Duration) -> bool {
        let lately = self.round_trip.unwrap_or_default();
        let mut at = 0;
        let mut needed = false;
        for part in &mut self.parts {
            if at >= end {
                break;
            }
            let overlaps = at + part.length > begin;
            at += part.length;
            let on_its_way =
                part.state == State::Flying && part.again && now.saturating_sub(part.at) < lately;
            if overlaps && part.state != State::Arrived && !on_its_way {
                needed = true;
                self.order += 1;
                self.lost -= usize::from(part.state == State::Lost);
                (part.order, part.at) = (self.order, now);
                (part.state, part.again) = (State::Flying, true);
            }
        }
        if needed {
            self.arm(now);
        }
        needed
    }

    // --- what the peer says ---

    pub(super) fn heard(
        &mut self,
        segment: &Segment<'_>,
        full: usize,
        now: Duration,
        out: &mut VecDeque<BytesMut>,
    ) -> Heard {
        let acknowledges = segment.acknowledges();
        let covers = acknowledges.wrapping_sub(self.first);
        let held = length(self.data.len());
        // An end of the stream has a number too.
        if covers > held.saturating_add(1) {
            return Heard {
                deliver: true,
                reduce: false,
            };
        }
        let said = (acknowledges, segment.window());
        let repeats = self.said == Some(said) && segment.payload().is_empty() && !segment.has(FIN);
        self.said = Some(said);
        let mut delivered = self.acknowledge(size(covers.min(held)), now);
        for (begin, end) in segment.selective() {
            delivered += self.acknowledge_within(begin, end, now);
        }
        if covers > 0 || delivered > 0 {
            self.probes = 0;
            self.arm(now);
        }
        if self.parts.is_empty() {
            self.episode = None;
            self.probe_at = None;
        } else if delivered == 0 && repeats {
            self.give_up_old(now);
        } else {
            self.find_lost(now);
        }
        let reduce = self.follow_episode(acknowledges, full);
        self.send_lost(delivered, full, now, out);
        Heard {
            deliver: !(repeats && delivered > 0),
            reduce,
        }
    }

    /// Takes `covers` bytes off the front. How many of them were not known to have arrived.
    fn acknowledge(&mut self, covers: usize, now: Duration) -> usize {
        let mut left = covers;
        let mut delivered = 0;
        let mut sample = None;
        while left > 0
            && let Some(part) = self.parts.front_mut()
        {
            let taken = part.length.min(left);
            left -= taken;
            part.length -= taken;
            if part.state != State::Arrived {
                delivered += taken;
                self.arrived = self.arrived.max(part.order);
                sample = (!part.again).then(|| now.saturating_sub(part.at));
            }
            if part.length == 0 {
                self.lost -= usize::from(part.state == State::Lost);
                self.parts.pop_front();
            }
        }
        self.data.drain(..covers);
        self.first = self.first.wrapping_add(length(covers));
        self.measure(sample);
        delivered
    }

    /// Marks what lies between these numbers. How many bytes that is news of.
    fn acknowledge_within(&mut self, begin: u32, end: u32, now: Duration) -> usize {
        let (begin, end) = (begin.wrapping_sub(self.first), end.wrapping_sub(self.first));
        let (begin, end) = (size(begin), size(end));
        if begin >= end || end > self.data.len() {
            return 0;
        }
        let mut at = 0;
        let mut delivered = 0;
        let mut sample = None;
        for part in &mut self.parts {
            if at >= end {
                break;
            }
            let within = at >= begin && at + part.length <= end;
            at += part.length;
            if within && part.state != State::Arrived {
                self.lost -= usize::from(part.state == State::Lost);
                part.state = State::Arrived;
                delivered += part.length;
                if part.order > self.arrived {
                    self.arrived = part.order;
                    sample = (!part.again).then(|| now.saturating_sub(part.at));
                }
            }
        }
        self.holes |= delivered > 0;
        self.measure(sample);
        delivered
    }

    /// RFC 6298, section 2.
    fn measure(&mut self, sample: Option<Duration>) {
        // Longer is no line, but an outage, after which what is probed must not wait as long.
        let Some(sample) = sample.map(|sample| sample.min(LONGEST_TRIP)) else {
            return;
        };
        if let Some(smooth) = &mut self.round_trip {
            self.variance = (self.variance * 3 + smooth.abs_diff(sample)) / 4;
            *smooth = (*smooth * 7 + sample) / 8;
        } else {
            self.variance = sample / 2;
            self.round_trip = Some(sample);
        }
    }

    fn find_lost(&mut self, now: Duration) {
        let overtaken = self.parts.front().is_some_and(|p| p.order < self.arrived);
        if !overtaken && !self.holes {
            return;
        }
        let trip = self.round_trip.unwrap_or(FIRST_PROBE);
        let patience = trip + (trip / 4).max(self.variance * 4) + Duration::from_millis(1);
        self.holes = false;
        for part in &mut self.parts {
            self.holes |= part.state == State::Arrived;
            let overtaken = part.order < self.arrived;
            let far = part.order + REORDERED <= self.arrived;
            let long = now.saturating_sub(part.at) > patience;
            if part.state == State::Flying && overtaken && (far || long) {
                self.lost += 1;
                part.state = State::Lost;
            }
        }
    }

    /// The peer says again what it has, though nothing new came: it was out of reach. What was sent before a while is lost.
    fn give_up_old(&mut self, now: Duration) {
        let patience = self.probe_wait();
        for part in &mut self.parts {
            if part.state == State::Flying && now.saturating_sub(part.at) > patience {
                self.lost += 1;
                part.state = State::Lost;
            }
        }
    }

    /// Begins and ends the episode. `true`: a new one began.
    fn follow_episode(&mut self, acknowledges: u32, full: usize) -> bool {
        let over = |e: &Episode| acknowledges.wrapping_sub(e.recover) <= u32::MAX / 2;
        if self.episode.as_ref().is_some_and(over) {
            self.episode = None;
        }
        if self.episode.is_some() || self.lost == 0 {
            return false;
        }
        let flight = self.parts.iter().filter(|p| p.state != State::Arrived);
        let flight: usize = flight.map(|p| p.length).sum();
        self.episode = Some(Episode {
            recover: self.first.wrapping_add(length(self.data.len())),
            window: (flight * LEFT / 10).max(2 * full),
            // The first one goes at once.
            credit: full,
        });
        true
    }

    // --- what is sent again ---

    fn send_lost(
        &mut self,
        delivered: usize,
        full: usize,
        now: Duration,
        out: &mut VecDeque<BytesMut>,
    ) {
        let Some(mut episode) = self.episode.filter(|_| self.lost > 0) else {
            return;
        };
        let flying = self.parts.iter().filter(|p| p.state == State::Flying);
        let flying: usize = flying.map(|p| p.length).sum();
        let mut room = if flying > episode.window {
            episode.credit += delivered * LEFT / 10;
            episode.credit
        } else {
            let room = (episode.window - flying).min(delivered + full);
            room.max(std::mem::take(&mut episode.credit))
        };
        let mut at = 0;
        for index in 0..self.parts.len() {
            let Part { length, state, .. } = self.parts[index];
            if state == State::Lost {
                if length > room {
                    break;
                }
                room -= length;
                self.send_again(index, at, now, out);
            }
            at += length;
        }
        episode.credit = episode.credit.min(room);
        self.episode = Some(episode);
    }

    /// No answer came: what is lost, else the last of what is missing, is sent to get one.
    pub(super) fn probe(&mut self, now: Duration, out: &mut VecDeque<BytesMut>) {
        let lost = self.parts.iter().position(|p| p.state == State::Lost);
        let last = || self.parts.iter().rposition(|p| p.state != State::Arrived);
        let Some(index) = lost.or_else(last) else {
            self.probe_at = None;
            return;
        };
        let at = self.parts.iter().take(index).map(|p| p.length).sum();
        self.send_again(index, at, now, out);
        self.probes += 1;
        let wait = self.probe_wait() * 2_u32.pow(self.probes.min(PROBES));
        self.probe_at = (self.probes < PROBES).then(|| now + wait);
    }

    fn arm(&mut self, now: Duration) {
        if self.probes == 0 {
            self.probe_at = Some(now + self.probe_wait());
        }
    }

    fn probe_wait(&self) -> Duration {
        match self.round_trip {
            Some(trip) => (trip * 2 + self.variance * 4).max(SHORTEST_PROBE),
            None => FIRST_PROBE,
        }
    }

    /// Sends the part with this index, which begins at `at`.
    fn send_again(&mut self, index: usize, at: usize, now: Duration, out: &mut VecDeque<BytesMut>) {
        self.order += 1;
        let part = &mut self.parts[index];
        self.lost -= usize::from(part.state == State::Lost);
        (part.order, part.at) = (self.order, now);
        (part.state, part.again) = (State::Flying, true);
        let end = at + part.length;
        let headers = &self.headers[..self.headers_length];
        let whole = headers.len() + part.length;
        // Room for the padding of WireGuard.
        let mut packet = BytesMut::with_capacity(whole.next_multiple_of(16));
        packet.extend_from_slice(headers);
        let (one, two) = self.data.as_slices();
        packet.extend_from_slice(&one[at.min(one.len())..end.min(one.len())]);
        let within = |x: usize| x.saturating_sub(one.len());
        packet.extend_from_slice(&two[within(at)..within(end)]);
        let payload = u16::try_from(whole - IPV6_HEADER).unwrap_or(0);
        packet[4..6].copy_from_slice(&payload.to_be_bytes());
        let sequence = self.first.wrapping_add(length(at));
        packet[SEQUENCE].copy_from_slice(&sequence.to_be_bytes());
        packet[IPV6_HEADER + 13] &= !FIN;
        fill_checksum(&mut packet);
        out.push_back(packet);
    }
}

fn fill_checksum(packet: &mut [u8]) {
    let (header, segment) = packet.split_at_mut(IPV6_HEADER);
    let address = |at: usize| {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&header[at..at + 16]);
        IpAddress::Ipv6(Ipv6Address::from(bytes))
    };
    TcpPacket::new_unchecked(segment).fill_checksum(&address(8), &address(24));
}

fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

fn size(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::{
        super::super::segment::{ACK, TCP},
        *,
    };
    use proptest::prelude::*;

    const FULL: usize = 100;
    const TRIP: Duration = Duration::from_millis(100);

    /// Flags, sequence, acknowledgement, selective block, data.
    fn packet(flags: u8, seq: u32, ack: u32, block: Option<(u32, u32)>, data: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, 0, TCP, 64];
        packet.extend_from_slice(&[7; 32]);
        packet.extend_from_slice(&[0, 80, 1, 187]);
        packet.extend_from_slice(&seq.to_be_bytes());
        packet.extend_from_slice(&ack.to_be_bytes());
        let offset = if block.is_some() { 8 } else { 5 };
        packet.extend_from_slice(&[offset << 4, flags, 1, 0, 0, 0, 0, 0]);
        if let Some((begin, end)) = block {
            packet.extend_from_slice(&[1, 1, 5, 10]);
            packet.extend_from_slice(&begin.to_be_bytes());
            packet.extend_from_slice(&end.to_be_bytes());
        }
        packet.extend_from_slice(data);
        packet
    }

    struct Stream {
        sent: Sent,
        out: VecDeque<BytesMut>,
        now: Duration,
    }

    const FIRST: u32 = u32::MAX - 149;

    fn number(offset: u32) -> u32 {
        FIRST.wrapping_add(offset)
    }

    impl Stream {
        /// `count` full segments leave, whose bytes say which one they are of, after a round trip was measured.
        fn with(count: u8) -> Self {
            let mut stream = Self {
                sent: Sent::new(FIRST.wrapping_sub(1)),
                out: VecDeque::new(),
                now: Duration::from_secs(5),
            };
            assert!(stream.tcp(FIRST.wrapping_sub(1), b"x"));
            stream.now += TRIP;
            stream.hears(0, None);
            for index in 0..count {
                assert!(stream.tcp(number(u32::from(index) * 100), &[index; FULL]));
            }
            stream
        }

        fn tcp(&mut self, seq: u32, data: &[u8]) -> bool {
            let packet = packet(ACK, seq, 0, None, data);
            let segment = Segment::parse(&packet).unwrap();
            self.sent.record(&segment, FULL, self.now)
        }

        /// By offsets from the first byte.
        fn hears(&mut self, ack: u32, block: Option<(u32, u32)>) -> Heard {
            let block = block.map(|(begin, end)| (number(begin), number(end)));
            let packet = packet(ACK, 0, number(ack), block, &[]);
            let segment = Segment::parse(&packet).unwrap();
            self.sent.heard(&segment, FULL, self.now, &mut self.out)
        }

        /// Offset and data of what was sent again.
        fn again(&mut self) -> Vec<(u32, Vec<u8>)> {
            let packets: Vec<BytesMut> = self.out.drain(..).collect();
            let read = |packet: &BytesMut| {
                let segment = Segment::parse(packet).unwrap();
                assert_eq!(
                    packet[4..6],
                    u16::try_from(packet.len() - IPV6_HEADER)
                        .unwrap()
                        .to_be_bytes()
                );
                let mut copy = packet.to_vec();
                fill_checksum(&mut copy);
                assert_eq!(copy, packet.to_vec(), "checksum");
                (
                    segment.sequence().wrapping_sub(FIRST),
                    segment.payload().to_vec(),
                )
            };
            packets.iter().map(read).collect()
        }
    }

    const QUIET: Heard = Heard {
        deliver: false,
        reduce: false,
    };

    #[test]
    fn a_lost_segment_is_sent_again_when_the_third_later_one_arrived_and_tcp_reduces_once() {
        let mut stream = Stream::with(10);
        stream.now += TRIP;
        assert!(stream.hears(100, None).deliver);
        for end in [300, 400] {
            assert_eq!(stream.hears(100, Some((200, end))), QUIET);
            assert!(stream.again().is_empty());
        }
        let verdict = stream.hears(100, Some((200, 500)));
        assert_eq!((verdict.deliver, verdict.reduce), (false, true));
        assert_eq!(stream.again(), [(100, vec![1; FULL])]);
        // Another hole in the same window: sent again as well, without reducing once more.
        for end in [700, 800, 900] {
            assert_eq!(stream.hears(100, Some((600, end))), QUIET);
        }
        assert_eq!(stream.again(), [(500, vec![5; FULL])]);
        // TCP's own repetition of the first hole is on its way already, and what arrived is not needed.
        assert!(!stream.tcp(number(100), &[1; FULL]));
        assert!(!stream.tcp(number(600), &[6; FULL]));
        stream.now += TRIP;
        assert!(stream.hears(1000, None).deliver);
        assert_eq!(stream.sent.next_timeout(), None);
    }

    #[test]
    fn what_was_sent_again_and_lost_again_is_sent_a_third_time() {
        let mut stream = Stream::with(5);
        stream.hears(0, Some((100, 500)));
        assert_eq!(stream.again(), [(0, vec![0; FULL])]);
        for index in 5..9 {
            assert!(stream.tcp(number(u32::from(index) * 100), &[index; FULL]));
        }
        stream.now += TRIP;
        stream.hears(0, Some((100, 900)));
        assert_eq!(stream.again(), [(0, vec![0; FULL])]);
    }

    #[test]
    fn what_tcp_repeats_in_other_pieces_passes_if_any_byte_of_it_is_missing() {
        let mut stream = Stream::with(4);
        stream.now += TRIP;
        stream.hears(0, Some((100, 200)));
        assert!(stream.tcp(number(50), &[9; 100]));
        assert!(!stream.tcp(number(100), &[9; 100]));
        // Beyond what was sent before.
        assert!(stream.tcp(number(350), &[9; 100]));
        assert_eq!(stream.sent.data.len(), 450);
    }

    #[test]
    fn without_an_answer_the_last_segment_is_sent_again_three_times_at_most() {
        let mut stream = Stream::with(3);
        let mut waits = Vec::new();
        while let Some(at) = stream.sent.next_timeout() {
            waits.push(at.saturating_sub(stream.now));
            stream.now = at;
            stream.sent.probe(at, &mut stream.out);
            assert_eq!(stream.again(), [(200, vec![2; FULL])]);
        }
        let wait = 2 * TRIP + 4 * (TRIP / 2);
        assert_eq!(waits, [wait, 2 * wait, 4 * wait]);
        // Its answer shows what else is missing.
        stream.now += TRIP;
        assert!(stream.hears(0, Some((200, 300))).reduce);
        assert_eq!(stream.again(), [(0, vec![0; FULL]), (100, vec![1; FULL])]);
    }

    #[test]
    fn what_tcp_does_not_know_to_be_acknowledged_or_has_more_to_say_with_passes() {
        let mut stream = Stream::with(4);
        stream.now += TRIP;
        stream.hears(200, Some((300, 400)));
        // TCP did not take that acknowledgement.
        assert!(stream.tcp(number(100), &[1; FULL]));
        assert!(!stream.tcp(number(300), &[3; FULL]));
        let news = packet(ACK, number(300), 99, None, &[3; FULL]);
        let segment = Segment::parse(&news).unwrap();
        assert!(stream.sent.record(&segment, FULL, stream.now));
    }

    #[test]
    fn a_peer_that_acknowledges_out_of_sight_makes_no_copies_without_bound() {
        let mut stream = Stream::with(0);
        for index in 0..30_000 {
            stream.tcp(number(index * 100), &[1; FULL]);
            assert!(stream.sent.data.len() <= STREAM_BUFFER + FULL);
        }
    }

    #[test]
    fn a_peer_that_is_heard_again_after_an_outage_is_sent_what_is_old() {
        let mut stream = Stream::with(3);
        assert!(stream.hears(0, None).deliver);
        assert!(stream.again().is_empty());
        stream.now += 10 * TRIP;
        let verdict = stream.hears(0, None);
        assert_eq!((verdict.deliver, verdict.reduce), (true, true));
        assert_eq!(stream.again().first(), Some(&(0, vec![0; FULL])));
    }

    #[test]
    fn tiny_segments_without_number_are_remembered_in_bounded_memory() {
        let mut stream = Stream::with(0);
        for offset in 0..100_000 {
            assert!(stream.tcp(number(offset), &[1]));
        }
        assert!(stream.sent.parts.len() <= MAX_PARTS + 100_000 / FULL);
        stream.now += TRIP;
        stream.hears(100_000, None);
        assert!(stream.sent.parts.is_empty() && stream.sent.data.is_empty());
    }

    proptest! {
        /// Whatever a peer says: no panic, no more sent than arrived, and the parts are what is held.
        #[test]
        fn any_numbers_are_taken_without_harm(
            said in prop::collection::vec((0..2000_u32, 0..2000_u32, 0..2000_u32, 0..40_u64, any::<bool>()), 1..60),
            wild in prop::collection::vec(any::<(u32, u32, u32)>(), 0..10),
        ) {
            let mut stream = Stream::with(15);
            let mut next = 1500;
            for (index, (ack, begin, end, wait, tcp)) in said.iter().copied().enumerate() {
                stream.now += Duration::from_millis(wait);
                if tcp {
                    stream.tcp(number(next), &[3; FULL]);
                    next += 100;
                } else {
                    stream.tcp(number(ack), &[3; FULL]);
                    next = next.max(ack + 100);
                }
                stream.hears(ack / 4, Some((begin, end)));
                if let Some((ack, begin, end)) = wild.get(index) {
                    stream.hears(*ack, Some((*begin, *end)));
                }
                if stream.sent.next_timeout().is_some_and(|at| at <= stream.now) {
                    let now = stream.now;
                    stream.sent.probe(now, &mut stream.out);
                }
                let held: usize = stream.sent.parts.iter().map(|p| p.length).sum();
                prop_assert_eq!(held, stream.sent.data.len());
                let lost = stream.sent.parts.iter().filter(|p| p.state == State::Lost).count();
                prop_assert_eq!(lost, stream.sent.lost);
                prop_assert!(stream.again().len() <= 40);
            }
        }
    }
}
