//! J, T, V and S1: the envelope that all statements share.

use super::{
    Maker, STATEMENTS, and, header, issuer, jws, jws_of, plain, said, signatures, signed, typ,
    value, with, without,
};
use crate::{
    common::{START, key},
    vector::{Input, Piece},
};
use quorate_identity::base64url;
use serde_json::{Value, json};

pub fn make(maker: &mut Maker) {
    for what in STATEMENTS {
        each_type(maker, what);
    }
    lifetimes(maker);
    one_form(maker);
    shape(maker);
    encoding(maker);
    json_form(maker);
    headers(maker);
    key_ids(maker);
    signatures::make(maker);
    credential(maker);
}

/// A member that every statement of the type has, and that may change its value.
fn harmless(what: &str) -> (&'static str, Value) {
    match what {
        "invitation" | "call" => ("/credentialSubject/title", json!("Other")),
        "card" => ("/credentialSubject/name", json!("Other")),
        "receipt" => ("/bytes", json!(1001)),
        _ => ("/iat", json!(START + 1)),
    }
}

fn each_type(maker: &mut Maker, what: &'static str) {
    let (whole, signer) = (plain(what), issuer(what));
    let good = jws(what, &whole, &signer);
    maker.alone(what, "plain", "", good.clone(), "As it should be.");

    let (at, other) = harmless(what);
    let changed = jws(what, &with(&whole, at, other), &signer);
    let (input, _) = changed.rsplit_once('.').unwrap();
    let (_, signature) = good.rsplit_once('.').unwrap();
    let text = format!("{input}.{signature}");
    maker.alone(
        what,
        "changed",
        "E_SIG J8",
        text,
        "The payload was changed after it was signed.",
    );

    let text = jws_of(
        header(what, &signer).to_string().as_bytes(),
        whole.to_string().as_bytes(),
        &key(9),
    );
    maker.alone(
        what,
        "by-another-key",
        "E_SIG J8",
        text,
        "The header names the issuer's key, another key signed.",
    );

    let text = jws(what, &whole, &key(9));
    maker.alone(
        what,
        "key-of-another",
        "E_KID J6",
        text,
        "Signed by another DID in the issuer's name.",
    );

    let text = jws(what, &and(&whole, "extra", 1), &signer);
    maker.alone(
        what,
        "unknown-member",
        "E_FORMAT J7",
        text,
        "A member that the type does not have.",
    );

    let credential = typ(what) == "vc+jwt";
    let last = if credential { "validUntil" } else { "iat" };
    let text = jws(what, &without(&whole, last), &signer);
    maker.alone(
        what,
        "missing-member",
        "E_FORMAT J7",
        text,
        "A member of the type is missing.",
    );

    let members: Vec<Value> = whole.as_object().unwrap().values().cloned().collect();
    let text = jws(what, &members.into(), &signer);
    maker.alone(
        what,
        "array",
        "E_FORMAT J7",
        text,
        "The values stand in an array; some readers take that for an object.",
    );

    let version = if credential {
        "/credentialSubject/v"
    } else {
        "/v"
    };
    let text = jws(what, &with(&whole, version, 2), &signer);
    maker.alone(
        what,
        "version-2",
        "E_VERSION S1",
        text,
        "Another version of the protocol.",
    );

    let about = "Judged 301 s before it begins to count.";
    maker
        .alone(what, "not-yet-valid", "E_TIME T3", good.clone(), about)
        .at(START - 301);
    let about = "Judged 300 s before it begins to count: clocks may differ.";
    maker
        .alone(what, "at-first-second", "", good, about)
        .at(START - 300);

    let index = STATEMENTS.iter().position(|other| *other == what).unwrap();
    let mut others = (1..).map(|step| STATEMENTS[(index + step) % STATEMENTS.len()]);
    let next = others.find(|other| typ(other) != typ(what)).unwrap();
    let text = jws_of(
        header(next, &signer).to_string().as_bytes(),
        whole.to_string().as_bytes(),
        &signer,
    );
    let about = "The type in the header is that of another statement.";
    maker.alone(what, "of-other-typ", "E_HEADER J5", text, about);
}

fn lifetimes(maker: &mut Maker) {
    for (what, lifetime) in [
        ("invitation", 7200),
        ("hello", 60),
        ("join", 3600),
        ("call", 7200),
        ("card", 365 * 24 * 3600),
        ("apply", 60),
        ("whereabouts", 1200),
        ("pass", 60),
    ] {
        let good = said(what, &plain(what));
        let about = "Judged 301 s after its end.";
        maker
            .alone(what, "expired", "E_TIME T2", good.clone(), about)
            .at(START + lifetime + 301);
        let about = "Judged 300 s after its end: clocks may differ.";
        maker
            .alone(what, "at-last-second", "", good, about)
            .at(START + lifetime + 300);
    }
}

/// Absent is not null, and null is not absent.
fn one_form(maker: &mut Maker) {
    for (what, member) in [
        ("abort", "roster"),
        ("abort", "whom"),
        ("receipt", "exit"),
        ("receipt", "bytes"),
    ] {
        let text = said(what, &without(&plain(what), member));
        let about = "A member that may be null is absent.";
        maker.alone(
            what,
            &format!("without-{member}"),
            "E_FORMAT J7",
            text,
            about,
        );
    }
    let text = said("join", &with(&plain("join"), "/kem", Value::Null));
    maker.alone(
        "join",
        "null-kem",
        "E_FORMAT J7",
        text,
        "A member that may be absent is null.",
    );
    let text = said("join", &with(&plain("join"), "/pid", 65_536));
    maker.alone(
        "join",
        "huge-pid",
        "E_FORMAT J7",
        text,
        "A position that 16 bits cannot hold.",
    );
    let text = said("join", &with(&plain("join"), "/epoch", -1));
    maker.alone(
        "join",
        "negative-epoch",
        "E_FORMAT J7",
        text,
        "An epoch before 1970.",
    );
    let text = said("join", &with(&plain("join"), "/iss", "did:key:zQ3s"));
    maker.alone(
        "join",
        "issuer-no-did",
        "E_FORMAT J7",
        text,
        "The issuer is no DID.",
    );
    let text = said("abort", &with(&plain("abort"), "/code", "E_NOPE"));
    maker.alone(
        "abort",
        "unknown-code",
        "E_FORMAT J7",
        text,
        "A code that the protocol does not have.",
    );
    let text = said("receipt", &with(&plain("receipt"), "/outcome", "perfect"));
    maker.alone(
        "receipt",
        "unknown-outcome",
        "E_FORMAT J7",
        text,
        "An outcome that the protocol does not have.",
    );
    let text = said("kem", &with(&plain("kem"), "/ct", "AAAA"));
    maker.alone(
        "kem",
        "short-ciphertext",
        "E_FORMAT J7",
        text,
        "A ciphertext that is too short for X-Wing.",
    );
    let text = said("confirm", &with(&plain("confirm"), "/roster", "AAAA"));
    maker.alone(
        "confirm",
        "short-digest",
        "E_FORMAT J7",
        text,
        "A digest of three bytes.",
    );
    let text = said("hello", &with(&plain("hello"), "/local", "1".repeat(52)));
    maker.alone(
        "hello",
        "no-peer-id",
        "E_FORMAT J7",
        text,
        "A PeerId that is none.",
    );
}

fn good() -> String {
    said("join", &plain("join"))
}

pub fn parts() -> [String; 3] {
    let text = good();
    let parts: Vec<&str> = text.split('.').collect();
    [0, 1, 2].map(|index| parts[index].to_owned())
}

fn shape(maker: &mut Maker) {
    let [header, payload, signature] = parts();
    let mut refuse = |name: &str, input: Input, about: &str| {
        maker.alone("join", name, "E_FORMAT J1", input, about);
    };
    refuse(
        "two-parts",
        format!("{header}.{payload}").into(),
        "No signature part.",
    );
    refuse(
        "four-parts",
        format!("{header}.{payload}.{signature}.").into(),
        "A fourth, empty part.",
    );
    refuse("empty", "".into(), "Nothing at all.");
    let repeat = Piece::Repeat {
        text: "A".into(),
        times: 65_537,
    };
    refuse(
        "too-large",
        Input::Pieces(vec![repeat]),
        "One byte more than a statement may have.",
    );
}

fn encoding(maker: &mut Maker) {
    let [header, payload, signature] = parts();
    let key = issuer("join");
    let mut refuse = |name: &str, text: String, about: &str| {
        maker.alone("join", name, "E_FORMAT J2", text, about);
    };
    refuse(
        "padded-header",
        signed(&format!("{header}=.{payload}"), &key),
        "Padding after the header.",
    );
    let padded = signed(&format!("{header}.{payload}=="), &key);
    refuse("padded-payload", padded, "Padding after the payload.");
    refuse(
        "space-in-payload",
        signed(&format!("{header}. {payload}"), &key),
        "White space before the payload.",
    );
    refuse("line-end", good() + "\n", "A line end after the signature.");
    let plus = signature.replacen(|c: char| c.is_ascii_alphanumeric(), "+", 1);
    refuse(
        "plus-in-signature",
        format!("{header}.{payload}.{plus}"),
        "A character of the other base64 alphabet.",
    );
    let trailing = signature[..85].to_owned() + "R";
    refuse(
        "trailing-bits",
        format!("{header}.{payload}.{trailing}"),
        "Bits that are not used are not zero.",
    );
    let shorter = base64url::encode(&base64url::decode(&signature).unwrap()[..63]);
    refuse(
        "short-signature",
        format!("{header}.{payload}.{shorter}"),
        "A signature of 63 bytes.",
    );
    let longer = [base64url::decode(&signature).unwrap(), vec![0]].concat();
    refuse(
        "long-signature",
        format!("{header}.{payload}.{}", base64url::encode(&longer)),
        "A signature of 65 bytes.",
    );
    refuse(
        "empty-signature",
        format!("{header}.{payload}."),
        "No signature.",
    );
}

fn json_form(maker: &mut Maker) {
    let (whole, key) = (plain("cancel"), issuer("cancel"));
    let head = header("cancel", &key).to_string();
    let text = whole.to_string();
    let replaced = |from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        text.replacen(from, to, 1).into_bytes()
    };
    let reason = r#""reason":"a party withdrew""#;
    let version = r#""v":1"#;
    let deep = format!(r#""v":{}1{}"#, "[".repeat(16), "]".repeat(16));
    let mut refuse = |name: &str, payload: Vec<u8>, about: &str| {
        let text = jws_of(head.as_bytes(), &payload, &key);
        maker.alone("cancel", name, "E_FORMAT J3", text, about);
    };
    refuse(
        "member-twice",
        replaced(version, r#""v":1,"v":1"#),
        "A member stands twice.",
    );
    refuse(
        "member-twice-escaped",
        replaced(version, r#""v":1,"\u0076":1"#),
        "A member stands twice, once with an escape in its name.",
    );
    refuse(
        "fraction",
        replaced(version, r#""v":1.0"#),
        "A number with a fraction.",
    );
    refuse(
        "exponent",
        replaced(version, r#""v":1e0"#),
        "A number with an exponent.",
    );
    refuse(
        "leading-zero",
        replaced(version, r#""v":01"#),
        "A number with a leading zero.",
    );
    refuse("minus-zero", replaced(version, r#""v":-0"#), "Minus zero.");
    refuse(
        "2-to-the-53",
        replaced(version, r#""v":9007199254740992"#),
        "A number that not every reader can hold.",
    );
    refuse("too-deep", replaced(version, &deep), "Seventeen levels.");
    refuse(
        "after-the-value",
        [text.as_bytes(), b" {}"].concat(),
        "Something follows the value.",
    );
    refuse(
        "byte-order-mark",
        [b"\xef\xbb\xbf", text.as_bytes()].concat(),
        "A byte order mark.",
    );
    refuse(
        "lone-surrogate",
        replaced(reason, r#""reason":"\ud800""#),
        "A lone surrogate.",
    );
    refuse(
        "bare-control",
        replaced(reason, "\"reason\":\"\u{1}\""),
        "A control character that is not escaped.",
    );
    refuse(
        "unknown-escape",
        replaced(reason, r#""reason":"\x41""#),
        "An escape that JSON does not have.",
    );
    refuse(
        "single-quotes",
        replaced(version, "'v':1"),
        "Single quotes.",
    );
    refuse(
        "trailing-comma",
        replaced(version, r#""v":1,"#),
        "A comma before the end.",
    );
    refuse(
        "cut",
        text.as_bytes()[..text.len() - 1].to_vec(),
        "The end is missing.",
    );
    let mut bytes = text.clone().into_bytes();
    let at = text.find("withdrew").unwrap();
    bytes[at] = 0xff;
    refuse("no-utf-8", bytes, "A byte that no UTF-8 has.");
    let twice = head.replacen('{', r#"{"alg":"none","#, 1);
    let text = jws_of(twice.as_bytes(), whole.to_string().as_bytes(), &key);
    maker.alone(
        "cancel",
        "alg-twice",
        "E_FORMAT J3",
        text,
        "The header has two algorithms.",
    );
    let spaced = jws_of(
        head.as_bytes(),
        whole.to_string().replace(',', " ,\n ").as_bytes(),
        &key,
    );
    maker.alone(
        "cancel",
        "white-space",
        "",
        spaced,
        "White space between members is allowed.",
    );
}

fn with_header(header: &Value) -> String {
    let key = issuer("join");
    jws_of(
        header.to_string().as_bytes(),
        plain("join").to_string().as_bytes(),
        &key,
    )
}

fn headers(maker: &mut Maker) {
    let usual = header("join", &issuer("join"));
    for alg in ["none", "HS256", "ES256", "eddsa", "Ed448"] {
        let text = with_header(&with(&usual, "/alg", alg));
        maker.alone(
            "join",
            &format!("alg-{alg}"),
            "E_ALG J4",
            text,
            "Another algorithm than Ed25519.",
        );
    }
    maker.alone(
        "join",
        "alg-missing",
        "E_ALG J4",
        with_header(&without(&usual, "alg")),
        "No algorithm.",
    );
    let text = with_header(&with(&usual, "/alg", 1));
    maker.alone(
        "join",
        "alg-number",
        "E_ALG J4",
        text,
        "The algorithm is no text.",
    );
    let text = with_header(&with(&usual, "/alg", "Ed25519"));
    maker.alone(
        "join",
        "alg-ed25519",
        "",
        text,
        "The name of RFC 9864 for the same algorithm.",
    );
    let extra = [
        ("crit", json!(["exp"])),
        ("jwk", json!({"kty": "OKP"})),
        ("jku", json!("https://quorate.org/keys")),
        ("x5u", json!("https://quorate.org/chain")),
        ("x5c", json!([])),
        ("b64", json!(false)),
        ("cty", json!("JWT")),
        ("iss", json!("did:web:quorate.org")),
    ];
    for (name, new) in extra {
        let text = with_header(&and(&usual, name, new));
        maker.alone(
            "join",
            &format!("header-{name}"),
            "E_HEADER J5",
            text,
            "A header member that is not allowed.",
        );
    }
    maker.alone(
        "join",
        "header-array",
        "E_HEADER J5",
        with_header(&json!([])),
        "The header is no object.",
    );
    let text = with_header(&with(&usual, "/typ", "JWT"));
    maker.alone(
        "join",
        "typ-unknown",
        "E_HEADER J5",
        text,
        "A type that the protocol does not have.",
    );
    maker.alone(
        "join",
        "typ-missing",
        "E_HEADER J5",
        with_header(&without(&usual, "typ")),
        "No type.",
    );
    let text = with_header(&with(&usual, "/typ", "QUORATE-JOIN+JWT"));
    maker.alone(
        "join",
        "typ-upper-case",
        "E_HEADER J5",
        text,
        "Types are compared as they are.",
    );
}

fn key_ids(maker: &mut Maker) {
    let key = issuer("join");
    let usual = header("join", &key);
    let (did, id) = (key.did().to_string(), key.key_id().to_string());
    let fragment = id.split('#').nth(1).unwrap();
    let mut refuse = |name: &str, kid: Value, about: &str| {
        let text = with_header(&with(&usual, "/kid", kid));
        maker.alone("join", name, "E_KID J6", text, about);
    };
    refuse("kid-number", json!(1), "The key id is no text.");
    refuse(
        "kid-relative",
        json!(format!("#{fragment}")),
        "A relative DID URL.",
    );
    refuse("kid-without-fragment", json!(did), "No fragment.");
    refuse(
        "kid-empty-fragment",
        json!(format!("{did}#")),
        "An empty fragment.",
    );
    refuse(
        "kid-with-query",
        json!(format!("{did}?versionId=1#{fragment}")),
        "A query before the fragment.",
    );
    refuse(
        "kid-with-path",
        json!(format!("{did}/x#{fragment}")),
        "A path before the fragment.",
    );
    refuse(
        "kid-fragment-space",
        json!(format!("{did}#a b")),
        "A character that no fragment may have.",
    );
    refuse(
        "kid-fragment-long",
        json!(format!("{did}#{}", "a".repeat(257))),
        "A fragment of 257 characters.",
    );
    refuse(
        "kid-other-method",
        json!("did:example:x#1"),
        "A method that the protocol does not have.",
    );
    refuse(
        "kid-not-in-document",
        json!(format!("{did}#other")),
        "A key that the issuer's document does not list.",
    );
    let text = with_header(&without(&usual, "kid"));
    maker.alone("join", "kid-missing", "E_KID J6", text, "No key id.");
    web_key(maker);
}

/// A `did:web` whose key may issue credentials, but not act for it.
fn web_key(maker: &mut Maker) {
    let (signer, did) = (key(2), "did:web:uni.example");
    let id = format!("{did}#key-1");
    let multibase = signer.did().as_str()["did:key:".len()..].to_owned();
    let document = |relationship: &str| {
        json!({
            "id": did,
            "verificationMethod": [{"id": id, "type": "Multikey", "controller": did, "publicKeyMultibase": multibase}],
            relationship: [id],
        })
    };
    let payload = with(&plain("cancel"), "/iss", did);
    let head = json!({"alg": "EdDSA", "kid": id, "typ": typ("cancel")});
    let text = jws_of(
        head.to_string().as_bytes(),
        payload.to_string().as_bytes(),
        &signer,
    );
    let about = "The document lists the key under assertionMethod only.";
    let vector = maker.alone(
        "cancel",
        "wrong-relationship",
        "E_KID J6",
        text.clone(),
        about,
    );
    vector.documents = vec![document("assertionMethod")];
    let about = "The document lists the key under authentication.";
    let vector = maker.alone("cancel", "did-web", "", text, about);
    vector.documents = vec![document("authentication")];
}

fn credential(maker: &mut Maker) {
    let whole = plain("invitation");
    let mut refuse = |name: &str, refused: &str, at: &str, new: Value, about: &str| {
        let text = said("invitation", &with(&whole, at, new));
        maker.alone("invitation", name, refused, text, about);
    };
    let id = whole["id"].as_str().unwrap().to_owned();
    let form = "E_FORMAT V1";
    refuse(
        "id-url",
        form,
        "/id",
        json!("https://quorate.org/1"),
        "The id is no UUID.",
    );
    refuse(
        "id-upper-case",
        form,
        "/id",
        json!(id.replacen("070707", "ABCDEF", 1)),
        "A UUID in upper case.",
    );
    refuse(
        "id-short",
        form,
        "/id",
        json!(id[..id.len() - 1]),
        "A UUID that lacks a digit.",
    );
    refuse(
        "id-without-dashes",
        form,
        "/id",
        json!(format!("urn:uuid:{}", "0".repeat(36))),
        "A UUID without dashes.",
    );
    let j7 = "E_FORMAT J7";
    refuse(
        "context-order",
        j7,
        "/@context",
        json!([whole["@context"][1], whole["@context"][0]]),
        "The contexts stand in another order.",
    );
    refuse(
        "context-more",
        j7,
        "/@context",
        json!([
            whole["@context"][0],
            whole["@context"][1],
            "https://a.example/"
        ]),
        "One context more.",
    );
    refuse(
        "context-other",
        j7,
        "/@context/1",
        json!("https://quorate.org/ns/v2"),
        "Another context.",
    );
    refuse(
        "type-other",
        j7,
        "/type/1",
        json!("QuorateCancellation"),
        "Another type of credential.",
    );
    refuse(
        "type-alone",
        j7,
        "/type",
        json!(["QuorateInvitation"]),
        "The base type is missing.",
    );
    refuse(
        "issuer-object",
        j7,
        "/issuer",
        value(&json!({"id": whole["issuer"]})),
        "The issuer is an object; allowed in VC 2.0, but not here.",
    );
    refuse(
        "time-with-offset",
        j7,
        "/validFrom",
        json!("2026-11-22T16:00:00+00:00"),
        "A time with an offset (T1).",
    );
    refuse(
        "time-with-fraction",
        j7,
        "/validUntil",
        json!("2026-11-22T16:00:00.0Z"),
        "A time with a fraction (T1).",
    );
    refuse(
        "ends-before-it-begins",
        "E_TIME V2",
        "/validUntil",
        json!("2026-11-22T11:59:59Z"),
        "It ends before it begins.",
    );
}
