//! IP packets as far as a network looks at them: where to, how long, and what to say when too long.
//!
//! Source: RFC 791, RFC 792, RFC 1191, RFC 4443, RFC 8201.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
/// How much of a packet that is too long is sent back.
const QUOTED: usize = 548;
/// Whom such a message is from: an address for routers without one (RFC 7600).
const ROUTER4: [u8; 4] = [192, 0, 0, 8];
const ROUTER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0xffff, 0, 0, 0, 1);

/// Where a packet goes; nothing for what is no IP packet.
pub fn destination(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => {
            let bytes: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
            Some(Ipv4Addr::from(bytes).into())
        }
        6 => {
            let bytes: [u8; 16] = packet.get(24..40)?.try_into().ok()?;
            Some(Ipv6Addr::from(bytes).into())
        }
        _ => None,
    }
}

/// Lets `routers` pass a packet on, each of which takes a hop from it; false when there are not as many left.
pub fn take_hops(packet: &mut [u8], routers: u8) -> bool {
    let place = match packet.first().map(|b| b >> 4) {
        Some(4) if packet.len() >= IPV4_HEADER => 8,
        Some(6) if packet.len() >= IPV6_HEADER => 7,
        _ => return false,
    };
    let Some(left) = packet[place].checked_sub(routers).filter(|left| *left > 0) else {
        return false;
    };
    packet[place] = left;
    if place == 8 {
        let length = (usize::from(packet[0] & 15) * 4).clamp(IPV4_HEADER, packet.len());
        packet[10..12].fill(0);
        let sum = checksum(&packet[..length], 0);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    true
}

/// What a router does with a packet that is longer than the next link takes.
#[derive(Debug, PartialEq, Eq)]
pub enum TooLong {
    /// Cuts it up.
    Fragments(Vec<Vec<u8>>),
    /// Tells its sender.
    Tell(Vec<u8>),
    /// Drops it: it may not be told of (an ICMP error, or no IP packet).
    Drop,
}

/// See [`TooLong`].
pub fn too_long(packet: &[u8], mtu: usize) -> TooLong {
    match packet.first().map(|b| b >> 4) {
        Some(4) if packet.len() >= IPV4_HEADER => {
            let may_cut = packet[6] & 0x40 == 0;
            if may_cut {
                TooLong::Fragments(fragments(packet, mtu))
            } else if packet[9] == 1 {
                TooLong::Drop
            } else {
                TooLong::Tell(fragmentation_needed(packet, mtu))
            }
        }
        Some(6) if packet.len() >= IPV6_HEADER && packet[6] != 58 => {
            TooLong::Tell(packet_too_big(packet, mtu))
        }
        _ => TooLong::Drop,
    }
}

fn fragments(packet: &[u8], mtu: usize) -> Vec<Vec<u8>> {
    let header_length = (usize::from(packet[0] & 15) * 4).clamp(IPV4_HEADER, packet.len());
    let (header, payload) = packet.split_at(header_length);
    let flags = u16::from_be_bytes([packet[6], packet[7]]);
    let (first, more_after) = (usize::from(flags & 0x1fff), flags & 0x2000 != 0);
    let step = (mtu.saturating_sub(header_length) / 8 * 8).max(8);
    let count = payload.len().div_ceil(step);
    let pieces = payload.chunks(step).enumerate().map(|(index, piece)| {
        let more = more_after || index + 1 < count;
        let offset = u16::try_from(first + index * step / 8).unwrap_or(0x1fff) & 0x1fff;
        let mut fragment = header.to_vec();
        let length = u16::try_from(header.len() + piece.len()).unwrap_or(u16::MAX);
        fragment[2..4].copy_from_slice(&length.to_be_bytes());
        fragment[6..8].copy_from_slice(&(offset | if more { 0x2000 } else { 0 }).to_be_bytes());
        fragment[10..12].fill(0);
        let sum = checksum(&fragment, 0);
        fragment[10..12].copy_from_slice(&sum.to_be_bytes());
        fragment.extend(piece);
        fragment
    });
    pieces.collect()
}

fn fragmentation_needed(packet: &[u8], mtu: usize) -> Vec<u8> {
    let quoted = &packet[..packet.len().min(QUOTED)];
    let mut icmp = vec![3, 4, 0, 0, 0, 0];
    icmp.extend(u16::try_from(mtu).unwrap_or(u16::MAX).to_be_bytes());
    icmp.extend(quoted);
    let sum = checksum(&icmp, 0);
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    let length = u16::try_from(IPV4_HEADER + icmp.len()).unwrap_or(u16::MAX);
    let mut answer = vec![0x45, 0xc0];
    answer.extend(length.to_be_bytes());
    answer.extend([0, 0, 0, 0, 64, 1, 0, 0]);
    answer.extend(ROUTER4);
    answer.extend(&packet[12..16]);
    let sum = checksum(&answer, 0);
    answer[10..12].copy_from_slice(&sum.to_be_bytes());
    answer.extend(icmp);
    answer
}

fn packet_too_big(packet: &[u8], mtu: usize) -> Vec<u8> {
    let quoted = &packet[..packet.len().min(QUOTED)];
    let mut icmp = vec![2, 0, 0, 0];
    icmp.extend(u32::try_from(mtu).unwrap_or(u32::MAX).to_be_bytes());
    icmp.extend(quoted);
    let length = u16::try_from(icmp.len()).unwrap_or(u16::MAX);
    let source = ROUTER6.octets();
    let target = &packet[8..24];
    let pseudo = [
        &source[..],
        target,
        &u32::from(length).to_be_bytes(),
        &[0, 0, 0, 58],
    ]
    .concat();
    let sum = checksum(&icmp, partial_sum(&pseudo));
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut answer = vec![0x60, 0, 0, 0];
    answer.extend(length.to_be_bytes());
    answer.extend([58, 64]);
    answer.extend(source);
    answer.extend(target);
    answer.extend(icmp);
    answer
}

fn partial_sum(bytes: &[u8]) -> u32 {
    let words = bytes.chunks(2);
    let value = |w: &[u8]| u32::from(w[0]) << 8 | u32::from(w.get(1).copied().unwrap_or(0));
    words.map(value).sum()
}

/// The Internet checksum (RFC 1071), begun at `sum`.
fn checksum(bytes: &[u8], sum: u32) -> u16 {
    let mut sum = sum + partial_sum(bytes);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datagram(payload: usize, may_cut: bool) -> Vec<u8> {
        let length = u16::try_from(IPV4_HEADER + payload).unwrap_or_default();
        let mut packet = vec![0x45, 0];
        packet.extend(length.to_be_bytes());
        packet.extend([0, 7, if may_cut { 0 } else { 0x40 }, 0, 64, 17, 0, 0]);
        packet.extend([198, 51, 100, 1, 198, 51, 100, 2]);
        packet.extend((0..payload).map(|i| u8::try_from(i % 251).unwrap_or_default()));
        packet
    }

    #[test]
    fn fragments_hold_everything_once_and_fit() {
        let packet = datagram(3000, true);
        let TooLong::Fragments(pieces) = too_long(&packet, 1280) else {
            unreachable!("it may be cut");
        };
        assert_eq!(pieces.len(), 3);
        let mut whole: Vec<u8> = Vec::new();
        for piece in &pieces {
            assert!(piece.len() <= 1280);
            assert_eq!(checksum(&piece[..20], 0), 0, "its header's checksum");
            let offset = usize::from(u16::from_be_bytes([piece[6], piece[7]]) & 0x1fff) * 8;
            assert_eq!(offset, whole.len());
            whole.extend(&piece[20..]);
        }
        assert_eq!(whole, packet[20..]);
        assert_eq!(pieces[2][6] & 0x20, 0, "the last says so");
        assert_eq!(pieces[1][6] & 0x20, 0x20);
    }

    #[test]
    fn a_packet_without_hops_does_not_come_through() {
        let mut packet = datagram(100, true);
        assert!(take_hops(&mut packet, 60));
        assert_eq!((packet[8], checksum(&packet[..20], 0)), (4, 0));
        assert!(!take_hops(&mut packet, 4));
        let mut six = [0; 48];
        (six[0], six[7]) = (0x60, 7);
        assert!(take_hops(&mut six, 6) && !take_hops(&mut six, 1));
        assert!(!take_hops(&mut [0x45; 19], 1) && !take_hops(&mut [], 1));
    }

    #[test]
    fn a_sender_is_told_the_mtu() {
        let TooLong::Tell(answer) = too_long(&datagram(1400, false), 1280) else {
            unreachable!("it may not be cut");
        };
        assert_eq!(destination(&answer), Some(IpAddr::from([198, 51, 100, 1])));
        assert_eq!(answer[20..22], [3, 4]);
        assert_eq!(u16::from_be_bytes([answer[26], answer[27]]), 1280);
        assert_eq!(checksum(&answer[..20], 0), 0);
        assert_eq!(checksum(&answer[20..], 0), 0);
    }

    #[test]
    fn garbage_has_no_destination_and_is_dropped() {
        for bytes in [&[][..], &[0x45; 10], &[0x60; 39], &[0x10; 60]] {
            assert_eq!(destination(bytes), None);
            assert_eq!(too_long(bytes, 10), TooLong::Drop);
        }
    }
}
