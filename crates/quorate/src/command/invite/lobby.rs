//! `invite --seats N`: an open call, a ticket, and a person who admits by name.
//!
//! ```text
//! call ─► ticket ─► applied … admitted (or refused) … ─► all seats taken ─► closed invitation ─► take part
//! ```
//! While a person thinks about one application, others arrive, applicants leave, and Ctrl-C works. A
//! question about somebody who left is withdrawn, and what is typed then answers nothing.

use std::{collections::VecDeque, time::Duration};

use quorate_identity::{Code, Did, Verified, sign};
use quorate_node::{
    control::{Command, Control},
    files::{Contacts, check_petname, keep_issued, petname_of},
    lobby::{self, ApplicantId, HostConfig, HostEvent, HostHandle},
    party::Stop,
};
use quorate_session::{
    Bundle, CallDraft, PartyDraft, ProgramSource, RendezvousSecret,
    message::{Call, close},
};
use serde_json::Value;
use tokio::{sync::mpsc, task::JoinHandle};
use zeroize::Zeroizing;

use super::{
    admission::{Admission, Rule},
    people::party,
    seats,
    terms::{Terms, random},
};
use crate::{
    args::{InviteArgs, QrWhen},
    consent::{self, Terminal, is_yes},
    failure::Failure,
    invitation::{self, now, program_lines},
    part::{Claim, Invited, Options, User, reach, returning, sending_line, stopped},
    qr::TicketCode,
    text,
    waiting::Waiting,
};

/// After this long without anybody, the next step is said too.
const HINT_AFTER: Duration = Duration::from_mins(1);
/// After the seats are filled, the others have this long to join, in seconds.
const JOIN_WITHIN_SECONDS: u64 = 15 * 60;
/// How long the lobby is kept for those who do not hold the closed invitation yet.
const DELIVER_WITHIN: Duration = Duration::from_mins(15);

/// After a question disappeared, the next one waits this long: an answer may have been on its way.
const ASK_PAUSE: Duration = Duration::from_secs(1);
/// The next step where a call ended.
const NEW_TICKET: &str = "nobody lost anything; run the command again for a new ticket";
/// The highest number that is added to a name that is taken.
const MAX_NUMBERED: u32 = 999;
/// Characters of a name that leave room for such a number.
const NUMBERED_CHARS: usize = 28;

/// Somebody who asks for a seat.
struct Applicant {
    id: ApplicantId,
    did: Did,
    claimed: String,
    words: String,
    card: Option<String>,
}

/// Somebody who has a seat.
struct Guest {
    id: ApplicantId,
    name: String,
    claim: Claim,
}

/// A question to the person and the terminal it comes back with.
type Asking = JoinHandle<(Terminal, Option<String>)>;

struct Lobby<'u, 'g> {
    user: &'u User<'g>,
    me: Option<PartyDraft>,
    call: Verified<Call>,
    /// Go into the closed invitation: where those who know each other from here only meet again.
    relays: Vec<String>,
    handle: HostHandle,
    events: mpsc::Receiver<HostEvent>,
    rule: Admission,
    contacts: Contacts,
    pending: VecDeque<Applicant>,
    guests: Vec<Guest>,
    terminal: Option<Terminal>,
    asking: Option<Asking>,
    /// The open question, and the name that it offers.
    question: Option<(String, String)>,
    /// A question disappeared while somebody may have been answering it.
    withdrew: bool,
    waiting: Waiting<'g>,
    desk: Control,
}

/// Opens the seats, admits, and gives the closed invitation once all are taken. The lobby lives on for
/// those who do not have it yet.
pub async fn fill_seats(
    user: &User<'_>,
    args: &InviteArgs,
    seats: u16,
    terms: &Terms,
    options: &Options,
    name: &str,
) -> Result<Invited, Failure> {
    let rule = Admission::parse(&args.admit)?;
    let terminal = Terminal::open(user.global);
    if terminal.is_none() && rule.asks_somebody() {
        return Err(
            Failure::new(Code::Declined, "nobody could be asked whom to admit")
                .hint("say it beforehand: --admit all, or --admit NAME=DID for each"),
        );
    }
    let me = party(name, &user.identity.key.did())?;
    let secret = Zeroizing::new(random()?);
    let call = sign_call(user, seats, terms, &me, &secret)?;
    let contacts = user.contacts()?;
    let desk = seats::open(&user.home, &call)?;
    let source = terms.source()?;
    let (handle, events) = lobby::host(HostConfig {
        call: call.clone(),
        overlay_secret: secret,
        scope: options.overlay_scope(),
        program: source.clone(),
        contacts: contacts.all().iter().map(|c| c.did.clone()).collect(),
        hints: args.hint.clone(),
        reach: options.reach.clone().shown_by(&user.identity.key),
    })
    .await?;
    show_call(user, &call, args, (&handle, source.as_ref()))?;
    let mut lobby = Lobby {
        user,
        me: Some(me),
        call,
        relays: terms.relays.clone(),
        handle,
        events,
        rule,
        contacts,
        pending: VecDeque::new(),
        guests: Vec::new(),
        terminal,
        asking: None,
        question: None,
        withdrew: false,
        waiting: Waiting::new(user.global, HINT_AFTER),
        desk,
    };
    match lobby.until_full().await {
        Ok(mut invited) => {
            lobby.waiting.end();
            let Lobby {
                handle,
                events,
                desk,
                ..
            } = lobby;
            if options.detach {
                // The process in the background opens its own.
                desk.close().await?;
                // What goes on in the background does not know the lobby.
                user.unless_stopped(async {
                    deliver(handle, events).await;
                    Ok(())
                })
                .await?;
            } else {
                tokio::spawn(deliver(handle, events));
                invited.control = Some(desk);
            }
            Ok(invited)
        }
        Err(failure) => {
            lobby.waiting.end();
            lobby.withdraw_question();
            // Whoever waits is told.
            lobby.handle.stop().await;
            seats::close(&user.home, lobby.desk, &failure).await;
            Err(failure)
        }
    }
}

fn sign_call(
    user: &User<'_>,
    seats: u16,
    terms: &Terms,
    me: &PartyDraft,
    secret: &[u8; 32],
) -> Result<Verified<Call>, Failure> {
    let mut later = terms.clone();
    later.expires += Duration::from_secs(JOIN_WITHIN_SECONDS);
    let draft = later
        .draft(user.identity.key.did(), vec![me.clone()])
        .or_else(|_| terms.draft(user.identity.key.did(), vec![me.clone()]))?;
    let apply_by = now().plus_seconds(i64::try_from(terms.expires.as_secs()).unwrap_or(i64::MAX));
    let call = CallDraft {
        apply_by: apply_by.min(draft.time.join_by),
        terms: draft,
        seats,
        name: me.name.clone(),
        peer: lobby::peer_of(secret),
    };
    Ok(sign(call.build(random()?)?, &user.identity.key)?)
}

/// What the inviter sees first: the call, and the ticket to hand out.
fn show_call(
    user: &User<'_>,
    call: &Verified<Call>,
    args: &InviteArgs,
    (handle, source): (&HostHandle, Option<&ProgramSource>),
) -> Result<(), Failure> {
    let subject = &call.subject;
    let ticket = handle.ticket();
    user.event(
        "ticket",
        &[
            ("ticket", ticket.encode().into()),
            ("link", ticket.link().into()),
            ("digest", call.digest().to_string().into()),
            ("seats", subject.mpc.m.into()),
            ("apply_by", subject.time.apply_by.rfc3339().into()),
            ("addresses", handle.addresses().to_vec().into()),
        ],
    );
    user.show([text::row(
        "you are",
        &format!("\"{}\"  {}", text::name(&subject.name), call.issuer),
    )]);
    user.show(program_lines(&subject.program, &subject.mpc));
    user.show(source.map(sending_line));
    let others = subject.free_seats();
    user.show([
        text::row(
            "parties",
            &format!(
                "{} (you + {others}), {}",
                subject.mpc.m,
                invitation::threshold_line(subject.mpc.t)
            ),
        ),
        text::row(
            "open for",
            &format!(
                "{}   (until {})",
                text::duration(subject.time.apply_by.0 - now().0),
                subject.time.apply_by.rfc3339()
            ),
        ),
        String::new(),
        "  Send this to the others; it is not a secret, you admit each one:".into(),
        String::new(),
        format!("    quorate join {}", ticket.encode()),
        String::new(),
        format!("    {}", ticket.link()),
        String::new(),
    ]);
    show_code(user, args, handle)
}

fn show_code(user: &User<'_>, args: &InviteArgs, handle: &HostHandle) -> Result<(), Failure> {
    use std::io::IsTerminal;
    let drawn = match args.qr {
        QrWhen::Always => true,
        QrWhen::Auto => std::io::stderr().is_terminal(),
        QrWhen::Never => false,
    };
    if !drawn && args.qr_file.is_none() {
        return Ok(());
    }
    let code = TicketCode::new(handle.ticket())?;
    if drawn {
        user.show(code.lines());
    }
    if let Some(file) = &args.qr_file {
        code.write_png(file)?;
        user.show([text::row(
            "QR code",
            &format!("written to {}", file.display()),
        )]);
    }
    Ok(())
}

impl Lobby<'_, '_> {
    async fn until_full(&mut self) -> Result<Invited, Failure> {
        self.show_waiting();
        let mut stop = self.user.stop.clone();
        loop {
            self.decide_next().await?;
            self.report_standing();
            tokio::select! {
                biased;
                _ = stop.wait_for(|s| *s != Stop::No) => return Err(stopped()),
                answer = answered(&mut self.asking) => self.on_answer(answer).await?,
                event = self.events.recv() => match event {
                    None => return Err(Failure::new(Code::Internal, "the lobby ended")),
                    Some(HostEvent::Full) => {
                        if let Some(invited) = self.seal().await? {
                            return Ok(invited);
                        }
                    }
                    Some(HostEvent::Closed(rejection)) => return Err(Failure::from(rejection)
                        .hint(NEW_TICKET)),
                    Some(event) => self.on_event(event),
                },
                Some(command) = self.desk.command() => return Err(obey(command)),
                () = self.waiting.tick() => {}
            }
        }
    }

    /// Writes who sits where, for `quorate status`.
    fn report_standing(&self) {
        let me = self.me.as_ref().map(|me| (me.name.as_str(), &me.did));
        let guests = self.guests.iter().map(|g| (g.name.as_str(), &g.claim.did));
        let asked = self.pending.iter().map(|a| (a.claimed.as_str(), &a.did));
        let parties = seats::parties(me, guests, asked, self.call.subject.seats());
        self.desk.board().update(|status| status.parties = parties);
    }

    fn on_event(&mut self, event: HostEvent) {
        match event {
            HostEvent::Applied {
                id,
                did,
                name,
                words,
                card,
            } => self.on_applied(id, did, name, &words, card.map(|c| c.text().to_string())),
            HostEvent::Left { id, did } => self.on_left(id, &did),
            HostEvent::Refused(rejection) => {
                tracing::info!(%rejection.detail, code = %rejection.code, "refused in the lobby");
            }
            HostEvent::Note(note) => self.waiting.aside(|| self.user.note(&note)),
            HostEvent::Listening { address } => tracing::debug!(%address, "the lobby listens"),
            _ => {}
        }
    }

    fn on_applied(
        &mut self,
        id: ApplicantId,
        did: Did,
        claimed: String,
        words: &[&str],
        card: Option<String>,
    ) {
        let applicant = Applicant {
            id,
            words: words.join(" "),
            card,
            claimed,
            did,
        };
        self.user.event(
            "applied",
            &[
                ("did", applicant.did.to_string().into()),
                ("name", applicant.claimed.clone().into()),
                ("words", applicant.words.clone().into()),
            ],
        );
        let line = text::row("asks", &self.describe(&applicant));
        self.aside(line);
        self.queue(applicant);
    }

    /// Contacts are asked about before strangers, in the order in which they came; a question that is open stays.
    fn queue(&mut self, applicant: Applicant) {
        let known = |a: &Applicant| self.contacts.by_did(&a.did).is_some();
        let place = if known(&applicant) {
            let open = usize::from(self.asking.is_some());
            let later = self.pending.iter().skip(open).position(|a| !known(a));
            later.map_or(self.pending.len(), |place| place + open)
        } else {
            self.pending.len()
        };
        self.pending.insert(place, applicant);
    }

    /// Who it is that asks, with everything by which a person tells applicants apart.
    fn describe(&self, applicant: &Applicant) -> String {
        let mark = match (
            self.contacts.by_did(&applicant.did),
            self.contacts.imitates(&applicant.claimed, &applicant.did),
        ) {
            (Some(contact), _) => format!("your contact [{}]", contact.name),
            (None, Some(other)) => format!("(!) not your contact [{other}]"),
            (None, None) => "not in your contacts".into(),
        };
        format!(
            "\"{}\"  {}  {mark}   words: {}",
            text::name(&applicant.claimed),
            applicant.did,
            applicant.words
        )
    }

    /// The name that is offered: the petname of a contact, else one that nobody has.
    fn suggestion(&self, applicant: &Applicant) -> String {
        match self.contacts.by_did(&applicant.did) {
            Some(contact) => contact.name.clone(),
            None => self.free_name(&petname_of(&applicant.claimed), &applicant.did),
        }
    }

    fn on_left(&mut self, id: ApplicantId, did: &Did) {
        let asked_now = self.pending.front().is_some_and(|a| a.id == id);
        if asked_now {
            self.withdraw_question();
        }
        let pending = self
            .pending
            .iter()
            .find(|a| a.id == id)
            .map(|a| a.claimed.clone());
        let guest = self
            .guests
            .iter()
            .find(|g| g.id == id)
            .map(|g| g.claim.name.clone());
        let Some(name) = pending.or(guest) else {
            return;
        };
        self.pending.retain(|a| a.id != id);
        self.guests.retain(|g| g.id != id);
        self.user
            .event("withdrawn", &[("did", did.to_string().into())]);
        self.aside(text::row(
            "left",
            &format!("\"{}\"  {did}", text::name(&name)),
        ));
        self.show_waiting();
    }

    /// The next application that is not decided yet: by rule, or by asking.
    async fn decide_next(&mut self) -> Result<(), Failure> {
        while self.asking.is_none() {
            let Some(applicant) = self.pending.front() else {
                return Ok(());
            };
            let rule = match self.rule.about(&applicant.did) {
                Rule::Admit(name) => Some(Some(name)),
                Rule::Refuse => Some(None),
                Rule::Ask => None,
            };
            match rule {
                Some(Some(name)) => {
                    let name = name.unwrap_or_else(|| self.suggestion(applicant));
                    let name = self.free_name(&name, &applicant.did);
                    self.admit(name).await?;
                }
                Some(None) => self.refuse().await,
                None => {
                    self.ask();
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn ask(&mut self) {
        let terminal = self
            .terminal
            .take()
            .or_else(|| Terminal::open(self.user.global));
        let (Some(mut terminal), Some(applicant)) = (terminal, self.pending.front()) else {
            return;
        };
        // The question names whom it is about by all that the `asks` line says: other applications may
        // have come in between, and two people may call themselves the same.
        let suggestion = self.suggestion(applicant);
        let question = format!(
            "  Admit {}   as [{suggestion}]? [y/N/another name]  ",
            self.describe(applicant)
        );
        self.waiting.end();
        let pause = std::mem::take(&mut self.withdrew).then_some(ASK_PAUSE);
        self.question = Some((question.clone(), suggestion));
        self.asking = Some(tokio::spawn(async move {
            // What is being typed at this moment was meant for the question that is gone.
            if let Some(pause) = pause {
                tokio::time::sleep(pause).await;
            }
            let answer = terminal.ask(&question).await;
            (terminal, answer)
        }));
    }

    async fn on_answer(
        &mut self,
        answer: Option<(Terminal, Option<String>)>,
    ) -> Result<(), Failure> {
        self.asking = None;
        let Some((terminal, answer)) = answer else {
            return Ok(());
        };
        self.terminal = Some(terminal);
        let (Some(applicant), Some((_, suggestion))) = (self.pending.front(), self.question.take())
        else {
            return Ok(());
        };
        let did = applicant.did.clone();
        let answer = answer.unwrap_or_default();
        match answer.to_ascii_lowercase().as_str() {
            _ if is_yes(&answer) => {
                let name = self.free_name(&suggestion, &did);
                self.admit(name).await?;
            }
            "" | "n" | "no" => self.refuse().await,
            _ => match self.check_name(&answer, &did) {
                Ok(()) => self.admit(answer).await?,
                // Asked again, since nothing was decided.
                Err(why) => self.aside(text::row("name", &why)),
            },
        }
        Ok(())
    }

    /// A name for `did`: fit, and not the name of another person.
    fn check_name(&self, name: &str, did: &Did) -> Result<(), String> {
        check_petname(name).map_err(|e| e.to_string())?;
        let others = self.contacts.by_name(name).is_some_and(|c| c.did != *did);
        if others
            || self
                .guests
                .iter()
                .any(|g| g.name.eq_ignore_ascii_case(name))
        {
            return Err(format!("[{name}] is somebody else; choose another name"));
        }
        Ok(())
    }

    /// `wish`, or the first numbered form of it that nobody has.
    fn free_name(&self, wish: &str, did: &Did) -> String {
        let short: String = wish.chars().take(NUMBERED_CHARS).collect();
        let numbered = (2..=MAX_NUMBERED).map(|n| format!("{short}-{n}"));
        std::iter::once(wish.to_owned())
            .chain(numbered)
            .find(|name| self.check_name(name, did).is_ok())
            .unwrap_or_else(|| wish.to_owned())
    }

    async fn admit(&mut self, name: String) -> Result<(), Failure> {
        let Some(applicant) = self.pending.pop_front() else {
            return Ok(());
        };
        if let Err(why) = self.handle.admit(applicant.id).await {
            // It left, or the last seat went to another in this moment.
            self.aside(text::row(
                "note",
                &format!("\"{}\": {why}", text::name(&applicant.claimed)),
            ));
            return Ok(());
        }
        let members: [(&str, Value); 2] = [
            ("did", applicant.did.to_string().into()),
            ("as", name.clone().into()),
        ];
        self.user.event("seated", &members);
        self.aside(text::row(
            "admitted",
            &format!("[{name}]  {}", applicant.did),
        ));
        self.guests.push(Guest {
            id: applicant.id,
            name,
            claim: Claim {
                did: applicant.did,
                name: applicant.claimed,
                card: applicant.card,
            },
        });
        self.show_waiting();
        Ok(())
    }

    async fn refuse(&mut self) {
        let Some(applicant) = self.pending.pop_front() else {
            return;
        };
        // Whoever left meanwhile needs no answer.
        let _ = self
            .handle
            .refuse(applicant.id, "the inviter said no")
            .await;
        self.user
            .event("refused-seat", &[("did", applicant.did.to_string().into())]);
        self.aside(text::row(
            "refused",
            &format!("\"{}\"  {}", text::name(&applicant.claimed), applicant.did),
        ));
        self.show_waiting();
    }

    /// All seats are taken: the closed invitation names exactly these DIDs. `None` if somebody has left meanwhile.
    async fn seal(&mut self) -> Result<Option<Invited>, Failure> {
        self.waiting.end();
        self.withdraw_question();
        let order = self.handle.admitted().await;
        let seated = |g: &Guest| order.contains(&g.claim.did);
        if self.guests.len() != order.len() || !self.guests.iter().all(seated) {
            return Ok(None);
        }
        self.guests
            .sort_by_key(|g| order.iter().position(|did| *did == g.claim.did));
        let mut parties: Vec<PartyDraft> = self.me.clone().into_iter().collect();
        for guest in &self.guests {
            parties.push(party(&guest.name, &guest.claim.did)?);
        }
        let secret = RendezvousSecret::new(random()?);
        let closed = close(
            &self.call,
            parties,
            self.relays.clone(),
            random()?,
            random()?,
            &secret,
            now(),
        )?;
        let invitation = sign(closed, &self.user.identity.key)?;
        let bundle = Bundle {
            invitation: invitation.text().to_string(),
            hints: reach::meeting_hints(
                &invitation.subject.rendezvous.relays,
                &self.user.identity.key,
                &secret,
            ),
            secret,
            program: None,
        };
        // Whoever cancels has to find the parties again, also after a crash of this process.
        keep_issued(&self.user.home, &bundle, &invitation.digest().to_string())?;
        // And whoever inviting was killed comes back as the others do.
        returning::begin(self.user, &invitation, &bundle)?;
        if let Err(rejection) = self.handle.seal(&bundle).await {
            // The lobby's next event says who left, or that it is over.
            tracing::info!(%rejection.detail, "not sealed");
            returning::undo(self.user, &invitation);
            return Ok(None);
        }
        self.user.event(
            "invitation",
            &[
                ("digest", invitation.digest().to_string().into()),
                ("from", invitation.issuer.to_string().into()),
            ],
        );
        let names: Vec<_> = self
            .guests
            .iter()
            .map(|g| format!("[{}]", g.name))
            .collect();
        self.user.show([text::row(
            "closed",
            &format!("you, {}; nobody else can join", names.join(", ")),
        )]);
        Ok(Some(Invited {
            invitation,
            bundle,
            claims: self.guests.drain(..).map(|g| g.claim).collect(),
            delivery: None,
            control: None,
            program: None,
        }))
    }

    fn withdraw_question(&mut self) {
        if let Some(asking) = self.asking.take() {
            // The terminal goes with it; a new one is opened for the next question.
            asking.abort();
            self.question = None;
            self.withdrew = true;
            self.user.show([String::new()]);
        }
    }

    fn show_waiting(&mut self) {
        if self.asking.is_some() {
            return;
        }
        let seats = self.call.subject.seats();
        let there = self.guests.len() + usize::from(self.me.is_some());
        if there < seats {
            self.waiting.begin(
                "waiting",
                &format!("{there}/{seats} seats taken"),
                "have the others run `quorate join` with the ticket? Ctrl-C closes the call",
            );
        }
    }

    /// Shows a line; a question that is open stands below it again.
    fn aside(&self, line: String) {
        self.waiting.aside(|| self.user.show([line]));
        if let Some((question, _)) = &self.question {
            consent::show_again(question);
        }
    }
}

/// What another command of this user wants of a call: both mean that there will be no session.
fn obey(command: Command) -> Failure {
    match command {
        Command::Leave(reply) => {
            reply.send(Ok(()));
            Failure::new(Code::Left, "you left before the seats were filled").hint(NEW_TICKET)
        }
        Command::Cancel { reason, reply } => {
            reply.send(Ok(()));
            let why = format!("you cancelled the call: {}", text::foreign(&reason));
            Failure::new(Code::Cancelled, why).hint(NEW_TICKET)
        }
    }
}

async fn answered(asking: &mut Option<Asking>) -> Option<(Terminal, Option<String>)> {
    match asking {
        Some(task) => task.await.ok(),
        None => std::future::pending().await,
    }
}

/// Keeps the lobby until everybody holds the closed invitation.
async fn deliver(handle: HostHandle, mut events: mpsc::Receiver<HostEvent>) {
    let all = async {
        while let Some(event) = events.recv().await {
            if matches!(event, HostEvent::AllDelivered | HostEvent::Closed(_)) {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(DELIVER_WITHIN, all).await;
    handle.stop().await;
}
