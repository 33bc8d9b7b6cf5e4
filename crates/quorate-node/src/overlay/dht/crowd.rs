//! Thousands of nodes in one process, to measure how lookups grow with their number. Nothing else uses it.
//!
//! The nodes are those of the product but for three things: their connections are channels in memory on which each end
//! says who it is and proves nothing, their routing tables are filled as they would be after a long time, and they do not
//! refresh them.
//!
//! *Hops* are counted beside the lookups: how many nodes in a row, each the nearest one that the one before knows, lead
//! from where the lookup begins to one of the twenty that keep the record.

use std::{
    io,
    pin::Pin,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, StreamExt as _};
use libp2p::{
    Multiaddr, PeerId, Swarm, Transport as _,
    core::{
        UpgradeInfo,
        transport::MemoryTransport,
        upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, Version},
    },
    identity::Keypair,
    kad::{self, GetRecordOk, QueryResult, Quorum, Record, RecordKey},
    multiaddr::Protocol,
    swarm::{self, SwarmEvent},
    yamux,
};
use quorate_identity::B64;
use quorate_session::{
    Pid, RendezvousSecret,
    rendezvous::{Slot, Stamp},
};
use sha2::{Digest as _, Sha256};
use tokio::{task::JoinSet, time::timeout};

use super::behaviour::{Behaviour, Extent};
use crate::{overlay::OverlayError, party::clock};

/// Nodes of one distance that a node knows; also those that keep a record.
const K: usize = kad::K_VALUE.get();
/// Port of the next node, in memory: none is used twice.
static NEXT_PORT: AtomicU64 = AtomicU64::new(1 << 40);
/// A connection without a query is closed after this time.
const IDLE_WAIT: Duration = Duration::from_secs(2);
/// A lookup must be over within this time.
const LOOKUP_WAIT: Duration = Duration::from_mins(1);
/// Bytes of a PeerId with an Ed25519 key.
const PEER_BYTES: usize = 38;

/// One lookup.
#[derive(Debug, Clone, Copy)]
pub struct Lookup {
    /// Nodes that keep the record.
    pub kept_by: usize,
    /// Answers with the record.
    pub answers: usize,
    /// Requests that were sent until the lookup was over.
    pub requests: u32,
    /// Nodes in a row from the first one asked to one that keeps it.
    pub hops: usize,
    /// Time until the first answer.
    pub first: Duration,
    /// Time until it was over.
    pub over: Duration,
}

/// Many nodes.
#[derive(Debug)]
pub struct Crowd {
    nodes: Vec<Known>,
    tasks: JoinSet<()>,
}

/// What is known about a node from outside.
#[derive(Debug)]
struct Known {
    peer: PeerId,
    address: Multiaddr,
    /// Its place among the keys.
    place: [u8; 32],
    /// The nodes in its routing table.
    table: Vec<usize>,
}

impl Crowd {
    /// Starts `count` nodes.
    pub fn start(count: usize) -> Result<Self, OverlayError> {
        let keys: Vec<Keypair> = (0..count).map(|_| Keypair::generate_ed25519()).collect();
        let known = |key: &Keypair| {
            let peer = key.public().to_peer_id();
            Known {
                peer,
                address: Multiaddr::from(Protocol::Memory(
                    NEXT_PORT.fetch_add(1, Ordering::Relaxed),
                )),
                place: Sha256::digest(peer.to_bytes()).into(),
                table: Vec::new(),
            }
        };
        let mut nodes: Vec<Known> = keys.iter().map(known).collect();
        let tables: Vec<Vec<usize>> = (0..count).map(|own| table(&nodes, own)).collect();
        for (node, table) in nodes.iter_mut().zip(tables) {
            node.table = table;
        }
        let mut tasks = JoinSet::new();
        for (key, node) in keys.iter().zip(&nodes) {
            let mut swarm = swarm_of(key, Behaviour::node);
            let listens = swarm.listen_on(node.address.clone());
            listens.map_err(|e| OverlayError::Listen(e.to_string()))?;
            for index in &node.table {
                let other = &nodes[*index];
                let kad = swarm.behaviour_mut().kad();
                kad.add_address(&other.peer, other.address.clone());
            }
            tasks.spawn(serve(swarm));
        }
        Ok(Self { nodes, tasks })
    }

    /// A party publishes through one node, and another one looks it up through another node.
    pub async fn lookup(&mut self, seed: u64) -> Result<Lookup, OverlayError> {
        let secret = RendezvousSecret::new(Sha256::digest(seed.to_be_bytes()).into());
        let slot = Slot::derive(&secret, &B64([7; 32]), Pid(0), seed);
        let exp = clock::wall().plus_seconds(1200);
        let value = slot.seal_text("", Stamp { seq: 1, exp }, &[1; 24]);
        let key = RecordKey::new(&slot.locator());
        let count = self.nodes.len() as u64;
        let pick = |n: u64| usize::try_from(n % count).unwrap_or(0);
        let (from, to) = (pick(seed * 7919 + 1), pick(seed * 104_729 + 5));
        let kept_by = self.publish(from, Record::new(key.clone(), value)).await?;
        let mut party = self.party(to);
        let begun = Instant::now();
        let query = party.behaviour_mut().kad().get_record(key);
        let (mut first, mut answers) = (None, 0);
        let requests = loop {
            let (id, result, last, stats) = progress(&mut party).await?;
            if id != query {
                continue;
            }
            if let QueryResult::GetRecord(Ok(GetRecordOk::FoundRecord(_))) = result {
                first.get_or_insert(begun.elapsed());
                answers += 1;
            }
            if last {
                break stats.num_requests();
            }
        };
        let over = begun.elapsed();
        Ok(Lookup {
            kept_by,
            answers,
            requests,
            hops: self.hops(to, &slot.locator()),
            first: first.unwrap_or(over),
            over,
        })
    }

    /// Ends all nodes.
    pub async fn stop(mut self) {
        self.tasks.shutdown().await;
    }

    async fn publish(&self, from: usize, record: Record) -> Result<usize, OverlayError> {
        let mut party = self.party(from);
        let put = party.behaviour_mut().kad().put_record(record, Quorum::All);
        let query = put.map_err(|e| OverlayError::Setup(e.to_string()))?;
        loop {
            let (id, result, ..) = progress(&mut party).await?;
            if let (true, QueryResult::PutRecord(result)) = (id == query, result) {
                return Ok(match result {
                    Ok(_) => K,
                    Err(
                        kad::PutRecordError::QuorumFailed { success, .. }
                        | kad::PutRecordError::Timeout { success, .. },
                    ) => success.len(),
                });
            }
        }
    }

    /// A party that was told of one node and what that one tells it at first.
    fn party(&self, node: usize) -> Swarm<Behaviour> {
        let mut swarm = swarm_of(&Keypair::generate_ed25519(), Behaviour::party);
        let named = &self.nodes[node];
        let kad = swarm.behaviour_mut().kad();
        kad.add_address(&named.peer, named.address.clone());
        swarm
    }

    fn hops(&self, from: usize, locator: &[u8; 32]) -> usize {
        let target: [u8; 32] = Sha256::digest(locator).into();
        let far = |index: &usize| distance(&self.nodes[*index].place, &target);
        let mut all: Vec<usize> = (0..self.nodes.len()).collect();
        all.sort_by_key(far);
        let keepers = &all[..all.len().min(K)];
        let (mut at, mut hops) = (from, 1);
        while !keepers.contains(&at) {
            let next = self.nodes[at].table.iter().copied().min_by_key(far);
            match next {
                Some(next) if far(&next) < far(&at) => at = next,
                _ => break,
            }
            hops += 1;
        }
        hops
    }
}

/// Up to [`K`] nodes of each distance, taken from anywhere.
fn table(nodes: &[Known], own: usize) -> Vec<usize> {
    let mut buckets = [0_usize; 256];
    let mut table = Vec::new();
    for step in 1..nodes.len() {
        let other = (own + step * 31) % nodes.len();
        if other == own || table.contains(&other) {
            continue;
        }
        let shared = shared_bits(&nodes[own].place, &nodes[other].place);
        if buckets[shared] < K {
            buckets[shared] += 1;
            table.push(other);
        }
    }
    table
}

fn distance(a: &[u8; 32], b: &[u8; 32]) -> [u8; 32] {
    std::array::from_fn(|at| a[at] ^ b[at])
}

fn shared_bits(a: &[u8; 32], b: &[u8; 32]) -> usize {
    let first = distance(a, b)
        .into_iter()
        .enumerate()
        .find(|(_, d)| *d != 0);
    first.map_or(255, |(at, byte)| at * 8 + byte.leading_zeros() as usize)
}

fn swarm_of(key: &Keypair, behaviour: fn(PeerId, Extent) -> Behaviour) -> Swarm<Behaviour> {
    let peer = key.public().to_peer_id();
    let transport = MemoryTransport::default()
        .upgrade(Version::V1Lazy)
        .authenticate(Said(peer))
        .multiplex(yamux::Config::default())
        .boxed();
    let config = swarm::Config::with_tokio_executor()
        .with_idle_connection_timeout(IDLE_WAIT)
        .with_dial_concurrency_factor(nonzero(1));
    Swarm::new(transport, behaviour(peer, Extent::Memory), peer, config)
}

fn nonzero(n: u8) -> std::num::NonZeroU8 {
    std::num::NonZeroU8::new(n).unwrap_or(std::num::NonZeroU8::MIN)
}

async fn serve(mut swarm: Swarm<Behaviour>) {
    loop {
        swarm.select_next_some().await;
        for mut query in swarm.behaviour_mut().kad().iter_queries_mut() {
            if matches!(query.info(), kad::QueryInfo::Bootstrap { .. }) {
                query.finish();
            }
        }
    }
}

type Progress = (kad::QueryId, QueryResult, bool, kad::QueryStats);

async fn progress(swarm: &mut Swarm<Behaviour>) -> Result<Progress, OverlayError> {
    let search = async {
        loop {
            if let SwarmEvent::Behaviour(kad::Event::OutboundQueryProgressed {
                id,
                result,
                step,
                stats,
            }) = swarm.select_next_some().await
            {
                return (id, result, step.last, stats);
            }
        }
    };
    let found = timeout(LOOKUP_WAIT, search).await;
    found.map_err(|_| OverlayError::Setup("a lookup was not over in time".into()))
}

/// Each end says its PeerId, which is believed.
#[derive(Clone)]
struct Said(PeerId);

impl UpgradeInfo for Said {
    type Info = &'static str;
    type InfoIter = std::iter::Once<&'static str>;

    fn protocol_info(&self) -> Self::InfoIter {
        std::iter::once("/said")
    }
}

impl Said {
    async fn exchange<C: AsyncRead + AsyncWrite + Unpin>(
        self,
        mut stream: C,
    ) -> io::Result<(PeerId, C)> {
        stream.write_all(&self.0.to_bytes()).await?;
        stream.flush().await?;
        let mut bytes = [0; PEER_BYTES];
        stream.read_exact(&mut bytes).await?;
        let peer = PeerId::from_bytes(&bytes).map_err(io::Error::other)?;
        Ok((peer, stream))
    }
}

type Exchange<C> = Pin<Box<dyn Future<Output = io::Result<(PeerId, C)>> + Send>>;

impl<C: AsyncRead + AsyncWrite + Unpin + Send + 'static> InboundConnectionUpgrade<C> for Said {
    type Output = (PeerId, C);
    type Error = io::Error;
    type Future = Exchange<C>;

    fn upgrade_inbound(self, stream: C, _: Self::Info) -> Self::Future {
        Box::pin(self.exchange(stream))
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin + Send + 'static> OutboundConnectionUpgrade<C> for Said {
    type Output = (PeerId, C);
    type Error = io::Error;
    type Future = Exchange<C>;

    fn upgrade_outbound(self, stream: C, _: Self::Info) -> Self::Future {
        Box::pin(self.exchange(stream))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn lookups_in_a_crowd_find_what_was_published() {
        let mut crowd = Crowd::start(60).expect("channels in memory");
        for seed in 1..4 {
            let lookup = crowd.lookup(seed).await.expect("a lookup");
            assert!(lookup.kept_by >= 15, "{lookup:?}");
            assert!(lookup.answers > 0, "{lookup:?}");
            assert!((1..6).contains(&lookup.hops), "{lookup:?}");
        }
        crowd.stop().await;
    }
}
