//! Files of a guide that no command makes: what time or an attacker leaves.

use std::{fs, path::Path};

use quorate_identity::{SigningKey, base64url, sign};
use quorate_session::{Bundle, Invitation};

/// `expired`: the same invitation, a week older. `tampered`: another title, the signature left as it was.
pub fn prepare(how: &str, home: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(home.join(from)).unwrap();
    let bundle = Bundle::parse(text.trim()).unwrap();
    let invitation = match how {
        "expired" => expired(home, &bundle.invitation),
        "tampered" => tampered(&bundle.invitation),
        other => panic!("a guide cannot have a file {other}"),
    };
    let changed = Bundle {
        invitation,
        ..bundle
    };
    fs::write(home.join(to), changed.encode()).unwrap();
}

fn payload(jws: &str) -> Vec<u8> {
    base64url::decode(jws.split('.').nth(1).unwrap()).unwrap()
}

fn expired(home: &Path, jws: &str) -> String {
    const WEEK: i64 = 7 * 86_400;
    let file = home.join(".local/share/quorate/identity/default.json");
    let key: serde_json::Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    let seed = base64url::decode(key["seed"].as_str().unwrap()).unwrap();
    let key = SigningKey::from_seed(&seed.try_into().unwrap());
    let mut old: Invitation = serde_json::from_slice(&payload(jws)).unwrap();
    old.valid_from = old.valid_from.plus_seconds(-WEEK);
    old.valid_until = old.valid_until.plus_seconds(-WEEK);
    let time = &mut old.subject.time;
    for time in [&mut time.join_by, &mut time.start_by, &mut time.end_by] {
        *time = time.plus_seconds(-WEEK);
    }
    sign(old, &key).unwrap().text().to_string()
}

fn tampered(jws: &str) -> String {
    let parts: Vec<_> = jws.split('.').collect();
    let payload = String::from_utf8(payload(jws)).unwrap();
    let changed = payload.replace("\"title\":\"vote\"", "\"title\":\"veto\"");
    assert_ne!(payload, changed);
    format!(
        "{}.{}.{}",
        parts[0],
        base64url::encode(changed.as_bytes()),
        parts[2]
    )
}
