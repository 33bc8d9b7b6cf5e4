//! The long-term key file: JSON, 0600, made once and never overwritten by accident.

use std::{os::unix::fs::PermissionsExt, path::PathBuf};

use quorate_identity::{B64, Code, Did, SigningKey, base64url};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use super::{Home, atomic::disk, read_bounded, write_atomic, write_new};
use crate::Fault;

/// Largest key file that is read, in bytes.
const MAX_FILE_BYTES: u64 = 4096;
/// Longest name of an identity, in characters.
pub const MAX_NAME_CHARS: usize = 64;

/// A party's identity: its key and the name it calls itself.
#[derive(Debug, Clone)]
pub struct IdentityFile {
    /// The key.
    pub key: SigningKey,
    /// What its owner calls it; shown to others next to the DID, never instead of it.
    pub name: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    v: u8,
    did: Did,
    name: Option<String>,
    seed: Seed,
}

/// The seed as text; wiped after use, because serde makes copies of what it reads.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct Seed(String);

impl Drop for Seed {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl IdentityFile {
    fn path(home: &Home) -> PathBuf {
        home.data().join("identity").join("default.json")
    }

    /// A new identity from the operating system's generator.
    pub fn generate(name: Option<String>) -> Result<Self, Fault> {
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(seed.as_mut()).map_err(|e| {
            Fault::new(
                Code::Internal,
                format!("the system's random generator failed: {e}"),
            )
        })?;
        Ok(Self {
            key: SigningKey::from_seed(&seed),
            name,
        })
    }

    /// The identity of this home, if there is one.
    pub fn load(home: &Home) -> Result<Option<Self>, Fault> {
        let path = Self::path(home);
        let Some(content) = read_bounded(&path, MAX_FILE_BYTES)?.map(Zeroizing::new) else {
            return Ok(None);
        };
        let meta = std::fs::metadata(&path).map_err(|e| disk(&path, "cannot be read", &e))?;
        if meta.permissions().mode() & 0o077 != 0 {
            return Err(Fault::new(
                Code::State,
                format!("{} may be read by other users", path.display()),
            )
            .hint(format!(
                "chmod 600 {}; if others may have read it, make a new identity",
                path.display()
            )));
        }
        Self::from_bytes(&content)
            .map_err(|why| {
                Fault::new(Code::State, format!("{} is damaged: {why}", path.display()))
                    .hint("restore it from an export, or move it away and run `quorate id new`")
            })
            .map(Some)
    }

    /// The identity of this home, made now if there is none. When two commands do this at once, both
    /// get the same one.
    pub fn load_or_create(home: &Home) -> Result<(Self, bool), Fault> {
        if let Some(found) = Self::load(home)? {
            return Ok((found, false));
        }
        let made = Self::generate(None)?.save_new(home)?;
        match Self::load(home)? {
            Some(identity) => Ok((identity, made)),
            None => Err(Fault::new(
                Code::State,
                "the new identity cannot be read back",
            )),
        }
    }

    /// Stores this identity unless there is one already; tells whether it did.
    pub fn save_new(&self, home: &Home) -> Result<bool, Fault> {
        let path = Self::path(home);
        Home::ensure(&home.data().join("identity"))?;
        write_new(&path, &self.to_bytes())
    }

    /// Stores this identity in place of the one there is.
    pub fn replace(&self, home: &Home) -> Result<(), Fault> {
        Home::ensure(&home.data().join("identity"))?;
        write_atomic(&Self::path(home), &self.to_bytes())
    }

    /// The file form; contains the secret.
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let wire = Wire {
            v: 1,
            did: self.key.did(),
            name: self.name.clone(),
            seed: Seed(base64url::encode(self.key.seed().as_ref())),
        };
        let mut bytes = Zeroizing::new(Vec::with_capacity(512));
        serde_json::to_writer_pretty(&mut *bytes, &wire).expect("a key file is plain JSON");
        bytes.push(b'\n');
        bytes
    }

    /// Reads the file form.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        let wire: Wire =
            serde_json::from_slice(bytes).map_err(|_| "not a key file of quorate".to_owned())?;
        if wire.v != 1 {
            return Err(format!("version {} is not known", wire.v));
        }
        if wire
            .name
            .as_ref()
            .is_some_and(|n| n.chars().count() > MAX_NAME_CHARS)
        {
            return Err("the name is too long".into());
        }
        let mut seed: B64<32> = serde_json::from_value(wire.seed.0.as_str().into())
            .map_err(|_| "the seed is malformed".to_owned())?;
        let key = SigningKey::from_seed(&seed.0);
        seed.0.zeroize();
        if key.did() != wire.did {
            return Err("the DID is not that of the key".into());
        }
        Ok(Self {
            key,
            name: wire.name,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_identity_is_made_once_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::below(folder.path());
        let (first, made) = IdentityFile::load_or_create(&home).unwrap();
        let (second, again) = IdentityFile::load_or_create(&home).unwrap();
        assert!(made && !again);
        assert_eq!(first.key.did(), second.key.did());
        assert!(
            !IdentityFile::generate(None)
                .unwrap()
                .save_new(&home)
                .unwrap()
        );
        let mode = std::fs::metadata(IdentityFile::path(&home))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_damaged_or_readable_key_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::below(folder.path());
        IdentityFile::load_or_create(&home).unwrap();
        let path = IdentityFile::path(&home);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(IdentityFile::load(&home).unwrap_err().code, Code::State);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let other = IdentityFile::generate(None).unwrap().key.did();
        let swapped = text.replace(
            IdentityFile::load(&home)
                .unwrap()
                .unwrap()
                .key
                .did()
                .as_str(),
            other.as_str(),
        );
        std::fs::write(&path, swapped).unwrap();
        assert_eq!(IdentityFile::load(&home).unwrap_err().code, Code::State);
    }

    #[test]
    fn debug_shows_no_secret() {
        let identity = IdentityFile::generate(None).unwrap();
        let seed = base64url::encode(identity.key.seed().as_ref());
        assert!(!format!("{identity:?}").contains(&seed));
    }
}
