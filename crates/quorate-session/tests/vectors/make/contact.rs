//! F: tickets, calls, cards, applications, frames of the lobby.

use super::{Maker, and, plain, said, value, with};
use crate::{
    common::{START, key},
    vector::{Input, Piece},
};
use quorate_identity::{B64, Digest, PublicKey};
use quorate_session::{Ticket, lobby::Frame};
use serde_json::{Value, json};

pub fn make(maker: &mut Maker) {
    tickets(maker);
    calls(maker);
    cards(maker);
    applications(maker);
    frames(maker);
}

fn call_digest() -> Digest {
    super::digest_of(&said("call", &plain("call")))
        .parse()
        .unwrap()
}

fn ticket(hints: &[&str]) -> Ticket {
    let hints: Vec<String> = hints.iter().map(|hint| (*hint).to_owned()).collect();
    Ticket::new(super::reader_peer(), &call_digest(), &hints).unwrap()
}

fn tickets(maker: &mut Maker) {
    let plain = ticket(&[]);
    let text = plain.encode();
    maker.alone(
        "ticket",
        "plain",
        "",
        text.clone(),
        "A ticket, in groups of five.",
    );
    maker.alone(
        "ticket",
        "qr",
        "",
        plain.qr_text(),
        "The form of a QR code.",
    );
    maker.alone(
        "ticket",
        "link",
        "",
        plain.link(),
        "A link with the ticket in its fragment.",
    );
    let spaced = format!(" {}\n", text.replace('-', " "));
    maker.alone("ticket", "spaces", "", spaced, "Spaces instead of dashes.");
    let hinted = ticket(&["/ip4/192.0.2.1/tcp/4001"]).encode();
    maker.alone(
        "ticket",
        "with-address",
        "",
        hinted,
        "With an address of the inviter.",
    );
    let mut refuse = |name: &str, text: &str, about: &str| {
        maker.alone("ticket", name, "E_TICKET F1", text, about);
    };
    let whole = plain.qr_text().to_lowercase();
    let changed = |at: usize, c: char| {
        let mut chars: Vec<char> = whole.chars().collect();
        assert_ne!(chars[at], c);
        chars[at] = c;
        chars.into_iter().collect::<String>()
    };
    let other = |at: usize| {
        if whole.as_bytes()[at] == b'q' {
            'p'
        } else {
            'q'
        }
    };
    refuse("empty", "", "Nothing.");
    refuse("prefix-only", "qrt1", "The beginning of a ticket.");
    refuse("bundle", "quorate1:abc", "A bundle is no ticket.");
    refuse(
        "one-typo",
        &changed(20, other(20)),
        "One character is wrong.",
    );
    let three = {
        let mut chars: Vec<char> = whole.chars().collect();
        for at in [10, 40, 70] {
            chars[at] = other(at);
        }
        chars.into_iter().collect::<String>()
    };
    refuse("three-typos", &three, "Three characters are wrong.");
    let mut swapped: Vec<char> = whole.chars().collect();
    let at = (20..60).find(|at| swapped[*at] != swapped[at + 1]).unwrap();
    swapped.swap(at, at + 1);
    refuse(
        "two-swapped",
        &swapped.into_iter().collect::<String>(),
        "Two neighbours changed places.",
    );
    refuse(
        "cut",
        &whole[..whole.len() - 1],
        "The last character is missing.",
    );
    refuse(
        "doubled",
        &format!("{whole}{}", &whole[whole.len() - 1..]),
        "The last character stands twice.",
    );
    refuse(
        "letter-b",
        &changed(30, 'b'),
        "A character that no ticket has.",
    );
    let peer = PublicKey::from_multibase(&key(3).did().as_str()["did:key:".len()..]).unwrap();
    let body = [&[1][..], peer.as_bytes(), &call_digest().0[..16]].concat();
    assert!(checked(&body).parse::<Ticket>().is_ok());
    refuse(
        "half",
        &checked(&body[..40]),
        "The digest is not whole; the checksum is right.",
    );
    refuse("nothing-in-it", &checked(&[]), "Nothing but a checksum.");
    let newer = [&[2][..], &body[1..]].concat();
    refuse("version-2", &checked(&newer), "A newer version.");
    let odd = [&body[..], &[3, 4, 1, 2]].concat();
    refuse(
        "unknown-address",
        &checked(&odd),
        "An address that the protocol does not know.",
    );
    let mut weak = body.clone();
    weak[1..33].fill(0);
    weak[1] = 1;
    refuse(
        "weak-key",
        &checked(&weak),
        "A PeerId whose key is of small order.",
    );
    let page = plain.link().replacen("https", "ftp", 1);
    refuse("other-link", &page, "A link that is no page.");
    refuse(
        "long",
        &"q".repeat(1025),
        "More characters than a ticket can have.",
    );
}

/// `qrt1` and the bech32m text of these bytes (BIP 350).
fn checked(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 32] = b"qpzry9x8gf2tvdw0s3jn54khce6mua7l";
    let bits: Vec<u8> = bytes
        .iter()
        .flat_map(|b| (0..8).rev().map(move |bit| b >> bit & 1))
        .collect();
    let group = |group: &[u8]| group.iter().fold(0, |n, bit| n << 1 | bit) << (5 - group.len());
    let mut groups: Vec<u8> = bits.chunks(5).map(group).collect();
    let prefix = b"qrt";
    let head = prefix
        .iter()
        .map(|c| c >> 5)
        .chain([0])
        .chain(prefix.iter().map(|c| c & 31));
    let sum = head
        .chain(groups.iter().copied())
        .chain([0; 6])
        .fold(1, polymod)
        ^ 0x2bc8_30a3;
    groups.extend(
        (0..6)
            .rev()
            .map(|at| u8::try_from(sum >> (5 * at) & 31).unwrap()),
    );
    let letters = groups
        .iter()
        .map(|group| char::from(LETTERS[usize::from(*group)]));
    format!("qrt1{}", letters.collect::<String>())
}

fn polymod(sum: u32, value: u8) -> u32 {
    let generator = [
        0x3b6a_57b2,
        0x2650_8e6d,
        0x1ea1_19fa,
        0x3d42_33dd,
        0x2a14_62b3,
    ];
    let top = sum >> 25;
    let next = (sum & 0x01ff_ffff) << 5 ^ u32::from(value);
    (0..5)
        .filter(|bit| top >> bit & 1 == 1)
        .fold(next, |sum, bit| sum ^ generator[bit])
}

fn calls(maker: &mut Maker) {
    let mut refuse = |name: &str, refused: &str, at: &str, new: Value, about: &str| {
        let text = said(
            "call",
            &with(&plain("call"), &format!("/credentialSubject{at}"), new),
        );
        maker.alone("call", name, refused, text, about);
    };
    refuse(
        "one-seat",
        "E_LIMIT F2",
        "/mpc/m",
        json!(1),
        "A computation of one.",
    );
    refuse(
        "65-seats",
        "E_LIMIT F2",
        "/mpc/m",
        json!(65),
        "One seat more than there can be parties.",
    );
    refuse(
        "apply-after-join",
        "E_TIME F2",
        "/time/applyBy",
        json!(START + 601),
        "Seats may be filled after the last join.",
    );
    refuse(
        "apply-before-1970",
        "E_TIME F2",
        "/time/applyBy",
        json!(-1),
        "A time before 1970.",
    );
    refuse(
        "join-after-start",
        "E_TIME S3.9",
        "/time/startBy",
        json!(START + 599),
        "Joining ends after starting.",
    );
    refuse(
        "long-name",
        "E_LIMIT S3.1",
        "/name",
        json!("a".repeat(65)),
        "A name of 65 characters.",
    );
    refuse(
        "name-with-direction",
        "E_FORMAT S3.1",
        "/name",
        json!("Al\u{202e}ice"),
        "A character that turns the text around.",
    );
    refuse(
        "title-with-escape",
        "E_FORMAT S3.1",
        "/title",
        json!("\u{1b}[2J"),
        "A terminal's escape sequence.",
    );
    refuse(
        "threshold-half",
        "E_THRESHOLD S3.4",
        "/mpc/t",
        json!(2),
        "Two of three parties cannot be an honest minority.",
    );
    refuse(
        "entry-up",
        "E_PROGRAM S3.15",
        "/program/entry",
        json!("../main.py"),
        "A file outside of the program's folder.",
    );
    refuse(
        "four-rejoins",
        "E_LIMIT S3.10",
        "/policy/rejoin",
        json!(4),
        "Four re-joins.",
    );
    refuse(
        "port-1024",
        "E_LIMIT S3.7",
        "/net/port",
        json!(1024),
        "The control port would be 1023.",
    );
    refuse(
        "no-peer-id",
        "E_FORMAT J7",
        "/peer",
        json!("1".repeat(52)),
        "The lobby's PeerId is none (S2.1).",
    );
    let text = super::jws("call", &plain("invitation"), &key(0));
    maker.alone(
        "call",
        "invitation",
        "E_FORMAT J7",
        text,
        "An invitation is no call.",
    );
    let text = super::jws("invitation", &plain("call"), &key(0));
    maker.alone(
        "invitation",
        "call",
        "E_FORMAT J7",
        text,
        "A call is no invitation.",
    );
}

fn cards(maker: &mut Maker) {
    let whole = plain("card");
    let mut refuse = |name: &str, refused: &str, at: &str, new: Value, about: &str| {
        let text = said("card", &with(&whole, at, new));
        maker.alone("card", name, refused, text, about);
    };
    refuse(
        "valid-too-long",
        "E_LIMIT F3",
        "/validUntil",
        json!("2028-11-24T12:00:01Z"),
        "Valid for more than two years.",
    );
    refuse(
        "other-kem",
        "E_PQ F3",
        "/credentialSubject/seal/alg",
        json!("X25519"),
        "A seal key that is not post-quantum.",
    );
    let mut ek = B64([0; 1216]);
    ek.0[..3].fill(0xff);
    refuse(
        "ek-modulus",
        "E_KEY F3",
        "/credentialSubject/seal/ek",
        value(&ek),
        "A coefficient of the ML-KEM part is not below the modulus.",
    );
    refuse(
        "ek-zero",
        "E_KEY F3",
        "/credentialSubject/seal/ek",
        value(&B64([0; 1216])),
        "The X25519 part of the seal key is of low order.",
    );
    refuse(
        "long-name",
        "E_LIMIT S3.1",
        "/credentialSubject/name",
        json!("a".repeat(65)),
        "A name of 65 characters.",
    );
    refuse(
        "name-with-zero-width",
        "E_FORMAT S3.1",
        "/credentialSubject/name",
        json!("Al\u{200b}ice"),
        "A character that nobody sees.",
    );
    let web = with(&whole, "/issuer", "did:web:uni.example");
    let head = json!({"alg": "EdDSA", "kid": "did:web:uni.example#key-1", "typ": "vc+jwt"});
    let text = super::jws_of(
        head.to_string().as_bytes(),
        web.to_string().as_bytes(),
        &key(2),
    );
    maker.alone(
        "card",
        "did-web",
        "E_DID_RESOLVE D3",
        text,
        "This version resolves did:key only.",
    );
}

fn applications(maker: &mut Maker) {
    let whole = plain("apply");
    let lifetime = |seconds: i64| said("apply", &with(&whole, "/exp", START + seconds));
    maker.alone(
        "apply",
        "lives-two-minutes",
        "",
        lifetime(120),
        "It lives two minutes.",
    );
    maker.alone(
        "apply",
        "lives-too-long",
        "E_TIME F4",
        lifetime(121),
        "It lives a second more than two minutes.",
    );
    maker.alone(
        "apply",
        "ends-before-it-begins",
        "E_TIME F4",
        lifetime(-1),
        "It ends before it begins.",
    );
    let text = said("apply", &and(&whole, "card", "a".repeat(8193)));
    maker.alone(
        "apply",
        "long-card",
        "E_LIMIT F4",
        text,
        "A card of more than 8 KiB.",
    );
    let text = said("apply", &with(&whole, "/name", "a".repeat(65)));
    maker.alone(
        "apply",
        "long-name",
        "E_LIMIT S3.1",
        text,
        "A name of 65 characters.",
    );
    let text = said("apply", &with(&whole, "/name", "Sud\u{1b}[8m"));
    maker.alone(
        "apply",
        "name-with-escape",
        "E_FORMAT S3.1",
        text,
        "A terminal's escape sequence.",
    );
    let text = said("apply", &with(&whole, "/local", "1".repeat(52)));
    maker.alone(
        "apply",
        "no-peer-id",
        "E_FORMAT J7",
        text,
        "A PeerId that is none (S2.1).",
    );
    let card = said("card", &plain("card"));
    let text = said("apply", &and(&whole, "card", card));
    maker.alone(
        "apply",
        "with-card",
        "",
        text,
        "An application that brings a card.",
    );
}

fn frames(maker: &mut Maker) {
    let kinds = [
        ("find", json!({"t": "find", "call": B64([1; 16])})),
        (
            "call",
            json!({"t": "call", "jws": said("call", &plain("call")), "commit": Digest([2; 32])}),
        ),
        (
            "apply",
            json!({"t": "apply", "jws": said("apply", &plain("apply"))}),
        ),
        ("heard", json!({"t": "heard", "reveal": B64([3; 32])})),
        ("admitted", json!({"t": "admitted", "place": 1})),
        (
            "declined",
            json!({"t": "declined", "code": "E_FULL", "note": "no seat is free"}),
        ),
        ("bundle", json!({"t": "bundle", "text": "quorate1:abc"})),
        ("taken", json!({"t": "taken", "inv": Digest([2; 32])})),
        ("leave", json!({"t": "leave"})),
    ];
    for (kind, whole) in kinds {
        assert!(Frame::parse(whole.to_string().as_bytes()).is_ok(), "{kind}");
        maker.alone("lobby", kind, "", whole.to_string(), "As it should be.");
        let text = and(&whole, "extra", 1).to_string();
        maker.alone(
            "lobby",
            &format!("{kind}-unknown-member"),
            "E_FORMAT F5",
            text,
            "A member that the kind does not have.",
        );
        let member = whole
            .as_object()
            .unwrap()
            .keys()
            .find(|member| *member != "t");
        if let Some(member) = member {
            let text = super::without(&whole, member).to_string();
            maker.alone(
                "lobby",
                &format!("{kind}-missing-member"),
                "E_FORMAT F5",
                text,
                "A member of the kind is missing.",
            );
        }
    }
    let mut refuse = |name: &str, refused: &str, input: Input, about: &str| {
        maker.alone("lobby", name, refused, input, about);
    };
    let form = "E_FORMAT F5";
    refuse(
        "session-frame",
        form,
        json!({"t": "ping", "n": 7}).to_string().into(),
        "A frame of a session.",
    );
    refuse(
        "unknown-code",
        form,
        json!({"t": "declined", "code": "E_NOPE", "note": ""})
            .to_string()
            .into(),
        "A code that the protocol does not have.",
    );
    refuse("array", form, "[]".into(), "An array.");
    let limit = "E_LIMIT F5";
    let note = json!({"t": "declined", "code": "E_FULL", "note": "a".repeat(301)});
    refuse(
        "long-note",
        limit,
        note.to_string().into(),
        "A note of 301 characters.",
    );
    let large = |head: &str, times: usize| {
        let text = "a".to_owned();
        Input::Pieces(vec![
            Piece::Text(head.into()),
            Piece::Repeat { text, times },
            Piece::Text("\"}".into()),
        ])
    };
    refuse(
        "large-application",
        limit,
        large(r#"{"t":"apply","jws":""#, 65_537),
        "An application of more than 64 KiB.",
    );
    refuse(
        "large-bundle",
        limit,
        large(r#"{"t":"bundle","text":""#, 245_761),
        "A bundle that is too long.",
    );
    refuse(
        "too-large",
        limit,
        large("", 262_144),
        "More than 262,144 bytes.",
    );
}
