//! The probe: the smallest IPv6 packet, 40 bytes of header with "no next header" (59), from one
//! overlay address to the other. It says: I could decrypt, can you? Source: RFC 8200, section 4.7.

use bytes::BytesMut;
use std::net::Ipv6Addr;

const LENGTH: usize = 40;
const NO_NEXT_HEADER: u8 = 59;

/// A probe from one overlay address to another.
pub(super) fn make(from: Ipv6Addr, to: Ipv6Addr) -> BytesMut {
    let mut packet = BytesMut::zeroed(LENGTH);
    packet[0] = 6 << 4;
    packet[6] = NO_NEXT_HEADER;
    packet[7] = 1;
    packet[8..24].copy_from_slice(&from.octets());
    packet[24..40].copy_from_slice(&to.octets());
    packet
}

/// Whether an IPv6 packet is a probe.
pub(super) fn is_probe(packet: &[u8]) -> bool {
    packet.len() >= LENGTH && packet[0] >> 4 == 6 && packet[6] == NO_NEXT_HEADER
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
        let probe = make(from, to);
        assert!(is_probe(&probe));
        assert_eq!(source(&probe), Some(from));
        assert_eq!(destination(&probe), Some(to));
        assert!(!is_probe(&probe[..39]));
        let mut tcp = probe;
        tcp[6] = 6;
        assert!(!is_probe(&tcp));
        assert_eq!(source(&[0x45; 60]), None);
    }
}
