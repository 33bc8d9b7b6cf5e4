//! A peer that moved: its checks come from another address than the one in use.
//!
//! ```text
//!   us                      peer's router, which got another public address
//!    │ checks, data ──────► old address: nobody            silent for MOVED_SILENCE
//!    │ ◄─────────────────── checks from the new one        nobody told the peer, its pair still works
//!    │ check ─────────────► new address ──► answered       so the old address is dropped, the new one used
//! ```
//! The peer cannot tell by a signal: its own addresses are as before, and the way of signals is often as dead as the
//! path. It would take 19 s to give the old address up, as checks of one rank do not replace each other.
//!
//! Security: an address counts if a check with the credentials of this round came from it (where the peer chooses,
//! one that says so) and a check of ours to it was answered, both of which only the peer can do; and only while the
//! path in use is silent. Who can carry packets between both ends gets no more than they could by carrying those of
//! the old path.

use super::Agent;
use crate::limits::MOVED_SILENCE;
use is::{IceAgent, stun::StunMessage};
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

    /// Follows a peer that moved: drops the address in use, so that the checks take the other one.
    pub(super) fn follow(&mut self, now: Instant) {
        let lately = |at: Instant| now.saturating_duration_since(at) < MOVED_SILENCE;
        let Some(other) = self.elsewhere.filter(|other| lately(other.heard)) else {
            return;
        };
        let Some(direct) = &mut self.direct else {
            return;
        };
        let ice = match &mut self.before {
            Some(before) if direct.old => before,
            _ => &mut self.ice,
        };
        if lately(direct.alive) || !ice.has_viable_remote_candidate(other.source) {
            return;
        }
        direct.alive = other.heard;
        self.elsewhere = None;
        drop_remote(ice, direct.remote);
        ice.handle_timeout(now);
    }
}

fn drop_remote(ice: &mut IceAgent, address: SocketAddr) {
    let gone: Vec<is::Candidate> = ice
        .remote_candidates()
        .filter(|c| c.addr() == address)
        .collect();
    for candidate in &gone {
        ice.invalidate_candidate(candidate);
    }
}
