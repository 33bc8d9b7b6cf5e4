//! Call: a signed open invitation with free seats.
//!
//! ```text
//! CallDraft ─ build(uuid) ─► Call ─ sign ─► ticket, lobby ─► applications ─ admitted ─┐
//!                              └─ close(parties, …) ─► Invitation with supersedes = D_call ◄┘   approved and signed by all
//! ```
//! A call has the terms of the invitation that will replace it, and no parties. A session only ever runs from a closed
//! invitation: [`check_closed`] is what an applicant holds the invitation against before a person is asked again.
//!
//! Limits: those of the invitation. Security. Provides: the PeerId that serves the call is signed by the inviter's DID, so
//! that nobody can put a call of another into its own lobby. Does not provide: secrecy. Whoever holds the ticket can read
//! the call.
//!
//! Source: VC Data Model 2.0 (the envelope, in `quorate-identity`).

use super::{
    InvitationDraft, InvitationSubject, InvitedParty, Mpc, Net, PROTOCOL_VERSION, PartyDraft,
    Policy, Program, Rendezvous, Times, check_text, check_version,
    invitation::{
        Invitation, Terms, check_envelope, check_mpc, check_net_and_policy, check_program, uuid_urn,
    },
};
use crate::{
    bundle::RendezvousSecret,
    limits::{
        MAX_NAME_CHARS, MAX_PARTIES, MAX_PURPOSE_CHARS, MAX_TITLE_CHARS, MAX_VALIDITY_SECONDS,
        MIN_PARTIES,
    },
    peer_id::PeerId,
};
use quorate_identity::{
    B64, Code, Credential, Did, Rejection, Statement, Subject, UnixTime, Verified,
};
use serde::{Deserialize, Serialize};

/// A signed open invitation.
pub type Call = Credential<CallSubject>;

/// What is proposed, to whoever holds the ticket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CallSubject {
    /// Protocol version.
    pub v: u8,
    /// Title, for people.
    pub title: String,
    /// Purpose, for people.
    pub purpose: String,
    /// What the inviter calls itself.
    pub name: String,
    /// Whether the inviter is one of the parties.
    pub party: bool,
    /// PeerId of the inviter's lobby.
    pub peer: PeerId,
    /// The computation's parameters; `m` is the number of seats, that of the inviter included.
    pub mpc: Mpc,
    /// The program.
    pub program: Program,
    /// The network inside the tunnel.
    pub net: Net,
    /// Deadlines.
    pub time: CallTimes,
    /// What is allowed.
    pub policy: Policy,
}

/// Deadlines of a call, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct CallTimes {
    /// The seats are filled by then.
    pub apply_by: UnixTime,
    /// All have joined by then.
    pub join_by: UnixTime,
    /// All programs run by then.
    pub start_by: UnixTime,
    /// All programs have ended by then.
    pub end_by: UnixTime,
}

impl CallTimes {
    /// The deadlines of the session itself.
    pub fn session(&self) -> Times {
        Times {
            join_by: self.join_by,
            start_by: self.start_by,
            end_by: self.end_by,
        }
    }
}

impl CallSubject {
    /// Parties in all.
    pub fn seats(&self) -> usize {
        usize::from(self.mpc.m)
    }

    /// Seats for others than the inviter.
    pub fn free_seats(&self) -> usize {
        self.seats().saturating_sub(usize::from(self.party))
    }
}

impl Subject for CallSubject {
    const TYPE: &'static str = "QuorateCall";

    fn check(&self) -> Result<(), Rejection> {
        check_version(self.v)?;
        check_text("the title", &self.title, MAX_TITLE_CHARS)?;
        check_text("the purpose", &self.purpose, MAX_PURPOSE_CHARS)?;
        check_text("the inviter's name", &self.name, MAX_NAME_CHARS)?;
        if !(MIN_PARTIES..=MAX_PARTIES).contains(&self.seats()) {
            let text = format!(
                "{} seats; {MIN_PARTIES} to {MAX_PARTIES} are possible",
                self.seats()
            );
            return Err(Rejection::new(Code::Limit, "F2", text));
        }
        check_mpc(&self.mpc, &self.policy)?;
        check_program(&self.program)?;
        check_net_and_policy(&self.net, &self.policy)?;
        self.time.session().check()?;
        if self.time.apply_by.0 < 0 || self.time.apply_by > self.time.join_by {
            let text = "deadlines are not in the order apply, join, start, end";
            return Err(Rejection::new(Code::Time, "F2", text));
        }
        Ok(())
    }
}

/// What the subject alone cannot check, because the envelope holds it.
pub(crate) fn check_call_envelope(call: &Call) -> Result<(), Rejection> {
    if call.valid_until.0.saturating_sub(call.valid_from.0) > MAX_VALIDITY_SECONDS {
        let text = "the call is valid for more than 7 days";
        return Err(Rejection::new(Code::Limit, "F2", text));
    }
    if call.subject.time.end_by > call.valid_until {
        let text = "the session would end after the call expires";
        return Err(Rejection::new(Code::Time, "F2", text));
    }
    Ok(())
}

/// Everything an inviter decides; [`CallDraft::build`] makes the call of it.
#[derive(Clone, Debug)]
pub struct CallDraft {
    /// The terms, as for an invitation; `parties` is empty, or has the inviter alone if it takes part.
    pub terms: InvitationDraft,
    /// Parties in all.
    pub seats: u16,
    /// What the inviter calls itself.
    pub name: String,
    /// PeerId of the lobby.
    pub peer: PeerId,
    /// When the seats must be filled; at most `terms.time.join_by`.
    pub apply_by: UnixTime,
}

impl CallDraft {
    /// The call, ready to be signed. `uuid` is random.
    pub fn build(self, uuid: [u8; 16]) -> Result<Call, Rejection> {
        let Terms { mpc, net, policy } = self.terms.terms(self.seats)?;
        let draft = self.terms;
        let party = match draft.parties.as_slice() {
            [] => false,
            [one] if one.did == draft.issuer => true,
            _ => {
                let text = "a call lists no party but the inviter";
                return Err(Rejection::new(Code::Format, "F2", text));
            }
        };
        let call = Call {
            id: uuid_urn(uuid),
            issuer: draft.issuer,
            valid_from: draft.valid_from,
            valid_until: draft.valid_until,
            subject: CallSubject {
                v: PROTOCOL_VERSION,
                title: draft.title,
                purpose: draft.purpose,
                name: self.name,
                party,
                peer: self.peer,
                mpc,
                program: draft.program,
                net,
                time: CallTimes {
                    apply_by: self.apply_by,
                    join_by: draft.time.join_by,
                    start_by: draft.time.start_by,
                    end_by: draft.time.end_by,
                },
                policy,
            },
        };
        call.check()?;
        check_call_envelope(&call)?;
        Ok(call)
    }
}

/// The closed invitation of a call: its terms, for exactly these parties. `uuid` and `sid` are random bytes, `secret` the
/// rendezvous secret of the bundle. To be signed by the inviter.
pub fn close(
    call: &Verified<Call>,
    parties: Vec<PartyDraft>,
    relays: Vec<String>,
    uuid: [u8; 16],
    sid: [u8; 32],
    secret: &RendezvousSecret,
    at: UnixTime,
) -> Result<Invitation, Rejection> {
    let terms = &call.subject;
    let parties = parties.into_iter().map(|party| InvitedParty {
        did: party.did,
        name: party.name,
        role: "input,output".into(),
        keys: party.keys,
    });
    let invitation = Invitation {
        id: uuid_urn(uuid),
        issuer: call.issuer.clone(),
        valid_from: at.max(call.valid_from),
        valid_until: call.valid_until,
        subject: InvitationSubject {
            v: PROTOCOL_VERSION,
            sid: B64(sid),
            title: terms.title.clone(),
            purpose: terms.purpose.clone(),
            supersedes: Some(call.digest()),
            parties: parties.collect(),
            mpc: terms.mpc.clone(),
            program: terms.program.clone(),
            net: terms.net.clone(),
            time: terms.time.session(),
            rendezvous: Rendezvous {
                dht: "/quorate/kad/1".into(),
                bootstrap: Vec::new(),
                relays,
                sc: secret.commitment(),
            },
            policy: terms.policy.clone(),
        },
    };
    invitation.check()?;
    check_envelope(&invitation)?;
    Ok(invitation)
}

/// Whether `invitation` is what the applicant `me` was promised by `call`: `E_CALL` names what differs.
pub fn check_closed(
    call: &Verified<Call>,
    invitation: &Verified<Invitation>,
    me: &Did,
) -> Result<(), Rejection> {
    let differs = |what: &str| {
        let text = format!("the invitation is not what the call promised: {what}");
        Err(Rejection::new(Code::Call, "F8", text).about(invitation.issuer.clone()))
    };
    let (was, is) = (&call.subject, &invitation.subject);
    if invitation.issuer != call.issuer {
        return differs("somebody else issued it");
    }
    if is.supersedes != Some(call.digest()) {
        return differs("it does not replace this call");
    }
    check_envelope(invitation)?;
    let same = [
        ("the title differs", is.title == was.title),
        ("the purpose differs", is.purpose == was.purpose),
        ("the threshold differs", is.mpc.t == was.mpc.t),
        ("the number of parties differs", is.mpc.m == was.mpc.m),
        ("the engine or its parameters differ", is.mpc == was.mpc),
        (
            "the program differs",
            is.program.manifest == was.program.manifest && is.program.entry == was.program.entry,
        ),
        (
            "the public arguments differ",
            is.program.args == was.program.args,
        ),
        (
            "the program's environment differs",
            is.program == was.program,
        ),
        ("the network inside the tunnel differs", is.net == was.net),
        ("the policy differs", is.policy == was.policy),
    ];
    if let Some((what, _)) = same.iter().find(|(_, same)| !same) {
        return differs(what);
    }
    let within = is.time.join_by <= was.time.join_by
        && is.time.start_by <= was.time.start_by
        && is.time.end_by <= was.time.end_by
        && invitation.valid_until <= call.valid_until;
    if !within {
        return differs("a deadline is later");
    }
    if is.pid_of(&call.issuer).is_some() != was.party {
        return differs("the inviter takes part in one and not in the other");
    }
    if is.pid_of(me).is_none() {
        return differs("you are not one of its parties");
    }
    Ok(())
}
