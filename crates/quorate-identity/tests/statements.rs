//! What a hostile sender can do to a signed statement, and what comes of it.

#![allow(clippy::unwrap_used)]

use quorate_identity::{
    CLOCK_SKEW_SECONDS, Code, Credential, Did, DidKeyResolver, KeyId, MAX_STATEMENT_BYTES,
    Rejection, Relationship, ResolvedDid, Resolver, SigningKey, Statement, Subject, UnixTime,
    Unverified, Validity, Verified, base64url, sign,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

const NOW: UnixTime = UnixTime(1_795_348_800);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Join {
    iss: Did,
    exp: UnixTime,
    text: String,
}

impl Statement for Join {
    const TYP: &'static str = "quorate-join+jwt";
    const RELATIONSHIP: Relationship = Relationship::Authentication;
    fn issuer(&self) -> &Did {
        &self.iss
    }
    fn validity(&self) -> Validity {
        Validity {
            not_before: None,
            not_after: Some(self.exp),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Terms {
    title: String,
}

impl Subject for Terms {
    const TYPE: &'static str = "QuorateTest";
    fn check(&self) -> Result<(), Rejection> {
        Ok(())
    }
}

fn key(n: u8) -> SigningKey {
    SigningKey::from_seed(&[n; 32])
}

fn keys(key: &SigningKey) -> ResolvedDid {
    DidKeyResolver.resolve(&key.did()).unwrap().unwrap()
}

fn join() -> Join {
    Join {
        iss: key(1).did(),
        exp: NOW.plus_seconds(60),
        text: "x".into(),
    }
}

/// A compact JWS of any header and payload, signed with `signer`: what a forger can make.
fn forge(header: &Value, payload: &str, signer: &SigningKey) -> String {
    let input = format!(
        "{}.{}",
        base64url::encode(header.to_string().as_bytes()),
        base64url::encode(payload.as_bytes())
    );
    let signature = signer.sign_bytes(input.as_bytes());
    format!("{input}.{}", base64url::encode(&signature))
}

fn header(signer: &SigningKey) -> Value {
    json!({"alg": "EdDSA", "typ": "quorate-join+jwt", "kid": signer.key_id()})
}

fn payload() -> String {
    serde_json::to_string(&join()).unwrap()
}

fn verify(text: &str) -> Result<Verified<Join>, Rejection> {
    Unverified::<Join>::parse(text)?.verify(&keys(&key(1)), NOW)
}

fn code_of(text: &str) -> Code {
    verify(text)
        .map(|v| v.text().clone())
        .expect_err("it was accepted")
        .code
}

#[test]
fn an_honest_statement_is_accepted_and_keeps_its_bytes_and_name() {
    let signed = sign(join(), &key(1)).unwrap();
    let verified = verify(signed.text()).unwrap();
    assert_eq!(*verified, join());
    assert_eq!(verified.text(), signed.text());
    assert_eq!(verified.digest(), signed.digest());
    assert_eq!(verified.key(), &key(1).public());
}

#[test]
fn the_fully_specified_algorithm_name_of_rfc_9864_is_accepted() {
    let mut h = header(&key(1));
    h["alg"] = "Ed25519".into();
    assert!(verify(&forge(&h, &payload(), &key(1))).is_ok());
}

#[test]
fn a01_forged_with_a_wrong_key() {
    assert_eq!(
        code_of(&forge(&header(&key(1)), &payload(), &key(2))),
        Code::Sig
    );
}

#[test]
fn a02_other_algorithms() {
    for alg in [
        json!("none"),
        json!("HS256"),
        json!("ES256"),
        json!("eddsa"),
        json!(null),
        json!(["EdDSA"]),
    ] {
        let mut h = header(&key(1));
        h["alg"] = alg;
        assert_eq!(code_of(&forge(&h, &payload(), &key(1))), Code::Alg, "{h}");
    }
    let unsigned = forge(&header(&key(1)), &payload(), &key(1));
    let (input, _) = unsigned.rsplit_once('.').unwrap();
    assert_eq!(code_of(&format!("{input}.")), Code::Format);
}

#[test]
fn a03_a_key_of_another_did_or_without_the_relationship() {
    assert_eq!(
        code_of(&forge(&header(&key(2)), &payload(), &key(2))),
        Code::Kid
    );
    for kid in [
        json!("#x"),
        json!("z6Mk"),
        json!(7),
        json!(null),
        json!(key(1).did()),
    ] {
        let mut h = header(&key(1));
        h["kid"] = kid;
        assert_eq!(code_of(&forge(&h, &payload(), &key(1))), Code::Kid, "{h}");
    }
    let absent: KeyId = format!("{}#other", key(1).did()).parse().unwrap();
    let mut h = header(&key(1));
    h["kid"] = json!(absent);
    assert_eq!(code_of(&forge(&h, &payload(), &key(1))), Code::Kid);

    let mut assertion_only = keys(&key(1));
    assertion_only.keys[0].authentication = false;
    let unverified = Unverified::<Join>::parse(sign(join(), &key(1)).unwrap().text()).unwrap();
    assert_eq!(
        unverified.verify(&assertion_only, NOW).unwrap_err().code,
        Code::Kid
    );
}

#[test]
fn a04_headers_that_choose_keys_or_types() {
    for (name, value) in [
        ("jwk", json!({"kty": "OKP"})),
        ("jku", json!("https://x.example")),
        ("x5u", json!("https://x.example")),
        ("x5c", json!([])),
        ("crit", json!(["b64"])),
        ("b64", json!(false)),
        ("zip", json!("DEF")),
        ("cty", json!("vc")),
    ] {
        let mut h = header(&key(1));
        h[name] = value;
        assert_eq!(
            code_of(&forge(&h, &payload(), &key(1))),
            Code::Header,
            "{name}"
        );
    }
    for typ in [
        json!("quorate-confirm+jwt"),
        json!("vc+jwt"),
        json!("JWT"),
        json!("quorate-join+JWT"),
        json!(null),
    ] {
        let mut h = header(&key(1));
        h["typ"] = typ;
        assert_eq!(
            code_of(&forge(&h, &payload(), &key(1))),
            Code::Header,
            "{h}"
        );
    }
}

#[test]
fn a05_times_outside_and_times_of_other_types() {
    let at = |exp: i64| {
        sign(
            Join {
                exp: UnixTime(exp),
                ..join()
            },
            &key(1),
        )
        .unwrap()
    };
    let check = |exp: i64| verify(at(exp).text()).map(drop);
    assert!(
        check(NOW.0 - CLOCK_SKEW_SECONDS).is_ok(),
        "within the skew of honest clocks"
    );
    assert_eq!(
        check(NOW.0 - CLOCK_SKEW_SECONDS - 1).unwrap_err().code,
        Code::Time
    );
    assert_eq!(check(-1).unwrap_err().code, Code::Time);
    for exp in [
        "\"1795348800\"",
        "1795348800.0",
        "1e99",
        "9223372036854775808",
        "null",
        "true",
    ] {
        let text = format!(r#"{{"iss":"{}","exp":{exp},"text":"x"}}"#, key(1).did());
        assert_eq!(
            code_of(&forge(&header(&key(1)), &text, &key(1))),
            Code::Format,
            "{exp}"
        );
    }
}

#[test]
fn a06_bombs_and_ambiguities_are_refused_without_growing() {
    let did = key(1).did();
    for text in [
        format!(r#"{{"iss":"{did}","exp":1,"exp":2,"text":"x"}}"#),
        format!(r#"{{"iss":"{did}","exp":1,"text":"x","more":1}}"#),
        format!(r#"{{"iss":"{did}","exp":1}}"#),
        format!("{}{}", "[".repeat(1000), "]".repeat(1000)),
    ] {
        assert_eq!(
            code_of(&forge(&header(&key(1)), &text, &key(1))),
            Code::Format
        );
    }
    let large = "A".repeat(10_000_000);
    assert_eq!(code_of(&large), Code::Format);
    assert_eq!(code_of(&format!("{large}.{large}.{large}")), Code::Format);
    assert_eq!(code_of(&"A".repeat(MAX_STATEMENT_BYTES + 1)), Code::Format);
    for text in [
        "",
        ".",
        "..",
        "...",
        "a.b",
        "a.b.c.d",
        "\u{0}.\u{0}.\u{0}",
        "é.é.é",
    ] {
        assert_eq!(code_of(text), Code::Format, "{text:?}");
    }
}

#[test]
fn a06_an_array_in_the_place_of_an_object() {
    let text = format!(r#"["{}",{},"x"]"#, key(1).did(), NOW.0);
    assert_eq!(
        code_of(&forge(&header(&key(1)), &text, &key(1))),
        Code::Format
    );
}

#[test]
fn a07_any_flipped_bit_is_refused() {
    let honest = sign(join(), &key(1)).unwrap();
    for position in 0..honest.text().len() {
        for bit in 0..7 {
            let mut bytes = honest.text().as_bytes().to_vec();
            bytes[position] ^= 1 << bit;
            let text = String::from_utf8(bytes).unwrap();
            assert!(
                verify(&text).is_err(),
                "bit {bit} of byte {position}: {text}"
            );
        }
    }
}

#[test]
fn a08_other_encodings_of_the_same_statement() {
    let honest = sign(join(), &key(1)).unwrap();
    let text = honest.text();
    assert_eq!(code_of(&format!("{text}=")), Code::Format);
    assert_eq!(code_of(&format!("{text}\n")), Code::Format);
    assert_eq!(code_of(&format!(" {text}")), Code::Format);
    // The digest names content, not signature bytes: another signer's text of it has the same name.
    let (input, _) = text.rsplit_once('.').unwrap();
    let other = format!(
        "{input}.{}",
        base64url::encode(&key(2).sign_bytes(input.as_bytes()))
    );
    assert_eq!(
        Unverified::<Join>::parse(&other).unwrap().digest(),
        honest.digest()
    );
}

#[test]
fn a_foreign_document_never_verifies() {
    let unverified = Unverified::<Join>::parse(sign(join(), &key(1)).unwrap().text()).unwrap();
    assert_eq!(
        unverified.verify(&keys(&key(2)), NOW).unwrap_err().code,
        Code::Kid
    );
}

#[test]
fn nobody_signs_in_another_name() {
    assert_eq!(sign(join(), &key(2)).unwrap_err().code, Code::Kid);
}

fn terms() -> Credential<Terms> {
    Credential {
        id: "urn:uuid:00000000-0000-4000-8000-000000000000".into(),
        issuer: key(1).did(),
        valid_from: NOW,
        valid_until: NOW.plus_seconds(600),
        subject: Terms { title: "t".into() },
    }
}

#[test]
fn a_credential_has_the_exact_envelope_of_vc_2() {
    let signed = sign(terms(), &key(1)).unwrap();
    let payload = base64url::decode(signed.text().split('.').nth(1).unwrap()).unwrap();
    let value: Value = serde_json::from_slice(&payload).unwrap();
    assert_eq!(value["@context"][0], "https://www.w3.org/ns/credentials/v2");
    assert_eq!(
        value["type"],
        json!(["VerifiableCredential", "QuorateTest"])
    );
    assert_eq!(value["validFrom"], "2026-11-22T12:00:00Z");
    let verified = Unverified::<Credential<Terms>>::parse(signed.text())
        .unwrap()
        .verify(&keys(&key(1)), NOW)
        .unwrap();
    assert_eq!(*verified, terms());

    let mut h = header(&key(1));
    h["typ"] = "vc+jwt".into();
    for (pointer, other) in [
        (
            "/@context",
            json!([
                "https://www.w3.org/ns/credentials/v1",
                "https://quorate.org/ns/v1"
            ]),
        ),
        ("/type", json!(["VerifiableCredential", "Other"])),
        ("/validFrom", json!(1)),
        ("/issuer", json!({"id": key(1).did()})),
        ("/id", json!("https://x.example")),
        ("/credentialSubject/title", json!(1)),
    ] {
        let mut bad = value.clone();
        *bad.pointer_mut(pointer).unwrap() = other;
        assert!(
            Unverified::<Credential<Terms>>::parse(&forge(&h, &bad.to_string(), &key(1))).is_err(),
            "{pointer}"
        );
    }
    let mut more = value.clone();
    more["evidence"] = json!([]);
    assert!(
        Unverified::<Credential<Terms>>::parse(&forge(&h, &more.to_string(), &key(1))).is_err(),
        "unknown member"
    );
}

#[test]
fn a_credential_counts_only_within_its_time() {
    let signed = sign(terms(), &key(1)).unwrap();
    let at = |t: UnixTime| {
        Unverified::<Credential<Terms>>::parse(signed.text())
            .unwrap()
            .verify(&keys(&key(1)), t)
            .map(drop)
    };
    assert!(at(NOW).is_ok());
    assert_eq!(
        at(NOW.plus_seconds(-CLOCK_SKEW_SECONDS - 1))
            .unwrap_err()
            .rule,
        "T3"
    );
    assert_eq!(
        at(NOW.plus_seconds(600 + CLOCK_SKEW_SECONDS + 1))
            .unwrap_err()
            .rule,
        "T2"
    );
}

mod ssi_as_oracle {
    //! A second implementation reads what we sign, and we read what it signs.

    use super::*;
    use ssi::{
        claims::{JwsSlice, VerificationParameters, vc::v2::JsonCredential, vc_jose_cose::JoseVc},
        dids::{AnyDidMethod, VerificationMethodDIDResolver},
        verification_methods::AnyMethod,
    };

    async fn ssi_accepts(text: &str) -> bool {
        let resolver = VerificationMethodDIDResolver::<_, AnyMethod>::new(AnyDidMethod::default());
        let params = VerificationParameters::from_resolver(&resolver);
        let Ok(jws) = JwsSlice::new(text) else {
            return false;
        };
        let Ok(credential) = JoseVc::<JsonCredential>::decode(jws) else {
            return false;
        };
        // Two layers: the check could not be made, and the check failed.
        matches!(credential.verify(&params).await, Ok(Ok(())))
    }

    fn current() -> Credential<Terms> {
        Credential {
            valid_from: UnixTime(1_700_000_000),
            valid_until: UnixTime(4_000_000_000),
            ..terms()
        }
    }

    #[tokio::test]
    async fn ssi_verifies_our_credential_and_refuses_a_changed_one() {
        let signed = sign(current(), &key(1)).unwrap();
        assert!(ssi_accepts(signed.text()).await);
        let (input, _) = signed.text().rsplit_once('.').unwrap();
        let forged = format!(
            "{input}.{}",
            base64url::encode(&key(2).sign_bytes(input.as_bytes()))
        );
        assert!(!ssi_accepts(&forged).await);
    }

    #[tokio::test]
    async fn we_refuse_what_ssi_lets_through_a_key_that_is_not_the_issuers() {
        let payload = serde_json::to_string(&current()).unwrap();
        let h = json!({"alg": "EdDSA", "typ": "vc+jwt", "kid": key(2).key_id()});
        let text = forge(&h, &payload, &key(2));
        assert!(
            ssi_accepts(&text).await,
            "ssi binds issuer and key now: our own check may be simplified"
        );
        assert_eq!(
            Unverified::<Credential<Terms>>::parse(&text)
                .unwrap_err()
                .code,
            Code::Kid
        );
    }
}
