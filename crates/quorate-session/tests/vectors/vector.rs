//! A vector as it is stored: one JSON file, `CODE-what-why.json` for what must be refused, `OK-what-why.json` for what
//! must be taken. `schemas/README.md` explains each member to people who write another implementation.

use crate::schema_set::folder;
use quorate_identity::base64url;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{collections::BTreeMap, fs, path::PathBuf};

/// One thing to be judged, with everything that is needed to judge it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vector {
    /// Name of the file without its end.
    #[serde(skip)]
    pub name: String,
    /// Why it must be taken or refused.
    pub about: String,
    /// What the input is.
    pub what: String,
    /// Who judges it.
    pub judged: Judged,
    /// The judge's clock.
    pub at: i64,
    /// The DID that a document or name is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub did: Option<String>,
    /// Documents of DIDs that are not their own document.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub documents: Vec<Value>,
    /// The party that judges.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reader: Option<Reader>,
    /// What came before; all of it is taken.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub before: Vec<Before>,
    /// The link that brings the input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<Link>,
    /// The exact bytes.
    pub input: Input,
    /// What the schema alone must say.
    pub schema: SchemaSays,
    /// What must come out; none if it is taken.
    pub refused: Option<Refused>,
}

/// Who judges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Judged {
    /// The reader of the type, with nothing but the clock.
    Alone,
    /// A party that opens a bundle, before it sends anything.
    Setup,
    /// A party that has joined.
    Session,
}

/// The party that judges.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reader {
    /// Whose identity it has.
    pub party: usize,
    /// The invitation, where it is not that of the context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invitation: Option<String>,
    /// What it would run, where it is not that of the context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<Value>,
    /// Its record of an earlier start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored: Option<Value>,
}

/// What came before the input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Before {
    /// A statement over a proven link of its issuer: a name of the context, or the text.
    Statement(String),
    /// So many of this frame over the link of the input.
    Frames { frame: Input, times: usize },
}

/// The link that brings the input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// Whose identity is at the other end; its PeerId is in the context.
    pub from: usize,
    /// How far its handshake is.
    pub state: LinkState,
}

/// How far a handshake is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkState {
    /// Nothing was said.
    New,
    /// The other end showed the secret.
    Tagged,
    /// It proved its DID too.
    Proven,
    /// A control stream inside the tunnel.
    Tunnel,
}

/// Exact bytes: a text, or pieces of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Input {
    /// UTF-8.
    Text(String),
    /// One after the other.
    Pieces(Vec<Piece>),
}

/// A part of an input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Piece {
    /// UTF-8.
    Text(String),
    /// Bytes that are not UTF-8, in base64url.
    Bytes(String),
    /// A text, so many times.
    Repeat { text: String, times: usize },
}

impl Input {
    pub fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Text(text) => text.clone().into_bytes(),
            Self::Pieces(pieces) => pieces.iter().flat_map(Piece::bytes).collect(),
        }
    }

    /// The text; bytes that are none are replaced, which every reader of texts refuses as well.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }
}

impl Piece {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Text(text) => text.clone().into_bytes(),
            Self::Bytes(text) => base64url::decode(text).unwrap(),
            Self::Repeat { text, times } => text.repeat(*times).into_bytes(),
        }
    }
}

impl From<&str> for Input {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Input {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

/// What the schema alone says about an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SchemaSays {
    /// It is of the right form.
    Accepts,
    /// It is not.
    Refuses,
    /// It cannot be asked: there is no schema, or no JSON value to hold against it.
    None,
}

/// How an input is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refused {
    /// The code.
    pub code: String,
    /// The rule of docs/protocol.md.
    pub rule: String,
    /// Whether the session ends with it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ends: bool,
}

/// What all vectors share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Context {
    pub about: String,
    /// When the reader joined.
    pub at: i64,
    /// Seeds of the Ed25519 keys of the identities, by number; 0 to 2 are the parties.
    pub identities: Vec<String>,
    /// Seeds of their overlay identities on links to the reader.
    pub overlay: Vec<String>,
    /// The rendezvous secret.
    pub secret: String,
    pub invitation: String,
    pub fingerprint: Value,
    /// The keys of each reader's own join, by its number.
    pub readers: BTreeMap<usize, ReaderKeys>,
    /// Statements that vectors name.
    pub statements: BTreeMap<String, String>,
}

/// What a reader made for its own join.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ReaderKeys {
    /// Seed of its X-Wing key.
    pub kem_seed: String,
    /// Its WireGuard private key.
    pub wireguard: String,
    /// Seed of its overlay identity.
    pub overlay: String,
    /// Nonce of its join.
    pub nonce: String,
    /// The join.
    pub join: String,
    /// Digest of the roster of it and the other joins of the context.
    pub roster: String,
}

pub fn vectors_folder() -> PathBuf {
    folder().join("vectors")
}

/// The stored vectors, by name.
pub fn stored() -> BTreeMap<String, Vector> {
    let files = fs::read_dir(vectors_folder()).into_iter().flatten();
    let named = files.filter_map(|file| {
        let path = file.unwrap().path();
        let name = path.file_stem()?.to_str()?.to_owned();
        if name == "context" {
            return None;
        }
        let mut vector: Vector = serde_json::from_slice(&fs::read(&path).unwrap())
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        vector.name.clone_from(&name);
        Some((name, vector))
    });
    named.collect()
}

pub fn stored_context() -> Context {
    serde_json::from_slice(&fs::read(vectors_folder().join("context.json")).unwrap()).unwrap()
}

/// The text of a file that holds `value`.
pub fn file_text(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).unwrap() + "\n"
}
