//! A relay node: what `quorate relay run` runs, and how one is looked at from outside.
//!
//! ```text
//!            ┌ overlay::RelayNode   TCP and QUIC: circuits, reservations, what this relay is
//!   Relay ───┼ stun                 two UDP ports: how a NAT shows who asks
//!            └ http                 loopback: /metrics, /healthz
//!
//!   start ─► serving ─ drain: nothing new, circuits end ─► stop
//! ```
//! A relay carries sessions between parties that cannot reach each other, and knows neither of
//! them: it sees ephemeral PeerIds, addresses, times and sizes. It needs no identity of its operator
//! and keeps nothing but its key.
//!
//! Limits: those of [`RelayLimits`](crate::overlay::RelayLimits), and of each part.
//!
//! Security. Provides: bounded cost for everything that strangers can send, and no content, DID or
//! address in its logs above debug. Does not provide: secrecy of who talks to whom towards its
//! operator, as far as addresses tell.

mod check;
mod http;
mod key;
mod metrics;
mod stun;
mod unit;

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use quorate_identity::Code;

pub use check::{Checked, check};
pub(crate) use check::{ask_for, ask_stun};
pub use key::{key_path, load_or_create_key};
pub use unit::{DEFAULT_UNIT_PATH, SERVICE, UnitOptions, unit};

use crate::{
    Fault,
    overlay::{OverlayError, RelayConfig, RelayNode, RelayStatus, relay_probe},
};

/// How often it is looked whether the relay's task is still there.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// What a relay is started with beside its swarm.
#[derive(Debug)]
pub struct RelayOptions {
    /// The swarm; its `stun` is filled in by [`Relay::start`].
    pub node: RelayConfig,
    /// UDP ports that answer STUN, 0 to let the system choose; none: no STUN.
    pub stun: Option<[u16; 2]>,
    /// Loopback address of the metrics.
    pub metrics: Option<SocketAddr>,
}

/// A running relay.
#[derive(Debug)]
pub struct Relay {
    node: RelayNode,
    stun: Option<stun::StunServer>,
    http: Option<http::HttpServer>,
}

impl Relay {
    /// Opens all sockets, then serves.
    pub async fn start(options: RelayOptions) -> Result<Self, Fault> {
        let mut config = options.node;
        let mut hosts = BTreeSet::new();
        for listen in &config.listen {
            let (ip, _) = listen_at(&listen.address)?;
            hosts.insert(ip);
        }
        let stun = match options.stun {
            None => None,
            Some(ports) => Some(stun::StunServer::start(&hosts, ports)?),
        };
        config.stun = stun.as_ref().map(|s| s.ports.clone()).unwrap_or_default();
        let node = RelayNode::start(config).await.map_err(cannot)?;
        let http = match options.metrics {
            None => None,
            Some(address) => {
                let pages = Pages {
                    status: Box::new(node.watch()),
                    stun: stun.as_ref().map(stun::StunServer::counter),
                };
                Some(http::HttpServer::start(address, Arc::new(pages)).await?)
            }
        };
        Ok(Self { node, stun, http })
    }

    /// Its `PeerId`.
    pub fn peer_id(&self) -> &str {
        self.node.peer_id()
    }

    /// How it stands.
    pub fn status(&self) -> RelayStatus {
        self.node.status()
    }

    /// UDP ports that answer STUN.
    pub fn stun_ports(&self) -> Vec<u16> {
        self.stun
            .as_ref()
            .map(|s| s.ports.clone())
            .unwrap_or_default()
    }

    /// Where the metrics are.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.http.as_ref().map(|h| h.address)
    }

    /// Returns when the relay's task is gone, which is a fault.
    pub async fn failed(&self) {
        while !self.node.has_failed() {
            tokio::time::sleep(WATCH_EVERY).await;
        }
    }

    /// Takes nothing new, and waits until the last circuit is closed, at most for `wait`.
    pub async fn drain(&self, wait: Duration) {
        self.node.drain(wait).await;
    }

    /// Closes everything.
    pub async fn stop(self) {
        drop(self.http);
        drop(self.stun);
        self.node.stop().await;
    }
}

/// The host and port of an address to listen on.
pub fn listen_at(address: &str) -> Result<(IpAddr, u16), Fault> {
    relay_probe::listening_parts(address).map_err(|why| {
        let text = format!("{address} cannot be listened on: {why}");
        Fault::new(Code::Address, text).hint(
            "write /ip4/0.0.0.0/tcp/443, /ip6/::/tcp/443 or /ip4/0.0.0.0/udp/4001/quic-v1, or a port",
        )
    })
}

fn cannot(error: OverlayError) -> Fault {
    match error {
        OverlayError::Random(why) => Fault::new(Code::Internal, why),
        OverlayError::Setup(why) => {
            Fault::new(Code::Usage, format!("the relay cannot be set up: {why}"))
        }
        OverlayError::Listen(why) => {
            let text = format!("the relay cannot listen on {why}");
            Fault::new(Code::Port, text).hint(
                "see who uses the port (ss -tulpn), or choose another one with --port; ports below 1024 need CAP_NET_BIND_SERVICE",
            )
        }
    }
}

struct Pages {
    status: Box<dyn Fn() -> RelayStatus + Send + Sync>,
    stun: Option<Arc<AtomicU64>>,
}

impl http::Pages for Pages {
    fn metrics(&self) -> String {
        let answers = self.stun.as_ref();
        let answers = answers.map_or(0, |n| n.load(Ordering::Relaxed));
        metrics::page(&(self.status)(), answers)
    }

    fn unhealthy(&self) -> Option<&'static str> {
        let status = (self.status)();
        if status.draining {
            return Some("draining");
        }
        status.addresses.is_empty().then_some("listens nowhere")
    }
}
