//! S4.6 to S4.10, S5.7, S6.2, S10: what single statements may say.

use super::{Maker, plain, said, value, with};
use crate::common::{START, epoch_now, forge_join, inv, key, resign_peer};
use quorate_identity::B64;
use quorate_session::message::Join;
use serde_json::{Value, json};

pub fn make(maker: &mut Maker) {
    joins(maker);
    fingerprints(maker);
    others(maker);
    addresses(maker);
}

/// A join by party 2, changed and signed again by its overlay key.
fn changed(change: impl FnOnce(&mut Join)) -> String {
    let mut join = forge_join(2, 0x42, epoch_now(), inv());
    change(&mut join);
    resign_peer(&mut join, 0x42);
    said("join", &join)
}

/// The X25519 points of low order that RFC 7748 names, in one encoding each.
const LOW_ORDER: [(&str, [u8; 32]); 3] = [
    ("zero", [0; 32]),
    ("one", {
        let mut one = [0; 32];
        one[0] = 1;
        one
    }),
    (
        "order-eight",
        [
            0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f,
            0xc4, 0x6a, 0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16,
            0x5f, 0x49, 0xb8, 0x00,
        ],
    ),
];

fn joins(maker: &mut Maker) {
    for (name, point) in LOW_ORDER {
        let text = changed(|join| join.wg = B64(point));
        maker.alone(
            "join",
            &format!("wg-{name}"),
            "E_KEY S4.6",
            text,
            "A WireGuard key of low order.",
        );
        let text = changed(|join| join.kem.as_mut().unwrap().ek.0[1184..].copy_from_slice(&point));
        maker.alone(
            "join",
            &format!("ek-{name}"),
            "E_KEY S4.6",
            text,
            "The X25519 part of the KEM key is of low order.",
        );
    }
    let text = changed(|join| join.kem.as_mut().unwrap().ek.0[..3].fill(0xff));
    maker.alone(
        "join",
        "ek-modulus",
        "E_KEY S4.6",
        text,
        "A coefficient of the ML-KEM part is not below the modulus.",
    );
    let text = changed(|join| join.kem = None);
    maker.alone("join", "no-kem", "E_PQ S4.7", text, "No post-quantum key.");
    let text = changed(|join| join.kem.as_mut().unwrap().alg = "X25519".into());
    maker.alone(
        "join",
        "other-kem",
        "E_PQ S4.7",
        text,
        "A KEM that is not post-quantum.",
    );

    let sig = "E_SIG S4.8";
    let whole = plain("join");
    let text = said("join", &with(&whole, "/peerSig", value(&B64([0; 64]))));
    maker.alone(
        "join",
        "peer-sig-zero",
        sig,
        text,
        "The overlay key did not sign.",
    );
    let wg = B64([9; 32]);
    let text = said("join", &with(&whole, "/wg", value(&wg)));
    maker.alone(
        "join",
        "swapped-wg",
        sig,
        text,
        "The DID signs another WireGuard key than the overlay key did.",
    );
    let text = said("join", &with(&whole, "/epoch", epoch_now() + 1));
    maker.alone(
        "join",
        "swapped-epoch",
        sig,
        text,
        "The overlay key signed for another epoch.",
    );
    let text = said(
        "join",
        &with(&whole, "/inv", value(&quorate_identity::Digest([1; 32]))),
    );
    maker.alone(
        "join",
        "swapped-session",
        sig,
        text,
        "The overlay key signed for another session.",
    );
    let other = plain("hello")["remote"].clone();
    maker.alone(
        "join",
        "foreign-peer",
        sig,
        said("join", &with(&whole, "/peer", other)),
        "A PeerId whose key did not sign.",
    );
    let stolen = forge_join(1, 0x41, epoch_now(), inv());
    let text = changed(|_| {});
    assert!(text.len() > 1000);
    let mut copied = forge_join(2, 0x42, epoch_now(), inv());
    copied.peer = stolen.peer;
    copied.peer_sig = stolen.peer_sig;
    let about = "PeerId and signature were copied from the join of another party.";
    maker.alone("join", "copied-peer", sig, said("join", &copied), about);

    let lifetime = |seconds: i64| said("join", &with(&whole, "/exp", START + seconds));
    maker.alone(
        "join",
        "lives-too-long",
        "E_TIME S4.9",
        lifetime(7 * 24 * 3600 + 1),
        "It lives a second more than 7 days.",
    );
    maker.alone(
        "join",
        "ends-before-it-begins",
        "E_TIME S4.9",
        lifetime(-1),
        "It ends before it begins.",
    );
    maker.alone(
        "join",
        "lives-seven-days",
        "",
        lifetime(7 * 24 * 3600),
        "It lives 7 days.",
    );
}

fn fingerprints(maker: &mut Maker) {
    let whole = plain("join");
    let mut refuse = |name: &str, at: &str, new: &str, about: &str| {
        let text = said("join", &with(&whole, at, new));
        maker.alone("join", name, "E_FORMAT S4.10", text, about);
    };
    refuse(
        "version-with-space",
        "/fp/mpyc",
        "0.11 beta",
        "A version with a space.",
    );
    refuse(
        "version-not-ascii",
        "/fp/python",
        "3.12\u{b2}",
        "A version with a character outside of ASCII.",
    );
    refuse(
        "version-long",
        "/fp/quorate",
        &"1".repeat(33),
        "A version of 33 characters.",
    );
    refuse(
        "version-with-escape",
        "/fp/mpyc",
        "0.11\u{1b}[0m",
        "A terminal's escape sequence in a version.",
    );
    let text = said("join", &with(&whole, "/fp/program", "sha256:00"));
    maker.alone(
        "join",
        "program-no-digest",
        "E_FORMAT J7",
        text,
        "The program is no content digest (S3.13).",
    );
}

/// What lives for a short time lives no longer, and ends after it begins.
fn lifetime(maker: &mut Maker, what: &str, refused: &str, most: i64, word: &str, words: &str) {
    let of = |seconds: i64| said(what, &with(&plain(what), "/exp", START + seconds));
    let about = format!("It lives a second more than {words}.");
    maker.alone(what, "lives-too-long", refused, of(most + 1), &about);
    let about = "It ends before it begins.";
    maker.alone(what, "ends-before-it-begins", refused, of(-1), about);
    let about = format!("It lives {words}.");
    maker.alone(what, &format!("lives-{word}"), "", of(most), &about);
}

/// What whereabouts may name.
fn addresses(maker: &mut Maker) {
    let address = "/ip4/192.0.2.7/tcp/4001";
    let of = |all: Vec<String>| said("whereabouts", &with(&plain("whereabouts"), "/addr", all));
    for (name, refused, all, about) in [
        ("no-addresses", "", vec![], "Nowhere, for now."),
        (
            "eight-addresses",
            "",
            vec![address.to_owned(); 8],
            "Eight addresses.",
        ),
        (
            "nine-addresses",
            "E_LIMIT S13.7",
            vec![address.to_owned(); 9],
            "One address more than there may be.",
        ),
        (
            "longest-address",
            "",
            vec![format!("/{}", "x".repeat(255))],
            "An address of 256 bytes.",
        ),
        (
            "long-address",
            "E_LIMIT S13.7",
            vec![format!("/{}", "x".repeat(256))],
            "An address of 257 bytes.",
        ),
        (
            "no-multiaddr",
            "E_FORMAT S13.7",
            vec!["192.0.2.7:4001".to_owned()],
            "An address that is no multiaddr.",
        ),
        (
            "address-with-space",
            "E_FORMAT S13.7",
            vec![format!("{address} /p2p")],
            "A space in an address.",
        ),
        (
            "address-with-direction",
            "E_FORMAT S13.7",
            vec![format!("{address}/\u{202e}")],
            "A character that turns the text around.",
        ),
    ] {
        maker.alone("whereabouts", name, refused, of(all), about);
    }
}

fn others(maker: &mut Maker) {
    let two = "two minutes";
    lifetime(maker, "hello", "E_TIME S5.7", 120, "two-minutes", two);
    lifetime(maker, "pass", "E_TIME S14.2", 120, "two-minutes", two);
    let half = "half an hour";
    lifetime(
        maker,
        "whereabouts",
        "E_TIME S13.6",
        1800,
        "half-an-hour",
        half,
    );

    let joins: Vec<Value> = (0..65)
        .map(|n| value(&quorate_identity::Digest([n; 32])))
        .collect();
    let text = said("confirm", &with(&plain("confirm"), "/joins", joins));
    maker.alone(
        "confirm",
        "65-joins",
        "E_LIMIT S6.2",
        text,
        "More joins than there can be parties.",
    );

    let receipt = plain("receipt");
    let mut contradicts = |name: &str, at: &str, new: Value, about: &str| {
        maker.alone(
            "receipt",
            name,
            "E_FORMAT S10",
            said("receipt", &with(&receipt, at, new)),
            about,
        );
    };
    contradicts(
        "ends-before-it-begins",
        "/end",
        json!(START - 1),
        "The run ended before it began.",
    );
    contradicts(
        "done-with-exit-1",
        "/exit",
        json!(1),
        "It was done, but the program failed.",
    );
    contradicts(
        "done-without-exit",
        "/exit",
        Value::Null,
        "It was done, but the program did not end by itself.",
    );
    let aborted = with(&with(&receipt, "/outcome", "aborted"), "/exit", Value::Null);
    maker.alone(
        "receipt",
        "aborted",
        "",
        said("receipt", &aborted),
        "A run that was stopped.",
    );

    for (what, member) in [("abort", "note"), ("cancel", "reason")] {
        let whole = plain(what);
        let at = format!("/{member}");
        let text = said(what, &with(&whole, &at, "a".repeat(301)));
        maker.alone(
            what,
            &format!("long-{member}"),
            "E_LIMIT S3.1",
            text,
            "301 characters.",
        );
        let text = said(what, &with(&whole, &at, "all is well\u{202e}"));
        maker.alone(
            what,
            &format!("{member}-with-direction"),
            "E_FORMAT S3.1",
            text,
            "A character that turns the text around.",
        );
        let text = said(what, &with(&whole, &at, "\u{1b}]0;title\u{7}"));
        maker.alone(
            what,
            &format!("{member}-with-escape"),
            "E_FORMAT S3.1",
            text,
            "A terminal's escape sequence.",
        );
    }
    assert_eq!(key(2).did().as_str(), plain("abort")["iss"]);
}
