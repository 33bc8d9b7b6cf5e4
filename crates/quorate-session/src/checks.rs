//! The checks before a roster is confirmed, one function each (C1 to C10 of protocol section 6).
//!
//! C9 has two halves: that the signing key is one the invitation pins is checked here; that a DID which can change was
//! resolved lately is the session's own business, because it has to ask for it.

use crate::message::{Fingerprint, Invitation, InvitationSubject, Join, Pid, SameController};
use quorate_identity::{Code, Did, Digest, Rejection, UnixTime, Verified};
use std::collections::BTreeMap;

/// Everything that is judged.
pub(crate) struct Proposal<'a> {
    pub invitation: &'a Invitation,
    pub inv: Digest,
    /// One join per party, by position.
    pub joins: &'a [&'a Verified<Join>],
    pub me: Pid,
    /// Digest of our own current join.
    pub own: Option<Digest>,
    pub fingerprint: &'a Fingerprint,
    pub approved: bool,
    pub cancelled: bool,
    pub at: UnixTime,
}

impl Proposal<'_> {
    /// All checks, in their order.
    pub fn check(&self) -> Result<(), Rejection> {
        self.c1_approved()?;
        self.c2_complete()?;
        self.c3_distinct()?;
        self.c4_own_join()?;
        self.c5_times()?;
        self.c6_fingerprints()?;
        self.c7_threshold()?;
        self.c8_not_cancelled()?;
        self.c9_pinned_keys()?;
        check_controllers(&self.invitation.subject)
    }

    /// C1: the user, or the user's policy, approved this invitation.
    fn c1_approved(&self) -> Result<(), Rejection> {
        if self.approved {
            Ok(())
        } else {
            Err(Rejection::new(
                Code::Declined,
                "C1",
                "nobody approved this invitation",
            ))
        }
    }

    /// C2: one join per party, by the right DID, for this invitation.
    fn c2_complete(&self) -> Result<(), Rejection> {
        let parties = &self.invitation.subject.parties;
        if self.joins.len() != parties.len() {
            return Err(Rejection::new(
                Code::Missing,
                "C2",
                "not all parties have joined",
            ));
        }
        for (index, (join, party)) in self.joins.iter().zip(parties).enumerate() {
            if join.iss != party.did || join.pid.index() != index || join.inv != self.inv {
                let text = format!("the join at position {index} is not that of the listed party");
                return Err(Rejection::new(Code::Stale, "C2", text).about(join.iss.clone()));
            }
        }
        Ok(())
    }

    /// C3: no key, nonce or PeerId twice.
    fn c3_distinct(&self) -> Result<(), Rejection> {
        let mut seen: BTreeMap<&[u8], &Verified<Join>> = BTreeMap::new();
        let peers: Vec<String> = self
            .joins
            .iter()
            .map(|join| join.peer.to_string())
            .collect();
        for (join, peer) in self.joins.iter().zip(&peers) {
            let ek = join.kem.as_ref().map_or(&[][..], |kem| &kem.ek.0[..]);
            for value in [&join.wg.0[..], ek, &join.n.0[..], peer.as_bytes()] {
                let Some(first) = seen.insert(value, join) else {
                    continue;
                };
                return Err(self.duplicate(first, join));
            }
        }
        Ok(())
    }

    /// Of two others, either may have copied from the other: both stand in the text and nobody is named. That we did not
    /// copy we know.
    fn duplicate(&self, first: &Verified<Join>, second: &Verified<Join>) -> Rejection {
        let text = format!(
            "parties {} and {} use one key or nonce",
            first.pid, second.pid
        );
        let rejection = Rejection::new(Code::DuplicateKey, "C3", text);
        if first.pid == self.me {
            rejection.about(second.iss.clone())
        } else if second.pid == self.me {
            rejection.about(first.iss.clone())
        } else {
            rejection
        }
    }

    /// C4: our own entry is the join we made.
    fn c4_own_join(&self) -> Result<(), Rejection> {
        let entry = self.joins.get(self.me.index()).map(|join| join.digest());
        if entry.is_some() && entry == self.own {
            return Ok(());
        }
        Err(Rejection::new(
            Code::IdentityElsewhere,
            "C4",
            "our own entry is not the join we made",
        ))
    }

    /// C5: every join is in its time, and there is time left to start.
    fn c5_times(&self) -> Result<(), Rejection> {
        if self.at > self.invitation.subject.time.start_by {
            return Err(Rejection::new(
                Code::Time,
                "C5",
                "the latest time to start has passed",
            ));
        }
        match self.joins.iter().find(|join| join.exp < self.at) {
            Some(join) => {
                Err(Rejection::new(Code::Time, "C5", "a join has expired").about(join.iss.clone()))
            }
            None => Ok(()),
        }
    }

    /// C6: everybody would run the same thing as we.
    fn c6_fingerprints(&self) -> Result<(), Rejection> {
        for join in self.joins {
            compare_fingerprints(self.fingerprint, &join.fp)
                .and_then(|()| check_fingerprint(&join.fp, &self.invitation.subject))
                .map_err(|rejection| rejection.about(join.iss.clone()))?;
        }
        Ok(())
    }

    /// C7: threshold and key count; the invitation's own check covers both and is repeated here on purpose.
    fn c7_threshold(&self) -> Result<(), Rejection> {
        quorate_identity::Subject::check(&self.invitation.subject)
    }

    /// C8: not cancelled.
    fn c8_not_cancelled(&self) -> Result<(), Rejection> {
        if self.cancelled {
            Err(Rejection::new(
                Code::Cancelled,
                "C8",
                "the organizer cancelled",
            ))
        } else {
            Ok(())
        }
    }

    /// C9: each join is signed by a key that the invitation pins.
    fn c9_pinned_keys(&self) -> Result<(), Rejection> {
        for (join, party) in self.joins.iter().zip(&self.invitation.subject.parties) {
            if !party.keys.contains(&join.key().thumbprint()) {
                let text = "the join is signed by a key that the invitation does not pin";
                return Err(Rejection::new(Code::Kid, "C9", text).about(join.iss.clone()));
            }
        }
        Ok(())
    }
}

/// Whether two parties would run the same: quorate's major version, MPyC, word size, program and environment. Python may
/// differ.
pub(crate) fn compare_fingerprints(
    ours: &Fingerprint,
    theirs: &Fingerprint,
) -> Result<(), Rejection> {
    if ours.program != theirs.program {
        let text = format!(
            "the program differs: {} here, {} there",
            ours.program, theirs.program
        );
        return Err(Rejection::new(Code::Program, "C6", text));
    }
    if ours.env != theirs.env {
        return Err(Rejection::new(
            Code::Program,
            "C6",
            "the lock file of the environment differs",
        ));
    }
    if ours.mpyc != theirs.mpyc {
        let text = format!("MPyC differs: {} here, {} there", ours.mpyc, theirs.mpyc);
        return Err(Rejection::new(Code::Runtime, "C6", text));
    }
    if ours.word != theirs.word {
        let text = format!(
            "the word size differs: {} here, {} there",
            ours.word, theirs.word
        );
        return Err(Rejection::new(Code::Runtime, "C6", text));
    }
    let major = |version: &str| version.split('.').next().map(str::to_owned);
    if major(&ours.quorate) != major(&theirs.quorate) {
        let text = format!(
            "quorate differs: {} here, {} there",
            ours.quorate, theirs.quorate
        );
        return Err(Rejection::new(Code::Version, "C6", text));
    }
    Ok(())
}

/// Whether a party would run what the invitation says.
pub(crate) fn check_fingerprint(
    fp: &Fingerprint,
    invitation: &InvitationSubject,
) -> Result<(), Rejection> {
    if fp.program != invitation.program.manifest {
        let text = format!(
            "the invitation is for program {}, this is {}",
            invitation.program.manifest, fp.program
        );
        return Err(Rejection::new(Code::Program, "C6", text));
    }
    if invitation.program.env.is_some() && fp.env != invitation.program.env {
        return Err(Rejection::new(
            Code::Program,
            "C6",
            "the environment is not that of the invitation's lock file",
        ));
    }
    let wanted = &invitation.mpc.version;
    if !wanted.is_empty() && fp.mpyc != *wanted {
        let text = format!("the invitation is for MPyC {wanted}, this is {}", fp.mpyc);
        return Err(Rejection::new(Code::Runtime, "C6", text));
    }
    if fp.word != invitation.mpc.word {
        let text = format!(
            "the invitation is for {} bits, this is {}",
            invitation.mpc.word, fp.word
        );
        return Err(Rejection::new(Code::Runtime, "C6", text));
    }
    Ok(())
}

/// C10: no controller stands behind more than `t` parties, unless the invitation allows it.
pub fn check_controllers(invitation: &InvitationSubject) -> Result<(), Rejection> {
    if invitation.policy.same_controller == SameController::Allow {
        return Ok(());
    }
    let mut behind: BTreeMap<&str, u16> = BTreeMap::new();
    for party in &invitation.parties {
        let Some(controller) = controller(&party.did) else {
            continue;
        };
        let count = behind.entry(controller).or_default();
        *count += 1;
        if *count > invitation.mpc.t.max(1) {
            let text = format!(
                "{controller} stands behind {count} parties, the threshold is {}",
                invitation.mpc.t
            );
            return Err(Rejection::new(Code::Controller, "C10", text).about(party.did.clone()));
        }
    }
    Ok(())
}

/// The domain behind a `did:web`; a `did:key` is its own controller and nobody else's.
fn controller(did: &Did) -> Option<&str> {
    did.as_str().strip_prefix("did:web:")?.split(':').next()
}
