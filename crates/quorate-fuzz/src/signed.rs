//! Payloads that are signed rightly before they are read, so that a fuzzer gets past the signature.

use crate::readers::read;
use quorate_identity::{SigningKey, Statement, UnixMillis, UnixTime, base64url};
use quorate_session::{
    Bundle, Frame, Invitation, LinkId, LinkKind, PeerId, Session, Setup, hello_tag,
    message::{
        Abort, Apply, Call, Cancel, Card, Confirm, Hello, Join, Kem, Pass, Ready, Receipt,
        Whereabouts,
    },
};
use quorate_sim::setting::{SID, START, fingerprint, invitation_of, party_key, resolve, secret};
use std::{sync::LazyLock, time::Instant};

/// Keys that may sign: those of the vectors, and the parties of the simulator.
static KEYS: LazyLock<Vec<SigningKey>> = LazyLock::new(|| {
    let vectors = (1..=10).map(|seed| SigningKey::from_seed(&[seed; 32]));
    vectors.chain((0..3).map(party_key)).collect()
});

/// Signs a payload by the key of whoever it says it is from.
fn sign<T: Statement>(payload: &[u8]) -> String {
    let says = |key: &&SigningKey| {
        let did = key.did();
        let did = did.as_str().as_bytes();
        payload.windows(did.len()).any(|part| part == did)
    };
    let key = KEYS.iter().find(says).unwrap_or(&KEYS[0]);
    let header = serde_json::json!({"alg": "EdDSA", "kid": key.key_id(), "typ": T::TYP});
    let header = base64url::encode(header.to_string().as_bytes());
    let input = format!("{header}.{}", base64url::encode(payload));
    let signature = base64url::encode(&key.sign_bytes(input.as_bytes()));
    format!("{input}.{signature}")
}

/// A payload of an invitation: read, then judged by a party that would take part.
pub fn invitation(data: &[u8]) {
    let text = sign::<Invitation>(data);
    read::<Call>(&text);
    read::<Card>(&text);
    if !read::<Invitation>(&text) {
        return;
    }
    let bundle = Bundle {
        invitation: text,
        secret: secret(),
        hints: Vec::new(),
        program: None,
    };
    let bundle = Bundle::parse(&bundle.encode()).expect("a bundle of a statement that was read");
    let parsed = quorate_identity::Unverified::<Invitation>::parse(&bundle.invitation);
    let parsed = parsed.expect("it was read before");
    let keys = resolve(parsed.issuer()).expect("it was verified before");
    let at = UnixTime(START);
    let invitation = parsed.verify(&keys, at).expect("it was verified before");
    for key in KEYS.iter().take(4) {
        let setup = Setup {
            invitation: invitation.clone(),
            secret: secret(),
            key: key.clone(),
            fingerprint: fingerprint(),
            stored: None,
            seed: [7; 32],
        };
        let now = Instant::now();
        if let Ok(mut session) = Session::new(setup, at, now) {
            let joined = session.join(UnixMillis(1000 * START.unsigned_abs()), now);
            joined.expect("it waited for that");
        }
    }
}

/// A payload of a join: read, and offered to a session by its party.
pub fn join(data: &[u8]) {
    let text = sign::<Join>(data);
    read::<Join>(&text);
    offer(&text);
}

/// A payload of a receipt.
pub fn receipt(data: &[u8]) {
    let text = sign::<Receipt>(data);
    read::<Receipt>(&text);
    offer(&text);
}

/// A payload of any other statement; the first byte chooses the type.
pub fn statement(data: &[u8]) {
    let Some((kind, payload)) = data.split_first() else {
        return;
    };
    match kind % 10 {
        0 => take::<Confirm>(payload),
        1 => take::<Kem>(payload),
        2 => take::<Ready>(payload),
        3 => take::<Abort>(payload),
        4 => take::<Cancel>(payload),
        5 => take::<Hello>(payload),
        6 => take::<Apply>(payload),
        7 => take::<Whereabouts>(payload),
        8 => take::<Pass>(payload),
        _ => take::<Join>(payload),
    }
}

fn take<T: Statement>(payload: &[u8]) {
    let text = sign::<T>(payload);
    read::<T>(&text);
    offer(&text);
}

/// Offers a statement to a session of the simulator's setting, over a proven link of party 1.
fn offer(text: &str) {
    let (at, now) = (UnixTime(START), Instant::now());
    let setup = Setup {
        invitation: invitation_of(3, false),
        secret: secret(),
        key: party_key(0),
        fingerprint: fingerprint(),
        stored: None,
        seed: [7; 32],
    };
    let mut session = Session::new(setup, at, now).expect("the setting is in order");
    let joined = session.join(UnixMillis(1000 * START.unsigned_abs()), now);
    joined.expect("it waited for that");
    let link = LinkId(1);
    let remote = PeerId::of(&SigningKey::from_seed(&[0x61; 32]).public());
    let local = session.peer_id();
    session.handle_link_up(link, LinkKind::Overlay { local, remote }, at, now);
    drain(&mut session, at, now);
    let tag = hello_tag(&secret(), &remote, &local);
    session.handle_message(link, &Frame::Hello { tag }.encode(), at, now);
    let inv = session.invitation_digest();
    let hello = Hello {
        v: 1,
        iss: party_key(1).did(),
        sid: SID,
        inv,
        local: remote,
        remote: local,
        iat: at,
        exp: at.plus_seconds(60),
    };
    let hello = quorate_identity::sign(hello, &party_key(1)).expect("the setting is in order");
    let auth = hello.text().to_string();
    let proof = Frame::Proof {
        sid: SID,
        inv,
        auth,
    };
    session.handle_message(link, &proof.encode(), at, now);
    drain(&mut session, at, now);
    let jws = vec![text.to_owned()];
    session.handle_message(link, &Frame::Statements { jws }.encode(), at, now);
    drain(&mut session, at, now);
}

/// Answers what the session asks; it must not ask without end, nor say that something cannot happen.
fn drain(session: &mut Session, at: UnixTime, now: Instant) {
    for _ in 0..1000 {
        let Some(event) = session.poll_event() else {
            while session.poll_transmit().is_some() {}
            return;
        };
        match event {
            quorate_session::Event::Resolve(did) => {
                let answer = resolve(&did);
                session.handle_resolved(&did, answer, at, now);
            }
            quorate_session::Event::Persist { token, .. } => {
                session.handle_persisted(token, true, now);
            }
            quorate_session::Event::Alarm(text) => panic!("{text}"),
            _ => {}
        }
    }
    panic!("the session never comes to rest");
}
