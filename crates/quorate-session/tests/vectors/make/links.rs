//! What a party that has joined refuses of a link before and while it is proven: S5, and floods.

use super::{Maker, frame, hello, jws, plain, reader_peer, right_hello, said, value, with};
use crate::{
    common::{START, inv, key, secret},
    judge::overlay_key,
    vector::{Input, LinkState, Piece},
};
use quorate_identity::{B64, Digest, UnixTime};
use quorate_session::{Frame, PeerId, hello_tag, message::Hello};

pub fn make(maker: &mut Maker) {
    handshake(maker);
    invitations(maker);
    floods(maker);
}

pub fn ready(maker: &Maker) -> String {
    let roster = maker.context.readers[&0].roster.clone();
    said("ready", &with(&plain("ready"), "/roster", roster))
}

pub fn proof(hello: &Hello, from: usize) -> String {
    proof_of(hello, &jws("hello", &value(hello), &key(from)))
}

fn proof_of(hello: &Hello, auth: &str) -> String {
    frame(&Frame::Proof {
        sid: hello.sid,
        inv: hello.inv,
        auth: auth.into(),
    })
}

fn handshake(maker: &mut Maker) {
    let wrong = frame(&Frame::Hello { tag: B64([0; 32]) });
    let stranger = "E_NOT_MEMBER S5.2";
    maker
        .session(
            "frame",
            "wrong-tag",
            stranger,
            wrong,
            "The other end does not know the secret.",
        )
        .over(2, LinkState::New);
    let peer = PeerId::of(&overlay_key(2).public());
    let tag = hello_tag(&secret(), &reader_peer(), &peer);
    let about = "The reader's own tag, sent back.";
    maker
        .session(
            "frame",
            "reflected-tag",
            stranger,
            frame(&Frame::Hello { tag }),
            about,
        )
        .over(2, LinkState::New);
    let about = "The tag of another connection.";
    maker
        .session("frame", "carried-tag", stranger, right_hello(1), about)
        .over(2, LinkState::New);
    let about = "A proof before the tag.";
    let early = proof(&hello(2, inv()), 2);
    maker
        .session("frame", "early-proof", "E_NOT_MEMBER S5.3", early, about)
        .over(2, LinkState::New);

    let good = hello(2, inv());
    let mut tagged = |name: &str, refused: &str, text: String, from: usize, about: &str| {
        maker
            .session("frame", name, refused, text, about)
            .over(from, LinkState::Tagged);
    };
    let other_sid = Hello {
        sid: B64([0x52; 32]),
        ..good.clone()
    };
    tagged(
        "proof-of-another-session",
        "E_NOT_MEMBER S5.4",
        proof(&other_sid, 2),
        2,
        "Another session id.",
    );
    let auth = jws("hello", &value(&other_sid), &key(2));
    tagged(
        "proof-sid-differs",
        "E_NOT_MEMBER S5.4",
        proof_of(&good, &auth),
        2,
        "Frame and statement name different sessions.",
    );
    tagged(
        "proof-of-stranger",
        "E_NOT_MEMBER S5.5",
        proof(&hello(9, inv()), 9),
        9,
        "Somebody who has the bundle, but is not listed.",
    );
    let late = Hello {
        iat: UnixTime(START + 301),
        exp: UnixTime(START + 361),
        ..good.clone()
    };
    tagged(
        "proof-of-fast-clock",
        "E_CLOCK S5.6",
        proof(&late, 2),
        2,
        "The other clock is 301 s ahead.",
    );
    let early = Hello {
        iat: UnixTime(START - 301),
        exp: UnixTime(START - 241),
        ..good.clone()
    };
    tagged(
        "proof-of-slow-clock",
        "E_CLOCK S5.6",
        proof(&early, 2),
        2,
        "The other clock is 301 s behind.",
    );
    let carried = Hello {
        local: PeerId::of(&overlay_key(1).public()),
        ..good.clone()
    };
    tagged(
        "proof-from-another-peer",
        "E_PEER S5.7",
        proof(&carried, 2),
        2,
        "The proof names another network peer as its sender.",
    );
    let carried = Hello {
        remote: PeerId::of(&overlay_key(1).public()),
        ..good.clone()
    };
    tagged(
        "proof-to-another-peer",
        "E_PEER S5.7",
        proof(&carried, 2),
        2,
        "The proof was made for another network peer.",
    );
    let long = Hello {
        exp: UnixTime(START + 121),
        ..good.clone()
    };
    tagged(
        "proof-lives-too-long",
        "E_TIME S5.7",
        proof(&long, 2),
        2,
        "The proof lives more than two minutes.",
    );
    let text = jws("hello", &value(&good), &key(2));
    let (input, _) = text.rsplit_once('.').unwrap();
    let forged = proof_of(&good, &super::signed(input, &key(9)));
    tagged(
        "proof-forged",
        "E_SIG J8",
        forged,
        2,
        "Somebody else signed the proof.",
    );
    let join = maker.context.statements["join-2"].clone();
    let vector = maker.session(
        "frame",
        "proof-by-a-join",
        "E_HEADER J5",
        proof_of(&good, &join),
        "A join is offered as a proof.",
    );
    vector.over(2, LinkState::Tagged);
    let about = "The proof is signed by a key that the invitation does not pin.";
    let vector = maker.session(
        "frame",
        "proof-by-unpinned-key",
        "E_KID C9",
        proof(&unpinned_hello(), 2),
        about,
    );
    vector.over(2, LinkState::Tagged).reader().invitation = Some(unpinned());
}

/// An invitation that pins another key for party 2.
pub fn unpinned() -> String {
    let mut draft = super::usual_draft();
    draft.parties[2].keys = vec![key(9).public().thumbprint()];
    super::organizer_signs(draft)
}

pub fn session_of(invitation: &str) -> Digest {
    super::digest_of(invitation).parse().unwrap()
}

fn unpinned_hello() -> Hello {
    hello(2, session_of(&unpinned()))
}

fn invitations(maker: &mut Maker) {
    let other = super::changed_invitation("/credentialSubject/title", "Another");
    let differs = |invitation: &str| proof(&hello(2, session_of(invitation)), 2);
    let shown = |jws: &str| frame(&Frame::Invitation { jws: jws.into() });
    let about = "A party shows another invitation that the organizer signed for this session.";
    let vector = maker.session("frame", "split", "E_SPLIT S5.8", shown(&other), about);
    vector
        .over(2, LinkState::Tagged)
        .after_frames(differs(&other), 1)
        .ends();
    let refused = "E_NOT_MEMBER S5.8";
    let about = "A party claims another invitation and shows the reader's own.";
    let own = maker.context.invitation.clone();
    let vector = maker.session("frame", "split-not-shown", refused, shown(&own), about);
    vector
        .over(2, LinkState::Tagged)
        .after_frames(differs(&other), 1);
    let mut payload = with(&plain("invitation"), "/issuer", key(2).did().to_string());
    payload["credentialSubject"]["title"] = "Mine".into();
    let mine = jws("invitation", &payload, &key(2));
    let about = "A party shows an invitation that it signed itself.";
    let vector = maker.session("frame", "split-of-its-own", refused, shown(&mine), about);
    vector
        .over(2, LinkState::Tagged)
        .after_frames(differs(&mine), 1);
    let forged = jws(
        "invitation",
        &with(&plain("invitation"), "/credentialSubject/title", "Forged"),
        &key(0),
    );
    let (input, _) = forged.rsplit_once('.').unwrap();
    let forged = super::signed(input, &key(2));
    let about = "A party shows an invitation that the organizer did not sign.";
    let vector = maker.session("frame", "split-forged", "E_SIG J8", shown(&forged), about);
    vector
        .over(2, LinkState::Tagged)
        .after_frames(differs(&forged), 1);
}

fn floods(maker: &mut Maker) {
    let repeat = |text: &str, times: usize| Piece::Repeat {
        text: text.into(),
        times,
    };
    let large = |bytes: usize| Input::Pieces(vec![Piece::Text(right_hello(2)), repeat(" ", bytes)]);
    let overflow = "E_OVERFLOW S5.10";
    maker
        .session(
            "frame",
            "large-before-tag",
            overflow,
            large(16_384),
            "A frame of more than 16 KiB before the tag.",
        )
        .over(2, LinkState::New);
    maker
        .session(
            "frame",
            "large-before-proof",
            overflow,
            large(16_384),
            "A frame of more than 16 KiB before the proof.",
        )
        .over(2, LinkState::Tagged);
    let ping = frame(&Frame::Ping { n: 7 });
    let vector = maker.session(
        "frame",
        "17-before-tag",
        overflow,
        ping.clone(),
        "The 17th frame before the tag.",
    );
    vector
        .over(2, LinkState::New)
        .after_frames(ping.clone(), 16);
    let vector = maker.session(
        "frame",
        "16-before-tag",
        "",
        ping.clone(),
        "The 16th frame before the tag.",
    );
    vector
        .over(2, LinkState::New)
        .after_frames(ping.clone(), 15);
    let vector = maker.session(
        "frame",
        "129-before-proof",
        overflow,
        ping.clone(),
        "The 129th frame before the proof, the tag among them.",
    );
    vector
        .over(2, LinkState::Tagged)
        .after_frames(ping.clone(), 127);
    let overflow = "E_OVERFLOW S5.11";
    let vector = maker.session(
        "frame",
        "513-at-once",
        overflow,
        ping.clone(),
        "The 513th frame at once, the two of the handshake among them.",
    );
    vector.after_frames(ping.clone(), 510);
    let vector = maker.session("frame", "512-at-once", "", ping, "The 512th frame at once.");
    vector.after_frames(frame(&Frame::Ping { n: 7 }), 509);
    let vector = maker.session("frame", "16-refusals", overflow, "[]", "The 16th refusal.");
    vector.after_frames("[]", 15);
}
