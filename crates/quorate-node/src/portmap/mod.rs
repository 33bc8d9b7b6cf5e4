//! A port of the router, forwarded to a socket of this machine on request: asked for, renewed, and given back.
//!
//! ```text
//!   the way to the router ─► PCP ─► NAT-PMP ─┐ refused or silent       UPnP is looked for meanwhile, and asked last
//!           │                  └── lease ◄───┴──── UPnP ──┐
//!           │                       │ half of it is over   │ none
//!           │                       └─► renew              └─► again after 1, 2, 4 … 16 min, or on another way
//!           └ another way, or the end ─► give the port back
//! ```
//! With a forwarded port everybody can send to a party behind a NAT that would let in only whom it asked, so pairs become
//! direct that need a relay otherwise. All of it happens beside the session: nothing waits for the router, a silent
//! one costs nothing.
//!
//! **What stays.** Nothing: the lease is [`LEASE`], and it is given back when the [`Forwarding`] is stopped or dropped.
//! If its task is taken away with its runtime, a thread of its own does that (`Lease`). After a `kill -9` the router
//! forgets the port by itself when the lease is over. Routers that forward for ever only are asked for nothing.
//!
//! **Limits.** One lease per socket; each question is bounded in time, repetitions and bytes (`pcp`, `igd`, `http`).
//! **Security.** Requires nothing of the router: it may be hostile or not be the router at all. Provides that
//! only an outside address that is public is told ([`Forwarded`]). Does not provide that it is ours: whoever tells it to
//! others has to see it confirmed by somebody else, which `quorate_path::candidates` does with STUN servers.
//!
//! Source: RFC 6887 (PCP), RFC 6886 (NAT-PMP), UPnP WANIPConnection.

mod gateway;
mod http;
mod igd;
mod pcp;

use std::{
    fmt,
    net::{IpAddr, SocketAddrV4},
    num::NonZeroU16,
    pin::pin,
    sync::Arc,
    time::Duration,
};

use quorate_path::is_public;
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
    time::{Instant, sleep, sleep_until, timeout},
};

pub use gateway::{Way, look};

/// How long a router is asked to forward a port; it may grant less, or more.
pub const LEASE: Duration = Duration::from_mins(15);
/// A shorter lease would end before it is renewed, and is given back.
pub const SHORTEST_LEASE: Duration = Duration::from_mins(1);
/// Wait before a router that forwarded nothing is asked again; doubles each time.
pub const RETRY_FIRST: Duration = Duration::from_mins(1);
/// Longest such wait.
pub const RETRY_LAST: Duration = Duration::from_mins(16);
/// Wait before a renewal that failed is tried again.
const RENEW_AGAIN: Duration = Duration::from_secs(30);
/// How often the way to the router is looked at.
const WAY_LOOK: Duration = Duration::from_secs(5);
/// Least time between two questions that somebody is in a hurry for.
const HURRY_PAUSE: Duration = Duration::from_secs(15);
/// How long the end waits for an answer that is on its way, since it may have made a lease.
const ANSWER_AT_END: Duration = Duration::from_millis(250);
/// How long giving back may take.
pub const REMOVE_WAIT: Duration = Duration::from_millis(1500);

/// Of which kind a port is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// Datagrams.
    Udp,
    /// Streams.
    Tcp,
}

/// What a router is asked to forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Wish {
    /// Of which kind.
    pub transport: Transport,
    /// The port of the own socket.
    pub port: NonZeroU16,
}

/// How a router was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// Port Control Protocol.
    Pcp,
    /// NAT Port Mapping Protocol.
    NatPmp,
    /// Universal Plug and Play.
    Upnp,
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pcp => "PCP",
            Self::NatPmp => "NAT-PMP",
            Self::Upnp => "UPnP",
        })
    }
}

/// A forwarded port, as the router says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forwarded {
    /// Where others send to; a public address.
    pub outside: SocketAddrV4,
    /// The own socket.
    pub inside: SocketAddrV4,
    /// How it was asked for.
    pub method: Method,
}

/// Why no port is forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Obstacle {
    /// No default route over IPv4 is known.
    NoRouter,
    /// The own address is public already.
    NotNeeded,
    /// The router speaks none of the protocols.
    NoAnswer,
    /// It says no.
    Refused,
    /// Its answers make no sense.
    Garbled,
    /// All ports that were asked for are taken.
    PortTaken,
    /// It forwards for ever only, which nobody would undo after a crash.
    ForEverOnly,
    /// Its lease is too short to be renewed.
    TooShort,
    /// It forwards, but its own address is not public: another NAT comes after it.
    Carrier(Method),
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRouter => f.write_str("no router is known"),
            Self::NotNeeded => f.write_str("this machine has a public address"),
            Self::NoAnswer => f.write_str("the router knows neither PCP, NAT-PMP nor UPnP"),
            Self::Refused => f.write_str("the router refuses to map a port"),
            Self::Garbled => f.write_str("the router's answers make no sense"),
            Self::PortTaken => f.write_str("the router has no free port"),
            Self::ForEverOnly => f.write_str("the router maps ports for ever only"),
            Self::TooShort => f.write_str("the router maps ports for moments only"),
            Self::Carrier(method) => write!(
                f,
                "the router maps a port ({method}), but is behind another NAT itself"
            ),
        }
    }
}

/// How it stands with a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The router has not answered yet.
    Asking,
    /// The port is forwarded.
    Forwarded(Forwarded),
    /// It is not; the router is asked again later.
    Not(Obstacle),
}

/// How the way to the router is found.
type Look = Arc<dyn Fn() -> Option<Way> + Send + Sync>;

/// Keeps one port forwarded until it is stopped or dropped.
#[derive(Debug)]
pub struct Forwarding {
    standing: watch::Receiver<Standing>,
    hurry: Arc<Notify>,
    /// Dropped, it ends the task.
    stop: watch::Sender<()>,
    task: JoinHandle<()>,
}

impl Forwarding {
    /// Asks the default router of this machine, in a task of its own. Needs a runtime.
    pub fn start(wish: Wish) -> Self {
        Self::with(wish, Arc::new(look))
    }

    fn with(wish: Wish, look: Look) -> Self {
        let (told, standing) = watch::channel(Standing::Asking);
        let (stop, stopped) = watch::channel(());
        let hurry = Arc::new(Notify::new());
        let keeper = Keeper {
            wish,
            look,
            told,
            stopped,
            hurry: Arc::clone(&hurry),
            lease: None,
            pause: RETRY_FIRST,
        };
        Self {
            standing,
            hurry,
            stop,
            task: tokio::spawn(keeper.run()),
        }
    }

    /// How it stands, and what comes.
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.clone()
    }

    /// Asks the router again soon: something looks as if it had forgotten.
    pub fn hurry(&self) {
        self.hurry.notify_one();
    }

    /// Gives the port back. Takes [`REMOVE_WAIT`] at most, and a quarter of a second more if the router is being asked.
    pub async fn stop(self) {
        drop(self.stop);
        let _ = self.task.await;
    }
}

/// Asks once whether a port would be forwarded, and gives it back.
pub async fn probe(wish: Wish) -> Result<Method, Obstacle> {
    let way = look().ok_or(Obstacle::NoRouter)?;
    let lease = ask(way, wish).await?;
    let method = lease.forwarded.method;
    lease.remove().await;
    Ok(method)
}

/// A port that is forwarded. Whoever has it has to give it back.
#[derive(Debug)]
struct Lease {
    way: Way,
    forwarded: Forwarded,
    until: Instant,
    lasts: Duration,
    /// Gone once it was given back.
    holder: Option<Holder>,
}

/// What is needed to renew it and to give it back.
#[derive(Clone, Debug)]
enum Holder {
    Pcp(crab_nat::PortMapping),
    Upnp(igd::Service, Transport, u16),
}

impl Holder {
    async fn remove(self) {
        let removed = timeout(REMOVE_WAIT, async {
            match self {
                Self::Pcp(mapping) => pcp::remove(mapping).await,
                Self::Upnp(service, transport, port) => service.remove(transport, port).await,
            }
        });
        if !matches!(removed.await, Ok(Ok(()))) {
            tracing::debug!("the router did not take the port back; its lease ends by itself");
        }
    }
}

impl Lease {
    /// A lease whose outside address is of use, or none: one of no use is given back at once.
    async fn new(
        way: Way,
        wish: Wish,
        (outside, method, lasts): (SocketAddrV4, Method, Duration),
        holder: Holder,
    ) -> Result<Self, Obstacle> {
        let lease = Self {
            way,
            forwarded: Forwarded {
                outside,
                inside: SocketAddrV4::new(way.own, wish.port.get()),
                method,
            },
            until: Instant::now() + lasts.min(Duration::from_hours(24)),
            lasts,
            holder: Some(holder),
        };
        let obstacle = if !is_public(IpAddr::V4(*outside.ip())) {
            Obstacle::Carrier(method)
        } else if lasts < SHORTEST_LEASE {
            Obstacle::TooShort
        } else {
            return Ok(lease);
        };
        lease.remove().await;
        Err(obstacle)
    }

    async fn remove(mut self) {
        if let Some(holder) = self.holder.take() {
            holder.remove().await;
        }
    }

    /// Asks for the same once more.
    async fn renew(&self, wish: Wish) -> Result<Self, Obstacle> {
        match self.holder.clone() {
            Some(Holder::Pcp(mapping)) => by_pcp(self.way, wish, Some(&mapping)).await,
            Some(Holder::Upnp(service, _, port)) => {
                by_upnp(self.way, wish, service, Some(port)).await
            }
            None => Err(Obstacle::Refused),
        }
    }

    fn renew_at(&self) -> Instant {
        let half = self.lasts.min(LEASE * 2) / 2;
        self.until
            .checked_sub(self.lasts.min(Duration::from_hours(24)))
            .map_or_else(Instant::now, |from| from + half)
    }
}

impl Drop for Lease {
    /// The task that had it is gone, and perhaps its runtime: a thread of its own gives the port back.
    fn drop(&mut self) {
        let Some(holder) = self.holder.take() else {
            return;
        };
        let give_back = move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            if let Ok(runtime) = runtime {
                runtime.block_on(holder.remove());
            }
        };
        let _ = std::thread::spawn(give_back).join();
    }
}

/// Asks the router by every protocol, the newest first. The search for UPnP changes nothing, so it goes on meanwhile.
async fn ask(way: Way, wish: Wish) -> Result<Lease, Obstacle> {
    if is_public(IpAddr::V4(way.own)) {
        return Err(Obstacle::NotNeeded);
    }
    let mut search = pin!(igd::find(way));
    let mut found = None;
    let first = {
        let mut first = pin!(by_pcp(way, wish, None));
        loop {
            tokio::select! {
                biased;
                first = &mut first => break first,
                service = &mut search, if found.is_none() => found = Some(service),
            }
        }
    };
    let obstacle = match first {
        Ok(lease) => return Ok(lease),
        // By another protocol it would be the same.
        Err(carrier @ Obstacle::Carrier(_)) => return Err(carrier),
        Err(obstacle) => obstacle,
    };
    let service = match found {
        Some(service) => service,
        None => search.await,
    };
    match service {
        Some(service) => by_upnp(way, wish, service, None).await,
        None => Err(obstacle),
    }
}

async fn by_pcp(
    way: Way,
    wish: Wish,
    before: Option<&crab_nat::PortMapping>,
) -> Result<Lease, Obstacle> {
    let granted = pcp::ask(way, wish, before).await?;
    let terms = (granted.outside, granted.method, granted.lasts);
    Lease::new(way, wish, terms, Holder::Pcp(granted.mapping)).await
}

async fn by_upnp(
    way: Way,
    wish: Wish,
    service: igd::Service,
    kept: Option<u16>,
) -> Result<Lease, Obstacle> {
    let outside = service.add(way, wish, kept).await?;
    let holder = Holder::Upnp(service, wish.transport, outside.port());
    Lease::new(way, wish, (outside, Method::Upnp, LEASE), holder).await
}

/// The task of a [`Forwarding`].
struct Keeper {
    wish: Wish,
    look: Look,
    told: watch::Sender<Standing>,
    stopped: watch::Receiver<()>,
    hurry: Arc<Notify>,
    lease: Option<Lease>,
    pause: Duration,
}

impl Keeper {
    async fn run(mut self) {
        loop {
            let way = (self.look)();
            if let Some(lost) = self.lease.take_if(|lease| Some(lease.way) != way) {
                // Its router is there no more, or knows us by another address.
                lost.remove().await;
            }
            let Some(next) = self.try_once(way).await else {
                break;
            };
            if !self.wait(way, next).await {
                break;
            }
        }
        if let Some(lease) = self.lease.take() {
            lease.remove().await;
        }
    }

    /// Asks, or renews, and tells what came of it. Gives the time for the next question; `None` at the end.
    async fn try_once(&mut self, way: Option<Way>) -> Option<Instant> {
        let before = self.lease.take();
        let (wish, mut stopped) = (self.wish, self.stopped.clone());
        let (asked, ended) = {
            let mut asking = Box::pin(async {
                match (&before, way) {
                    (Some(lease), _) => lease.renew(wish).await,
                    (None, Some(way)) => ask(way, wish).await,
                    (None, None) => Err(Obstacle::NoRouter),
                }
            });
            tokio::select! {
                biased;
                asked = &mut asking => (asked, false),
                () = ended(&mut stopped) => {
                    // An answer may be on its way, and with it a lease.
                    let asked = timeout(ANSWER_AT_END, asking).await;
                    (asked.unwrap_or(Err(Obstacle::NoAnswer)), true)
                }
            }
        };
        let now = Instant::now();
        let next = match (asked, before) {
            (Ok(lease), before) => {
                if let Some(mut before) = before {
                    // The same port once more: one of the two gives it back.
                    let same = before.forwarded.outside.port() == lease.forwarded.outside.port();
                    if same || before.forwarded.method != Method::Upnp {
                        before.holder = None;
                    } else {
                        before.remove().await;
                    }
                }
                self.pause = RETRY_FIRST;
                let next = lease.renew_at();
                self.tell(Standing::Forwarded(lease.forwarded));
                self.lease = Some(lease);
                next
            }
            (Err(obstacle), Some(before)) if before.until > now => {
                tracing::debug!(%obstacle, "the port was not renewed");
                let next = before.until.min(now + RENEW_AGAIN);
                self.lease = Some(before);
                next
            }
            (Err(obstacle), before) => {
                if let Some(before) = before {
                    before.remove().await;
                }
                self.tell(Standing::Not(obstacle));
                let next = now + self.pause;
                self.pause = (self.pause * 2).min(RETRY_LAST);
                next
            }
        };
        (!ended).then_some(next)
    }

    /// Waits until it is time, somebody is in a hurry, or the way is another one. `false` at the end.
    async fn wait(&mut self, way: Option<Way>, next: Instant) -> bool {
        let asked = Instant::now();
        let look = Arc::clone(&self.look);
        let another_way = async {
            while look() == way {
                sleep(WAY_LOOK).await;
            }
        };
        let hurried = async {
            self.hurry.notified().await;
            sleep_until(asked + HURRY_PAUSE).await;
        };
        tokio::select! {
            () = ended(&mut self.stopped) => return false,
            () = another_way => self.pause = RETRY_FIRST,
            () = hurried => {}
            () = sleep_until(next) => {}
        }
        true
    }

    fn tell(&self, standing: Standing) {
        self.told.send_if_modified(|told| {
            let news = *told != standing;
            if news {
                tracing::debug!(?standing, "port of the router");
                *told = standing;
            }
            news
        });
    }
}

/// Comes back when nobody wants the port any more.
async fn ended(stopped: &mut watch::Receiver<()>) {
    while stopped.changed().await.is_ok() {}
}

#[cfg(test)]
mod tests;
