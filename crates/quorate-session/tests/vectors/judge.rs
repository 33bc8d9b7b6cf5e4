//! Judges one vector with the reader, the setup or the session that it is for.

use crate::{
    common::{Outsider, Table, key, setup},
    schema_set::Schemas,
    vector::{Before, Context, Input, Judged, LinkState, Reader, SchemaSays, Vector},
};
use quorate_identity::{
    Code, Did, DidKeyResolver, Digest, PublicKey, Rejection, ResolvedDid, Resolver, Statement,
    UnixTime, Unverified, Verified, base64url, json as strict,
};
use quorate_session::{
    Bundle, ContentDigest, Fingerprint, Frame, Invitation, LinkId, LinkKind, ManifestEntry,
    Outcome, PeerId, Pid, Record, RendezvousSecret, Session, Setup, Stored, Ticket,
    control::Request,
    lobby, manifest_digest,
    message::{
        Abort, Apply, Call, Cancel, Confirm, Hello, Join, Kem, Pass, Ready, Receipt, Whereabouts,
        verify_card,
    },
};
use serde_json::Value;
use ssi_dids_core::Document;
use std::{collections::BTreeMap, time::Instant};

/// What became of an input.
#[derive(Debug)]
pub enum Verdict {
    Taken,
    Refused(Rejection),
    /// The session ended with it.
    Ended(Code, String),
}

pub fn judge(vector: &Vector, context: &Context) -> Verdict {
    let judged = match vector.judged {
        Judged::Alone => alone(vector),
        Judged::Setup => open(vector, context).map(|_| ()),
        Judged::Session => return in_session(vector, context),
    };
    judged.map_or_else(Verdict::Refused, |()| Verdict::Taken)
}

/// What the schema says about the input.
pub fn schema_says(vector: &Vector, schemas: &Schemas) -> SchemaSays {
    let value = match vector.what.as_str() {
        what if !schemas.has(what) => None,
        "frame" | "lobby" | "record" | "control" => {
            strict::parse_strict(&vector.input.bytes()).ok()
        }
        what if crate::schema_set::TEXTS.contains(&what) => Some(Value::from(vector.input.text())),
        _ => payload(&vector.input.text()),
    };
    match value {
        None => SchemaSays::None,
        Some(value) if schemas.check(&vector.what, &value).is_ok() => SchemaSays::Accepts,
        Some(_) => SchemaSays::Refuses,
    }
}

/// The payload of a compact JWS, if it can be read.
pub fn payload(text: &str) -> Option<Value> {
    let middle = text.split('.').nth(1)?;
    strict::parse_strict(&base64url::decode(middle).ok()?).ok()
}

fn resolve(did: &Did, documents: &[Value]) -> Result<ResolvedDid, Rejection> {
    if let Some(answer) = DidKeyResolver.resolve(did) {
        return answer;
    }
    let document = documents
        .iter()
        .find(|document| document["id"] == did.as_str());
    let document = document.unwrap_or_else(|| panic!("no document of {did}"));
    ResolvedDid::from_document(did, &read_document(document))
}

fn read_document(value: &Value) -> Document {
    serde_json::from_value(value.clone()).unwrap()
}

fn statement<T: Statement>(vector: &Vector) -> Result<Verified<T>, Rejection> {
    let parsed = Unverified::<T>::parse(&vector.input.text())?;
    let keys = resolve(parsed.issuer(), &vector.documents)?;
    parsed.verify(&keys, UnixTime(vector.at))
}

fn alone(vector: &Vector) -> Result<(), Rejection> {
    let text = vector.input.text();
    match vector.what.as_str() {
        "invitation" => statement::<Invitation>(vector).map(drop),
        "hello" => statement::<Hello>(vector).map(drop),
        "join" => statement::<Join>(vector).map(drop),
        "confirm" => statement::<Confirm>(vector).map(drop),
        "kem" => statement::<Kem>(vector).map(drop),
        "pass" => statement::<Pass>(vector).map(drop),
        "ready" => statement::<Ready>(vector).map(drop),
        "whereabouts" => statement::<Whereabouts>(vector).map(drop),
        "abort" => statement::<Abort>(vector).map(drop),
        "cancel" => statement::<Cancel>(vector).map(drop),
        "receipt" => statement::<Receipt>(vector).map(drop),
        "call" => statement::<Call>(vector).map(drop),
        "card" => verify_card(&text, UnixTime(vector.at)).map(drop),
        "apply" => statement::<Apply>(vector).map(drop),
        "ticket" => text.parse::<Ticket>().map(drop),
        "record" => Record::parse(&vector.input.bytes())?.verify().map(drop),
        "lobby" => lobby::Frame::parse(&vector.input.bytes()).map(drop),
        "control" => Request::parse(&vector.input.bytes()).map(drop),
        "frame" => Frame::parse(&vector.input.bytes()).map(drop),
        "bundle" => Bundle::parse(&text).map(drop),
        "did" => text.parse::<Did>().map(drop),
        "peerId" => text.parse::<PeerId>()?.public_key().map(drop),
        "publicKey" => PublicKey::from_bytes(&vector.input.bytes()).map(drop),
        "digest" => text.parse::<Digest>().map(drop),
        "contentDigest" => text.parse::<ContentDigest>().map(drop),
        "dateTime" => UnixTime::from_rfc3339(&text).map(drop),
        "manifest" => manifest_digest(&manifest(&text)).map(drop),
        "stored" => Stored::parse(text.as_bytes()).map(drop),
        "document" => {
            let did = vector.did.as_ref().unwrap().parse()?;
            let document = serde_json::from_str(&text).unwrap();
            ResolvedDid::from_document(&did, &document).map(drop)
        }
        other => panic!("{}: nobody reads a {other} alone", vector.name),
    }
}

/// Rows of path, size and digest, read without any limit.
fn manifest(text: &str) -> Vec<ManifestEntry> {
    let rows: Vec<(String, u64, String)> = serde_json::from_str(text).unwrap();
    let entry = |(path, size, digest): (String, u64, String)| ManifestEntry {
        path,
        size,
        sha256: digest.parse().unwrap(),
    };
    rows.into_iter().map(entry).collect()
}

fn reader(vector: &Vector) -> Reader {
    vector.reader.clone().unwrap_or_default()
}

fn fingerprint(reader: &Reader, context: &Context) -> Fingerprint {
    let value = reader.fingerprint.as_ref().unwrap_or(&context.fingerprint);
    serde_json::from_value(value.clone()).unwrap()
}

fn seed_of(party: usize) -> u8 {
    0x10 + u8::try_from(party).unwrap()
}

/// Opens a bundle as a party does before it sends anything.
fn open(vector: &Vector, context: &Context) -> Result<Session, Rejection> {
    let bundle = Bundle::parse(&vector.input.text())?;
    let parsed = Unverified::<Invitation>::parse(&bundle.invitation)?;
    let keys = resolve(parsed.issuer(), &vector.documents)?;
    let reader = reader(vector);
    let at = UnixTime(vector.at);
    let invitation = parsed.verify(&keys, at)?;
    if let Some(source) = &bundle.program {
        source.check(&invitation.subject.program)?;
    }
    let setup = Setup {
        invitation,
        secret: bundle.secret,
        key: key(reader.party),
        fingerprint: fingerprint(&reader, context),
        stored: stored(&reader)?,
        seed: [seed_of(reader.party); 32],
    };
    Session::new(setup, at, Instant::now())
}

fn stored(reader: &Reader) -> Result<Option<Stored>, Rejection> {
    let bytes = reader.stored.as_ref().map(Value::to_string);
    bytes.map(|text| Stored::parse(text.as_bytes())).transpose()
}

/// A party that has joined, alone at its table.
pub struct Desk<'a> {
    pub table: Table,
    documents: &'a [Value],
    links: BTreeMap<usize, Outsider>,
}

impl<'a> Desk<'a> {
    pub fn sit_down(
        invitation: &Verified<Invitation>,
        reader: &Reader,
        fp: Fingerprint,
        documents: &'a [Value],
    ) -> Self {
        let stored = stored(reader).unwrap();
        let mut setup = setup(invitation, reader.party, stored, seed_of(reader.party));
        setup.fingerprint = fp;
        let mut table = Table::empty();
        table.seat(setup);
        table.seats[0].auto_resolve = false;
        table.join(0);
        let mut desk = Self {
            table,
            documents,
            links: BTreeMap::new(),
        };
        desk.resolve();
        desk
    }

    fn resolve(&mut self) {
        while let Some(did) = self.table.seats[0].seen.resolves.pop_front() {
            let answer = resolve(&did, self.documents);
            let (at, now) = (self.table.at, self.table.now);
            self.table.seats[0]
                .session
                .handle_resolved(&did, answer, at, now);
            self.table.drain(0);
        }
    }

    /// A proven link of an identity; made once.
    fn member(&mut self, from: usize) -> &Outsider {
        if !self.links.contains_key(&from) {
            let who = self.table.intrude_as_member(0, from, overlay_seed(from));
            self.links.insert(from, who);
            self.resolve();
        }
        &self.links[&from]
    }

    /// A statement over a proven link of `from`; the answers.
    pub fn statement(&mut self, from: usize, text: &str) -> Vec<Frame> {
        self.member(from);
        let who = &self.links[&from];
        let answers = self.table.say_statements(0, who, &[text]);
        self.resolve();
        answers
    }

    fn bytes(&mut self, who: &Outsider, bytes: &[u8]) {
        self.table.say_bytes(0, who, bytes);
        self.resolve();
    }

    fn link(&mut self, from: usize, state: LinkState, secret: &RendezvousSecret) -> Outsider {
        let fresh = |table: &mut Table| table.intrude(0, key(from), overlay_seed(from));
        match state {
            LinkState::New => fresh(&mut self.table),
            LinkState::Tagged => {
                let who = fresh(&mut self.table);
                self.table.hello(0, &who, secret);
                who
            }
            LinkState::Proven => {
                self.member(from);
                self.links.remove(&from).unwrap()
            }
            LinkState::Tunnel => self.tunnel(from),
        }
    }

    /// A control stream inside the tunnel of party `from`.
    fn tunnel(&mut self, from: usize) -> Outsider {
        let seat = &mut self.table.seats[0];
        let roster = seat
            .seen
            .mesh
            .as_ref()
            .expect("the mesh is installed")
            .roster;
        let link = LinkId((1 << 32) + from as u64);
        let pid = Pid(u16::try_from(from).unwrap());
        let kind = LinkKind::Tunnel { roster, pid };
        seat.session
            .handle_link_up(link, kind, self.table.at, self.table.now);
        self.table.drain(0);
        Outsider {
            link,
            peer: PeerId::of(&overlay_key(from).public()),
            key: key(from),
        }
    }

    fn rejections(&self) -> &[Rejection] {
        &self.table.seats[0].seen.rejections
    }
}

fn overlay_seed(from: usize) -> u8 {
    0x60 + u8::try_from(from).unwrap()
}

pub fn overlay_key(from: usize) -> quorate_identity::SigningKey {
    quorate_identity::SigningKey::from_seed(&[overlay_seed(from); 32])
}

pub fn verified_invitation(text: &str, at: i64, documents: &[Value]) -> Verified<Invitation> {
    let parsed = Unverified::<Invitation>::parse(text).unwrap();
    let keys = resolve(parsed.issuer(), documents).unwrap();
    parsed.verify(&keys, UnixTime(at)).unwrap()
}

fn in_session(vector: &Vector, context: &Context) -> Verdict {
    let reader = reader(vector);
    let text = reader.invitation.as_ref().unwrap_or(&context.invitation);
    let invitation = verified_invitation(text, context.at, &vector.documents);
    let fp = fingerprint(&reader, context);
    let mut desk = Desk::sit_down(&invitation, &reader, fp, &vector.documents);
    let name = &vector.name;
    for before in &vector.before {
        if let Before::Statement(text) = before {
            let text = context.statements.get(text).unwrap_or(text);
            desk.statement(issuer_of(text, &vector.documents), text);
            let refused = desk.rejections();
            assert!(refused.is_empty(), "{name}: {before:?}: {refused:?}");
        }
    }
    let secret = base64url::decode(&context.secret)
        .unwrap()
        .try_into()
        .unwrap();
    let link = vector.link.as_ref().unwrap();
    let who = desk.link(link.from, link.state, &RendezvousSecret::new(secret));
    for before in &vector.before {
        if let Before::Frames { frame, times } = before {
            let bytes = frame.bytes();
            (0..*times).for_each(|_| desk.bytes(&who, &bytes));
        }
    }
    let earlier = desk.rejections().len();
    desk.table.at = UnixTime(vector.at);
    desk.bytes(&who, &on_the_wire(&vector.what, &vector.input));
    let seen = &desk.table.seats[0].seen;
    assert!(seen.alarms.is_empty(), "{name}: {:?}", seen.alarms);
    if let Some(Outcome::Failed { code, detail, .. }) = &seen.outcome {
        return Verdict::Ended(*code, detail.clone());
    }
    match seen.rejections[earlier..].last() {
        Some(rejection) => Verdict::Refused(rejection.clone()),
        None => Verdict::Taken,
    }
}

/// Statements travel in frames.
fn on_the_wire(what: &str, input: &Input) -> Vec<u8> {
    if what == "frame" {
        return input.bytes();
    }
    let jws = vec![input.text()];
    Frame::Statements { jws }.encode()
}

/// The number of the identity that issued a statement.
fn issuer_of(text: &str, documents: &[Value]) -> usize {
    let iss = payload(text).unwrap()["iss"].as_str().unwrap().to_owned();
    let own = (0..10).find(|index| key(*index).did().as_str() == iss);
    let of_document = || documents.iter().position(|document| document["id"] == *iss);
    own.or_else(of_document).unwrap()
}
