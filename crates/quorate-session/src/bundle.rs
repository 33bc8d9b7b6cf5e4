//! Bundle: what the organizer hands to the parties, and the rendezvous secret in it.
//!
//! Text form: `quorate1:` and base64url of the CBOR map `{"inv": text, "s": bytes(32), "hints": [text], "src": bytes}`, keys
//! in this order, definite lengths; `src`, the program's [source](ProgramSource), may be left out. White space around the
//! text is ignored, since bundles travel by mail and chat.
//!
//! Limits: [`MAX_BUNDLE_CHARS`], [`MAX_HINTS`], [`MAX_ADDRESS_BYTES`], those of the source.
//!
//! Security: the secret keeps outsiders from finding and probing the session; it gives nobody a seat. Whoever holds the
//! bundle sees the invitation. The secret is wiped from memory on drop and is never printed by `Debug`.

use crate::{
    limits::{MAX_ADDRESS_BYTES, MAX_BUNDLE_CHARS, MAX_HINTS},
    source::ProgramSource,
};
use hkdf::Hkdf;
use minicbor::{Decoder, Encoder};
use quorate_identity::{Code, Digest, MAX_STATEMENT_BYTES, Rejection, SigningKey, base64url};
use sha2::Sha256;
use std::{convert::Infallible, fmt};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

const PREFIX: &str = "quorate1:";

/// The secret that lets invited parties find each other.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct RendezvousSecret([u8; 32]);

impl RendezvousSecret {
    /// A secret of these random bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, for the bundle.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// A key for one purpose: HKDF-SHA256 with salt `quorate/1` and info `label`.
    pub fn derive(&self, label: &str) -> [u8; 32] {
        let mut key = [0_u8; 32];
        // 32 bytes are within the 255 blocks HKDF can give, so this cannot fail.
        let expanded =
            Hkdf::<Sha256>::new(Some(b"quorate/1"), &self.0).expand(label.as_bytes(), &mut key);
        debug_assert!(expanded.is_ok());
        key
    }

    /// The seed of the overlay identity that the organizer takes part with, known to the organizer alone before the
    /// session begins: so an invitation can say where the organizer will be.
    pub fn meeting(&self, organizer: &SigningKey) -> Zeroizing<[u8; 32]> {
        let mut seed = Zeroizing::new([0_u8; 32]);
        let expanded = Hkdf::<Sha256>::new(Some(&self.0), &*organizer.seed())
            .expand(b"quorate/1/meeting", &mut *seed);
        debug_assert!(expanded.is_ok(), "32 bytes are within HKDF's output");
        seed
    }

    /// A key for one place and time: HKDF-SHA256 with salt `quorate/1` and these parts as info.
    pub(crate) fn expand(&self, info: &[&[u8]]) -> Zeroizing<[u8; 32]> {
        let mut key = Zeroizing::new([0_u8; 32]);
        let expanded =
            Hkdf::<Sha256>::new(Some(b"quorate/1"), &self.0).expand_multi_info(info, &mut *key);
        debug_assert!(expanded.is_ok(), "32 bytes are within HKDF's output");
        key
    }

    /// What the invitation says about the secret, so that a swapped one is noticed.
    pub fn commitment(&self) -> Digest {
        Digest::of("quorate/1/sc", &self.0)
    }
}

impl fmt::Debug for RendezvousSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// A signed invitation with the means to find the others.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// The invitation, a compact JWS; nothing about it is checked here.
    pub invitation: String,
    /// The rendezvous secret.
    pub secret: RendezvousSecret,
    /// Addresses (multiaddr text) to try first.
    pub hints: Vec<String>,
    /// The program's source, if it came along; to be held against the invitation with [`ProgramSource::check`].
    pub program: Option<ProgramSource>,
}

impl Bundle {
    /// Reads the text form.
    pub fn parse(text: &str) -> Result<Self, Rejection> {
        let text = text.trim();
        if text.len() > MAX_BUNDLE_CHARS {
            return Err(Rejection::new(Code::Limit, "S3", "the bundle is too long"));
        }
        let body = text
            .strip_prefix(PREFIX)
            .ok_or_else(|| malformed("does not begin with quorate1:"))?;
        let bytes = Zeroizing::new(base64url::decode(body)?);
        Self::from_cbor(&bytes)
    }

    /// The text form.
    pub fn encode(&self) -> String {
        let bytes = Zeroizing::new(self.to_cbor());
        format!("{PREFIX}{}", base64url::encode(&bytes))
    }

    pub(crate) fn to_cbor(&self) -> Vec<u8> {
        let mut encoder = Encoder::new(Vec::new());
        let written = self.write(&mut encoder);
        debug_assert!(written.is_ok(), "a Vec takes everything");
        encoder.into_writer()
    }

    fn write(
        &self,
        encoder: &mut Encoder<Vec<u8>>,
    ) -> Result<(), minicbor::encode::Error<Infallible>> {
        let members = 3 + u64::from(self.program.is_some());
        encoder.map(members)?.str("inv")?.str(&self.invitation)?;
        encoder
            .str("s")?
            .bytes(self.secret.as_bytes())?
            .str("hints")?
            .array(self.hints.len() as u64)?;
        for hint in &self.hints {
            encoder.str(hint)?;
        }
        if let Some(program) = &self.program {
            encoder.str("src")?.bytes(&program.to_cbor())?;
        }
        Ok(())
    }

    pub(crate) fn from_cbor(bytes: &[u8]) -> Result<Self, Rejection> {
        let mut decoder = Decoder::new(bytes);
        let bundle = read(&mut decoder)?;
        if decoder.position() != bytes.len() {
            return Err(malformed("has bytes after its end"));
        }
        if bundle.to_cbor() != bytes {
            return Err(malformed("is not in its one canonical form"));
        }
        Ok(bundle)
    }
}

impl fmt::Display for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.encode())
    }
}

fn malformed(why: &str) -> Rejection {
    Rejection::new(Code::Format, "S3", format!("the bundle {why}"))
}

fn read(decoder: &mut Decoder<'_>) -> Result<Bundle, Rejection> {
    let cbor = |_| malformed("is not the CBOR map of a bundle");
    let expect = |decoder: &mut Decoder<'_>, key: &str| {
        let found = decoder.str().map_err(cbor)?;
        if found == key {
            Ok(())
        } else {
            Err(malformed("has an unknown member"))
        }
    };
    let members = decoder.map().map_err(cbor)?;
    if !matches!(members, Some(3 | 4)) {
        return Err(malformed("does not have three or four members"));
    }
    expect(decoder, "inv")?;
    let invitation = decoder.str().map_err(cbor)?;
    if invitation.len() > MAX_STATEMENT_BYTES {
        return Err(malformed("holds an invitation of more than 64 KiB"));
    }
    expect(decoder, "s")?;
    let secret: [u8; 32] = decoder
        .bytes()
        .map_err(cbor)?
        .try_into()
        .map_err(|_| malformed("has a secret of the wrong length"))?;
    expect(decoder, "hints")?;
    let count = decoder
        .array()
        .map_err(cbor)?
        .ok_or_else(|| malformed("has a list without length"))?;
    if count > MAX_HINTS as u64 {
        return Err(malformed("has too many hints"));
    }
    let mut hints = Vec::new();
    for _ in 0..count {
        let hint = decoder.str().map_err(cbor)?;
        if hint.len() > MAX_ADDRESS_BYTES {
            return Err(malformed("has a hint that is too long"));
        }
        hints.push(hint.to_owned());
    }
    let program = if members == Some(4) {
        expect(decoder, "src")?;
        let source = decoder.bytes().map_err(cbor)?;
        Some(ProgramSource::from_cbor(source)?)
    } else {
        None
    };
    Ok(Bundle {
        invitation: invitation.to_owned(),
        secret: RendezvousSecret::new(secret),
        hints,
        program,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bundle() -> Bundle {
        Bundle {
            invitation: "a.b.c".into(),
            secret: RendezvousSecret::new([9; 32]),
            hints: vec!["/ip4/192.0.2.1/udp/1/quic-v1".into()],
            program: None,
        }
    }

    #[test]
    fn the_source_of_the_program_may_come_along_and_is_read_strictly() {
        let mut with = bundle();
        let source = ProgramSource::new([("main.py", &b"print(1)"[..])]).expect("fine");
        with.program = Some(source.clone());
        let read = Bundle::parse(&with.encode()).expect("own text form");
        assert_eq!(read.program, Some(source));
        let mut bytes = with.to_cbor();
        let at = bytes
            .windows(7)
            .position(|w| w == b"main.py")
            .expect("there");
        bytes[at..at + 7].copy_from_slice(b"../x.py");
        let refusal = Bundle::from_cbor(&bytes).expect_err("a path that leads elsewhere");
        assert_eq!(refusal.code, Code::Program);
    }

    #[test]
    fn text_form_round_trips_with_white_space_around() {
        let read = Bundle::parse(&format!("  {}\n", bundle())).expect("own text form");
        assert_eq!(read.invitation, "a.b.c");
        assert_eq!(read.secret.as_bytes(), &[9; 32]);
        assert_eq!(read.hints, bundle().hints);
    }

    #[test]
    fn limits_and_shape_are_enforced() {
        let mut many = bundle();
        many.hints = vec![String::new(); MAX_HINTS + 1];
        let mut long = bundle();
        long.hints = vec!["x".repeat(MAX_ADDRESS_BYTES + 1)];
        let mut huge = bundle();
        huge.invitation = "x".repeat(MAX_STATEMENT_BYTES + 1);
        for bad in [
            many.encode(),
            long.encode(),
            huge.encode(),
            bundle().encode() + "AAAA",
            "quorate2:".into(),
        ] {
            assert!(Bundle::parse(&bad).is_err());
        }
    }

    #[test]
    fn secret_is_not_printed_and_keys_differ_by_label() {
        let secret = RendezvousSecret::new([9; 32]);
        assert_eq!(format!("{secret:?}"), "(secret)");
        assert!(!format!("{:?}", bundle()).contains("9, 9"));
        assert_ne!(secret.derive("a"), secret.derive("b"));
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Bundle::parse(&format!("{PREFIX}{}", base64url::encode(&bytes)));
        }
    }
}
