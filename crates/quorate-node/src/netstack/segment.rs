//! What the headers of a TCP segment in an IPv6 packet say. Nothing is trusted, nothing is allocated.

pub(super) const IPV6_HEADER: usize = 40;
pub(super) const TCP_HEADER: usize = 20;
/// The longest headers that a segment can have.
pub(super) const MAX_HEADERS: usize = IPV6_HEADER + 60;
pub(super) const TCP: u8 = 6;

pub(super) const FIN: u8 = 0x01;
pub(super) const SYN: u8 = 0x02;
pub(super) const RST: u8 = 0x04;
pub(super) const ACK: u8 = 0x10;

const OPTION_END: u8 = 0;
const OPTION_NOTHING: u8 = 1;
/// Selective acknowledgement (RFC 2018).
const OPTION_SACK: u8 = 5;

/// A stream, as this end sees it: remote address, remote port, local port.
pub(super) type Flow = [u8; 20];

/// Headers of a segment without options and data.
pub(super) type Bare = [u8; IPV6_HEADER + TCP_HEADER];

/// One segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment<'a> {
    packet: &'a [u8],
    /// Bytes of both headers.
    headers: usize,
}

impl<'a> Segment<'a> {
    /// `None`: not a whole TCP header in an IPv6 packet.
    pub(super) fn parse(packet: &'a [u8]) -> Option<Self> {
        let segment = packet.get(IPV6_HEADER..)?;
        let offset = segment.get(12)?;
        let header = usize::from(offset >> 4) * 4;
        let whole = packet[6] == TCP && header >= TCP_HEADER && header <= segment.len();
        whole.then_some(Self {
            packet,
            headers: IPV6_HEADER + header,
        })
    }

    pub(super) fn incoming_flow(&self) -> Flow {
        self.flow(8, [40, 41, 42, 43])
    }

    pub(super) fn outgoing_flow(&self) -> Flow {
        self.flow(24, [42, 43, 40, 41])
    }

    fn flow(&self, address: usize, ports: [usize; 4]) -> Flow {
        let mut flow = [0; 20];
        flow[..16].copy_from_slice(&self.packet[address..address + 16]);
        for (to, from) in flow[16..].iter_mut().zip(ports) {
            *to = self.packet[from];
        }
        flow
    }

    pub(super) fn flags(&self) -> u8 {
        self.packet[IPV6_HEADER + 13]
    }

    pub(super) fn has(&self, flags: u8) -> bool {
        self.flags() & flags != 0
    }

    pub(super) fn sequence(&self) -> u32 {
        self.number(IPV6_HEADER + 4)
    }

    /// The number after its last byte, or after the end of the stream.
    pub(super) fn next_sequence(&self) -> u32 {
        let length = u32::try_from(self.payload().len()).unwrap_or(0);
        let end = u32::from(self.has(FIN));
        self.sequence().wrapping_add(length).wrapping_add(end)
    }

    /// What the sender has of the other direction. Says something only with the flag ACK.
    pub(super) fn acknowledges(&self) -> u32 {
        self.number(IPV6_HEADER + 8)
    }

    fn number(&self, at: usize) -> u32 {
        let p = self.packet;
        u32::from_be_bytes([p[at], p[at + 1], p[at + 2], p[at + 3]])
    }

    pub(super) fn window(&self) -> [u8; 2] {
        [self.packet[IPV6_HEADER + 14], self.packet[IPV6_HEADER + 15]]
    }

    pub(super) fn headers(&self) -> &'a [u8] {
        &self.packet[..self.headers]
    }

    pub(super) fn payload(&self) -> &'a [u8] {
        &self.packet[self.headers..]
    }

    /// Begin and end of what the sender has beyond what it acknowledges.
    pub(super) fn selective(&self) -> impl Iterator<Item = (u32, u32)> + 'a {
        let mut options = &self.packet[IPV6_HEADER + TCP_HEADER..self.headers];
        let mut blocks: &[u8] = &[];
        while let [kind, rest @ ..] = options {
            match (*kind, rest) {
                (OPTION_END, _) => break,
                (OPTION_NOTHING, _) => options = rest,
                (kind, [length, ..]) => {
                    let length = usize::from(*length);
                    let Some(option) = options.get(2..length) else {
                        break;
                    };
                    if kind == OPTION_SACK {
                        blocks = option;
                    }
                    options = &options[length..];
                }
                (_, []) => break,
            }
        }
        let number = |b: &[u8]| u32::from_be_bytes([b[0], b[1], b[2], b[3]]);
        blocks
            .chunks_exact(8)
            .map(move |block| (number(&block[..4]), number(&block[4..])))
    }
}

/// An acknowledgement without options and data, as the sender of this segment would have sent it before it, or after it.
pub(super) fn bare(segment: &Segment<'_>, sequence: u32, acknowledges: u32) -> Bare {
    let mut packet = [0; IPV6_HEADER + TCP_HEADER];
    packet.copy_from_slice(&segment.packet[..IPV6_HEADER + TCP_HEADER]);
    packet[4..6].copy_from_slice(&[0, 20]);
    packet[IPV6_HEADER + 4..IPV6_HEADER + 8].copy_from_slice(&sequence.to_be_bytes());
    packet[IPV6_HEADER + 8..IPV6_HEADER + 12].copy_from_slice(&acknowledges.to_be_bytes());
    packet[IPV6_HEADER + 12] = 5 << 4;
    packet[IPV6_HEADER + 13] = ACK;
    packet
}

/// The same packet with another acknowledgement. Its checksum is not made again: this end does not verify it.
pub(super) fn with_acknowledgement(packet: &[u8], acknowledges: u32) -> Vec<u8> {
    let mut packet = packet.to_vec();
    packet[IPV6_HEADER + 8..IPV6_HEADER + 12].copy_from_slice(&acknowledges.to_be_bytes());
    packet
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn packet(options: &[u8], payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, 0, TCP, 64];
        packet.extend_from_slice(&[1; 16]);
        packet.extend_from_slice(&[2; 16]);
        packet.extend_from_slice(&[0, 80, 1, 187, 0, 0, 0, 9, 0, 0, 1, 0]);
        let offset = u8::try_from((TCP_HEADER + options.len()) / 4).unwrap();
        packet.extend_from_slice(&[offset << 4, ACK, 7, 8, 0, 0, 0, 0]);
        packet.extend_from_slice(options);
        packet.extend_from_slice(payload);
        packet
    }

    #[test]
    fn a_segment_says_what_its_bytes_say() {
        let sack = [1, 1, 5, 10, 0, 0, 2, 0, 0, 0, 3, 0];
        let bytes = packet(&sack, b"data");
        let segment = Segment::parse(&bytes).unwrap();
        assert_eq!((segment.sequence(), segment.acknowledges()), (9, 256));
        assert_eq!(
            (segment.window(), segment.payload()),
            ([7, 8], &b"data"[..])
        );
        assert_eq!(segment.selective().collect::<Vec<_>>(), [(512, 768)]);
        assert_eq!(segment.incoming_flow()[15..], [1, 0, 80, 1, 187]);
        assert_eq!(segment.outgoing_flow()[15..], [2, 1, 187, 0, 80]);
        let bare = bare(&segment, segment.next_sequence(), 7);
        let bare = Segment::parse(&bare).unwrap();
        assert_eq!((bare.sequence(), bare.acknowledges()), (13, 7));
        assert!(bare.payload().is_empty());
        assert_eq!(bare.selective().count(), 0);
    }

    #[test]
    fn packets_cut_or_filled_anyhow_are_read_without_harm() {
        for offset in 0..16 {
            for fill in [0, 1, 2, 5, 255] {
                let mut bytes = packet(&[fill; 40], &[fill; 9]);
                bytes[IPV6_HEADER + 12] = offset << 4;
                for length in 0..=bytes.len() {
                    let Some(segment) = Segment::parse(&bytes[..length]) else {
                        continue;
                    };
                    assert!(segment.selective().count() <= 4);
                    assert!(segment.headers().len() + segment.payload().len() == length);
                }
            }
        }
    }
}
