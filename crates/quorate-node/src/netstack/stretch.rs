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

use super::limits::{MAX_SOCKETS, STREAM_BUFFER};
use std::collections::HashMap;

const IPV6_HEADER: usize = 40;
const TCP_HEADER: usize = 20;
const TCP: u8 = 6;
const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;
/// The longest header that a data offset can tell.
const MAX_TCP_HEADER: usize = 60;

/// Source address and both ports.
type Flow = [u8; 20];

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

    /// The pieces that come before this packet, if it stretches far enough for any. Requires an IPv6 packet.
    pub(super) fn pieces(&mut self, packet: &[u8]) -> Option<Pieces> {
        let segment = packet.get(IPV6_HEADER..).filter(|_| packet[6] == TCP)?;
        let header = usize::from(*segment.get(12)? >> 4) * 4;
        if !(TCP_HEADER..=MAX_TCP_HEADER).contains(&header) || segment.len() < header {
            return None;
        }
        let mut flow: Flow = [0; 20];
        flow[..16].copy_from_slice(&packet[8..24]);
        flow[16..].copy_from_slice(&segment[..4]);
        let flags = segment[13];
        if flags & ACK == 0 || flags & RST != 0 {
            self.last.remove(&flow);
            return None;
        }
        let number = u32::from_be_bytes(segment[8..12].try_into().ok()?);
        let begins = flags & SYN != 0;
        let last = self.last.get(&flow).copied().filter(|_| !begins);
        let Some(last) = last else {
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
        (within && covers > self.piece)
            .then(|| Pieces::new(&packet[..IPV6_HEADER + header], last, number, self.piece))
    }
}

/// Acknowledgements without data, each of one piece more.
#[derive(Debug)]
pub(super) struct Pieces {
    packet: [u8; IPV6_HEADER + MAX_TCP_HEADER],
    length: usize,
    said: u32,
    whole: u32,
    piece: u32,
}

impl Pieces {
    fn new(headers: &[u8], said: u32, whole: u32, piece: u32) -> Self {
        let mut packet = [0; IPV6_HEADER + MAX_TCP_HEADER];
        packet[..headers.len()].copy_from_slice(headers);
        let payload = u16::try_from(headers.len() - IPV6_HEADER).unwrap_or(0);
        packet[4..6].copy_from_slice(&payload.to_be_bytes());
        packet[IPV6_HEADER + 13] &= !FIN;
        Self {
            packet,
            length: headers.len(),
            said,
            whole,
            piece,
        }
    }

    /// The next one; the packet itself says the rest.
    pub(super) fn next(&mut self) -> Option<&[u8]> {
        if self.whole.wrapping_sub(self.said) <= self.piece {
            return None;
        }
        self.said = self.said.wrapping_add(self.piece);
        self.packet[IPV6_HEADER + 8..IPV6_HEADER + 12].copy_from_slice(&self.said.to_be_bytes());
        Some(&self.packet[..self.length])
    }
}

#[cfg(test)]
mod tests {
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
        let Some(mut pieces) = known.pieces(packet) else {
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
    fn packets_cut_anywhere_are_looked_at_without_harm() {
        let mut known = Acknowledged::new(MTU);
        for offset in 0..16 {
            let mut packet = segment(ACK, 5000, 50);
            packet[IPV6_HEADER + 12] = offset << 4;
            for length in IPV6_HEADER..packet.len() {
                let _ = known.pieces(&packet[..length]);
            }
        }
    }

    #[test]
    fn streams_without_number_take_no_memory_without_bound() {
        let mut known = Acknowledged::new(MTU);
        let mut packet = segment(ACK, 1, 0);
        for port in 0..u16::MAX {
            packet[IPV6_HEADER..IPV6_HEADER + 2].copy_from_slice(&port.to_be_bytes());
            let _ = known.pieces(&packet);
        }
        assert!(known.last.len() <= MAX_SOCKETS);
    }
}
