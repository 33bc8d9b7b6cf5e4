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
//! its own stream only, and gets no more sent than it says that it received.

mod sent;

use super::{
    limits::MAX_SOCKETS,
    segment::{Flow, IPV6_HEADER, RST, SYN, Segment, TCP_HEADER},
    stretch::Line,
};
use bytes::BytesMut;
use sent::Sent;
use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

/// Segments of one stream remembered one by one; with more, small ones that follow each other are taken together.
const MAX_PARTS: usize = 4096;

/// What TCP is to be told of a segment that came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    /// It gets the segment itself.
    pub(super) deliver: bool,
    /// It has to reduce its window.
    pub(super) reduce: bool,
}

/// The streams that have something in flight. Time is since any moment that does not change.
#[derive(Debug)]
pub(super) struct Recovery {
    streams: HashMap<Flow, Sent>,
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
            return stream.record(&segment, self.full, now);
        }
        if !segment.payload().is_empty() {
            if self.streams.len() >= MAX_SOCKETS {
                self.streams.clear();
            }
            let mut stream = Sent::new(segment.sequence());
            stream.record(&segment, self.full, now);
            self.streams.insert(flow, stream);
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
            return Verdict {
                deliver: true,
                reduce: false,
            };
        };
        let verdict = stream.heard(segment, self.full, now, &mut self.out);
        if stream.is_over() {
            self.streams.remove(&flow);
        }
        verdict
    }

    /// What is known of the way of the stream that this segment of a peer belongs to.
    pub(super) fn line(&self, segment: &Segment<'_>) -> Option<Line> {
        self.streams.get(&segment.incoming_flow())?.line()
    }

    /// The next packet to send again.
    pub(super) fn next_packet(&mut self) -> Option<BytesMut> {
        self.out.pop_front()
    }

    /// When to call [`Recovery::handle_timeout`].
    pub(super) fn next_timeout(&self) -> Option<Duration> {
        self.streams.values().filter_map(Sent::next_timeout).min()
    }

    /// Lets time pass.
    pub(super) fn handle_timeout(&mut self, now: Duration) {
        for stream in self.streams.values_mut() {
            if stream.next_timeout().is_some_and(|at| at <= now) {
                stream.probe(now, &mut self.out);
            }
        }
    }
}
