//! Ed25519 keys (RFC 8032) and their text forms.
//!
//! Verification is strict: non-canonical signatures and small-order keys are refused, so that one
//! message has one valid signature per key and no key verifies everything.

use ed25519_dalek::Signer;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::{Code, Did, Digest, KeyId, Rejection, base64url};

/// Multicodec prefix of an Ed25519 public key (`ed25519-pub`, 0xed as varint).
const MULTICODEC_ED25519: [u8; 2] = [0xed, 0x01];

/// An Ed25519 public key that is a valid point and not of small order.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey(ed25519_dalek::VerifyingKey);

impl PublicKey {
    /// Reads 32 bytes; refuses what is not a point or has small order.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Rejection> {
        let refuse = |why| Rejection::new(Code::Key, "K1", why);
        let array: &[u8; 32] = bytes
            .try_into()
            .map_err(|_| refuse("an Ed25519 key is not 32 bytes long"))?;
        let key = ed25519_dalek::VerifyingKey::from_bytes(array)
            .map_err(|_| refuse("not an Ed25519 key"))?;
        // Recompressing catches the non-canonical encodings that decompression lets through.
        if key.is_weak() || key.to_edwards().compress().as_bytes() != array {
            return Err(refuse("a weak or non-canonical Ed25519 key"));
        }
        Ok(Self(key))
    }

    /// Reads the multibase form used in `did:key` and `publicKeyMultibase`: `z` and base58btc.
    pub fn from_multibase(text: &str) -> Result<Self, Rejection> {
        let refuse = |why| Rejection::new(Code::Key, "D2", why);
        let base58 = text
            .strip_prefix('z')
            .ok_or_else(|| refuse("not a base58btc multibase text"))?;
        if base58.len() > 64 {
            return Err(refuse("too long for an Ed25519 key"));
        }
        let bytes = bs58::decode(base58)
            .into_vec()
            .map_err(|_| refuse("not base58btc"))?;
        let key = bytes
            .strip_prefix(&MULTICODEC_ED25519)
            .ok_or_else(|| refuse("not an Ed25519 key"))?;
        Self::from_bytes(key)
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// RFC 7638 thumbprint of the key as OKP JWK (RFC 8037): members `crv`, `kty`, `x` in this order.
    pub fn thumbprint(&self) -> Digest {
        let x = base64url::encode(self.as_bytes());
        let jwk = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#);
        Digest(Sha256::digest(jwk.as_bytes()).into())
    }

    /// The `did:key` of this key.
    pub fn did(&self) -> Result<Did, Rejection> {
        self.did_text().parse()
    }

    pub(crate) fn did_text(&self) -> String {
        format!("did:key:{}", self.multibase())
    }

    fn multibase(&self) -> String {
        let mut bytes = Vec::with_capacity(34);
        bytes.extend(MULTICODEC_ED25519);
        bytes.extend(self.as_bytes());
        format!("z{}", bs58::encode(bytes).into_string())
    }

    /// Whether `signature` is this key's strict Ed25519 signature of `message`.
    pub fn verify(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        let signature = ed25519_dalek::Signature::from_bytes(signature);
        self.0.verify_strict(message, &signature).is_ok()
    }
}

impl std::fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.multibase())
    }
}

/// An Ed25519 secret key; wiped when dropped, never shown.
#[derive(Clone)]
pub struct SigningKey {
    secret: ed25519_dalek::SigningKey,
    did: Did,
    key_id: KeyId,
}

impl SigningKey {
    /// The key of a 32-byte seed (RFC 8032, section 5.1.5). The seed must come from a
    /// cryptographic generator.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let secret = ed25519_dalek::SigningKey::from_bytes(seed);
        let public = PublicKey(secret.verifying_key());
        let url = format!("{}#{}", public.did_text(), public.multibase());
        let key_id: KeyId = url.parse().expect("a fresh key has a canonical did:key");
        let did = key_id.did().clone();
        Self {
            secret,
            did,
            key_id,
        }
    }

    /// The seed, for storing the key.
    pub fn seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.secret.to_bytes())
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.secret.verifying_key())
    }

    /// The `did:key` of this key.
    pub fn did(&self) -> Did {
        self.did.clone()
    }

    /// The verification method of this key in its `did:key` document.
    pub fn key_id(&self) -> KeyId {
        self.key_id.clone()
    }

    /// The X25519 secret shared with the holder of `other`, both keys taken to Montgomery form (RFC 7748, section 4.1).
    /// To be put through a key derivation that names its purpose; never used as it is.
    pub fn agree(&self, other: &PublicKey) -> Zeroizing<[u8; 32]> {
        let scalar = Zeroizing::new(self.secret.to_scalar_bytes());
        Zeroizing::new(other.0.to_montgomery().mul_clamped(*scalar).to_bytes())
    }

    /// Signs raw bytes; statements are signed by [`crate::sign`].
    pub fn sign_bytes(&self, message: &[u8]) -> [u8; 64] {
        self.secret.sign(message).to_bytes()
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SigningKey({}, secret)", self.did)
    }
}

/// The public JWK (RFC 8037), for reports.
impl From<&PublicKey> for serde_json::Value {
    fn from(key: &PublicKey) -> Self {
        json!({"kty": "OKP", "crv": "Ed25519", "x": base64url::encode(key.as_bytes())})
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// RFC 8037, appendix A.3.
    #[test]
    fn thumbprint_is_that_of_rfc_8037() {
        let x = base64url::decode("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo").unwrap();
        let key = PublicKey::from_bytes(&x).unwrap();
        assert_eq!(
            key.thumbprint().to_string(),
            "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"
        );
    }

    #[test]
    fn small_order_and_non_canonical_keys_are_refused() {
        let mut identity = [0u8; 32];
        identity[0] = 1;
        let mut non_canonical = [0xff; 32];
        non_canonical[0] = 0xee;
        non_canonical[31] = 0x7f;
        for bytes in [identity, [0; 32], non_canonical] {
            assert!(PublicKey::from_bytes(&bytes).is_err(), "{bytes:02x?}");
        }
    }

    #[test]
    fn a_signature_with_large_s_is_refused() {
        let key = SigningKey::from_seed(&[3; 32]);
        let signature = key.sign_bytes(b"m");
        assert!(key.public().verify(b"m", &signature));
        let mut malleable = signature;
        // s + L: the same residue, a different text
        let order = [
            0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9,
            0xde, 0x14, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10u8,
        ];
        let mut carry = 0u16;
        for (s, l) in malleable[32..].iter_mut().zip(order) {
            let sum = u16::from(*s) + u16::from(l) + carry;
            *s = sum.to_le_bytes()[0];
            carry = sum >> 8;
        }
        assert_ne!(malleable, signature);
        assert!(!key.public().verify(b"m", &malleable));
    }

    #[test]
    fn two_keys_agree_on_one_secret_and_others_do_not() {
        let [a, b, c] = [1, 2, 3].map(|seed| SigningKey::from_seed(&[seed; 32]));
        assert_eq!(a.agree(&b.public()), b.agree(&a.public()));
        assert_ne!(a.agree(&b.public()), a.agree(&c.public()));
        assert_ne!(*a.agree(&b.public()), [0; 32]);
    }

    #[test]
    fn debug_shows_no_secret() {
        let text = format!("{:?}", SigningKey::from_seed(&[0xab; 32]));
        assert!(!text.contains("171") && !text.contains("ab, ab"), "{text}");
    }
}
