//! Many parties at one relay, in one process, to measure what a relay costs. Nothing else uses it.
//!
//! ```text
//!   party 0 ── reserve ──► relay ◄── reserve ── party 1 …      each party: a swarm and a task of its own
//!   pair (i, j), i < j:  j ── connect through the relay ──► i;  j ═ bytes ═► i ── count ──► j
//! ```
//! The parties are those of [`relay_probe`](super::relay_probe): the same transports and handshakes as in a session, and
//! nothing of a session. A connection that carries nothing is pinged as seldom as those of sessions and kept.
//!
//! Limits: [`SETTLE_WAIT`] for reserving and connecting, [`CARRY_WAIT`] for bytes; [`MAX_BYTES`] through one circuit at a
//! time.

use std::time::{Duration, Instant};

use futures::StreamExt as _;
use libp2p::{
    Multiaddr, PeerId, Swarm,
    multiaddr::Protocol,
    swarm::{ConnectionId, SwarmEvent},
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};

use super::relay_probe::{
    MAX_PROBE_BYTES, Probe, ProbeEvent, Sent, close, dial_failure, parse, reservation, root_cause,
    swarm,
};

/// Most bytes that one circuit is given at a time.
pub const MAX_BYTES: u64 = MAX_PROBE_BYTES;
/// Time for one circuit to be there.
pub const SETTLE_WAIT: Duration = Duration::from_mins(1);
/// Time for the bytes that are sent at a time.
pub const CARRY_WAIT: Duration = Duration::from_mins(2);
/// Time between two pings, as in the overlay of a session.
const PING_INTERVAL: Duration = Duration::from_secs(15);
/// Longer than any measurement.
const IDLE_WAIT: Duration = Duration::from_hours(1);
/// Circuits that are opened at a time. With eight over QUIC some were not there after ten seconds.
const OPENED_AT_ONCE: usize = 1;
/// Orders that wait for a party.
const ORDER_QUEUE: usize = 64;

type Answer = oneshot::Sender<Result<(), String>>;

/// What a party is asked for.
enum Order {
    Connect(PeerId, Answer),
    Send(PeerId, u64, Answer),
}

/// What is known about a party from outside.
#[derive(Debug)]
struct Known {
    peer: PeerId,
    orders: mpsc::Sender<Order>,
}

/// Many parties with a reservation each, and circuits between them.
#[derive(Debug)]
pub struct RelayCrowd {
    parties: Vec<Known>,
    /// Which party connected to which.
    circuits: Vec<(usize, usize)>,
    tasks: JoinSet<()>,
}

/// How many parties it takes for so many circuits, if each pair has one.
pub fn parties_for(circuits: usize) -> usize {
    // Of n parties each has n - 1 others.
    let least = (1 + 8 * circuits).isqrt().div_ceil(2);
    let n = least.max(2);
    if n * (n - 1) / 2 < circuits { n + 1 } else { n }
}

impl RelayCrowd {
    /// Starts `parties` parties, which reserve at the relay one after the other.
    pub async fn reserve(relay: &str, parties: usize) -> Result<Self, String> {
        let relay = parse(relay)?;
        let Some(Protocol::P2p(_)) = relay.iter().last() else {
            return Err("the address does not end with the relay's /p2p/…".into());
        };
        let through = relay.with(Protocol::P2pCircuit);
        let mut crowd = Self {
            parties: Vec::new(),
            circuits: Vec::new(),
            tasks: JoinSet::new(),
        };
        for _ in 0..parties {
            let mut party = swarm(PING_INTERVAL, IDLE_WAIT).map_err(|e| e.to_string())?;
            let listening = party.listen_on(through.clone());
            listening.map_err(|e| e.to_string())?;
            reservation(&mut party).await?;
            let (orders, taken) = mpsc::channel(ORDER_QUEUE);
            let peer = *party.local_peer_id();
            crowd.parties.push(Known { peer, orders });
            let party = Party::new(party, through.clone());
            crowd.tasks.spawn(party.run(taken));
        }
        Ok(crowd)
    }

    /// Opens circuits until there are so many, each between another pair.
    pub async fn connect(&mut self, circuits: usize) -> Result<(), String> {
        let count = self.parties.len();
        let pairs = (1..count).flat_map(|j| (0..j).map(move |i| (j, i)));
        let wanted: Vec<_> = pairs.take(circuits).skip(self.circuits.len()).collect();
        for batch in wanted.chunks(OPENED_AT_ONCE) {
            let asked = batch.iter().map(|(from, to)| {
                let peer = self.parties[*to].peer;
                self.ask(*from, move |answer| Order::Connect(peer, answer))
            });
            all(futures::future::join_all(asked).await)?;
            self.circuits.extend(batch);
        }
        if self.circuits.len() < circuits {
            return Err(format!("{count} parties have fewer pairs than {circuits}"));
        }
        Ok(())
    }

    /// Sends so many bytes through each of the first `circuits` circuits at the same time, and gives how long it took.
    pub async fn carry(&self, circuits: usize, bytes: u64) -> Result<Duration, String> {
        let begun = Instant::now();
        let asked = self.circuits.iter().take(circuits).map(|(from, to)| {
            let peer = self.parties[*to].peer;
            self.ask(*from, move |answer| Order::Send(peer, bytes, answer))
        });
        all(futures::future::join_all(asked).await)?;
        Ok(begun.elapsed())
    }

    async fn ask(&self, from: usize, order: impl FnOnce(Answer) -> Order) -> Result<(), String> {
        let gone = || "a party of the crowd is gone".to_owned();
        let (answer, answered) = oneshot::channel();
        let sent = self.parties[from].orders.send(order(answer)).await;
        sent.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }

    /// Lets all go.
    pub async fn stop(self) {
        let Self {
            parties, mut tasks, ..
        } = self;
        drop(parties);
        while tasks.join_next().await.is_some() {}
    }
}

fn all(results: Vec<Result<(), String>>) -> Result<(), String> {
    results.into_iter().collect()
}

/// An order that is being followed.
struct Open {
    peer: PeerId,
    until: Instant,
    answer: Answer,
}

struct Party {
    swarm: Swarm<Probe>,
    through: Multiaddr,
    connections: Vec<(PeerId, ConnectionId)>,
    connecting: Vec<Open>,
    sending: Vec<Open>,
}

impl Party {
    fn new(swarm: Swarm<Probe>, through: Multiaddr) -> Self {
        Self {
            swarm,
            through,
            connections: Vec::new(),
            connecting: Vec::new(),
            sending: Vec::new(),
        }
    }

    async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        let mut look = tokio::time::interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                event = self.swarm.select_next_some() => self.handle(event),
                order = orders.recv() => match order {
                    Some(order) => self.obey(order),
                    None => break,
                },
                _ = look.tick() => self.expire(),
            }
        }
        close(&mut self.swarm).await;
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Connect(peer, answer) => {
                let circuit = self.through.clone().with(Protocol::P2p(peer));
                match self.swarm.dial(circuit) {
                    Ok(()) => self.connecting.push(open(peer, SETTLE_WAIT, answer)),
                    Err(e) => say(answer, Err(dial_failure(&e))),
                }
            }
            Order::Send(peer, bytes, answer) => {
                let known = self.connections.iter().find(|(p, _)| *p == peer);
                let Some((_, connection)) = known.copied() else {
                    return say(answer, Err("the circuit is gone".into()));
                };
                let load = &mut self.swarm.behaviour_mut().load;
                load.send(peer, connection, bytes);
                self.sending.push(open(peer, CARRY_WAIT, answer));
            }
        }
    }

    fn handle(&mut self, event: SwarmEvent<ProbeEvent>) {
        match event {
            SwarmEvent::ConnectionEstablished {
                peer_id,
                connection_id,
                ..
            } => {
                self.connections.push((peer_id, connection_id));
                answer(&mut self.connecting, peer_id, &Ok(()));
            }
            SwarmEvent::OutgoingConnectionError {
                peer_id: Some(peer),
                error,
                ..
            } => answer(&mut self.connecting, peer, &Err(dial_failure(&error))),
            SwarmEvent::ConnectionClosed {
                peer_id,
                connection_id,
                cause,
                ..
            } => {
                self.connections.retain(|(_, id)| *id != connection_id);
                let why = cause.map_or("closed".to_owned(), |e| root_cause(&e));
                let cut = Err(format!("the circuit was cut: {why}"));
                answer(&mut self.sending, peer_id, &cut);
            }
            SwarmEvent::Behaviour(ProbeEvent::Load(Sent { peer, result })) => {
                answer(&mut self.sending, peer, &result);
            }
            _ => {}
        }
    }

    fn expire(&mut self) {
        let now = Instant::now();
        for (open, why) in [
            (&mut self.connecting, "no circuit in time"),
            (&mut self.sending, "the circuit carries too little"),
        ] {
            for late in open.extract_if(.., |o| o.until < now) {
                say(late.answer, Err(why.into()));
            }
        }
    }
}

fn open(peer: PeerId, wait: Duration, answer: Answer) -> Open {
    let until = Instant::now() + wait;
    Open {
        peer,
        until,
        answer,
    }
}

fn answer(open: &mut Vec<Open>, peer: PeerId, result: &Result<(), String>) {
    for done in open.extract_if(.., |o| o.peer == peer) {
        say(done.answer, result.clone());
    }
}

fn say(to: Answer, result: Result<(), String>) {
    // Whoever asked may have given up.
    let _ = to.send(result);
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;
    use zeroize::Zeroizing;

    use super::*;
    use crate::overlay::{Listen, RelayConfig, RelayLimits, RelayNode};

    #[test]
    fn a_thousand_circuits_take_forty_six_parties() {
        assert_eq!([1, 3, 100, 1000].map(parties_for), [2, 3, 15, 46]);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn every_pair_of_a_crowd_has_a_circuit_that_carries_bytes() {
        for transport in ["tcp/0", "udp/0/quic-v1"] {
            carries(transport).await;
        }
    }

    async fn carries(transport: &str) {
        let relay = RelayNode::start(RelayConfig {
            secret: Zeroizing::new([9; 32]),
            listen: vec![Listen {
                address: format!("/ip4/127.0.0.1/{transport}"),
                required: true,
            }],
            external: Vec::new(),
            limits: RelayLimits::default(),
            name: None,
            stun: Vec::new(),
            allow: None,
            guests: None,
        })
        .await
        .expect("a relay on loopback");
        let address = relay.status().addresses.remove(0);
        let mut crowd = RelayCrowd::reserve(&address, 4).await.expect("places");
        crowd.connect(5).await.expect("circuits");
        crowd.connect(6).await.expect("one more");
        crowd.carry(6, 100_000).await.expect("bytes");
        assert!(relay.status().bytes_total >= 600_000);
        let told = async {
            while relay.status().circuits < 6 {
                tokio::task::yield_now().await;
            }
        };
        timeout(SETTLE_WAIT, told).await.expect("six circuits");
        assert!(crowd.connect(7).await.is_err(), "there is no seventh pair");
        crowd.stop().await;
        relay.stop().await;
    }
}
