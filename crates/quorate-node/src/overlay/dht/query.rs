//! The party's side: two small swarms that ask and store, under identities that are used for nothing else.
//!
//! ```text
//!   put, get ─► waiting ─ first round of acquaintance over, or BEGIN_WAIT ─► under way ─► Answer*, Stored | LookedUp
//!                                   identity older than IDENTITY_LIFETIME and nothing under way ─► a new swarm
//! ```
//! Each order is carried out twice, where there are more nodes than were named: along the disjoint paths of Kademlia, and at
//! the named nodes themselves. Whoever surrounds a key with nodes of its own hides nothing that a named node keeps. Each way
//! has a swarm of its own: Kademlia takes whoever is connected into its table, and asks those nearest to the key alone, so
//! in one swarm with the others the named nodes would be crowded out.
//!
//! They listen nowhere. Their identities change every hour, as the keys do, so that nodes cannot join one hour's key with
//! the next one's by them.
//!
//! Limits, of each: [`ORDER_QUEUE`] orders and [`ANSWER_QUEUE`] answers wait, [`MAX_WAITING`] orders wait for the network,
//! [`MAX_NODES`] nodes are named. After as many answers as are looked at a lookup is ended.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    time::{Duration, Instant},
};

use futures::StreamExt as _;
use libp2p::{
    Multiaddr, PeerId, Swarm, SwarmBuilder, connection_limits,
    connection_limits::ConnectionLimits,
    identity::Keypair,
    kad::{
        self, BootstrapOk, GetRecordOk, PutRecordError, QueryId, QueryResult, Quorum, Record,
        RecordKey,
    },
    noise,
    swarm::{NetworkBehaviour, SwarmEvent},
    tcp, yamux,
};
use quorate_session::{limits::MAX_RENDEZVOUS_ANSWERS, rendezvous::Kept};
use tokio::{
    sync::mpsc,
    task::{JoinHandle, JoinSet},
    time::sleep_until,
};

use super::behaviour::{Behaviour, Extent};
use crate::overlay::{
    Names, OverlayError, Scope,
    address::Endpoint,
    names::{Named, Place},
};

/// Orders waiting for the task.
const ORDER_QUEUE: usize = 64;
/// Answers waiting for the caller.
const ANSWER_QUEUE: usize = 256;
/// Orders that wait until nodes are known; more are answered with nothing.
const MAX_WAITING: usize = 128;
/// Nodes that a user can name.
const MAX_NODES: usize = 16;
/// So long the first round of acquaintance may take before orders are carried out anyway.
const BEGIN_WAIT: Duration = Duration::from_secs(4);
/// An identity is not used longer than this.
const IDENTITY_LIFETIME: Duration = Duration::from_hours(1);
/// Where the names of nodes lead is asked again after this time.
const LOOK_UP_AGAIN: Duration = Duration::from_mins(5);
/// A connection without a query is kept for this long.
const IDLE_WAIT: Duration = Duration::from_secs(20);
/// A connection must be there within this time.
const DIAL_WAIT: Duration = Duration::from_secs(5);
/// Connections at a time.
const MAX_CONNECTIONS: u32 = 96;

/// What is needed to ask nodes.
#[derive(Clone, Debug)]
pub struct DhtConfig {
    /// Where nodes may be.
    pub scope: Scope,
    /// Nodes to begin with, as multiaddr text with `/p2p/PEER`; of the user or of a signed invitation, as their names are
    /// looked up.
    pub nodes: Vec<String>,
    /// Where.
    pub names: Names,
}

/// What became of an order.
#[derive(Clone, PartialEq, Eq)]
pub enum Answer {
    /// Who keeps the value.
    Stored {
        /// The order.
        id: u64,
        /// Who.
        kept: Kept,
    },
    /// A node gave this value.
    Value {
        /// The order.
        id: u64,
        /// What it gave; nothing about it was checked.
        value: Vec<u8>,
    },
    /// Nothing more comes.
    LookedUp {
        /// The order.
        id: u64,
        /// Requests to nodes.
        asked: u32,
        /// Those that were answered.
        answered: u32,
    },
    /// How many nodes are known has changed.
    Known {
        /// How many.
        nodes: usize,
        /// To how many there is a connection.
        connected: usize,
    },
    /// Something a person may want to know.
    Note(String),
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stored { id, kept } => write!(f, "Stored({id}, {})", kept.nodes),
            Self::Value { id, value } => write!(f, "Value({id}, {} bytes)", value.len()),
            Self::LookedUp { id, asked, .. } => write!(f, "LookedUp({id}, {asked})"),
            Self::Known { nodes, connected } => write!(f, "Known({nodes}, {connected})"),
            Self::Note(note) => write!(f, "Note({note})"),
        }
    }
}

enum Order {
    Put {
        id: u64,
        key: [u8; 32],
        value: Vec<u8>,
    },
    Get {
        id: u64,
        key: [u8; 32],
    },
    Nodes(Vec<String>),
    Stop,
}

/// A handle on the task that asks. Dropping it ends the task.
#[derive(Debug)]
pub struct Dht {
    orders: mpsc::Sender<Order>,
    task: JoinHandle<()>,
}

impl Dht {
    /// Starts to make acquaintance with nodes.
    pub fn start(config: &DhtConfig) -> Result<(Self, mpsc::Receiver<Answer>), OverlayError> {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let (sender, answers) = mpsc::channel(ANSWER_QUEUE);
        let (orders, receiver) = mpsc::channel(ORDER_QUEUE);
        let mut task = Task {
            swarms: Swarms::new(config.scope)?,
            begun: Instant::now(),
            is_acquainted: false,
            nodes: Vec::new(),
            named: Vec::new(),
            names: config.names.clone(),
            lookups: JoinSet::new(),
            looked_up: Instant::now(),
            scope: config.scope,
            waiting: Vec::new(),
            queries: HashMap::new(),
            under_way: HashMap::new(),
            answers: sender,
            known: (0, 0),
            notes: Vec::new(),
        };
        // Lookups need the runtime, in which this is called.
        task.name(&config.nodes);
        task.acquaint();
        let task = tokio::spawn(task.run(receiver));
        Ok((Self { orders, task }, answers))
    }

    /// Stores `value` under `key`; answered by [`Answer::Stored`]. `false` if the task is too busy.
    pub fn put(&self, id: u64, key: [u8; 32], value: Vec<u8>) -> bool {
        self.orders.try_send(Order::Put { id, key, value }).is_ok()
    }

    /// Looks `key` up; answered by any number of [`Answer::Value`] and one [`Answer::LookedUp`].
    pub fn get(&self, id: u64, key: [u8; 32]) -> bool {
        self.orders.try_send(Order::Get { id, key }).is_ok()
    }

    /// More nodes to begin with.
    pub fn add_nodes(&self, nodes: Vec<String>) {
        if self.orders.try_send(Order::Nodes(nodes)).is_err() {
            tracing::warn!("the DHT takes no more orders");
        }
    }

    /// Ends the task and waits until its sockets are closed.
    pub async fn stop(self) {
        let _ = self.orders.send(Order::Stop).await;
        let _ = self.task.await;
    }
}

#[derive(NetworkBehaviour)]
struct Asking {
    limits: connection_limits::Behaviour,
    dht: Behaviour,
}

/// Which nodes a query goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Way {
    /// Those nearest to the key.
    Wide,
    /// Those that were named.
    Named,
}

struct Swarms {
    wide: Swarm<Asking>,
    named: Swarm<Asking>,
}

impl Swarms {
    fn new(scope: Scope) -> Result<Self, OverlayError> {
        Ok(Self {
            wide: network_of(|me| Behaviour::party(me, Extent::Within(scope)))?,
            named: network_of(Behaviour::party_of_named)?,
        })
    }

    fn dht(&mut self, way: Way) -> &mut Behaviour {
        let swarm = match way {
            Way::Wide => &mut self.wide,
            Way::Named => &mut self.named,
        };
        &mut swarm.behaviour_mut().dht
    }

    /// Nodes that one of them is connected to.
    fn connected(&self) -> usize {
        let wide = self.wide.connected_peers();
        let all: BTreeSet<&PeerId> = wide.chain(self.named.connected_peers()).collect();
        all.len()
    }

    async fn next(&mut self) -> (Way, SwarmEvent<AskingEvent>) {
        tokio::select! {
            event = self.wide.select_next_some() => (Way::Wide, event),
            event = self.named.select_next_some() => (Way::Named, event),
        }
    }
}

/// A swarm with a fresh identity that dials, and never listens.
fn network_of(dht: impl FnOnce(PeerId) -> Behaviour) -> Result<Swarm<Asking>, OverlayError> {
    let setup = |error: &dyn fmt::Display| OverlayError::Setup(error.to_string());
    let limits = ConnectionLimits::default()
        .with_max_established_incoming(Some(0))
        .with_max_established_outgoing(Some(MAX_CONNECTIONS));
    Ok(
        SwarmBuilder::with_existing_identity(Keypair::generate_ed25519())
            .with_tokio()
            .with_tcp(
                tcp::Config::new().nodelay(true),
                noise::Config::new,
                yamux::Config::default,
            )
            .map_err(|e| setup(&e))?
            .with_quic()
            .with_behaviour(|key| Asking {
                limits: connection_limits::Behaviour::new(limits),
                dht: dht(key.public().to_peer_id()),
            })
            .map_err(|e| setup(&e))?
            .with_swarm_config(|config| config.with_idle_connection_timeout(IDLE_WAIT))
            .with_connection_timeout(DIAL_WAIT)
            .build(),
    )
}

/// One order and what became of it so far.
#[derive(Default)]
struct UnderWay {
    queries: usize,
    /// Of all nodes, and of those that were named.
    answers: [usize; 2],
    kept: Kept,
    asked: u32,
    answered: u32,
}

/// Where a named node is.
struct Known {
    peer: PeerId,
    address: Multiaddr,
    /// Which of the names leads there.
    by_name: Option<usize>,
}

struct Task {
    swarms: Swarms,
    begun: Instant,
    is_acquainted: bool,
    nodes: Vec<Known>,
    /// Nodes that are known by name, and the names that are being looked up.
    named: Vec<Named>,
    names: Names,
    lookups: JoinSet<(usize, Result<Vec<Endpoint>, String>)>,
    looked_up: Instant,
    scope: Scope,
    waiting: Vec<Order>,
    queries: HashMap<(Way, QueryId), u64>,
    under_way: HashMap<u64, UnderWay>,
    answers: mpsc::Sender<Answer>,
    known: (usize, usize),
    notes: Vec<String>,
}

impl Task {
    async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        loop {
            for note in std::mem::take(&mut self.notes) {
                self.say(Answer::Note(note));
            }
            let begin = self.begun + BEGIN_WAIT;
            let holds = !self.waiting.is_empty() && !self.is_acquainted;
            tokio::select! {
                order = orders.recv() => match order {
                    Some(Order::Stop) | None => return,
                    Some(order) => self.on_order(order),
                },
                Some(found) = self.lookups.join_next() => if let Ok((name, found)) = found {
                    self.on_looked_up(name, found);
                },
                (way, event) = self.swarms.next() => self.on_swarm(way, event),
                () = sleep_until(begin.into()), if holds => self.begin(),
                () = self.answers.closed() => return,
            }
        }
    }

    fn name(&mut self, nodes: &[String]) {
        for text in nodes {
            let shown: String = text.chars().take(80).collect();
            let place = Place::parse(text, self.scope).and_then(|place| {
                let shape = match &place {
                    Place::At(endpoint) => endpoint,
                    Place::Named(named) => named.shape(),
                };
                match (shape.relay, shape.peer) {
                    (Some(_), _) => Err("it is a circuit"),
                    (None, None) => Err("/p2p/PEER is missing"),
                    (None, Some(_)) => Ok(place),
                }
            });
            match place {
                Ok(Place::At(endpoint)) => self.add(endpoint, None),
                Ok(Place::Named(named)) => {
                    if self.named.len() < MAX_NODES && !self.named.contains(&named) {
                        self.look_up(self.named.len(), named.clone());
                        self.named.push(named);
                    }
                }
                Err(why) => self
                    .notes
                    .push(format!("the node {shown:?} is not asked: {why}")),
            }
        }
    }

    fn add(&mut self, endpoint: Endpoint, by_name: Option<usize>) {
        let Endpoint {
            peer: Some(peer),
            address,
            ..
        } = endpoint
        else {
            return;
        };
        let is_it = |known: &Known| known.peer == peer && known.address == address;
        if self.nodes.len() < MAX_NODES && !self.nodes.iter().any(is_it) {
            self.nodes.push(Known {
                peer,
                address,
                by_name,
            });
        }
    }

    fn look_up(&mut self, name: usize, named: Named) {
        let (names, scope) = (self.names.clone(), self.scope);
        self.looked_up = Instant::now();
        self.lookups.spawn(async move {
            let found = names.find(&named, scope).await;
            (name, found)
        });
    }

    /// What a name said before is used where it says nothing now.
    fn on_looked_up(&mut self, name: usize, found: Result<Vec<Endpoint>, String>) {
        match found {
            Ok(found) => {
                self.nodes.retain(|known| known.by_name != Some(name));
                for endpoint in found {
                    self.add(endpoint, Some(name));
                }
                self.acquaint();
            }
            Err(why) => {
                let known = self.nodes.iter().any(|known| known.by_name == Some(name));
                if !known {
                    self.notes.push(format!("a node is not asked: {why}"));
                }
            }
        }
    }

    /// Asks again, now and then, where the names lead.
    fn look_up_again(&mut self) {
        if self.lookups.is_empty() && self.looked_up.elapsed() >= LOOK_UP_AGAIN {
            for (name, named) in self.named.clone().into_iter().enumerate() {
                self.look_up(name, named);
            }
        }
    }

    fn named_peers(&self) -> BTreeSet<PeerId> {
        self.nodes.iter().map(|known| known.peer).collect()
    }

    /// Asks the named nodes for others.
    fn acquaint(&mut self) {
        self.remember_named();
        let _ = self.swarms.dht(Way::Wide).kad().bootstrap();
    }

    /// Kademlia forgets nodes that it could not dial once; those that were named are tried again.
    fn remember_named(&mut self) {
        for known in &self.nodes {
            for way in [Way::Wide, Way::Named] {
                let dht = self.swarms.dht(way);
                dht.begin_with(known.peer, known.address.clone());
            }
        }
    }

    fn on_order(&mut self, order: Order) {
        match order {
            Order::Stop => {}
            Order::Nodes(nodes) => {
                self.name(&nodes);
                self.acquaint();
            }
            order if !self.is_acquainted && self.waiting.len() < MAX_WAITING => {
                self.waiting.push(order);
            }
            order => {
                self.renew_if_old();
                self.carry_out(&order);
            }
        }
    }

    /// A new identity, when the old one was used for long enough and nothing is lost by it.
    fn renew_if_old(&mut self) {
        if !self.queries.is_empty() || self.begun.elapsed() < IDENTITY_LIFETIME {
            return;
        }
        match Swarms::new(self.scope) {
            Ok(swarms) => {
                self.swarms = swarms;
                self.begun = Instant::now();
                self.acquaint();
            }
            Err(error) => tracing::warn!(%error, "the identity that asks nodes is not renewed"),
        }
    }

    fn begin(&mut self) {
        self.is_acquainted = true;
        for order in std::mem::take(&mut self.waiting) {
            self.carry_out(&order);
        }
    }

    fn carry_out(&mut self, order: &Order) {
        self.look_up_again();
        self.remember_named();
        let named = self.named_peers();
        let is_wide = self.swarms.dht(Way::Wide).known() > named.len();
        let ways = [Way::Named, Way::Wide];
        for way in ways.into_iter().filter(|way| is_wide || *way == Way::Named) {
            let kad = self.swarms.dht(way).kad();
            let (id, query) = match order {
                Order::Put { id, key, value } => {
                    let record = Record::new(RecordKey::new(key), value.clone());
                    let query = match way {
                        Way::Wide => kad.put_record(record, Quorum::All),
                        Way::Named => {
                            let peers: Vec<PeerId> = named.iter().copied().collect();
                            Ok(kad.put_record_to(record, peers.into_iter(), Quorum::All))
                        }
                    };
                    match query {
                        Ok(query) => (*id, query),
                        Err(error) => {
                            tracing::warn!(%error, "our own rendezvous record is refused");
                            continue;
                        }
                    }
                }
                Order::Get { id, key } => (*id, kad.get_record(RecordKey::new(key))),
                Order::Nodes(_) | Order::Stop => return,
            };
            self.queries.insert((way, query), id);
            self.under_way.entry(id).or_default().queries += 1;
        }
    }

    fn on_swarm(&mut self, way: Way, event: SwarmEvent<AskingEvent>) {
        match event {
            SwarmEvent::Behaviour(AskingEvent::Dht(kad::Event::OutboundQueryProgressed {
                id,
                result,
                step,
                stats,
            })) => self.on_progress((way, id), result, step.last, &stats),
            SwarmEvent::ConnectionEstablished { .. } | SwarmEvent::ConnectionClosed { .. } => {
                self.tell_known();
            }
            other => tracing::trace!(event = ?other, "asking nodes"),
        }
    }

    fn on_progress(
        &mut self,
        query: (Way, QueryId),
        result: QueryResult,
        last: bool,
        stats: &kad::QueryStats,
    ) {
        if let QueryResult::Bootstrap(round) = &result {
            if query.0 == Way::Wide {
                self.on_acquaintance(round);
            }
            return;
        }
        let Some(id) = self.queries.get(&query).copied() else {
            return;
        };
        let named = self.named_peers().len();
        let Some(order) = self.under_way.get_mut(&id) else {
            return;
        };
        let stores = match result {
            QueryResult::PutRecord(result) => {
                let kept = match result {
                    Ok(_) if query.0 == Way::Named => named,
                    Ok(_) => kad::K_VALUE.get(),
                    Err(
                        PutRecordError::QuorumFailed { success, .. }
                        | PutRecordError::Timeout { success, .. },
                    ) => success.len(),
                };
                // The nearest nodes and the named ones may be the same.
                order.kept.nodes = order.kept.nodes.max(kept);
                order.kept.by_named |= query.0 == Way::Named && kept > 0;
                true
            }
            QueryResult::GetRecord(result) => {
                // Half of the answers each: hostile nodes near a key cannot crowd out what a named one says.
                let answers = &mut order.answers[usize::from(query.0 == Way::Named)];
                if let Ok(GetRecordOk::FoundRecord(found)) = result
                    && *answers < MAX_RENDEZVOUS_ANSWERS / 2
                    && (query.0 == Way::Wide
                        || self
                            .nodes
                            .iter()
                            .any(|known| Some(known.peer) == found.peer))
                {
                    *answers += 1;
                    let enough = *answers == MAX_RENDEZVOUS_ANSWERS / 2;
                    let value = found.record.value;
                    self.say(Answer::Value { id, value });
                    if enough {
                        self.end_query(query);
                    }
                }
                if !last {
                    return;
                }
                false
            }
            _ => return,
        };
        self.queries.remove(&query);
        if let Some(order) = self.under_way.get_mut(&id) {
            order.queries = order.queries.saturating_sub(1);
            order.asked += stats.num_requests();
            order.answered += stats.num_successes();
        }
        self.answer_if_over(id, stores);
    }

    fn answer_if_over(&mut self, id: u64, stores: bool) {
        let Some(order) = self.under_way.get(&id).filter(|order| order.queries == 0) else {
            return;
        };
        let answer = if stores {
            let kept = order.kept;
            Answer::Stored { id, kept }
        } else {
            let (asked, answered) = (order.asked, order.answered);
            Answer::LookedUp {
                id,
                asked,
                answered,
            }
        };
        self.under_way.remove(&id);
        self.say(answer);
    }

    fn end_query(&mut self, (way, query): (Way, QueryId)) {
        let kad = self.swarms.dht(way).kad();
        if let Some(mut query) = kad.query_mut(&query) {
            query.finish();
        }
    }

    fn on_acquaintance(&mut self, round: &kad::BootstrapResult) {
        let over = match round {
            Ok(BootstrapOk { num_remaining, .. }) => *num_remaining == 0,
            Err(_) => true,
        };
        self.tell_known();
        // The first step already asked the nearest nodes that there are.
        if !self.is_acquainted && (over || self.known.1 > 0) {
            self.begin();
        }
    }

    fn tell_known(&mut self) {
        let nodes = self.swarms.dht(Way::Wide).known();
        let connected = self.swarms.connected();
        if std::mem::replace(&mut self.known, (nodes, connected)) != (nodes, connected) {
            self.say(Answer::Known { nodes, connected });
        }
    }

    /// What a caller does not take in time is lost; orders without an answer end by their own time.
    fn say(&self, answer: Answer) {
        if self.answers.try_send(answer).is_err() {
            tracing::warn!("an answer of the DHT was not taken");
        }
    }
}
