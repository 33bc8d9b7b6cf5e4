//! Loss recovery for the streams of the stack, between its TCP and the tunnel.
//!
//! ```text
//!   TCP ── segments ──► sent() ──────────────► WireGuard      a copy of what is not acknowledged is kept
//!   TCP ◄─ segments ─── heard() ◄───────────── WireGuard      selective acknowledgements are read here
//!                         └── what is lost ──► WireGuard
//! ```
//! smoltcp's TCP tells its peer selectively what arrived (RFC 2018), and does not read what it is told: it sends one
//! lost segment per round trip, halves its window with each, and waits a second or more where nothing follows a lost
//! one. So the copies are here, and with them:
//!
//! - **What is lost** is known by order: a segment is lost when one sent three or more later arrived, or any later one
//!   and a round trip has passed (RFC 9002, section 6.1; RFC 8985).
//! - **What is sent again, and when**: as much as arrives, a little more while the line is emptier than the new window,
//!   a little less while it is fuller (RFC 6937).
//! - **The end of a burst**: where no answer comes for two round trips, the last segment is sent again, to learn what is
//!   missing (RFC 8985, section 7).
//! - **Congestion control stays TCP's**: for each window with a loss it hears the duplicate acknowledgements that make
//!   it reduce its own window once (RFC 5681). All others are kept from it. What it sends again itself is left out if
//!   it arrived, or is on its way already.
//!
//! Sans-I/O: time comes with each call, packets go out through [`Recovery::next_packet`].
//!
//! Limits: copies are what TCP has in flight, at most its send buffer for each stream; [`MAX_PARTS`] bounds how finely it
//! is remembered.
//!
//! Security: numbers are the peer's. Those outside of what was sent change nothing; inside it, the peer decides about
//! its own stream only, and gets about as much sent as it says that it received.

mod sent;
mod stretch;

use super::{
    limits::MAX_SOCKETS,
    segment::{ACK, Bare, Flow, IPV6_HEADER, RST, SYN, Segment, TCP_HEADER, bare},
};
use bytes::BytesMut;
use sent::Sent;
use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};
use stretch::Stretch;

pub(super) use stretch::Pieces;

/// Segments of one stream remembered one by one; with more, small ones that follow each other are taken together.
const MAX_PARTS: usize = 4096;

/// What TCP is to be told of a segment that came in, in this order.
#[derive(Debug)]
pub(super) struct Verdict {
    /// Acknowledgements before it.
    pub(super) pieces: Option<Pieces>,
    /// The segment itself, or not.
    pub(super) deliver: bool,
    /// With this acknowledgement instead of its own.
    pub(super) instead: Option<u32>,
    /// The duplicate that makes it reduce its window, if it has to.
    pub(super) reduce: Option<Bare>,
}

impl Verdict {
    const AS_IT_IS: Self = Self {
        pieces: None,
        deliver: true,
        instead: None,
        reduce: None,
    };
}

#[derive(Debug)]
struct Stream {
    sent: Sent,
    stretch: Stretch,
}

/// The streams that have something in flight. Time is since any moment that does not change.
#[derive(Debug)]
pub(super) struct Recovery {
    streams: HashMap<Flow, Stream>,
    /// What a full segment carries.
    full: usize,
    out: VecDeque<BytesMut>,
}

impl Recovery {
    /// `mtu`: of the tunnel.
    pub(super) fn new(mtu: u16) -> Self {
        Self {
            streams: HashMap::new(),
            full: usize::from(mtu)
                .saturating_sub(IPV6_HEADER + TCP_HEADER)
                .max(1),
            out: VecDeque::new(),
        }
    }

    /// Remembers a packet that TCP sends. `false`: it need not be sent.
    pub(super) fn sent(&mut self, packet: &[u8], now: Duration) -> bool {
        let Some(segment) = Segment::parse(packet) else {
            return true;
        };
        let flow = segment.outgoing_flow();
        if segment.has(SYN | RST) {
            self.streams.remove(&flow);
            return true;
        }
        if let Some(stream) = self.streams.get_mut(&flow) {
            return stream.sent.record(&segment, self.full, now);
        }
        if !segment.payload().is_empty() {
            if self.streams.len() >= MAX_SOCKETS {
                self.streams.clear();
            }
            let first = segment.sequence();
            let mut sent = Sent::new(first);
            sent.record(&segment, self.full, now);
            let stretch = Stretch::new(first, self.full);
            self.streams.insert(flow, Stream { sent, stretch });
        }
        true
    }

    /// Reads a segment of a peer before TCP does.
    pub(super) fn heard(&mut self, segment: &Segment<'_>, now: Duration) -> Verdict {
        let flow = segment.incoming_flow();
        if segment.has(SYN | RST) {
            self.streams.remove(&flow);
        }
        let Some(stream) = self.streams.get_mut(&flow) else {
            return Verdict::AS_IT_IS;
        };
        if !segment.has(ACK) {
            return Verdict::AS_IT_IS;
        }
        let told = stream.stretch.heard(segment, now, stream.sent.line());
        let heard = stream.sent.heard(segment, self.full, now, &mut self.out);
        if stream.is_over() {
            self.streams.remove(&flow);
        }
        let number = segment.acknowledges();
        let acknowledges = told.as_ref().map_or(number, |told| told.acknowledges);
        let duplicate = || bare(segment, segment.next_sequence(), acknowledges);
        Verdict {
            deliver: heard.deliver && told.as_ref().is_none_or(|told| !told.is_empty),
            instead: (acknowledges != number).then_some(acknowledges),
            reduce: heard.reduce.then(duplicate),
            pieces: told.map(|told| told.pieces),
        }
    }

    /// The next packet to send again.
    pub(super) fn next_packet(&mut self) -> Option<BytesMut> {
        self.out.pop_front()
    }

    /// Whether there is one.
    pub(super) fn has_packet(&self) -> bool {
        !self.out.is_empty()
    }

    /// The socket of this stream is gone.
    pub(super) fn forget(&mut self, flow: &Flow) {
        self.streams.remove(flow);
    }

    /// When to call [`Recovery::handle_timeout`], and [`Recovery::next_due`] until there is none.
    pub(super) fn next_timeout(&self) -> Option<Duration> {
        let of = |s: &Stream| {
            let both = [s.sent.next_timeout(), s.stretch.next_timeout()];
            both.into_iter().flatten().min()
        };
        self.streams.values().filter_map(of).min()
    }

    /// What TCP of one stream is told now.
    pub(super) fn next_due(&mut self, now: Duration) -> Option<Pieces> {
        let mut streams = self.streams.values_mut();
        streams.find_map(|stream| stream.stretch.next_due(now))
    }

    /// Lets time pass.
    pub(super) fn handle_timeout(&mut self, now: Duration) {
        for Stream { sent, .. } in self.streams.values_mut() {
            if sent.next_timeout().is_some_and(|at| at <= now) {
                sent.probe(now, &mut self.out);
            }
        }
    }
}

impl Stream {
    /// Nothing comes any more, and TCP knows it.
    fn is_over(&self) -> bool {
        self.sent.is_over() && self.stretch.next_timeout().is_none()
    }
}
