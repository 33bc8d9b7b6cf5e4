//! Kademlia with the addresses that it may dial: nodes name addresses of nodes, and a hostile one would name a victim's.
//!
//! Limits: [`MAX_KEPT_RECORDS`] on a node, [`MAX_OWN_RECORDS`] at a party; [`MAX_NODE_ADDRESSES`] are dialled per node.

use std::{
    collections::{HashMap, HashSet},
    task::{Context, Poll},
};

use libp2p::{
    Multiaddr, PeerId, StreamProtocol,
    core::{Endpoint as Role, transport::PortUse},
    kad,
    multiaddr::Protocol,
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
        THandlerOutEvent, ToSwarm,
    },
};

use super::{PROTOCOL, config, shelf::Shelf};
use crate::overlay::{Scope, address::Endpoint, source::Source};

/// Records that a node keeps; 1.7 KB each.
pub(super) const MAX_KEPT_RECORDS: usize = 16_384;
/// Records that a party keeps of its own: this hour's and the next one's.
const MAX_OWN_RECORDS: usize = 16;
/// Addresses of one node that are dialled.
const MAX_NODE_ADDRESSES: usize = 8;

/// Where nodes may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::overlay) enum Extent {
    /// In the networks of this scope.
    Within(Scope),
    /// Only those that the user named.
    Named,
    /// In this process: benchmarks of thousands of nodes.
    Memory,
}

/// Kademlia, within bounds.
pub(in crate::overlay) struct Behaviour {
    kad: kad::Behaviour<Shelf>,
    reach: Extent,
    /// What the user named: dialled wherever it is in scope.
    named: HashSet<Multiaddr>,
    /// Where connected peers come from.
    seen: HashMap<PeerId, Multiaddr>,
}

impl Behaviour {
    /// A node: it keeps records and answers.
    pub fn node(me: PeerId, reach: Extent) -> Self {
        Self::new(me, reach, MAX_KEPT_RECORDS, kad::Mode::Server)
    }

    /// A party: it asks and stores.
    pub fn party(me: PeerId, reach: Extent) -> Self {
        Self::new(me, reach, MAX_OWN_RECORDS, kad::Mode::Client)
    }

    /// A party that asks nobody but the nodes that the user named.
    pub fn party_of_named(me: PeerId) -> Self {
        Self::party(me, Extent::Named)
    }

    fn new(me: PeerId, reach: Extent, records: usize, mode: kad::Mode) -> Self {
        let mut kad = kad::Behaviour::with_config(me, Shelf::new(records), config());
        kad.set_mode(Some(mode));
        Self {
            kad,
            reach,
            named: HashSet::new(),
            seen: HashMap::new(),
        }
    }

    /// A node that the user named.
    pub fn begin_with(&mut self, peer: PeerId, address: Multiaddr) {
        if let Ok(whole) = address.clone().with_p2p(peer) {
            self.named.insert(whole);
        }
        self.kad.add_address(&peer, address);
    }

    /// A connected peer said what it speaks and where it listens. Only addresses of the machine that its connection comes
    /// from count: a node cannot send others to a victim.
    pub fn heard_of(&mut self, peer: PeerId, speaks: &[StreamProtocol], listens: &[Multiaddr]) {
        let Some(seen) = self.seen.get(&peer).and_then(|seen| seen.iter().next()) else {
            return;
        };
        if !speaks.contains(&PROTOCOL) {
            return;
        }
        for address in listens.iter().take(MAX_NODE_ADDRESSES) {
            if address.iter().next().as_ref() == Some(&seen) && self.may_dial(address) {
                self.kad.add_address(&peer, address.clone());
            }
        }
    }

    /// Kademlia itself.
    pub fn kad(&mut self) -> &mut kad::Behaviour<Shelf> {
        &mut self.kad
    }

    /// Records kept, and records refused.
    pub fn kept(&mut self) -> (usize, u64) {
        let shelf = self.kad.store_mut();
        (shelf.len(), shelf.refused())
    }

    /// Nodes in the routing table.
    pub fn known(&mut self) -> usize {
        self.kad.kbuckets().map(|bucket| bucket.num_entries()).sum()
    }

    fn may_dial(&self, address: &Multiaddr) -> bool {
        if self.named.contains(address) {
            return true;
        }
        match self.reach {
            Extent::Named => false,
            Extent::Memory => matches!(address.iter().next(), Some(Protocol::Memory(_))),
            Extent::Within(scope) => Endpoint::of(address).is_ok_and(|endpoint| {
                let on_loopback = |named: &Multiaddr| {
                    Endpoint::of(named).is_ok_and(|endpoint| endpoint.is_loopback())
                };
                endpoint.relay.is_none()
                    && endpoint.allowed(scope).is_ok()
                    && (scope == Scope::Local
                        || !endpoint.is_loopback()
                        || self.named.iter().any(on_loopback))
            }),
        }
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = <kad::Behaviour<Shelf> as NetworkBehaviour>::ConnectionHandler;
    type ToSwarm = kad::Event;

    fn handle_pending_inbound_connection(
        &mut self,
        connection: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.kad
            .handle_pending_inbound_connection(connection, local, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.seen.insert(peer, remote.clone());
        self.kad
            .handle_established_inbound_connection(connection, peer, local, remote)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Role,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        let mut all = self
            .kad
            .handle_pending_outbound_connection(connection, peer, addresses, role)?;
        all.retain(|address| self.may_dial(address));
        all.truncate(MAX_NODE_ADDRESSES);
        Ok(all)
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Role,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.seen.insert(peer, address.clone());
        self.kad
            .handle_established_outbound_connection(connection, peer, address, role, port_use)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        if let FromSwarm::ConnectionClosed(closed) = &event
            && closed.remaining_established == 0
        {
            self.seen.remove(&closed.peer_id);
        }
        self.kad.on_swarm_event(event);
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        // Whatever is put by it is put before this call returns.
        let source = self.seen.get(&peer).map_or(Source::Ourselves, Source::of);
        self.kad.store_mut().take_from(source);
        self.kad
            .on_connection_handler_event(peer, connection, event);
        self.kad.store_mut().take_from(Source::Ourselves);
    }

    fn poll(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        self.kad.poll(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::overlay::dht::shelf::tests::record;
    use futures::StreamExt as _;
    use libp2p::{Swarm, SwarmBuilder, noise, swarm::SwarmEvent, tcp, yamux};

    fn address(text: &str) -> Multiaddr {
        text.parse().expect("a multiaddr")
    }

    #[test]
    fn addresses_that_nodes_name_are_dialled_within_the_scope_only() {
        let mut lan = Behaviour::party(PeerId::random(), Extent::Within(Scope::Lan));
        let local = Behaviour::party(PeerId::random(), Extent::Within(Scope::Local));
        let loopback = address("/ip4/127.0.0.1/tcp/22");
        let public = address("/ip4/203.0.113.5/udp/4001/quic-v1");
        assert!(lan.may_dial(&public) && !local.may_dial(&public));
        assert!(!lan.may_dial(&loopback) && local.may_dial(&loopback));
        for text in [
            "/ip4/224.0.0.1/tcp/1",
            "/ip4/0.0.0.0/tcp/1",
            "/ip6/fe80::1/tcp/1",
            "/ip4/203.0.113.5/udp/53",
            "/dns4/victim.example/tcp/80",
            "/memory/1",
        ] {
            assert!(!lan.may_dial(&address(text)), "{text}");
        }
        lan.begin_with(PeerId::random(), address("/ip4/127.0.0.1/tcp/4001"));
        assert!(lan.may_dial(&loopback), "the lab of one machine");
    }

    #[test]
    fn a_node_is_listed_under_the_address_that_it_comes_from_only() {
        let mut node = Behaviour::node(PeerId::random(), Extent::Within(Scope::Lan));
        let seen = address("/ip4/203.0.113.5/tcp/50000");
        let claims = [
            address("/ip4/203.0.113.5/tcp/4001"),
            address("/ip4/198.51.100.9/tcp/80"),
        ];
        let peer = PeerId::random();
        node.heard_of(peer, &[PROTOCOL], &claims);
        assert_eq!(node.known(), 0, "it is not connected");
        node.seen.insert(peer, seen);
        node.heard_of(peer, &[], &claims);
        node.heard_of(peer, &[PROTOCOL], &claims[1..]);
        assert_eq!(node.known(), 0);
        node.heard_of(peer, &[PROTOCOL], &claims);
        assert_eq!(node.known(), 1);
    }

    fn swarm(behaviour: impl FnOnce(PeerId) -> Behaviour) -> Swarm<Behaviour> {
        SwarmBuilder::with_new_identity()
            .with_tokio()
            .with_tcp(
                tcp::Config::new(),
                noise::Config::new,
                yamux::Config::default,
            )
            .expect("a transport")
            .with_behaviour(|key| behaviour(key.public().to_peer_id()))
            .expect("a behaviour")
            .build()
    }

    #[tokio::test]
    async fn a44_records_count_for_the_network_address_that_they_come_from() {
        let mut node = swarm(|me| Behaviour::new(me, Extent::Named, 32, kad::Mode::Server));
        let at = address("/ip4/127.0.0.1/tcp/0");
        node.listen_on(at).expect("loopback works");
        let at = loop {
            if let SwarmEvent::NewListenAddr { address, .. } = node.select_next_some().await {
                break address;
            }
        };
        let mut party = swarm(Behaviour::party_of_named);
        let to = *node.local_peer_id();
        party.behaviour_mut().begin_with(to, at);
        for place in 0..5 {
            let kad = party.behaviour_mut().kad();
            let only = std::iter::once(to);
            kad.put_record_to(record(place, 1), only, kad::Quorum::One);
        }
        let mut put = 0;
        while put < 5 {
            tokio::select! {
                _ = node.select_next_some() => {}
                event = party.select_next_some() => {
                    if let SwarmEvent::Behaviour(kad::Event::OutboundQueryProgressed {
                        result: kad::QueryResult::PutRecord(result),
                        ..
                    }) = event
                    {
                        result.expect("it is taken");
                        put += 1;
                    }
                }
            }
        }
        assert_eq!(
            node.behaviour_mut().kept(),
            (2, 0),
            "the share of one address"
        );
    }
}
