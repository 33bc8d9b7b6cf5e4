//! Keys whose secrets everybody knows: from specifications, test vectors and tests.
//!
//! They verify like any key, so the protocol itself works with them, in tests above all. Whoever
//! uses one by mistake, copied from a document, signs what anybody else can sign too. The command
//! line refuses them as own identity and as party of an invitation.
//!
//! Limits: the list is what is below; a secret that was published elsewhere is not noticed.
//!
//! Source: RFC 8032, section 7.1; the did:key method's examples and test vectors; VC Data Integrity
//! EdDSA, appendix B; the fixed seeds of this project's own tests and vectors.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use crate::{Code, Did, Rejection, SigningKey};

/// `did:key`s of published secrets that are not made from a simple seed, and where they stand.
const LISTED: &[(&str, &str)] = &[
    (
        "did:key:z6MktwupdmLXVVqTzCw4i46r4uGyosGXRnR3XjN4Zq7oMMsw",
        "RFC 8032, section 7.1, test 1",
    ),
    (
        "did:key:z6MkiaMbhXHNA4eJVCCj8dbzKzTgYDKf6crKgHVHid1F1WCT",
        "RFC 8032, section 7.1, test 2",
    ),
    (
        "did:key:z6MkwSD8dBdqcXQzKJZQFPy2hh2izzxskndKCjdmC2dBpfME",
        "RFC 8032, section 7.1, test 3",
    ),
    (
        "did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK",
        "the examples of the did:key method",
    ),
    (
        "did:key:z6MkrJVnaZkeFzdQyMZu1cgjg7k1pZZ6pvBQ7XJPt4swbTQ2",
        "VC Data Integrity EdDSA, appendix B",
    ),
];

/// Refuses a DID whose secret key is public (`E_KEY`).
pub fn check_published(did: &Did) -> Result<(), Rejection> {
    let listed = LISTED.iter().find(|(known, _)| *known == did.as_str());
    let place = listed.map(|(_, place)| *place);
    let Some(place) = place.or_else(|| simple_seeds().get(did.as_str()).copied()) else {
        return Ok(());
    };
    let text = format!("the secret key of {did} is public ({place}): anybody can be this party");
    Err(Rejection::new(Code::Key, "K2", text).about(did.clone()))
}

/// Keys made from seeds that a person types: one byte repeated, or a small number.
fn simple_seeds() -> &'static BTreeMap<String, &'static str> {
    static MADE: OnceLock<BTreeMap<String, &'static str>> = OnceLock::new();
    MADE.get_or_init(|| {
        let did = |seed: [u8; 32]| SigningKey::from_seed(&seed).did().to_string();
        let mut made = BTreeMap::new();
        for byte in 0..=u8::MAX {
            let (mut first, mut last) = ([0; 32], [0; 32]);
            (first[0], last[31]) = (byte, byte);
            made.insert(did(first), "a seed that is a small number");
            made.insert(did(last), "a seed that is a small number");
            made.insert(did([byte; 32]), "a seed of one repeated byte");
        }
        made.insert(
            did(std::array::from_fn(|i| u8::try_from(i).unwrap_or(0))),
            "a seed that counts upwards",
        );
        made
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn seed(hex: &str) -> [u8; 32] {
        std::array::from_fn(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap())
    }

    #[test]
    fn keys_of_rfc_8032_are_known() {
        for (hex, test) in [
            (
                "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
                "test 1",
            ),
            (
                "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
                "test 2",
            ),
            (
                "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
                "test 3",
            ),
        ] {
            let did = SigningKey::from_seed(&seed(hex)).did();
            let refusal = check_published(&did).expect_err(&format!("{test}: {did}"));
            assert_eq!((refusal.code, refusal.rule), (Code::Key, "K2"));
            assert!(refusal.detail.contains(test), "{}", refusal.detail);
            assert_eq!(refusal.whom, Some(did));
        }
    }

    #[test]
    fn keys_of_the_did_key_vectors_and_of_simple_seeds_are_known() {
        // The first three of the method's test vectors: seeds 0, 1 and 2.
        for did in [
            "did:key:z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp",
            "did:key:z6MkjchhfUsD6mmvni8mCdXHw216Xrm9bQe2mBH1P5RDjVJG",
            "did:key:z6MknGc3ocHs3zdPiJbnaaqDi58NGb4pk1Sp9WxWufuXSdxf",
        ] {
            assert!(check_published(&did.parse().unwrap()).is_err(), "{did}");
        }
        for byte in [0, 1, 9, 255] {
            let did = SigningKey::from_seed(&[byte; 32]).did();
            assert!(check_published(&did).is_err(), "{byte}");
        }
    }

    #[test]
    fn other_keys_are_not_refused() {
        let did =
            SigningKey::from_seed(&std::array::from_fn(|i| u8::try_from(i * 7 % 251).unwrap()))
                .did();
        assert!(check_published(&did).is_ok());
        assert!(check_published(&"did:web:uni.example".parse().unwrap()).is_ok());
    }

    #[test]
    fn every_listed_did_is_one() {
        for (did, _) in LISTED {
            assert!(did.parse::<Did>().is_ok(), "{did}");
        }
    }
}
