//! The record of a session: what it proves, and that nothing in it can be altered, left out, added, repeated or moved
//! without being refused or named.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{
    START, Table, alter, draft, epoch_now, forge_join, invitation, invitation_of, key,
    sign_unchecked,
};
use proptest::prelude::*;
use quorate_identity::{Code, Digest, Rejection, SigningKey, UnixMillis, UnixTime, Verified, sign};
use quorate_session::{
    Invitation, Pid, Record, Roster, limits,
    message::{Abort, Cancel, CodeText, Confirm, Receipt, ReceiptOutcome},
    record::{Contradiction, Lack, RECORD_VERSION, Run, Snapshot, Standing, Verdict},
};
use std::{sync::OnceLock, time::Duration};

/// The record of party 0 after a session of three that went well.
fn finished() -> Record {
    static RECORD: OnceLock<Record> = OnceLock::new();
    RECORD
        .get_or_init(|| {
            let table = finished_table();
            table.seats[0].kept.clone().unwrap()
        })
        .clone()
}

fn finished_table() -> Table {
    let mut table = Table::new(3);
    table.run();
    table.pass(Duration::from_secs(4));
    for index in 0..3 {
        table.exit(index, 0);
    }
    table.pass(Duration::from_secs(2));
    table
}

fn refusal(record: &Record) -> Rejection {
    // What a parser would refuse counts as well.
    match Record::parse(&record.encode()).and_then(|record| record.verify()) {
        Ok(_) => panic!("taken"),
        Err(rejection) => rejection,
    }
}

#[track_caller]
fn assert_refused(record: &Record, code: Code, words: &str) {
    let rejection = refusal(record);
    assert_eq!(rejection.code, code, "{rejection}");
    assert!(rejection.detail.contains(words), "{rejection}");
}

fn lacks(verdict: &Verdict) -> Vec<(u16, &'static str)> {
    let pair = |lack: &Lack| (lack.pid.0, lack.what);
    verdict.lacks().iter().map(pair).collect()
}

/// Parts of a record made by hand, so that every one of them can be wrong.
struct Forge {
    invitation: Verified<Invitation>,
    epoch_ms: u64,
}

impl Forge {
    fn new() -> Self {
        Self {
            invitation: invitation(3),
            epoch_ms: epoch_now(),
        }
    }

    fn joins(&self) -> Vec<Verified<quorate_session::message::Join>> {
        let join = |index: usize| {
            let seed = 40 + u8::try_from(index).unwrap();
            let join = forge_join(index, seed, self.epoch_ms, self.invitation.digest());
            sign(join, &key(index)).unwrap()
        };
        (0..3).map(join).collect()
    }

    fn roster(&self) -> Roster {
        let joins = self.joins();
        let all: Vec<_> = joins.iter().collect();
        Roster::build(&self.invitation.digest(), &all).unwrap()
    }

    fn confirm(&self, index: usize) -> Confirm {
        let roster = self.roster();
        Confirm {
            v: 1,
            iss: key(index).did(),
            inv: self.invitation.digest(),
            roster: roster.digest(),
            epoch: UnixMillis(self.epoch_ms),
            joins: roster.joins(),
            iat: UnixTime(START + 1),
        }
    }

    fn receipt(&self, index: usize) -> Receipt {
        Receipt {
            v: 1,
            iss: key(index).did(),
            inv: self.invitation.digest(),
            roster: self.roster().digest(),
            run: 1,
            outcome: ReceiptOutcome::Done,
            exit: Some(0),
            start: UnixTime(START + 2),
            end: UnixTime(START + 4),
            bytes: Some(9),
            iat: UnixTime(START + 4),
        }
    }

    fn abort(&self, index: usize) -> Abort {
        Abort {
            v: 1,
            iss: key(index).did(),
            inv: self.invitation.digest(),
            roster: Some(self.roster().digest()),
            epoch: UnixMillis(self.epoch_ms),
            code: CodeText(Code::Interrupted),
            whom: Some(Pid(u16::try_from(index).unwrap())),
            note: "Ctrl-C".into(),
            iat: UnixTime(START + 4),
        }
    }

    fn record(&self) -> Record {
        let text = |index| sign_unchecked(&self.confirm(index), &key(index));
        let receipt = |index| sign_unchecked(&self.receipt(index), &key(index));
        Record {
            v: RECORD_VERSION,
            invitation: self.invitation.text().to_string(),
            dids: finished().dids,
            runs: vec![Run {
                joins: self.joins().iter().map(|j| j.text().to_string()).collect(),
                confirms: (0..3).map(text).collect(),
                receipts: (0..3).map(receipt).collect(),
                aborts: Vec::new(),
            }],
            cancel: None,
        }
    }
}

#[test]
fn all_parties_hold_one_record_which_is_complete() {
    let table = finished_table();
    let records: Vec<Record> = table
        .seats
        .iter()
        .map(|s| s.kept.clone().unwrap())
        .collect();
    assert!(
        records
            .iter()
            .all(|record| record.digest() == records[0].digest())
    );
    let read = Record::parse(&records[0].encode()).unwrap();
    assert_eq!(read, records[0]);
    let verdict = read.verify().unwrap();
    assert!(verdict.is_complete());
    assert_eq!(verdict.standing(), Standing::Finished);
    assert_eq!(verdict.session, invitation(3).digest());
    let run = verdict.newest().unwrap();
    assert_eq!(run.named, run.roster.as_ref().map(Roster::digest));
    assert_eq!(run.contradictions(), []);
    let exits: Vec<_> = run
        .receipts()
        .map(|(pid, r)| (pid.0, r.exit, r.run))
        .collect();
    assert_eq!(exits, [(0, Some(0), 1), (1, Some(0), 1), (2, Some(0), 1)]);
    for seat in &table.seats {
        assert_eq!(seat.session.record().unwrap(), records[0], "after the end");
    }
}

#[test]
fn a_record_made_by_hand_in_the_right_way_is_taken() {
    let verdict = Forge::new().record().verify().unwrap();
    assert!(verdict.is_complete());
    assert_eq!(lacks(&verdict), []);
}

#[test]
fn a60_an_altered_statement_is_refused_and_its_kind_named() {
    type List = fn(&mut Run) -> &mut Vec<String>;
    let lists: [(&str, List); 3] = [
        ("join", |run| &mut run.joins),
        ("confirm", |run| &mut run.confirms),
        ("receipt", |run| &mut run.receipts),
    ];
    for (kind, list) in lists {
        for party in 0..3 {
            let mut record = finished();
            let text = &mut list(&mut record.runs[0])[party];
            *text = alter(text, 2);
            let rejection = refusal(&record);
            assert_eq!(rejection.code, Code::Sig, "{rejection}");
            assert_eq!(rejection.whom, Some(key(party).did()));
            assert!(rejection.detail.starts_with(kind), "{rejection}");

            let mut record = finished();
            let text = &mut list(&mut record.runs[0])[party];
            *text = alter(text, 1);
            assert!(refusal(&record).detail.starts_with(kind));
        }
    }
    let mut record = finished();
    record.invitation = alter(&record.invitation, 2);
    assert_refused(&record, Code::Sig, "invitation");
}

#[test]
fn a60_a_receipt_that_says_something_else_than_was_signed_is_refused() {
    let forge = Forge::new();
    let mut record = forge.record();
    let failed = Receipt {
        outcome: ReceiptOutcome::Failed,
        exit: Some(1),
        ..forge.receipt(1)
    };
    let signed = record.runs[0].receipts[1].clone();
    let changed = sign_unchecked(&failed, &key(1));
    // The content of one, the signature of the other.
    let (content, signature) = (
        changed.rsplit_once('.').unwrap().0,
        signed.rsplit_once('.').unwrap().1,
    );
    record.runs[0].receipts[1] = format!("{content}.{signature}");
    assert_refused(&record, Code::Sig, "receipt");
    // Signed by another party in its name.
    record.runs[0].receipts[1] = sign_unchecked(&failed, &key(2));
    assert_refused(&record, Code::Kid, "receipt");
}

#[test]
fn a60_a_missing_statement_makes_the_verdict_incomplete_and_names_the_party() {
    let verdict_without = |change: &dyn Fn(&mut Run)| {
        let mut record = finished();
        change(&mut record.runs[0]);
        Record::parse(&record.encode()).unwrap().verify().unwrap()
    };
    let verdict = verdict_without(&|run| drop(run.receipts.remove(1)));
    assert!(!verdict.is_complete());
    assert_eq!(lacks(&verdict), [(1, "receipt")]);
    assert_eq!(verdict.standing(), Standing::Unfinished);

    let verdict = verdict_without(&|run| drop(run.confirms.remove(2)));
    assert_eq!(lacks(&verdict), [(2, "confirm")]);

    let verdict = verdict_without(&|run| drop(run.joins.remove(0)));
    assert_eq!(lacks(&verdict), [(0, "join")]);
    let run = verdict.newest().unwrap();
    assert!(run.roster.is_none() && run.named.is_some());

    let verdict = verdict_without(&|run| run.receipts.clear());
    assert_eq!(lacks(&verdict).len(), 3);
    assert_eq!(verdict.standing(), Standing::NotRun);

    let mut record = finished();
    record.runs.clear();
    let verdict = record.verify().unwrap();
    assert_eq!(lacks(&verdict).len(), 9);
    let mut record = finished();
    record.runs[0].joins.clear();
    assert_refused(&record, Code::Record, "without any join");
}

#[test]
fn a60_a_statement_of_another_session_is_refused() {
    let mut other = draft(3);
    other.title = "Another one".into();
    let other = Forge {
        invitation: invitation_of(other),
        ..Forge::new()
    };
    let other = other.record();
    for list in 0..4 {
        let mut record = Forge::new().record();
        let run = &mut record.runs[0];
        let theirs = &other.runs[0];
        match list {
            0 => run.joins[1].clone_from(&theirs.joins[1]),
            1 => run.confirms[1].clone_from(&theirs.confirms[1]),
            2 => run.receipts[1].clone_from(&theirs.receipts[1]),
            _ => record.invitation.clone_from(&other.invitation),
        }
        assert_refused(&record, Code::Stale, "of another session");
    }
}

#[test]
fn a60_a_statement_of_another_roster_of_the_session_is_refused() {
    let (forge, later) = (
        Forge::new(),
        Forge {
            epoch_ms: epoch_now() + 5000,
            ..Forge::new()
        },
    );
    let foreign = later.record().runs.remove(0);
    let mut record = forge.record();
    record.runs[0].receipts[2].clone_from(&foreign.receipts[2]);
    assert_refused(&record, Code::Record, "a receipt names another roster");
    let mut record = forge.record();
    record.runs[0].confirms[0].clone_from(&foreign.confirms[0]);
    assert_refused(&record, Code::Record, "a confirm names another roster");
    let mut record = forge.record();
    record.runs[0].joins[0].clone_from(&foreign.joins[0]);
    assert_refused(
        &record,
        Code::Record,
        "names another roster than the joins make",
    );
    let mut record = forge.record();
    record.runs[0].joins.remove(0);
    record.runs[0].receipts[2].clone_from(&foreign.receipts[2]);
    assert_refused(
        &record,
        Code::Record,
        "names another roster than the others",
    );
    // Without the join of party 0 the confirms still name it.
    let mut record = forge.record();
    record.runs[0].joins.remove(0);
    record.runs[0].joins[0].clone_from(&foreign.joins[1]);
    assert_refused(&record, Code::Record, "lists another join");
    let mut record = forge.record();
    let abort = Abort {
        roster: None,
        ..later.abort(1)
    };
    record.runs[0].aborts.push(sign_unchecked(&abort, &key(1)));
    assert_refused(&record, Code::Stale, "epoch that is not in this run");
}

#[test]
fn a60_a_confirm_that_lists_something_else_than_the_run_has_is_refused() {
    let forge = Forge::new();
    let with = |confirm: &Confirm| {
        let mut record = forge.record();
        record.runs[0].confirms[1] = sign_unchecked(confirm, &key(1));
        record
    };
    let mut short = forge.confirm(1);
    short.joins.pop();
    assert_refused(&with(&short), Code::Record, "one join per party");
    let mut other = forge.confirm(1);
    other.joins[2] = other.joins[0];
    assert_refused(&with(&other), Code::Record, "lists another join");
    let mut other = forge.confirm(1);
    other.epoch = UnixMillis(epoch_now() + 1);
    assert_refused(&with(&other), Code::Record, "of another epoch");

    let mut join = forge_join(1, 41, forge.epoch_ms, forge.invitation.digest());
    join.pid = Pid(2);
    let mut record = forge.record();
    record.runs[0].joins[1] = sign_unchecked(&join, &key(1));
    assert_refused(&record, Code::Format, "claims position 2");
}

#[test]
fn a60_somebody_who_is_no_party_has_nothing_in_a_record() {
    let forge = Forge::new();
    let stranger = key(9);
    let receipt = Receipt {
        iss: stranger.did(),
        ..forge.receipt(0)
    };
    let mut record = forge.record();
    record.runs[0].receipts[0] = sign_unchecked(&receipt, &stranger);
    assert_refused(&record, Code::NotMember, "not a party");

    let mut record = forge.record();
    record.dids.push(snapshot_of(&stranger));
    record.dids.sort_by(|a, b| a.did.cmp(&b.did));
    assert_refused(&record, Code::Record, "neither a party nor the organizer");

    let cancel = Cancel {
        v: 1,
        iss: key(1).did(),
        inv: forge.invitation.digest(),
        reason: "no".into(),
        iat: UnixTime(START + 1),
    };
    let mut record = forge.record();
    record.cancel = Some(sign_unchecked(&cancel, &key(1)));
    assert_refused(&record, Code::NotIssuer, "not by the organizer");
}

#[test]
fn a60_a_repeated_statement_is_refused_and_named() {
    let mut record = finished();
    let twice = record.runs[0].receipts[1].clone();
    record.runs[0].receipts.insert(1, twice);
    assert_refused(&record, Code::Record, "the receipt of party 1 stands twice");
    let mut record = finished();
    let twice = record.runs[0].joins[0].clone();
    record.runs[0].joins[1] = twice;
    assert_refused(&record, Code::Record, "the join of party 0 stands twice");
    let mut record = finished();
    let run = record.runs[0].clone();
    record.runs.push(run);
    assert_refused(&record, Code::Record, "one stands twice");
    let mut record = finished();
    let twice = record.dids[0].clone();
    record.dids.insert(0, twice);
    assert_refused(&record, Code::Record, "one stands twice");
    // A second confirm of one party, different from the first.
    let forge = Forge::new();
    let again = Confirm {
        iat: UnixTime(START + 2),
        ..forge.confirm(1)
    };
    let mut record = forge.record();
    record.runs[0].confirms[2] = sign_unchecked(&again, &key(1));
    assert_refused(&record, Code::Record, "one more than a run can have");
}

#[test]
fn a60_statements_out_of_order_are_refused() {
    let mut record = finished();
    record.runs[0].receipts.swap(0, 2);
    assert_refused(&record, Code::Record, "out of order");
    let mut record = finished();
    record.runs[0].joins.swap(1, 2);
    assert_refused(&record, Code::Record, "out of order");
    let mut record = finished();
    record.dids.swap(0, 1);
    assert_refused(&record, Code::Record, "not in order");
}

fn snapshot_of(key: &SigningKey) -> Snapshot {
    let mut snapshot = finished().dids[0].clone();
    snapshot.did = key.did();
    snapshot.keys[0].id = key.key_id();
    snapshot.keys[0].key.0 = *key.public().as_bytes();
    snapshot
}

#[test]
fn a60_a_swapped_did_document_is_refused() {
    // Another key under the right name, which then could sign everything.
    let mut record = finished();
    record.dids[0].keys[0].key.0 = *key(9).public().as_bytes();
    assert_refused(&record, Code::Record, "swapped or altered");
    let mut record = finished();
    record.dids[0].keys[0].assertion = false;
    assert_refused(&record, Code::Record, "swapped or altered");
    let mut record = finished();
    record.dids[0].keys.clear();
    assert_refused(&record, Code::Limit, "no key");
    let mut record = finished();
    let more = record.dids[0].keys[0].clone();
    record.dids[0].keys.push(more);
    assert_refused(&record, Code::Kid, "one twice");
    let mut record = finished();
    let foreign = record.dids[1].keys[0].clone();
    record.dids[0].keys.push(foreign);
    assert_refused(&record, Code::Kid, "another DID");
    for missing in 0..3 {
        let mut record = finished();
        record.dids.remove(missing);
        assert_refused(&record, Code::Record, "is missing");
    }
}

#[test]
fn a60_a_key_that_the_invitation_does_not_pin_signs_nothing() {
    let mut other = draft(3);
    other.parties[1].keys = vec![key(9).public().thumbprint()];
    let forge = Forge {
        invitation: invitation_of(other),
        ..Forge::new()
    };
    let rejection = refusal(&forge.record());
    assert_eq!(
        (rejection.code, rejection.whom),
        (Code::Kid, Some(key(1).did()))
    );
}

#[test]
fn statements_from_outside_of_the_invitations_time_are_refused() {
    let forge = Forge::new();
    let skew = quorate_identity::CLOCK_SKEW_SECONDS;
    let confirm_at = |iat: i64| {
        let mut record = forge.record();
        let confirm = Confirm {
            iat: UnixTime(iat),
            ..forge.confirm(1)
        };
        record.runs[0].confirms[1] = sign_unchecked(&confirm, &key(1));
        record
    };
    assert!(confirm_at(START - skew).verify().is_ok());
    assert_refused(&confirm_at(START - skew - 1), Code::Time, "did not count");
    assert_refused(
        &confirm_at(START + 7200 + skew + 1),
        Code::Time,
        "did not count",
    );
    // A receipt may come late: a party that was killed while closing gives it when it is back.
    let mut record = forge.record();
    let late = Receipt {
        iat: UnixTime(START + 1_000_000),
        ..forge.receipt(1)
    };
    record.runs[0].receipts[1] = sign_unchecked(&late, &key(1));
    assert!(record.verify().unwrap().is_complete());
}

#[test]
fn a_confirmed_roster_must_pass_the_checks_that_parties_make() {
    let forge = Forge::new();
    let (mut joins, inv) = (forge.joins(), forge.invitation.digest());
    // Party 2 copies the keys of party 1.
    let mut copied = forge_join(2, 41, forge.epoch_ms, inv);
    common::resign_peer(&mut copied, 41);
    joins[2] = sign(copied, &key(2)).unwrap();
    let all: Vec<_> = joins.iter().collect();
    let roster = Roster::build(&inv, &all).unwrap();
    let mut record = forge.record();
    let run = &mut record.runs[0];
    run.joins[2] = joins[2].text().to_string();
    for index in 0..3 {
        let confirm = Confirm {
            roster: roster.digest(),
            joins: roster.joins(),
            ..forge.confirm(index)
        };
        run.confirms[index] = sign_unchecked(&confirm, &key(index));
        let receipt = Receipt {
            roster: roster.digest(),
            ..forge.receipt(index)
        };
        run.receipts[index] = sign_unchecked(&receipt, &key(index));
    }
    let rejection = refusal(&record);
    assert_eq!((rejection.code, rejection.whom), (Code::DuplicateKey, None));
}

#[test]
fn receipts_that_contradict_each_other_are_shown() {
    let forge = Forge::new();
    let with = |index: usize, receipt: &Receipt| {
        let mut record = forge.record();
        record.runs[0].receipts[index] = sign_unchecked(receipt, &key(index));
        record.verify().unwrap()
    };
    let failed = Receipt {
        outcome: ReceiptOutcome::Failed,
        exit: Some(3),
        ..forge.receipt(2)
    };
    let verdict = with(2, &failed);
    assert_eq!(verdict.standing(), Standing::Failed);
    let run = verdict.newest().unwrap();
    assert_eq!(
        run.contradictions(),
        [Contradiction::Outcome(Pid(0), Pid(2))]
    );
    let elsewhen = Receipt {
        start: UnixTime(START + 1000),
        end: UnixTime(START + 1001),
        ..forge.receipt(2)
    };
    let verdict = with(2, &elsewhen);
    let run = verdict.newest().unwrap();
    assert_eq!(
        run.contradictions(),
        [Contradiction::Times(Pid(0), Pid(2), 996)]
    );

    // Two different receipts of one party, both genuine: neither is hidden.
    let mut record = forge.record();
    let texts = &mut record.runs[0].receipts;
    texts.insert(2, sign_unchecked(&failed, &key(2)));
    let digest = |text: &String| {
        let input = text.rsplit_once('.').unwrap().0;
        Digest::of("quorate/1/stmt", input.as_bytes())
    };
    texts[2..].sort_by_key(digest);
    let verdict = record.verify().unwrap();
    assert!(verdict.is_complete());
    let found = verdict.newest().unwrap().contradictions();
    assert!(
        found.contains(&Contradiction::TwoReceipts(Pid(2))),
        "{found:?}"
    );
}

#[test]
fn what_one_copy_lacks_another_one_adds() {
    let whole = finished();
    let mut without = whole.clone();
    without.runs[0].receipts.remove(2);
    without.runs[0].confirms.remove(0);
    let mut other = whole.clone();
    other.runs[0].receipts.remove(0);
    other.runs[0].joins.remove(1);
    assert_eq!(without.merge(&other).unwrap(), whole);
    assert_eq!(other.merge(&without).unwrap(), whole);
    assert_eq!(whole.merge(&whole).unwrap(), whole);

    let mut draft = draft(3);
    draft.title = "Another one".into();
    let foreign = Forge {
        invitation: invitation_of(draft),
        ..Forge::new()
    };
    assert_eq!(
        whole.merge(&foreign.record()).unwrap_err().code,
        Code::Stale
    );
    without.runs[0].joins[0] = alter(&without.runs[0].joins[0], 2);
    assert_eq!(whole.merge(&without).unwrap_err().code, Code::Sig);
}

#[test]
fn runs_of_one_session_stand_in_their_order_and_the_newest_counts() {
    let run = |n: u64| Forge {
        epoch_ms: epoch_now() + 1000 * n,
        ..Forge::new()
    };
    let mut all = run(0).record();
    for n in [2, 1, 3, 4] {
        all = all.merge(&run(n).record()).unwrap();
    }
    assert_eq!(all.runs.len(), limits::MAX_RECORD_RUNS);
    let verdict = all.verify().unwrap();
    assert_eq!(
        verdict.newest().unwrap().digest(),
        Some(run(4).roster().digest())
    );
    assert_eq!(
        verdict.runs[0].digest(),
        Some(run(1).roster().digest()),
        "the oldest went"
    );
    let mut swapped = all.clone();
    swapped.runs.swap(1, 2);
    assert_refused(&swapped, Code::Record, "order of their epochs");
    let mut many = all.clone();
    many.runs.push(many.runs[3].clone());
    assert_refused(&many, Code::Limit, "more than a session can have");
}

#[test]
fn a_record_has_one_form() {
    let bytes = finished().encode();
    assert_eq!(Record::parse(&bytes).unwrap().encode(), bytes);
    let text = String::from_utf8(bytes.clone()).unwrap();
    let pretty: serde_json::Value = serde_json::from_str(&text).unwrap();
    let forms = [
        format!("{text}\n"),
        format!(" {text}"),
        serde_json::to_string_pretty(&pretty).unwrap(),
        text.replacen("\"v\":2", "\"v\":2,\"w\":3", 1),
        text.replacen("\"cancel\":null,", "", 1),
        text.replacen("{\"cancel\":null", "{\"cancel\":null,\"cancel\":null", 1),
        text.replacen("\"runs\"", "\"ruins\"", 1),
        "[]".into(),
        "{}".into(),
        String::new(),
    ];
    for form in forms {
        let rejection = Record::parse(form.as_bytes()).unwrap_err();
        assert_eq!(rejection.code, Code::Format, "{rejection}");
    }
    let newer = text.replacen("\"v\":2", "\"v\":3", 1);
    assert_eq!(
        Record::parse(newer.as_bytes()).unwrap_err().code,
        Code::Version
    );
    let older = br#"{"v":1,"invitation":"a.b.c","receipts":["a.b.c"]}"#;
    let rejection = Record::parse(older).unwrap_err();
    assert_eq!(rejection.code, Code::Record);
    assert!(rejection.detail.contains("older form"));
    let long = vec![b' '; limits::MAX_RECORD_BYTES + 1];
    assert_eq!(Record::parse(&long).unwrap_err().code, Code::Limit);
}

#[test]
fn lists_that_are_too_long_are_refused_before_anything_is_verified() {
    let mut record = finished();
    record.runs[0].receipts = vec!["x".into(); 7];
    assert_refused(&record, Code::Limit, "more receipts than");
    let mut record = finished();
    record.runs[0].confirms = vec!["x".into(); 4];
    assert_refused(&record, Code::Limit, "more confirms than");
    let mut record = finished();
    record.dids = vec![record.dids[0].clone(); limits::MAX_PARTIES + 2];
    assert_refused(&record, Code::Limit, "more than a session can have");
}

#[test]
fn a_whole_record_of_the_largest_session_fits() {
    let finished = finished().encode().len();
    // A confirm grows with the parties; everything else does not.
    let per_party = finished / 3 + limits::MAX_PARTIES * 64;
    assert!(per_party * limits::MAX_PARTIES * limits::MAX_RECORD_RUNS < limits::MAX_RECORD_BYTES);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn a60_no_bit_of_a_record_can_be_changed(at in any::<prop::sample::Index>(), bit in 0..8_u8) {
        let mut bytes = finished().encode();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let judged = Record::parse(&bytes).and_then(|record| record.verify());
        prop_assert!(judged.is_err(), "byte {at}, bit {bit}");
    }

    #[test]
    fn any_bytes_are_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(Record::parse(&bytes).is_err());
    }

    #[test]
    fn a60_a_record_cut_short_or_with_a_part_left_out_is_refused_or_incomplete(
        from in any::<prop::sample::Index>(),
        length in 1..2000_usize,
    ) {
        let mut bytes = finished().encode();
        let from = from.index(bytes.len());
        let to = (from + length).min(bytes.len());
        bytes.drain(from..to);
        if let Ok(verdict) = Record::parse(&bytes).and_then(|record| record.verify()) {
            prop_assert!(!verdict.is_complete());
        }
    }
}
