//! Relays by name: `/dns4/relay.example.org/tcp/4001/p2p/…`.
//!
//! ```text
//!   name of the user or of the signed invitation ─► the system's resolver, at every dial ─► addresses ─► filter ─► dialled
//!   name in anybody else's word                  ─► never looked up
//! ```
//! `/dns4` asks for IPv4, `/dns6` for IPv6, `/dns` for both. Behind a name stands what may stand behind an IP address, see
//! `address`. The resolver is the one that every program of this machine asks: `/etc/hosts`, split DNS and whatever else
//! the system is told count as users expect. It is asked again before each dial, so an address that changed is
//! found; what it said last is used when it does not answer.
//!
//! Limits: [`RESOLVE_WAIT`] for an answer; [`MAX_PER_FAMILY`] addresses of each family; [`MAX_LOOKUPS`] names are looked
//! for at a time, each once however many wait for it. A lookup has a thread of its own, which the system's resolver may
//! hold for as long as it likes without keeping anything else, the end of the process included.
//!
//! Security. Requires: that callers hand in names from the user or from a signed invitation only; who could name others
//! would make us ask for them. Provides: no address comes out that the scope forbids; nothing of this machine in the scope
//! *lan*, whatever a name server says; in the scope *local* nothing but `localhost` and names below it, about which
//! nobody is asked. Does not provide: secrecy of the name from the resolver, or a true answer of it. Who answers at
//! the address has to prove the relay's `PeerId`, so a wrong one costs the relay and nothing else.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, ToSocketAddrs as _},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use futures::future::{BoxFuture, join_all};
use libp2p::{
    Multiaddr,
    multiaddr::{PeerId, Protocol},
};
use tokio::{sync::oneshot, time::timeout};

use super::{
    Scope,
    address::{Endpoint, MAX_ADDRESS_BYTES},
};

/// Time for the answer about a name.
pub const RESOLVE_WAIT: Duration = Duration::from_secs(5);
/// Names that the system's resolver is asked for at a time.
pub const MAX_LOOKUPS: usize = 16;
/// Addresses of one name that are dialled, of each family.
pub const MAX_PER_FAMILY: usize = 3;
/// Who may wait for the same answer.
const MAX_WAITERS: usize = 64;
/// Longest name (RFC 1035, section 3.1, as text).
const MAX_NAME_BYTES: usize = 253;
const MAX_LABEL_BYTES: usize = 63;

/// What a resolver says of a name.
type Found = Result<Vec<IpAddr>, String>;
type Lookup = dyn Fn(String) -> BoxFuture<'static, Found> + Send + Sync;

/// Where names are looked up: by default with the system's resolver.
#[derive(Clone)]
pub struct Names(Arc<Lookup>);

impl Default for Names {
    fn default() -> Self {
        Self::by(|host| {
            Box::pin(async move {
                if is_of_this_machine(&host) {
                    // A system without them in its hosts file would ask the network.
                    return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
                }
                ask_system(host).await
            })
        })
    }
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Names")
    }
}

/// Which addresses of a name are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Any,
    V4,
    V6,
}

/// An address with a name in place of the IP address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub host: String,
    family: Family,
    /// With an IP address that means nothing.
    shape: Endpoint,
}

/// An address as the user or an invitation writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    At(Endpoint),
    Named(Named),
}

impl Place {
    /// Parses text and checks that `scope` allows looking it up or dialling it.
    pub fn parse(text: &str, scope: Scope) -> Result<Self, &'static str> {
        match Named::parse(text)? {
            None => Endpoint::parse(text, scope).map(Self::At),
            Some(named) if scope == Scope::Local && !is_of_this_machine(&named.host) => {
                Err("in local scope no name but localhost is looked up")
            }
            Some(named) => Ok(Self::Named(named)),
        }
    }

    /// The peer that is expected there.
    pub fn peer(&self) -> Option<PeerId> {
        match self {
            Self::At(endpoint) => endpoint.peer,
            Self::Named(named) => named.shape.peer,
        }
    }
}

impl Named {
    /// `None`: the address does not begin with a name.
    pub fn parse(text: &str) -> Result<Option<Self>, &'static str> {
        if text.len() > MAX_ADDRESS_BYTES {
            return Err("the address is longer than 256 bytes");
        }
        let address: Multiaddr = text.trim().parse().map_err(|_| "not a multiaddr")?;
        let mut parts = address.iter();
        let (family, host) = match parts.next() {
            Some(Protocol::Dns(host)) => (Family::Any, host),
            Some(Protocol::Dns4(host)) => (Family::V4, host),
            Some(Protocol::Dns6(host)) => (Family::V6, host),
            Some(Protocol::Dnsaddr(_)) => {
                return Err("/dnsaddr is not looked up, write /dns4/NAME/… or the IP address");
            }
            _ => return Ok(None),
        };
        let host = host.to_ascii_lowercase();
        check_name(&host)?;
        let any = Multiaddr::from(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let shape = Endpoint::of(&parts.fold(any, Multiaddr::with))?;
        if shape.port == 0 {
            return Err("port 0 cannot be dialled");
        }
        Ok(Some(Self {
            host,
            family,
            shape,
        }))
    }

    /// What stands behind the name: the relay in between, the peer.
    pub fn shape(&self) -> &Endpoint {
        &self.shape
    }

    fn at(&self, ip: IpAddr) -> Endpoint {
        let Endpoint {
            port,
            transport,
            relay,
            peer,
            ..
        } = self.shape;
        let direct = Endpoint::new(ip, port, transport, peer);
        match relay {
            Some(relay) => direct.through(relay, peer),
            None => direct,
        }
    }

    /// Those of `found` that may be dialled, in the resolver's order.
    fn among(&self, found: &[IpAddr], scope: Scope) -> Result<Vec<Endpoint>, String> {
        let host = &self.host;
        let mut all: Vec<Endpoint> = Vec::new();
        let mut why = None;
        for ip in found.iter().map(IpAddr::to_canonical) {
            if !self.family.has(ip) {
                continue;
            }
            let endpoint = self.at(ip);
            let of_family = all.iter().filter(|e| e.ip.is_ipv4() == ip.is_ipv4());
            if all.contains(&endpoint) || of_family.count() >= MAX_PER_FAMILY {
                continue;
            }
            match allowed(&endpoint, scope) {
                Ok(()) => all.push(endpoint),
                Err(no) => why = why.or(Some((ip, no))),
            }
        }
        match why {
            _ if !all.is_empty() => Ok(all),
            Some((ip, why)) => Err(format!("the name {host} leads to {ip}: {why}")),
            None => {
                let family = self.family.word();
                Err(format!("the name {host} has no {family} address"))
            }
        }
    }
}

impl Family {
    fn has(self, ip: IpAddr) -> bool {
        match self {
            Self::Any => true,
            Self::V4 => ip.is_ipv4(),
            Self::V6 => ip.is_ipv6(),
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Any => "IP",
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

/// As for an address that is written out, but no name may lead to this machine's own services.
fn allowed(endpoint: &Endpoint, scope: Scope) -> Result<(), &'static str> {
    if scope != Scope::Local && endpoint.is_loopback() {
        return Err("an address of this machine, to which no name may lead here");
    }
    endpoint.allowed(scope)
}

/// Names that are of this machine wherever they are looked up (RFC 6761, section 6.3).
fn is_of_this_machine(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    host == "localhost" || host.ends_with(".localhost")
}

/// Letters, digits, `-` and `_`; nothing that a resolver takes for a number.
fn check_name(host: &str) -> Result<(), &'static str> {
    let labels = host.strip_suffix('.').unwrap_or(host);
    let fits = |label: &str| {
        let within = (1..=MAX_LABEL_BYTES).contains(&label.len());
        let known = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        within && !label.starts_with('-') && label.bytes().all(known)
    };
    if labels.len() > MAX_NAME_BYTES || !labels.split('.').all(fits) {
        return Err("not the name of a machine");
    }
    let last = labels.rsplit('.').next().unwrap_or(labels);
    if last.starts_with(|c: char| c.is_ascii_digit()) {
        return Err("an IP address is written /ip4/… or /ip6/…");
    }
    Ok(())
}

impl Names {
    /// Looks names up with `lookup`.
    pub fn by(
        lookup: impl Fn(String) -> BoxFuture<'static, Result<Vec<IpAddr>, String>>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        Self(Arc::new(lookup))
    }

    /// Where `named` is now, or why that is not known and what can be done.
    pub(super) async fn find(&self, named: &Named, scope: Scope) -> Result<Vec<Endpoint>, String> {
        let host = &named.host;
        let why = match timeout(RESOLVE_WAIT, (self.0)(host.clone())).await {
            Ok(Ok(found)) => match named.among(&found, scope) {
                Ok(found) => return Ok(found),
                Err(why) => why,
            },
            Ok(Err(why)) => format!("the name {host} is not found: {why}"),
            Err(_) => format!(
                "no answer about the name {host} within {} s",
                RESOLVE_WAIT.as_secs()
            ),
        };
        Err(format!(
            "{why}. See what `getent ahosts {host}` says on this machine, or write the relay's IP address"
        ))
    }

    /// Where any of these is now. Some that are not found hinder no others.
    pub(super) async fn find_all(
        &self,
        names: &[Named],
        scope: Scope,
    ) -> Result<Vec<Endpoint>, String> {
        let found = join_all(names.iter().map(|named| self.find(named, scope))).await;
        let (mut all, mut why) = (Vec::new(), None);
        for found in found {
            match found {
                Ok(found) => all.extend(found),
                Err(no) => why = why.or(Some(no)),
            }
        }
        match why {
            Some(why) if all.is_empty() => Err(why),
            _ => Ok(all),
        }
    }
}

type Waiters = BTreeMap<String, Vec<oneshot::Sender<Found>>>;

/// Who waits for which name.
static WAITING: Mutex<Waiters> = Mutex::new(BTreeMap::new());

async fn ask_system(host: String) -> Found {
    let (waiter, answer) = oneshot::channel();
    {
        let mut waiting = WAITING.lock().unwrap_or_else(PoisonError::into_inner);
        let lookups = waiting.len();
        match waiting.get_mut(&host) {
            Some(waiters) => {
                waiters.retain(|w| !w.is_closed());
                if waiters.len() >= MAX_WAITERS {
                    return Err("too many wait for it".into());
                }
                waiters.push(waiter);
            }
            None if lookups >= MAX_LOOKUPS => {
                return Err("the resolver is busy with other names".into());
            }
            None => {
                let name = host.clone();
                let thread = thread::Builder::new().name("names".into());
                let thread = thread.spawn(move || look_up(&name));
                thread.map_err(|e| format!("no thread for it: {e}"))?;
                waiting.insert(host, vec![waiter]);
            }
        }
    }
    let gone = || Err("the resolver gave no answer".to_owned());
    answer.await.unwrap_or_else(|_| gone())
}

fn look_up(host: &str) {
    let found = (host, 0).to_socket_addrs();
    let found: Found = match found {
        Ok(found) => Ok(found.map(|address| address.ip()).collect()),
        Err(error) => Err(error.to_string()),
    };
    let mut waiting = WAITING.lock().unwrap_or_else(PoisonError::into_inner);
    for waiter in waiting.remove(host).unwrap_or_default() {
        let _ = waiter.send(found.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(host: &str) -> String {
        let peer = PeerId::random();
        format!("/dns/{host}/tcp/4001/p2p/{peer}")
    }

    fn named(text: &str) -> Named {
        Named::parse(text).expect("valid").expect("a name")
    }

    /// A resolver that knows one answer.
    fn saying(addresses: &[&str]) -> Names {
        let all: Vec<IpAddr> = addresses.iter().map(|a| a.parse().expect(a)).collect();
        Names::by(move |_| {
            let all = all.clone();
            Box::pin(async move { Ok(all) })
        })
    }

    async fn found(names: &Names, text: &str) -> Result<Vec<String>, String> {
        let found = names.find(&named(text), Scope::Lan).await?;
        Ok(found.iter().map(|e| e.address.to_string()).collect())
    }

    #[test]
    fn names_are_understood_in_every_shape_that_addresses_have() {
        let (relay, peer) = (PeerId::random(), PeerId::random());
        let ip = "203.0.113.7".parse().expect("valid");
        for (text, expected) in [
            (
                "/dns4/relay.example.org/tcp/4001",
                "/ip4/203.0.113.7/tcp/4001",
            ),
            (
                "/dns/relay/udp/4001/quic-v1",
                "/ip4/203.0.113.7/udp/4001/quic-v1",
            ),
            (
                "/dns6/A-b_c.example.ORG./tcp/443",
                "/ip4/203.0.113.7/tcp/443",
            ),
        ] {
            let direct = named(&format!("{text}/p2p/{relay}"));
            assert_eq!(direct.shape().peer, Some(relay));
            assert_eq!(direct.at(ip).address.to_string(), expected);
            let circuit = named(&format!("{text}/p2p/{relay}/p2p-circuit/p2p/{peer}"));
            let there = circuit.at(ip);
            assert_eq!((there.relay, there.peer), (Some(relay), Some(peer)));
            let through = format!("{expected}/p2p/{relay}/p2p-circuit");
            assert_eq!(there.address.to_string(), through);
        }
        assert_eq!(named("/dns/A.example./tcp/1").host, "a.example.");
        let at = Place::parse("/ip4/192.0.2.1/tcp/1", Scope::Lan).expect("valid");
        assert!(matches!(at, Place::At(_)));
    }

    #[test]
    fn what_is_no_name_or_stands_for_a_number_is_refused() {
        let long = "a".repeat(64);
        let longer = format!("{}a", "a.".repeat(127));
        for host in [
            "127.0.0.1",
            "127.1",
            "2130706433",
            "0x7f.0x1",
            "a.0x7f",
            "a..b",
            ".a",
            "-a",
            "a b",
            "a%25b",
            "ä.example",
            "a:b",
            "[a]",
            &long,
            &longer,
        ] {
            assert!(Place::parse(&text(host), Scope::Lan).is_err(), "{host}");
        }
        for text in [
            "/dns4/a.example",
            "/dns4/a.example/tcp/0",
            "/dns4/a.example/udp/1",
            "/dns4/a.example/tcp/1/tls",
            "/dnsaddr/a.example/tcp/1",
        ] {
            assert!(Place::parse(text, Scope::Lan).is_err(), "{text}");
        }
    }

    #[test]
    fn in_local_scope_only_this_machine_is_looked_up() {
        for host in ["localhost", "relay.localhost", "LOCALHOST."] {
            assert!(Place::parse(&text(host), Scope::Local).is_ok(), "{host}");
        }
        for host in ["relay.example.org", "notlocalhost", "localhost.example.org"] {
            assert!(Place::parse(&text(host), Scope::Local).is_err(), "{host}");
        }
    }

    #[tokio::test]
    async fn a48_no_name_leads_to_this_machine_or_to_many() {
        let names = saying(&[
            "127.0.0.1",
            "::1",
            "::ffff:127.0.0.1",
            "0.0.0.0",
            "::",
            "224.0.0.1",
            "255.255.255.255",
            "ff02::1",
            "fe80::1",
        ]);
        let why = found(&names, "/dns/evil.example/tcp/22")
            .await
            .expect_err("none");
        assert!(
            why.contains("evil.example leads to 127.0.0.1: an address of this machine"),
            "{why}"
        );
        // Split DNS leads to private addresses.
        let names = saying(&["::1", "10.1.2.3", "fd00::7"]);
        let all = found(&names, "/dns/relay.intra/tcp/1").await.expect("two");
        assert_eq!(all, ["/ip4/10.1.2.3/tcp/1", "/ip6/fd00::7/tcp/1"]);
        let local = named("/dns/localhost/tcp/1");
        let names = saying(&["127.0.0.1", "::1", "192.0.2.1"]);
        assert_eq!(
            names.find(&local, Scope::Local).await.expect("two").len(),
            2
        );
    }

    #[tokio::test]
    async fn few_addresses_of_a_name_are_taken_and_only_of_the_family_asked_for() {
        let many: Vec<String> = (1..200)
            .flat_map(|n| [format!("192.0.2.{n}"), format!("2001:db8::{n:x}")])
            .collect();
        let many: Vec<&str> = many
            .iter()
            .map(String::as_str)
            .chain(["192.0.2.1"])
            .collect();
        let names = saying(&many);
        for (family, expected) in [("dns", 6), ("dns4", 3), ("dns6", 3)] {
            let all = found(&names, &format!("/{family}/a.example/tcp/1"))
                .await
                .expect("some");
            assert_eq!(all.len(), expected, "{family}: {all:?}");
            assert!(family == "dns6" || all.contains(&"/ip4/192.0.2.1/tcp/1".to_owned()));
        }
        let why = found(&saying(&["192.0.2.1"]), "/dns6/a.example/tcp/1")
            .await
            .expect_err("none");
        assert!(why.contains("a.example has no IPv6 address"), "{why}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_is_not_found_or_not_answered_is_named_with_a_next_step() {
        let names = Names::by(|_| Box::pin(async { Err("no such name".into()) }));
        let why = found(&names, "/dns4/a.example/tcp/1")
            .await
            .expect_err("no");
        assert!(
            why.contains("a.example is not found: no such name"),
            "{why}"
        );
        assert!(why.contains("`getent ahosts a.example`"), "{why}");
        let silent = Names::by(|_| Box::pin(std::future::pending()));
        let begun = tokio::time::Instant::now();
        let why = found(&silent, "/dns4/a.example/tcp/1")
            .await
            .expect_err("no");
        assert!(
            why.contains("no answer about the name a.example within 5 s"),
            "{why}"
        );
        assert_eq!(begun.elapsed(), RESOLVE_WAIT);
    }

    #[tokio::test]
    async fn the_system_knows_localhost_for_all_who_ask_at_once() {
        let all = join_all((0..8).map(|_| ask_system("localhost".into()))).await;
        for found in all {
            let found = found.expect("in every hosts file");
            assert!(found.iter().all(IpAddr::is_loopback) && !found.is_empty());
        }
        // Which is not needed.
        for host in ["localhost", "any.thing.localhost"] {
            let found = (Names::default().0)(host.into())
                .await
                .expect("nobody is asked");
            assert_eq!(found.len(), 2, "{host}");
        }
    }
}
