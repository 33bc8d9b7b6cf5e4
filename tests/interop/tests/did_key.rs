//! The `did-key` crate as a second opinion on DIDs, documents and signatures.
//!
//! It panics on some malformed DIDs, so it is only ever given what we made ourselves.

use did_key::{CoreSign, Ed25519KeyPair, Fingerprint, KeyMaterial, from_existing_key, generate};
use quorate_identity::{Did, DidKeyResolver, Resolver, SigningKey};

fn seeds() -> impl Iterator<Item = [u8; 32]> {
    (0..64u8).map(|n| {
        std::array::from_fn(|i| n.wrapping_mul(37).wrapping_add(i as u8).wrapping_mul(101))
    })
}

#[test]
fn both_give_a_seed_the_same_did() {
    for seed in seeds() {
        let theirs = generate::<Ed25519KeyPair>(Some(&seed));
        let ours = SigningKey::from_seed(&seed);
        assert_eq!(
            format!("did:key:{}", theirs.fingerprint()),
            ours.did().as_str()
        );
    }
}

#[test]
fn both_read_the_same_key_out_of_a_did() {
    for seed in seeds() {
        let did: Did = SigningKey::from_seed(&seed).did();
        let theirs = did_key::resolve(did.as_str()).expect("a DID that we made");
        let ours = DidKeyResolver
            .resolve(&did)
            .expect("did:key")
            .expect("a DID that we made");
        assert_eq!(theirs.public_key_bytes(), ours.keys[0].key.as_bytes());
    }
}

#[test]
fn each_verifies_the_signatures_of_the_other() {
    for seed in seeds() {
        let theirs = generate::<Ed25519KeyPair>(Some(&seed));
        let ours = SigningKey::from_seed(&seed);
        let signature: [u8; 64] = theirs.sign(b"message").try_into().expect("64 bytes");
        assert!(ours.public().verify(b"message", &signature));
        assert!(!ours.public().verify(b"massage", &signature));
        let public_only = from_existing_key::<Ed25519KeyPair>(ours.public().as_bytes(), None);
        assert!(
            public_only
                .verify(b"message", &ours.sign_bytes(b"message"))
                .is_ok()
        );
        assert!(
            public_only
                .verify(b"massage", &ours.sign_bytes(b"message"))
                .is_err()
        );
    }
}
