//! Invitation: the subject of the signed proposal that a session runs under, and the draft it is built from.
//!
//! ```text
//! InvitationDraft ─ build(uuid, sid, secret) ─► Invitation ─ sign ─► JWS ─ Bundle ─► the parties
//! ```
//!
//! Limits: every list and text is capped in `limits`; they are checked on building, on signing and on parsing, so a party
//! never holds an invitation outside of them. Security: what is not in here is not agreed. The parties approve the digest
//! of the signed invitation; a changed invitation is another session.
//!
//! Source: VC Data Model 2.0 (the envelope, in `quorate-identity`); protocol section 3.

use super::{Engine, check_text, check_version};
use crate::{
    bundle::RendezvousSecret,
    limits::{
        MAX_ADDRESS_BYTES, MAX_ARG_BYTES, MAX_ARGS, MAX_NAME_CHARS, MAX_PARTIES, MAX_PINNED_KEYS,
        MAX_PRSS_KEYS, MAX_PURPOSE_CHARS, MAX_REJOIN, MAX_RENDEZVOUS_ADDRESSES, MAX_TITLE_CHARS,
        MAX_VALIDITY_SECONDS, MAX_VERSION_BYTES, MIN_PARTIES, MIN_PORT, MTU_RANGE,
    },
    manifest::{ContentDigest, check_path},
};
use quorate_identity::{B64, Code, Credential, Did, Digest, Rejection, Subject, UnixTime};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// A signed proposal to compute together.
pub type Invitation = Credential<InvitationSubject>;

/// What is proposed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InvitationSubject {
    /// Protocol version.
    pub v: u8,
    /// Session id: random, shared by all honest copies.
    pub sid: B64<32>,
    /// Title, for people.
    pub title: String,
    /// Purpose, for people.
    pub purpose: String,
    /// Digest of the invitation that this one replaces.
    pub supersedes: Option<Digest>,
    /// The parties; the position is the index in the computation.
    pub parties: Vec<InvitedParty>,
    /// The computation's parameters.
    pub mpc: Mpc,
    /// The program.
    pub program: Program,
    /// The network inside the tunnel.
    pub net: Net,
    /// Deadlines.
    pub time: Times,
    /// Where parties look for each other.
    pub rendezvous: Rendezvous,
    /// What is allowed.
    pub policy: Policy,
}

/// A listed party.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InvitedParty {
    /// Its DID.
    pub did: Did,
    /// Its name as the organizer gives it; says nothing about who it is.
    pub name: String,
    /// What it does, such as `input,output`.
    pub role: String,
    /// RFC 7638 thumbprints of its verification keys as the organizer saw them.
    pub keys: Vec<Digest>,
}

/// Parameters of the computation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Mpc {
    /// `mpyc` or `exec`.
    pub engine: String,
    /// Version every party must have; empty if only equality between the parties counts.
    pub version: String,
    /// Number of parties.
    pub m: u16,
    /// Threshold: so many parties together learn nothing.
    pub t: u16,
    /// Whether pseudorandom secret sharing is on.
    pub prss: bool,
    /// Bit length of secure integers (`-L`), if not the program's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bit_length: Option<u16>,
    /// Security parameter (`-K`), if not the program's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sec_param: Option<u16>,
    /// Word size in bits.
    pub word: u8,
    /// Oldest Python the organizer tried; informative.
    pub python: String,
}

/// The program, by digest: it is never fetched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Program {
    /// Digest of the manifest of its files.
    pub manifest: ContentDigest,
    /// The file to start.
    pub entry: String,
    /// Public arguments, the same for all.
    pub args: Vec<String>,
    /// Digest of a lock file that every environment must match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<ContentDigest>,
}

/// The network inside the tunnel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Net {
    /// MPC port; the control port is one below.
    pub port: u16,
    /// MTU of the tunnel.
    pub mtu: u16,
    /// Which paths are allowed.
    pub path: PathPolicy,
}

/// Which paths between parties are allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PathPolicy {
    /// Direct if possible, else relayed.
    Any,
    /// Direct only.
    Direct,
    /// Relayed only.
    Relay,
}

/// Deadlines, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Times {
    /// All must have joined.
    pub join_by: UnixTime,
    /// All programs must run.
    pub start_by: UnixTime,
    /// All programs must have ended.
    pub end_by: UnixTime,
}

/// Where parties look for each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rendezvous {
    /// Protocol name of the DHT.
    pub dht: String,
    /// Addresses of bootstrap nodes.
    pub bootstrap: Vec<String>,
    /// Addresses of relays.
    pub relays: Vec<String>,
    /// Commitment to the rendezvous secret.
    pub sc: Digest,
}

/// What is allowed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Policy {
    /// Post-quantum key agreement.
    pub pq: PostQuantum,
    /// The parties knowingly compute without protection from each other (t = 0).
    pub zero_threshold: bool,
    /// Several parties under one controller.
    pub same_controller: SameController,
    /// Times each party may join again.
    pub rejoin: u8,
    /// Whose receipts belong to a complete record.
    pub receipt: ReceiptPolicy,
}

/// Post-quantum key agreement: there is no other choice in this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PostQuantum {
    /// Every pair uses the hybrid KEM.
    Required,
}

/// Whether one controller may stand behind more than `t` parties.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SameController {
    /// No: `E_CONTROLLER`.
    Refuse,
    /// Yes, and everybody approved it with the invitation.
    Allow,
}

/// Whose receipts belong to a complete record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReceiptPolicy {
    /// Everybody's.
    All,
}

/// The largest threshold below half of `m`: `(m - 1) / 2`.
pub fn default_threshold(m: u16) -> u16 {
    m.saturating_sub(1) / 2
}

impl InvitationSubject {
    /// The position of `did`, if it is listed.
    pub fn pid_of(&self, did: &Did) -> Option<super::Pid> {
        let index = self.parties.iter().position(|party| party.did == *did)?;
        u16::try_from(index).ok().map(super::Pid)
    }

    /// The MPC control port inside the tunnel.
    pub fn control_port(&self) -> u16 {
        self.net.port.saturating_sub(1)
    }

    fn check_parties(&self) -> Result<(), Rejection> {
        let m = self.parties.len();
        if !(MIN_PARTIES..=MAX_PARTIES).contains(&m) {
            return Err(limit(format!(
                "{m} parties; {MIN_PARTIES} to {MAX_PARTIES} are possible"
            )));
        }
        if m != usize::from(self.mpc.m) {
            return Err(Rejection::new(
                Code::Format,
                "S3",
                "m is not the number of listed parties",
            ));
        }
        let mut dids = BTreeSet::new();
        for party in &self.parties {
            check_text("a party's name", &party.name, MAX_NAME_CHARS)?;
            check_text("a party's role", &party.role, MAX_NAME_CHARS)?;
            if party.keys.is_empty() || party.keys.len() > MAX_PINNED_KEYS {
                return Err(limit(format!(
                    "{} pins 1 to {MAX_PINNED_KEYS} keys",
                    party.did
                )));
            }
            if !dids.insert(&party.did) {
                return Err(Rejection::new(
                    Code::Format,
                    "S3",
                    format!("{} is listed twice", party.did),
                ));
            }
        }
        Ok(())
    }
}

/// The computation's parameters, of an invitation or a call.
pub(super) fn check_mpc(mpc: &Mpc, policy: &Policy) -> Result<(), Rejection> {
    mpc.check_engine()?;
    let Mpc {
        engine: _,
        version,
        m,
        t,
        prss,
        bit_length,
        sec_param,
        word,
        python,
    } = mpc;
    if version.len() > MAX_VERSION_BYTES || python.len() > MAX_VERSION_BYTES {
        return Err(limit("a version is too long".into()));
    }
    check_text(
        "a version",
        &format!("{version}{python}"),
        2 * MAX_VERSION_BYTES,
    )?;
    check_threshold(*m, *t, policy.zero_threshold)?;
    if *prss && prss_keys(*m, *t) > MAX_PRSS_KEYS {
        return Err(limit(format!(
            "{m} parties with threshold {t} need too many keys; switch PRSS off"
        )));
    }
    let in_range = |value: &Option<u16>| value.is_none_or(|value| (1..=4096).contains(&value));
    if !in_range(bit_length) || !in_range(sec_param) || ![32, 64].contains(word) {
        return Err(limit(
            "bit length, security parameter or word size is out of range".into(),
        ));
    }
    Ok(())
}

/// The program, of an invitation or a call.
pub(super) fn check_program(program: &Program) -> Result<(), Rejection> {
    check_path(&program.entry)?;
    let args = &program.args;
    if args.len() > MAX_ARGS || args.iter().any(|arg| arg.len() > MAX_ARG_BYTES) {
        return Err(limit(format!(
            "more than {MAX_ARGS} arguments, or one above {MAX_ARG_BYTES} bytes"
        )));
    }
    args.iter()
        .try_for_each(|arg| check_text("an argument", arg, MAX_ARG_BYTES))
}

/// The network inside the tunnel and what is allowed, of an invitation or a call.
pub(super) fn check_net_and_policy(net: &Net, policy: &Policy) -> Result<(), Rejection> {
    if net.port <= MIN_PORT || !MTU_RANGE.contains(&net.mtu) {
        return Err(limit("port or MTU is out of range".into()));
    }
    if policy.rejoin > MAX_REJOIN {
        return Err(limit(format!(
            "a party may join again {MAX_REJOIN} times at most"
        )));
    }
    Ok(())
}

impl InvitationSubject {
    fn check_rendezvous(&self) -> Result<(), Rejection> {
        let Rendezvous {
            dht,
            bootstrap,
            relays,
            ..
        } = &self.rendezvous;
        let too_many = |list: &[String]| {
            list.len() > MAX_RENDEZVOUS_ADDRESSES
                || list.iter().any(|text| text.len() > MAX_ADDRESS_BYTES)
        };
        if dht.len() > MAX_ADDRESS_BYTES || too_many(bootstrap) || too_many(relays) {
            return Err(limit("too many or too long rendezvous addresses".into()));
        }
        bootstrap
            .iter()
            .chain(relays)
            .chain([dht])
            .try_for_each(|text| check_text("an address", text, MAX_ADDRESS_BYTES))
    }
}

impl Times {
    pub(super) fn check(&self) -> Result<(), Rejection> {
        let Self {
            join_by,
            start_by,
            end_by,
        } = *self;
        if join_by.0 < 0 || join_by > start_by || start_by > end_by {
            return Err(Rejection::new(
                Code::Time,
                "S3",
                "deadlines are not in the order join, start, end",
            ));
        }
        Ok(())
    }
}

impl Subject for InvitationSubject {
    const TYPE: &'static str = "QuorateInvitation";

    fn check(&self) -> Result<(), Rejection> {
        check_version(self.v)?;
        check_text("the title", &self.title, MAX_TITLE_CHARS)?;
        check_text("the purpose", &self.purpose, MAX_PURPOSE_CHARS)?;
        self.check_parties()?;
        check_mpc(&self.mpc, &self.policy)?;
        check_program(&self.program)?;
        check_net_and_policy(&self.net, &self.policy)?;
        self.check_rendezvous()?;
        self.time.check()
    }
}

/// What the subject alone cannot check, because the envelope holds it.
pub(crate) fn check_envelope(invitation: &Invitation) -> Result<(), Rejection> {
    let lifetime = invitation
        .valid_until
        .0
        .saturating_sub(invitation.valid_from.0);
    if lifetime > MAX_VALIDITY_SECONDS {
        return Err(limit("the invitation is valid for more than 7 days".into()));
    }
    if invitation.subject.time.end_by > invitation.valid_until {
        return Err(Rejection::new(
            Code::Time,
            "S3",
            "the session would end after the invitation expires",
        ));
    }
    Ok(())
}

fn limit(text: String) -> Rejection {
    Rejection::new(Code::Limit, "S3", text)
}

fn check_threshold(m: u16, t: u16, zero_allowed: bool) -> Result<(), Rejection> {
    if (t == 0 && zero_allowed) || (t > 0 && 2 * u32::from(t) < u32::from(m)) {
        return Ok(());
    }
    let text = if m <= 2 {
        "two parties cannot hide inputs from each other: each share is the secret; at least three are needed".to_owned()
    } else {
        format!(
            "threshold {t} of {m} parties; 1 to {} protect the inputs",
            default_threshold(m)
        )
    };
    Err(Rejection::new(Code::Threshold, "S3", text))
}

/// C(m, t), saturating: the number of keys pseudorandom secret sharing needs.
fn prss_keys(m: u16, t: u16) -> u64 {
    (0..u64::from(t)).fold(1_u64, |keys, k| {
        keys.saturating_mul(u64::from(m) - k) / (k + 1)
    })
}

/// A party as the organizer names it.
#[derive(Clone, Debug)]
pub struct PartyDraft {
    /// Its DID.
    pub did: Did,
    /// Its name.
    pub name: String,
    /// Thumbprints of its verification keys.
    pub keys: Vec<Digest>,
}

/// Everything an organizer decides; [`InvitationDraft::build`] makes the invitation of it.
#[derive(Clone, Debug)]
pub struct InvitationDraft {
    /// Who issues it.
    pub issuer: Did,
    /// Title.
    pub title: String,
    /// Purpose.
    pub purpose: String,
    /// Digest of the invitation it replaces.
    pub supersedes: Option<Digest>,
    /// The parties, in the order of the computation.
    pub parties: Vec<PartyDraft>,
    /// Threshold; [`default_threshold`] if not given.
    pub threshold: Option<u16>,
    /// Everybody knows that the inputs are not protected (t = 0).
    pub zero_threshold: bool,
    /// Pseudorandom secret sharing; by default on while it needs few enough keys.
    pub prss: Option<bool>,
    /// The program.
    pub program: Program,
    /// What runs it.
    pub engine: Engine,
    /// MPyC version; empty to only require equality.
    pub mpyc: String,
    /// Oldest Python tried; informative.
    pub python: String,
    /// Word size in bits.
    pub word: u8,
    /// MPC port inside the tunnel.
    pub port: u16,
    /// Valid from.
    pub valid_from: UnixTime,
    /// Valid until.
    pub valid_until: UnixTime,
    /// Deadlines.
    pub time: Times,
    /// Relay addresses.
    pub relays: Vec<String>,
    /// Which paths between parties are allowed.
    pub path: PathPolicy,
    /// Several parties under one controller.
    pub same_controller: SameController,
    /// Times each party may join again.
    pub rejoin: u8,
}

/// What a draft says that a call says too.
pub(super) struct Terms {
    pub mpc: Mpc,
    pub net: Net,
    pub policy: Policy,
}

impl InvitationDraft {
    /// The terms for `m` parties.
    pub(super) fn terms(&self, m: u16) -> Result<Terms, Rejection> {
        if usize::from(m) > MAX_PARTIES {
            return Err(limit(format!("{m} parties; {MAX_PARTIES} are possible")));
        }
        let t = self.threshold.unwrap_or_else(|| default_threshold(m));
        check_threshold(m, t, self.zero_threshold)?;
        let prss = self
            .prss
            .unwrap_or_else(|| self.engine == Engine::Mpyc && prss_keys(m, t) <= MAX_PRSS_KEYS);
        Ok(Terms {
            mpc: Mpc {
                engine: self.engine.as_str().into(),
                version: self.mpyc.clone(),
                m,
                t,
                prss,
                bit_length: None,
                sec_param: None,
                word: self.word,
                python: self.python.clone(),
            },
            net: Net {
                port: self.port,
                mtu: *MTU_RANGE.start(),
                path: self.path,
            },
            policy: Policy {
                pq: PostQuantum::Required,
                zero_threshold: self.zero_threshold,
                same_controller: self.same_controller,
                rejoin: self.rejoin,
                receipt: ReceiptPolicy::All,
            },
        })
    }

    /// The invitation, ready to be signed. `uuid` and `sid` are random bytes, `secret` the rendezvous secret that the
    /// bundle will carry.
    pub fn build(
        self,
        uuid: [u8; 16],
        sid: [u8; 32],
        secret: &RendezvousSecret,
    ) -> Result<Invitation, Rejection> {
        let m = u16::try_from(self.parties.len()).map_err(|_| limit("too many parties".into()))?;
        let Terms { mpc, net, policy } = self.terms(m)?;
        let parties = self.parties.into_iter().map(|party| InvitedParty {
            did: party.did,
            name: party.name,
            role: "input,output".into(),
            keys: party.keys,
        });
        let invitation = Invitation {
            id: uuid_urn(uuid),
            issuer: self.issuer,
            valid_from: self.valid_from,
            valid_until: self.valid_until,
            subject: InvitationSubject {
                v: super::PROTOCOL_VERSION,
                sid: B64(sid),
                title: self.title,
                purpose: self.purpose,
                supersedes: self.supersedes,
                parties: parties.collect(),
                mpc,
                program: self.program,
                net,
                time: self.time,
                rendezvous: Rendezvous {
                    dht: "/quorate/kad/1".into(),
                    bootstrap: Vec::new(),
                    relays: self.relays,
                    sc: secret.commitment(),
                },
                policy,
            },
        };
        invitation.subject.check()?;
        check_envelope(&invitation)?;
        Ok(invitation)
    }
}

/// A version 4 UUID (RFC 9562) as URN.
pub(super) fn uuid_urn(mut bytes: [u8; 16]) -> String {
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = bytes
        .iter()
        .fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
    format!(
        "urn:uuid:{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prss_keys_are_binomials_and_saturate() {
        assert_eq!(prss_keys(5, 2), 10);
        assert_eq!(prss_keys(3, 1), 3);
        assert_eq!(prss_keys(16, 7), 11_440);
        assert!(prss_keys(64, 31) > MAX_PRSS_KEYS);
    }

    #[test]
    fn a26_thresholds_that_protect_nothing_are_refused() {
        for (m, t) in [(3, 0), (3, 2), (4, 2), (5, 3), (2, 0), (2, 1), (64, 32)] {
            let refusal = check_threshold(m, t, false).expect_err("not protective");
            assert_eq!(refusal.code, Code::Threshold, "{m} {t}");
        }
        for (m, t) in [(3, 1), (4, 1), (5, 2), (64, 31)] {
            assert!(check_threshold(m, t, false).is_ok(), "{m} {t}");
        }
        assert!(check_threshold(2, 0, true).is_ok());
    }

    #[test]
    fn uuid_has_version_and_variant() {
        assert_eq!(
            uuid_urn([0xff; 16]),
            "urn:uuid:ffffffff-ffff-4fff-bfff-ffffffffffff"
        );
    }
}
