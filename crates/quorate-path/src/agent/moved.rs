//! A peer that moved: its checks come from another address than the one in use.
//!
//! ```text
//!   us                      peer's router, which got another public address
//!    │ checks, data ──────► old address: nobody            silent for MOVED_SILENCE
//!    │ ◄─────────────────── checks from the new one        nobody told the peer, its pair still works
//!    │ check ─────────────► new address ──► answered       so the old address is dropped, the new one used
//! ```
//! The peer cannot tell by a signal: its own addresses are as before, and the way of signals is often as dead as the
//! path. It would take 19 s to give the old address up, as checks of one rank do not replace each other. The old address
//! is checked again from the start, so a peer that returns to it is followed there too.
//!
//! Limits: [`MAX_CHECK_SOURCES`] addresses from which checks are taken in a round.
//!
//! Security: an address counts if a check with the credentials of this round came from it (where the peer chooses,
//! one that says so) and a check of ours to it was answered, both of which only the peer can do; and only while the
//! path in use is silent. STUN does not tell a check from its copy: who once saw a check of the peer can send it from an
//! address of its own, carry what we send there to the peer and back, and so be the way that is left when the other one is
//! silent. It carries ciphertext, or carries nothing and is noticed by the session.

use super::Agent;
use crate::limits::{MAX_CHECK_SOURCES, MOVED_SILENCE};
use is::{Candidate, CandidateKind, IceAgent, stun::StunMessage};
use std::{net::SocketAddr, time::Instant};

/// The latest check of this path's round that came from elsewhere.
#[derive(Clone, Copy, Debug)]
pub(super) struct Elsewhere {
    source: SocketAddr,
    heard: Instant,
}

impl Agent {
    /// Notes where an authenticated check came from; `old` as in `Direct`.
    pub(super) fn note_check(
        &mut self,
        message: &StunMessage<'_>,
        source: SocketAddr,
        old: bool,
        now: Instant,
    ) {
        let chosen = self.config.controlling || message.use_candidate();
        let elsewhere = |d: &super::Direct| d.old == old && d.remote != source;
        if message.is_binding_request() && chosen && self.direct.as_ref().is_some_and(elsewhere) {
            self.elsewhere = Some(Elsewhere { source, heard: now });
        }
    }

    /// Follows a peer that moved: drops the address in use, so that the checks take the other one. Whether it did.
    pub(super) fn follow(&mut self, now: Instant) -> bool {
        let lately = |at: Instant| now.saturating_duration_since(at) < MOVED_SILENCE;
        let Some(other) = self.elsewhere.filter(|other| lately(other.heard)) else {
            return false;
        };
        let Some(direct) = &mut self.direct else {
            return false;
        };
        if direct.remote == other.source {
            // The checks were faster.
            self.elsewhere = None;
            return false;
        }
        let ice = match &mut self.before {
            Some(before) if direct.old => before,
            _ => &mut self.ice,
        };
        if lately(direct.alive) || !ice.has_viable_remote_candidate(other.source) {
            return false;
        }
        direct.alive = other.heard;
        self.elsewhere = None;
        self.moved = true;
        start_over(ice, direct.remote);
        ice.handle_timeout(now);
        self.take_events(now);
        true
    }
}

/// Whether the peer checks from more addresses than any translator makes of its own; each one takes memory for the rest
/// of the round.
pub(super) fn is_one_source_too_many(
    ice: &IceAgent,
    message: &StunMessage<'_>,
    source: SocketAddr,
) -> bool {
    message.is_binding_request()
        && ice.stats().discovered_recv_count >= MAX_CHECK_SOURCES
        && !ice.remote_candidates().any(|c| c.addr() == source)
}

/// What the checks call an address that they met by themselves. They keep one candidate of that name for each address.
const MET: &str = "tmp_prflx";

/// Forgets what the checks found out about an address. One that is merely dropped would not be answered any more.
fn start_over(ice: &mut IceAgent, address: SocketAddr) {
    let gone: Vec<Candidate> = ice
        .remote_candidates()
        .filter(|c| c.addr() == address)
        .collect();
    for candidate in &gone {
        ice.invalidate_candidate(candidate);
    }
    let best = gone.iter().max_by_key(|c| c.prio());
    if let Some(best) = best {
        ice.add_remote_candidate(Candidate::from_parts(
            MET.to_owned(),
            1,
            best.proto(),
            best.prio(),
            address,
            CandidateKind::PeerReflexive,
            None,
            None,
            None,
        ));
    }
}
