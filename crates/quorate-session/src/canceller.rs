//! The organizer withdraws an invitation without taking part: it links to the parties it can reach and tells them.
//!
//! ```text
//! link up ─► hello ─► their right hello ─► proof ─► their proof: a listed party ─► statements[cancel] ─► have[cancel]: told
//!              └─────────────── each step is repeated every 3 s until the next one ──────────────────┘
//! ```
//! What a party was told it tells all others itself (flooding), so one party that hears it is enough.
//!
//! The driver's law is that of [`Session`](crate::Session): one change, drain `poll_transmit` and `poll_event`, sleep until
//! `poll_timeout`.
//!
//! Limits: those of the links of a session: [`MAX_LINKS`], frames and strikes as in `link`.
//!
//! Security. Requires: the transport authenticates PeerIds. Provides: the cancel goes only to an end that showed the
//! rendezvous secret and proved the DID of a listed party; a party counts as told only when it says so itself. Does not
//! provide: that a party which cannot be reached hears of it.

use crate::{
    bundle::RendezvousSecret,
    keys::EpochKeys,
    limits::{HELLO_LIFETIME_SECONDS, MAX_LINKS, RESYNC_INTERVAL},
    link::{Frame, Handshake, Link, LinkId, LinkKind, Proven, hello_tag, same_tag},
    message::{Cancel, Hello, Invitation, PROTOCOL_VERSION, Pid},
    peer_id::PeerId,
    session::closing::sign_cancel,
};
use chacha20::ChaCha20Rng;
use quorate_identity::{
    Code, Did, Rejection, ResolvedDid, SigningKey, UnixTime, Unverified, Verified, sign,
};
use rand_core::SeedableRng;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    time::Instant,
};
use zeroize::Zeroize;

/// What a cancel is made of.
pub struct CancelSetup {
    /// The invitation that is withdrawn.
    pub invitation: Verified<Invitation>,
    /// The secret that went with it.
    pub secret: RendezvousSecret,
    /// The organizer's key.
    pub key: SigningKey,
    /// Why, in words.
    pub reason: String,
    /// The keys of the parties, as resolved.
    pub parties: Vec<ResolvedDid>,
    /// Random bytes from the operating system.
    pub seed: [u8; 32],
}

impl fmt::Debug for CancelSetup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancelSetup")
            .field("invitation", &self.invitation.digest())
            .finish_non_exhaustive()
    }
}

/// What the driver has to do or may show.
#[derive(Debug)]
pub enum CancelEvent {
    /// This party has the cancel.
    Told(Pid),
    /// Something was refused.
    Refused(Rejection),
    /// Close this link; `ban` if the other end is to blame.
    CloseLink {
        /// Which.
        link: LinkId,
        /// Whether its network peer need not be let in again soon.
        ban: bool,
    },
}

/// The organizer's side of one cancel.
pub struct Canceller {
    invitation: Verified<Invitation>,
    secret: RendezvousSecret,
    key: SigningKey,
    keys: EpochKeys,
    cancel: Verified<Cancel>,
    parties: BTreeMap<Did, ResolvedDid>,
    links: BTreeMap<LinkId, Link>,
    told: BTreeSet<Pid>,
    repeat_at: Instant,
    clock: (UnixTime, Instant),
    events: VecDeque<CancelEvent>,
    transmits: VecDeque<(LinkId, Vec<u8>)>,
}

impl Canceller {
    /// Signs the cancel; `E_NOT_ISSUER` if the key is not that of the invitation's issuer.
    pub fn new(mut setup: CancelSetup, at: UnixTime, now: Instant) -> Result<Self, Rejection> {
        let mut rng = ChaCha20Rng::from_seed(setup.seed);
        setup.seed.zeroize();
        if setup.key.did() != setup.invitation.issuer {
            let text = "only the organizer can cancel";
            return Err(Rejection::new(Code::NotIssuer, "S9", text));
        }
        let cancel = sign_cancel(&setup.key, setup.invitation.digest(), &setup.reason, at)?;
        let parties = setup.parties.into_iter();
        Ok(Self {
            invitation: setup.invitation,
            secret: setup.secret,
            key: setup.key,
            keys: EpochKeys::generate(&mut rng),
            cancel,
            parties: parties.map(|keys| (keys.did.clone(), keys)).collect(),
            links: BTreeMap::new(),
            told: BTreeSet::new(),
            repeat_at: now + RESYNC_INTERVAL,
            clock: (at, now),
            events: VecDeque::new(),
            transmits: VecDeque::new(),
        })
    }

    /// The signed cancel, compact JWS.
    pub fn text(&self) -> &str {
        self.cancel.text()
    }

    /// Seed of the overlay identity (Ed25519).
    pub fn overlay_secret(&self) -> &[u8; 32] {
        self.keys.overlay_secret()
    }

    /// PeerId of the overlay identity.
    pub fn peer_id(&self) -> PeerId {
        self.keys.peer_id()
    }

    /// The parties that said that they have it.
    pub fn told(&self) -> &BTreeSet<Pid> {
        &self.told
    }

    /// Parties that are not ourselves and were not heard to have it.
    pub fn untold(&self) -> Vec<Pid> {
        let me = self.invitation.subject.pid_of(&self.key.did());
        (0..self.invitation.subject.mpc.m)
            .map(Pid)
            .filter(|pid| Some(*pid) != me && !self.told.contains(pid))
            .collect()
    }

    /// What has to be done or may be shown.
    pub fn poll_event(&mut self) -> Option<CancelEvent> {
        self.events.pop_front()
    }

    /// A frame to send.
    pub fn poll_transmit(&mut self) -> Option<(LinkId, Vec<u8>)> {
        self.transmits.pop_front()
    }

    /// When to call `handle_timeout`, and what for.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        Some((self.repeat_at, "repeating"))
    }

    /// An overlay link came up.
    pub fn handle_link_up(&mut self, link: LinkId, remote: PeerId, at: UnixTime, now: Instant) {
        self.clock = (at, now);
        if self.links.len() >= MAX_LINKS {
            self.events
                .push_back(CancelEvent::CloseLink { link, ban: false });
            return;
        }
        let local = self.peer_id();
        let kind = LinkKind::Overlay { local, remote };
        self.links
            .insert(link, Link::new(kind, Handshake::Hello, now));
        self.say(link);
    }

    /// A link went down.
    pub fn handle_link_down(&mut self, link: LinkId, _now: Instant) {
        self.links.remove(&link);
    }

    /// One frame arrived.
    pub fn handle_message(&mut self, link: LinkId, bytes: &[u8], at: UnixTime, now: Instant) {
        self.clock = (at, now);
        let Some(entry) = self.links.get_mut(&link) else {
            return;
        };
        let judged = entry.admit_frame(bytes.len(), now);
        let done = judged
            .and_then(|()| Frame::parse(bytes))
            .and_then(|frame| self.handle_frame(link, frame));
        if let Err(rejection) = done {
            // A clock may be ours that is wrong.
            let ban = !matches!(rejection.code, Code::Clock | Code::Time);
            self.events.push_back(CancelEvent::Refused(rejection));
            self.close(link, ban);
        }
    }

    /// Time passed: what was not answered is said again.
    pub fn handle_timeout(&mut self, at: UnixTime, now: Instant) {
        self.clock = (at, now);
        if now < self.repeat_at {
            return;
        }
        self.repeat_at = now + RESYNC_INTERVAL;
        for link in self.links.keys().copied().collect::<Vec<_>>() {
            let slow = |entry: &Link| entry.proven().is_none() && entry.deadline <= now;
            if self.links.get(&link).is_some_and(slow) {
                self.close(link, false);
            } else {
                self.say(link);
            }
        }
    }

    fn handle_frame(&mut self, link: LinkId, frame: Frame) -> Result<(), Rejection> {
        let Some(entry) = self.links.get_mut(&link) else {
            return Ok(());
        };
        let LinkKind::Overlay { local, remote } = entry.kind else {
            return Ok(());
        };
        match frame {
            Frame::Hello { tag } => {
                if !same_tag(&tag, &hello_tag(&self.secret, &remote, &local)) {
                    let text = "a network peer does not know this session's secret";
                    return Err(Rejection::new(Code::NotMember, "S5", text));
                }
                if matches!(entry.handshake, Handshake::Hello) {
                    entry.handshake = Handshake::Proof;
                }
                self.say(link);
            }
            Frame::Proof { inv, auth, .. } => {
                if !matches!(entry.handshake, Handshake::Proof) {
                    return Ok(());
                }
                let pid = self.judge_proof(&auth, local, remote)?;
                if inv != self.invitation.digest() {
                    let text = "a party holds another invitation";
                    return Err(Rejection::new(Code::NotMember, "S5", text));
                }
                if let Some(entry) = self.links.get_mut(&link) {
                    entry.handshake = Handshake::Proven(Proven::Party(pid));
                }
                self.say(link);
            }
            Frame::Have { digests } if digests.contains(&self.cancel.digest()) => {
                if let Some(pid) = self.links.get(&link).and_then(Link::pid)
                    && self.told.insert(pid)
                {
                    self.events.push_back(CancelEvent::Told(pid));
                }
            }
            // What the parties say to each other is none of the organizer's business.
            _ => {}
        }
        Ok(())
    }

    /// The listed party that proved itself.
    fn judge_proof(&self, auth: &str, local: PeerId, remote: PeerId) -> Result<Pid, Rejection> {
        let not_member = |text: &str| Rejection::new(Code::NotMember, "S5", text);
        let hello = Unverified::<Hello>::parse(auth)?;
        let did = hello.issuer().clone();
        let subject = &self.invitation.subject;
        let (Some(pid), Some(keys)) = (subject.pid_of(&did), self.parties.get(&did)) else {
            return Err(
                not_member("somebody who is not a party answers in the session").about(did),
            );
        };
        let hello = hello.verify(keys, self.clock.0)?;
        if !subject.parties[pid.index()]
            .keys
            .contains(&hello.key().thumbprint())
        {
            let text = "signed by a key that the invitation does not pin";
            return Err(Rejection::new(Code::Kid, "C9", text).about(did));
        }
        if hello.sid != subject.sid || hello.local != remote || hello.remote != local {
            let text = "a link proof was made for another connection";
            return Err(Rejection::new(Code::Peer, "S5", text).about(did));
        }
        Ok(pid)
    }

    /// Says what this link waits for, again if it was said before.
    fn say(&mut self, link: LinkId) {
        let Some(entry) = self.links.get(&link) else {
            return;
        };
        let LinkKind::Overlay { local, remote } = entry.kind else {
            return;
        };
        let tag = hello_tag(&self.secret, &local, &remote);
        let told = entry.pid().is_some_and(|pid| self.told.contains(&pid));
        let frames = match &entry.handshake {
            Handshake::Hello => vec![Some(Frame::Hello { tag })],
            Handshake::Proof => vec![Some(Frame::Hello { tag }), self.proof(local, remote)],
            // The other end may not have seen our proof yet; it reads the cancel only after it.
            Handshake::Proven(_) if !told => vec![
                self.proof(local, remote),
                Some(Frame::Statements {
                    jws: vec![self.cancel.text().to_string()],
                }),
            ],
            _ => Vec::new(),
        };
        for frame in frames.into_iter().flatten() {
            self.transmits.push_back((link, frame.encode()));
        }
    }

    fn proof(&self, local: PeerId, remote: PeerId) -> Option<Frame> {
        let (iat, sid, inv) = (
            self.clock.0,
            self.invitation.subject.sid,
            self.invitation.digest(),
        );
        let hello = Hello {
            v: PROTOCOL_VERSION,
            iss: self.key.did(),
            sid,
            inv,
            local,
            remote,
            iat,
            exp: iat.plus_seconds(HELLO_LIFETIME_SECONDS),
        };
        let auth = sign(hello, &self.key).ok()?.text().to_string();
        Some(Frame::Proof { sid, inv, auth })
    }

    fn close(&mut self, link: LinkId, ban: bool) {
        if self.links.remove(&link).is_some() {
            self.events.push_back(CancelEvent::CloseLink { link, ban });
        }
    }
}

impl Drop for Canceller {
    fn drop(&mut self) {
        self.keys.wipe();
    }
}
