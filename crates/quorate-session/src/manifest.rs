//! Program manifest: one digest for all files of a program.
//!
//! `SHA-256` over the JCS (RFC 8785) form of the list `[[path, size, sha256], …]` sorted by path. The caller reads the
//! files; this module only judges the entries and hashes. Regular files only: whoever lists a link, a device or a folder
//! is refused by the caller, who alone can see what a file is.
//!
//! Limits: [`MAX_MANIFEST_ENTRIES`] entries, [`MAX_PATH_BYTES`] per path.
//!
//! Security: two parties with one digest run the same bytes under the same names. Paths that could leave the program's
//! folder (`..`, absolute, a backslash, a drive letter) are refused, so a manifest can also be trusted when unpacking.
//! Does not say that the program is harmless: people read and approve it.

use crate::limits::{MAX_MANIFEST_ENTRIES, MAX_PATH_BYTES};
use quorate_identity::{Code, Rejection};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};
use std::{fmt, str::FromStr};

/// SHA-256 of content (a program, a lock file), written `sha256:` and 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentDigest(pub [u8; 32]);

impl ContentDigest {
    /// The digest of `content`.
    pub fn of(content: &[u8]) -> Self {
        Self(Sha256::digest(content).into())
    }
}

impl fmt::Display for ContentDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ContentDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ContentDigest {
    type Err = Rejection;

    fn from_str(text: &str) -> Result<Self, Rejection> {
        let refuse = || {
            Rejection::new(
                Code::Format,
                "S3",
                "a content digest is `sha256:` and 64 lower-case hex digits",
            )
        };
        let hex = text.strip_prefix("sha256:").ok_or_else(refuse)?;
        if hex.len() != 64
            || !hex
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        {
            return Err(refuse());
        }
        let mut bytes = [0_u8; 32];
        for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            let nibble = |c: u8| {
                if c.is_ascii_digit() {
                    c - b'0'
                } else {
                    c - b'a' + 10
                }
            };
            *byte = nibble(pair[0]) << 4 | nibble(pair[1]);
        }
        Ok(Self(bytes))
    }
}

impl Serialize for ContentDigest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ContentDigest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// One regular file of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestEntry {
    /// Path inside the program's folder, with `/`.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Digest of the content.
    pub sha256: ContentDigest,
}

/// The digest that names a program: refuses paths that leave the folder, duplicates, and too many entries (`E_PROGRAM`).
pub fn manifest_digest(entries: &[ManifestEntry]) -> Result<ContentDigest, Rejection> {
    if entries.is_empty() || entries.len() > MAX_MANIFEST_ENTRIES {
        let text = format!(
            "a program has 1 to {MAX_MANIFEST_ENTRIES} files, this one {}",
            entries.len()
        );
        return Err(Rejection::new(Code::Program, "S3", text));
    }
    for entry in entries {
        check_path(&entry.path)?;
        if entry.size >= 1 << 53 {
            return Err(Rejection::new(
                Code::Program,
                "S3",
                format!("size of {:?} is out of range", entry.path),
            ));
        }
    }
    let mut rows: Vec<(&str, u64, String)> = entries
        .iter()
        .map(|e| (e.path.as_str(), e.size, e.sha256.to_string()))
        .collect();
    rows.sort();
    if let Some(pair) = rows.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        return Err(Rejection::new(
            Code::Program,
            "S3",
            format!("{:?} is listed twice", pair[0].0),
        ));
    }
    let bytes = serde_jcs::to_vec(&rows).map_err(|e| {
        Rejection::new(
            Code::Internal,
            "S3",
            format!("manifest cannot be written: {e}"),
        )
    })?;
    Ok(ContentDigest::of(&bytes))
}

/// Refuses a path that is not a plain relative one inside the program's folder (`E_PROGRAM`).
pub fn check_path(path: &str) -> Result<(), Rejection> {
    let refuse = |why: &str| {
        let shown: String = path.chars().take(64).collect();
        Err(Rejection::new(
            Code::Program,
            "S3",
            format!("path {shown:?} {why}"),
        ))
    };
    if path.is_empty() || path.len() > MAX_PATH_BYTES {
        return refuse("is empty or too long");
    }
    if path.starts_with('/') || path.as_bytes().get(1) == Some(&b':') {
        return refuse("is absolute");
    }
    if path.contains('\\') || path.chars().any(crate::message::is_unprintable) {
        return refuse("has a backslash or a control character");
    }
    if path
        .split('/')
        .any(|part| part.is_empty() || part == "." || part == "..")
    {
        return refuse("has an empty, `.` or `..` part");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str) -> ManifestEntry {
        ManifestEntry {
            path: path.into(),
            size: 3,
            sha256: ContentDigest::of(b"abc"),
        }
    }

    #[test]
    fn order_of_entries_does_not_matter_content_does() {
        let forward = manifest_digest(&[entry("a.py"), entry("b/c.py")]).expect("fine");
        let backward = manifest_digest(&[entry("b/c.py"), entry("a.py")]).expect("fine");
        assert_eq!(forward, backward);
        let mut changed = entry("a.py");
        changed.size = 4;
        assert_ne!(
            forward,
            manifest_digest(&[changed, entry("b/c.py")]).expect("fine")
        );
        assert_ne!(forward, manifest_digest(&[entry("a.py")]).expect("fine"));
    }

    #[test]
    fn digest_is_the_sha256_of_the_canonical_rows() {
        let expected = ContentDigest::of(
            br#"[["a.py",3,"sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"]]"#,
        );
        assert_eq!(manifest_digest(&[entry("a.py")]).expect("fine"), expected);
    }

    #[test]
    fn a59_paths_that_leave_the_folder_are_refused() {
        for path in [
            "",
            "/etc/passwd",
            "../x",
            "a/../b",
            "a//b",
            "./a",
            "a/",
            "c:\\x",
            "a\\b",
            "C:x",
            "a\nb",
        ] {
            let refusal = manifest_digest(&[entry(path)]).expect_err(path);
            assert_eq!(refusal.code, Code::Program, "{path}");
        }
        assert!(manifest_digest(&[entry("a"), entry("a")]).is_err());
        assert!(manifest_digest(&[]).is_err());
    }

    #[test]
    fn text_form_is_strict() {
        let digest = ContentDigest::of(b"x");
        assert_eq!(
            digest
                .to_string()
                .parse::<ContentDigest>()
                .expect("own form"),
            digest
        );
        assert!(
            digest
                .to_string()
                .to_uppercase()
                .parse::<ContentDigest>()
                .is_err()
        );
        assert!("sha256:00".parse::<ContentDigest>().is_err());
    }
}
