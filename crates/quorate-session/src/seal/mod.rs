//! Sealed bundles: an invitation that only the holders of certain cards can read.
//!
//! ```text
//! quorate1s: ‖ base64url( CBOR {"to": [bytes(1168), …], "ct": bytes} )
//!   content key k, 32 random bytes
//!   to_i = enc_i (1120, X-Wing to card i) ‖ HPKE seal(info "quorate/1/seal", k) (48)
//!   ct   = ChaCha20Poly1305(k, nonce 0, aad = SHA-256("quorate/1/sealed-to" 0 all to_i), the bundle's CBOR)
//! ```
//! Who it is for does not stand in it: a reader tries each `to_i`.
//!
//! Limits: [`MAX_SEALED_CHARS`], [`MAX_SEALED_TO`].
//!
//! Security. Provides: nobody without one of the seal keys reads the bundle, as long as ML-KEM-768 or X25519 holds; the list
//! of readers cannot be changed without it being noticed. Does not provide: who sealed it (the invitation in it is signed),
//! how many readers there are, or secrecy from before a stolen identity: the seal key lives as long as the identity.
//!
//! Source: RFC 9180; draft-connolly-cfrg-xwing-kem.

mod hpke;

use crate::{
    bundle::Bundle,
    keys::encapsulate,
    limits::{MAX_SEALED_CHARS, MAX_SEALED_TO},
    message::CardSubject,
};
use chacha20::ChaCha20Rng;
use chacha20poly1305::{
    ChaCha20Poly1305, KeyInit as _, Nonce,
    aead::{Aead as _, Payload},
};
use hkdf::Hkdf;
use hpke::{Context, XWING};
use minicbor::{Decoder, Encoder};
use quorate_identity::{Code, Digest, Rejection, SigningKey, base64url};
use rand_core::{Rng, SeedableRng};
use sha2::Sha256;
use std::{convert::Infallible, fmt};
use x_wing::{DecapsulationKeyRejectNonContrib, Decapsulator, KeyExport, TryDecapsulate};
use zeroize::{Zeroize, Zeroizing};

/// How the text form begins.
pub const SEALED_PREFIX: &str = "quorate1s:";
const INFO: &[u8] = b"quorate/1/seal";
const ENC_BYTES: usize = 1120;
/// Encapsulation, sealed content key and its tag.
const TO_BYTES: usize = ENC_BYTES + 32 + 16;
/// The content key seals one text only.
const NONCE: [u8; 12] = [0; 12];

/// The secret half of a card's seal key; derived from the identity, wiped on drop.
pub struct SealSecret(DecapsulationKeyRejectNonContrib);

impl SealSecret {
    /// The seal key of an identity: HKDF-SHA256 of its seed, salt `quorate/1`, info `quorate/1/seal`.
    pub fn of(key: &SigningKey) -> Self {
        let mut seed = Zeroizing::new([0_u8; 32]);
        let hkdf = Hkdf::<Sha256>::new(Some(b"quorate/1"), &*key.seed());
        let expanded = hkdf.expand(INFO, &mut *seed);
        debug_assert!(expanded.is_ok(), "32 bytes are within HKDF's output");
        Self(DecapsulationKeyRejectNonContrib::from(*seed))
    }

    /// The public half, for the card.
    pub fn public(&self) -> [u8; 1216] {
        self.0.encapsulation_key().to_bytes().0
    }

    /// The content key in one entry, if it is for us.
    fn unwrap_key(&self, entry: &[u8; TO_BYTES]) -> Option<Zeroizing<[u8; 32]>> {
        let (enc, sealed) = entry.split_first_chunk::<ENC_BYTES>()?;
        let mut shared = self.0.try_decapsulate(&(*enc).into()).ok()?;
        let context = Context::new(XWING, &shared.0, INFO);
        shared.zeroize();
        let key = context.open(sealed, &[])?;
        Some(Zeroizing::new(key.as_slice().try_into().ok()?))
    }
}

impl fmt::Debug for SealSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// Seals `bundle` to the holders of `cards`; `seed` is random and used once.
pub fn seal_bundle(
    bundle: &Bundle,
    cards: &[&CardSubject],
    seed: [u8; 32],
) -> Result<String, Rejection> {
    if cards.is_empty() || cards.len() > MAX_SEALED_TO {
        let text = format!("a bundle is sealed to 1 to {MAX_SEALED_TO} cards");
        return Err(Rejection::new(Code::Limit, "F10", text));
    }
    let mut rng = ChaCha20Rng::from_seed(seed);
    let mut key = Zeroizing::new([0; 32]);
    rng.fill_bytes(&mut *key);
    let mut entries = Vec::with_capacity(cards.len());
    for card in cards {
        let (enc, shared) = encapsulate(&card.seal.ek.0, &mut rng)?;
        let sealed = Context::new(XWING, shared.as_bytes(), INFO).seal(&*key, &[]);
        entries.push([&enc[..], &sealed].concat());
    }
    let plain = Zeroizing::new(bundle.to_cbor());
    let aad = readers(&entries);
    let payload = Payload {
        msg: &plain,
        aad: &aad.0,
    };
    let cipher = ChaCha20Poly1305::new((&*key).into());
    let ct = cipher
        .encrypt(Nonce::from_slice(&NONCE), payload)
        .map_err(|_| Rejection::new(Code::Internal, "F10", "the bundle cannot be sealed"))?;
    let text = format!(
        "{SEALED_PREFIX}{}",
        base64url::encode(&to_cbor(&entries, &ct))
    );
    if text.len() > MAX_SEALED_CHARS {
        let text = "the sealed bundle would be too long";
        return Err(Rejection::new(Code::Limit, "F10", text));
    }
    Ok(text)
}

/// Opens a sealed bundle that is for us; `E_SEALED` otherwise.
pub fn open_bundle(text: &str, secret: &SealSecret) -> Result<Bundle, Rejection> {
    let text = text.trim();
    if text.len() > MAX_SEALED_CHARS {
        let text = "the sealed bundle is too long";
        return Err(Rejection::new(Code::Limit, "F10", text));
    }
    let body = text
        .strip_prefix(SEALED_PREFIX)
        .ok_or_else(|| malformed("does not begin with quorate1s:"))?;
    let bytes = base64url::decode(body)?;
    let (entries, ct) = from_cbor(&bytes)?;
    let key = entries
        .iter()
        .find_map(|entry| secret.unwrap_key(entry.as_slice().try_into().ok()?));
    let key = key.ok_or_else(|| sealed("it is sealed for somebody else, or was changed"))?;
    let aad = readers(&entries);
    let payload = Payload {
        msg: &ct,
        aad: &aad.0,
    };
    let cipher = ChaCha20Poly1305::new((&*key).into());
    let plain = cipher
        .decrypt(Nonce::from_slice(&NONCE), payload)
        .map_err(|_| sealed("it was changed after it was sealed"))?;
    Bundle::from_cbor(&Zeroizing::new(plain))
}

/// Binds what is sealed to everybody who can read it.
fn readers(entries: &[Vec<u8>]) -> Digest {
    Digest::of("quorate/1/sealed-to", &entries.concat())
}

fn sealed(why: &str) -> Rejection {
    Rejection::new(Code::Sealed, "F10", why)
}

fn malformed(why: &str) -> Rejection {
    Rejection::new(Code::Format, "F10", format!("the sealed bundle {why}"))
}

fn to_cbor(entries: &[Vec<u8>], ct: &[u8]) -> Vec<u8> {
    let mut encoder = Encoder::new(Vec::new());
    let written = write(&mut encoder, entries, ct);
    debug_assert!(written.is_ok(), "a Vec takes everything");
    encoder.into_writer()
}

fn write(
    encoder: &mut Encoder<Vec<u8>>,
    entries: &[Vec<u8>],
    ct: &[u8],
) -> Result<(), minicbor::encode::Error<Infallible>> {
    encoder.map(2)?.str("to")?.array(entries.len() as u64)?;
    for entry in entries {
        encoder.bytes(entry)?;
    }
    encoder.str("ct")?.bytes(ct)?;
    Ok(())
}

fn from_cbor(bytes: &[u8]) -> Result<(Vec<Vec<u8>>, Vec<u8>), Rejection> {
    let cbor = |_| malformed("is not the CBOR map of a sealed bundle");
    let expect = |decoder: &mut Decoder<'_>, key: &str| {
        let found = decoder.str().map_err(cbor)?;
        (found == key)
            .then_some(())
            .ok_or_else(|| malformed("has an unknown member"))
    };
    let mut decoder = Decoder::new(bytes);
    if decoder.map().map_err(cbor)? != Some(2) {
        return Err(malformed("does not have two members"));
    }
    expect(&mut decoder, "to")?;
    let count = decoder.array().map_err(cbor)?;
    let count = count.filter(|n| (1..=MAX_SEALED_TO as u64).contains(n));
    let count = count.ok_or_else(|| malformed("has no reader, or too many"))?;
    let mut entries = Vec::new();
    for _ in 0..count {
        let entry = decoder.bytes().map_err(cbor)?;
        if entry.len() != TO_BYTES {
            return Err(malformed("has an entry of the wrong length"));
        }
        entries.push(entry.to_vec());
    }
    expect(&mut decoder, "ct")?;
    let ct = decoder.bytes().map_err(cbor)?.to_vec();
    if to_cbor(&entries, &ct) != bytes {
        return Err(malformed("is not in its one canonical form"));
    }
    Ok((entries, ct))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{RendezvousSecret, message::card};
    use proptest::prelude::*;
    use quorate_identity::UnixTime;

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_seed(&[seed; 32])
    }

    fn card_of(seed: u8) -> CardSubject {
        let key = key(seed);
        let ek = SealSecret::of(&key).public();
        let card = card(key.did(), "x".into(), ek, [1; 16], UnixTime(0), UnixTime(1));
        card.expect("a card").subject
    }

    fn bundle() -> Bundle {
        Bundle {
            invitation: "a.b.c".into(),
            secret: RendezvousSecret::new([9; 32]),
            hints: vec![],
            program: None,
        }
    }

    fn sealed_to(seeds: &[u8]) -> String {
        let cards: Vec<CardSubject> = seeds.iter().map(|s| card_of(*s)).collect();
        let cards: Vec<&CardSubject> = cards.iter().collect();
        seal_bundle(&bundle(), &cards, [3; 32]).expect("sealed")
    }

    fn refusal(text: &str, seed: u8) -> Rejection {
        open_bundle(text, &SealSecret::of(&key(seed))).expect_err("not readable")
    }

    #[test]
    fn each_holder_of_a_card_reads_it_and_nobody_else() {
        let text = sealed_to(&[1, 2, 3]);
        for seed in 1..=3 {
            let opened = open_bundle(&format!(" {text}\n"), &SealSecret::of(&key(seed)));
            assert_eq!(opened.expect("for us").encode(), bundle().encode());
        }
        let refusal = refusal(&text, 4);
        assert_eq!((refusal.code, refusal.rule), (Code::Sealed, "F10"));
    }

    #[test]
    fn a_changed_text_or_list_of_readers_is_refused() {
        let text = sealed_to(&[1, 2]);
        let bytes = base64url::decode(&text[SEALED_PREFIX.len()..]).expect("ours");
        let form = |bytes: &[u8]| format!("{SEALED_PREFIX}{}", base64url::encode(bytes));
        for at in (0..bytes.len())
            .step_by(13)
            .chain(bytes.len() - 60..bytes.len())
        {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            let code = refusal(&form(&changed), 2).code;
            assert!(
                matches!(code, Code::Sealed | Code::Format),
                "byte {at}: {code}"
            );
        }
        let (mut entries, ct) = from_cbor(&bytes).expect("ours");
        entries.remove(0);
        assert_eq!(
            refusal(&form(&to_cbor(&entries, &ct)), 2).code,
            Code::Sealed
        );
    }

    #[test]
    fn malformed_and_too_large_ones_are_refused() {
        let long = format!("{SEALED_PREFIX}{}", "A".repeat(MAX_SEALED_CHARS));
        assert_eq!(refusal(&long, 1).code, Code::Limit);
        for text in [
            "quorate1:AAAA",
            "quorate1s:",
            "quorate1s:AAAA",
            &(sealed_to(&[1]) + "AAAA"),
        ] {
            assert_eq!(refusal(text, 1).code, Code::Format, "{text:.20}");
        }
        let entries = vec![vec![0; TO_BYTES]; MAX_SEALED_TO + 1];
        let many = base64url::encode(&to_cbor(&entries, b"x"));
        assert_eq!(
            refusal(&format!("{SEALED_PREFIX}{many}"), 1).code,
            Code::Format
        );
        assert_eq!(
            seal_bundle(&bundle(), &[], [0; 32])
                .expect_err("nobody")
                .code,
            Code::Limit
        );
    }

    #[test]
    fn the_seal_key_belongs_to_the_identity_and_is_not_shown() {
        assert_eq!(
            SealSecret::of(&key(1)).public(),
            SealSecret::of(&key(1)).public()
        );
        assert_ne!(
            SealSecret::of(&key(1)).public(),
            SealSecret::of(&key(2)).public()
        );
        assert_eq!(format!("{:?}", SealSecret::of(&key(1))), "(secret)");
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let text = SEALED_PREFIX.to_owned() + &base64url::encode(&bytes);
            prop_assert!(open_bundle(&text, &SealSecret::of(&key(1))).is_err());
        }
    }
}
