//! What signing, verifying and key agreement cost, one call at a time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ed25519_dalek::Signer as _;
use quorate_bench::{
    Outcome,
    sample::{micros, time_of},
    table::{Cell, Table},
};
use quorate_identity::{
    B64, Code, DidKeyResolver, Digest, ResolvedDid, Resolver, SigningKey, Statement, UnixMillis,
    UnixTime, Unverified, Verified, sign,
};
use quorate_session::{
    ContentDigest, Fingerprint, InvitationDraft, PartyDraft, PeerId, Pid, RendezvousSecret, Roster,
    message::{
        Abort, Cancel, CodeText, Confirm, Hello, JOIN_KEM, Join, KemKey, Program, Ready, Receipt,
        ReceiptOutcome, SameController, Times, peer_signature_input,
    },
};
use x_wing::{Decapsulator as _, Encapsulate as _, KeyExport as _, TryDecapsulate as _};

/// Parties of the largest session.
const MANY: u16 = 64;

pub fn run() -> Outcome<Vec<Table>> {
    Ok(vec![statements()?, rosters()?, key_agreement()])
}

fn now() -> UnixTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    UnixTime(i64::try_from(since.unwrap_or_default().as_secs()).unwrap_or(0))
}

fn key(index: u16) -> SigningKey {
    let mut seed = [0x11; 32];
    seed[..2].copy_from_slice(&index.to_le_bytes());
    SigningKey::from_seed(&seed)
}

struct Costs {
    bytes: usize,
    sign: Duration,
    verify: Duration,
}

fn costs_of<T: Statement + Clone>(claims: &T, key: &SigningKey) -> Outcome<Costs> {
    let keys = resolve(key)?;
    let at = now();
    let text = sign(claims.clone(), key)?.text().to_string();
    Unverified::<T>::parse(&text)?.verify(&keys, at)?;
    Ok(Costs {
        bytes: text.len(),
        sign: time_of(|| sign(claims.clone(), key).is_ok()),
        verify: time_of(|| {
            let parsed = Unverified::<T>::parse(&text);
            parsed.is_ok_and(|parsed| parsed.verify(&keys, at).is_ok())
        }),
    })
}

fn resolve(key: &SigningKey) -> Outcome<ResolvedDid> {
    Ok(DidKeyResolver
        .resolve(&key.did())
        .ok_or("did:key resolves")??)
}

fn statements() -> Outcome<Table> {
    let mut table = Table::new(
        "Statements",
        &[
            "statement",
            "bytes",
            "sign µs",
            "verify µs",
            "sign ×",
            "verify ×",
        ],
    );
    let (me, iss) = (key(0), key(0).did());
    let (inv, roster, iat) = (Digest([1; 32]), Digest([2; 32]), now());
    let plain_key = ed25519_dalek::SigningKey::from_bytes(&[7; 32]);
    let message = [0x5a; 1024];
    let signature = plain_key.sign(&message);
    let plain_sign = time_of(|| plain_key.sign(&message));
    let plain_verify = time_of(|| {
        let key = plain_key.verifying_key();
        key.verify_strict(&message, &signature).is_ok()
    });
    table.row([
        "plain Ed25519 over 1,024 bytes".into(),
        Cell::Number(64.0, 0),
        Cell::Number(micros(plain_sign), 1),
        Cell::Number(micros(plain_verify), 1),
        Cell::Number(1.0, 2),
        Cell::Number(1.0, 2),
    ]);
    let mut add = |name: &str, costs: &Costs| {
        let ratio = |ours: Duration, plain: Duration| ours.as_secs_f64() / plain.as_secs_f64();
        table.row([
            name.into(),
            Cell::Number(f64::from(u32::try_from(costs.bytes).unwrap_or(u32::MAX)), 0),
            Cell::Number(micros(costs.sign), 1),
            Cell::Number(micros(costs.verify), 1),
            Cell::Number(ratio(costs.sign, plain_sign), 2),
            Cell::Number(ratio(costs.verify, plain_verify), 2),
        ]);
    };
    let peer = PeerId::of(&key(9).public());
    for parties in [3, 25] {
        let name = format!("invitation, {parties} parties");
        add(&name, &costs_of(&*invitation(parties)?, &me)?);
    }
    let hello = Hello {
        v: 1,
        iss: iss.clone(),
        sid: B64([3; 32]),
        inv,
        local: peer,
        remote: PeerId::of(&key(8).public()),
        iat,
        exp: iat.plus_seconds(60),
    };
    add("hello", &costs_of(&hello, &me)?);
    add("join", &costs_of(&*join(0)?, &me)?);
    for parties in [3, 25] {
        let confirm = Confirm {
            v: 1,
            iss: iss.clone(),
            inv,
            roster,
            epoch: UnixMillis(1),
            joins: vec![Digest([4; 32]); parties],
            iat,
        };
        let name = format!("confirm, {parties} parties");
        add(&name, &costs_of(&confirm, &me)?);
    }
    let kem = quorate_session::message::Kem {
        v: 1,
        iss: iss.clone(),
        inv,
        roster,
        to: Pid(1),
        ct: B64([5; 1120]),
        iat,
    };
    add("key share", &costs_of(&kem, &me)?);
    let ready = Ready {
        v: 1,
        iss: iss.clone(),
        inv,
        roster,
        iat,
    };
    add("ready", &costs_of(&ready, &me)?);
    let abort = Abort {
        v: 1,
        iss: iss.clone(),
        inv,
        roster: Some(roster),
        epoch: UnixMillis(1),
        code: CodeText(Code::PartyLeft),
        whom: Some(Pid(1)),
        note: "stopped by its user".into(),
        iat,
    };
    add("abort", &costs_of(&abort, &me)?);
    let cancel = Cancel {
        v: 1,
        iss: iss.clone(),
        inv,
        reason: "the data is not complete".into(),
        iat,
    };
    add("cancel", &costs_of(&cancel, &me)?);
    let receipt = Receipt {
        v: 1,
        iss,
        inv,
        roster,
        run: 1,
        outcome: ReceiptOutcome::Done,
        exit: Some(0),
        start: iat,
        end: iat,
        bytes: Some(19_000),
        iat,
    };
    add("receipt", &costs_of(&receipt, &me)?);
    Ok(table)
}

fn invitation(parties: u16) -> Outcome<Verified<quorate_session::Invitation>> {
    let at = now();
    let party = |index| PartyDraft {
        did: key(index).did(),
        name: format!("party-{index}"),
        keys: vec![key(index).public().thumbprint()],
    };
    let until = at.plus_seconds(600);
    let draft = InvitationDraft {
        issuer: key(0).did(),
        title: "benchmark".into(),
        purpose: String::new(),
        supersedes: None,
        parties: (0..parties).map(party).collect(),
        threshold: None,
        zero_threshold: false,
        prss: None,
        program: Program {
            manifest: ContentDigest::of(b"program"),
            entry: "main.py".into(),
            args: vec!["8".into()],
            env: None,
        },
        engine: quorate_session::message::Engine::Mpyc,
        mpyc: "0.11".into(),
        python: "3.10".into(),
        word: 64,
        port: 11_365,
        valid_from: at,
        valid_until: until,
        time: Times {
            join_by: until,
            start_by: until,
            end_by: until,
        },
        relays: Vec::new(),
        path: quorate_session::message::PathPolicy::Any,
        same_controller: SameController::Refuse,
        rejoin: 3,
    };
    let secret = RendezvousSecret::new([6; 32]);
    Ok(sign(draft.build([7; 16], [8; 32], &secret)?, &key(0))?)
}

fn join(index: u16) -> Outcome<Verified<Join>> {
    let (me, iat, epoch) = (key(index), now(), UnixMillis(1_795_000_000_000));
    let (inv, overlay) = (Digest([1; 32]), key(index + 1000));
    let mut seed = [9; 32];
    seed[..2].copy_from_slice(&index.to_le_bytes());
    let wg = x25519_dalek::PublicKey::from(&x25519_dalek::StaticSecret::from(seed));
    let wg = B64(wg.to_bytes());
    let kem = x_wing::DecapsulationKeyRejectNonContrib::from(seed);
    let join = Join {
        v: 1,
        iss: me.did(),
        inv,
        pid: Pid(index),
        epoch,
        n: B64([2; 16]),
        wg,
        kem: Some(KemKey {
            alg: JOIN_KEM.into(),
            ek: B64(kem.encapsulation_key().to_bytes().0),
        }),
        peer: PeerId::of(&overlay.public()),
        peer_sig: B64(overlay.sign_bytes(&peer_signature_input(&inv, &me.did(), epoch, &wg))),
        fp: Fingerprint {
            quorate: "0.1.0".into(),
            mpyc: "0.11".into(),
            python: "3.12.7".into(),
            word: 64,
            program: ContentDigest::of(b"program"),
            env: None,
        },
        iat,
        exp: iat.plus_seconds(600),
    };
    Ok(sign(join, &me)?)
}

fn rosters() -> Outcome<Table> {
    let mut table = Table::new(
        "Roster of verified joins",
        &["parties", "build and hash µs"],
    );
    let joins = (0..MANY).map(join).collect::<Outcome<Vec<_>>>()?;
    for parties in [3, 5, 10, 25, usize::from(MANY)] {
        let joins: Vec<_> = joins.iter().take(parties).collect();
        Roster::build(&Digest([1; 32]), &joins)?;
        let time = time_of(|| Roster::build(&Digest([1; 32]), &joins).is_ok());
        let parties = u32::try_from(parties).unwrap_or(0);
        table.row([
            Cell::Number(parties.into(), 0),
            Cell::Number(micros(time), 1),
        ]);
    }
    Ok(table)
}

fn key_agreement() -> Table {
    let mut table = Table::new("Key agreement of one pair", &["step", "µs", "× X25519"]);
    let mut rng = Generator(0x5eed);
    let secret = x25519_dalek::StaticSecret::from([3; 32]);
    let other = x25519_dalek::PublicKey::from(&x25519_dalek::StaticSecret::from([4; 32]));
    let plain = time_of(|| secret.diffie_hellman(&other));
    let mut add = |name: &str, time: Duration| {
        let ratio = time.as_secs_f64() / plain.as_secs_f64();
        table.row([
            name.into(),
            Cell::Number(micros(time), 1),
            Cell::Number(ratio, 2),
        ]);
    };
    add("plain X25519", plain);
    let key = x_wing::DecapsulationKeyRejectNonContrib::from([5; 32]);
    add(
        "X-Wing: make the keys",
        time_of(|| {
            let key = x_wing::DecapsulationKeyRejectNonContrib::from([5; 32]);
            key.encapsulation_key().to_bytes()
        }),
    );
    let public = key.encapsulation_key().to_bytes();
    let (ct, _) = key.encapsulation_key().encapsulate_with_rng(&mut rng);
    add(
        "X-Wing: check the key and encapsulate",
        time_of(|| {
            let key = x_wing::EncapsulationKey::try_from(public.0.as_slice());
            key.map(|key| key.encapsulate_with_rng(&mut rng)).is_ok()
        }),
    );
    add(
        "X-Wing: decapsulate",
        time_of(|| key.try_decapsulate(&ct).is_ok()),
    );
    table
}

/// Numbers for timings: nothing made with them is used.
struct Generator(u64);

impl rand_core::TryRng for Generator {
    type Error = std::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        Ok((self.try_next_u64()? >> 32) as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        Ok(self.0)
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Self::Error> {
        for chunk in bytes.chunks_mut(8) {
            let word = self.try_next_u64()?.to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
        Ok(())
    }
}

impl rand_core::TryCryptoRng for Generator {}
