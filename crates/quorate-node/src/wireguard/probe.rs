//! The probe: the smallest IPv6 packet with "no next header" (59), from one overlay address to the
//! other. It says: I could decrypt, can you? Source: RFC 8200, section 4.7.
//!
//! Its twelve bytes of content measure the round trip, which both ends then know:
//! ```text
//!   lower  ─ ask{number, round trip as last measured} ──► higher     takes it over
//!          ◄──────────────────── answer{the same} ───────            lower: new measurement
//! ```

use bytes::BytesMut;
use std::{net::Ipv6Addr, time::Duration};

const HEADER: usize = 40;
const LENGTH: usize = HEADER + 12;
const NO_NEXT_HEADER: u8 = 59;
/// Stands for "not measured yet".
const UNKNOWN: u32 = u32::MAX;

/// What a probe carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Content {
    /// The answer carries the number of what it answers.
    pub(super) number: u32,
    /// The round trip of the pair, as the lower end measured it last.
    pub(super) rtt: Option<Duration>,
}

/// A probe from one overlay address to another.
pub(super) fn make(from: Ipv6Addr, to: Ipv6Addr, content: Content) -> BytesMut {
    let mut packet = BytesMut::zeroed(LENGTH);
    packet[0] = 6 << 4;
    packet[5] = u8::try_from(LENGTH - HEADER).unwrap_or(0);
    packet[6] = NO_NEXT_HEADER;
    packet[7] = 1;
    packet[8..24].copy_from_slice(&from.octets());
    packet[24..40].copy_from_slice(&to.octets());
    packet[40..44].copy_from_slice(&content.number.to_be_bytes());
    let micros = content
        .rtt
        .and_then(|rtt| u32::try_from(rtt.as_micros()).ok());
    packet[44..48].copy_from_slice(&micros.unwrap_or(UNKNOWN).to_be_bytes());
    packet
}

/// The content of an IPv6 packet that is a probe.
pub(super) fn parse(packet: &[u8]) -> Option<Content> {
    let head = packet.first_chunk::<HEADER>()?;
    if head[0] >> 4 != 6 || head[6] != NO_NEXT_HEADER {
        return None;
    }
    let word = |at: usize| {
        let bytes = packet.get(at..at + 4)?.try_into().ok()?;
        Some(u32::from_be_bytes(bytes))
    };
    let micros = word(44).filter(|micros| *micros != UNKNOWN);
    Some(Content {
        number: word(40).unwrap_or(0),
        rtt: micros.map(|micros| Duration::from_micros(micros.into())),
    })
}

/// The source address of an IPv6 packet.
pub(super) fn source(packet: &[u8]) -> Option<Ipv6Addr> {
    address(packet, 8)
}

/// The destination address of an IPv6 packet.
pub(super) fn destination(packet: &[u8]) -> Option<Ipv6Addr> {
    address(packet, 24)
}

fn address(packet: &[u8], at: usize) -> Option<Ipv6Addr> {
    if packet.first()? >> 4 != 6 {
        return None;
    }
    let bytes: [u8; 16] = packet.get(at..at + 16)?.try_into().ok()?;
    Some(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_is_recognised_with_its_two_ends() {
        let (from, to) = (
            Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1),
            Ipv6Addr::LOCALHOST,
        );
        let content = Content {
            number: 7,
            rtt: Some(Duration::from_micros(40_300)),
        };
        let probe = make(from, to, content);
        assert_eq!(parse(&probe), Some(content));
        assert_eq!(source(&probe), Some(from));
        assert_eq!(destination(&probe), Some(to));
        assert_eq!(parse(&probe[..39]), None);
        assert_eq!(parse(&probe[..40]), Some(Content::default()));
        assert_eq!(
            parse(&make(from, to, Content::default())),
            Some(Content::default())
        );
        let mut tcp = probe;
        tcp[6] = 6;
        assert_eq!(parse(&tcp), None);
        assert_eq!(source(&[0x45; 60]), None);
    }
}
