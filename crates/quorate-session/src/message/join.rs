//! Join: a party takes part in one epoch, with keys that are fresh in it.
//!
//! Limits: about 3.7 KB; see `limits`. Security: the DID signature covers all keys; `peerSig` shows that the overlay key's
//! holder agreed to be this party in this epoch with this WireGuard key, so nobody can claim another's PeerId. Does not
//! prove possession of the WireGuard and KEM keys: a copied key gives its copier nothing, and is `E_DUPLICATE_KEY`.

use super::{Pid, check_version, issued};
use crate::{
    keys::{check_encapsulation_key, check_wireguard_key},
    limits::{MAX_VALIDITY_SECONDS, MAX_VERSION_BYTES},
    manifest::ContentDigest,
    peer_id::PeerId,
};
use quorate_identity::{
    B64, Code, Did, Digest, Rejection, Relationship, Statement, UnixMillis, UnixTime, Validity,
};
use serde::{Deserialize, Serialize};

/// The KEM of this protocol version: X-Wing.
pub const JOIN_KEM: &str = "MLKEM768-X25519";

/// A party's request to take part, with its keys of this epoch.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Join {
    /// Protocol version.
    pub v: u8,
    /// The party.
    pub iss: Did,
    /// Digest of the invitation.
    pub inv: Digest,
    /// The party's position in the invitation.
    pub pid: Pid,
    /// Milliseconds clock of the party, larger with every join.
    pub epoch: UnixMillis,
    /// Nonce.
    pub n: B64<16>,
    /// WireGuard public key.
    pub wg: B64<32>,
    /// KEM key; optional on the wire only so that its absence has its own refusal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kem: Option<KemKey>,
    /// Overlay identity of this epoch.
    pub peer: PeerId,
    /// Signature of the overlay key over [`peer_signature_input`].
    #[serde(rename = "peerSig")]
    pub peer_sig: B64<64>,
    /// What the party would run.
    pub fp: Fingerprint,
    /// Issued at.
    pub iat: UnixTime,
    /// Expires at.
    pub exp: UnixTime,
}

/// A KEM encapsulation key and its algorithm.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KemKey {
    /// [`JOIN_KEM`].
    pub alg: String,
    /// Encapsulation key: ML-KEM-768 (1184 bytes) and X25519 (32 bytes).
    pub ek: B64<1216>,
}

/// What one party would run the program with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fingerprint {
    /// Version of quorate.
    pub quorate: String,
    /// Version of MPyC.
    pub mpyc: String,
    /// Version of Python.
    pub python: String,
    /// Word size in bits.
    pub word: u8,
    /// Digest of the program's manifest.
    pub program: ContentDigest,
    /// Digest of the environment's lock file, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<ContentDigest>,
}

impl Fingerprint {
    fn check(&self) -> Result<(), Rejection> {
        for text in [&self.quorate, &self.mpyc, &self.python] {
            if text.len() > MAX_VERSION_BYTES || !text.bytes().all(|b| b.is_ascii_graphic()) {
                return Err(Rejection::new(
                    Code::Format,
                    "S4",
                    "a version in the fingerprint is not a short ASCII word",
                ));
            }
        }
        Ok(())
    }
}

/// What the overlay key signs in a join: `'quorate/1/peer' || 0 || D_inv || iss || 0 || epoch (u64 be) || wg`.
pub fn peer_signature_input(inv: &Digest, iss: &Did, epoch: UnixMillis, wg: &B64<32>) -> Vec<u8> {
    let mut input = b"quorate/1/peer\0".to_vec();
    input.extend_from_slice(&inv.0);
    input.extend_from_slice(iss.as_str().as_bytes());
    // The DID is the only part of variable length; a zero, which no DID contains, ends it.
    input.push(0);
    input.extend_from_slice(&epoch.0.to_be_bytes());
    input.extend_from_slice(&wg.0);
    input
}

impl Statement for Join {
    const TYP: &'static str = "quorate-join+jwt";
    const RELATIONSHIP: Relationship = Relationship::Authentication;

    fn issuer(&self) -> &Did {
        &self.iss
    }

    fn validity(&self) -> Validity {
        Validity {
            not_after: Some(self.exp),
            ..issued(self.iat)
        }
    }

    fn check(&self) -> Result<(), Rejection> {
        check_version(self.v)?;
        if !(0..=MAX_VALIDITY_SECONDS).contains(&self.exp.0.saturating_sub(self.iat.0)) {
            return Err(Rejection::new(
                Code::Time,
                "S4",
                "a join must live 7 days at most",
            ));
        }
        self.fp.check()?;
        check_wireguard_key(&self.wg.0)?;
        match &self.kem {
            Some(kem) if kem.alg == JOIN_KEM => check_encapsulation_key(&kem.ek.0)?,
            _ => {
                return Err(Rejection::new(
                    Code::Pq,
                    "S4",
                    format!("the join has no {JOIN_KEM} key"),
                ));
            }
        }
        let input = peer_signature_input(&self.inv, &self.iss, self.epoch, &self.wg);
        if !self.peer.public_key()?.verify(&input, &self.peer_sig.0) {
            return Err(Rejection::new(
                Code::Sig,
                "S4",
                "peerSig is not by the overlay key that the join names",
            ));
        }
        Ok(())
    }
}
