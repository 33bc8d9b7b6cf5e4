//! The key that two people share because each knows the other's DID, and what it proves on one link.
//!
//! Source: X25519 of Ed25519 keys in Montgomery form (RFC 7748, section 4.1); using one key for both is covered by
//! Thormarker, "On using the same key pair for Ed25519 and an X25519 based KEM" (2021). HKDF and HMAC with SHA-256.

use crate::peer_id::PeerId;
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use quorate_identity::{B64, Did, Rejection, SigningKey};
use sha2::Sha256;
use std::fmt;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::contact::resolve;

/// What a tag says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Says {
    /// The sender: I have something for you.
    Offer,
    /// The receiver: I am the one it is for.
    Answer,
}

/// Which end of the link is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mine {
    /// We have something for the other DID.
    Sender,
    /// The other DID has something for us.
    Receiver,
}

/// The key of a pair of DIDs.
pub(super) struct PairKey {
    key: Zeroizing<[u8; 32]>,
    own: Did,
    other: Did,
}

impl PairKey {
    /// The key that `key` shares with the holder of `other`; `E_DID_RESOLVE` if its key is not in the DID itself.
    pub fn new(key: &SigningKey, other: &Did) -> Result<Self, Rejection> {
        let resolved = resolve(other)?;
        let public = resolved.keys.first().map(|method| &method.key);
        let public = public.ok_or_else(|| {
            Rejection::new(
                quorate_identity::Code::DidResolve,
                "F9",
                "the DID has no key",
            )
        })?;
        let own = key.did();
        let (low, high) = if own <= *other {
            (&own, other)
        } else {
            (other, &own)
        };
        let shared = key.agree(public);
        let mut pair = Zeroizing::new([0; 32]);
        let info = [
            b"quorate/1/post",
            low.as_str().as_bytes(),
            high.as_str().as_bytes(),
        ]
        .join(&0);
        let expanded = Hkdf::<Sha256>::new(Some(b"quorate/1"), &*shared).expand(&info, &mut *pair);
        debug_assert!(expanded.is_ok(), "32 bytes are within HKDF's output");
        Ok(Self {
            key: pair,
            own,
            other: other.clone(),
        })
    }

    /// What `says` looks like between these two ends. It also says which DID is the sender: the key is the same in both
    /// directions, and one identity may send on one machine and wait on another.
    pub fn tag(&self, says: Says, mine: Mine, sender: &PeerId, receiver: &PeerId) -> B64<16> {
        let mut tag = B64([0; 16]);
        let Ok(mut mac) = <Hmac<Sha256> as Mac>::new_from_slice(&*self.key) else {
            // HMAC takes keys of any length (RFC 2104).
            return tag;
        };
        mac.update(match says {
            Says::Offer => b"offer",
            Says::Answer => b"answer",
        });
        let (from, to) = match mine {
            Mine::Sender => (&self.own, &self.other),
            Mine::Receiver => (&self.other, &self.own),
        };
        for part in [
            from.as_str(),
            to.as_str(),
            &sender.to_string(),
            &receiver.to_string(),
        ] {
            mac.update(&[0]);
            mac.update(part.as_bytes());
        }
        tag.0.copy_from_slice(&mac.finalize().into_bytes()[..16]);
        tag
    }
}

impl fmt::Debug for PairKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// Compares in constant time.
pub(super) fn same(left: &B64<16>, right: &B64<16>) -> bool {
    left.0.ct_eq(&right.0).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_seed(&[seed; 32])
    }

    fn peer(seed: u8) -> PeerId {
        PeerId::of(&key(seed).public())
    }

    #[test]
    fn both_ends_make_the_same_tag_and_nobody_else_does() {
        let pair = |a: u8, b: u8| PairKey::new(&key(a), &key(b).did()).expect("a did:key");
        let tag = |pair: &PairKey, mine| pair.tag(Says::Offer, mine, &peer(8), &peer(9));
        let sent = tag(&pair(1, 2), Mine::Sender);
        assert!(same(&sent, &tag(&pair(2, 1), Mine::Receiver)));
        assert!(!same(&sent, &tag(&pair(1, 3), Mine::Sender)));
        assert!(
            !same(&sent, &tag(&pair(1, 2), Mine::Receiver)),
            "our own offer to the other"
        );
        assert_eq!(format!("{:?}", pair(1, 2)), "(secret)");
    }

    #[test]
    fn tags_differ_by_what_they_say_and_between_whom() {
        let pair = PairKey::new(&key(1), &key(2).did()).expect("a did:key");
        let all = BTreeSet::from([
            pair.tag(Says::Offer, Mine::Sender, &peer(8), &peer(9)),
            pair.tag(Says::Answer, Mine::Sender, &peer(8), &peer(9)),
            pair.tag(Says::Offer, Mine::Sender, &peer(9), &peer(8)),
            pair.tag(Says::Offer, Mine::Sender, &peer(8), &peer(7)),
        ]);
        assert_eq!(all.len(), 4);
    }
}
