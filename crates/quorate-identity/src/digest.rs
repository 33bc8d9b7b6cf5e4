//! SHA-256 digests with a domain, the names of things in this protocol.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use sha2::{Digest as _, Sha256};

use crate::{Code, Rejection, base64url};

/// A SHA-256 digest. Text form: base64url without padding, 43 characters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// `SHA-256(domain || 0x00 || data)`; the domain keeps digests of different things apart.
    pub fn of(domain: &str, data: &[u8]) -> Self {
        let mut hash = Sha256::new();
        hash.update(domain.as_bytes());
        hash.update([0]);
        hash.update(data);
        Self(hash.finalize().into())
    }

    /// The first eight characters of the text form, for people to tell digests apart on a screen.
    pub fn short(&self) -> String {
        let mut text = self.to_string();
        text.truncate(8);
        text
    }
}

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&base64url::encode(&self.0))
    }
}

impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

impl std::str::FromStr for Digest {
    type Err = Rejection;
    fn from_str(text: &str) -> Result<Self, Rejection> {
        let bytes = base64url::decode(text)?;
        let array = bytes
            .try_into()
            .map_err(|_| Rejection::new(Code::Format, "J2", "a digest is not 32 bytes long"))?;
        Ok(Self(array))
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        String::deserialize(input)?
            .parse()
            .map_err(D::Error::custom)
    }
}
