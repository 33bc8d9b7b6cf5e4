//! Roster: who takes part with which keys, the one thing all parties must hold identically.
//!
//! Every party builds it from the joins it verified; it is never sent. Its digest
//! `R = SHA-256("quorate/1/roster" || 0x00 || JCS)` is what confirms name. JCS (RFC 8785) over ASCII strings, integers and
//! arrays only, so that no rule about floats or Unicode is ever used.

use crate::{
    message::{Join, Pid},
    peer_id::PeerId,
};
use quorate_identity::{B64, Code, Did, Digest, Rejection, UnixMillis, Verified};
use serde::Serialize;

/// A roster with its digest.
#[derive(Clone, Debug)]
pub struct Roster {
    digest: Digest,
    members: Vec<Member>,
}

/// One party of a roster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Member {
    /// Position in the invitation.
    pub pid: Pid,
    /// Its DID.
    pub did: Did,
    /// Thumbprint of the key that signed the join.
    pub key: Digest,
    /// Thumbprint of a device key; empty, because this version knows no device keys.
    pub dev: &'static str,
    /// Digest of the join.
    pub join: Digest,
    /// Epoch of the join.
    pub epoch: UnixMillis,
    /// WireGuard public key.
    pub wg: B64<32>,
    /// Digest of the KEM key.
    pub ek: Digest,
    /// Overlay identity.
    pub peer: PeerId,
}

#[derive(Serialize)]
struct Canonical<'a> {
    v: u8,
    inv: &'a Digest,
    members: &'a [Member],
}

impl Roster {
    /// The roster of `joins`, which are given in the order of the parties.
    pub fn build(inv: &Digest, joins: &[&Verified<Join>]) -> Result<Self, Rejection> {
        let members: Vec<Member> = joins.iter().map(|join| member(join)).collect();
        let canonical = serde_jcs::to_vec(&Canonical {
            v: crate::message::PROTOCOL_VERSION,
            inv,
            members: &members,
        })
        .map_err(|e| {
            Rejection::new(
                Code::Internal,
                "S6",
                format!("roster cannot be written: {e}"),
            )
        })?;
        Ok(Self {
            digest: Digest::of("quorate/1/roster", &canonical),
            members,
        })
    }

    /// The digest that names it.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Its parties, by position.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The party at `pid`.
    pub fn member(&self, pid: Pid) -> Option<&Member> {
        self.members.get(pid.index())
    }

    /// The joins it was built from, by position.
    pub fn joins(&self) -> Vec<Digest> {
        self.members.iter().map(|member| member.join).collect()
    }
}

fn member(join: &Verified<Join>) -> Member {
    let ek = join.kem.as_ref().map_or(&[][..], |kem| &kem.ek.0[..]);
    Member {
        pid: join.pid,
        did: join.iss.clone(),
        key: join.key().thumbprint(),
        dev: "",
        join: join.digest(),
        epoch: join.epoch,
        wg: join.wg,
        ek: Digest::of("quorate/1/ek", ek),
        peer: join.peer,
    }
}
