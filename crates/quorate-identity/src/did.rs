//! DIDs and DID URLs in the one canonical form that quorate accepts (W3C DID Core 1.0, section 3).
//!
//! Comparing DIDs as text is only sound when one subject has one text. `did:key` accepts every
//! multibase, `did:web` percent-encoding: here a `did:key` must be the base58btc form of a valid
//! key, and everything else is plain ASCII without escapes beyond the port colon of `did:web`.

use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use ssi_dids_core::DIDBuf;

use crate::{Code, PublicKey, Rejection};

/// Longest DID that is read, in bytes.
const MAX_DID_BYTES: usize = 256;

/// A DID in canonical form, such as `did:key:z6Mk…`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Did(Arc<str>);

impl Did {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The method name, such as `key`.
    pub fn method(&self) -> &str {
        self.0.split(':').nth(1).unwrap_or_default()
    }

    /// The key that a `did:key` consists of.
    pub fn key(&self) -> Option<PublicKey> {
        let multibase = self.0.strip_prefix("did:key:")?;
        PublicKey::from_multibase(multibase).ok()
    }

    /// A form short enough for a screen line that still tells two keys apart.
    pub fn short(&self) -> String {
        let text = self.as_str();
        if self.method() != "key" || text.len() < 24 {
            return text.to_owned();
        }
        format!("{}…{}", &text[..12], &text[text.len() - 4..])
    }
}

impl std::str::FromStr for Did {
    type Err = Rejection;

    fn from_str(text: &str) -> Result<Self, Rejection> {
        let refuse = |why: &str| Rejection::new(Code::Format, "D1", format!("not a DID: {why}"));
        if text.len() > MAX_DID_BYTES {
            return Err(refuse("too long"));
        }
        if !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(refuse("contains characters outside printable ASCII"));
        }
        DIDBuf::from_string(text.to_owned()).map_err(|_| refuse("syntax"))?;
        match text.split(':').nth(1) {
            Some("key") => {
                let key = PublicKey::from_multibase(&text["did:key:".len()..])?;
                if key.did_text() != text {
                    return Err(refuse("not the canonical form of its key"));
                }
            }
            Some("web") => check_web(text, refuse)?,
            _ => return Err(refuse("the method is neither did:key nor did:web")),
        }
        Ok(Self(text.into()))
    }
}

/// `did:web` names: lower-case A-labels, path segments without escapes (did:web method, section 2.1).
fn check_web(text: &str, refuse: impl Fn(&str) -> Rejection) -> Result<(), Rejection> {
    let mut segments = text["did:web:".len()..].split(':');
    let host = segments.next().unwrap_or_default();
    let host_name = host.split("%3A").next().unwrap_or_default();
    let labels_fine = host_name.contains('.')
        && host_name.split('.').all(|l| {
            !l.is_empty()
                && l.bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        });
    if !labels_fine || host_name.parse::<std::net::Ipv4Addr>().is_ok() {
        return Err(refuse("the domain is not a lower-case host name"));
    }
    let port_fine = match host.split_once("%3A") {
        None => true,
        Some((_, port)) => port
            .parse::<u16>()
            .is_ok_and(|p| p != 0 && p.to_string() == port),
    };
    if !port_fine || segments.any(|s| s.is_empty() || s.contains('%')) {
        return Err(refuse("the path or port is not in plain form"));
    }
    Ok(())
}

/// An absolute DID URL with a fragment, naming one verification method.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId {
    text: Arc<str>,
    did: Did,
}

impl KeyId {
    /// The DID before the `#`.
    pub fn did(&self) -> &Did {
        &self.did
    }

    /// The whole DID URL.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl std::str::FromStr for KeyId {
    type Err = Rejection;

    fn from_str(text: &str) -> Result<Self, Rejection> {
        let refuse = || {
            Rejection::new(
                Code::Kid,
                "J6",
                "kid is not an absolute DID URL with a fragment",
            )
        };
        let (did, fragment) = text.split_once('#').ok_or_else(refuse)?;
        let fragment_fine = !fragment.is_empty()
            && fragment.len() <= MAX_DID_BYTES
            && fragment
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b));
        if !fragment_fine {
            return Err(refuse());
        }
        let did: Did = did.parse().map_err(|_| refuse())?;
        Ok(Self {
            text: text.into(),
            did,
        })
    }
}

macro_rules! text_type {
    ($type:ty) => {
        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
        impl std::fmt::Debug for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
                out.serialize_str(self.as_str())
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
                String::deserialize(input)?
                    .parse()
                    .map_err(D::Error::custom)
            }
        }
    };
}
text_type!(Did);
text_type!(KeyId);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::SigningKey;

    #[test]
    fn a_did_key_has_one_text_only() {
        let did = SigningKey::from_seed(&[1; 32]).did();
        assert_eq!(did.as_str().parse::<Did>().unwrap(), did);
        let raw = bs58::decode(&did.as_str()["did:key:z".len()..])
            .into_vec()
            .unwrap();
        let hex: String = raw
            .iter()
            .flat_map(|b| [b >> 4, b & 15])
            .map(|n| char::from_digit(n.into(), 16).unwrap())
            .collect();
        assert!(
            format!("did:key:f{hex}").parse::<Did>().is_err(),
            "base16 form of the same key"
        );
    }

    #[test]
    fn malformed_dids_are_refused() {
        for text in [
            "",
            "did",
            "did:key:",
            "did:key:z",
            "did:key:z6Mk",
            "did:key:zQ3s",
            "did:key:z6Mk…",
            "did:web:10.0.0.1",
            "did:web:Example.com",
            "did:web:localhost",
            "did:web:a.example%3A0",
            "did:web:a.example:",
            "did:web:a.example:..%2f",
            "did:example:x",
            "did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK#x",
            "did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK ",
        ] {
            assert!(text.parse::<Did>().is_err(), "{text:?}");
        }
        assert!(
            "did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK"
                .parse::<Did>()
                .is_ok()
        );
        assert!("did:web:uni.example%3A8443:mpc".parse::<Did>().is_ok());
    }

    #[test]
    fn a_key_id_names_a_did_and_a_fragment() {
        let id = SigningKey::from_seed(&[1; 32]).key_id();
        assert_eq!(id.as_str().parse::<KeyId>().unwrap().did(), id.did());
        for text in [
            "#x",
            "did:key:z6Mk#",
            "z6Mk",
            &format!("{}#a b", id.did()),
            &format!("{}?x=y#z", id.did()),
        ] {
            assert!(text.parse::<KeyId>().is_err(), "{text:?}");
        }
    }
}
