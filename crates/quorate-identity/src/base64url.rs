//! Canonical, unpadded base64url (RFC 4648 section 5), the only binary-to-text form on the wire.
//!
//! One value has one text: padding, white space and non-zero trailing bits are refused, so that two
//! different texts never mean the same bytes.

use base64::{
    Engine,
    alphabet::URL_SAFE,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use crate::{Code, Rejection};

const ENGINE: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::RequireNone)
        .with_decode_allow_trailing_bits(false),
);

/// Text form of `bytes`.
pub fn encode(bytes: &[u8]) -> String {
    ENGINE.encode(bytes)
}

/// Bytes of a canonical text; everything else is `E_FORMAT`.
pub fn decode(text: &str) -> Result<Vec<u8>, Rejection> {
    ENGINE
        .decode(text)
        .map_err(|_| Rejection::new(Code::Format, "J2", "not canonical unpadded base64url"))
}

/// `N` public bytes, written as base64url in JSON. `Debug` shows them: never for secrets.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct B64<const N: usize>(pub [u8; N]);

impl<const N: usize> std::fmt::Debug for B64<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&encode(&self.0))
    }
}

impl<const N: usize> Serialize for B64<N> {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(&encode(&self.0))
    }
}

impl<'de, const N: usize> Deserialize<'de> for B64<N> {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let text = String::deserialize(input)?;
        let bytes = decode(&text).map_err(D::Error::custom)?;
        let array = bytes
            .try_into()
            .map_err(|_| D::Error::custom(format!("expected {N} bytes")))?;
        Ok(Self(array))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_value_has_one_text() {
        assert_eq!(
            decode(&encode(b"\xff\xfe")).ok().as_deref(),
            Some(&b"\xff\xfe"[..])
        );
        for text in ["__4=", "__5", "_ _4", "//4", "__4\n", "_"] {
            assert!(decode(text).is_err(), "{text:?}");
        }
    }
}
