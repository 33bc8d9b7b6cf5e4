//! Readers of texts and frames: what they take, they write again as it was.

use quorate_identity::{
    DidKeyResolver, KeyId, Resolver, Statement, UnixTime, Unverified, base64url,
    json::parse_strict, peek_typ,
};
use quorate_session::{
    Bundle, Frame, Invitation, PeerId, Pid, ProgramSource, Stored, Ticket, check_path,
    limits::{MAX_PROGRAM_SOURCE_BYTES, MAX_SOURCE_FILES},
    manifest_digest,
    message::{
        Abort, Apply, Call, Cancel, Card, Confirm, Hello, Join, Kem, Pass, Ready, Receipt,
        Whereabouts, verify_card,
    },
    rendezvous::{Slot, Stamp, check_value, hour_of, may_replace},
};
use quorate_sim::setting::{SID, START, party_key, secret};

/// The strict reader of JSON takes nothing that serde's reader does not read as the same value.
pub fn json(data: &[u8]) {
    let Ok(value) = parse_strict(data) else {
        return;
    };
    let other: serde_json::Value = serde_json::from_slice(data).expect("serde reads it too");
    assert_eq!(value, other);
    let text = value.to_string();
    assert_eq!(parse_strict(text.as_bytes()).expect("its own text"), value);
}

/// A value that a node gives for a place; and any text that somebody who holds the secret sealed.
pub fn rendezvous(data: &[u8]) {
    let at = UnixTime(START);
    let slot = Slot::derive(&secret(), &SID, Pid(1), hour_of(at));
    let did = party_key(1).did();
    let _ = check_value(&slot.locator(), data, at);
    let _ = may_replace(data, data);
    let _ = slot.open(&did, data, at);
    let stamp = Stamp { seq: 1, exp: at };
    let text = String::from_utf8_lossy(data);
    let sealed = slot.seal_text(&text, stamp, &[7; 24]);
    assert_eq!(check_value(&slot.locator(), &sealed, at), Ok(stamp));
    if let Ok(parsed) = slot.open(&did, &sealed, at) {
        assert_eq!(*parsed.issuer(), did);
    }
}

/// A statement of any type, as text.
pub fn jws(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let typ = peek_typ(text);
    read::<Invitation>(text);
    read::<Call>(text);
    read::<Card>(text);
    read::<Apply>(text);
    read::<Hello>(text);
    read::<Join>(text);
    read::<Confirm>(text);
    read::<Kem>(text);
    read::<Ready>(text);
    read::<Abort>(text);
    read::<Cancel>(text);
    read::<Receipt>(text);
    read::<Whereabouts>(text);
    read::<Pass>(text);
    if verify_card(text, UnixTime(START)).is_ok() {
        assert_eq!(typ.expect("a card has a type"), "vc+jwt");
    }
}

/// Reads and verifies a statement; what is verified is the text that was read, and nothing else signs for it.
pub fn read<T: Statement>(text: &str) -> bool {
    let Ok(parsed) = Unverified::<T>::parse(text) else {
        return false;
    };
    assert_eq!(peek_typ(text).expect("it was read"), T::TYP);
    let name = parsed.digest();
    let Some(Ok(keys)) = DidKeyResolver.resolve(parsed.issuer()) else {
        return false;
    };
    let Ok(verified) = parsed.verify(&keys, UnixTime(START)) else {
        return false;
    };
    assert_eq!(&**verified.text(), text);
    assert_eq!(verified.digest(), name);
    let payload = text.split('.').nth(1).unwrap_or_default();
    let payload = base64url::decode(payload).expect("it was read");
    let written = serde_json::to_value(&*verified).expect("what was read can be written");
    assert_eq!(parse_strict(&payload).expect("it was read"), written);
    true
}

/// DIDs, DID URLs and PeerIds.
pub fn did(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(did) = text.parse::<quorate_identity::Did>() {
        assert_eq!(did.to_string(), text);
        if let Some(answer) = DidKeyResolver.resolve(&did) {
            let keys = answer.expect("a did:key that is taken can be resolved");
            assert_eq!(keys.keys.len(), 1);
        }
    }
    if let Ok(id) = text.parse::<KeyId>() {
        assert_eq!(id.to_string(), text);
    }
    if let Ok(peer) = text.parse::<PeerId>() {
        assert_eq!(peer.to_string(), text);
    }
}

/// Bundles.
pub fn bundle(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(bundle) = Bundle::parse(text) {
        assert_eq!(bundle.encode(), text.trim());
    }
    // The CBOR behind the prefix and the base64url, so that a fuzzer reaches it.
    let inner = format!("quorate1:{}", base64url::encode(data));
    if let Ok(bundle) = Bundle::parse(&inner) {
        assert_eq!(bundle.encode(), inner);
    }
}

/// A program's source as it comes along.
pub fn source(data: &[u8]) {
    let Ok(source) = ProgramSource::from_cbor(data) else {
        return;
    };
    assert_eq!(source.to_cbor(), data);
    assert!(data.len() <= MAX_PROGRAM_SOURCE_BYTES && source.files().count() <= MAX_SOURCE_FILES);
    for (path, _) in source.files() {
        check_path(path).expect("every path stays in the folder");
    }
    let files = source.files().map(|(path, text)| (path, text.as_bytes()));
    let again = ProgramSource::new(files).expect("its own files");
    assert_eq!(again.digest(), source.digest());
}

/// Tickets, in every form people may write them.
pub fn ticket(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Ok(ticket) = Ticket::parse(text) else {
        return;
    };
    for form in [ticket.encode(), ticket.qr_text(), ticket.link()] {
        let again = Ticket::parse(&form).expect("its own form");
        assert_eq!(again.encode(), ticket.encode());
    }
}

/// Frames.
pub fn frame(data: &[u8]) {
    if let Ok(frame) = Frame::parse(data) {
        assert_eq!(Frame::parse(&frame.encode()).expect("its own bytes"), frame);
    }
}

/// A party's record of a session, and the rows of a manifest.
pub fn stored(data: &[u8]) {
    if let Ok(stored) = Stored::parse(data) {
        assert_eq!(
            Stored::parse(&stored.encode()).expect("its own bytes"),
            stored
        );
    }
    let entries: Vec<_> = data
        .split(|byte| *byte == 0)
        .take(16)
        .map(|path| quorate_session::ManifestEntry {
            path: String::from_utf8_lossy(path).into_owned(),
            size: path.len() as u64,
            sha256: quorate_session::ContentDigest::of(path),
        })
        .collect();
    if let Ok(digest) = manifest_digest(&entries) {
        let mut backward = entries;
        backward.reverse();
        assert_eq!(
            manifest_digest(&backward).expect("the order says nothing"),
            digest
        );
    }
}
