//! The JSON Schemas of `schemas/v1` against the wire objects that sessions really send, the examples beside them, and the
//! parsers of this crate: what a schema takes the parser takes, and what is malformed both refuse.
//!
//! Whole sessions of three parties run on the table of `common`, with fixed keys, seeds and clocks.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends at the first surprise"
)]

mod common;
mod schema_set;

use common::{Table, draft, invitation, invitation_of, key, setup};
use quorate_identity::{
    Code, Digest, MAX_STATEMENT_BYTES, Statement, Verified, base64url, json as strict, peek_typ,
    sign,
};
use quorate_session::{
    Frame, Invitation, Pid, State,
    control::Request,
    limits::{
        MAX_ADDRESS_BYTES, MAX_ARG_BYTES, MAX_ARGS, MAX_DIGESTS, MAX_FRAME_BYTES, MAX_NAME_CHARS,
        MAX_NOTE_CHARS, MAX_PARTIES, MAX_PATH_BYTES, MAX_PINNED_KEYS, MAX_PUBLISHED_ADDRESSES,
        MAX_PURPOSE_CHARS, MAX_REJOIN, MAX_RENDEZVOUS_ADDRESSES, MAX_SIGNAL_BYTES, MAX_STATEMENTS,
        MAX_TITLE_CHARS, MAX_VERSION_BYTES, MIN_PARTIES, MIN_PORT, MTU_RANGE,
    },
    lobby,
    message::{
        Abort, Apply, Call, Cancel, Card, Confirm, Hello, Join, Kem, PROTOCOL_VERSION, Pass, Ready,
        Receipt, Whereabouts,
    },
    post,
};
use schema_set::{BASE, BEFORE_A_SESSION, OTHER, REPORTS, Schemas, WIRE, folder, read, schema};
use serde_json::{Map, Value, json};
use std::{
    cell::RefCell,
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    rc::Rc,
    time::Duration,
};

/// Members that are null where there is nothing to say. They are always written, so the schemas want them, and a
/// statement is compared with its one form; serde alone takes their absence for null.
const NULLABLE: &[&str] = &[
    "invitation/credentialSubject/supersedes",
    "abort/roster",
    "abort/whom",
    "receipt/exit",
    "receipt/bytes",
];
/// Texts that the parser of the object does not look into: what a frame carries is read after the frame, and the name of a
/// credential is only compared with its beginning.
const NOT_READ_YET: &[&str] = &[
    "frame/auth",
    "frame/jws",
    "frame/jws/0",
    "frame/data",
    "lobby/jws",
    "lobby/program",
    "lobby/text",
    "post/text",
    "invitation/id",
    "call/id",
    "card/id",
    "apply/card",
];

/// Members of reports that are left out where there is nothing to say.
const OPTIONAL: &[&str] = &["status/end", "status/log", "status/words"];

/// Every example with the name of its schema: `frame-ping.json` is a frame.
fn examples() -> Vec<(String, Value)> {
    let files = fs::read_dir(folder().join("examples")).unwrap();
    let mut paths: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    paths.sort();
    let name = |path: &Path| {
        let stem = path.file_stem().unwrap().to_str().unwrap();
        stem.split('-').next().unwrap().to_owned()
    };
    paths.iter().map(|p| (name(p), read(p))).collect()
}

fn example(wanted: &str) -> Value {
    let found = examples().into_iter().find(|(name, _)| name == wanted);
    found
        .unwrap_or_else(|| panic!("there is no example of {wanted}"))
        .1
}

/// Both the schema and the parser refuse `value`.
#[track_caller]
fn assert_both_refuse(schemas: &Schemas, name: &str, value: &Value, what: &str) {
    assert!(
        schemas.check(name, value).is_err(),
        "the schema of {name} takes {what}"
    );
    assert!(
        parse(name, value).is_err(),
        "the parser of {name} takes {what}"
    );
}

/// Reads a wire object as a session does, except for the signature around it.
fn parse(name: &str, value: &Value) -> Result<(), String> {
    fn claims<T: Statement>(value: &Value) -> Result<(), String> {
        let value =
            strict::parse_strict(value.to_string().as_bytes()).map_err(|e| e.to_string())?;
        let claims: T = serde_json::from_value(value).map_err(|e| e.to_string())?;
        claims.check().map_err(|e| e.to_string())
    }
    match name {
        "abort" => claims::<Abort>(value),
        "apply" => claims::<Apply>(value),
        "call" => claims::<Call>(value),
        "card" => claims::<Card>(value),
        "cancel" => claims::<Cancel>(value),
        "confirm" => claims::<Confirm>(value),
        "hello" => claims::<Hello>(value),
        "invitation" => claims::<Invitation>(value),
        "join" => claims::<Join>(value),
        "kem" => claims::<Kem>(value),
        "pass" => claims::<Pass>(value),
        "ready" => claims::<Ready>(value),
        "receipt" => claims::<Receipt>(value),
        "whereabouts" => claims::<Whereabouts>(value),
        "lobby" => lobby::Frame::parse(value.to_string().as_bytes())
            .map(|_| ())
            .map_err(|e| e.to_string()),
        "post" => post::Frame::parse(value.to_string().as_bytes())
            .map(|_| ())
            .map_err(|e| e.to_string()),
        "control" => Request::parse(value.to_string().as_bytes())
            .map(|_| ())
            .map_err(|e| e.to_string()),
        "frame" => Frame::parse(value.to_string().as_bytes())
            .map(|_| ())
            .map_err(|e| e.to_string()),
        other => panic!("{other} does not go over the wire"),
    }
}

/// The name of a statement's schema, and its payload.
fn decode(jws: &str) -> (String, Value) {
    let typ = peek_typ(jws).unwrap();
    let name = match typ {
        "vc+jwt" => "invitation",
        other => &other["quorate-".len()..other.len() - "+jwt".len()],
    };
    let payload = base64url::decode(jws.split('.').nth(1).unwrap()).unwrap();
    (name.to_owned(), strict::parse_strict(&payload).unwrap())
}

/// Everything said in some sessions.
type Said = Rc<RefCell<Vec<Frame>>>;

/// Parties with these invitations, each linked to each, whose frames are noted from the first one on.
fn table(invitations: &[&Verified<Invitation>], said: &Said) -> Table {
    let mut table = Table::empty();
    let said = Rc::clone(said);
    table.filter = Box::new(move |_, _, frame| {
        said.borrow_mut().push(frame.clone());
        true
    });
    for (index, invitation) in invitations.iter().enumerate() {
        let seed = 0x10 + u8::try_from(index).unwrap();
        table.seat(setup(invitation, index, None, seed));
    }
    for a in 0..invitations.len() {
        for b in a + 1..invitations.len() {
            table.link(a, b);
        }
    }
    for index in 0..invitations.len() {
        table.join(index);
    }
    table
}

fn running(invitation: &Verified<Invitation>, said: &Said) -> Table {
    let mut table = table(&[invitation; 3], said);
    table.run();
    assert_eq!(table.states(), [State::Running; 3]);
    table
}

/// What parties say in sessions that end in each of the possible ways.
fn transcript() -> Vec<Frame> {
    let said = Said::default();
    let agreed = invitation(3);

    let mut good = running(&agreed, &said);
    let now = good.now;
    good.seats[0]
        .session
        .signal(Pid(1), b"candidate".to_vec(), now);
    for seat in &mut good.seats[..2] {
        let address = "/ip4/192.0.2.7/tcp/4001".to_owned();
        seat.session.set_addresses(vec![address], now);
    }
    good.pass(Duration::from_secs(4));
    (0..3).for_each(|index| good.exit(index, 0));
    good.pass(Duration::from_secs(2));

    let mut failing = running(&agreed, &said);
    failing.exit(1, 3);
    failing.pass(Duration::from_secs(4));

    let mut early = table(&[&agreed; 3], &said);
    let (at, now) = (early.at, early.now);
    early.seats[1]
        .session
        .abort(Code::Interrupted, None, "Ctrl-C", at, now);
    early.drain(1);
    early.pass(Duration::from_secs(4));

    let mut cancelled = running(&agreed, &said);
    let organizer = cancelled.intrude_as_member(0, 0, 90);
    let cancel = Cancel {
        v: PROTOCOL_VERSION,
        iss: key(0).did(),
        inv: agreed.digest(),
        reason: "a party withdrew".into(),
        iat: cancelled.at,
    };
    let cancel = sign(cancel, &key(0)).unwrap();
    cancelled.say_statements(0, &organizer, &[cancel.text()]);
    cancelled.pass(Duration::from_secs(4));

    let mut other = draft(3);
    other.title = "Another".into();
    table(&[&agreed, &invitation_of(other)], &said).run();

    said.take()
}

/// The statements that a frame carries.
fn carried(frame: &Frame) -> &[String] {
    match frame {
        Frame::Statements { jws } => jws,
        Frame::Invitation { jws } => std::slice::from_ref(jws),
        Frame::Proof { auth, .. } => std::slice::from_ref(auth),
        _ => &[],
    }
}

fn kind(frame: &Value) -> &str {
    frame["t"].as_str().unwrap()
}

/// Calls `visit` with the pointer of every value inside of `value`, and the value.
fn walk(value: &Value, at: &str, visit: &mut impl FnMut(&str, &Value)) {
    visit(at, value);
    match value {
        Value::Object(members) => members
            .iter()
            .for_each(|(name, inner)| walk(inner, &format!("{at}/{name}"), visit)),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .for_each(|(index, inner)| walk(inner, &format!("{at}/{index}"), visit)),
        _ => {}
    }
}

fn pointers(value: &Value) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    walk(value, "", &mut |at, inner| {
        found.push((at.to_owned(), inner.clone()));
    });
    found
}

fn with(value: &Value, at: &str, new: Value) -> Value {
    let mut changed = value.clone();
    *changed.pointer_mut(at).unwrap_or_else(|| panic!("{at}")) = new;
    changed
}

fn members_mut<'a>(value: &'a mut Value, at: &str) -> &'a mut Map<String, Value> {
    value.pointer_mut(at).unwrap().as_object_mut().unwrap()
}

fn texts(count: usize, text: &str) -> Value {
    vec![text; count].into()
}

#[test]
fn every_schema_is_valid_strict_and_explains_each_member() {
    let mut files: Vec<String> = fs::read_dir(folder())
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .filter_map(|file| Some(file.strip_suffix(".schema.json")?.to_owned()))
        .collect();
    files.sort();
    let mut names: Vec<&str> = WIRE.iter().chain(REPORTS).chain(OTHER).copied().collect();
    names.sort_unstable();
    assert_eq!(files, names);
    for name in names {
        let schema = schema(name);
        jsonschema::meta::validate(&schema).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(
            schema["$schema"],
            "https://json-schema.org/draft/2020-12/schema"
        );
        assert_eq!(schema["$id"], format!("{BASE}{name}.json"));
        assert!(schema["title"].is_string() && schema["description"].is_string());
        walk(&schema, "", &mut |at, inner| {
            let condition = at.contains("/if") || at.contains("/then");
            if condition || at.ends_with("/properties") {
                return;
            }
            if inner["type"] == "object" && inner.get("oneOf").is_none() {
                assert!(
                    inner.get("additionalProperties").is_some(),
                    "{name}{at} is open"
                );
            }
            for (member, about) in inner["properties"].as_object().into_iter().flatten() {
                let text = about["description"].as_str().unwrap_or_default();
                assert!(text.ends_with('.'), "{name}{at}: {member} is not described");
            }
        });
    }
}

#[test]
fn everything_that_sessions_say_fits_its_schema() {
    let schemas = Schemas::load();
    let mut kinds = BTreeSet::new();
    let mut seen = BTreeSet::new();
    for frame in transcript() {
        let value = strict::parse_strict(&frame.encode()).unwrap();
        schemas.assert_takes("frame", &value);
        kinds.insert(kind(&value).to_owned());
        for jws in carried(&frame) {
            let (name, payload) = decode(jws);
            schemas.assert_takes(&name, &payload);
            seen.insert(name);
        }
    }
    let all = schema("frame");
    let all: BTreeSet<String> =
        serde_json::from_value(all["properties"]["t"]["enum"].clone()).unwrap();
    assert_eq!(kinds, all, "every kind of frame was said");
    assert!(
        WIRE.iter()
            .all(|n| *n == "frame" || BEFORE_A_SESSION.contains(n) || seen.contains(*n)),
        "{seen:?}"
    );
}

#[test]
fn examples_fit_their_schemas_and_can_be_read() {
    let schemas = Schemas::load();
    let mut kinds = BTreeSet::new();
    let mut names = BTreeSet::new();
    for (name, value) in examples() {
        schemas.assert_takes(&name, &value);
        if WIRE.contains(&name.as_str()) {
            parse(&name, &value).unwrap_or_else(|e| panic!("{name}: {e}"));
        }
        if name == "frame" {
            kinds.insert(kind(&value).to_owned());
        }
        names.insert(name);
    }
    assert_eq!(kinds.len(), 10, "{kinds:?}");
    assert!(
        WIRE.iter().chain(REPORTS).all(|n| names.contains(*n)),
        "{names:?}"
    );
}

#[test]
fn a_missing_member_is_refused() {
    let schemas = Schemas::load();
    for (name, whole) in wire_examples() {
        for (at, _) in pointers(&whole) {
            let Some((parent, member)) = at.rsplit_once('/') else {
                continue;
            };
            let mut changed = whole.clone();
            let Some(Value::Object(members)) = changed.pointer_mut(parent) else {
                continue;
            };
            members.remove(member);
            let what = format!("an object without {at}");
            if NULLABLE.contains(&format!("{name}{at}").as_str()) {
                assert!(schemas.check(&name, &changed).is_err(), "{what}");
            } else {
                assert_both_refuse(&schemas, &name, &changed, &what);
            }
        }
    }
}

#[test]
fn an_unknown_member_is_refused_at_every_level() {
    let schemas = Schemas::load();
    for (name, whole) in wire_examples() {
        for (at, _) in pointers(&whole).iter().filter(|(_, v)| v.is_object()) {
            let mut changed = whole.clone();
            members_mut(&mut changed, at).insert("extra".into(), 1.into());
            assert_both_refuse(
                &schemas,
                &name,
                &changed,
                &format!("an unknown member in {at:?}"),
            );
        }
    }
}

#[test]
fn a_wrong_type_is_refused_everywhere() {
    let schemas = Schemas::load();
    for (name, whole) in wire_examples() {
        for (at, value) in pointers(&whole) {
            let wrong = match value {
                Value::Object(_) => json!([]),
                Value::Array(_) | Value::Null => json!({}),
                Value::Bool(_) => json!("true"),
                Value::Number(n) => json!(n.to_string()),
                Value::String(_) => json!(7),
            };
            let what = format!("{wrong} at {at:?}");
            assert_both_refuse(&schemas, &name, &with(&whole, &at, wrong), &what);
        }
    }
}

#[test]
fn a_text_that_is_too_long_or_holds_a_control_is_refused() {
    let schemas = Schemas::load();
    for (name, whole) in wire_examples() {
        for (at, value) in pointers(&whole) {
            let Value::String(text) = value else { continue };
            let long = with(&whole, &at, "a".repeat(MAX_FRAME_BYTES).into());
            assert_both_refuse(&schemas, &name, &long, &format!("a long text at {at}"));
            let bell = with(&whole, &at, format!("{text}\u{7}").into());
            if NOT_READ_YET.contains(&format!("{name}{at}").as_str()) {
                assert!(schemas.check(&name, &bell).is_err(), "a bell at {at}");
            } else {
                assert_both_refuse(&schemas, &name, &bell, &format!("a bell at {at}"));
            }
        }
    }
}

#[test]
fn a_number_that_readers_disagree_on_is_refused() {
    let schemas = Schemas::load();
    for (name, whole) in wire_examples() {
        for (at, _) in pointers(&whole).iter().filter(|(_, v)| v.is_number()) {
            for number in [json!(1_u64 << 53), json!(-(1_i64 << 53)), json!(0.5)] {
                let what = format!("{number} at {at}");
                assert_both_refuse(&schemas, &name, &with(&whole, at, number), &what);
            }
        }
    }
}

#[test]
fn values_out_of_their_limits_are_refused() {
    let schemas = Schemas::load();
    let digest = Digest([2; 32]).to_string();
    let other = format!("{}B", &digest[..42]);
    let upper = format!("sha256:{}", "AB".repeat(32));
    let subject = |at: &str, bad: Value| ("invitation", format!("/credentialSubject{at}"), bad);
    let plain = |name, at: &str, bad| (name, at.to_owned(), bad);
    let cases = [
        subject("/v", json!(2)),
        subject("/sid", json!(digest[..42])),
        subject("/title", json!("a".repeat(MAX_TITLE_CHARS + 1))),
        subject("/title", json!("pay\u{202e}roll")),
        subject("/purpose", json!("é".repeat(MAX_PURPOSE_CHARS + 1))),
        subject("/parties", json!([])),
        subject("/parties/0/did", json!("did:example:x")),
        subject("/parties/0/did", json!("did:web:10.0.0.1")),
        subject("/parties/0/did", json!("did:web:Example.com")),
        subject("/parties/0/keys", json!([])),
        subject("/parties/0/keys", texts(MAX_PINNED_KEYS + 1, &digest)),
        subject("/parties/0/keys/0", json!(other)),
        subject("/mpc/engine", json!("other")),
        subject("/mpc/m", json!(MAX_PARTIES + 1)),
        subject("/mpc/t", json!(0)),
        subject("/mpc/word", json!(16)),
        subject("/mpc/python", json!("3".repeat(MAX_VERSION_BYTES + 1))),
        subject("/program/manifest", json!(upper)),
        subject("/program/entry", json!("")),
        subject("/program/entry", json!("/main.py")),
        subject("/program/entry", json!("a/../main.py")),
        subject("/program/entry", json!("c:main.py")),
        subject("/program/entry", json!("a\\main.py")),
        subject("/program/args", texts(MAX_ARGS + 1, "x")),
        subject("/program/args/0", json!("x".repeat(MAX_ARG_BYTES + 1))),
        subject("/net/port", json!(MIN_PORT)),
        subject("/net/port", json!(65_536)),
        subject("/net/mtu", json!(1500)),
        subject("/net/path", json!("Direct")),
        subject("/time/joinBy", json!(-1)),
        subject(
            "/rendezvous/relays",
            texts(MAX_RENDEZVOUS_ADDRESSES + 1, "/dns4/a"),
        ),
        subject("/policy/pq", json!("optional")),
        subject("/policy/rejoin", json!(MAX_REJOIN + 1)),
        plain(
            "invitation",
            "/@context/0",
            json!("https://quorate.org/ns/v1"),
        ),
        plain("invitation", "/type/1", json!("Other")),
        plain("invitation", "/id", json!("https://quorate.org/1")),
        plain("invitation", "/validFrom", json!("2026-11-22T16:00:00.0Z")),
        plain("invitation", "/validFrom", json!("2026-13-22T16:00:00Z")),
        plain("hello", "/local", json!("1".repeat(52))),
        plain("pass", "/remote", json!("1".repeat(52))),
        plain("pass", "/n", json!(digest[..42])),
        plain(
            "whereabouts",
            "/addr",
            texts(MAX_PUBLISHED_ADDRESSES + 1, "/ip4/192.0.2.1/tcp/1"),
        ),
        plain(
            "whereabouts",
            "/addr/0",
            json!(format!("/{}", "x".repeat(MAX_ADDRESS_BYTES))),
        ),
        plain("whereabouts", "/addr/0", json!("ip4/192.0.2.1")),
        plain("whereabouts", "/addr/0", json!("/ip4/192.0.2.1 /tcp/1")),
        plain("whereabouts", "/hour", json!(-1)),
        plain("join", "/kem/alg", json!("X25519")),
        plain("join", "/fp/mpyc", json!("0.11 beta")),
        plain("join", "/pid", json!(-1)),
        plain("confirm", "/joins", texts(MAX_PARTIES + 1, &digest)),
        plain("kem", "/ct", json!(digest)),
        plain("ready", "/iss", json!("did:key:z6Mk")),
        plain("abort", "/code", json!("E_NOPE")),
        plain("abort", "/note", json!("a".repeat(MAX_NOTE_CHARS + 1))),
        plain("cancel", "/v", json!(0)),
        plain("receipt", "/outcome", json!("perfect")),
        plain("receipt", "/exit", json!(1)),
        plain("receipt", "/run", json!(-1)),
        plain("receipt", "/bytes", json!(-1)),
    ];
    for (name, at, bad) in cases {
        let what = format!("{bad} at {at}");
        assert_both_refuse(&schemas, name, &with(&example(name), &at, bad), &what);
    }
    let frames = [
        json!({"t": "have", "digests": vec![&digest; MAX_DIGESTS + 1]}),
        json!({"t": "want", "digests": [other]}),
        json!({"t": "statements", "jws": vec!["a.a.a"; MAX_STATEMENTS + 1]}),
        json!({"t": "signal", "roster": digest, "data": "A".repeat(MAX_SIGNAL_BYTES * 2)}),
        json!({"t": "ping", "n": -1}),
        json!({"t": "ping", "digests": []}),
        json!({"t": "nonsense"}),
        json!([]),
    ];
    for frame in frames {
        assert_both_refuse(&schemas, "frame", &frame, &frame["t"].to_string());
    }
}

#[test]
fn values_at_their_limits_are_taken() {
    let schemas = Schemas::load();
    let name = "invitation";
    let mut changed = example(name);
    let subject = members_mut(&mut changed, "/credentialSubject");
    subject["title"] = "é".repeat(MAX_TITLE_CHARS).into();
    subject["supersedes"] = Digest([3; 32]).to_string().into();
    subject["parties"][1]["did"] = "did:web:uni.example%3A8443:mpc".into();
    subject["mpc"]["bitLength"] = 1.into();
    subject["mpc"]["secParam"] = 4096.into();
    subject["mpc"]["t"] = 0.into();
    subject["policy"]["zeroThreshold"] = true.into();
    subject["program"]["env"] = format!("sha256:{}", "ab".repeat(32)).into();
    subject["program"]["args"] = texts(MAX_ARGS, &"x".repeat(MAX_ARG_BYTES));
    subject["program"]["entry"] = "src/..main/.py".into();
    subject["net"]["port"] = 65_535.into();
    schemas.assert_takes(name, &changed);
    parse(name, &changed).unwrap();

    let receipt = with(&example("receipt"), "/outcome", "aborted".into());
    let receipt = with(&receipt, "/exit", Value::Null);
    schemas.assert_takes("receipt", &receipt);
    parse("receipt", &receipt).unwrap();
}

#[test]
fn reports_have_their_members_and_no_others() {
    let schemas = Schemas::load();
    let mut all = examples();
    all.retain(|(name, _)| REPORTS.contains(&name.as_str()));
    for (name, whole) in all {
        let mut changed = whole.clone();
        members_mut(&mut changed, "").insert("extra".into(), 1.into());
        assert!(schemas.check(&name, &changed).is_err(), "{name}: extra");
        let there = whole.as_object().unwrap().keys();
        for member in there.filter(|m| !OPTIONAL.contains(&format!("{name}/{m}").as_str())) {
            let mut changed = whole.clone();
            members_mut(&mut changed, "").remove(member);
            assert!(schemas.check(&name, &changed).is_err(), "{name}: {member}");
        }
    }
}

#[test]
fn limits_and_codes_in_the_schemas_are_those_of_the_program() {
    let (common, frame, invitation) = (schema("common"), schema("frame"), schema("invitation"));
    let codes: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
    assert_eq!(common["$defs"]["code"]["enum"], json!(codes));
    let exits: BTreeSet<u8> = Code::ALL.iter().map(|code| code.exit_code()).collect();
    assert_eq!(
        schema("error")["properties"]["exit"]["enum"],
        json!(exits),
        "exit codes"
    );

    let subject = &invitation["properties"]["credentialSubject"]["properties"];
    let party = &invitation["$defs"]["party"]["properties"];
    let (mpc, net) = (&subject["mpc"]["properties"], &subject["net"]["properties"]);
    let program = &subject["program"]["properties"];
    let relays = &subject["rendezvous"]["properties"]["relays"];
    let digests = &frame["$defs"]["have"]["properties"]["digests"];
    let jws = &frame["$defs"]["statements"]["properties"]["jws"];
    let data = &frame["$defs"]["signal"]["properties"]["data"];
    let whereabouts = schema("whereabouts");
    let addresses = &whereabouts["properties"]["addr"];
    let rejoin = &subject["policy"]["properties"]["rejoin"];
    let pairs = [
        (&subject["title"]["maxLength"], MAX_TITLE_CHARS),
        (&subject["purpose"]["maxLength"], MAX_PURPOSE_CHARS),
        (&subject["parties"]["minItems"], MIN_PARTIES),
        (&subject["parties"]["maxItems"], MAX_PARTIES),
        (&mpc["m"]["maximum"], MAX_PARTIES),
        (&mpc["version"]["maxLength"], MAX_VERSION_BYTES),
        (&party["name"]["maxLength"], MAX_NAME_CHARS),
        (&party["keys"]["maxItems"], MAX_PINNED_KEYS),
        (&program["args"]["maxItems"], MAX_ARGS),
        (&program["args"]["items"]["maxLength"], MAX_ARG_BYTES),
        (&program["entry"]["maxLength"], MAX_PATH_BYTES),
        (&net["port"]["minimum"], usize::from(MIN_PORT) + 1),
        (&net["mtu"]["minimum"], usize::from(*MTU_RANGE.start())),
        (&net["mtu"]["maximum"], usize::from(*MTU_RANGE.end())),
        (&relays["maxItems"], MAX_RENDEZVOUS_ADDRESSES),
        (&relays["items"]["maxLength"], MAX_ADDRESS_BYTES),
        (&rejoin["maximum"], usize::from(MAX_REJOIN)),
        (&addresses["maxItems"], MAX_PUBLISHED_ADDRESSES),
        (&addresses["items"]["maxLength"], MAX_ADDRESS_BYTES),
        (&digests["maxItems"], MAX_DIGESTS),
        (&jws["maxItems"], MAX_STATEMENTS),
        (&data["maxLength"], (MAX_SIGNAL_BYTES * 8).div_ceil(6)),
        (&common["$defs"]["jws"]["maxLength"], MAX_STATEMENT_BYTES),
        (&common["$defs"]["pid"]["maximum"], MAX_PARTIES - 1),
    ];
    for (in_schema, limit) in pairs {
        assert_eq!(*in_schema, json!(limit));
    }
    let reason = &schema("control")["$defs"]["cancel"]["properties"]["reason"];
    assert_eq!(reason["maxLength"], json!(MAX_NOTE_CHARS), "control");
    for (name, member) in [("abort", "note"), ("cancel", "reason")] {
        let longest = &schema(name)["properties"][member]["maxLength"];
        assert_eq!(*longest, json!(MAX_NOTE_CHARS), "{name}");
    }
}

fn wire_examples() -> Vec<(String, Value)> {
    let mut all = examples();
    all.retain(|(name, _)| WIRE.contains(&name.as_str()));
    assert!(all.len() >= WIRE.len());
    all
}
