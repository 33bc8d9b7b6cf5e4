//! Snapshot of a DID document: the keys a DID had when the session ran, as far as this protocol uses them.
//!
//! For `did:key` the snapshot says nothing new and MUST be what the DID itself says. For a DID that can change it is what
//! the party resolved; the invitation pins the keys of all parties, so a forged snapshot of a party helps nobody.

use quorate_identity::{
    B64, Code, Did, DidKeyResolver, KeyId, PublicKey, Rejection, ResolvedDid, Resolver,
    VerificationKey,
};
use serde::{Deserialize, Serialize};

/// Most keys of one snapshot; as many as are read from a DID document.
const MAX_SNAPSHOT_KEYS: usize = 64;

/// The usable keys of one DID.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// The DID.
    pub did: Did,
    /// Its Ed25519 keys, in the order of the document.
    pub keys: Vec<SnapshotKey>,
}

/// One verification method.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotKey {
    /// Its absolute DID URL.
    pub id: KeyId,
    /// The Ed25519 public key.
    pub key: B64<32>,
    /// Listed under `assertionMethod`.
    pub assertion: bool,
    /// Listed under `authentication`.
    pub authentication: bool,
}

impl From<&ResolvedDid> for Snapshot {
    fn from(resolved: &ResolvedDid) -> Self {
        let keys = resolved.keys.iter().map(|method| SnapshotKey {
            id: method.id.clone(),
            key: B64(*method.key.as_bytes()),
            assertion: method.assertion,
            authentication: method.authentication,
        });
        Self {
            did: resolved.did.clone(),
            keys: keys.collect(),
        }
    }
}

impl Snapshot {
    /// The keys it stands for.
    pub(super) fn resolve(&self) -> Result<ResolvedDid, Rejection> {
        let refuse = |code, why: &str| {
            let text = format!("the DID document of {}: {why}", self.did);
            Rejection::new(code, "R2", text).about(self.did.clone())
        };
        if self.keys.is_empty() || self.keys.len() > MAX_SNAPSHOT_KEYS {
            return Err(refuse(Code::Limit, "it lists no key, or too many"));
        }
        let mut keys: Vec<VerificationKey> = Vec::new();
        for key in &self.keys {
            if *key.id.did() != self.did || keys.iter().any(|other| other.id == key.id) {
                return Err(refuse(Code::Kid, "a key of another DID, or one twice"));
            }
            keys.push(VerificationKey {
                id: key.id.clone(),
                key: PublicKey::from_bytes(&key.key.0)?,
                assertion: key.assertion,
                authentication: key.authentication,
            });
        }
        let resolved = ResolvedDid {
            did: self.did.clone(),
            keys,
        };
        match DidKeyResolver.resolve(&self.did) {
            Some(itself) if itself.as_ref() != Ok(&resolved) => Err(refuse(
                Code::Record,
                "it is not what the DID itself says: swapped or altered",
            )),
            _ => Ok(resolved),
        }
    }
}
