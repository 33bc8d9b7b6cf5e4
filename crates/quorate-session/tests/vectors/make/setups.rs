//! What a party refuses before it sends anything: S3.9, S3.12, S3.17, S3.18, S3.21, C6, C9, C10, S9.3, S11.

use super::{Maker, organizer_signs, plain, said, usual_draft, value, with};
use crate::common::{START, fingerprint, key, secret};
use quorate_identity::{Digest, UnixTime};
use quorate_session::{Bundle, ContentDigest, InvitationDraft, ProgramSource, RendezvousSecret};
use serde_json::{Value, json};

pub fn make(maker: &mut Maker) {
    let good = bundle(&maker.context.invitation);
    maker.setup("opened", "", good.clone(), "A party opens its bundle.");
    maker
        .setup(
            "opened-by-party-2",
            "",
            good.clone(),
            "So does another party.",
        )
        .reader()
        .party = 2;
    let about = "Whoever opens it is not listed.";
    maker
        .setup("not-listed", "E_NOT_INVITED S3.17", good.clone(), about)
        .reader()
        .party = 9;

    let swapped = Bundle {
        invitation: maker.context.invitation.clone(),
        secret: RendezvousSecret::new([0x99; 32]),
        hints: Vec::new(),
        program: None,
    };
    let about = "The secret is not the one that the invitation commits to.";
    maker.setup("swapped-secret", "E_FORMAT S3.12", swapped.encode(), about);
    let along = ProgramSource::new([("main.py", &b"print(2)"[..])]).unwrap();
    let other = Bundle {
        program: Some(along),
        ..Bundle::parse(&good).unwrap()
    };
    let about = "The source that came along is that of another program.";
    maker.setup("other-source", "E_PROGRAM S3.21", other.encode(), about);
    let forged = good_with_forged_invitation(&maker.context.invitation);
    maker.setup(
        "forged-invitation",
        "E_SIG J8",
        forged,
        "The invitation in it was changed.",
    );

    envelope(maker);
    deadlines(maker, &good);
    programs(maker, &good);
    keys(maker);
    records(maker, &good);
}

pub fn bundle(invitation: &str) -> String {
    let bundle = Bundle {
        invitation: invitation.into(),
        secret: secret(),
        hints: Vec::new(),
        program: None,
    };
    bundle.encode()
}

fn good_with_forged_invitation(invitation: &str) -> String {
    let (_, signature) = invitation.rsplit_once('.').unwrap();
    let changed = super::changed_invitation("/credentialSubject/title", "Other");
    let (input, _) = changed.rsplit_once('.').unwrap();
    bundle(&format!("{input}.{signature}"))
}

fn envelope(maker: &mut Maker) {
    let whole = plain("invitation");
    let text = said(
        "invitation",
        &with(&whole, "/validUntil", "2026-11-29T12:00:01Z"),
    );
    maker.setup(
        "valid-too-long",
        "E_LIMIT S3.9",
        bundle(&text),
        "Valid a second more than 7 days.",
    );
    let text = said(
        "invitation",
        &with(&whole, "/validUntil", "2026-11-22T12:59:59Z"),
    );
    let about = "The session may end a second after the invitation.";
    maker.setup("ends-too-late", "E_TIME S3.9", bundle(&text), about);
}

fn deadlines(maker: &mut Maker, good: &str) {
    let late = "E_TIME S3.18";
    let about = "Opened 301 s after the last time to join.";
    maker.setup("too-late", late, good, about).at(START + 901);
    let about = "Opened 299 s after the last time to join: clocks may differ.";
    maker.setup("just-in-time", "", good, about).at(START + 899);
    let mut draft = usual_draft();
    draft.time.start_by = UnixTime(START + 601);
    let text = bundle(&organizer_signs(draft));
    let about = "Opened when the program has to run already.";
    maker.setup("at-start", late, text, about).at(START + 601);
}

fn programs(maker: &mut Maker, good: &str) {
    let own = value(&fingerprint());
    let other = value(&ContentDigest::of(b"other"));
    let mut refuse = |name: &str, refused: &str, bundle: &str, fp: Value, about: &str| {
        maker
            .setup(name, refused, bundle, about)
            .reader()
            .fingerprint = Some(fp);
    };
    refuse(
        "other-program",
        "E_PROGRAM C6",
        good,
        with(&own, "/program", other.clone()),
        "The own program is another one.",
    );
    refuse(
        "other-word",
        "E_RUNTIME C6",
        good,
        with(&own, "/word", 32),
        "A 32-bit machine.",
    );
    let signed = |change: &dyn Fn(&mut InvitationDraft)| {
        let mut draft = usual_draft();
        change(&mut draft);
        bundle(&organizer_signs(draft))
    };
    let mpyc = signed(&|draft| draft.mpyc = "0.10".into());
    refuse(
        "other-mpyc",
        "E_RUNTIME C6",
        &mpyc,
        own.clone(),
        "The invitation names another version of MPyC.",
    );
    let env = signed(&|draft| draft.program.env = Some(ContentDigest::of(b"lock")));
    refuse(
        "no-environment",
        "E_PROGRAM C6",
        &env,
        own.clone(),
        "The invitation names a lock file, the party has none.",
    );
    let other_env = super::and(&own, "env", other);
    refuse(
        "other-environment",
        "E_PROGRAM C6",
        &env,
        other_env,
        "The party has another lock file.",
    );
}

fn keys(maker: &mut Maker) {
    let mut draft = usual_draft();
    draft.parties[0].keys = vec![key(9).public().thumbprint()];
    let text = bundle(&organizer_signs(draft));
    maker.setup(
        "pinned-key",
        "E_KID C9",
        text,
        "The organizer saw another key of this party.",
    );
    let mut draft = usual_draft();
    for (index, path) in [(1, "a"), (2, "b")] {
        draft.parties[index].did = format!("did:web:corp.example:{path}").parse().unwrap();
    }
    let text = bundle(&organizer_signs(draft.clone()));
    let about = "One domain stands behind two of three parties, with a threshold of one.";
    maker.setup("one-controller", "E_CONTROLLER C10", text, about);
    draft.same_controller = quorate_session::message::SameController::Allow;
    let about = "The same, and the invitation allows it.";
    maker.setup(
        "one-controller-allowed",
        "",
        bundle(&organizer_signs(draft)),
        about,
    );
}

fn records(maker: &mut Maker, good: &str) {
    let record = |joins: u32, closed: Value| json!({"v": 1, "inv": super::inv(), "epoch": 7, "joins": joins, "runs": 0, "roster": null, "epochs": [], "closed": closed});
    let mut refuse = |name: &str, refused: &str, stored: Value, about: &str| {
        maker.setup(name, refused, good, about).reader().stored = Some(stored);
    };
    refuse(
        "joined-again",
        "",
        record(3, Value::Null),
        "The third re-join of three.",
    );
    refuse(
        "joined-too-often",
        "E_LIMIT S9.3",
        record(4, Value::Null),
        "The fourth re-join of three.",
    );
    for closed in ["finished", "cancelled", "distrusted"] {
        refuse(
            &format!("after-{closed}"),
            "E_REPLAY S11.2",
            record(1, json!(closed)),
            "The session is over.",
        );
    }
    let other = with(&record(1, Value::Null), "/inv", value(&Digest([1; 32])));
    refuse(
        "record-of-another",
        "E_STATE S11.1",
        other,
        "The record is that of another session.",
    );
}
