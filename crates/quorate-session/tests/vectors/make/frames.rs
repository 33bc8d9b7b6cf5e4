//! S5.1: frames by themselves.

use super::{Maker, and, frame, value, without};
use crate::vector::{Input, Piece};
use quorate_identity::{B64, Digest, base64url};
use quorate_session::Frame;
use serde_json::{Value, json};

/// Requests to the control socket of a session.
fn requests(maker: &mut Maker) {
    for (name, text) in [
        ("status", json!({"v": 1, "do": "status"})),
        ("watch", json!({"v": 1, "do": "watch"})),
        ("leave", json!({"v": 1, "do": "leave"})),
        (
            "cancel",
            json!({"v": 1, "do": "cancel", "reason": "wrong year"}),
        ),
        (
            "longest-reason",
            json!({"v": 1, "do": "cancel", "reason": "é".repeat(300)}),
        ),
    ] {
        maker.alone("control", name, "", text.to_string(), "As it should be.");
    }
    let mut refuse = |name: &str, refused: &str, text: String, about: &str| {
        maker.alone("control", name, refused, text, about);
    };
    let form = "E_FORMAT N14";
    for (name, text, about) in [
        (
            "unknown-member",
            json!({"v": 1, "do": "status", "x": 1}),
            "A member that does not exist.",
        ),
        (
            "unknown-request",
            json!({"v": 1, "do": "halt"}),
            "A request that does not exist.",
        ),
        (
            "no-version",
            json!({"do": "status"}),
            "The version is missing.",
        ),
        (
            "version-as-text",
            json!({"v": "1", "do": "status"}),
            "The version is a text.",
        ),
        (
            "version-256",
            json!({"v": 256, "do": "status"}),
            "A version that does not fit its type.",
        ),
        (
            "reason-of-leave",
            json!({"v": 1, "do": "leave", "reason": "x"}),
            "A reason where none belongs.",
        ),
        (
            "no-reason",
            json!({"v": 1, "do": "cancel"}),
            "A cancel without a reason.",
        ),
        (
            "reason-null",
            json!({"v": 1, "do": "cancel", "reason": null}),
            "A reason that is null.",
        ),
        ("array", json!([]), "An array."),
        ("text", json!("status"), "A text."),
    ] {
        refuse(name, form, text.to_string(), about);
    }
    let json = "E_FORMAT J3";
    refuse("empty", json, String::new(), "Nothing.");
    refuse(
        "twice",
        json,
        r#"{"v":1,"v":1,"do":"status"}"#.into(),
        "A member that stands twice.",
    );
    refuse(
        "two",
        json,
        r#"{"v":1,"do":"status"}{"v":1,"do":"leave"}"#.into(),
        "Two requests on a line.",
    );
    refuse(
        "fraction",
        json,
        r#"{"v":1.0,"do":"status"}"#.into(),
        "The version has a fraction.",
    );
    let bell = json!({"v": 1, "do": "cancel", "reason": "\u{7}"}).to_string();
    refuse(
        "reason-with-bell",
        form,
        bell,
        "A control character in the reason.",
    );
    let version = json!({"v": 2, "do": "status"}).to_string();
    refuse("version-2", "E_VERSION N14", version, "Another version.");
    let long = json!({"v": 1, "do": "cancel", "reason": "x".repeat(301)}).to_string();
    refuse(
        "long-reason",
        "E_LIMIT N14",
        long,
        "A reason of 301 characters.",
    );
    let line = format!("{}{}", " ".repeat(4096), json!({"v": 1, "do": "status"}));
    refuse(
        "long-line",
        "E_LIMIT N14",
        line,
        "A line of more than 4,096 bytes.",
    );
}

pub fn make(maker: &mut Maker) {
    requests(maker);
    let digest = Digest([2; 32]);
    let kinds = [
        ("hello", json!({"t": "hello", "tag": B64([1; 32])})),
        (
            "proof",
            json!({"t": "proof", "sid": B64([0x51; 32]), "inv": digest, "auth": super::said("hello", &super::plain("hello"))}),
        ),
        (
            "invitation",
            json!({"t": "invitation", "jws": maker.context.invitation}),
        ),
        ("have", json!({"t": "have", "digests": [digest]})),
        ("want", json!({"t": "want", "digests": [digest]})),
        (
            "statements",
            json!({"t": "statements", "jws": [super::said("cancel", &super::plain("cancel"))]}),
        ),
        (
            "signal",
            json!({"t": "signal", "roster": digest, "data": base64url::encode(b"candidate")}),
        ),
        (
            "peers",
            json!({"t": "peers", "own": ["/ip4/192.0.2.7/tcp/4001"], "others": [{"peer": super::reader_peer(), "addresses": ["/ip4/192.0.2.8/udp/4001/quic-v1"]}]}),
        ),
        ("ping", json!({"t": "ping", "n": 7})),
        ("pong", json!({"t": "pong", "n": 7})),
    ];
    let form = "E_FORMAT S5.1";
    for (kind, whole) in kinds {
        maker.alone("frame", kind, "", whole.to_string(), "As it should be.");
        let text = and(&whole, "extra", 1).to_string();
        maker.alone(
            "frame",
            &format!("{kind}-unknown-member"),
            form,
            text,
            "A member that the kind does not have.",
        );
        let member = whole
            .as_object()
            .unwrap()
            .keys()
            .find(|member| *member != "t")
            .unwrap();
        let text = without(&whole, member).to_string();
        maker.alone(
            "frame",
            &format!("{kind}-missing-member"),
            form,
            text,
            "A member of the kind is missing.",
        );
    }
    shapes(maker, form);
    limits(maker, digest);
}

fn shapes(maker: &mut Maker, form: &str) {
    let mut refuse = |name: &str, value: Value, about: &str| {
        maker.alone("frame", name, form, value.to_string(), about);
    };
    refuse(
        "unknown-kind",
        json!({"t": "gossip"}),
        "A kind that the protocol does not have.",
    );
    refuse("no-kind", json!({"n": 7}), "No kind.");
    refuse(
        "array",
        json!(["ping", 7]),
        "An array; some readers take that for an object.",
    );
    refuse("number", json!(7), "A number.");
    refuse(
        "negative-ping",
        json!({"t": "ping", "n": -1}),
        "A negative number.",
    );
    refuse(
        "short-tag",
        json!({"t": "hello", "tag": B64([1; 31])}),
        "A tag of 31 bytes.",
    );
    refuse(
        "digest-no-text",
        json!({"t": "have", "digests": [7]}),
        "A digest that is no text.",
    );
    maker.alone("frame", "empty", "E_FORMAT J3", "", "Nothing at all.");
    maker.alone("frame", "no-json", "E_FORMAT J3", "ping", "No JSON.");
    maker.alone(
        "frame",
        "kind-twice",
        "E_FORMAT J3",
        r#"{"t":"ping","t":"pong","n":7}"#,
        "A member stands twice.",
    );
    let bytes = Input::Pieces(vec![Piece::Bytes(base64url::encode(
        b"{\"t\":\"ping\xff\"}",
    ))]);
    maker.alone(
        "frame",
        "no-utf-8",
        "E_FORMAT J3",
        bytes,
        "A byte that no UTF-8 has.",
    );
}

fn limits(maker: &mut Maker, digest: Digest) {
    let limit = "E_LIMIT S5.1";
    let pieces = |head: &str, text: &str, times: usize, tail: &str| {
        let repeat = Piece::Repeat {
            text: text.into(),
            times,
        };
        Input::Pieces(vec![
            Piece::Text(head.into()),
            repeat,
            Piece::Text(tail.into()),
        ])
    };
    let space = pieces(&frame(&Frame::Ping { n: 7 }), " ", 262_144, "");
    maker.alone(
        "frame",
        "too-large",
        limit,
        space,
        "More than 262,144 bytes.",
    );
    let text = value(&digest).to_string();
    for kind in ["have", "want"] {
        let head = format!(r#"{{"t":"{kind}","digests":[{text}"#);
        let many = pieces(&head, &format!(",{text}"), 1024, "]}");
        maker.alone(
            "frame",
            &format!("{kind}-1025-digests"),
            limit,
            many,
            "1,025 digests.",
        );
    }
    let many = pieces(
        r#"{"t":"statements","jws":["a.a.a""#,
        r#","a.a.a""#,
        128,
        "]}",
    );
    maker.alone("frame", "129-statements", limit, many, "129 statements.");
    let large = pieces(r#"{"t":"statements","jws":[""#, "a", 65_537, r#""]}"#);
    maker.alone(
        "frame",
        "large-statement",
        limit,
        large,
        "A statement of more than 64 KiB.",
    );
    let large = pieces(r#"{"t":"invitation","jws":""#, "a", 65_537, r#""}"#);
    maker.alone(
        "frame",
        "large-invitation",
        limit,
        large,
        "An invitation of more than 64 KiB.",
    );
    let head = format!(r#"{{"t":"proof","sid":{text},"inv":{text},"auth":""#);
    maker.alone(
        "frame",
        "large-proof",
        limit,
        pieces(&head, "a", 65_537, r#""}"#),
        "A link proof of more than 64 KiB.",
    );
    let head = format!(r#"{{"t":"signal","roster":{text},"data":""#);
    maker.alone(
        "frame",
        "large-signal",
        limit,
        pieces(&head, "A", 2733, r#""}"#),
        "A signal of more than 2,048 bytes.",
    );
}
