//! Stretched acknowledgements, given to TCP in pieces.
//!
//! ```text
//!   peer acknowledges a batch:   ack 64,000 ──────────────────────────► one segment more may be in flight
//!   the same here:               ack 1,360, 2,720, …, 62,560, 64,000 ─► 48 segments more
//! ```
//! Packets travel in batches, and a batch is acknowledged once. TCP as smoltcp has it lets its congestion window grow
//! by one segment with each acknowledgement, however much that one covers (RFC 5681, section 3.1); it would take minutes
//! to become fast over long distances. Counting bytes (RFC 3465) is what is wanted. So what a stretched
//! acknowledgement covers is told in pieces of a segment before it is told whole.
//!
//! Security: a peer could send the pieces itself, so it gains nothing. The numbers are the peer's: those that go back
//! are left alone, and one that covers more than a stream can have in flight is not divided.

use super::{
    limits::{MAX_SOCKETS, STREAM_BUFFER},
    segment::{ACK, Flow, IPV6_HEADER, RST, SYN, Segment, TCP_HEADER, bare},
};
use std::collections::HashMap;

/// What every stream has acknowledged so far.
#[derive(Debug)]
pub(super) struct Acknowledged {
    last: HashMap<Flow, u32>,
    piece: u32,
}

impl Acknowledged {
    /// `mtu`: of the tunnel. A piece is what a full segment carries.
    pub(super) fn new(mtu: u16) -> Self {
        let headers = IPV6_HEADER + TCP_HEADER;
        let piece = usize::from(mtu).saturating_sub(headers).max(1);
        Self {
            last: HashMap::new(),
            piece: u32::try_from(piece).unwrap_or(u32::MAX),
        }
    }

    /// The pieces that come before this segment, if it stretches far enough for any.
    pub(super) fn pieces(&mut self, segment: &Segment<'_>) -> Option<Pieces> {
        let flow = segment.incoming_flow();
        if !segment.has(ACK) || segment.has(RST) {
            self.last.remove(&flow);
            return None;
        }
        let number = segment.acknowledges();
        let last = self.last.get(&flow).copied();
        let Some(last) = last.filter(|_| !segment.has(SYN)) else {
            if self.last.len() >= MAX_SOCKETS {
                self.last.clear();
            }
            self.last.insert(flow, number);
            return None;
        };
        let covers = number.wrapping_sub(last);
        if covers == 0 || covers > u32::MAX / 2 {
            return None;
        }
        self.last.insert(flow, number);
        let within = usize::try_from(covers).is_ok_and(|c| c <= STREAM_BUFFER);
        (within && covers > self.piece).then(|| Pieces {
            packet: bare(segment, last),
            said: last,
            whole: number,
            piece: self.piece,
        })
    }
}

/// Acknowledgements without data, each of one piece more.
#[derive(Debug)]
pub(super) struct Pieces {
    packet: [u8; IPV6_HEADER + TCP_HEADER],
    said: u32,
    whole: u32,
    piece: u32,
}

impl Pieces {
    /// The next one; the segment itself says the rest.
    pub(super) fn next(&mut self) -> Option<&[u8]> {
        if self.whole.wrapping_sub(self.said) <= self.piece {
            return None;
        }
        self.said = self.said.wrapping_add(self.piece);
        self.packet[IPV6_HEADER + 8..IPV6_HEADER + 12].copy_from_slice(&self.said.to_be_bytes());
        Some(&self.packet)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::segment::{FIN, TCP};
    use super::*;

    const MTU: u16 = 1060;

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

    fn numbers(known: &mut Acknowledged, packet: &[u8]) -> Vec<u32> {
        let mut numbers = Vec::new();
        let segment = Segment::parse(packet).unwrap();
        let Some(mut pieces) = known.pieces(&segment) else {
            return numbers;
        };
        while let Some(piece) = pieces.next() {
            assert_eq!(piece.len(), IPV6_HEADER + TCP_HEADER);
            assert_eq!(piece[4..6], 20_u16.to_be_bytes());
            assert_eq!(piece[IPV6_HEADER + 13], ACK);
            let at = IPV6_HEADER + 8;
            numbers.push(u32::from_be_bytes(piece[at..at + 4].try_into().unwrap()));
        }
        numbers
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
    fn streams_without_number_take_no_memory_without_bound() {
        let mut known = Acknowledged::new(MTU);
        let mut packet = segment(ACK, 1, 0);
        for port in 0..u16::MAX {
            packet[IPV6_HEADER..IPV6_HEADER + 2].copy_from_slice(&port.to_be_bytes());
            let _ = known.pieces(&Segment::parse(&packet).unwrap());
        }
        assert!(known.last.len() <= MAX_SOCKETS);
    }
}
