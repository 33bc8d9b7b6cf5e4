//! HPKE in the one suite of this protocol: base mode, HKDF-SHA256, ChaCha20Poly1305, one message per context.
//!
//! Source: RFC 9180, sections 4 (labelled HKDF), 5.1 (key schedule), 5.2 (message 0 has the base nonce). The KEM is X-Wing,
//! 0x647A (draft-connolly-cfrg-xwing-kem, section 5.8), whose shared secret is used as it is.

use chacha20poly1305::{
    ChaCha20Poly1305, KeyInit as _, Nonce,
    aead::{Aead as _, Payload},
};
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

/// X-Wing.
pub(super) const XWING: u16 = 0x647a;
const HKDF_SHA256: u16 = 0x0001;
const CHACHA20_POLY1305: u16 = 0x0003;
const MODE_BASE: u8 = 0;

/// Key and nonce of the first message of one context.
pub(super) struct Context {
    key: Zeroizing<[u8; 32]>,
    nonce: [u8; 12],
}

impl Context {
    /// The key schedule for what the KEM `kem` agreed on.
    pub fn new(kem: u16, shared: &[u8; 32], info: &[u8]) -> Self {
        let suite = Suite::new(kem);
        let mut context = vec![MODE_BASE];
        context.extend(*suite.extract(&[], b"psk_id_hash", &[]).0);
        context.extend(*suite.extract(&[], b"info_hash", info).0);
        let (_, secret) = suite.extract(shared, b"secret", &[]);
        let mut key = Zeroizing::new([0; 32]);
        suite.expand(&secret, b"key", &context, &mut *key);
        let mut nonce = [0; 12];
        suite.expand(&secret, b"base_nonce", &context, &mut nonce);
        Self { key, nonce }
    }

    /// Seals the one message of this context.
    pub fn seal(self, plain: &[u8], aad: &[u8]) -> Vec<u8> {
        let cipher = ChaCha20Poly1305::new((&*self.key).into());
        let sealed = cipher.encrypt(Nonce::from_slice(&self.nonce), Payload { msg: plain, aad });
        // Fails only for messages of more than 256 GiB.
        debug_assert!(sealed.is_ok());
        sealed.unwrap_or_default()
    }

    /// Opens it; `None` if it was sealed otherwise.
    pub fn open(self, sealed: &[u8], aad: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let cipher = ChaCha20Poly1305::new((&*self.key).into());
        let payload = Payload { msg: sealed, aad };
        let plain = cipher
            .decrypt(Nonce::from_slice(&self.nonce), payload)
            .ok()?;
        Some(Zeroizing::new(plain))
    }
}

/// HKDF with the labels of RFC 9180, section 4.
struct Suite([u8; 10]);

impl Suite {
    fn new(kem: u16) -> Self {
        let mut id = *b"HPKE\0\0\0\0\0\0";
        for (i, part) in [kem, HKDF_SHA256, CHACHA20_POLY1305]
            .into_iter()
            .enumerate()
        {
            id[4 + 2 * i..6 + 2 * i].copy_from_slice(&part.to_be_bytes());
        }
        Self(id)
    }

    fn extract(
        &self,
        salt: &[u8],
        label: &[u8],
        ikm: &[u8],
    ) -> (Zeroizing<[u8; 32]>, Hkdf<Sha256>) {
        let labeled = Zeroizing::new([b"HPKE-v1", &self.0[..], label, ikm].concat());
        let (prk, hkdf) = Hkdf::<Sha256>::extract(Some(salt), &labeled);
        (Zeroizing::new(prk.into()), hkdf)
    }

    fn expand(&self, prk: &Hkdf<Sha256>, label: &[u8], info: &[u8], out: &mut [u8]) {
        let length = u16::try_from(out.len()).unwrap_or(u16::MAX).to_be_bytes();
        let labeled = [&length[..], b"HPKE-v1", &self.0, label, info];
        let expanded = prk.expand_multi_info(&labeled, out);
        debug_assert!(expanded.is_ok(), "12 and 32 bytes are within HKDF's output");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unhex(hex: &str) -> Vec<u8> {
        let digits = hex.as_bytes().chunks(2);
        let text = digits.map(|pair| std::str::from_utf8(pair).expect("ASCII"));
        text.map(|pair| u8::from_str_radix(pair, 16).expect("hex"))
            .collect()
    }

    /// RFC 9180, appendix A.2.1 (base mode, ChaCha20Poly1305): everything after the KEM.
    #[test]
    fn key_schedule_and_first_message_are_those_of_rfc_9180() {
        const DHKEM_X25519: u16 = 0x0020;
        let shared = unhex("0bbe78490412b4bbea4812666f7916932b828bba79942424abb65244930d69a7");
        let shared: [u8; 32] = shared.try_into().expect("32 bytes");
        let info = unhex("4f6465206f6e2061204772656369616e2055726e");
        let context = Context::new(DHKEM_X25519, &shared, &info);
        assert_eq!(
            context.key[..],
            unhex("ad2744de8e17f4ebba575b3f5f5a8fa1f69c2a07f6e7500bc60ca6e3e3ec1c91")
        );
        assert_eq!(context.nonce[..], unhex("5c4d98150661b848853b547f"));
        let plain = unhex("4265617574792069732074727574682c20747275746820626561757479");
        let aad = unhex("436f756e742d30");
        let sealed = context.seal(&plain, &aad);
        assert_eq!(
            sealed,
            unhex(
                "1c5250d8034ec2b784ba2cfd69dbdb8af406cfe3ff938e131f0def8c8b60b4db21993c62ce81883d2dd1b51a28"
            )
        );
        let again = || Context::new(DHKEM_X25519, &shared, &info);
        assert_eq!(again().open(&sealed, &aad).expect("ours")[..], plain);
        assert!(again().open(&sealed, b"other").is_none());
        assert!(
            Context::new(XWING, &shared, &info)
                .open(&sealed, &aad)
                .is_none()
        );
    }
}
