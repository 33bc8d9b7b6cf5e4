//! D, K, S2, S3.11 to S3.15 and S11.1: identifiers, documents, keys, bundles, manifests, records.

use super::Maker;
use crate::{
    common::{key, secret},
    vector::{Input, Piece},
};
use quorate_identity::base64url;
use quorate_session::Bundle;
use serde_json::{Value, json};

pub fn make(maker: &mut Maker) {
    dids(maker);
    documents(maker);
    keys(maker);
    peer_ids(maker);
    digests(maker);
    times(maker);
    bundles(maker);
    sources(maker);
    manifests(maker);
    records(maker);
}

fn did_of(bytes: &[u8]) -> String {
    format!("did:key:z{}", bs58::encode(bytes).into_string())
}

fn dids(maker: &mut Maker) {
    let own = key(0).did().to_string();
    let raw = bs58::decode(&own["did:key:z".len()..]).into_vec().unwrap();
    let hex = raw
        .iter()
        .fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
    maker.alone("did", "key", "", own.clone(), "A did:key of Ed25519.");
    maker.alone(
        "did",
        "web",
        "",
        "did:web:uni.example%3A8443:mpc",
        "A did:web with port and path.",
    );
    let mut d1 = |name: &str, text: &str, about: &str| {
        maker.alone("did", name, "E_FORMAT D1", text, about);
    };
    d1("empty", "", "Nothing.");
    d1(
        "too-long",
        &format!("did:web:a.example:{}", "a".repeat(256)),
        "More than 256 bytes.",
    );
    d1(
        "not-ascii",
        "did:web:b\u{fc}ro.example",
        "A name that is not written as an A-label.",
    );
    d1("syntax", "did:KEY:x", "A method in upper case.");
    d1(
        "method",
        "did:example:x",
        "A method that the protocol does not have.",
    );
    d1(
        "web-address",
        "did:web:10.0.0.1",
        "An IPv4 address instead of a name.",
    );
    d1(
        "web-upper-case",
        "did:web:Example.com",
        "A name in upper case.",
    );
    d1("web-no-dot", "did:web:localhost", "A name without a dot.");
    d1("web-port-zero", "did:web:a.example%3A0", "Port 0.");
    d1(
        "web-port-padded",
        "did:web:a.example%3A0443",
        "A port with a leading zero.",
    );
    d1(
        "web-empty-segment",
        "did:web:a.example:",
        "An empty path segment.",
    );
    d1(
        "web-escape",
        "did:web:a.example:..%2F",
        "An escape in the path.",
    );
    let fragment = format!("{own}#x");
    d1("fragment", &fragment, "A DID URL is no DID.");
    let mut d2 = |name: &str, text: &str, about: &str| {
        maker.alone("did", name, "E_KEY D2", text, about);
    };
    d2(
        "key-base16",
        &format!("did:key:f{hex}"),
        "The same key in another base.",
    );
    d2(
        "key-long",
        &format!("did:key:z{}", "1".repeat(65)),
        "More characters than an Ed25519 key needs.",
    );
    d2(
        "key-no-base58",
        &own.replacen("z6Mk", "z6M0", 1),
        "A character that base58 does not have.",
    );
    let secp = did_of(&[&[0xe7, 0x01, 0x02][..], &[7; 32]].concat());
    d2("key-secp256k1", &secp, "A key of another curve.");
    let mut k1 = |name: &str, bytes: &[u8], about: &str| {
        let text = did_of(&[&[0xed, 0x01][..], bytes].concat());
        maker.alone("did", name, "E_KEY K1", text, about);
    };
    let one = |first: u8| [&[first][..], &[0; 31]].concat();
    k1("key-of-31-bytes", &[7; 31], "A key that is too short.");
    k1(
        "key-no-point",
        &one(2),
        "No point of the curve has this encoding.",
    );
    k1(
        "key-small-order",
        &one(1),
        "The neutral element: a key that every signature could fit.",
    );
    k1(
        "key-not-canonical",
        &[&[0xee][..], &[0xff; 30], &[0x7f]].concat(),
        "A point in an encoding that is not canonical.",
    );
}

fn documents(maker: &mut Maker) {
    let did = "did:web:uni.example";
    let multibase = key(2).did().as_str()["did:key:".len()..].to_owned();
    let id = format!("{did}#key-1");
    let method = |id: &str| json!({"id": id, "type": "Multikey", "controller": did, "publicKeyMultibase": multibase});
    let good = json!({"id": did, "verificationMethod": [method(&id)], "authentication": [id]});
    let mut judge = |name: &str, refused: &str, document: &Value, about: &str| {
        let vector = maker.alone("document", name, refused, document.to_string(), about);
        vector.did = Some(did.into());
    };
    judge("plain", "", &good, "A document with one usable key.");
    let d3 = "E_DID_RESOLVE D3";
    judge(
        "of-another",
        d3,
        &super::with(&good, "/id", "did:web:other.example"),
        "The document of another DID.",
    );
    judge(
        "no-keys",
        d3,
        &json!({"id": did}),
        "A document without keys.",
    );
    let foreign = super::with(
        &good,
        "/verificationMethod/0/controller",
        "did:web:other.example",
    );
    judge(
        "foreign-controller",
        d3,
        &foreign,
        "The only key is controlled by somebody else.",
    );
    let other = super::with(&good, "/verificationMethod/0/type", "JsonWebKey2020");
    judge("other-type", d3, &other, "The only key is of another type.");
    let many: Vec<Value> = (0..65).map(|n| method(&format!("{did}#key-{n}"))).collect();
    let many = json!({"id": did, "verificationMethod": many, "authentication": [id]});
    judge("too-many-keys", d3, &many, "65 keys.");
}

fn keys(maker: &mut Maker) {
    let bytes = |bytes: &[u8]| Input::Pieces(vec![Piece::Bytes(base64url::encode(bytes))]);
    let mut judge = |name: &str, refused: &str, key: &[u8], about: &str| {
        maker.alone("publicKey", name, refused, bytes(key), about);
    };
    judge("plain", "", key(0).public().as_bytes(), "An Ed25519 key.");
    judge("33-bytes", "E_KEY K1", &[7; 33], "A key that is too long.");
    judge(
        "order-eight",
        "E_KEY K1",
        &[
            0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef,
            0x98, 0xf0, 0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88,
            0x6d, 0x53, 0xfc, 0x05,
        ],
        "A point of order eight.",
    );
}

fn peer_ids(maker: &mut Maker) {
    let peer = super::reader_peer().to_string();
    maker.alone(
        "peerId",
        "plain",
        "",
        peer.clone(),
        "A PeerId of an Ed25519 key.",
    );
    let mut judge = |name: &str, text: &str, about: &str| {
        maker.alone("peerId", name, "E_FORMAT S2.1", text, about);
    };
    judge("short", &peer[..51], "One character is missing.");
    judge(
        "sha256",
        "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",
        "A PeerId that is the hash of a key.",
    );
    judge(
        "no-base58",
        &peer.replacen("12D3Koo", "12D3K0o", 1),
        "A character that base58 does not have.",
    );
    judge(
        "other-prefix",
        &"1".repeat(52),
        "Not the multihash of an Ed25519 key.",
    );
    let mut secp = vec![0x00, 0x24, 0x08, 0x02, 0x12, 0x20];
    secp.resize(38, 7);
    let text = bs58::encode(secp).into_string();
    judge("secp256k1", &text, "A key of another curve.");
    let mut weak = vec![0x00, 0x24, 0x08, 0x01, 0x12, 0x20, 1];
    weak.resize(38, 0);
    let text = bs58::encode(weak).into_string();
    maker.alone(
        "peerId",
        "small-order",
        "E_KEY K1",
        text,
        "The key is a point of small order.",
    );
}

fn digests(maker: &mut Maker) {
    let digest = super::inv().to_string();
    maker.alone("digest", "plain", "", digest.clone(), "A digest.");
    maker.alone(
        "digest",
        "short",
        "E_FORMAT J2",
        base64url::encode(&[7; 31]),
        "31 bytes.",
    );
    maker.alone("digest", "padded", "E_FORMAT J2", digest + "=", "Padding.");
    let content = format!("sha256:{}", "ab".repeat(32));
    maker.alone(
        "contentDigest",
        "plain",
        "",
        content.clone(),
        "A content digest.",
    );
    let mut judge = |name: &str, text: &str, about: &str| {
        maker.alone("contentDigest", name, "E_FORMAT S3.13", text, about);
    };
    judge(
        "upper-case",
        &content.replace('a', "A"),
        "Digits in upper case.",
    );
    judge(
        "no-prefix",
        &content["sha256:".len()..],
        "No name of the hash.",
    );
    judge(
        "other-hash",
        &content.replace("sha256", "sha512"),
        "Another hash.",
    );
    judge("short", &content[..70], "63 digits.");
    judge(
        "not-hex",
        &content.replace('a', "g"),
        "A character that is no digit.",
    );
}

fn times(maker: &mut Maker) {
    maker.alone(
        "dateTime",
        "plain",
        "",
        "2026-11-22T16:00:00Z",
        "Whole seconds, UTC.",
    );
    let mut judge = |name: &str, text: &str, about: &str| {
        maker.alone("dateTime", name, "E_FORMAT T1", text, about);
    };
    judge("offset", "2026-11-22T16:00:00+00:00", "An offset.");
    judge("fraction", "2026-11-22T16:00:00.5Z", "A fraction.");
    judge("month-13", "2026-13-22T16:00:00Z", "A thirteenth month.");
    judge(
        "february-30",
        "2026-02-30T16:00:00Z",
        "A day that the month does not have.",
    );
    judge("space", "2026-11-22 16:00:00Z", "A space instead of T.");
    judge("lower-case", "2026-11-22t16:00:00z", "Lower case.");
    judge("leap-second", "2026-06-30T23:59:60Z", "A second 60.");
    judge("date-only", "2026-11-22", "No time of day.");
}

fn bundle(invitation: &str, hints: Vec<String>) -> String {
    let bundle = Bundle {
        invitation: invitation.into(),
        secret: secret(),
        hints,
        program: None,
    };
    bundle.encode()
}

fn cbor(bytes: &[u8]) -> String {
    format!("quorate1:{}", base64url::encode(bytes))
}

fn bundles(maker: &mut Maker) {
    let invitation = maker.context.invitation.clone();
    let hint = "/ip4/192.0.2.1/udp/4001/quic-v1".to_owned();
    let good = bundle(&invitation, vec![hint.clone()]);
    maker.alone(
        "bundle",
        "plain",
        "",
        good.clone(),
        "A bundle with one hint.",
    );
    maker.alone(
        "bundle",
        "white-space",
        "",
        format!(" \n{good}\r\n"),
        "White space around it is ignored.",
    );
    let too_long = Input::Pieces(vec![
        Piece::Text("quorate1:".into()),
        Piece::Repeat {
            text: "A".into(),
            times: 245_760,
        },
    ]);
    maker.alone(
        "bundle",
        "too-long",
        "E_LIMIT S3.11",
        too_long,
        "More than 245,760 characters.",
    );
    maker.alone(
        "bundle",
        "padded",
        "E_FORMAT J2",
        good.clone() + "=",
        "Padding.",
    );
    let small = |invitation: &[u8], secret: &[u8], hints: &[u8]| {
        let length = |major: u8, bytes: &[u8]| {
            [&[major + 24, u8::try_from(bytes.len()).unwrap()][..], bytes].concat()
        };
        let parts = [
            &b"\xa3\x63inv"[..],
            &length(0x60, invitation),
            b"\x61s",
            &length(0x40, secret),
            b"\x65hints",
            hints,
        ];
        parts.concat()
    };
    let text: &[u8] = b"an invitation of thirty letters";
    let whole = small(text, &[7; 32], b"\x80");
    maker.alone(
        "bundle",
        "small",
        "",
        cbor(&whole),
        "The least bundle; nobody looks at the invitation yet.",
    );
    let mut judge = |name: &str, text: String, about: &str| {
        maker.alone("bundle", name, "E_FORMAT S3.11", text, about);
    };
    judge(
        "other-prefix",
        good.replacen("quorate1:", "quorate2:", 1),
        "A version that does not exist.",
    );
    judge(
        "no-prefix",
        good["quorate1:".len()..].into(),
        "The prefix is missing.",
    );
    judge("no-map", cbor(b"\x80"), "An array.");
    judge(
        "cut",
        cbor(&whole[..whole.len() - 1]),
        "The last byte is missing.",
    );
    judge(
        "four-members",
        cbor(&[&[0xa4], &whole[1..], b"\x61x\x00"].concat()),
        "A fourth member that does not exist.",
    );
    judge(
        "endless-map",
        cbor(&[&[0xbf], &whole[1..], b"\xff"].concat()),
        "A map without a length.",
    );
    let reordered = [
        &b"\xa3\x61s\x58\x20"[..],
        &[7; 32],
        b"\x63inv\x60\x65hints\x80",
    ]
    .concat();
    judge(
        "other-order",
        cbor(&reordered),
        "The members stand in another order.",
    );
    judge(
        "short-secret",
        cbor(&small(text, &[7; 31], b"\x80")),
        "A secret of 31 bytes.",
    );
    judge(
        "endless-list",
        cbor(&small(text, &[7; 32], b"\x9f\xff")),
        "A list without a length.",
    );
    judge(
        "bytes-after",
        cbor(&[&whole[..], b"\x00"].concat()),
        "A byte after the end.",
    );
    judge(
        "long-zero",
        cbor(&small(text, &[7; 32], b"\x98\x00")),
        "A length in more bytes than it needs.",
    );
    judge(
        "too-many-hints",
        bundle("a.b.c", vec![hint; 9]),
        "Nine hints.",
    );
    judge(
        "long-hint",
        bundle("a.b.c", vec!["x".repeat(257)]),
        "A hint of 257 bytes.",
    );
    judge(
        "large-invitation",
        bundle(&"x".repeat(65_537), Vec::new()),
        "An invitation of more than 64 KiB.",
    );
}

/// Bundles in which a program's source came along: the CBOR list of its paths and contents.
fn sources(maker: &mut Maker) {
    let text = |major: u8, bytes: &[u8]| -> Vec<u8> {
        let length = u8::try_from(bytes.len()).unwrap();
        let head = if length < 24 {
            vec![major + length]
        } else {
            vec![major + 24, length]
        };
        [&head[..], bytes].concat()
    };
    let file = |path: &str, content: &[u8]| {
        [
            &[0x82][..],
            &text(0x60, path.as_bytes()),
            &text(0x40, content),
        ]
        .concat()
    };
    let list = |files: &[Vec<u8>]| {
        [
            &[0x80 + u8::try_from(files.len()).unwrap()][..],
            &files.concat(),
        ]
        .concat()
    };
    let along = |source: &[u8]| {
        let head = b"\xa4\x63inv\x65a.b.c\x61s\x58\x20";
        let length = u16::try_from(source.len()).unwrap().to_be_bytes();
        let head = [&head[..], &[7; 32], b"\x65hints\x80\x63src"].concat();
        let prefix = match source.len() {
            0..24 => vec![0x40 + length[1]],
            24..256 => vec![0x58, length[1]],
            _ => vec![0x59, length[0], length[1]],
        };
        cbor(&[&head[..], &prefix, source].concat())
    };
    let one = list(&[file("main.py", b"print(1)")]);
    maker.alone(
        "bundle",
        "source",
        "",
        along(&one),
        "A program of one file came along.",
    );
    let two = list(&[file("lib/x.py", b"y = 1"), file("main.py", b"import lib.x")]);
    maker.alone(
        "bundle",
        "source-of-two-files",
        "",
        along(&two),
        "Files in the order of their paths.",
    );
    let mut judge = |name: &str, refused: &str, source: &[u8], about: &str| {
        maker.alone(
            "bundle",
            &format!("source-{name}"),
            refused,
            along(source),
            about,
        );
    };
    judge(
        "other-encoding",
        "E_PROGRAM S3.20",
        &list(&[file("main.py", b"# coding: utf-7\n# +AAo-import os")]),
        "Its first line has the rest read otherwise than it is shown.",
    );
    let swapped = list(&[file("main.py", b"import lib.x"), file("lib/x.py", b"y = 1")]);
    judge(
        "out-of-order",
        "E_FORMAT S3.20",
        &swapped,
        "Files in another order.",
    );
    judge("no-list", "E_FORMAT S3.20", b"\xa0", "A map.");
    judge(
        "endless-list",
        "E_FORMAT S3.20",
        b"\x9f\xff",
        "A list without a length.",
    );
    let three = [&[0x81, 0x83][..], &text(0x60, b"a"), b"\x40\x40"].concat();
    judge(
        "file-of-three-parts",
        "E_FORMAT S3.20",
        &three,
        "A file with a third part.",
    );
    judge(
        "bytes-after",
        "E_FORMAT S3.20",
        &[&one[..], b"\x00"].concat(),
        "A byte after the end.",
    );
    let long = [&b"\x98\x01"[..], &one[1..]].concat();
    judge(
        "long-length",
        "E_FORMAT S3.20",
        &long,
        "A length in more bytes than it needs.",
    );
    let many: Vec<u8> = (0..65_u8)
        .flat_map(|n| file(&format!("f{n:02}"), b""))
        .collect();
    let many = [&b"\x98\x41"[..], &many].concat();
    judge("too-many-files", "E_LIMIT S3.20", &many, "65 files.");
    judge(
        "hidden-file",
        "E_PROGRAM S3.20",
        &list(&[file(".main.py", b"")]),
        "A name that begins with a dot.",
    );
    judge(
        "bytecode",
        "E_PROGRAM S3.20",
        &list(&[file("lib.pyc", b"")]),
        "Bytecode, which nobody reads.",
    );
    let cache = list(&[file("__pycache__/lib.py", b"")]);
    judge(
        "bytecode-folder",
        "E_PROGRAM S3.20",
        &cache,
        "A file in the folder of bytecode.",
    );
    let both = list(&[file("a", b""), file("a/b", b"")]);
    judge(
        "file-and-folder",
        "E_PROGRAM S3.20",
        &both,
        "One path is the folder of another.",
    );
    judge(
        "not-text",
        "E_PROGRAM S3.20",
        &list(&[file("a.so", b"\x7fELF\xff")]),
        "A file that is not UTF-8.",
    );
    judge("empty", "E_PROGRAM S3.14", b"\x80", "No file.");
    let twice = list(&[file("a", b""), file("a", b"")]);
    judge("twice", "E_PROGRAM S3.14", &twice, "One path twice.");
    judge(
        "parent",
        "E_PROGRAM S3.15",
        &list(&[file("../main.py", b"")]),
        "A path out of the folder.",
    );
    judge(
        "absolute",
        "E_PROGRAM S3.15",
        &list(&[file("/etc/profile", b"")]),
        "An absolute path.",
    );
    judge(
        "escape",
        "E_PROGRAM S3.15",
        &list(&[file("a\u{1b}[2J", b"")]),
        "A path with a control character.",
    );
}

fn manifests(maker: &mut Maker) {
    let digest = format!("sha256:{}", "ab".repeat(32));
    let rows = |paths: &[&str]| {
        let rows: Vec<Value> = paths.iter().map(|path| json!([path, 3, digest])).collect();
        Value::from(rows).to_string()
    };
    maker.alone(
        "manifest",
        "plain",
        "",
        rows(&["main.py", "lib/a.py"]),
        "Two files; their order says nothing.",
    );
    let mut judge = |name: &str, rule: &str, text: String, about: &str| {
        maker.alone("manifest", name, &format!("E_PROGRAM {rule}"), text, about);
    };
    judge("empty", "S3.14", rows(&[]), "No file.");
    let many: Vec<String> = (0..4097).map(|n| n.to_string()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    judge("too-many", "S3.14", rows(&many), "4,097 files.");
    judge(
        "twice",
        "S3.14",
        rows(&["a.py", "a.py"]),
        "A path stands twice.",
    );
    judge(
        "huge-file",
        "S3.14",
        json!([["a.py", 1_u64 << 53, digest]]).to_string(),
        "A size that not every reader can hold.",
    );
    for (name, path) in [
        ("path-empty", ""),
        ("path-absolute", "/etc/passwd"),
        ("path-drive", "c:x"),
        ("path-up", "a/../b"),
        ("path-dot", "./a"),
        ("path-double-slash", "a//b"),
        ("path-ends-in-slash", "a/"),
        ("path-backslash", "a\\b"),
        ("path-control", "a\nb"),
        ("path-direction", "a\u{202e}yp.b"),
    ] {
        judge(
            name,
            "S3.15",
            rows(&[path]),
            "A path that could leave the folder, or show as another.",
        );
    }
    judge(
        "path-long",
        "S3.15",
        rows(&[&"a".repeat(513)]),
        "A path of 513 bytes.",
    );
}

fn records(maker: &mut Maker) {
    let inv = super::inv();
    let good = json!({"v": 1, "inv": inv, "epoch": 7, "joins": 1, "runs": 0, "roster": null, "epochs": [7, 0, 0], "closed": null});
    maker.alone(
        "stored",
        "plain",
        "",
        good.to_string(),
        "The record of a party that joined once.",
    );
    let mut judge = |name: &str, value: &Value, about: &str| {
        maker.alone("stored", name, "E_STATE S11.1", value.to_string(), about);
    };
    judge("version", &super::with(&good, "/v", 2), "Another version.");
    judge(
        "unknown-member",
        &super::and(&good, "extra", 1),
        "A member that a record does not have.",
    );
    judge(
        "too-many-parties",
        &super::with(&good, "/epochs", vec![0; 65]),
        "65 parties.",
    );
    judge(
        "closed",
        &super::with(&good, "/closed", "perhaps"),
        "An end that does not exist.",
    );
    judge(
        "no-digest",
        &super::with(&good, "/inv", "AAAA"),
        "The invitation is no digest.",
    );
    let cut = good.to_string();
    let about = "The end is missing, as after a crash while writing.";
    maker.alone(
        "stored",
        "cut",
        "E_STATE S11.1",
        &cut[..cut.len() - 2],
        about,
    );
    let repeat = Piece::Repeat {
        text: " ".into(),
        times: 4097,
    };
    maker.alone(
        "stored",
        "too-large",
        "E_STATE S11.1",
        Input::Pieces(vec![repeat]),
        "4,097 bytes.",
    );
}
