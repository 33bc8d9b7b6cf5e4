//! Rendezvous over real Kademlia nodes on loopback: parties that find each other, and nodes that lie.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    borrow::Cow,
    iter,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use futures::StreamExt as _;
use libp2p::{
    Multiaddr, StreamProtocol, Swarm, SwarmBuilder, identify,
    identity::Keypair,
    kad::{
        self, ProviderRecord, Record, RecordKey,
        store::{RecordStore, Result as StoreResult},
    },
    multiaddr::Protocol,
    noise,
    swarm::{NetworkBehaviour, SwarmEvent},
    tcp, yamux,
};
use quorate_identity::{DidKeyResolver, Digest, Resolver, SigningKey, UnixTime, Verified, sign};
use quorate_node::overlay::{
    Names, Scope,
    dht::{Answer, Dht, DhtConfig, Node, NodeConfig, NodeStatus},
};
use quorate_session::{
    ContentDigest, Invitation, InvitationDraft, PartyDraft, PeerId, Pid, RendezvousSecret,
    limits::RENDEZVOUS_VALUE_BYTES,
    message::{Engine, PathPolicy, Program, SameController, Times},
    rendezvous::{Kept, Seeker, SeekerEvent, SeekerOrder, SeekerSetup, Slot, Stamp, hour_of},
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sha2::{Digest as _, Sha256};
use tokio::{
    sync::mpsc::Receiver,
    time::{sleep_until, timeout},
};
use zeroize::Zeroizing;

const SOON: Duration = Duration::from_mins(1);
const ADDRESS: &str = "/ip4/203.0.113.5/udp/4001/quic-v1";

fn wall() -> UnixTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    UnixTime(i64::try_from(since.as_secs()).unwrap())
}

fn key(index: u16) -> SigningKey {
    SigningKey::from_seed(&[u8::try_from(index).unwrap() + 1; 32])
}

fn peer(index: u16) -> PeerId {
    let seed = [u8::try_from(index).unwrap() + 0x70; 32];
    PeerId::of(&SigningKey::from_seed(&seed).public())
}

fn secret() -> RendezvousSecret {
    RendezvousSecret::new([0x5e; 32])
}

fn invitation(m: u16) -> Verified<Invitation> {
    let at = wall();
    let party = |index| PartyDraft {
        did: key(index).did(),
        name: format!("party-{index}"),
        keys: vec![key(index).public().thumbprint()],
    };
    let draft = InvitationDraft {
        issuer: key(0).did(),
        title: "Income".into(),
        purpose: String::new(),
        supersedes: None,
        parties: (0..m).map(party).collect(),
        threshold: None,
        zero_threshold: false,
        prss: None,
        program: Program {
            manifest: ContentDigest::of(b"program"),
            entry: "main.py".into(),
            args: Vec::new(),
            env: None,
        },
        engine: Engine::Mpyc,
        mpyc: String::new(),
        python: "3.12".into(),
        word: 64,
        port: 11365,
        path: PathPolicy::Any,
        valid_from: at,
        valid_until: at.plus_seconds(7200),
        time: Times {
            join_by: at.plus_seconds(600),
            start_by: at.plus_seconds(900),
            end_by: at.plus_seconds(3600),
        },
        relays: Vec::new(),
        same_controller: SameController::Refuse,
        rejoin: 3,
    };
    sign(
        draft.build([7; 16], [0x51; 32], &secret()).unwrap(),
        &key(0),
    )
    .unwrap()
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("random bytes");
    bytes
}

/// Honest nodes, each of which was told of the first one.
async fn honest(count: usize) -> Vec<Node> {
    let limits = getrlimit(Resource::Nofile);
    // Dozens of nodes that all know each other are more connections than an ordinary user may have at first.
    let all = Rlimit {
        current: limits.maximum,
        ..limits
    };
    setrlimit(Resource::Nofile, all).unwrap();
    let mut nodes: Vec<Node> = Vec::new();
    for _ in 0..count {
        let first = nodes.first().map(|node| node.status().addresses[0].clone());
        let config = NodeConfig {
            secret: Zeroizing::new(random()),
            scope: Scope::Local,
            listen: vec!["/ip4/127.0.0.1/tcp/0".into()],
            nodes: first.into_iter().collect(),
        };
        nodes.push(Node::start(config).await.unwrap());
    }
    nodes
}

/// Waits until each of them knows so many others.
async fn acquainted(nodes: &[Node], others: usize) {
    let known = async {
        while nodes.iter().any(|node| node.status().known < others) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(SOON, known).await.expect("nodes know each other");
}

fn address(node: &Node) -> String {
    node.status().addresses[0].clone()
}

/// One party: its seeker, and the nodes that it was told of.
struct Party {
    seeker: Seeker,
    dht: Dht,
    answers: Receiver<Answer>,
    found: Vec<(Pid, PeerId)>,
}

impl Party {
    fn new(invitation: &Verified<Invitation>, me: u16, nodes: Vec<String>) -> Self {
        let setup = SeekerSetup {
            invitation: &invitation.subject,
            secret: &secret(),
            key: key(me),
            me: Pid(me),
            seed: random(),
        };
        let (dht, answers) = Dht::start(&DhtConfig {
            names: Names::default(),
            scope: Scope::Local,
            nodes,
        })
        .unwrap();
        Self {
            seeker: Seeker::new(setup, Instant::now()),
            dht,
            answers,
            found: Vec::new(),
        }
    }

    /// Goes on until `until` holds, or the time is over.
    async fn drive(&mut self, time: Duration, until: impl Fn(&Self) -> bool) -> bool {
        let end = Instant::now() + time;
        while !until(self) {
            self.seeker.handle_timeout(wall(), Instant::now());
            while let Some(order) = self.seeker.poll_order() {
                assert!(match order {
                    SeekerOrder::Put { id, key, value, .. } => self.dht.put(id, key, value),
                    SeekerOrder::Get { id, key } => self.dht.get(id, key),
                });
            }
            while let Some(event) = self.seeker.poll_event() {
                match event {
                    SeekerEvent::Found { pid, peer, .. } => self.found.push((pid, peer)),
                    SeekerEvent::Resolve(did) => {
                        let answer = DidKeyResolver.resolve(&did).unwrap();
                        self.seeker.handle_resolved(&did, answer, wall());
                    }
                }
            }
            let due = self.seeker.poll_timeout().map_or(end, |due| due.min(end));
            tokio::select! {
                answer = self.answers.recv() => match answer.unwrap() {
                    Answer::Stored { id, kept } => {
                        self.seeker.handle_stored(id, kept, Instant::now());
                    }
                    Answer::Value { id, value } => {
                        let _ = self.seeker.handle_answer(id, &value, wall());
                    }
                    Answer::LookedUp { id, .. } => self.seeker.handle_looked_up(id, Instant::now()),
                    Answer::Known { .. } => {}
                    Answer::Note(note) => panic!("{note}"),
                },
                () = sleep_until(due.into()) => {}
            }
            if Instant::now() >= end {
                return until(self);
            }
        }
        true
    }

    fn here(&mut self, me: u16) {
        let (addresses, join) = ([ADDRESS.to_owned()], Digest([9; 32]));
        self.seeker.here(peer(me), &addresses, join, Instant::now());
    }

    async fn publish(&mut self, me: u16) -> Kept {
        self.here(me);
        // Liars say that they keep it, too.
        self.drive(SOON, |party| party.seeker.tally().kept.by_named)
            .await;
        self.seeker.tally().kept
    }
}

/// A node that says what it likes.
#[derive(NetworkBehaviour)]
struct Lying {
    kad: kad::Behaviour<Lies>,
    identify: identify::Behaviour,
}

/// Keeps nothing, and has an answer to every question.
#[derive(Clone)]
struct Lies(Vec<Vec<u8>>, usize);

impl RecordStore for Lies {
    type RecordsIter<'a> = iter::Empty<Cow<'a, Record>>;
    type ProvidedIter<'a> = iter::Empty<Cow<'a, ProviderRecord>>;

    fn get(&self, key: &RecordKey) -> Option<Cow<'_, Record>> {
        let lie = self.0.get(self.1 % self.0.len().max(1))?;
        Some(Cow::Owned(Record::new(key.clone(), lie.clone())))
    }
    fn put(&mut self, _: Record) -> StoreResult<()> {
        self.1 += 1;
        Ok(())
    }
    fn remove(&mut self, _: &RecordKey) {}
    fn records(&self) -> Self::RecordsIter<'_> {
        iter::empty()
    }
    fn add_provider(&mut self, _: ProviderRecord) -> StoreResult<()> {
        Ok(())
    }
    fn providers(&self, _: &RecordKey) -> Vec<ProviderRecord> {
        Vec::new()
    }
    fn provided(&self) -> Self::ProvidedIter<'_> {
        iter::empty()
    }
    fn remove_provider(&mut self, _: &RecordKey, _: &libp2p::PeerId) {}
}

fn liar(keypair: Keypair, lies: Vec<Vec<u8>>) -> Swarm<Lying> {
    let me = keypair.public().to_peer_id();
    let mut config = kad::Config::new(StreamProtocol::new("/quorate/kad/1"));
    config
        .set_max_packet_size(1 << 20)
        .set_substreams_timeout(Duration::from_secs(2));
    let mut kad = kad::Behaviour::with_config(me, Lies(lies, 0), config);
    kad.set_mode(Some(kad::Mode::Server));
    let identify = identify::Config::new("/quorate/1".into(), keypair.public());
    let mut swarm = SwarmBuilder::with_existing_identity(keypair)
        .with_tokio()
        .with_tcp(
            tcp::Config::default(),
            noise::Config::new,
            yamux::Config::default,
        )
        .unwrap()
        .with_behaviour(|_| Lying {
            kad,
            identify: identify::Behaviour::new(identify),
        })
        .unwrap()
        .with_swarm_config(|c| c.with_idle_connection_timeout(SOON))
        .build();
    swarm
        .listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap())
        .unwrap();
    swarm
}

/// Starts hostile nodes that know each other and nobody else; the address of each.
async fn hostile(keypairs: Vec<Keypair>, lies: &[Vec<u8>], join: &[String]) -> Vec<String> {
    let mut swarms = Vec::new();
    let mut addresses: Vec<(libp2p::PeerId, Multiaddr)> = Vec::new();
    for keypair in keypairs {
        let mut swarm = liar(keypair, lies.to_vec());
        let address = loop {
            if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
                break address;
            }
        };
        addresses.push((*swarm.local_peer_id(), address));
        swarms.push(swarm);
    }
    for mut swarm in swarms {
        for (peer, address) in &addresses {
            swarm.behaviour_mut().kad.add_address(peer, address.clone());
        }
        for honest in join {
            swarm.dial(honest.parse::<Multiaddr>().unwrap()).unwrap();
        }
        tokio::spawn(async move {
            loop {
                swarm.select_next_some().await;
            }
        });
    }
    let whole = |(peer, address): (libp2p::PeerId, Multiaddr)| {
        address.with(Protocol::P2p(peer)).to_string()
    };
    addresses.into_iter().map(whole).collect()
}

fn place(pid: u16) -> Slot {
    let invitation = invitation(3);
    Slot::derive(
        &secret(),
        &invitation.subject.sid,
        Pid(pid),
        hour_of(wall()),
    )
}

fn lies() -> Vec<Vec<u8>> {
    let stamp = Stamp {
        seq: 7,
        exp: wall().plus_seconds(600),
    };
    let outsider = Slot::derive(
        &RendezvousSecret::new([1; 32]),
        &invitation(3).subject.sid,
        Pid(1),
        hour_of(wall()),
    );
    vec![
        outsider.seal_text("a.b.c", stamp, &[1; 24]),
        place(1).seal_text("a.b.c", stamp, &[1; 24]),
        vec![7; RENDEZVOUS_VALUE_BYTES],
        Vec::new(),
        vec![7; 12_000],
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_parties_find_each_other_through_twenty_four_nodes() {
    let nodes = honest(24).await;
    acquainted(&nodes, 15).await;
    let invitation = invitation(3);
    let begun = |index: usize| vec![address(&nodes[index])];
    let mut parties: Vec<Party> = (0..3)
        .map(|me| Party::new(&invitation, me, begun(usize::from(me) * 7)))
        .collect();
    for me in 0..3 {
        let kept = parties[usize::from(me)].publish(me).await;
        assert!(kept.nodes >= 10, "{kept:?}");
    }
    for party in &mut parties {
        assert!(party.drive(SOON, |party| party.found.len() >= 2).await);
    }
    for (me, party) in (0..3_u16).zip(parties) {
        for (pid, found) in &party.found {
            assert!(pid.0 != me && *found == peer(pid.0));
        }
        assert_eq!(party.seeker.tally().refused, 0);
        party.dht.stop().await;
    }
    let kept: usize = nodes.iter().map(|node| node.status().kept).sum();
    assert!(kept >= 30, "{kept} records on all nodes");
    for node in nodes {
        assert_eq!(node.status().refused, 0);
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_found_where_no_node_answers_and_they_are_found_when_one_does() {
    let nodes = honest(1).await;
    let first = address(&nodes[0]);
    let invitation = invitation(3);
    // A port where nobody listens any more.
    let gone = honest(1).await.remove(0);
    let dead = address(&gone);
    gone.stop().await;
    let mut lost = Party::new(&invitation, 0, vec![dead.clone()]);
    lost.here(0);
    let looked = |party: &Party| party.seeker.tally().looked_up >= 6;
    assert!(lost.drive(SOON, looked).await);
    assert_eq!(lost.seeker.tally().kept, Kept::default());
    lost.dht.add_nodes(vec![first.clone()]);
    let mut other = Party::new(&invitation, 1, vec![dead, first]);
    assert!(other.publish(1).await.by_named);
    assert!(lost.drive(SOON, |party| !party.found.is_empty()).await);
    assert_eq!(lost.found[0], (Pid(1), peer(1)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a41_nodes_that_lie_about_everything_lead_nowhere() {
    let honest = honest(3).await;
    let keypairs = (0..6).map(|_| Keypair::generate_ed25519()).collect();
    let join: Vec<String> = honest.iter().map(address).collect();
    let liars = hostile(keypairs, &lies(), &join).await;
    let invitation = invitation(3);
    let nodes: Vec<String> = join.iter().chain(&liars).cloned().collect();
    let mut one = Party::new(&invitation, 1, nodes.clone());
    let mut zero = Party::new(&invitation, 0, nodes);
    assert!(one.publish(1).await.by_named);
    assert!(zero.drive(SOON, |party| !party.found.is_empty()).await);
    let rounds = |party: &Party| party.seeker.tally().looked_up >= 12;
    zero.drive(SOON, rounds).await;
    assert!(zero.found.iter().all(|found| *found == (Pid(1), peer(1))));
    let tally = zero.seeker.tally();
    assert!(tally.refused > 0, "{tally:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a42_twenty_sybils_around_a_key_hide_nothing_from_named_nodes() {
    let honest = honest(8).await;
    let join: Vec<String> = honest.iter().map(address).collect();
    // The identities nearest to the key of party 1, of as many as it takes to be nearer than all honest ones.
    let target: [u8; 32] = Sha256::digest(place(1).locator()).into();
    let distance = |keypair: &Keypair| {
        let own: [u8; 32] = Sha256::digest(keypair.public().to_peer_id().to_bytes()).into();
        std::array::from_fn::<u8, 32, _>(|at| own[at] ^ target[at])
    };
    let mut keypairs: Vec<Keypair> = (0..2000).map(|_| Keypair::generate_ed25519()).collect();
    keypairs.sort_by_key(distance);
    keypairs.truncate(22);
    hostile(keypairs, &lies(), &join).await;
    let invitation = invitation(3);
    // Honest nodes know sybils, so that they send everybody there.
    acquainted(&honest, 15).await;
    let mut one = Party::new(&invitation, 1, vec![join[0].clone()]);
    let mut zero = Party::new(&invitation, 0, vec![join[0].clone()]);
    assert!(one.publish(1).await.by_named);
    let found = zero.drive(SOON, |party| !party.found.is_empty()).await;
    assert!(found, "the node that both named keeps it");
    assert!(zero.found.iter().all(|found| *found == (Pid(1), peer(1))));

    // Whoever was told of hostile nodes alone finds nobody, and nobody wrong.
    let keypairs = (0..20).map(|_| Keypair::generate_ed25519()).collect();
    let island = hostile(keypairs, &lies(), &[]).await;
    let mut lost = Party::new(&invitation, 2, island[..3].to_vec());
    let rounds = |party: &Party| party.seeker.tally().looked_up >= 12;
    lost.drive(SOON, rounds).await;
    assert!(lost.found.is_empty());
    assert!(lost.seeker.tally().refused > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a43_a44_honest_nodes_keep_no_forged_old_or_foreign_record() {
    let node = honest(1).await.remove(0);
    let nodes = vec![address(&node)];
    let invitation = invitation(3);
    let mut owner = Party::new(&invitation, 1, nodes.clone());
    assert_eq!(owner.publish(1).await.nodes, 1);
    // The attacker speaks Kademlia itself: its own store takes everything.
    let mut attacker = liar(Keypair::generate_ed25519(), Vec::new());
    let peer: libp2p::PeerId = nodes[0].rsplit('/').next().unwrap().parse().unwrap();
    let target = nodes[0].parse().unwrap();
    attacker.behaviour_mut().kad.add_address(&peer, target);
    let key = RecordKey::new(&place(1).locator());
    let earlier = Stamp {
        seq: 7,
        exp: wall().plus_seconds(600),
    };
    let expired = Stamp {
        seq: 7,
        exp: wall().plus_seconds(-3600),
    };
    let last_hour = Slot::derive(
        &secret(),
        &invitation.subject.sid,
        Pid(1),
        hour_of(wall()) - 1,
    );
    let mut records: Vec<Vec<u8>> = lies();
    records.push(place(1).seal_text("x", earlier, &[2; 24]));
    records.push(last_hour.seal_text("x", earlier, &[2; 24]));
    records.push(place(1).seal_text("x", expired, &[2; 24]));
    let NodeStatus { refused, .. } = node.status();
    let count = records.len();
    for value in records {
        let record = Record::new(key.clone(), value);
        let peers = [peer].into_iter();
        let kad = &mut attacker.behaviour_mut().kad;
        let query = kad.put_record_to(record, peers, kad::Quorum::One);
        loop {
            let event = timeout(SOON, attacker.select_next_some()).await.unwrap();
            if let SwarmEvent::Behaviour(LyingEvent::Kad(kad::Event::OutboundQueryProgressed {
                id,
                result,
                ..
            })) = event
                && id == query
            {
                let kad::QueryResult::PutRecord(result) = result else {
                    panic!("another result")
                };
                assert!(result.is_err(), "a node said that it keeps a forged record");
                break;
            }
        }
    }
    let all_refused = async {
        while node.status().refused < refused + u64::try_from(count).unwrap() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let counted = timeout(Duration::from_secs(20), all_refused).await;
    assert!(counted.is_ok(), "{count} sent: {:?}", node.status());
    // The owner's: near the end of an hour those of two hours.
    assert!((1..=2).contains(&node.status().kept), "{:?}", node.status());
    let mut reader = Party::new(&invitation, 0, nodes);
    assert!(reader.drive(SOON, |party| !party.found.is_empty()).await);
    assert_eq!(reader.found[0], (Pid(1), self::peer(1)));
}
