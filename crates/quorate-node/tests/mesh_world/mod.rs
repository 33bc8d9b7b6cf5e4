//! Parties on loopback with real sockets; signals travel in memory.
#![allow(dead_code, clippy::unwrap_used, clippy::panic)]

use quorate_node::wireguard::{Mesh, MeshConfig, MeshEvent, MeshPeer, Reach};
use quorate_path::Scope;
use std::{collections::BTreeSet, net::Ipv6Addr, sync::Arc, time::Duration};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::timeout,
};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

pub const MTU: u16 = 1420;
/// Far more than anything here takes; a test that reaches it has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub fn secret(index: u16) -> [u8; 32] {
    let mut secret = [7; 32];
    secret[..2].copy_from_slice(&index.to_be_bytes());
    secret
}

pub fn public(index: u16) -> [u8; 32] {
    PublicKey::from(&StaticSecret::from(secret(index))).to_bytes()
}

pub fn address(index: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 1, 2, 3, 0, 0, 0, index + 1)
}

pub fn psk(a: u16, b: u16) -> [u8; 32] {
    let mut psk = [9; 32];
    psk[0] = u8::try_from(a.min(b)).unwrap();
    psk[1] = u8::try_from(a.max(b)).unwrap();
    psk
}

pub fn config(me: u16, parties: u16) -> MeshConfig {
    let peer = |index| MeshPeer {
        index,
        public: public(index),
        psk: Zeroizing::new(psk(me, index)),
        address: address(index),
    };
    MeshConfig {
        me,
        secret: Zeroizing::new(secret(me)),
        address: address(me),
        mtu: MTU,
        scope: Scope::Local,
        peers: (0..parties).filter(|i| *i != me).map(peer).collect(),
        reach: Reach::default(),
    }
}

/// Meshes whose signals reach each other.
pub struct World {
    pub meshes: Vec<Arc<Mesh>>,
    pub up: Vec<watch::Receiver<BTreeSet<u16>>>,
    carriers: JoinSet<()>,
}

impl World {
    pub async fn new(parties: u16) -> Self {
        Self::of((0..parties).map(|i| config(i, parties)).collect()).await
    }

    pub async fn of(configs: Vec<MeshConfig>) -> Self {
        Self::start(configs, true).await
    }

    /// Meshes that never hear of each other's addresses.
    pub async fn without_signals(configs: Vec<MeshConfig>) -> Self {
        Self::start(configs, false).await
    }

    async fn start(configs: Vec<MeshConfig>, signals: bool) -> Self {
        let mut starting = JoinSet::new();
        for (i, config) in configs.into_iter().enumerate() {
            starting.spawn(async move { (i, Mesh::start(config).await.unwrap()) });
        }
        let mut started: Vec<_> = starting.join_all().await;
        started.sort_by_key(|(i, _)| *i);
        let mut world = Self {
            meshes: Vec::new(),
            up: Vec::new(),
            carriers: JoinSet::new(),
        };
        let mut events = Vec::new();
        for (_, (mesh, receiver)) in started {
            world.meshes.push(Arc::new(mesh));
            events.push(receiver);
        }
        for (i, receiver) in events.into_iter().enumerate() {
            let (sender, up) = watch::channel(BTreeSet::new());
            world.up.push(up);
            let weak = world.meshes.iter().map(Arc::downgrade);
            let weak = weak.filter(|_| signals).collect();
            world.carriers.spawn(carry(i, receiver, weak, sender));
        }
        world
    }

    /// Waits until every party heard from every other.
    pub async fn all_up(&mut self) {
        let others = self.meshes.len() - 1;
        for up in &mut self.up {
            let wait = up.wait_for(|up| up.len() == others);
            timeout(PATIENCE, wait)
                .await
                .expect("the mesh comes up")
                .unwrap();
        }
    }

    pub async fn stop(mut self) {
        for mesh in self.meshes.drain(..) {
            let mesh = Arc::try_unwrap(mesh).expect("the test has let go of the mesh");
            timeout(PATIENCE, mesh.stop()).await.expect("a mesh stops");
        }
        self.carriers.shutdown().await;
    }
}

async fn carry(
    from: usize,
    mut events: mpsc::Receiver<MeshEvent>,
    meshes: Vec<std::sync::Weak<Mesh>>,
    up: watch::Sender<BTreeSet<u16>>,
) {
    let from = u16::try_from(from).unwrap();
    while let Some(event) = events.recv().await {
        match event {
            MeshEvent::Signal { to, data } => {
                if let Some(mesh) = meshes
                    .get(usize::from(to))
                    .and_then(std::sync::Weak::upgrade)
                {
                    mesh.handle_signal(from, data);
                }
            }
            MeshEvent::Up { index } => up.send_modify(|up| {
                up.insert(index);
            }),
            MeshEvent::Fatal(what) => panic!("{from}: {what}"),
            _ => {}
        }
    }
}

/// Brings the signals of party `from` to the other party.
pub fn bring(from: u16, mut events: mpsc::Receiver<MeshEvent>, to: std::sync::Weak<Mesh>) {
    tokio::spawn(async move {
        while let Some(event) = events.recv().await {
            if let MeshEvent::Signal { data, .. } = event
                && let Some(mesh) = to.upgrade()
            {
                mesh.handle_signal(from, data);
            }
        }
    });
}
