//! What a party that has joined refuses, or ends with: S4, S5, C3 to C9, S6 to S9, S11.5.

use super::{
    Maker, confirm, hello, join_of, jws, kem,
    links::{self, proof, ready, session_of, unpinned},
    plain, right_hello, roster_joins, said, value, with,
};
use crate::{
    common::{START, epoch_now, forge_join, inv, key, resign_peer},
    vector::LinkState,
};
use quorate_identity::{Code, Digest, UnixMillis, UnixTime};
use quorate_session::{
    Pid,
    message::{Abort, CodeText, Join, ReceiptOutcome},
};
use serde_json::{Value, json};

const CONFIRMING: &[&str] = &["join-1", "join-2"];
const MESHED: &[&str] = &["join-1", "join-2", "confirm-1", "confirm-2"];

pub fn make(maker: &mut Maker) {
    taken(maker);
    links::make(maker);
    rights(maker);
    joins(maker);
    checks(maker);
    agreement(maker);
    shares(maker);
    ends(maker);
    floors(maker);
}

fn taken(maker: &mut Maker) {
    for index in [1, 2] {
        let text = maker.context.statements[&format!("join-{index}")].clone();
        let vector = maker.session(
            "join",
            &format!("party-{index}"),
            "",
            text,
            "A party joins.",
        );
        vector.over(index, LinkState::Proven);
    }
    let text = maker.context.statements["join-2"].clone();
    let about = "A join that another party passes on.";
    maker
        .session("join", "passed-on", "", text, about)
        .over(1, LinkState::Proven);
    let text = maker.context.statements["confirm-2"].clone();
    maker
        .session(
            "confirm",
            "same-roster",
            "",
            text,
            "A party holds the same roster.",
        )
        .after(CONFIRMING);
    let ready = ready(maker);
    let vector = maker.session(
        "ready",
        "in-the-tunnel",
        "",
        ready,
        "A ready through the tunnel of its party.",
    );
    vector.after(MESHED).over(2, LinkState::Tunnel);
    let text = right_hello(2);
    maker
        .session(
            "frame",
            "right-tag",
            "",
            text,
            "The other end knows the secret.",
        )
        .over(2, LinkState::New);
    let vector = maker.session(
        "frame",
        "right-proof",
        "",
        proof(&hello(2, inv()), 2),
        "The other end is a party.",
    );
    vector.over(2, LinkState::Tagged);
}

fn rights(maker: &mut Maker) {
    let stranger = with(&plain("ready"), "/iss", value(&key(9).did()));
    let text = jws("ready", &stranger, &key(9));
    maker.session(
        "ready",
        "by-stranger",
        "E_NOT_MEMBER S5.13",
        text,
        "A statement by somebody who is not listed.",
    );
    let text = jws(
        "cancel",
        &with(&plain("cancel"), "/iss", value(&key(1).did())),
        &key(1),
    );
    maker
        .session(
            "cancel",
            "by-party",
            "E_NOT_ISSUER S5.13",
            text,
            "A party that is not the organizer cancels.",
        )
        .over(1, LinkState::Proven);
    let text = jws(
        "abort",
        &with(&plain("abort"), "/iss", value(&key(9).did())),
        &key(9),
    );
    maker.session(
        "abort",
        "by-stranger",
        "E_NOT_ISSUER S5.13",
        text,
        "Somebody who is not listed aborts.",
    );
    let header = "E_HEADER S5.14";
    maker.session(
        "hello",
        "exchanged",
        header,
        said("hello", &plain("hello")),
        "A link proof among the statements.",
    );
    let text = maker.context.invitation.clone();
    maker.session(
        "invitation",
        "exchanged",
        header,
        text,
        "An invitation among the statements.",
    );
    for what in [
        "join", "confirm", "kem", "ready", "abort", "cancel", "receipt",
    ] {
        let other = with(&plain(what), "/inv", value(&Digest([1; 32])));
        let text = if what == "join" {
            let mut join = forge_join(2, 0x42, epoch_now(), Digest([1; 32]));
            resign_peer(&mut join, 0x42);
            said(what, &join)
        } else {
            said(what, &other)
        };
        maker.session(
            what,
            "of-another-session",
            "E_STALE S4.1",
            text,
            "A statement of another session.",
        );
        let changed = said(what, &plain(what));
        let (input, _) = changed.rsplit_once('.').unwrap();
        let forged = super::signed(input, &key(9));
        maker
            .session(
                what,
                "forged",
                "E_SIG J8",
                forged,
                "A party passes on what it signed in the name of another.",
            )
            .over(1, LinkState::Proven);
    }
}

/// A join of a party, changed and signed by all its keys.
fn join(party: usize, seed: u8, epoch: u64, change: impl FnOnce(&mut Join)) -> String {
    let mut join = forge_join(party, seed, epoch, inv());
    change(&mut join);
    resign_peer(&mut join, seed);
    jws("join", &value(&join), &key(party))
}

fn joins(maker: &mut Maker) {
    let now = epoch_now();
    let text = join(2, 0x42, now, |join| join.pid = Pid(1));
    maker.session(
        "join",
        "at-another-position",
        "E_FORMAT S4.2",
        text,
        "A party claims the position of another.",
    );
    let text = join(2, 0x42, now + 300_001, |_| {});
    maker.session(
        "join",
        "epoch-ahead",
        "E_EPOCH S4.3",
        text,
        "An epoch more than 5 minutes ahead.",
    );
    let text = join(2, 0x42, now + 300_000, |_| {});
    maker.session(
        "join",
        "epoch-just-ahead",
        "",
        text,
        "An epoch 5 minutes ahead.",
    );
    let text = join(2, 0x43, now - 1, |_| {});
    maker
        .session(
            "join",
            "older-epoch",
            "E_STALE S4.4",
            text,
            "A newer join is held.",
        )
        .after(&["join-2"]);
    let text = join(2, 0x43, now, |_| {});
    let vector = maker.session(
        "join",
        "same-epoch",
        "E_EQUIVOCATION S4.5",
        text,
        "Two different joins of one epoch.",
    );
    vector.after(&["join-2"]).ends();
    let text = join(0, 0x43, now, |_| {});
    let identity = "E_IDENTITY_ELSEWHERE S4.11";
    maker
        .session(
            "join",
            "under-our-identity",
            identity,
            text,
            "A join of the reader's DID that it did not make.",
        )
        .ends();
    let text = join(0, 0x43, now - 1000, |_| {});
    let about = "An older join of the reader's DID from a live link of that DID.";
    let vector = maker.session(
        "join",
        "our-identity-alive",
        "E_ALREADY_JOINED S4.12",
        text.clone(),
        about,
    );
    vector.over(0, LinkState::Proven).ends();
    let about =
        "An older join of the reader's DID that another party passes on: its own, before a crash.";
    maker.session("join", "our-older-join", "", text, about);
    let again: Vec<String> = (0..5)
        .map(|n| join(2, 0x44 + n, now + u64::from(n), |_| {}))
        .collect();
    let (last, earlier) = again.split_last().unwrap();
    let earlier: Vec<&str> = earlier.iter().map(String::as_str).collect();
    let vector = maker.session(
        "join",
        "fourth-rejoin",
        "E_LIMIT S9.3",
        last.clone(),
        "The fourth re-join of three.",
    );
    vector.after(&earlier);
    let vector = maker.session(
        "join",
        "third-rejoin",
        "",
        *earlier.last().unwrap(),
        "The third re-join of three.",
    );
    vector.after(&earlier[..3]);
    let mut unpinned_join = forge_join(2, 0x42, now, session_of(&unpinned()));
    resign_peer(&mut unpinned_join, 0x42);
    let about = "The join is signed by a key that the invitation does not pin.";
    let vector = maker.session(
        "join",
        "by-unpinned-key",
        "E_KID C9",
        said("join", &unpinned_join),
        about,
    );
    vector.over(1, LinkState::Proven).reader().invitation = Some(unpinned());
}

fn checks(maker: &mut Maker) {
    let now = epoch_now();
    let first = forge_join(1, 0x41, now, inv());
    let mut refuse = |name: &str, refused: &str, text: String, about: &str| {
        maker
            .session("join", name, refused, text, about)
            .after(&["join-1"]);
    };
    let twice = "E_DUPLICATE_KEY C3";
    refuse(
        "copied-wg",
        twice,
        join(2, 0x42, now, |join| join.wg = first.wg),
        "The WireGuard key of another party.",
    );
    refuse(
        "copied-ek",
        twice,
        join(2, 0x42, now, |join| join.kem.clone_from(&first.kem)),
        "The KEM key of another party.",
    );
    refuse(
        "copied-nonce",
        twice,
        join(2, 0x42, now, |join| join.n = first.n),
        "The nonce of another party.",
    );
    let mut same_peer = forge_join(2, 0x42, now, inv());
    same_peer.peer = first.peer;
    resign_peer(&mut same_peer, 0x41);
    refuse(
        "copied-overlay-key",
        twice,
        said("join", &same_peer),
        "The overlay key of another party, which signed for both.",
    );
    let fp = |change: fn(&mut quorate_session::Fingerprint)| {
        join(2, 0x42, now, |join| change(&mut join.fp))
    };
    let program = "E_PROGRAM C6";
    refuse(
        "other-program",
        program,
        fp(|fp| fp.program = quorate_session::ContentDigest::of(b"other")),
        "Another program.",
    );
    refuse(
        "other-environment",
        program,
        fp(|fp| fp.env = Some(quorate_session::ContentDigest::of(b"lock"))),
        "A lock file that the others do not have.",
    );
    refuse(
        "other-mpyc",
        "E_RUNTIME C6",
        fp(|fp| fp.mpyc = "0.10".into()),
        "Another MPyC.",
    );
    refuse(
        "other-word",
        "E_RUNTIME C6",
        fp(|fp| fp.word = 32),
        "A 32-bit machine.",
    );
    refuse(
        "other-quorate",
        "E_VERSION C6",
        fp(|fp| fp.quorate = "1.0.0".into()),
        "Another major version of quorate.",
    );
    refuse(
        "other-python",
        "",
        fp(|fp| fp.python = "3.10".into()),
        "Another Python is allowed.",
    );
    let short = join(2, 0x42, now, |join| join.exp = UnixTime(START + 100));
    let vector = maker.session(
        "join",
        "just-expired",
        "E_TIME C5",
        short,
        "A join that has expired, within what clocks may differ.",
    );
    vector.after(&["join-1"]).at(START + 150);
    let text = maker.context.statements["join-2"].clone();
    let vector = maker.session(
        "join",
        "after-start",
        "E_TIME C5",
        text,
        "The last join comes after the latest time to start.",
    );
    vector.after(&["join-1"]).at(START + 901);
}

fn agreement(maker: &mut Maker) {
    let (roster, joins) = (
        maker.context.readers[&0].roster.clone(),
        roster_joins(&maker.context, 0),
    );
    let by_two = |payload: &Value| jws("confirm", payload, &key(2));
    let two_joins = confirm(2, &roster, &joins[..2]);
    maker.session(
        "confirm",
        "two-joins",
        "E_FORMAT S6.2",
        by_two(&two_joins),
        "Two joins in a session of three.",
    );
    let older = with(&confirm(2, &roster, &joins), "/epoch", epoch_now() - 1);
    let vector = maker.session(
        "confirm",
        "older-epoch",
        "E_STALE S6.3",
        by_two(&older),
        "A confirm of an epoch before its party's join.",
    );
    vector.after(&["join-2"]);
    let other = confirm(2, &Digest([9; 32]).to_string(), &joins);
    let about = "The same joins, another roster.";
    maker
        .session(
            "confirm",
            "another-roster",
            "E_ROSTER_MISMATCH S6.5",
            by_two(&other),
            about,
        )
        .after(CONFIRMING);
    // A newer join of party 1 makes the reader give its first roster up.
    let newer = join(1, 0x45, epoch_now() + 1, |_| {});
    let given_up: &[&str] = &["join-1", "join-2", &newer];
    let about = "It names a roster that was given up.";
    let text = maker.context.statements["confirm-2"].clone();
    maker
        .session("confirm", "roster-given-up", "E_STALE S6.4", text, about)
        .after(given_up);
    let text = jws("kem", &value(&kem(roster.parse().unwrap())), &key(1));
    maker
        .session("kem", "roster-given-up", "E_STALE S6.4", text, about)
        .after(given_up);
    let receipt = with(
        &with(&plain("receipt"), "/roster", roster),
        "/outcome",
        "failed",
    );
    let text = said("receipt", &with(&receipt, "/exit", 1));
    maker
        .session("receipt", "roster-given-up", "E_STALE S6.4", text, about)
        .after(given_up);
    caps(maker);
}

fn numbered(n: u8) -> Value {
    value(&Digest([n; 32]))
}

/// One statement more than is kept.
fn caps(maker: &mut Maker) {
    let mut overflow = |what: &str, kept: u8, make: &dyn Fn(u8) -> String| {
        let many: Vec<String> = (0..=kept).map(make).collect();
        let (last, earlier) = many.split_last().unwrap();
        let earlier: Vec<&str> = earlier.iter().map(String::as_str).collect();
        let about = "One more of its party than is kept.";
        maker
            .session(
                what,
                "one-too-many",
                "E_OVERFLOW S5.12",
                last.clone(),
                about,
            )
            .after(&earlier);
    };
    overflow("confirm", 8, &|n| {
        said("confirm", &with(&plain("confirm"), "/roster", numbered(n)))
    });
    overflow("kem", 4, &|n| {
        said("kem", &with(&plain("kem"), "/roster", numbered(n)))
    });
    overflow("abort", 2, &|n| {
        said("abort", &with(&plain("abort"), "/note", n.to_string()))
    });
    overflow("receipt", 2, &|n| {
        said("receipt", &with(&plain("receipt"), "/roster", numbered(n)))
    });
}

fn shares(maker: &mut Maker) {
    let roster: Digest = maker.context.readers[&0].roster.parse().unwrap();
    let share = kem(roster);
    let mut down = share.clone();
    (down.iss, down.to) = (key(2).did(), Pid(1));
    let text = jws("kem", &value(&down), &key(2));
    maker.session(
        "kem",
        "to-a-lower-party",
        "E_KEM S7.1",
        text,
        "The higher party of a pair gives a share.",
    );
    let text = jws("kem", &with(&value(&share), "/to", 3), &key(1));
    maker
        .session(
            "kem",
            "to-nobody",
            "E_KEM S7.1",
            text,
            "A share for a party that is not listed.",
        )
        .over(1, LinkState::Proven);
    let text = jws("kem", &with(&value(&share), "/to", 1), &key(1));
    maker
        .session(
            "kem",
            "to-itself",
            "E_KEM S7.1",
            text,
            "A share of a party for itself.",
        )
        .over(1, LinkState::Proven);
    let first = jws("kem", &value(&share), &key(1));
    let mut second = share;
    second.ct.0[0] ^= 1;
    let text = jws("kem", &value(&second), &key(1));
    let vector = maker.session(
        "kem",
        "second-share",
        "E_KEM S7.2",
        text,
        "A second share for one pair and roster.",
    );
    vector.after(&[&first]).over(1, LinkState::Proven);
    let roster: Digest = maker.context.readers[&2].roster.parse().unwrap();
    let mut low = kem(roster);
    low.ct.0[1088..].fill(0);
    let text = jws("kem", &value(&low), &key(1));
    let about = "The X25519 part of the ciphertext is of low order.";
    let vector = maker.session("kem", "low-order", "E_KEY S7.3", text, about);
    vector
        .after(&["join-0", "join-1"])
        .over(1, LinkState::Proven)
        .reader()
        .party = 2;
}

fn abort(code: Code, epoch: u64) -> String {
    said(
        "abort",
        &Abort {
            v: 1,
            iss: key(2).did(),
            inv: inv(),
            roster: None,
            epoch: UnixMillis(epoch),
            code: CodeText(code),
            whom: None,
            note: "so it says".into(),
            iat: UnixTime(START),
        },
    )
}

fn ends(maker: &mut Maker) {
    let ready = ready(maker);
    let refused = "E_NOT_MEMBER S8.1";
    let vector = maker.session(
        "ready",
        "outside-of-the-tunnel",
        refused,
        ready.clone(),
        "A ready over the overlay.",
    );
    vector.after(MESHED);
    let vector = maker.session(
        "ready",
        "in-another-tunnel",
        refused,
        ready,
        "A ready through the tunnel of another party.",
    );
    vector.after(MESHED).over(1, LinkState::Tunnel);
    let text = abort(Code::Interrupted, epoch_now() - 1);
    maker
        .session(
            "abort",
            "older-epoch",
            "E_STALE S9.1",
            text,
            "An abort of an epoch before its party's join.",
        )
        .after(&["join-2"]);
    let text = said("cancel", &plain("cancel"));
    maker
        .session(
            "cancel",
            "by-the-organizer",
            "E_CANCELLED S9.2",
            text,
            "The organizer cancels.",
        )
        .ends();
    for code in [Code::Cancelled, Code::Equivocation, Code::Split] {
        let name = format!("claims-{}", code.as_str()[2..].to_lowercase());
        let about = "An abort that claims what it would have to prove.";
        let vector = maker.session(
            "abort",
            &name,
            "E_PARTY_LEFT S9.6",
            abort(code, epoch_now()),
            about,
        );
        vector.after(&["join-2"]).ends();
    }
    let done = with(&plain("receipt"), "/roster", numbered(9));
    assert_eq!(done["outcome"], json!(ReceiptOutcome::Done));
    let about = "A party was done with another roster.";
    maker
        .session(
            "receipt",
            "done-without-us",
            "E_REPLAY S9.8",
            said("receipt", &done),
            about,
        )
        .after(&["join-2"])
        .ends();
    assert_eq!(join_of(2)["iss"], value(&key(2).did()));
}

/// What a record of an earlier start says about the others.
fn floors(maker: &mut Maker) {
    let stored = json!({
        "v": 1, "inv": inv(), "epoch": epoch_now() - 60_000, "joins": 1, "runs": 0, "roster": null,
        "epochs": [0, 0, epoch_now()], "closed": null,
    });
    let text = join(2, 0x43, epoch_now() - 1, |_| {});
    let about = "A join of an epoch that was over before the reader started again.";
    maker
        .session("join", "before-the-restart", "E_STALE S11.5", text, about)
        .reader()
        .stored = Some(stored.clone());
    let about = "An abort of an epoch that was over before the reader started again.";
    let text = abort(Code::Interrupted, epoch_now() - 1);
    maker
        .session("abort", "before-the-restart", "E_STALE S9.1", text, about)
        .reader()
        .stored = Some(stored);
}
