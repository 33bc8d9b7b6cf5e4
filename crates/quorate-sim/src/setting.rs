//! The setting all runs share: keys, secret, invitation.

use quorate_identity::{
    B64, Code, Did, DidKeyResolver, Digest, Rejection, ResolvedDid, Resolver, SigningKey, UnixTime,
    Verified, sign,
};
use quorate_session::{
    ContentDigest, Fingerprint, Invitation, InvitationDraft, PartyDraft, RendezvousSecret,
    message::{Program, SameController, Times},
};

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

/// Wall time at which a run begins.
pub const START: i64 = 1_795_348_800;
/// Seconds until all must have joined.
pub const JOIN_SECONDS: i64 = 90;
/// Seconds until all must have started.
pub const START_SECONDS: i64 = 140;
/// Seconds until all must have ended.
pub const END_SECONDS: i64 = 220;
/// Session id of both invitations.
pub const SID: B64<32> = B64([0x51; 32]);

/// The key of a party.
pub fn party_key(pid: u16) -> SigningKey {
    SigningKey::from_seed(&[u8::try_from(pid).unwrap_or(0xff) ^ 0xa0; 32])
}

/// The key of somebody who is not listed.
pub fn outsider_key() -> SigningKey {
    SigningKey::from_seed(&[0xee; 32])
}

/// The rendezvous secret.
pub fn secret() -> RendezvousSecret {
    RendezvousSecret::new([0x5e; 32])
}

/// What every party would run.
pub fn fingerprint() -> Fingerprint {
    Fingerprint {
        quorate: "0.1.0".into(),
        mpyc: "0.11".into(),
        python: "3.12".into(),
        word: 64,
        program: ContentDigest::of(b"program"),
        env: None,
    }
}

/// The invitation, or the other one that a lying organizer signs.
fn invitation(parties: u16, other: bool) -> Verified<Invitation> {
    let at = UnixTime(START - 60);
    let party = |pid| {
        let key = party_key(pid);
        PartyDraft {
            did: key.did(),
            name: format!("party-{pid}"),
            keys: vec![key.public().thumbprint()],
        }
    };
    let after = |seconds| UnixTime(START + seconds);
    let draft = InvitationDraft {
        issuer: party_key(0).did(),
        title: if other { "Other" } else { "Simulated" }.into(),
        purpose: String::new(),
        supersedes: None,
        parties: (0..parties).map(party).collect(),
        threshold: None,
        zero_threshold: false,
        prss: None,
        program: Program {
            manifest: ContentDigest::of(b"program"),
            entry: "main.py".into(),
            args: Vec::new(),
            env: None,
        },
        engine: quorate_session::message::Engine::Mpyc,
        mpyc: String::new(),
        python: "3.9".into(),
        word: 64,
        port: 11365,
        valid_from: at,
        valid_until: at.plus_seconds(3600),
        time: Times {
            join_by: after(JOIN_SECONDS),
            start_by: after(START_SECONDS),
            end_by: after(END_SECONDS),
        },
        relays: Vec::new(),
        path: quorate_session::message::PathPolicy::Any,
        same_controller: SameController::Refuse,
        rejoin: 3,
    };
    let built = draft
        .build([7; 16], SID.0, &secret())
        .expect("the setting is within all limits");
    sign(built, &party_key(0)).expect("party 0 is the organizer")
}

/// The same invitation, signed once per process: thousands of runs share it.
pub fn invitation_of(parties: u16, other: bool) -> Verified<Invitation> {
    static SIGNED: Mutex<BTreeMap<(u16, bool), Verified<Invitation>>> = Mutex::new(BTreeMap::new());
    let mut signed = SIGNED.lock().unwrap_or_else(PoisonError::into_inner);
    signed
        .entry((parties, other))
        .or_insert_with(|| invitation(parties, other))
        .clone()
}

/// The keys of a DID, resolved once per process.
pub fn resolve(did: &Did) -> Result<ResolvedDid, Rejection> {
    static RESOLVED: Mutex<BTreeMap<Did, ResolvedDid>> = Mutex::new(BTreeMap::new());
    let mut resolved = RESOLVED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = resolved.get(did) {
        return Ok(known.clone());
    }
    let unknown = || Rejection::new(Code::DidResolve, "D1", "the world knows did:key only");
    let answer = DidKeyResolver.resolve(did).ok_or_else(unknown)??;
    resolved.insert(did.clone(), answer.clone());
    Ok(answer)
}

/// A digest that differs for every number.
pub fn numbered(n: u64) -> Digest {
    Digest::of("quorate-sim/number", &n.to_be_bytes())
}
