//! Makes every vector from fixed seeds, so that the stored ones can be made again and compared.

mod contact;
mod envelope;
mod frames;
mod invitations;
mod links;
mod records;
mod sessions;
mod setups;
mod signatures;
mod statements;
mod texts;

use crate::{
    common::{START, draft, epoch_now, fingerprint, forge_join, inv, invitation, key, secret},
    judge::{Desk, overlay_key, schema_says},
    schema_set::Schemas,
    vector::{
        Before, Context, Input, Judged, Link, LinkState, Reader, ReaderKeys, Refused, SchemaSays,
        Vector,
    },
};
use chacha20::ChaCha20Rng;
use quorate_identity::{B64, Digest, SigningKey, UnixMillis, UnixTime, Verified, base64url};
use quorate_session::{
    Frame, Invitation, PeerId, Pid, hello_tag,
    message::{self, Abort, Cancel, CodeText, Confirm, Hello, Kem, Ready, Receipt, ReceiptOutcome},
};
use rand_core::{Rng, SeedableRng};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The signed statements, by the names of their schemas.
pub const STATEMENTS: &[&str] = &[
    "invitation",
    "hello",
    "join",
    "confirm",
    "kem",
    "ready",
    "abort",
    "cancel",
    "receipt",
    "call",
    "card",
    "apply",
    "whereabouts",
    "pass",
];

/// All vectors and what they share.
pub fn all() -> (Context, Vec<Vector>) {
    let context = context();
    let mut maker = Maker {
        context,
        vectors: Vec::new(),
    };
    envelope::make(&mut maker);
    texts::make(&mut maker);
    invitations::make(&mut maker);
    statements::make(&mut maker);
    frames::make(&mut maker);
    setups::make(&mut maker);
    contact::make(&mut maker);
    records::make(&mut maker);
    sessions::make(&mut maker);
    let schemas = Schemas::load();
    for vector in &mut maker.vectors {
        vector.schema = schema_says(vector, &schemas);
    }
    (maker.context, maker.vectors)
}

/// Collects vectors.
pub struct Maker {
    pub context: Context,
    vectors: Vec<Vector>,
}

impl Maker {
    /// A vector that is judged alone, at the usual time.
    pub fn alone(
        &mut self,
        what: &str,
        name: &str,
        refused: &str,
        input: impl Into<Input>,
        about: &str,
    ) -> &mut Vector {
        self.add(Judged::Alone, what, name, refused, input, about)
    }

    /// `refused` is a code and a rule, or nothing.
    fn add(
        &mut self,
        judged: Judged,
        what: &str,
        name: &str,
        refused: &str,
        input: impl Into<Input>,
        about: &str,
    ) -> &mut Vector {
        let refused = refused.split_once(' ').map(|(code, rule)| Refused {
            code: code.into(),
            rule: rule.into(),
            ends: false,
        });
        let code = refused.as_ref().map_or("OK", |refused| &refused.code);
        self.vectors.push(Vector {
            name: format!("{code}-{}-{name}", what.to_lowercase()),
            about: about.into(),
            what: what.into(),
            judged,
            at: START,
            did: None,
            documents: Vec::new(),
            reader: None,
            before: Vec::new(),
            link: None,
            input: input.into(),
            schema: SchemaSays::None,
            refused,
        });
        self.vectors.last_mut().unwrap()
    }

    /// A bundle that a party opens.
    pub fn setup(
        &mut self,
        name: &str,
        refused: &str,
        input: impl Into<Input>,
        about: &str,
    ) -> &mut Vector {
        self.add(Judged::Setup, "bundle", name, refused, input, about)
    }

    /// Something that reaches a party over a link.
    pub fn session(
        &mut self,
        what: &str,
        name: &str,
        refused: &str,
        input: impl Into<Input>,
        about: &str,
    ) -> &mut Vector {
        let vector = self.add(Judged::Session, what, name, refused, input, about);
        vector.link = Some(Link {
            from: 2,
            state: LinkState::Proven,
        });
        vector
    }
}

impl Vector {
    pub fn at(&mut self, at: i64) -> &mut Self {
        self.at = at;
        self
    }

    pub fn after(&mut self, names: &[&str]) -> &mut Self {
        let statements = names.iter().map(|name| Before::Statement((*name).into()));
        self.before.extend(statements);
        self
    }

    pub fn after_frames(&mut self, frame: impl Into<Input>, times: usize) -> &mut Self {
        let frame = frame.into();
        self.before.push(Before::Frames { frame, times });
        self
    }

    pub fn over(&mut self, from: usize, state: LinkState) -> &mut Self {
        self.link = Some(Link { from, state });
        self
    }

    pub fn ends(&mut self) -> &mut Self {
        self.refused.as_mut().unwrap().ends = true;
        self
    }

    pub fn reader(&mut self) -> &mut Reader {
        self.reader.get_or_insert_default()
    }
}

/// The `typ` of a statement.
pub fn typ(what: &str) -> String {
    match what {
        "invitation" | "call" | "card" => "vc+jwt".into(),
        other => format!("quorate-{other}+jwt"),
    }
}

/// A compact JWS of exactly these bytes.
pub fn jws_of(header: &[u8], payload: &[u8], signer: &SigningKey) -> String {
    let input = format!(
        "{}.{}",
        base64url::encode(header),
        base64url::encode(payload)
    );
    signed(&input, signer)
}

pub fn signed(input: &str, signer: &SigningKey) -> String {
    let signature = signer.sign_bytes(input.as_bytes());
    format!("{input}.{}", base64url::encode(&signature))
}

pub fn header(what: &str, signer: &SigningKey) -> Value {
    json!({"alg": "EdDSA", "kid": signer.key_id(), "typ": typ(what)})
}

/// A statement with this payload, whatever it is.
pub fn jws(what: &str, payload: &Value, signer: &SigningKey) -> String {
    let header = header(what, signer).to_string();
    jws_of(header.as_bytes(), payload.to_string().as_bytes(), signer)
}

/// The same, by the listed party or organizer that makes such statements here.
pub fn said(what: &str, payload: &impl Serialize) -> String {
    jws(what, &value(payload), &issuer(what))
}

pub fn value(claims: &impl Serialize) -> Value {
    serde_json::to_value(claims).unwrap()
}

/// Who makes statements of a type in these vectors.
pub fn issuer(what: &str) -> SigningKey {
    key(match what {
        "invitation" | "cancel" | "call" => 0,
        "kem" => 1,
        _ => 2,
    })
}

/// The payload of a good statement of this type.
pub fn plain(what: &str) -> Value {
    let (v, iss, iat) = (1, issuer(what).did(), UnixTime(START));
    let (inv, roster, epoch) = (inv(), Digest([0x72; 32]), UnixMillis(epoch_now()));
    match what {
        "invitation" => value(&*invitation(3)),
        "hello" => value(&hello(2, inv)),
        "join" => value(&forge_join(2, 0x42, epoch_now(), inv)),
        "confirm" => value(&Confirm {
            v,
            iss,
            inv,
            roster,
            epoch,
            iat,
            joins: (0..3).map(|n| Digest([n; 32])).collect(),
        }),
        "kem" => value(&kem(roster)),
        "ready" => value(&Ready {
            v,
            iss,
            inv,
            roster,
            iat,
        }),
        "abort" => value(&Abort {
            v,
            iss,
            inv,
            epoch,
            iat,
            roster: None,
            code: CodeText(quorate_identity::Code::Interrupted),
            whom: None,
            note: "Ctrl-C".into(),
        }),
        "cancel" => value(&Cancel {
            v,
            iss,
            inv,
            iat,
            reason: "a party withdrew".into(),
        }),
        "receipt" => value(&Receipt {
            v,
            iss,
            inv,
            roster,
            iat,
            run: 1,
            outcome: ReceiptOutcome::Done,
            exit: Some(0),
            start: iat,
            end: iat.plus_seconds(7),
            bytes: Some(1000),
        }),
        "call" => value(&call()),
        "card" => {
            let until = iat.plus_seconds(365 * 24 * 3600);
            value(
                &message::card(iss, "Clinique Sud".into(), seal_key(), [9; 16], iat, until)
                    .unwrap(),
            )
        }
        "apply" => json!({
            "v": v, "iss": iss, "call": Digest([0x63; 32]), "name": "Clinique Sud",
            "local": PeerId::of(&overlay_key(2).public()), "remote": reader_peer(),
            "n": B64([0x6e; 16]), "iat": iat, "exp": iat.plus_seconds(60),
        }),
        "whereabouts" => json!({
            "v": v, "iss": iss, "sid": B64([0x51; 32]), "hour": START / 3600, "seq": START * 1000,
            "peer": PeerId::of(&overlay_key(2).public()), "join": Digest([0x6a; 32]),
            "addr": ["/ip4/192.0.2.7/udp/4001/quic-v1"],
            "iat": iat, "exp": iat.plus_seconds(1200),
        }),
        "pass" => json!({
            "v": v, "iss": iss,
            "local": PeerId::of(&overlay_key(2).public()), "remote": reader_peer(),
            "n": B64([0x6e; 32]), "iat": iat, "exp": iat.plus_seconds(60),
        }),
        other => panic!("{other} is no statement"),
    }
}

/// An open invitation of the organizer for three seats.
fn call() -> quorate_session::Call {
    let mut terms = draft(3);
    terms.parties.truncate(1);
    let draft = quorate_session::CallDraft {
        terms,
        seats: 3,
        name: "Registry".into(),
        peer: reader_peer(),
        apply_by: UnixTime(START + 300),
    };
    draft.build([8; 16]).unwrap()
}

fn seal_key() -> [u8; 1216] {
    let secret = x_wing::DecapsulationKey::from([0x5c; 32]);
    x_wing::KeyExport::to_bytes(x_wing::Decapsulator::encapsulation_key(&secret)).0
}

/// The reader's PeerId: made from the seed of its session.
pub fn reader_peer() -> PeerId {
    PeerId::of(&overlay_of(0).public())
}

/// A link proof of identity `from` to the reader.
pub fn hello(from: usize, inv: Digest) -> Hello {
    Hello {
        v: 1,
        iss: key(from).did(),
        sid: B64([0x51; 32]),
        inv,
        local: PeerId::of(&overlay_key(from).public()),
        remote: reader_peer(),
        iat: UnixTime(START),
        exp: UnixTime(START + 60),
    }
}

/// A key share of party 1 for party 2 which nobody can open: its bytes are those of a generator.
pub fn kem(roster: Digest) -> Kem {
    let mut ct = [0_u8; 1120];
    ChaCha20Rng::from_seed([0x4b; 32]).fill_bytes(&mut ct);
    Kem {
        v: 1,
        iss: key(1).did(),
        inv: inv(),
        roster,
        to: Pid(2),
        ct: B64(ct),
        iat: UnixTime(START),
    }
}

pub fn frame(frame: &Frame) -> String {
    String::from_utf8(frame.encode()).unwrap()
}

pub fn right_hello(from: usize) -> String {
    let peer = PeerId::of(&overlay_key(from).public());
    frame(&Frame::Hello {
        tag: hello_tag(&secret(), &peer, &reader_peer()),
    })
}

/// A changed copy of `whole`: the value at the pointer is replaced.
pub fn with(whole: &Value, at: &str, new: impl Into<Value>) -> Value {
    let mut changed = whole.clone();
    *changed.pointer_mut(at).unwrap_or_else(|| panic!("{at}")) = new.into();
    changed
}

/// A copy with one member more, at the top.
pub fn and(whole: &Value, member: &str, new: impl Into<Value>) -> Value {
    let mut changed = whole.clone();
    changed[member] = new.into();
    changed
}

pub fn without(whole: &Value, member: &str) -> Value {
    let mut changed = whole.clone();
    changed.as_object_mut().unwrap().remove(member).unwrap();
    changed
}

fn keys_of(reader: usize) -> [Vec<u8>; 4] {
    let seed = 0x10 + u8::try_from(reader).unwrap();
    let mut rng = ChaCha20Rng::from_seed([seed; 32]);
    [32, 32, 32, 16].map(|length| {
        let mut bytes = vec![0; length];
        rng.fill_bytes(&mut bytes);
        bytes
    })
}

fn overlay_of(reader: usize) -> SigningKey {
    let [_, _, overlay, _] = keys_of(reader);
    SigningKey::from_seed(&overlay.try_into().unwrap())
}

pub fn join_of(party: usize) -> Value {
    let seed = 0x40 + u8::try_from(party).unwrap();
    value(&forge_join(party, seed, epoch_now(), inv()))
}

fn join_text(party: usize) -> String {
    jws("join", &join_of(party), &key(party))
}

/// A confirm of party `from`.
pub fn confirm(from: usize, roster: &str, joins: &[String]) -> Value {
    let joins = joins.iter().map(|digest| digest.parse().unwrap());
    value(&Confirm {
        v: 1,
        iss: key(from).did(),
        inv: inv(),
        roster: roster.parse().unwrap(),
        epoch: UnixMillis(epoch_now()),
        joins: joins.collect(),
        iat: UnixTime(START),
    })
}

pub fn digest_of(jws: &str) -> String {
    let (input, _) = jws.rsplit_once('.').unwrap();
    Digest::of("quorate/1/stmt", input.as_bytes()).to_string()
}

/// The digests of the joins that make the roster of a reader.
pub fn roster_joins(context: &Context, reader: usize) -> Vec<String> {
    let text = |party| match party {
        own if own == reader => context.readers[&reader].join.clone(),
        other => context.statements[&format!("join-{other}")].clone(),
    };
    (0..3).map(|party| digest_of(&text(party))).collect()
}

fn context() -> Context {
    let agreed = invitation(3);
    let mut statements: BTreeMap<String, String> = (0..3)
        .map(|party| (format!("join-{party}"), join_text(party)))
        .collect();
    let readers = [0, 2].map(|reader| (reader, reader_keys(reader, &agreed, &statements)));
    let readers: BTreeMap<usize, ReaderKeys> = readers.into();
    let seeds = |first: u8, count: u8| (first..first + count).map(|n| base64url::encode(&[n; 32]));
    let mut context = Context {
        about: "What the vectors share. Identity i is the Ed25519 key of seed i; identities 0 to 2 are the parties of the invitation, 0 is the organizer. Over links to the reader identity i has the PeerId of overlay seed i. A reader makes its own join with the given keys.".into(),
        at: START,
        identities: seeds(1, 10).collect(),
        overlay: seeds(0x60, 10).collect(),
        secret: base64url::encode(secret().as_bytes()),
        invitation: agreed.text().to_string(),
        fingerprint: value(&fingerprint()),
        readers,
        statements: BTreeMap::new(),
    };
    context.statements.clone_from(&statements);
    let (roster, joins) = (
        context.readers[&0].roster.clone(),
        roster_joins(&context, 0),
    );
    for from in [1, 2] {
        let text = jws("confirm", &confirm(from, &roster, &joins), &key(from));
        statements.insert(format!("confirm-{from}"), text);
    }
    context.statements = statements;
    context
}

/// Lets a reader join and agree, to learn its own join and roster.
fn reader_keys(
    party: usize,
    invitation: &Verified<Invitation>,
    joins: &BTreeMap<String, String>,
) -> ReaderKeys {
    let reader = Reader {
        party,
        ..Reader::default()
    };
    let mut desk = Desk::sit_down(invitation, &reader, fingerprint(), &[]);
    let others = (0..3).filter(|other| *other != party);
    for other in others {
        desk.statement(other, &joins[&format!("join-{other}")]);
    }
    let roster = desk.table.seats[0]
        .session
        .roster()
        .expect("all have joined");
    let [kem_seed, wireguard, overlay, nonce] =
        keys_of(party).map(|bytes| base64url::encode(&bytes));
    ReaderKeys {
        kem_seed,
        wireguard,
        overlay,
        nonce,
        join: own_join(party),
        roster: roster.to_string(),
    }
}

/// The join that the session of a reader makes, as its keys and its clock decide it.
fn own_join(party: usize) -> String {
    let [kem_seed, wireguard, overlay, nonce] = keys_of(party);
    let mut join = forge_join(party, 0, epoch_now(), inv());
    let array = |bytes: &[u8]| <[u8; 32]>::try_from(bytes).unwrap();
    let secret = x25519_dalek::StaticSecret::from(array(&wireguard));
    let decapsulation = x_wing::DecapsulationKey::from(array(&kem_seed));
    let encapsulation = x_wing::Decapsulator::encapsulation_key(&decapsulation);
    join.wg = B64(x25519_dalek::PublicKey::from(&secret).to_bytes());
    join.kem.as_mut().unwrap().ek = B64(x_wing::KeyExport::to_bytes(encapsulation).0);
    join.n = B64(nonce.try_into().unwrap());
    join.peer = PeerId::of(&SigningKey::from_seed(&array(&overlay)).public());
    let input = message::peer_signature_input(&join.inv, &join.iss, join.epoch, &join.wg);
    join.peer_sig = B64(SigningKey::from_seed(&array(&overlay)).sign_bytes(&input));
    quorate_identity::sign(join, &key(party))
        .unwrap()
        .text()
        .to_string()
}

/// An invitation that its builder would refuse, from the one of the context.
pub fn changed_invitation(at: &str, new: impl Into<Value>) -> String {
    said("invitation", &with(&plain("invitation"), at, new))
}

pub fn organizer_signs(draft: quorate_session::InvitationDraft) -> String {
    crate::common::invitation_of(draft).text().to_string()
}

pub fn usual_draft() -> quorate_session::InvitationDraft {
    draft(3)
}
