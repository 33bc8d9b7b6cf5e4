//! Addresses in a ticket: multiaddr text and the short binary form of the same.
//!
//! Limits: [`MAX_HINT_BYTES`]; only the protocols below, each in its one text form. Security: an address says where to
//! look, never whom to trust; who answers there must prove the ticket's PeerId.
//!
//! Source: multiformats/multiaddr, table of protocols.

use crate::peer_id::PeerId;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Bytes of one address in a ticket.
pub(super) const MAX_HINT_BYTES: usize = 96;

const IP4: &[u8] = &[0x04];
const TCP: &[u8] = &[0x06];
const IP6: &[u8] = &[0x29];
const UDP: &[u8] = &[0x91, 0x02];
const P2P: &[u8] = &[0xa5, 0x03];
const P2P_CIRCUIT: &[u8] = &[0xa2, 0x02];
const QUIC_V1: &[u8] = &[0xcd, 0x03];
/// The identity multihash of an Ed25519 key; see [`PeerId`].
const MULTIHASH: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];
const MULTIHASH_BYTES: u8 = 38;

/// The binary form of `text`; `None` for what a ticket cannot carry.
pub(super) fn to_bytes(text: &str) -> Option<Vec<u8>> {
    let mut parts = text.strip_prefix('/')?.split('/');
    let mut bytes = Vec::new();
    while let Some(name) = parts.next() {
        match name {
            "ip4" => {
                bytes.extend(IP4);
                bytes.extend(parts.next()?.parse::<Ipv4Addr>().ok()?.octets());
            }
            "ip6" => {
                bytes.extend(IP6);
                bytes.extend(parts.next()?.parse::<Ipv6Addr>().ok()?.octets());
            }
            "tcp" | "udp" => {
                bytes.extend(if name == "tcp" { TCP } else { UDP });
                bytes.extend(parts.next()?.parse::<u16>().ok()?.to_be_bytes());
            }
            "p2p" => {
                let peer: PeerId = parts.next()?.parse().ok()?;
                bytes.extend(P2P);
                bytes.push(MULTIHASH_BYTES);
                bytes.extend(MULTIHASH);
                bytes.extend(peer.as_bytes());
            }
            "quic-v1" => bytes.extend(QUIC_V1),
            "p2p-circuit" => bytes.extend(P2P_CIRCUIT),
            _ => return None,
        }
        if bytes.len() > MAX_HINT_BYTES {
            return None;
        }
    }
    // `to_text` also refuses the other texts of the same address, such as a port with a leading zero.
    (to_text(&bytes).as_deref() == Some(text)).then_some(bytes)
}

/// The text of a binary form; `None` if it is not one.
pub(super) fn to_text(bytes: &[u8]) -> Option<String> {
    let mut text = String::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let part;
        (part, rest) = component(rest)?;
        text.push_str(&part);
    }
    (!text.is_empty()).then_some(text)
}

fn component(bytes: &[u8]) -> Option<(String, &[u8])> {
    if let Some(rest) = bytes.strip_prefix(IP4) {
        let (octets, rest) = rest.split_first_chunk::<4>()?;
        return Some((format!("/ip4/{}", Ipv4Addr::from(*octets)), rest));
    }
    if let Some(rest) = bytes.strip_prefix(IP6) {
        let (octets, rest) = rest.split_first_chunk::<16>()?;
        return Some((format!("/ip6/{}", Ipv6Addr::from(*octets)), rest));
    }
    for (code, name) in [(TCP, "tcp"), (UDP, "udp")] {
        if let Some(rest) = bytes.strip_prefix(code) {
            let (port, rest) = rest.split_first_chunk::<2>()?;
            return Some((format!("/{name}/{}", u16::from_be_bytes(*port)), rest));
        }
    }
    if let Some(rest) = bytes.strip_prefix(P2P) {
        let rest = rest
            .strip_prefix(&[MULTIHASH_BYTES])?
            .strip_prefix(&MULTIHASH)?;
        let (key, rest) = rest.split_first_chunk::<32>()?;
        return Some((format!("/p2p/{}", PeerId::from_bytes(*key)), rest));
    }
    for (code, name) in [(QUIC_V1, "quic-v1"), (P2P_CIRCUIT, "p2p-circuit")] {
        if let Some(rest) = bytes.strip_prefix(code) {
            return Some((format!("/{name}"), rest));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use quorate_identity::SigningKey;

    #[test]
    fn addresses_come_back_and_have_the_bytes_of_multiaddr() {
        let relay = PeerId::of(&SigningKey::from_seed(&[1; 32]).public());
        for text in [
            "/ip4/192.0.2.7/udp/4001/quic-v1",
            "/ip4/127.0.0.1/tcp/1",
            "/ip6/2001:db8::1/tcp/65535",
            &format!("/ip6/2001:db8::1/udp/443/quic-v1/p2p/{relay}/p2p-circuit"),
        ] {
            let bytes = to_bytes(text).expect(text);
            assert_eq!(to_text(&bytes).as_deref(), Some(text));
        }
        assert_eq!(
            to_bytes("/ip4/127.0.0.1/udp/1234/quic-v1").expect("valid"),
            [4, 127, 0, 0, 1, 0x91, 2, 4, 0xd2, 0xcd, 3]
        );
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "/",
            "ip4/1.2.3.4",
            "/ip4/1.2.3",
            "/ip4/01.2.3.4",
            "/ip4/1.2.3.4/tcp/01",
            "/ip4/1.2.3.4/tcp/1/",
            "/dns4/example.org/tcp/1",
            "/ip6/2001:0db8::1/tcp/1",
            "/ip4/1.2.3.4/tcp/70000",
            "/p2p/x",
            &"/ip6/2001:db8::1".repeat(8),
        ] {
            assert_eq!(to_bytes(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_an_answer_and_what_is_read_is_written_the_same(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            if let Some(text) = to_text(&bytes) {
                prop_assert!(bytes.len() > MAX_HINT_BYTES || to_bytes(&text) == Some(bytes));
            }
        }
    }
}
