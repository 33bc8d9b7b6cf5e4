//! Links of a session: the handshake, the frames, and the announcements that spread statements.

use super::{Event, Session, Stage};
use crate::{
    limits::{
        HELLO_LIFETIME_SECONDS, MAX_DIGESTS, MAX_LINKS, MAX_LINKS_PER_PARTY, MAX_SIGNALS,
        MAX_STATEMENTS, MAX_TRANSMIT_BYTES, MAX_TRANSMITS, MAX_UNPROVEN_LINKS,
        STATEMENTS_FRAME_BYTES,
    },
    link::{Frame, Handshake, Link, LinkId, LinkKind, Proven, hello_tag, same_tag},
    message::{Hello, Invitation, PROTOCOL_VERSION, Pid},
};
use quorate_identity::{
    B64, CLOCK_SKEW_SECONDS, Code, Did, Digest, Rejection, UnixTime, Unverified, base64url, sign,
};
use std::{collections::BTreeSet, sync::Arc, time::Instant};

impl Session {
    /// A link came up.
    pub fn handle_link_up(&mut self, link: LinkId, kind: LinkKind, at: UnixTime, now: Instant) {
        self.set_clock(at, now);
        match (&self.stage, kind) {
            // A session that is ending must not carry its end into the next run.
            (Stage::Closing(_) | Stage::Closed, _) => self.turn_away(link),
            (_, LinkKind::Tunnel { roster, pid }) => self.tunnel_up(link, kind, roster, pid, now),
            (_, LinkKind::Overlay { .. }) => self.overlay_up(link, kind, now),
        }
        self.settle(now);
    }

    /// A link went down.
    pub fn handle_link_down(&mut self, link: LinkId, now: Instant) {
        self.links.remove(&link);
        self.peers.forget(link);
        self.unresolved.retain(|(from, _)| *from != link);
        self.ask_instead_of(link, now);
        self.settle(now);
    }

    /// One frame arrived.
    pub fn handle_message(&mut self, link: LinkId, bytes: &[u8], at: UnixTime, now: Instant) {
        self.set_clock(at, now);
        let Some(entry) = self.links.get_mut(&link) else {
            return;
        };
        if matches!(self.stage, Stage::Closed) {
            return;
        }
        let judged = entry.admit_frame(bytes.len(), now);
        match judged.map(|()| Frame::parse(bytes)) {
            Ok(Ok(frame)) => self.handle_frame(link, frame, now),
            Ok(Err(rejection)) => self.refuse_and_strike(link, rejection),
            Err(rejection) => {
                self.refuse(link, rejection);
                self.close_link(link, true);
            }
        }
        self.settle(now);
    }

    fn tunnel_up(&mut self, link: LinkId, kind: LinkKind, roster: Digest, pid: Pid, now: Instant) {
        let current = match &self.stage {
            Stage::Meshed(agreement, _) => agreement.roster.digest() == roster,
            _ => false,
        };
        if !current
            || pid == self.me
            || pid.0 >= self.invitation.subject.mpc.m
            || self.links.len() >= MAX_LINKS
        {
            return self.turn_away(link);
        }
        self.links.insert(
            link,
            Link::new(kind, Handshake::Proven(Proven::Party(pid)), now),
        );
        self.note_heard(pid, now);
        // At once, so that the round trip is known when the mesh is.
        self.ping(link, now);
        self.announce(link, now);
        self.send_ready(link);
    }

    fn overlay_up(&mut self, link: LinkId, kind: LinkKind, now: Instant) {
        let unproven = self.links.iter().filter(|(_, l)| l.proven().is_none());
        let count = unproven.clone().count();
        let oldest = unproven
            .min_by_key(|(id, link)| (link.deadline, **id))
            .map(|(id, _)| *id);
        // A handshake takes a round trip, so whoever waits longest is the least likely to be a party; and somebody who
        // fills all places cannot keep a party out.
        if self.links.len() >= MAX_LINKS || count >= MAX_UNPROVEN_LINKS {
            match oldest {
                Some(oldest) => self.close_link(oldest, false),
                None => return self.turn_away(link),
            }
        }
        self.links.insert(
            link,
            Link::new(kind, Handshake::Held { tagged: false }, now),
        );
        if !matches!(self.stage, Stage::Invited) {
            self.send_hello(link, now);
        }
    }

    /// Begins the handshake on links that came up before we took part.
    pub(super) fn open_held_links(&mut self) {
        let now = self.clock.1;
        for link in self.links.keys().copied().collect::<Vec<_>>() {
            self.send_hello(link, now);
        }
    }

    fn send_hello(&mut self, link: LinkId, now: Instant) {
        let Some(entry) = self.links.get_mut(&link) else {
            return;
        };
        let (LinkKind::Overlay { local, remote }, Handshake::Held { tagged }) =
            (entry.kind, entry.handshake.clone())
        else {
            return;
        };
        entry.handshake = Handshake::Hello;
        entry.deadline = now + crate::limits::HANDSHAKE_TIMEOUT;
        let tag = hello_tag(&self.secret, &local, &remote);
        self.transmit(link, &Frame::Hello { tag });
        if tagged {
            self.send_proof(link, now);
        }
    }

    fn handle_frame(&mut self, link: LinkId, frame: Frame, now: Instant) {
        let Some(entry) = self.links.get(&link) else {
            return;
        };
        let (tunnel, proven, pid) = (entry.is_tunnel(), entry.proven().is_some(), entry.pid());
        if let Some(pid) = pid.filter(|_| tunnel) {
            self.note_heard(pid, now);
        }
        match frame {
            Frame::Hello { tag } => self.handle_hello(link, &tag, now),
            Frame::Proof { sid, inv, auth } => self.handle_proof(link, &sid, inv, auth, now),
            Frame::Invitation { jws } => self.handle_invitation(link, &jws, now),
            // Until a link is proven its frames are not looked at; what they hold is announced again.
            _ if !proven => {}
            Frame::Have { digests } => self.handle_have(link, &digests, now),
            Frame::Want { digests } => self.handle_want(link, &digests),
            Frame::Statements { jws } => {
                for text in jws {
                    self.handle_statement(link, text, now);
                }
            }
            Frame::Signal { roster, data } => self.handle_signal(link, roster, &data),
            Frame::Peers { own, others } => self.handle_peers(link, own, others, now),
            Frame::Ping { n } if tunnel => self.transmit(link, &Frame::Pong { n }),
            Frame::Pong { n } if tunnel => self.note_pong(link, n, now),
            Frame::Ping { .. } | Frame::Pong { .. } => {}
        }
    }

    fn handle_hello(&mut self, link: LinkId, tag: &B64<32>, now: Instant) {
        let Some(entry) = self.links.get_mut(&link) else {
            return;
        };
        let LinkKind::Overlay { local, remote } = entry.kind else {
            return;
        };
        if !same_tag(tag, &hello_tag(&self.secret, &remote, &local)) {
            let text = "a network peer does not know this session's secret";
            self.refuse(link, Rejection::new(Code::NotMember, "S5", text));
            self.close_link(link, true);
            return;
        }
        match &mut entry.handshake {
            Handshake::Held { tagged } => *tagged = true,
            Handshake::Hello => self.send_proof(link, now),
            // Who says hello again has not got our proof.
            Handshake::Proof | Handshake::Resolving { .. } | Handshake::Proven(_) => {
                self.transmit_proof(link, now);
            }
            Handshake::Differs { .. } => {
                self.transmit_proof(link, now);
                self.show_invitation(link);
            }
        }
    }

    /// Says again what a handshake waits for, in case it was lost.
    fn repeat_handshakes(&mut self, now: Instant) {
        let open = self
            .links
            .iter()
            .filter_map(|(id, link)| match (&link.handshake, link.kind) {
                (Handshake::Hello, LinkKind::Overlay { local, remote }) => {
                    Some((*id, local, remote, false))
                }
                (Handshake::Proof, LinkKind::Overlay { local, remote }) => {
                    Some((*id, local, remote, true))
                }
                _ => None,
            });
        let open = open.collect::<Vec<_>>();
        let differing = |(id, link): (&LinkId, &Link)| {
            matches!(link.handshake, Handshake::Differs { .. }).then_some(*id)
        };
        for link in self.links.iter().filter_map(differing).collect::<Vec<_>>() {
            self.transmit_proof(link, now);
            self.show_invitation(link);
        }
        for (link, local, remote, tagged) in open {
            let tag = hello_tag(&self.secret, &local, &remote);
            self.transmit(link, &Frame::Hello { tag });
            if tagged {
                self.transmit_proof(link, now);
            }
        }
    }

    fn send_proof(&mut self, link: LinkId, now: Instant) {
        if let Some(entry) = self.links.get_mut(&link) {
            entry.handshake = Handshake::Proof;
        }
        self.transmit_proof(link, now);
    }

    fn transmit_proof(&mut self, link: LinkId, now: Instant) {
        let Some(entry) = self.links.get(&link) else {
            return;
        };
        let LinkKind::Overlay { local, remote } = entry.kind else {
            return;
        };
        let iat = self.wall(now);
        let sid = self.invitation.subject.sid;
        let hello = Hello {
            v: PROTOCOL_VERSION,
            iss: self.key.did(),
            sid,
            inv: self.inv,
            local,
            remote,
            iat,
            exp: iat.plus_seconds(HELLO_LIFETIME_SECONDS),
        };
        match sign(hello, &self.key) {
            Ok(hello) => self.transmit(
                link,
                &Frame::Proof {
                    sid,
                    inv: self.inv,
                    auth: hello.text().to_string(),
                },
            ),
            Err(rejection) => self.alarm(&format!("our own link proof is refused: {rejection}")),
        }
    }

    fn handle_proof(
        &mut self,
        link: LinkId,
        sid: &B64<32>,
        inv: Digest,
        auth: String,
        now: Instant,
    ) {
        let Some(entry) = self.links.get(&link) else {
            return;
        };
        match entry.handshake {
            Handshake::Proof => {}
            Handshake::Resolving { .. } | Handshake::Differs { .. } | Handshake::Proven(_) => {
                return;
            }
            Handshake::Held { .. } | Handshake::Hello => {
                let text = "a network peer proves a DID before it proved the session's secret";
                self.refuse(link, Rejection::new(Code::NotMember, "S5", text));
                self.close_link(link, true);
                return;
            }
        }
        if let Err(rejection) = self.judge_proof(link, sid, inv, auth, now) {
            // A clock may be ours that is wrong, and too many links are a matter of room.
            let ban = !matches!(rejection.code, Code::Clock | Code::Time | Code::Overflow);
            self.refuse(link, rejection);
            self.close_link(link, ban);
        }
    }

    fn judge_proof(
        &mut self,
        link: LinkId,
        sid: &B64<32>,
        inv: Digest,
        auth: String,
        now: Instant,
    ) -> Result<(), Rejection> {
        let not_member = |text: &str| Rejection::new(Code::NotMember, "S5", text);
        let hello = Unverified::<Hello>::parse(&auth)?;
        let did = hello.issuer().clone();
        let claims = hello.claims_unproven();
        if claims.inv != inv || claims.sid != *sid || *sid != self.invitation.subject.sid {
            return Err(not_member("a network peer is in another session").about(did));
        }
        let Some(who) = self.who_is(&did) else {
            return Err(not_member("somebody who is not a party tried to take part").about(did));
        };
        let Some(keys) = self.keys_of(&did) else {
            if let Some(entry) = self.links.get_mut(&link) {
                entry.handshake = Handshake::Resolving { auth };
            }
            self.ask_for(&did);
            return Ok(());
        };
        let at = self.wall(now);
        let skew = claims.iat.0.saturating_sub(at.0);
        if skew.abs() > CLOCK_SKEW_SECONDS {
            let text = format!("its clock and ours differ by {skew} s");
            return Err(Rejection::new(Code::Clock, "S5", text).about(did));
        }
        let hello = hello.verify(keys, at)?;
        self.check_pinned(&did, hello.key().thumbprint())?;
        let kind = self.links.get(&link).map(|entry| entry.kind);
        if kind
            != Some(LinkKind::Overlay {
                local: hello.remote,
                remote: hello.local,
            })
        {
            return Err(Rejection::new(
                Code::Peer,
                "S5",
                "a link proof was made for another connection",
            )
            .about(did));
        }
        if inv != self.inv {
            if let Some(entry) = self.links.get_mut(&link) {
                entry.handshake = Handshake::Differs { did, inv };
            }
            self.show_invitation(link);
            return Ok(());
        }
        self.link_proven(link, who, &did, now)
    }

    /// One member's word does not accuse the organizer: each shows what the organizer signed.
    fn show_invitation(&mut self, link: LinkId) {
        let jws = self.invitation.text().to_string();
        self.transmit(link, &Frame::Invitation { jws });
    }

    fn handle_invitation(&mut self, link: LinkId, jws: &str, now: Instant) {
        let Some(Handshake::Differs { did, inv }) =
            self.links.get(&link).map(|entry| entry.handshake.clone())
        else {
            return;
        };
        match self.judge_invitation(jws, inv, now) {
            Ok(true) => self.split(&did, inv, jws, now),
            Ok(false) => {}
            Err(rejection) => {
                self.refuse(link, rejection.about(did));
                self.close_link(link, true);
            }
        }
    }

    /// Whether `jws` is another invitation of our organizer for our session; `false` while its keys
    /// are not resolved.
    fn judge_invitation(
        &mut self,
        jws: &str,
        inv: Digest,
        now: Instant,
    ) -> Result<bool, Rejection> {
        let issuer = self.invitation.issuer.clone();
        let other = Unverified::<Invitation>::parse(jws)?;
        let claims = other.claims_unproven();
        if other.digest() != inv
            || claims.issuer != issuer
            || claims.subject.sid != self.invitation.subject.sid
        {
            let text = "a party claims another invitation and cannot show it";
            return Err(Rejection::new(Code::NotMember, "S5", text));
        }
        let Some(keys) = self.keys_of(&issuer) else {
            self.ask_for(&issuer);
            return Ok(false);
        };
        let other = other.verify(keys, self.wall(now))?;
        self.check_pinned(&issuer, other.key().thumbprint())?;
        Ok(true)
    }

    /// What a DID is in this session.
    pub(super) fn who_is(&self, did: &Did) -> Option<Proven> {
        match self.invitation.subject.pid_of(did) {
            Some(pid) => Some(Proven::Party(pid)),
            None if *did == self.invitation.issuer => Some(Proven::Issuer),
            None => None,
        }
    }

    fn link_proven(
        &mut self,
        link: LinkId,
        who: Proven,
        did: &Did,
        now: Instant,
    ) -> Result<(), Rejection> {
        let same = self
            .links
            .values()
            .filter(|entry| entry.proven() == Some(&who) && !entry.is_tunnel())
            .count();
        if same >= MAX_LINKS_PER_PARTY {
            return Err(
                Rejection::new(Code::Overflow, "S5", "has more links than a party needs")
                    .about(did.clone()),
            );
        }
        if let Some(entry) = self.links.get_mut(&link) {
            entry.handshake = Handshake::Proven(who);
        }
        self.peers.hurry(now);
        self.announce(link, now);
        Ok(())
    }

    /// Continues handshakes that waited for the keys of `did`.
    pub(super) fn resume_links_of(&mut self, did: &Did, now: Instant) {
        for (link, auth) in self.links_waiting_for(did) {
            if let Some(entry) = self.links.get_mut(&link) {
                entry.handshake = Handshake::Proof;
            }
            let Ok(hello) = Unverified::<Hello>::parse(&auth) else {
                continue;
            };
            let (sid, inv) = (hello.claims_unproven().sid, hello.claims_unproven().inv);
            self.handle_proof(link, &sid, inv, auth, now);
        }
    }

    /// Drops what waited for the keys of a DID that does not resolve.
    pub(super) fn drop_waiting_for(&mut self, did: &Did, rejection: &Rejection) {
        for (link, _) in self.links_waiting_for(did) {
            self.refuse(link, rejection.clone().about(did.clone()));
            self.close_link(link, false);
        }
    }

    fn links_waiting_for(&self, did: &Did) -> Vec<(LinkId, String)> {
        let waiting = self
            .links
            .iter()
            .filter_map(|(id, link)| match &link.handshake {
                Handshake::Resolving { auth } => Some((*id, auth.clone())),
                _ => None,
            });
        waiting
            .filter(|(_, auth)| {
                Unverified::<Hello>::parse(auth).is_ok_and(|hello| hello.issuer() == did)
            })
            .collect()
    }

    /// Tells the other end what we hold.
    pub(super) fn announce(&mut self, link: LinkId, now: Instant) {
        let Some(entry) = self.links.get(&link) else {
            return;
        };
        if !matches!(entry.proven(), Some(Proven::Party(_))) {
            return;
        }
        // What its party is told outside of the tunnel need not be said twice.
        if entry.is_tunnel() && self.has_overlay_link(entry.pid()) {
            return;
        }
        let at = self.wall(now);
        let digests = self.ledger.announced_to(entry.pid(), &self.linked(), at);
        for chunk in digests.chunks(MAX_DIGESTS) {
            self.transmit(
                link,
                &Frame::Have {
                    digests: chunk.to_vec(),
                },
            );
        }
    }

    fn has_overlay_link(&self, pid: Option<Pid>) -> bool {
        let mut links = self.links.values();
        links.any(|link| !link.is_tunnel() && link.pid() == pid)
    }

    /// Parties with a proven link to us.
    pub fn linked(&self) -> BTreeSet<Pid> {
        self.links.values().filter_map(Link::pid).collect()
    }

    /// Tells everybody what we hold, which heals whatever got lost.
    pub(super) fn resync(&mut self, now: Instant) {
        self.repeat_handshakes(now);
        for link in self.proven_links() {
            self.announce(link, now);
            self.send_ready(link);
        }
    }

    /// Proven links to parties, in the order of their ids.
    pub(super) fn proven_links(&self) -> Vec<LinkId> {
        let proven = |(id, link): (&LinkId, &Link)| link.pid().map(|_| *id);
        #[cfg(feature = "broken-variants")]
        if self.is_weak(super::Weakness::NondeterministicOrder) {
            let shuffled: std::collections::HashSet<LinkId> =
                self.links.iter().filter_map(proven).collect();
            return shuffled.into_iter().collect();
        }
        self.links.iter().filter_map(proven).collect()
    }

    fn handle_want(&mut self, link: LinkId, digests: &[Digest]) {
        // An organizer that is no party sees who takes part from the others, not their statements.
        let of_party = self
            .links
            .get(&link)
            .is_some_and(|entry| entry.pid().is_some());
        if !of_party {
            return;
        }
        let digests: BTreeSet<&Digest> = digests.iter().collect();
        let texts: Vec<Arc<str>> = digests
            .into_iter()
            .filter_map(|digest| self.ledger.text(digest).cloned())
            .collect();
        self.send_statements(link, &texts);
    }

    /// Sends statements in as many frames as they need.
    pub(super) fn send_statements(&mut self, link: LinkId, texts: &[Arc<str>]) {
        let mut jws = Vec::new();
        let mut bytes = 0;
        for text in texts {
            if !jws.is_empty()
                && (bytes + text.len() > STATEMENTS_FRAME_BYTES || jws.len() == MAX_STATEMENTS)
            {
                self.transmit(
                    link,
                    &Frame::Statements {
                        jws: std::mem::take(&mut jws),
                    },
                );
                bytes = 0;
            }
            bytes += text.len();
            jws.push(text.to_string());
        }
        if !jws.is_empty() {
            self.transmit(link, &Frame::Statements { jws });
        }
    }

    fn handle_signal(&mut self, link: LinkId, roster: Digest, data: &str) {
        let Some(entry) = self.links.get(&link) else {
            return;
        };
        let (Some(from), peer) = (entry.pid(), entry.remote_peer()) else {
            return;
        };
        // Only over the connection whose PeerId the party named in its join.
        if peer.is_none() || peer != self.ledger.join(from).map(|join| join.peer) || from == self.me
        {
            return;
        }
        let data = match base64url::decode(data) {
            Ok(data) => data,
            Err(rejection) => return self.refuse_and_strike(link, rejection),
        };
        match &self.stage {
            Stage::Meshed(agreement, _) if agreement.roster.digest() == roster => {
                self.emit(Event::Signal { from, data });
            }
            Stage::Joining | Stage::Confirming(_) => {
                let queue = self.signals_in.entry(from).or_default();
                if queue.len() >= MAX_SIGNALS {
                    queue.pop_front();
                }
                queue.push_back((roster, data));
            }
            _ => {}
        }
    }

    /// Closes links whose handshake takes too long.
    pub(super) fn close_slow_links(&mut self, now: Instant) {
        let slow = self
            .links
            .iter()
            .filter(|(_, link)| link.proven().is_none() && link.deadline <= now);
        for link in slow.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.close_link(link, false);
        }
    }

    /// Closes a link; `ban` if the other end is to blame.
    pub(super) fn close_link(&mut self, link: LinkId, ban: bool) {
        if self.links.remove(&link).is_some() {
            self.peers.forget(link);
            self.unresolved.retain(|(from, _)| *from != link);
            self.ask_instead_of(link, self.clock.1);
            self.emit(Event::CloseLink { link, ban });
        }
    }

    /// Refuses a link that there is no room or no use for.
    fn turn_away(&mut self, link: LinkId) {
        self.emit(Event::CloseLink { link, ban: false });
    }

    /// Refuses what the other end of a link is itself to blame for.
    pub(super) fn refuse_and_strike(&mut self, link: LinkId, rejection: Rejection) {
        self.refuse(link, rejection);
        if self.links.get_mut(&link).is_some_and(Link::strike) {
            let text = "was refused too often";
            self.refuse(link, Rejection::new(Code::Overflow, "S5", text));
            self.close_link(link, true);
        }
    }

    pub(super) fn transmit(&mut self, link: LinkId, frame: &Frame) {
        // Whatever does not fit is announced again later.
        self.try_transmit(link, frame);
    }

    /// Whether there was room for the frame.
    pub(super) fn try_transmit(&mut self, link: LinkId, frame: &Frame) -> bool {
        let bytes = frame.encode();
        let room = self.transmits.len() < MAX_TRANSMITS
            && self.transmit_bytes + bytes.len() <= MAX_TRANSMIT_BYTES;
        if room {
            self.transmit_bytes += bytes.len();
            self.transmits.push_back((link, bytes));
            self.usage.transmits = self.usage.transmits.max(self.transmits.len());
        }
        room
    }
}
