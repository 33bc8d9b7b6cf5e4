//! PeerId of the overlay network, as text and as the Ed25519 key it stands for.
//!
//! The text form is base58btc over `00 24 08 01 12 20 || key`: an identity multihash (0x00, length 0x24) of the protobuf
//! `PublicKey { type = Ed25519, data = 32 bytes }`. Only this form is accepted, so a PeerId *is* its key and nothing has
//! to be looked up.
//!
//! Security: provides the key that a `peerSig` and an authenticated overlay connection are checked against. Does not say
//! whose it is: a PeerId means a party only through that party's signed join and the link handshake.
//!
//! Source: libp2p specification "Peer Ids and Keys"; protocol section 2.

use quorate_identity::{Code, PublicKey, Rejection};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{fmt, str::FromStr};

const PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];
/// Base58 of 38 bytes that begin with this prefix is always 52 characters.
const TEXT_LENGTH: usize = 52;

/// A libp2p peer identity with an Ed25519 key (`12D3Koo…`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId([u8; 32]);

impl PeerId {
    /// The PeerId of an Ed25519 public key.
    pub fn of(key: &PublicKey) -> Self {
        Self(*key.as_bytes())
    }

    /// The PeerId of these 32 bytes of key, which may be no key at all; see [`public_key`](Self::public_key).
    pub(crate) fn from_bytes(key: [u8; 32]) -> Self {
        Self(key)
    }

    /// The 32 bytes of its key.
    pub(crate) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The Ed25519 key behind it; refused if the bytes are not a usable point.
    pub fn public_key(&self) -> Result<PublicKey, Rejection> {
        PublicKey::from_bytes(&self.0)
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = [0_u8; 38];
        bytes[..6].copy_from_slice(&PREFIX);
        bytes[6..].copy_from_slice(&self.0);
        f.write_str(&bs58::encode(bytes).into_string())
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PeerId {
    type Err = Rejection;

    fn from_str(text: &str) -> Result<Self, Rejection> {
        let refuse = |why: &str| Rejection::new(Code::Format, "S2", format!("PeerId {why}"));
        if text.len() != TEXT_LENGTH {
            return Err(refuse("has the wrong length"));
        }
        let mut bytes = [0_u8; 38];
        let length = bs58::decode(text)
            .onto(&mut bytes)
            .map_err(|_| refuse("is not base58"))?;
        if length != bytes.len() || bytes[..6] != PREFIX {
            return Err(refuse("is not an Ed25519 identity multihash"));
        }
        let mut key = [0_u8; 32];
        key.copy_from_slice(&bytes[6..]);
        Ok(Self(key))
    }
}

impl Serialize for PeerId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PeerId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_identity::SigningKey;

    #[test]
    fn text_form_round_trips_and_has_the_known_prefix() {
        let peer = PeerId::of(&SigningKey::from_seed(&[7; 32]).public());
        let text = peer.to_string();
        assert!(text.starts_with("12D3Koo"), "{text}");
        assert_eq!(text.parse::<PeerId>().expect("own text form"), peer);
    }

    #[test]
    fn other_forms_are_refused() {
        for text in [
            "",
            "12D3Koo",
            "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",
            &"1".repeat(52),
            &"0".repeat(52),
        ] {
            assert!(text.parse::<PeerId>().is_err(), "{text}");
        }
    }
}
