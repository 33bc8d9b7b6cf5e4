//! The public calls: what happened outside, what is wanted, when to come back.

use super::{
    Deadlines, Event, Held, HeldWhat, Misuse, PersistToken, Resolution, Session, Setup, Stage,
    Usage, weak,
};
use crate::{
    checks::{check_controllers, check_fingerprint},
    keys::EpochKeys,
    ledger::Ledger,
    limits::{
        MAX_SIGNAL_BYTES, MAX_SIGNALS, PERSIST_TIMEOUT, RESOLVE_RETRY, RESYNC_INTERVAL,
        RESYNC_PER_PARTY,
    },
    link::{Frame, LinkId},
    message::{
        JOIN_KEM, Join, KemKey, PROTOCOL_VERSION, Pid, check_envelope, peer_signature_input,
    },
    statement::Statement,
    stored::Stored,
};
use chacha20::ChaCha20Rng;
use quorate_identity::{
    B64, CLOCK_SKEW_SECONDS, Code, Did, Rejection, ResolvedDid, Subject, UnixMillis, UnixTime, sign,
};
use rand_core::SeedableRng;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};
use zeroize::Zeroize;

impl Session {
    /// Judges the invitation for this party; refuses before anything is sent: `E_NOT_INVITED`, `E_TIME`, `E_LIMIT`,
    /// `E_THRESHOLD`, `E_CONTROLLER`, `E_PROGRAM`, `E_RUNTIME`, `E_REPLAY`, `E_FORMAT` (a secret of another session).
    pub fn new(setup: Setup, at: UnixTime, now: Instant) -> Result<Self, Rejection> {
        let (me, stored) = judge(&setup, at)?;
        Ok(Self::build(setup, me, stored, at, now))
    }

    pub(super) fn build(
        mut setup: Setup,
        me: Pid,
        stored: Stored,
        at: UnixTime,
        now: Instant,
    ) -> Self {
        let invitation = setup.invitation;
        let mut rng = ChaCha20Rng::from_seed(setup.seed);
        setup.seed.zeroize();
        let times = invitation.subject.time;
        let until =
            |time: UnixTime| now + Duration::from_secs(u64::try_from(time.0 - at.0).unwrap_or(0));
        let parties = invitation.subject.parties.len();
        Self {
            inv: invitation.digest(),
            me,
            secret: setup.secret,
            key: setup.key,
            fingerprint: setup.fingerprint,
            keys: EpochKeys::generate(&mut rng),
            rng,
            ledger: Ledger::new(
                parties,
                invitation.subject.policy.rejoin,
                stored.epochs.clone(),
            ),
            stored,
            stage: Stage::Invited,
            run: None,
            unsent_receipt: None,
            links: BTreeMap::new(),
            peers: super::peers::Peers::default(),
            resolutions: BTreeMap::new(),
            unresolved: VecDeque::new(),
            asked: BTreeMap::new(),
            held: BTreeMap::new(),
            next_token: 0,
            signals_out: BTreeMap::new(),
            signals_in: BTreeMap::new(),
            obstacle: None,
            phases: BTreeMap::new(),
            reported: None,
            deadlines: Deadlines {
                join: until(times.join_by),
                start: until(times.start_by),
                end: until(times.end_by),
            },
            clock: (at, now),
            resync_at: None,
            start_held: false,
            news: BTreeSet::new(),
            news_at: None,
            events: VecDeque::new(),
            transmits: VecDeque::new(),
            transmit_bytes: 0,
            usage: Usage::default(),
            invitation,
            #[cfg(feature = "broken-variants")]
            weaknesses: BTreeSet::new(),
        }
    }

    /// The user, or the user's policy, approved: take part.
    pub fn join(&mut self, at: UnixMillis, now: Instant) -> Result<(), Misuse> {
        if !matches!(self.stage, Stage::Invited) {
            return Err(Misuse::NotInvited);
        }
        self.set_clock(at.seconds(), now);
        if self.is_done_before() {
            self.settle_run(now);
            self.settle(now);
            return Ok(());
        }
        self.stage = Stage::Joining;
        let epoch = UnixMillis(at.0.max(self.stored.epoch.0 + 1));
        if epoch.0 - at.0 > crate::limits::MAX_EPOCH_AHEAD_MS {
            let text = "this machine's clock is behind the epoch it used before";
            self.fail(Code::Clock, None, text, false, now);
        } else {
            self.stored.epoch = epoch;
            self.persist(HeldWhat::Join { iat: at.seconds() }, now);
            self.resync_at = Some(now + self.resync_interval());
            self.ask_for_all();
            self.open_held_links();
        }
        self.settle(now);
        Ok(())
    }

    /// The answer to [`Event::Resolve`].
    pub fn handle_resolved(
        &mut self,
        did: &Did,
        result: Result<ResolvedDid, Rejection>,
        at: UnixTime,
        now: Instant,
    ) {
        self.set_clock(at, now);
        match result {
            Ok(keys) if keys.did == *did => {
                self.resolutions
                    .insert(did.clone(), Resolution::Known { keys, since: now });
                self.resume_links_of(did, now);
                self.resume_statements_of(did, now);
            }
            Ok(_) => self.alarm("a resolver answered for another DID"),
            Err(rejection) => {
                let retry_at = now + RESOLVE_RETRY;
                self.resolutions
                    .insert(did.clone(), Resolution::Failed { retry_at });
                self.drop_waiting_for(did, &rejection);
            }
        }
        self.settle(now);
    }

    /// The answer to [`Event::Persist`].
    pub fn handle_persisted(&mut self, token: PersistToken, ok: bool, now: Instant) {
        let Some(held) = self.held.remove(&token) else {
            return;
        };
        match (ok, held.what) {
            (_, HeldWhat::Nothing) => {}
            (_, HeldWhat::Receipt) => self.send_receipt(now),
            (true, what) => self.release(what, now),
            (false, _) => self.fail(
                Code::Disk,
                None,
                "the session's record could not be stored",
                true,
                now,
            ),
        }
        self.settle(now);
    }

    /// Hands path information to the path agent of party `to`, over a proven direct overlay link; kept, within a bound,
    /// while there is none.
    pub fn signal(&mut self, to: Pid, data: Vec<u8>, now: Instant) {
        if data.len() > MAX_SIGNAL_BYTES || to == self.me || to.0 >= self.invitation.subject.mpc.m {
            self.alarm("a signal is too large or to nobody");
            return;
        }
        let queue = self.signals_out.entry(to).or_default();
        if queue.len() >= MAX_SIGNALS {
            queue.pop_front();
        }
        queue.push_back(data);
        self.flush_signals();
        self.settle(now);
    }

    /// What has to be done or may be shown.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// A frame to send.
    pub fn poll_transmit(&mut self) -> Option<(LinkId, Vec<u8>)> {
        let (link, bytes) = self.transmits.pop_front()?;
        self.transmit_bytes -= bytes.len();
        Some((link, bytes))
    }

    /// Uses this seed for the overlay identity of the first epoch, because others were told already where it will be.
    /// Made anew for this session, and used for nothing else.
    pub fn use_overlay_secret(&mut self, secret: &[u8; 32]) -> Result<(), Misuse> {
        if !matches!(self.stage, Stage::Invited) {
            return Err(Misuse::NotInvited);
        }
        self.keys.set_overlay_secret(secret);
        Ok(())
    }

    /// When to call `handle_timeout`, and what for.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        if matches!(self.stage, Stage::Invited | Stage::Closed) {
            return None;
        }
        let held = self
            .held
            .values()
            .map(|held| (held.deadline, "storing the record"));
        let links = self.links.values().filter(|link| link.proven().is_none());
        let links = links.map(|link| (link.deadline, "link handshake"));
        let resync = self
            .resync_at
            .into_iter()
            .chain(self.news_at)
            .chain(self.asking_timeout())
            .chain(self.peers.timeout())
            .map(|at| (at, "announcing"));
        held.chain(links)
            .chain(resync)
            .chain(self.stage_timeouts())
            .min_by_key(|(at, _)| *at)
    }

    fn stage_timeouts(&self) -> Vec<(Instant, &'static str)> {
        if weak!(self, NoTimeout) {
            return Vec::new();
        }
        match &self.stage {
            Stage::Invited | Stage::Closed => Vec::new(),
            Stage::Joining if self.obstacle.is_none() && self.ledger.all_joins().is_some() => {
                vec![(self.deadlines.start, "a DID has to be resolved")]
            }
            Stage::Joining => vec![(self.deadlines.join, "all have to join")],
            Stage::Confirming(_) => vec![(self.deadlines.start, "all have to confirm")],
            Stage::Meshed(_, mesh) => mesh.timeouts(&self.deadlines),
            Stage::Closing(closing) => vec![(closing.until, "receipts")],
            Stage::Settling(settling) => vec![(settling.until, "receipts")],
        }
    }

    /// Time passed.
    pub fn handle_timeout(&mut self, at: UnixTime, now: Instant) {
        self.set_clock(at, now);
        if matches!(self.stage, Stage::Invited | Stage::Closed) {
            return;
        }
        let overdue = |held: &&Held| held.deadline <= now;
        let overdue: Vec<HeldWhat> = self.held.values().filter(overdue).map(|h| h.what).collect();
        if overdue.iter().any(|what| matches!(what, HeldWhat::Receipt)) {
            self.held
                .retain(|_, held| !matches!(held.what, HeldWhat::Receipt));
            self.send_receipt(now);
        } else if !overdue.is_empty() {
            self.fail(
                Code::Disk,
                None,
                "storing the session's record takes too long",
                true,
                now,
            );
        }
        self.close_slow_links(now);
        self.ask_others(now);
        self.hear_early(now);
        self.tell_peers(now);
        if self.news_at.is_some_and(|at| at <= now) {
            self.announce_news(now);
        }
        if self.resync_at.is_some_and(|at| at <= now) {
            self.resync_at = Some(now + self.resync_interval());
            self.ask_again(now);
            self.resync(now);
        }
        if !weak!(self, NoTimeout) {
            self.expire(now);
        }
        self.settle(now);
    }

    /// Wall time, carried on from the last call that brought it.
    pub(super) fn wall(&self, now: Instant) -> UnixTime {
        let (at, then) = self.clock;
        at.plus_seconds(i64::try_from(now.saturating_duration_since(then).as_secs()).unwrap_or(0))
    }

    pub(super) fn set_clock(&mut self, at: UnixTime, now: Instant) {
        self.clock = (at, now);
    }

    /// Does whatever has become possible; every public mutation ends here.
    pub(super) fn settle(&mut self, now: Instant) {
        if !matches!(self.stage, Stage::Invited | Stage::Closed) {
            self.obey(now);
            self.notice_end_of_others(now);
            self.agree(now);
            self.install(now);
            self.start(now);
            self.finish(now);
            self.finish_settling(now);
            self.flush_signals();
        }
        self.report_changes();
    }

    /// Stores the record; `what` is done when it is stored.
    pub(super) fn persist(&mut self, what: HeldWhat, now: Instant) {
        let token = PersistToken(self.next_token);
        self.next_token += 1;
        self.stored.epochs = self.ledger.next_floors();
        self.emit(Event::Persist {
            token,
            record: self.stored.encode(),
        });
        if weak!(self, SkipPersist) {
            self.release(what, now);
        } else if !matches!(what, HeldWhat::Nothing) {
            self.held.insert(
                token,
                Held {
                    what,
                    deadline: now + PERSIST_TIMEOUT,
                },
            );
        }
    }

    /// Does what waited for the record.
    fn release(&mut self, what: HeldWhat, now: Instant) {
        match what {
            HeldWhat::Join { iat } => self.send_join(iat, now),
            HeldWhat::Confirm { roster, iat } => self.send_confirm(roster, iat, now),
            HeldWhat::Receipt | HeldWhat::Nothing => {}
        }
    }

    fn send_join(&mut self, iat: UnixTime, now: Instant) {
        if !matches!(self.stage, Stage::Joining) {
            return;
        }
        match sign(self.own_join(iat), &self.key) {
            Ok(join) => self.publish(&Statement::Join(Box::new(join)), now),
            Err(rejection) => self.alarm(&format!("our own join is refused: {rejection}")),
        }
    }

    fn own_join(&self, iat: UnixTime) -> Join {
        let epoch = self.stored.epoch;
        let (iss, wg) = (self.key.did(), self.keys.wireguard_public());
        let signature = self
            .keys
            .overlay_key()
            .sign_bytes(&peer_signature_input(&self.inv, &iss, epoch, &wg));
        Join {
            v: PROTOCOL_VERSION,
            iss,
            inv: self.inv,
            pid: self.me,
            epoch,
            n: self.keys.nonce,
            wg,
            kem: Some(KemKey {
                alg: JOIN_KEM.into(),
                ek: self.keys.encapsulation_key(),
            }),
            peer: self.keys.peer_id(),
            peer_sig: B64(signature),
            fp: self.fingerprint.clone(),
            iat,
            exp: self.invitation.subject.time.end_by.max(iat),
        }
    }

    /// How often everything held is announced to everybody: in a large group less often, because its lists are longer and
    /// there are more of them.
    fn resync_interval(&self) -> Duration {
        RESYNC_INTERVAL.max(RESYNC_PER_PARTY * u32::from(self.invitation.subject.mpc.m))
    }

    /// Asks for the keys of all parties and of the issuer, so that nothing has to wait for them later.
    pub(super) fn ask_for_all(&mut self) {
        let mut dids: Vec<Did> = self
            .invitation
            .subject
            .parties
            .iter()
            .map(|party| party.did.clone())
            .collect();
        dids.push(self.invitation.issuer.clone());
        for did in dids {
            self.ask_for(&did);
        }
    }

    /// Asks for a DID's keys unless they are known or asked for.
    pub(super) fn ask_for(&mut self, did: &Did) {
        if !self.resolutions.contains_key(did) {
            self.resolutions.insert(did.clone(), Resolution::Asked);
            self.emit(Event::Resolve(did.clone()));
        }
    }

    /// Asks again for what did not resolve.
    pub(super) fn ask_again(&mut self, now: Instant) {
        let due = |resolution: &Resolution| matches!(resolution, Resolution::Failed { retry_at } if *retry_at <= now);
        let failed = self
            .resolutions
            .iter()
            .filter(|(_, resolution)| due(resolution));
        for did in failed.map(|(did, _)| did.clone()).collect::<Vec<_>>() {
            self.resolutions.remove(&did);
            self.ask_for(&did);
        }
    }

    pub(super) fn keys_of(&self, did: &Did) -> Option<&ResolvedDid> {
        match self.resolutions.get(did)? {
            Resolution::Known { keys, .. } => Some(keys),
            Resolution::Asked | Resolution::Failed { .. } => None,
        }
    }

    pub(super) fn alarm(&mut self, text: &str) {
        self.emit(Event::Alarm(text.to_owned()));
    }

    /// Sends waiting signals over links that can take them.
    pub(super) fn flush_signals(&mut self) {
        let Stage::Meshed(agreement, _) = &self.stage else {
            return;
        };
        let roster = agreement.roster.digest();
        let mut frames = Vec::new();
        for (pid, queue) in &mut self.signals_out {
            let peer = agreement.roster.member(*pid).map(|member| member.peer);
            let link = self
                .links
                .iter()
                .find(|(_, link)| link.pid() == Some(*pid) && link.remote_peer() == peer);
            if let Some((id, _)) = link {
                frames.extend(
                    queue
                        .drain(..)
                        .map(|data| (*id, Frame::signal(roster, &data))),
                );
            }
        }
        for (link, frame) in frames {
            self.transmit(link, &frame);
        }
    }
}

/// The secret is that of the invitation.
pub(super) fn judge_secret(setup: &Setup) -> Result<(), Rejection> {
    if setup.secret.commitment() == setup.invitation.subject.rendezvous.sc {
        return Ok(());
    }
    let text = "the bundle's secret is not that of its invitation";
    Err(Rejection::new(Code::Format, "S3", text))
}

/// Everything that can be judged before anything is sent.
fn judge(setup: &Setup, at: UnixTime) -> Result<(Pid, Stored), Rejection> {
    let (invitation, inv) = (&setup.invitation, setup.invitation.digest());
    let subject = &invitation.subject;
    let did = setup.key.did();
    let Some(me) = subject.pid_of(&did) else {
        let listed: Vec<&str> = subject
            .parties
            .iter()
            .map(|party| party.name.as_str())
            .collect();
        let text = format!(
            "you are not one of the parties ({}); you are {did}",
            listed.join(", ")
        );
        return Err(Rejection::new(Code::NotInvited, "S3", text));
    };
    subject.check()?;
    check_envelope(invitation)?;
    check_controllers(subject)?;
    judge_secret(setup)?;
    let party = &subject.parties[me.index()];
    if !party.keys.contains(&setup.key.public().thumbprint()) {
        return Err(Rejection::new(
            Code::Kid,
            "C9",
            "the invitation pins another key for you",
        ));
    }
    check_fingerprint(&setup.fingerprint, subject)?;
    if at > subject.time.join_by.plus_seconds(CLOCK_SKEW_SECONDS) || at >= subject.time.start_by {
        return Err(Rejection::new(
            Code::Time,
            "S3",
            format!(
                "joining was possible until {}",
                subject.time.join_by.rfc3339()
            ),
        ));
    }
    let stored = setup.stored.clone().unwrap_or_else(|| Stored::new(inv));
    if stored.inv != inv {
        return Err(Rejection::new(
            Code::State,
            "S11",
            "the stored record is that of another invitation",
        ));
    }
    if let Some(closure) = stored.closed {
        return Err(Rejection::new(
            Code::Replay,
            "S11",
            format!("this session is over ({closure:?})").to_lowercase(),
        ));
    }
    if stored.joins > u32::from(subject.policy.rejoin) {
        let text = format!("you joined this session {} times already", stored.joins);
        return Err(Rejection::new(Code::Limit, "S9", text));
    }
    Ok((me, stored))
}
