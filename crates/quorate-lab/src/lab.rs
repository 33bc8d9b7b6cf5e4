//! Builds a lab from its plan, and changes it while it runs.
//!
//! Addresses: site *n* has 198.51.100.*n* outside, or 2001:db8:0:*n*::1 and the network
//! 2001:db8:1:*n*::/64. Every LAN is 192.168.1.0/24, as at home: hosts of different sites have the
//! same inner addresses. A carrier's network is 100.64.0.0/10.

use crate::{
    Context as _, Nat, Outcome, Plan, Site, Trouble,
    emulator::{Control, Emulator, Port, Prefix, Weather, capture::Capture},
    mapper::{self, Mapper},
    namespace::Namespace,
    plan::LinkSpec,
};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    thread,
};

/// The address of every home router on its LAN.
const HOME_ROUTER: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);
/// Namespaces that are configured at the same time.
const CONFIGURED_AT_ONCE: usize = 4;

/// A machine of the lab.
#[derive(Clone, Debug)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// The site it is at.
    pub site: String,
    /// Its network.
    pub namespace: Arc<Namespace>,
    /// Its own addresses.
    pub addresses: Vec<IpAddr>,
}

impl Host {
    /// Its IPv4 address.
    pub fn ipv4(&self) -> Option<IpAddr> {
        self.addresses.iter().copied().find(IpAddr::is_ipv4)
    }

    /// Its IPv6 address.
    pub fn ipv6(&self) -> Option<IpAddr> {
        self.addresses.iter().copied().find(IpAddr::is_ipv6)
    }
}

/// A router with its rules.
#[derive(Debug)]
struct Router {
    namespace: Arc<Namespace>,
    nat: Nat,
}

/// A site as it was built.
#[derive(Debug)]
struct Place {
    site: Site,
    /// From the hosts outwards: home, carrier.
    routers: Vec<Router>,
    /// The namespace with the line outside, and its number in the emulator.
    edge: Option<(Arc<Namespace>, usize)>,
    prefixes: Vec<Prefix>,
    outer4: Option<Ipv4Addr>,
    outer6: Option<Ipv6Addr>,
    /// The service of the home router that forwards ports.
    mapper: Option<Mapper>,
}

/// A running lab. Everything of it ends with this value, or with the process.
#[derive(Debug)]
pub struct Lab {
    plan: Plan,
    hosts: Vec<Host>,
    places: Vec<Place>,
    emulator: Emulator,
    next_outer: AtomicU8,
}

/// Everything that one namespace is told, collected and then sent at once.
#[derive(Debug)]
struct Draft {
    namespace: Arc<Namespace>,
    level: Level,
    ip: Vec<String>,
    sysctl: Vec<(&'static str, &'static str)>,
    nft: String,
}

/// Where bridges call iptables, translation happens inside of the bridge, and hairpin rules never
/// see their packets.
const BRIDGES: &[&str] = &[
    "bridge/bridge-nf-call-iptables",
    "bridge/bridge-nf-call-ip6tables",
];

/// The index of a draft.
type At = usize;

/// Lines are made by the end nearer to the Internet, so that end is configured first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Carrier,
    Gateway,
    Host,
}

struct Builder {
    drafts: Vec<Draft>,
    ports: Vec<Port>,
}

impl Builder {
    fn namespace(&mut self, name: &str, level: Level) -> Outcome<At> {
        self.drafts.push(Draft {
            namespace: Arc::new(Namespace::new(name)?),
            level,
            ip: vec!["link set lo up".into()],
            sysctl: Vec::new(),
            nft: String::new(),
        });
        Ok(self.drafts.len() - 1)
    }

    fn ip(&mut self, at: At, line: impl Into<String>) {
        self.drafts[at].ip.push(line.into());
    }

    fn routes(&mut self, at: At) {
        self.drafts[at]
            .sysctl
            .extend([("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")]);
    }

    fn tell(&mut self, at: At, rules: &str) {
        self.drafts[at].nft.push_str(rules);
    }

    /// A line between two namespaces; the first is configured first.
    fn line(&mut self, a: At, name_a: &str, b: At, name_b: &str) {
        let target = self.drafts[b].namespace.path();
        self.ip(
            a,
            format!("link add {name_a} type veth peer name {name_b} netns {target}"),
        );
    }

    /// The line outside.
    fn outside(&mut self, at: At, place: &mut Place) -> Outcome<()> {
        let namespace = Arc::clone(&self.drafts[at].namespace);
        let device = namespace.tun("wan")?;
        self.ip(at, format!("link set wan mtu {} up", place.site.mtu));
        if let Some(outer) = place.outer4 {
            self.ip(at, format!("addr add {outer}/32 dev wan"));
            self.ip(at, "route add default dev wan");
        }
        if let Some(outer) = place.outer6 {
            self.ip(at, format!("addr add {outer}/128 dev wan nodad"));
            self.ip(at, "route add ::/0 dev wan");
        }
        place.edge = Some((namespace, self.ports.len()));
        self.ports.push(Port {
            device,
            region: place.site.region.clone(),
            prefixes: place.prefixes.clone(),
        });
        Ok(())
    }

    /// Tells every namespace everything.
    fn finish(self) -> Outcome<Vec<Port>> {
        for level in [Level::Carrier, Level::Gateway, Level::Host] {
            let drafts = self.drafts.iter().filter(|d| d.level == level);
            in_parallel(&drafts.collect::<Vec<_>>(), configure)?;
        }
        Ok(self.ports)
    }
}

fn configure(draft: &Draft) -> Outcome<()> {
    if !draft.sysctl.is_empty() {
        draft.namespace.sysctl(&draft.sysctl)?;
        // The parameters are there only where that module is.
        for parameter in BRIDGES {
            let _ = draft.namespace.sysctl(&[(parameter, "0")]);
        }
    }
    draft.namespace.ip(&draft.ip)?;
    if draft.nft.is_empty() {
        return Ok(());
    }
    draft.namespace.nft(&draft.nft)
}

fn in_parallel<T: Sync>(items: &[&T], work: impl Fn(&T) -> Outcome<()> + Sync) -> Outcome<()> {
    let next = std::sync::atomic::AtomicUsize::new(0);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..CONFIGURED_AT_ONCE.min(items.len()))
            .map(|_| {
                scope.spawn(|| {
                    while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                        work(item)?;
                    }
                    Ok(())
                })
            })
            .collect();
        workers.into_iter().try_for_each(|w| {
            w.join()
                .unwrap_or_else(|_| Err(Trouble::new("a thread of the lab panicked")))
        })
    })
}

impl Lab {
    /// Builds everything. `capture` is where all packets between sites are written.
    pub fn build(plan: Plan, capture: Option<&Path>) -> Outcome<Self> {
        plan.check()?;
        let mut builder = Builder {
            drafts: Vec::new(),
            ports: Vec::new(),
        };
        let mut hosts = Vec::new();
        let mut places: Vec<Place> = Vec::new();
        let mut carriers: Vec<(String, At, u8)> = Vec::new();
        // Carriers before those behind them.
        let mut order: Vec<usize> = (0..plan.sites.len()).collect();
        order.sort_by_key(|&i| plan.sites[i].behind.is_some());
        for index in order {
            let site = &plan.sites[index];
            let number = u8::try_from(index + 1).during("the number of a site")?;
            let mut place = place(site, number);
            build_site(
                &mut builder,
                &plan,
                number,
                &mut place,
                &mut carriers,
                &mut hosts,
            )?;
            places.push(place);
        }
        let ports = builder.finish()?;
        for place in &mut places {
            if let (Some(speaks), Some(home)) = (place.site.maps_ports, place.routers.first()) {
                let namespace = Arc::clone(&home.namespace);
                place.mapper = Some(Mapper::start(namespace, HOME_ROUTER, speaks)?);
            }
        }
        let capture = capture
            .map(Capture::create)
            .transpose()
            .during("a capture")?;
        let emulator = Emulator::start(ports, weather(&plan), capture)?;
        Ok(Self {
            plan,
            hosts,
            places,
            emulator,
            next_outer: AtomicU8::new(1),
        })
    }

    /// What it was built from.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// All machines.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The Internet.
    pub fn emulator(&self) -> &Emulator {
        &self.emulator
    }

    /// A machine by its name.
    pub fn host(&self, name: &str) -> Outcome<&Host> {
        self.hosts
            .iter()
            .find(|h| h.name == name)
            .ok_or_else(|| Trouble::new(format!("no host `{name}`")))
    }

    fn place(&self, site: &str) -> Outcome<&Place> {
        self.places
            .iter()
            .find(|p| p.site.name == site)
            .ok_or_else(|| Trouble::new(format!("no site `{site}`")))
    }

    fn port(&self, site: &str) -> Outcome<usize> {
        let place = self.place(site)?;
        match (&place.edge, &place.site.behind) {
            (Some((_, port)), _) => Ok(*port),
            (None, Some(carrier)) => self.port(carrier),
            (None, None) => Err(Trouble::new(format!("site {site} has no line"))),
        }
    }

    /// Cuts or mends what goes from one site to another; `None` is all sites.
    pub fn cut(&self, from: Option<&str>, to: Option<&str>, cut: bool) -> Outcome<()> {
        let from = from.map(|s| self.port(s)).transpose()?;
        let to = to.map(|s| self.port(s)).transpose()?;
        self.emulator.control(Control::Cut { from, to, cut });
        Ok(())
    }

    /// Cuts or mends everything from and to a site, or between two, in both directions.
    pub fn cut_both(&self, one: &str, other: Option<&str>, cut: bool) -> Outcome<()> {
        self.cut(Some(one), other, cut)?;
        self.cut(other, Some(one), cut)
    }

    /// Other conditions between two regions, in both directions.
    pub fn link(&self, one: &str, other: &str, spec: LinkSpec) {
        for (from, to) in [(one, other), (other, one)] {
            let control = Control::Link(from.to_owned(), to.to_owned(), spec);
            self.emulator.control(control);
        }
    }

    /// Other conditions of a site's line, in both directions and to everywhere.
    pub fn line(&self, site: &str, spec: LinkSpec) -> Outcome<()> {
        let port = self.port(site)?;
        self.emulator.control(Control::Line(port, spec));
        Ok(())
    }

    /// Restarts a site's routers: they forget every connection and every mapping.
    pub fn reboot(&self, site: &str) -> Outcome<()> {
        for router in &self.place(site)?.routers {
            let forget = router.nat.forget();
            if !forget.is_empty() {
                router.namespace.nft(forget)?;
            }
            router.namespace.flush_conntrack()?;
        }
        self.place(site)?.mapper.iter().try_for_each(Mapper::forget)
    }

    /// The routers that forward ports, by the names of their sites.
    pub fn mappers(&self) -> impl Iterator<Item = (&str, &Mapper)> {
        let places = self.places.iter();
        places.filter_map(|place| Some((place.site.name.as_str(), place.mapper.as_ref()?)))
    }

    /// From now on a site's routers forget a UDP mapping after this long without a packet.
    pub fn expire(&self, site: &str, seconds: u32) -> Outcome<()> {
        let seconds = seconds.to_string();
        for router in &self.place(site)?.routers {
            router.namespace.sysctl(&[
                ("netfilter/nf_conntrack_udp_timeout", &seconds),
                ("netfilter/nf_conntrack_udp_timeout_stream", &seconds),
            ])?;
        }
        // Connections that exist keep the lifetime they had; they begin again.
        self.reboot(site)
    }

    /// Moves a site to another IPv4 address, as providers do at night. Gives the new one.
    pub fn readdress(&self, site: &str) -> Outcome<Ipv4Addr> {
        let place = self.place(site)?;
        let (edge, port) = place
            .edge
            .as_ref()
            .ok_or_else(|| Trouble::new(format!("site {site} has no line of its own")))?;
        let number = self.next_outer.fetch_add(1, Ordering::Relaxed);
        let outer = Ipv4Addr::new(203, 0, 113, number);
        let shown = edge.run(&["ip", "-o", "-4", "addr", "show", "dev", "wan"], "")?;
        let mut lines = Vec::new();
        for word in shown.split_whitespace().filter(|w| w.ends_with("/32")) {
            lines.push(format!("addr del {word} dev wan"));
        }
        lines.push(format!("addr add {outer}/32 dev wan"));
        lines.push("route replace default dev wan".into());
        edge.ip(&lines)?;
        let kept = place.prefixes.iter().copied();
        let mut prefixes: Vec<Prefix> = kept.filter(|p| !p.is_ipv4()).collect();
        prefixes.push(Prefix::host(outer.into()));
        self.emulator.control(Control::Readdress(*port, prefixes));
        self.reboot(site)?;
        Ok(outer)
    }

    /// Carries a host to the LAN of another site, as a laptop from one network into another.
    pub fn carry(&self, host: &str, site: &str) -> Outcome<()> {
        let host = self.host(host)?;
        let place = self.place(site)?;
        let router = place
            .routers
            .first()
            .filter(|_| place.site.nat.has_ipv4())
            .ok_or_else(|| Trouble::new(format!("site {site} has no LAN with IPv4")))?;
        let number = self.next_outer.fetch_add(1, Ordering::Relaxed);
        let address = Ipv4Addr::new(192, 168, 1, 100 + number % 100);
        host.namespace.ip(&["link del eth0".into()])?;
        let path = host.namespace.path();
        router.namespace.ip(&[
            format!("link add c{number} type veth peer name eth0 netns {path}"),
            format!("link set c{number} master lan up"),
        ])?;
        host.namespace.ip(&[
            format!("addr add {address}/24 dev eth0"),
            "link set eth0 up".into(),
            "route add default via 192.168.1.1".into(),
        ])
    }
}

fn weather(plan: &Plan) -> Weather {
    let mut weather = Weather {
        seed: plan.seed,
        elsewhere: plan.elsewhere,
        ..Weather::default()
    };
    for link in &plan.links {
        let [a, b] = &link.between;
        weather.links.insert((a.clone(), b.clone()), link.with);
        weather.links.insert((b.clone(), a.clone()), link.with);
    }
    weather
}

fn place(site: &Site, number: u8) -> Place {
    let mut place = Place {
        site: site.clone(),
        routers: Vec::new(),
        edge: None,
        prefixes: Vec::new(),
        outer4: None,
        outer6: None,
        mapper: None,
    };
    if site.behind.is_some() {
        return place;
    }
    if site.nat.has_ipv4() {
        let outer = Ipv4Addr::new(198, 51, 100, number);
        place.outer4 = Some(outer);
        place.prefixes.push(Prefix::host(outer.into()));
    }
    if site.ipv6 || !site.nat.has_ipv4() {
        let number = u16::from(number);
        let outer = Ipv6Addr::new(0x2001, 0xdb8, 0, number, 0, 0, 0, 1);
        let inner = Ipv6Addr::new(0x2001, 0xdb8, 1, number, 0, 0, 0, 0);
        place.outer6 = Some(outer);
        place.prefixes.push(Prefix::host(outer.into()));
        place.prefixes.push(Prefix::new(inner.into(), 64));
    }
    place
}

fn build_site(
    builder: &mut Builder,
    plan: &Plan,
    number: u8,
    place: &mut Place,
    carriers: &mut Vec<(String, At, u8)>,
    hosts: &mut Vec<Host>,
) -> Outcome<()> {
    let site = place.site.clone();
    let names = plan.host_names(&site);
    if site.nat == Nat::Open {
        let name = names.first().unwrap_or(&site.name);
        let at = builder.namespace(name, Level::Host)?;
        builder.outside(at, place)?;
        let outer4 = place.outer4.map(IpAddr::from);
        let outer6 = place.outer6.map(IpAddr::from);
        hosts.push(Host {
            name: name.clone(),
            site: site.name,
            namespace: Arc::clone(&builder.drafts[at].namespace),
            addresses: outer4.into_iter().chain(outer6).collect(),
        });
        return Ok(());
    }
    let (home, carrier) = site.nat.layers();
    let mut carrier_router = None;
    let gateway = match (carrier, &site.behind) {
        (Some(nat), _) => {
            let at = carrier_nat(builder, &site.name, nat, place)?;
            carrier_router = Some(router(builder, at, nat));
            behind_carrier(builder, &site.name, at, 2)?
        }
        (None, Some(name)) => {
            let known = carriers.iter_mut().find(|c| &c.0 == name);
            let (_, at, next) = known.ok_or_else(|| Trouble::new(format!("no site `{name}`")))?;
            let (at, home) = (*at, *next);
            *next += 1;
            behind_carrier(builder, &site.name, at, home)?
        }
        (None, None)
            if plan
                .sites
                .iter()
                .any(|s| s.behind.as_ref() == Some(&site.name)) =>
        {
            let at = carrier_nat(builder, &site.name, site.nat, place)?;
            place.routers.push(router(builder, at, site.nat));
            carriers.push((site.name.clone(), at, 2));
            return Ok(());
        }
        (None, None) => {
            let at = builder.namespace(&format!("{}-gateway", site.name), Level::Gateway)?;
            builder.outside(at, place)?;
            at
        }
    };
    place.routers.push(router(builder, gateway, home));
    place.routers.extend(carrier_router);
    let outer = place.outer4.map(|a| a.to_string()).unwrap_or_default();
    let rules = home.rules(&outer);
    builder.tell(gateway, &rules);
    if site.maps_ports.is_some() {
        builder.tell(gateway, mapper::RULES);
    }
    builder.routes(gateway);
    builder.ip(gateway, "link add lan type bridge");
    builder.ip(gateway, "link set lan up");
    let (v4, v6) = (site.nat.has_ipv4(), place.outer6.is_some());
    if v4 {
        builder.ip(gateway, format!("addr add {HOME_ROUTER}/24 dev lan"));
    }
    if v6 {
        let line = format!("addr add 2001:db8:1:{number:x}::1/64 dev lan nodad");
        builder.ip(gateway, line);
    }
    for (index, name) in names.iter().enumerate() {
        let at = builder.namespace(name, Level::Host)?;
        let interface = format!("h{index}");
        builder.line(gateway, &interface, at, "eth0");
        builder.ip(gateway, format!("link set {interface} master lan up"));
        if site.ipv6_off {
            let off = ("ipv6/conf/all/disable_ipv6", "1");
            builder.drafts[at].sysctl.push(off);
        }
        let own = u8::try_from(index + 2).during("the number of a host")?;
        let mut addresses = Vec::new();
        if v4 {
            builder.ip(at, format!("addr add 192.168.1.{own}/24 dev eth0"));
            addresses.push(IpAddr::from([192, 168, 1, own]));
        }
        if v6 {
            let address = Ipv6Addr::new(0x2001, 0xdb8, 1, u16::from(number), 0, 0, 0, own.into());
            builder.ip(at, format!("addr add {address}/64 dev eth0 nodad"));
            addresses.push(address.into());
        }
        builder.ip(at, "link set eth0 up");
        if v4 {
            builder.ip(at, "route add default via 192.168.1.1");
        }
        if v6 {
            let gateway = Ipv6Addr::new(0x2001, 0xdb8, 1, u16::from(number), 0, 0, 0, 1);
            builder.ip(at, format!("route add ::/0 via {gateway}"));
        }
        hosts.push(Host {
            name: name.clone(),
            site: site.name.clone(),
            namespace: Arc::clone(&builder.drafts[at].namespace),
            addresses,
        });
    }
    Ok(())
}

fn router(builder: &Builder, at: At, nat: Nat) -> Router {
    Router {
        namespace: Arc::clone(&builder.drafts[at].namespace),
        nat,
    }
}

/// A carrier's NAT: a bridge with the homes on it, and the line outside.
fn carrier_nat(builder: &mut Builder, name: &str, nat: Nat, place: &mut Place) -> Outcome<At> {
    let at = builder.namespace(&format!("{name}-carrier"), Level::Carrier)?;
    builder.outside(at, place)?;
    let outer = place.outer4.map(|a| a.to_string()).unwrap_or_default();
    let rules = nat.rules(&outer);
    builder.tell(at, &rules);
    builder.routes(at);
    builder.ip(at, "link add lan type bridge");
    builder.ip(at, "link set lan up");
    builder.ip(at, "addr add 100.64.0.1/10 dev lan");
    Ok(at)
}

/// A home's gateway on a carrier's network.
fn behind_carrier(builder: &mut Builder, name: &str, carrier: At, home: u8) -> Outcome<At> {
    let at = builder.namespace(&format!("{name}-gateway"), Level::Gateway)?;
    let interface = format!("g{home}");
    builder.line(carrier, &interface, at, "wan");
    builder.ip(carrier, format!("link set {interface} master lan up"));
    builder.ip(at, format!("addr add 100.64.0.{home}/10 dev wan"));
    builder.ip(at, "link set wan up");
    builder.ip(at, "route add default via 100.64.0.1");
    Ok(at)
}
