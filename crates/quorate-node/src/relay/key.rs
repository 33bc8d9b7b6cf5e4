//! The relay's key: what its address means to those who were given it.
//!
//! A relay's multiaddr ends with its `PeerId`. A new key is a new relay, and every address that was
//! handed out is void; so it is made once and kept, as private as an identity is (0600 in 0700).

use std::{os::unix::fs::PermissionsExt as _, path::PathBuf};

use quorate_identity::{B64, Code};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize as _, Zeroizing};

use crate::{
    Fault,
    files::{Home, read_bounded, write_new},
};

/// Largest key file that is read, in bytes.
const MAX_FILE_BYTES: u64 = 1024;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    v: u8,
    seed: B64<32>,
}

/// Where the key of the relay of this home is.
pub fn key_path(home: &Home) -> PathBuf {
    home.data().join("relay").join("key.json")
}

/// The seed of the relay's key, made now if there is none.
pub fn load_or_create_key(home: &Home) -> Result<Zeroizing<[u8; 32]>, Fault> {
    if let Some(seed) = load(home)? {
        return Ok(seed);
    }
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(seed.as_mut()).map_err(|e| {
        let why = format!("the system's random generator failed: {e}");
        Fault::new(Code::Internal, why)
    })?;
    let mut wire = Wire {
        v: 1,
        seed: B64(*seed),
    };
    let mut bytes = Zeroizing::new(Vec::with_capacity(128));
    serde_json::to_writer(&mut *bytes, &wire).expect("a key file is plain JSON");
    wire.seed.0.zeroize();
    bytes.push(b'\n');
    Home::ensure(&home.data().join("relay"))?;
    // Two relays that start at once get the same key.
    write_new(&key_path(home), &bytes)?;
    load(home)?.ok_or_else(|| Fault::new(Code::State, "the new relay key cannot be read back"))
}

fn load(home: &Home) -> Result<Option<Zeroizing<[u8; 32]>>, Fault> {
    let path = key_path(home);
    let Some(content) = read_bounded(&path, MAX_FILE_BYTES)?.map(Zeroizing::new) else {
        return Ok(None);
    };
    let unsafe_because = |why: &str, hint: String| {
        Fault::new(Code::State, format!("{} {why}", path.display())).hint(hint)
    };
    let mode = std::fs::metadata(&path).map_or(0, |m| m.permissions().mode());
    if mode & 0o077 != 0 {
        let hint = format!(
            "chmod 600 {}; if others may have read it, remove it: the relay gets another address",
            path.display()
        );
        return Err(unsafe_because("may be read by other users", hint));
    }
    match serde_json::from_slice::<Wire>(&content) {
        Ok(mut wire) if wire.v == 1 => {
            let seed = Zeroizing::new(wire.seed.0);
            wire.seed.0.zeroize();
            Ok(Some(seed))
        }
        _ => Err(unsafe_because(
            "is damaged",
            "restore it, or move it away: the relay gets another address".into(),
        )),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_relay_keeps_its_key_and_its_key_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::below(folder.path());
        let first = load_or_create_key(&home).unwrap();
        assert_eq!(load_or_create_key(&home).unwrap(), first);
        let path = key_path(&home);
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(load_or_create_key(&home).unwrap_err().code, Code::State);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&path, "{}").unwrap();
        assert_eq!(load_or_create_key(&home).unwrap_err().code, Code::State);
    }
}
