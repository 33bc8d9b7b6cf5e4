//! DID resolution as a question that a pure core can ask (DID Core 1.0, section 7.1).
//!
//! `did:key` is answered at once from the DID itself, through ssi's method implementation and our
//! own strict reading of its document. Other methods need the network: their resolver answers
//! `None` here, and the shell brings the answer later.

use std::{
    future::Future,
    pin::pin,
    task::{Context, Poll, Waker},
};

use did_method_key::DIDKey;
use ssi_dids_core::{
    Document,
    document::{DIDVerificationMethod, verification_method::ValueOrReference},
    resolution::{DIDMethodResolver, Options},
};

use crate::{Code, Did, KeyId, PublicKey, Rejection};

/// Most verification methods that are read from one document.
const MAX_METHODS: usize = 64;

/// What a key may be used for (DID Core 1.0, section 5.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relationship {
    /// To issue credentials, such as invitations.
    AssertionMethod,
    /// To act as the DID, such as to join a session.
    Authentication,
}

/// One Ed25519 key of a DID document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerificationKey {
    /// Its absolute DID URL.
    pub id: KeyId,
    /// The key.
    pub key: PublicKey,
    /// Listed under `assertionMethod`.
    pub assertion: bool,
    /// Listed under `authentication`.
    pub authentication: bool,
}

impl VerificationKey {
    /// Whether the document allows this use.
    pub fn allows(&self, relationship: Relationship) -> bool {
        match relationship {
            Relationship::AssertionMethod => self.assertion,
            Relationship::Authentication => self.authentication,
        }
    }
}

/// The keys of a DID, as far as this protocol can use them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedDid {
    /// The DID that was resolved; the `id` of its document.
    pub did: Did,
    /// Its Ed25519 keys.
    pub keys: Vec<VerificationKey>,
}

impl ResolvedDid {
    /// The key with this id.
    pub fn method(&self, id: &KeyId) -> Option<&VerificationKey> {
        self.keys.iter().find(|k| k.id == *id)
    }

    /// Reads a DID document: only `Multikey` methods with an Ed25519 key controlled by the DID itself
    /// count, and only under the relationships that the document lists.
    pub fn from_document(did: &Did, document: &Document) -> Result<Self, Rejection> {
        let refuse = |why: String| Rejection::new(Code::DidResolve, "D3", why).about(did.clone());
        if document.id.as_str() != did.as_str() {
            return Err(refuse(format!("the document is that of {}", document.id)));
        }
        if document.verification_method.len() > MAX_METHODS {
            return Err(refuse("too many verification methods".into()));
        }
        let relationships = &document.verification_relationships;
        let lists = |list: &[ValueOrReference], method: &DIDVerificationMethod| {
            list.len() <= MAX_METHODS
                && list
                    .iter()
                    .any(|v| v.id().resolve(&document.id).as_str() == method.id.as_str())
        };
        let keys = document
            .verification_method
            .iter()
            .filter_map(|method| {
                let key = usable_key(did, method)?;
                Some(VerificationKey {
                    id: method.id.as_str().parse().ok()?,
                    key,
                    assertion: lists(&relationships.assertion_method, method),
                    authentication: lists(&relationships.authentication, method),
                })
            })
            .collect::<Vec<_>>();
        if keys.is_empty() {
            return Err(refuse("the document lists no usable Ed25519 key".into()));
        }
        Ok(Self {
            did: did.clone(),
            keys,
        })
    }
}

fn usable_key(did: &Did, method: &DIDVerificationMethod) -> Option<PublicKey> {
    if method.type_ != "Multikey" || method.controller.as_str() != did.as_str() {
        return None;
    }
    let text = method.properties.get("publicKeyMultibase")?.as_str()?;
    PublicKey::from_multibase(text).ok()
}

/// Answers what keys a DID has, now or not at all.
pub trait Resolver {
    /// The keys of `did`; `None` when somebody has to be asked, so that the answer comes later.
    fn resolve(&self, did: &Did) -> Option<Result<ResolvedDid, Rejection>>;
}

/// Resolves `did:key` without any I/O.
#[derive(Debug, Clone, Copy, Default)]
pub struct DidKeyResolver;

impl Resolver for DidKeyResolver {
    fn resolve(&self, did: &Did) -> Option<Result<ResolvedDid, Rejection>> {
        let id = did.as_str().strip_prefix("did:key:")?;
        Some(resolve_did_key(did, id))
    }
}

fn resolve_did_key(did: &Did, id: &str) -> Result<ResolvedDid, Rejection> {
    let refuse = |why: String| Rejection::new(Code::DidResolve, "D2", why).about(did.clone());
    let answer = ready(DIDKey.resolve_method_representation(id, Options::default()))
        .ok_or_else(|| refuse("did:key did not resolve at once".into()))?
        .map_err(|e| refuse(e.to_string()))?;
    let document: Document =
        serde_json::from_slice(&answer.document).map_err(|e| refuse(e.to_string()))?;
    let resolved = ResolvedDid::from_document(did, &document)?;
    // A did:key document has one key: the one the DID is made of.
    match (resolved.keys.as_slice(), did.key()) {
        ([only], Some(key)) if only.key == key => Ok(resolved),
        _ => Err(refuse(
            "the document does not hold the key that the DID names".into(),
        )),
    }
}

/// The output of a future that needs no runtime, because it never waits.
fn ready<F: Future>(future: F) -> Option<F::Output> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::SigningKey;

    #[test]
    fn a_did_key_resolves_to_its_own_key_for_both_uses() {
        let key = SigningKey::from_seed(&[5; 32]);
        let resolved = DidKeyResolver.resolve(&key.did()).unwrap().unwrap();
        let method = resolved.method(&key.key_id()).unwrap();
        assert_eq!(method.key, key.public());
        assert!(method.assertion && method.authentication);
    }

    #[test]
    fn did_web_is_a_question_for_somebody_else() {
        assert!(
            DidKeyResolver
                .resolve(&"did:web:uni.example".parse().unwrap())
                .is_none()
        );
    }

    #[test]
    fn a_document_of_another_did_or_with_a_foreign_controller_is_refused() {
        let (a, b) = (
            SigningKey::from_seed(&[5; 32]),
            SigningKey::from_seed(&[6; 32]),
        );
        let document = |id: &SigningKey, controller: &SigningKey, relationship: &str| -> Document {
            serde_json::from_value(serde_json::json!({
                "id": id.did(),
                "verificationMethod": [{"id": a.key_id(), "type": "Multikey", "controller": controller.did(), "publicKeyMultibase": format!("{:?}", a.public())}],
                relationship: [a.key_id()],
            })).unwrap()
        };
        assert!(ResolvedDid::from_document(&a.did(), &document(&b, &a, "authentication")).is_err());
        assert!(ResolvedDid::from_document(&a.did(), &document(&a, &b, "authentication")).is_err());
        let only_auth =
            ResolvedDid::from_document(&a.did(), &document(&a, &a, "authentication")).unwrap();
        assert!(!only_auth.keys[0].assertion && only_auth.keys[0].authentication);
    }
}
