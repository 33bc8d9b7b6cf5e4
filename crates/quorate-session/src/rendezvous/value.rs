//! The envelope of a rendezvous record: what nodes see, check and keep.
//!
//! ```text
//! 0        32      40      48      112       136                        1,688
//! │ pk     │ seq   │ exp   │ sig   │ nonce   │ ciphertext and tag       │     integers big-endian
//! ```
//! `sig` covers all that stands before and behind it; the ciphertext is bound to `pk`, `seq` and `exp` as well.

use crate::limits::{RENDEZVOUS_LIFETIME_SECONDS, RENDEZVOUS_PLAIN_BYTES, RENDEZVOUS_VALUE_BYTES};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305, aead::AeadInPlace};
use quorate_identity::{CLOCK_SKEW_SECONDS, Code, PublicKey, Rejection, SigningKey, UnixTime};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

const SEQ: usize = 32;
const EXP: usize = 40;
const SIG: usize = 48;
const NONCE: usize = 112;
const BODY: usize = 136;
const TAG_BYTES: usize = 16;
const _: () = assert!(BODY + RENDEZVOUS_PLAIN_BYTES + TAG_BYTES == RENDEZVOUS_VALUE_BYTES);

/// What a node can read of a record's age.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp {
    /// Larger with every publication.
    pub seq: u64,
    /// Not kept after this time.
    pub exp: UnixTime,
}

/// Where nodes keep what `pk` signs.
pub(super) fn locator(pk: &[u8; 32]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(b"quorate/1/rdv");
    hash.update(pk);
    hash.finalize().into()
}

/// Checks what every node checks before it keeps or passes on `value` under `key`. Costs one signature at most.
pub fn check_value(key: &[u8], value: &[u8], at: UnixTime) -> Result<Stamp, Rejection> {
    let refuse = |code, rule, text| Err(Rejection::new(code, rule, text));
    let (Some(pk), Some(sig), true) = (
        value.first_chunk::<32>(),
        value.get(SIG..).and_then(|rest| rest.first_chunk::<64>()),
        value.len() == RENDEZVOUS_VALUE_BYTES,
    ) else {
        return refuse(
            Code::Limit,
            "S13.1",
            "a rendezvous record of another size than all",
        );
    };
    if key != locator(pk) {
        return refuse(
            Code::Key,
            "S13.2",
            "a rendezvous record under a key that is not its own",
        );
    }
    let stamp = stamp(value);
    if at > stamp.exp.plus_seconds(CLOCK_SKEW_SECONDS) {
        return refuse(Code::Time, "S13.3", "the rendezvous record is expired");
    }
    let latest = at.plus_seconds(CLOCK_SKEW_SECONDS);
    let seq_latest = u64::try_from(latest.0).unwrap_or(0).saturating_mul(1000);
    if stamp.exp > latest.plus_seconds(RENDEZVOUS_LIFETIME_SECONDS) || stamp.seq > seq_latest {
        return refuse(
            Code::Time,
            "S13.3",
            "the rendezvous record is from the future",
        );
    }
    let signer = PublicKey::from_bytes(pk)?;
    if !signer.verify(&signed(value), sig) {
        return refuse(
            Code::Sig,
            "S13.4",
            "the signature of the rendezvous record does not match",
        );
    }
    Ok(stamp)
}

/// Whether a node that keeps `old` takes `new` in its place; both were checked.
pub fn may_replace(old: &[u8], new: &[u8]) -> Result<(), Rejection> {
    let newer = old.len() != RENDEZVOUS_VALUE_BYTES
        || new.len() != RENDEZVOUS_VALUE_BYTES
        || stamp(new).seq > stamp(old).seq;
    if newer || old == new {
        return Ok(());
    }
    let text = "a newer rendezvous record is there already";
    Err(Rejection::new(Code::Stale, "S13.4", text))
}

/// Signs and seals `plain`.
pub(super) fn compose(
    signing: &SigningKey,
    sealing: &[u8; 32],
    stamp: Stamp,
    nonce: &[u8; 24],
    plain: &[u8; RENDEZVOUS_PLAIN_BYTES],
) -> Vec<u8> {
    let mut value = Vec::with_capacity(RENDEZVOUS_VALUE_BYTES);
    value.extend_from_slice(signing.public().as_bytes());
    value.extend_from_slice(&stamp.seq.to_be_bytes());
    value.extend_from_slice(&u64::try_from(stamp.exp.0).unwrap_or(0).to_be_bytes());
    let bound = value.clone();
    value.extend_from_slice(&[0; 64]);
    value.extend_from_slice(nonce);
    value.extend_from_slice(plain);
    let tag = XChaCha20Poly1305::new(sealing.into()).encrypt_in_place_detached(
        nonce.into(),
        &bound,
        &mut value[BODY..],
    );
    debug_assert!(tag.is_ok(), "the text is far below the cipher's limit");
    value.extend_from_slice(&tag.unwrap_or_default());
    let signature = signing.sign_bytes(&signed(&value));
    value[SIG..NONCE].copy_from_slice(&signature);
    value
}

/// The padded text of a checked value.
pub(super) fn open(
    sealing: &[u8; 32],
    value: &[u8],
) -> Result<Zeroizing<[u8; RENDEZVOUS_PLAIN_BYTES]>, Rejection> {
    let refuse = || {
        let text = "a rendezvous record that was not sealed for this session";
        Rejection::new(Code::Sealed, "S13.5", text)
    };
    let mut plain = Zeroizing::new([0; RENDEZVOUS_PLAIN_BYTES]);
    let body = value.get(BODY..).ok_or_else(refuse)?;
    let (text, tag) = body
        .split_at_checked(RENDEZVOUS_PLAIN_BYTES)
        .ok_or_else(refuse)?;
    plain.copy_from_slice(text);
    let nonce: &[u8; 24] = value[NONCE..].first_chunk().ok_or_else(refuse)?;
    let tag: &[u8; TAG_BYTES] = tag.first_chunk().ok_or_else(refuse)?;
    XChaCha20Poly1305::new(sealing.into())
        .decrypt_in_place_detached(nonce.into(), &value[..SIG], &mut *plain, tag.into())
        .map_err(|_| refuse())?;
    Ok(plain)
}

/// Of a value that is long enough.
fn stamp(value: &[u8]) -> Stamp {
    let number = |from: usize| {
        let bytes = value.get(from..).and_then(|rest| rest.first_chunk::<8>());
        u64::from_be_bytes(bytes.copied().unwrap_or_default())
    };
    Stamp {
        seq: number(SEQ),
        exp: UnixTime(i64::try_from(number(EXP)).unwrap_or(i64::MAX)),
    }
}

fn signed(value: &[u8]) -> Vec<u8> {
    let (before, after) = (&value[..SIG], &value[NONCE..]);
    [b"quorate/1/rdv-value\0".as_slice(), before, after].concat()
}
