//! The place of one party in one hour: its keys, and what it puts there.

use super::value::{self, Stamp};
use crate::{
    bundle::RendezvousSecret,
    limits::{RENDEZVOUS_LIFETIME_SECONDS, RENDEZVOUS_PLAIN_BYTES},
    message::{PROTOCOL_VERSION, Pid, Whereabouts},
    peer_id::PeerId,
};
use chacha20::ChaCha20Rng;
use quorate_identity::{
    B64, Code, Did, Digest, Rejection, SigningKey, UnixTime, Unverified, Verified, sign,
};
use rand_core::Rng;
use std::fmt;
use zeroize::Zeroizing;

/// Bytes before the padded text that say how long it is.
const LENGTH_BYTES: usize = 2;

/// Keys of party `pid` in hour `hour`: known to whoever holds the session's secret.
pub struct Slot {
    pid: Pid,
    hour: u64,
    sid: B64<32>,
    signing: SigningKey,
    sealing: Zeroizing<[u8; 32]>,
}

impl Slot {
    /// Derives the keys.
    pub fn derive(secret: &RendezvousSecret, sid: &B64<32>, pid: Pid, hour: u64) -> Self {
        let key = |label: &[u8; 3]| {
            let pid = pid.0.to_be_bytes();
            secret.expand(&[label.as_slice(), &sid.0, &pid, &hour.to_be_bytes()])
        };
        Self {
            pid,
            hour,
            sid: *sid,
            signing: SigningKey::from_seed(&key(b"rdv")),
            sealing: key(b"enc"),
        }
    }

    /// Whose place it is.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Where nodes keep it.
    pub fn locator(&self) -> [u8; 32] {
        value::locator(self.signing.public().as_bytes())
    }

    /// Signs and seals whereabouts, as many of the addresses as fit.
    pub(super) fn publish(
        &self,
        news: &News<'_>,
        key: &SigningKey,
        rng: &mut ChaCha20Rng,
        at: UnixTime,
    ) -> Result<Vec<u8>, Rejection> {
        let whereabouts = Whereabouts {
            v: PROTOCOL_VERSION,
            iss: key.did(),
            sid: self.sid,
            hour: self.hour,
            seq: news.seq,
            peer: news.peer,
            addr: news.addresses.to_vec(),
            join: news.join,
            iat: at,
            exp: at.plus_seconds(RENDEZVOUS_LIFETIME_SECONDS),
        };
        let signed = sign_what_fits(whereabouts, key)?;
        let mut nonce = [0; 24];
        rng.fill_bytes(&mut nonce);
        Ok(self.seal(&signed, &nonce))
    }

    /// Seals signed whereabouts. The nonce is to be random.
    pub fn seal(&self, signed: &Verified<Whereabouts>, nonce: &[u8; 24]) -> Vec<u8> {
        let stamp = Stamp {
            seq: signed.seq,
            exp: signed.exp,
        };
        self.seal_text(signed.text(), stamp, nonce)
    }

    /// Seals any text that fits: what an honest party never does, and a test has to.
    pub fn seal_text(&self, text: &str, stamp: Stamp, nonce: &[u8; 24]) -> Vec<u8> {
        let mut plain = Zeroizing::new([0_u8; RENDEZVOUS_PLAIN_BYTES]);
        let room = plain.len() - LENGTH_BYTES;
        let text = &text.as_bytes()[..text.len().min(room)];
        let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
        plain[..LENGTH_BYTES].copy_from_slice(&length.to_be_bytes());
        plain[LENGTH_BYTES..LENGTH_BYTES + text.len()].copy_from_slice(text);
        value::compose(&self.signing, &self.sealing, stamp, nonce, &plain)
    }

    /// Opens a value that a node gave for this place. The signature of the DID `did` is still to be checked.
    pub fn open(
        &self,
        did: &Did,
        value: &[u8],
        at: UnixTime,
    ) -> Result<Unverified<Whereabouts>, Rejection> {
        let stamp = value::check_value(&self.locator(), value, at)?;
        let plain = value::open(&self.sealing, value)?;
        let parsed = Unverified::<Whereabouts>::parse(unpad(&*plain)?)?;
        let claims = parsed.claims_unproven();
        let refuse = |code, rule, text| Err(Rejection::new(code, rule, text));
        if claims.iss != *did {
            return refuse(
                Code::Kid,
                "S13.8",
                "the whereabouts are those of another party",
            );
        }
        if claims.sid != self.sid || claims.hour != self.hour {
            return refuse(
                Code::Stale,
                "S13.9",
                "the whereabouts are of another session or hour",
            );
        }
        if (claims.seq, claims.exp) != (stamp.seq, stamp.exp) {
            return refuse(
                Code::Stale,
                "S13.9",
                "the whereabouts are older than their envelope says",
            );
        }
        Ok(parsed)
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot")
            .field("pid", &self.pid)
            .field("hour", &self.hour)
            .field("keys", &"(secret)")
            .finish_non_exhaustive()
    }
}

/// What a party publishes.
pub(super) struct News<'a> {
    pub seq: u64,
    pub peer: PeerId,
    pub addresses: &'a [String],
    pub join: Digest,
}

/// The last addresses, which are the least good ones, are left out until the text fits.
fn sign_what_fits(
    mut whereabouts: Whereabouts,
    key: &SigningKey,
) -> Result<Verified<Whereabouts>, Rejection> {
    loop {
        let signed = sign(whereabouts.clone(), key)?;
        if signed.text().len() + LENGTH_BYTES <= RENDEZVOUS_PLAIN_BYTES {
            return Ok(signed);
        }
        if whereabouts.addr.pop().is_none() {
            let text = "the whereabouts do not fit into a rendezvous record";
            return Err(Rejection::new(Code::Limit, "S13.7", text));
        }
    }
}

fn unpad(plain: &[u8]) -> Result<&str, Rejection> {
    let refuse = || {
        let text = "the inside of a rendezvous record is not padded text";
        Rejection::new(Code::Format, "S13.5", text)
    };
    let (length, rest) = plain.split_first_chunk().ok_or_else(refuse)?;
    let length = usize::from(u16::from_be_bytes(*length));
    let (text, padding) = rest.split_at_checked(length).ok_or_else(refuse)?;
    if padding.iter().any(|byte| *byte != 0) {
        return Err(refuse());
    }
    std::str::from_utf8(text).map_err(|_| refuse())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_with_another_key_is_refused() {
        let secret = RendezvousSecret::new([7; 32]);
        let mut slot = Slot::derive(&secret, &B64([1; 32]), Pid(1), 5);
        let did = slot.signing.did();
        let exp = UnixTime(5 * 3600);
        let sealing = slot.sealing.clone();
        slot.sealing[0] ^= 1;
        let value = slot.seal_text("", Stamp { seq: 1, exp }, &[2; 24]);
        slot.sealing = sealing;
        let refused = slot.open(&did, &value, exp).expect_err("another key");
        assert_eq!((refused.code, refused.rule), (Code::Sealed, "S13.5"));
    }
}
