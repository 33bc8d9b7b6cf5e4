//! S3.1 to S3.15: what an invitation may say.

use super::{Maker, changed_invitation, plain, said, with};
use crate::common::key;
use serde_json::{Value, json};

pub fn make(maker: &mut Maker) {
    texts(maker);
    parties(maker);
    computation(maker);
    program(maker);
    network(maker);
    times(maker);
    at_limits(maker);
}

fn refuse(
    maker: &mut Maker,
    name: &str,
    refused: &str,
    at: &str,
    new: impl Into<Value>,
    about: &str,
) {
    let text = changed_invitation(&format!("/credentialSubject{at}"), new);
    maker.alone("invitation", name, refused, text, about);
}

fn texts(maker: &mut Maker) {
    let (limit, form) = ("E_LIMIT S3.1", "E_FORMAT S3.1");
    refuse(
        maker,
        "long-title",
        limit,
        "/title",
        "a".repeat(121),
        "A title of 121 characters.",
    );
    refuse(
        maker,
        "long-purpose",
        limit,
        "/purpose",
        "\u{e9}".repeat(501),
        "A purpose of 501 characters.",
    );
    refuse(
        maker,
        "long-name",
        limit,
        "/parties/1/name",
        "a".repeat(65),
        "A name of 65 characters.",
    );
    refuse(
        maker,
        "long-role",
        limit,
        "/parties/1/role",
        "a".repeat(65),
        "A role of 65 characters.",
    );
    refuse(
        maker,
        "title-with-escape",
        form,
        "/title",
        "pay\u{1b}[2Kroll",
        "A terminal's escape sequence in the title.",
    );
    refuse(
        maker,
        "title-with-direction",
        form,
        "/title",
        "pay\u{202e}llor",
        "A character that turns the text around.",
    );
    refuse(
        maker,
        "name-with-zero-width",
        form,
        "/parties/1/name",
        "Al\u{200b}ice",
        "A character that nobody sees.",
    );
    refuse(
        maker,
        "purpose-with-line-separator",
        form,
        "/purpose",
        "a\u{2028}b",
        "A line separator.",
    );
    refuse(
        maker,
        "argument-with-line",
        form,
        "/program/args/0",
        "--x\n",
        "A line end in an argument.",
    );
    refuse(
        maker,
        "relay-with-bell",
        form,
        "/rendezvous/relays",
        json!(["/dns4/a\u{7}"]),
        "A control character in an address.",
    );
}

fn party(index: usize) -> Value {
    let key = key(index);
    json!({"did": key.did(), "name": format!("party-{index}"), "role": "input,output", "keys": [key.public().thumbprint()]})
}

fn with_parties(parties: Vec<Value>) -> String {
    let count = parties.len();
    let whole = with(&plain("invitation"), "/credentialSubject/parties", parties);
    let whole = with(&whole, "/credentialSubject/mpc/m", count);
    said(
        "invitation",
        &with(&whole, "/credentialSubject/mpc/prss", false),
    )
}

fn parties(maker: &mut Maker) {
    let (limit, form) = ("E_LIMIT S3.2", "E_FORMAT S3.2");
    let thumbprint = key(1).public().thumbprint();
    maker.alone(
        "invitation",
        "no-party",
        limit,
        with_parties(Vec::new()),
        "Nobody is invited.",
    );
    maker.alone(
        "invitation",
        "one-party",
        limit,
        with_parties(vec![party(0)]),
        "A computation of one.",
    );
    let many = (0..65).map(party).collect();
    maker.alone(
        "invitation",
        "65-parties",
        limit,
        with_parties(many),
        "One party more than there can be.",
    );
    refuse(
        maker,
        "other-m",
        form,
        "/mpc/m",
        4,
        "m is not the number of parties.",
    );
    let twice = with_parties(vec![party(0), party(1), party(1)]);
    maker.alone(
        "invitation",
        "party-twice",
        form,
        twice,
        "A party stands twice.",
    );
    refuse(
        maker,
        "no-pinned-key",
        limit,
        "/parties/1/keys",
        json!([]),
        "A party without a pinned key.",
    );
    refuse(
        maker,
        "nine-pinned-keys",
        limit,
        "/parties/1/keys",
        json!(vec![thumbprint; 9]),
        "Nine pinned keys.",
    );
    let sixty_four = (0..64).map(party).collect();
    let whole = with_parties(sixty_four);
    maker.alone(
        "invitation",
        "64-parties",
        "",
        whole,
        "As many parties as there can be, without PRSS.",
    );
}

fn computation(maker: &mut Maker) {
    refuse(
        maker,
        "other-engine",
        "E_VERSION S3.3",
        "/mpc/engine",
        "scale-mamba",
        "An engine that this version does not have.",
    );
    let limit = "E_LIMIT S3.3";
    refuse(
        maker,
        "long-version",
        limit,
        "/mpc/version",
        "1".repeat(33),
        "A version of 33 bytes.",
    );
    refuse(
        maker,
        "word-16",
        limit,
        "/mpc/word",
        16,
        "A word size that no machine of the parties has.",
    );
    let base = plain("invitation");
    let mpc = |name: &str, number: u16| {
        let mpc = super::and(&base["credentialSubject"]["mpc"], name, number);
        said("invitation", &with(&base, "/credentialSubject/mpc", mpc))
    };
    maker.alone(
        "invitation",
        "bit-length-0",
        limit,
        mpc("bitLength", 0),
        "Integers of no bits.",
    );
    maker.alone(
        "invitation",
        "sec-param-4097",
        limit,
        mpc("secParam", 4097),
        "A security parameter beyond all reason.",
    );
    let threshold = "E_THRESHOLD S3.4";
    refuse(
        maker,
        "threshold-0",
        threshold,
        "/mpc/t",
        0,
        "Nothing protects the inputs, and nobody said so.",
    );
    refuse(
        maker,
        "threshold-half",
        threshold,
        "/mpc/t",
        2,
        "Two of three parties cannot be an honest minority.",
    );
    let two = |t: u16| {
        with(
            &serde_json::from_value::<Value>(two_parties()).unwrap(),
            "/credentialSubject/mpc/t",
            t,
        )
    };
    maker.alone(
        "invitation",
        "two-parties",
        threshold,
        said("invitation", &two(0)),
        "Two parties cannot hide inputs from each other.",
    );
    maker.alone(
        "invitation",
        "two-parties-threshold-1",
        threshold,
        said("invitation", &two(1)),
        "Two parties with a threshold of one.",
    );
    let known = with(&two(0), "/credentialSubject/policy/zeroThreshold", true);
    maker.alone(
        "invitation",
        "zero-threshold",
        "",
        said("invitation", &known),
        "Two parties who know that nothing is hidden.",
    );
    let many: Vec<Value> = (0..25).map(party).collect();
    let whole = with(&base, "/credentialSubject/parties", many);
    let whole = with(&whole, "/credentialSubject/mpc/m", 25);
    let whole = with(&whole, "/credentialSubject/mpc/t", 12);
    maker.alone(
        "invitation",
        "prss-keys",
        "E_LIMIT S3.5",
        said("invitation", &whole),
        "C(25, 12) keys with PRSS.",
    );
}

fn two_parties() -> Value {
    let whole = with(
        &plain("invitation"),
        "/credentialSubject/parties",
        vec![party(0), party(1)],
    );
    with(&whole, "/credentialSubject/mpc/m", 2)
}

fn program(maker: &mut Maker) {
    let limit = "E_LIMIT S3.6";
    refuse(
        maker,
        "65-arguments",
        limit,
        "/program/args",
        vec!["x"; 65],
        "65 arguments.",
    );
    refuse(
        maker,
        "long-argument",
        limit,
        "/program/args/0",
        "x".repeat(1025),
        "An argument of 1,025 bytes.",
    );
    refuse(
        maker,
        "entry-up",
        "E_PROGRAM S3.15",
        "/program/entry",
        "../main.py",
        "A file outside of the program's folder.",
    );
    refuse(
        maker,
        "entry-absolute",
        "E_PROGRAM S3.15",
        "/program/entry",
        "/bin/sh",
        "An absolute path.",
    );
    let digest = format!("sha256:{}", "AB".repeat(32));
    refuse(
        maker,
        "manifest-upper-case",
        "E_FORMAT J7",
        "/program/manifest",
        digest,
        "A content digest in upper case (S3.13).",
    );
}

fn network(maker: &mut Maker) {
    let limit = "E_LIMIT S3.7";
    refuse(
        maker,
        "port-1024",
        limit,
        "/net/port",
        1024,
        "The control port would be 1023.",
    );
    refuse(
        maker,
        "mtu-1279",
        limit,
        "/net/mtu",
        1279,
        "Less than IPv6 needs.",
    );
    refuse(
        maker,
        "mtu-1421",
        limit,
        "/net/mtu",
        1421,
        "More than fits with WireGuard's envelope.",
    );
    refuse(
        maker,
        "path-policy",
        "E_FORMAT J7",
        "/net/path",
        "none",
        "A path policy that does not exist.",
    );
    let limit = "E_LIMIT S3.8";
    refuse(
        maker,
        "nine-relays",
        limit,
        "/rendezvous/relays",
        vec!["/dns4/a.example"; 9],
        "Nine relays.",
    );
    refuse(
        maker,
        "nine-bootstrap-nodes",
        limit,
        "/rendezvous/bootstrap",
        vec!["/dns4/a.example"; 9],
        "Nine bootstrap nodes.",
    );
    refuse(
        maker,
        "long-relay",
        limit,
        "/rendezvous/relays",
        vec!["x".repeat(257)],
        "An address of 257 bytes.",
    );
    refuse(
        maker,
        "long-dht",
        limit,
        "/rendezvous/dht",
        "x".repeat(257),
        "A protocol name of 257 bytes.",
    );
    refuse(
        maker,
        "no-post-quantum",
        "E_FORMAT J7",
        "/policy/pq",
        "optional",
        "There is no choice about key agreement.",
    );
    refuse(
        maker,
        "four-rejoins",
        "E_LIMIT S3.10",
        "/policy/rejoin",
        4,
        "Four re-joins.",
    );
}

fn times(maker: &mut Maker) {
    let order = "E_TIME S3.9";
    refuse(
        maker,
        "join-after-start",
        order,
        "/time/joinBy",
        1_795_349_701,
        "Joining ends after starting.",
    );
    refuse(
        maker,
        "start-after-end",
        order,
        "/time/endBy",
        1_795_349_699,
        "The end lies before the start.",
    );
    refuse(
        maker,
        "before-1970",
        order,
        "/time/joinBy",
        -1,
        "A time before 1970.",
    );
}

fn at_limits(maker: &mut Maker) {
    let whole = plain("invitation");
    let changes = [
        ("/title", json!("\u{e9}".repeat(120))),
        ("/purpose", json!("p".repeat(500))),
        ("/supersedes", json!(super::inv())),
        ("/program/args", json!(vec!["x".repeat(16); 64])),
        ("/program/entry", json!("src/..main/.py")),
        ("/net/port", json!(65_535)),
        ("/net/mtu", json!(1420)),
        ("/policy/rejoin", json!(0)),
    ];
    let whole = changes.into_iter().fold(whole, |whole, (at, new)| {
        with(&whole, &format!("/credentialSubject{at}"), new)
    });
    maker.alone(
        "invitation",
        "at-limits",
        "",
        said("invitation", &whole),
        "Everything as large as it may be.",
    );
}
