//! The lobby over real loopback sockets: ticket, call, admission, closed invitation.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends at the first surprise"
)]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use quorate_identity::{Code, Did, DidKeyResolver, Resolver, SigningKey, UnixTime, Verified, sign};
use quorate_node::{
    lobby::{
        ApplicantConfig, ApplicantEvent, ApplicantHandle, ApplicantId, HostConfig, HostEvent,
        HostHandle, apply, host, peer_of,
    },
    overlay::{Overlay, OverlayConfig, OverlayEvent, Purpose, Scope},
};
use quorate_session::{
    Bundle, CallDraft, InvitationDraft, PartyDraft, ProgramSource, RendezvousSecret, Ticket,
    message::{Call, Program, SameController, Times, close},
};
use tokio::{sync::mpsc::Receiver, time::timeout};
use zeroize::Zeroizing;

const SOON: Duration = Duration::from_mins(1);

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).unwrap();
    bytes
}

fn wall() -> UnixTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    UnixTime(i64::try_from(since.as_secs()).unwrap())
}

fn party(did: &Did, name: &str) -> PartyDraft {
    let keys = DidKeyResolver.resolve(did).unwrap().unwrap();
    PartyDraft {
        did: did.clone(),
        name: name.into(),
        keys: keys.keys.iter().map(|k| k.key.thumbprint()).collect(),
    }
}

fn source() -> ProgramSource {
    ProgramSource::new([("income.py", &b"print(2026)"[..])]).unwrap()
}

fn call(key: &SigningKey, overlay: &[u8; 32], seats: u16) -> Verified<Call> {
    let now = wall();
    let until = |minutes: i64| now.plus_seconds(60 * minutes);
    let terms = InvitationDraft {
        issuer: key.did(),
        title: "Income 2026".into(),
        purpose: String::new(),
        supersedes: None,
        parties: vec![party(&key.did(), "noord")],
        threshold: None,
        zero_threshold: false,
        prss: None,
        program: Program {
            manifest: source().digest(),
            entry: "income.py".into(),
            args: vec![],
            env: None,
        },
        engine: quorate_session::message::Engine::Mpyc,
        mpyc: "0.11".into(),
        python: "3.10".into(),
        word: 64,
        port: 11365,
        valid_from: now,
        valid_until: until(60),
        time: Times {
            join_by: until(20),
            start_by: until(30),
            end_by: until(60),
        },
        relays: vec![],
        path: quorate_session::message::PathPolicy::Any,
        same_controller: SameController::Refuse,
        rejoin: 3,
    };
    let draft = CallDraft {
        terms,
        seats,
        name: "Noord Hospital".into(),
        peer: peer_of(overlay),
        apply_by: until(10),
    };
    sign(draft.build(random()).unwrap(), key).unwrap()
}

/// An inviter with its lobby.
struct Inviter {
    key: SigningKey,
    call: Verified<Call>,
    overlay: [u8; 32],
    handle: HostHandle,
    events: Receiver<HostEvent>,
}

impl Inviter {
    async fn open(seats: u16) -> Self {
        let (key, overlay) = (SigningKey::from_seed(&random()), random());
        let call = call(&key, &overlay, seats);
        let (handle, events) = lobby(&call, overlay).await;
        Self {
            key,
            call,
            overlay,
            handle,
            events,
        }
    }

    async fn event(&mut self) -> HostEvent {
        loop {
            let event = timeout(SOON, self.events.recv())
                .await
                .expect("nothing happened")
                .unwrap();
            if !matches!(event, HostEvent::Listening { .. } | HostEvent::Note(_)) {
                return event;
            }
        }
    }

    /// Waits for an application of this DID and admits it; returns its words.
    async fn admit(&mut self, wanted: &Did) -> (ApplicantId, [&'static str; 3]) {
        loop {
            if let HostEvent::Applied { id, did, words, .. } = self.event().await
                && did == *wanted
            {
                self.handle.admit(id).await.unwrap();
                return (id, words);
            }
        }
    }

    async fn until(&mut self, wanted: impl Fn(&HostEvent) -> bool) -> HostEvent {
        loop {
            let event = self.event().await;
            if wanted(&event) {
                return event;
            }
        }
    }

    async fn seal(&self) -> Bundle {
        let mut parties = vec![party(&self.key.did(), "noord")];
        for did in self.handle.admitted().await {
            parties.push(party(&did, &format!("party-{}", parties.len())));
        }
        let secret = RendezvousSecret::new(random());
        let invitation = close(
            &self.call,
            parties,
            vec![],
            random(),
            random(),
            &secret,
            wall(),
        )
        .unwrap();
        let bundle = Bundle {
            invitation: sign(invitation, &self.key).unwrap().text().to_string(),
            secret,
            hints: vec![],
            program: None,
        };
        self.handle.seal(&bundle).await.unwrap();
        bundle
    }
}

async fn lobby(call: &Verified<Call>, overlay: [u8; 32]) -> (HostHandle, Receiver<HostEvent>) {
    let config = HostConfig {
        reach: quorate_node::overlay::Reach::default(),
        call: call.clone(),
        overlay_secret: Zeroizing::new(overlay),
        scope: Scope::Local,
        program: Some(source()),
        contacts: Vec::new(),
        hints: vec![],
    };
    host(config).await.unwrap()
}

/// Somebody with a ticket.
struct Guest {
    did: Did,
    handle: ApplicantHandle,
    events: Receiver<ApplicantEvent>,
}

impl Guest {
    async fn find(ticket: &Ticket, at: Vec<String>) -> Self {
        Self::with(SigningKey::from_seed(&random()), ticket, at).await
    }

    async fn with(key: SigningKey, ticket: &Ticket, at: Vec<String>) -> Self {
        let config = ApplicantConfig {
            reach: quorate_node::overlay::Reach::default(),
            key: key.clone(),
            // As it would come: through its text.
            ticket: ticket.encode().parse().unwrap(),
            scope: Scope::Local,
            at,
        };
        let (handle, events) = apply(config).await.unwrap();
        Self {
            did: key.did(),
            handle,
            events,
        }
    }

    async fn until(&mut self, wanted: impl Fn(&ApplicantEvent) -> bool) -> ApplicantEvent {
        loop {
            let event = timeout(SOON, self.events.recv())
                .await
                .expect("nothing happened")
                .unwrap();
            if wanted(&event) {
                return event;
            }
        }
    }

    async fn asks(&mut self, name: &str) {
        let call = self
            .until(|e| matches!(e, ApplicantEvent::Call { .. }))
            .await;
        let ApplicantEvent::Call { program, .. } = call else {
            unreachable!()
        };
        assert_eq!(program, Some(source()));
        self.handle.apply(name.into(), None).await;
    }

    async fn words(&mut self) -> [&'static str; 3] {
        match self
            .until(|e| matches!(e, ApplicantEvent::Asked { .. }))
            .await
        {
            ApplicantEvent::Asked { words } => words,
            _ => unreachable!(),
        }
    }
}

fn invited(event: &ApplicantEvent) -> bool {
    matches!(event, ApplicantEvent::Invitation { .. })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_get_from_a_ticket_to_the_same_invitation() {
    let mut noord = Inviter::open(3).await;
    let ticket = noord.handle.ticket().clone();
    let mut sud = Guest::find(&ticket, vec![]).await;
    let mut ost = Guest::find(&ticket, vec![]).await;
    sud.asks("Clinique Sud").await;
    let (_, words) = noord.admit(&sud.did).await;
    assert_eq!(sud.words().await, words);
    ost.asks("Klinik Ost").await;
    let (_, words) = noord.admit(&ost.did).await;
    assert_eq!(ost.words().await, words);
    noord.until(|e| matches!(e, HostEvent::Full)).await;
    let bundle = noord.seal().await;
    for guest in [&mut sud, &mut ost] {
        match guest.until(invited).await {
            ApplicantEvent::Invitation {
                bundle: got,
                invitation,
            } => {
                assert_eq!(got.encode(), bundle.encode());
                assert_eq!(invitation.subject.supersedes, Some(noord.call.digest()));
            }
            _ => unreachable!(),
        }
    }
    noord.until(|e| matches!(e, HostEvent::AllDelivered)).await;
    noord.handle.stop().await;
    sud.handle.stop().await;
    ost.handle.stop().await;
}

/// The addresses of a machine whose loopback has no multicast: the user's and the ticket's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_lead_to_the_lobby_too() {
    let noord = Inviter::open(3).await;
    let plain = noord.handle.ticket();
    let address = noord.handle.addresses()[0].clone();
    let hinted = Ticket::new(
        plain.peer(),
        &noord.call.digest(),
        std::slice::from_ref(&address),
    )
    .unwrap();
    for (ticket, at) in [(&hinted, vec![]), (plain, vec![address])] {
        let mut guest = Guest::find(ticket, at).await;
        guest
            .until(|e| matches!(e, ApplicantEvent::Call { .. }))
            .await;
        guest.handle.stop().await;
    }
    noord.handle.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_declined_guest_and_the_late_ones_are_told_why() {
    let mut noord = Inviter::open(3).await;
    let ticket = noord.handle.ticket().clone();
    let mut stranger = Guest::find(&ticket, vec![]).await;
    stranger.asks("nobody").await;
    let HostEvent::Applied { id, .. } = noord.event().await else {
        panic!("nobody applied")
    };
    noord.handle.refuse(id, "we do not know you").await.unwrap();
    let told = stranger
        .until(|e| matches!(e, ApplicantEvent::Declined(_)))
        .await;
    assert!(matches!(told, ApplicantEvent::Declined(why) if why.code == Code::NotAdmitted));

    let mut waiting = Guest::find(&ticket, vec![]).await;
    waiting.asks("waits").await;
    waiting.words().await;
    noord.handle.stop().await;
    let told = waiting
        .until(|e| matches!(e, ApplicantEvent::Declined(_)))
        .await;
    assert!(matches!(told, ApplicantEvent::Declined(why) if why.code == Code::Cancelled));
    stranger.handle.stop().await;
    waiting.handle.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_leaves_or_dies_frees_its_seat() {
    let mut noord = Inviter::open(3).await;
    let ticket = noord.handle.ticket().clone();
    let mut sud = Guest::find(&ticket, vec![]).await;
    sud.asks("sud").await;
    let (seat, _) = noord.admit(&sud.did).await;
    sud.handle.leave().await;
    noord
        .until(|e| matches!(e, HostEvent::Left { id, .. } if *id == seat))
        .await;
    assert_eq!(noord.handle.admitted().await, []);

    let mut ost = Guest::find(&ticket, vec![]).await;
    ost.asks("ost").await;
    ost.words().await;
    ost.handle.stop().await;
    noord
        .until(|e| matches!(e, HostEvent::Left { did, .. } if *did == ost.did))
        .await;
    noord.handle.stop().await;
    sud.handle.stop().await;
}

/// The inviter's program crashes and is started again with the same call and lobby.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lobby_that_comes_back_is_found_again_and_asked_again() {
    let mut noord = Inviter::open(3).await;
    let ticket = noord.handle.ticket().clone();
    let mut sud = Guest::find(&ticket, vec![]).await;
    sud.asks("sud").await;
    sud.words().await;
    // Dropped, not stopped: nobody is told.
    drop(noord.handle);
    sud.until(|e| matches!(e, ApplicantEvent::Lost)).await;
    let (handle, events) = lobby(&noord.call, noord.overlay).await;
    (noord.handle, noord.events) = (handle, events);
    let (_, words) = noord.admit(&sud.did).await;
    assert_eq!(sud.words().await, words);
    sud.until(|e| matches!(e, ApplicantEvent::Admitted { .. }))
        .await;
    noord.handle.stop().await;
    sud.handle.stop().await;
}

/// Somebody else at the address of the ticket, and others with the same ticket: none of them hears of a guest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_connects_to_the_ticket_s_peer_and_nobody_else() {
    let mut noord = Inviter::open(3).await;
    let ticket = noord.handle.ticket().clone();
    let (eve, mut heard) = Overlay::start(OverlayConfig {
        secret: Zeroizing::new(random()),
        scope: Scope::Local,
        purpose: Purpose::Lobby,
        beacon_key: ticket.beacon_key(),
        hints: vec![],
        reach: quorate_node::overlay::Reach::default(),
    })
    .await
    .unwrap();
    let bare: Vec<String> = eve
        .addresses()
        .iter()
        .map(|a| a.split("/p2p/").next().unwrap().to_owned())
        .collect();
    let mut sud = Guest::find(&ticket, bare).await;
    sud.asks("sud").await;
    noord.admit(&sud.did).await;
    sud.handle.stop().await;
    noord.handle.stop().await;
    eve.stop().await;
    let mut links = vec![];
    while let Some(event) = heard.recv().await {
        if let OverlayEvent::LinkUp { peer, .. } = event {
            links.push(peer);
        }
    }
    // The lobby itself may have been met: it lets everybody in who has the ticket.
    assert!(
        links.iter().all(|peer| *peer == ticket.peer().to_string()),
        "{links:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_over_the_network_disturbs_nobody() {
    let mut noord = Inviter::open(3).await;
    let ticket = noord.handle.ticket().clone();
    let (eve, mut heard) = Overlay::start(OverlayConfig {
        secret: Zeroizing::new(random()),
        scope: Scope::Local,
        purpose: Purpose::Lobby,
        beacon_key: ticket.beacon_key(),
        hints: vec![],
        reach: quorate_node::overlay::Reach::default(),
    })
    .await
    .unwrap();
    let link = loop {
        match timeout(SOON, heard.recv()).await.unwrap().unwrap() {
            OverlayEvent::LinkUp { link, peer, .. } if peer == ticket.peer().to_string() => {
                break link;
            }
            _ => {}
        }
    };
    assert!(eve.send(link, b"\xff garbage".to_vec()));
    let refused = noord.until(|e| matches!(e, HostEvent::Refused(_))).await;
    assert!(matches!(refused, HostEvent::Refused(why) if why.code == Code::Format));
    loop {
        match timeout(SOON, heard.recv()).await.unwrap().unwrap() {
            OverlayEvent::LinkDown { link: down } if down == link => break,
            _ => {}
        }
    }
    let mut sud = Guest::find(&ticket, vec![]).await;
    sud.asks("sud").await;
    noord.admit(&sud.did).await;
    sud.handle.stop().await;
    noord.handle.stop().await;
    eve.stop().await;
}

#[tokio::test]
async fn a_call_for_another_lobby_is_not_served() {
    let key = SigningKey::from_seed(&random());
    let call = call(&key, &random(), 3);
    let config = HostConfig {
        reach: quorate_node::overlay::Reach::default(),
        call,
        overlay_secret: Zeroizing::new(random()),
        scope: Scope::Local,
        program: None,
        contacts: Vec::new(),
        hints: vec![],
    };
    assert!(host(config).await.is_err());
}
