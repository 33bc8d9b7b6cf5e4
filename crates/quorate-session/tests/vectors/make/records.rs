//! R1 to R6: records of sessions.

use super::{Maker, and, confirm, digest_of, jws, plain, value, with, without};
use crate::{
    common::{START, epoch_now, forge_join, inv, key, resign_peer},
    vector::{Input, Piece},
};
use quorate_identity::{
    B64, Code, DidKeyResolver, Digest, Resolver, SigningKey, UnixMillis, UnixTime, Unverified,
    Verified,
};
use quorate_session::{
    Pid, Roster,
    message::{Abort, CodeText, Join},
};
use serde_json::{Value, json};

pub fn make(maker: &mut Maker) {
    let parts = Parts::new(maker);
    let whole = parts.record();
    add(
        maker,
        "complete",
        "",
        &whole,
        "A record of a session that everybody finished.",
    );
    let lacking = with(&whole, "/runs/0/receipts", Vec::<String>::new());
    add(
        maker,
        "without-receipts",
        "",
        &lacking,
        "Nobody's receipt is in it: it proves less, but nothing is wrong.",
    );
    let cancelled = with(&whole, "/cancel", jws("cancel", &plain("cancel"), &key(0)));
    add(
        maker,
        "cancelled",
        "",
        &cancelled,
        "The organizer cancelled.",
    );
    form(maker, &whole);
    documents(maker, &whole);
    statements(maker, &whole, &parts);
    roster(maker, &whole, &parts);
    order(maker, &whole, &parts);
}

fn canonical(record: &Value) -> String {
    String::from_utf8(serde_jcs::to_vec(record).unwrap()).unwrap()
}

fn add(maker: &mut Maker, name: &str, refused: &str, record: &Value, about: &str) {
    maker.alone("record", name, refused, canonical(record), about);
}

/// What a record is made of.
struct Parts {
    invitation: String,
    joins: Vec<String>,
    listed: Vec<String>,
    roster: String,
}

fn verified(text: &str) -> Verified<Join> {
    let parsed = Unverified::<Join>::parse(text).unwrap();
    let keys = DidKeyResolver.resolve(parsed.issuer()).unwrap().unwrap();
    parsed.verify(&keys, UnixTime(START)).unwrap()
}

fn document(key: &SigningKey) -> Value {
    json!({
        "did": key.did(),
        "keys": [{"id": key.key_id(), "key": B64(*key.public().as_bytes()), "assertion": true, "authentication": true}],
    })
}

impl Parts {
    fn new(maker: &Maker) -> Self {
        let joins: Vec<String> = (0..3)
            .map(|party| maker.context.statements[&format!("join-{party}")].clone())
            .collect();
        let held: Vec<Verified<Join>> = joins.iter().map(|text| verified(text)).collect();
        let held: Vec<&Verified<Join>> = held.iter().collect();
        Self {
            invitation: maker.context.invitation.clone(),
            listed: joins.iter().map(|text| digest_of(text)).collect(),
            roster: Roster::build(&inv(), &held).unwrap().digest().to_string(),
            joins,
        }
    }

    fn confirm(&self, from: usize) -> Value {
        confirm(from, &self.roster, &self.listed)
    }

    fn confirms(&self) -> Vec<String> {
        let text = |from| jws("confirm", &self.confirm(from), &key(from));
        (0..3).map(text).collect()
    }

    fn receipt(&self, from: usize) -> Value {
        let whole = with(&plain("receipt"), "/roster", self.roster.clone());
        with(&whole, "/iss", value(&key(from).did()))
    }

    fn receipt_text(&self, from: usize) -> String {
        jws("receipt", &self.receipt(from), &key(from))
    }

    fn receipts(&self) -> Vec<String> {
        (0..3).map(|from| self.receipt_text(from)).collect()
    }

    fn run(&self) -> Value {
        json!({"joins": self.joins, "confirms": self.confirms(), "receipts": self.receipts(), "aborts": []})
    }

    fn record(&self) -> Value {
        let mut keys: Vec<SigningKey> = (0..3).map(key).collect();
        keys.sort_by_key(SigningKey::did);
        let dids: Vec<Value> = keys.iter().map(document).collect();
        json!({"v": 2, "invitation": self.invitation, "dids": dids, "runs": [self.run()], "cancel": null})
    }
}

fn form(maker: &mut Maker, whole: &Value) {
    let mut refuse = |name: &str, refused: &str, record: &Value, about: &str| {
        add(maker, name, refused, record, about);
    };
    refuse(
        "unknown-member",
        "E_FORMAT R1",
        &and(whole, "extra", 1),
        "A member that a record does not have.",
    );
    refuse(
        "missing-member",
        "E_FORMAT R1",
        &without(whole, "dids"),
        "A member is missing.",
    );
    refuse(
        "version-3",
        "E_VERSION R1",
        &with(whole, "/v", 3),
        "Another version of the form.",
    );
    let older =
        json!({"invitation": whole["invitation"], "receipts": whole["runs"][0]["receipts"]});
    refuse(
        "older-form",
        "E_RECORD R1",
        &older,
        "Receipts without the statements that they are about.",
    );
    let run = &whole["runs"][0];
    refuse(
        "five-runs",
        "E_LIMIT R1",
        &with(whole, "/runs", vec![run.clone(); 5]),
        "One run more than a session can have.",
    );
    let join = run["joins"][0].clone();
    refuse(
        "four-joins",
        "E_LIMIT R1",
        &with(whole, "/runs/0/joins", vec![join; 4]),
        "More joins than parties.",
    );
    let spaced = canonical(whole).replacen(':', ": ", 1);
    maker.alone(
        "record",
        "white-space",
        "E_FORMAT R1",
        spaced,
        "White space, which the canonical form does not have.",
    );
    let space = Piece::Repeat {
        text: " ".into(),
        times: 4_194_304,
    };
    let input = Input::Pieces(vec![Piece::Text(canonical(whole)), space]);
    maker.alone(
        "record",
        "too-large",
        "E_LIMIT R1",
        input,
        "More than 4,194,304 bytes.",
    );
}

fn documents(maker: &mut Maker, whole: &Value) {
    let dids = whole["dids"].as_array().unwrap().clone();
    let mut refuse = |name: &str, refused: &str, record: &Value, about: &str| {
        add(maker, name, refused, record, about);
    };
    let missing = with(whole, "/dids", dids[1..].to_vec());
    refuse(
        "document-missing",
        "E_RECORD R2",
        &missing,
        "The document of somebody who signed is missing.",
    );
    let swapped = with(
        whole,
        "/dids/0/keys/0/key",
        value(&B64(*key(9).public().as_bytes())),
    );
    refuse(
        "document-swapped",
        "E_RECORD R2",
        &swapped,
        "The key of a did:key was replaced.",
    );
    let mut foreign = dids.clone();
    foreign.push(document(&key(9)));
    foreign.sort_by_key(|document| document["did"].to_string());
    refuse(
        "document-of-stranger",
        "E_RECORD R2",
        &with(whole, "/dids", foreign),
        "A document of somebody who is neither a party nor the organizer.",
    );
    let none = with(whole, "/dids/0/keys", Vec::<Value>::new());
    refuse(
        "document-without-keys",
        "E_LIMIT R2",
        &none,
        "A document without keys.",
    );
    let twice = vec![dids[0]["keys"][0].clone(); 2];
    refuse(
        "document-key-twice",
        "E_KID R2",
        &with(whole, "/dids/0/keys", twice),
        "A key stands twice.",
    );
    let mut backward = dids;
    backward.reverse();
    refuse(
        "documents-out-of-order",
        "E_RECORD R5",
        &with(whole, "/dids", backward),
        "The documents are not in order.",
    );
}

fn statements(maker: &mut Maker, whole: &Value, parts: &Parts) {
    let receipt = parts.receipt(2);
    let mut refuse = |name: &str, refused: &str, text: String, about: &str| {
        let record = with(whole, "/runs/0/receipts/2", text);
        add(maker, name, refused, &record, about);
    };
    let other = with(&receipt, "/inv", value(&Digest([1; 32])));
    refuse(
        "receipt-of-another-session",
        "E_STALE R3",
        jws("receipt", &other, &key(2)),
        "A receipt of another session.",
    );
    let stranger = with(&receipt, "/iss", value(&key(9).did()));
    refuse(
        "receipt-of-stranger",
        "E_NOT_MEMBER R3",
        jws("receipt", &stranger, &key(9)),
        "A receipt by somebody who is not a party.",
    );
    let text = jws("receipt", &receipt, &key(2));
    let (input, _) = text.rsplit_once('.').unwrap();
    refuse(
        "receipt-forged",
        "E_SIG J8",
        super::signed(input, &key(9)),
        "A receipt that its party did not sign.",
    );
    refuse(
        "receipt-is-a-confirm",
        "E_HEADER J5",
        parts.confirms().remove(2),
        "A confirm in the place of a receipt.",
    );
    let early = with(&receipt, "/iat", START - 301);
    refuse(
        "receipt-too-early",
        "E_TIME R6",
        jws("receipt", &early, &key(2)),
        "It says that it was made before the invitation counted.",
    );
    let cancel = with(&plain("cancel"), "/iss", value(&key(1).did()));
    let record = with(whole, "/cancel", jws("cancel", &cancel, &key(1)));
    add(
        maker,
        "cancel-by-party",
        "E_NOT_ISSUER R3",
        &record,
        "A cancel that is not by the organizer.",
    );
    let mut draft = super::usual_draft();
    draft.parties[2].keys = vec![key(9).public().thumbprint()];
    let invitation = super::organizer_signs(draft);
    let mut join = forge_join(
        2,
        0x42,
        epoch_now(),
        digest_of(&invitation).parse().unwrap(),
    );
    resign_peer(&mut join, 0x42);
    let record = with(whole, "/invitation", invitation);
    let run = json!({"joins": [jws("join", &value(&join), &key(2))], "confirms": [], "receipts": [], "aborts": []});
    let about = "A join by a key that the invitation does not pin.";
    add(
        maker,
        "unpinned-key",
        "E_KID R3",
        &with(&record, "/runs/0", run),
        about,
    );
    let forged = super::changed_invitation("/credentialSubject/title", "Other");
    let (input, _) = forged.rsplit_once('.').unwrap();
    let record = with(whole, "/invitation", super::signed(input, &key(9)));
    add(
        maker,
        "invitation-forged",
        "E_SIG J8",
        &record,
        "An invitation that the organizer did not sign.",
    );
}

fn roster(maker: &mut Maker, whole: &Value, parts: &Parts) {
    let mut refuse = |name: &str, refused: &str, at: &str, new: Value, about: &str| {
        let record = with(whole, &format!("/runs/0/{at}"), new);
        add(maker, name, refused, &record, about);
    };
    let by = |what: &str, payload: &Value| json!(jws(what, payload, &key(2)));
    let wrong = "E_RECORD R4";
    refuse(
        "no-joins",
        wrong,
        "joins",
        json!([]),
        "A run without any join.",
    );
    let other = value(&Digest([9; 32]));
    let confirm = by(
        "confirm",
        &with(&parts.confirm(2), "/roster", other.clone()),
    );
    refuse(
        "confirm-of-another-roster",
        wrong,
        "confirms/2",
        confirm,
        "A confirm names another roster than the joins make.",
    );
    let receipt = by(
        "receipt",
        &with(&parts.receipt(2), "/roster", other.clone()),
    );
    refuse(
        "receipt-of-another-roster",
        wrong,
        "receipts/2",
        receipt,
        "A receipt names another roster than the joins make.",
    );
    let confirm = by("confirm", &with(&parts.confirm(2), "/joins/1", other));
    refuse(
        "confirm-of-another-join",
        wrong,
        "confirms/2",
        confirm,
        "A confirm lists a join that the run does not have.",
    );
    let confirm = by(
        "confirm",
        &with(&parts.confirm(2), "/joins", parts.listed[..2].to_vec()),
    );
    refuse(
        "confirm-of-two-joins",
        wrong,
        "confirms/2",
        confirm,
        "A confirm of two joins in a session of three.",
    );
    let confirm = by(
        "confirm",
        &with(&parts.confirm(2), "/epoch", epoch_now() + 1),
    );
    refuse(
        "confirm-of-another-epoch",
        wrong,
        "confirms/2",
        confirm,
        "A confirm of another epoch than the join of its party.",
    );
    let abort = |epoch: u64| Abort {
        v: 1,
        iss: key(2).did(),
        inv: inv(),
        roster: None,
        epoch: UnixMillis(epoch),
        code: CodeText(Code::Interrupted),
        whom: None,
        note: "Ctrl-C".into(),
        iat: UnixTime(START),
    };
    let text = by("abort", &value(&abort(epoch_now() + 1)));
    refuse(
        "abort-of-another-epoch",
        "E_STALE R4",
        "aborts",
        json!([text]),
        "An abort of an epoch that is not in the run.",
    );
    let text = by("abort", &value(&abort(epoch_now())));
    refuse(
        "aborted",
        "",
        "aborts",
        json!([text]),
        "A party aborted in this run.",
    );
    let mut moved = forge_join(2, 0x42, epoch_now(), inv());
    moved.pid = Pid(1);
    resign_peer(&mut moved, 0x42);
    refuse(
        "join-at-another-position",
        "E_FORMAT R4",
        "joins/2",
        by("join", &value(&moved)),
        "A join claims the position of another party.",
    );
    let mut copied = forge_join(2, 0x42, epoch_now(), inv());
    copied.n = forge_join(1, 0x41, epoch_now(), inv()).n;
    let mut with_copy = parts.joins.clone();
    with_copy[2] = jws("join", &value(&copied), &key(2));
    let held: Vec<Verified<Join>> = with_copy.iter().map(|text| verified(text)).collect();
    let held: Vec<&Verified<Join>> = held.iter().collect();
    let named = Roster::build(&inv(), &held).unwrap();
    let listed: Vec<String> = named.joins().iter().map(Digest::to_string).collect();
    let confirm = super::confirm(2, &named.digest().to_string(), &listed);
    let run = json!({"joins": with_copy, "confirms": [by("confirm", &confirm)], "receipts": [], "aborts": []});
    let record = with(whole, "/runs/0", run);
    add(
        maker,
        "copied-nonce",
        "E_DUPLICATE_KEY C3",
        &record,
        "A roster was confirmed in which two parties use one nonce.",
    );
    let two = with(
        &with(whole, "/runs/0/joins", parts.joins[..2].to_vec()),
        "/runs/0/confirms",
        Vec::<String>::new(),
    );
    let receipt = by(
        "receipt",
        &with(&parts.receipt(2), "/roster", value(&Digest([9; 32]))),
    );
    add(
        maker,
        "receipts-disagree",
        wrong,
        &with(&two, "/runs/0/receipts/2", receipt),
        "A join is missing, and the receipts name different rosters.",
    );
}

fn order(maker: &mut Maker, whole: &Value, parts: &Parts) {
    let wrong = "E_RECORD R5";
    let mut refuse = |name: &str, receipts: Vec<String>, about: &str| {
        add(
            maker,
            name,
            wrong,
            &with(whole, "/runs/0/receipts", receipts),
            about,
        );
    };
    let receipts = parts.receipts();
    let twice = [receipts.clone(), receipts[2..].to_vec()].concat();
    refuse("receipt-twice", twice, "A receipt stands twice.");
    let backward = receipts.iter().rev().cloned().collect();
    refuse(
        "receipts-out-of-order",
        backward,
        "The receipts do not stand in the order of the parties.",
    );
    let many: Vec<String> = (0..3)
        .map(|n| {
            jws(
                "receipt",
                &with(&parts.receipt(2), "/bytes", 2000 + n),
                &key(2),
            )
        })
        .collect();
    let mut many = many;
    many.sort_by_key(|text| digest_of(text).parse::<Digest>().unwrap());
    refuse("three-receipts", many, "Three receipts of one party.");
    let run = whole["runs"][0].clone();
    let record = with(whole, "/runs", vec![run; 2]);
    add(maker, "run-twice", wrong, &record, "A run stands twice.");
}
