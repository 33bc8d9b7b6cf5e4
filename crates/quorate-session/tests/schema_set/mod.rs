//! The schemas of the working copy as validators. Nothing is fetched: all files are read from `schemas/v1`, and the
//! validator is built without a resolver.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::panic,
    reason = "shared by several test binaries; a test ends at the first surprise"
)]

use jsonschema::{Registry, Validator};
use quorate_identity::json as strict;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// Where the names of the schemas begin.
pub const BASE: &str = "https://quorate.org/schemas/v1/";
/// Schemas of what goes over the wire.
pub const WIRE: &[&str] = &[
    "abort",
    "apply",
    "call",
    "cancel",
    "card",
    "confirm",
    "control",
    "frame",
    "hello",
    "invitation",
    "join",
    "kem",
    "lobby",
    "pass",
    "post",
    "ready",
    "receipt",
    "whereabouts",
];
/// Those of them that no session says: they come before it, or go elsewhere.
pub const BEFORE_A_SESSION: &[&str] = &[
    "apply",
    "call",
    "card",
    "control",
    "lobby",
    "pass",
    "post",
    "whereabouts",
];
/// Schemas of what the command line prints.
pub const REPORTS: &[&str] = &[
    "clean",
    "contacts",
    "doctor",
    "error",
    "event",
    "identity",
    "record",
    "records",
    "relay",
    "sessions",
    "status",
    "verification",
    "version",
];
/// Types of `common` that are texts of their own.
pub const TEXTS: &[&str] = &["contentDigest", "dateTime", "did", "digest", "peerId"];
/// Schemas that describe neither: files of this folder, and parts of the others.
pub const OTHER: &[&str] = &["common", "vector"];

pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../schemas/v1")
}

pub fn read(path: &Path) -> Value {
    let bytes = fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    strict::parse_strict(&bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

pub fn schema(name: &str) -> Value {
    read(&folder().join(format!("{name}.schema.json")))
}

/// A validator for each schema, which knows the others by name.
pub struct Schemas(BTreeMap<&'static str, Validator>);

impl Schemas {
    pub fn load() -> Self {
        let shared =
            ["common", "invitation", "receipt"].map(|name| (format!("{BASE}{name}.json"), name));
        let registry = shared
            .iter()
            .fold(Registry::new(), |registry, (uri, name)| {
                registry.add(uri, schema(name)).unwrap()
            })
            .prepare()
            .unwrap();
        let build = |name: &'static str, schema: &Value| {
            let validator = jsonschema::options()
                .with_registry(&registry)
                .build(schema)
                .unwrap_or_else(|e| panic!("{name}: {e}"));
            (name, validator)
        };
        let files = WIRE.iter().chain(REPORTS).chain(&["vector"]);
        let texts = TEXTS.iter().map(|name| {
            let reference = json!({"$ref": format!("{BASE}common.json#/$defs/{name}")});
            build(name, &reference)
        });
        Self(
            files
                .map(|name| build(name, &schema(name)))
                .chain(texts)
                .collect(),
        )
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    pub fn check(&self, name: &str, value: &Value) -> Result<(), String> {
        self.0[name]
            .validate(value)
            .map_err(|e| format!("{name} at {:?}: {e}", e.instance_path().to_string()))
    }

    #[track_caller]
    pub fn assert_takes(&self, name: &str, value: &Value) {
        if let Err(why) = self.check(name, value) {
            panic!("{why}\n{value:#}");
        }
    }
}
