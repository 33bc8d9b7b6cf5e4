//! Compact JWS (RFC 7515, section 7.1) in the one profile that quorate signs and reads.
//!
//! The header is exactly `alg`, `typ`, `kid`: nothing in it can choose a key (`jwk`, `jku`, `x5u`),
//! an extension (`crit`), an encoding (`b64`) or another algorithm. `typ` keeps one kind of
//! statement from being offered as another (RFC 8725, section 3.11).
//!
//! Limits: [`MAX_STATEMENT_BYTES`] for the whole text, [`crate::json`] for its parts.

use serde_json::Value;

use crate::{Code, Digest, KeyId, Rejection, base64url, json};

/// Largest compact JWS that is looked at, in bytes.
pub const MAX_STATEMENT_BYTES: usize = 64 * 1024;

/// Domain of a statement's digest: the name that later statements call it by.
const DIGEST_DOMAIN: &str = "quorate/1/stmt";

/// Every `typ` this protocol knows.
const KNOWN_TYPES: &[&str] = &[
    "vc+jwt",
    "quorate-hello+jwt",
    "quorate-join+jwt",
    "quorate-confirm+jwt",
    "quorate-kem+jwt",
    "quorate-ready+jwt",
    "quorate-abort+jwt",
    "quorate-cancel+jwt",
    "quorate-receipt+jwt",
    "quorate-apply+jwt",
    "quorate-whereabouts+jwt",
    "quorate-pass+jwt",
];

/// The parts of a compact JWS whose shape is right; nothing is verified yet.
#[derive(Debug, Clone)]
pub(crate) struct CompactJws {
    pub typ: &'static str,
    pub key_id: KeyId,
    pub payload: Value,
    pub signature: [u8; 64],
    /// Length of `header.payload`, the signed bytes, within the text.
    pub signed_length: usize,
}

impl CompactJws {
    pub fn parse(text: &str) -> Result<Self, Rejection> {
        if text.len() > MAX_STATEMENT_BYTES {
            return Err(format("J1", "larger than 64 KiB"));
        }
        let mut parts = text.split('.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(format("J1", "not three parts joined by dots"));
        };
        let signed_length = header.len() + 1 + payload.len();
        let (typ, key_id) = read_header(&json::parse_strict(&base64url::decode(header)?)?)?;
        let payload = json::parse_strict(&base64url::decode(payload)?)?;
        let signature = base64url::decode(signature)?
            .try_into()
            .map_err(|_| format("J2", "the signature is not 64 bytes long"))?;
        Ok(Self {
            typ,
            key_id,
            payload,
            signature,
            signed_length,
        })
    }
}

/// Which known `typ` a compact JWS carries, without reading its payload.
pub fn peek_typ(text: &str) -> Result<&'static str, Rejection> {
    if text.len() > MAX_STATEMENT_BYTES {
        return Err(format("J1", "larger than 64 KiB"));
    }
    let header = text.split('.').next().unwrap_or_default();
    read_header(&json::parse_strict(&base64url::decode(header)?)?).map(|(typ, _)| typ)
}

/// `header.payload` of a statement that is about to be signed.
pub(crate) fn signing_input(typ: &str, key_id: &KeyId, payload: &[u8]) -> String {
    let header = serde_json::json!({"alg": "EdDSA", "kid": key_id, "typ": typ}).to_string();
    format!(
        "{}.{}",
        base64url::encode(header.as_bytes()),
        base64url::encode(payload)
    )
}

/// The digest that names a statement. It covers `header.payload` and not the signature, so that a
/// second signature of the same content is the same statement.
pub(crate) fn digest(signing_input: &str) -> Digest {
    Digest::of(DIGEST_DOMAIN, signing_input.as_bytes())
}

fn read_header(header: &Value) -> Result<(&'static str, KeyId), Rejection> {
    let refuse = |why: String| Rejection::new(Code::Header, "J5", why);
    let Value::Object(members) = header else {
        return Err(refuse("the header is not an object".into()));
    };
    for name in members.keys() {
        if !["alg", "typ", "kid"].contains(&name.as_str()) {
            return Err(refuse(format!("header member {name:?} is not allowed")));
        }
    }
    match members.get("alg").and_then(Value::as_str) {
        Some("EdDSA" | "Ed25519") => {}
        other => {
            return Err(Rejection::new(
                Code::Alg,
                "J4",
                format!("alg {other:?} is not EdDSA or Ed25519"),
            ));
        }
    }
    let typ = members.get("typ").and_then(Value::as_str);
    let typ = KNOWN_TYPES
        .iter()
        .find(|known| Some(**known) == typ)
        .ok_or_else(|| refuse(format!("typ {typ:?} is not known")))?;
    let kid = members
        .get("kid")
        .and_then(Value::as_str)
        .ok_or_else(|| Rejection::new(Code::Kid, "J6", "kid is missing"))?;
    Ok((typ, kid.parse()?))
}

fn format(rule: &'static str, why: &str) -> Rejection {
    Rejection::new(Code::Format, rule, why)
}
