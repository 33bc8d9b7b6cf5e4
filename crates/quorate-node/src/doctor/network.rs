//! The network as relays show it: which transports pass, and what the NAT does.
//!
//! All STUN questions about mapping leave one socket. If two destinations see different ports, the NAT gives a
//! new one per destination, and a peer cannot be told where to knock. Filtering, which is what the NAT lets in,
//! is seen from a fresh socket: a relay is asked at one of its two ports, and asked to answer from the other one,
//! which this socket never sent anything to. Whether an answer from another *host* would be let in cannot be
//! seen: no relay answers for another one.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroU16,
    time::Duration,
};

use futures::future::join_all;
use quorate_path::stun::Request;
use quorate_session::relay::Announcement;
use tokio::{net::UdpSocket, task::JoinSet};

use super::{MAX_RELAYS, ms};
use crate::{
    Finding,
    overlay::{
        Names, Scope,
        relay_probe::{Reached, both_transports, parts, reach},
        written_out,
    },
    party::clock,
    portmap::{self, Method, Obstacle, Transport, Wish},
    relay::{ask_for, ask_stun},
};

/// Words of findings whose failure is one of the network.
pub const NETWORK: &[&str] = &["relay", "udp", "tcp", "clock", "nat", "filter", "ipv6"];
/// A clock that differs by more makes signatures fail.
const CLOCK_TOLERANCE_SECONDS: i64 = 120;

/// One relay, looked at over both transports.
struct Seen {
    ip: IpAddr,
    /// Why its name leads nowhere.
    name: Option<String>,
    quic: Result<Reached, String>,
    tcp: Result<Reached, String>,
}

impl Seen {
    fn announcement(&self) -> Option<&Announcement> {
        let both = [&self.quic, &self.tcp];
        let mut said = both.into_iter().flatten();
        said.find_map(|r| r.announcement.as_ref().ok())
    }

    fn rtt(&self) -> Option<Duration> {
        let both = [&self.quic, &self.tcp];
        both.into_iter().flatten().filter_map(|r| r.rtt).min()
    }
}

/// How long the router may take to say whether it maps a port.
const PORTS_WAIT: Duration = Duration::from_secs(10);

/// What the network lets through, seen with these relays.
pub async fn network(relays: &[String]) -> Vec<Finding> {
    let (mut findings, ports) = tokio::join!(with_relays(relays), ports());
    findings.push(ports);
    findings
}

async fn with_relays(relays: &[String]) -> Vec<Finding> {
    let mut findings = vec![ipv6()];
    if relays.is_empty() {
        findings.push(Finding::warn(
            "relay",
            "no relay is configured: only parties in one network, or with open addresses, are reached",
            "name one: --relay ADDR, QUORATE_RELAY, or the file `relays` in the data folder",
        ));
        return findings;
    }
    let seen = look(relays).await;
    findings.extend(seen.iter().enumerate().map(|(n, seen)| relay(n + 1, seen)));
    findings.extend(transports(&seen));
    findings.push(clocks(&seen));
    let (nat, filter) = tokio::join!(mapping(&seen), filtering(&seen));
    findings.extend([nat, filter]);
    findings
}

async fn look(relays: &[String]) -> Vec<Seen> {
    let mut tasks = JoinSet::new();
    for (n, relay) in relays.iter().take(MAX_RELAYS).enumerate() {
        let relay = relay.clone();
        tasks.spawn(async move {
            let seen = look_at(&relay).await;
            (n, seen)
        });
    }
    let mut seen = tasks.join_all().await;
    seen.sort_by_key(|(n, _)| *n);
    seen.into_iter().map(|(_, seen)| seen).collect()
}

/// One relay; of one known by name, the first address that answers.
async fn look_at(relay: &str) -> Seen {
    let not_tried = || Err("not tried".to_owned());
    let nowhere = |name| Seen {
        ip: Ipv4Addr::UNSPECIFIED.into(),
        name,
        quic: not_tried(),
        tcp: not_tried(),
    };
    let addresses = match written_out(relay, &Names::default(), Scope::Lan).await {
        Ok(addresses) => addresses,
        Err(why) => return nowhere(Some(why)),
    };
    let all = addresses.iter().map(|address| async move {
        let (ip, _, _) = parts(address)?;
        let [quic, tcp] = both_transports(address)?;
        let (quic, tcp) = tokio::join!(reach(&quic), reach(&tcp));
        Ok::<_, String>(Seen {
            ip,
            name: None,
            quic,
            tcp,
        })
    });
    let mut all: Vec<Seen> = join_all(all).await.into_iter().flatten().collect();
    let answers = all.iter().position(|s| s.quic.is_ok() || s.tcp.is_ok());
    if all.is_empty() {
        return nowhere(None);
    }
    all.swap_remove(answers.unwrap_or(0))
}

fn relay(number: usize, seen: &Seen) -> Finding {
    let over: Vec<&str> = [("UDP", &seen.quic), ("TCP", &seen.tcp)]
        .into_iter()
        .filter(|(_, answer)| answer.is_ok())
        .map(|(word, _)| word)
        .collect();
    if seen.name.is_some() {
        // The name itself stays out: the report goes to others.
        return Finding::fail(
            "relay",
            format!("relay {number}: its name leads to no address that can be dialled"),
            "see what getent ahosts NAME says on this machine, or name the relay by its IP address",
        );
    }
    if over.is_empty() {
        let impostor = [&seen.quic, &seen.tcp].into_iter().any(|r| {
            r.as_ref()
                .is_err_and(|why| why.starts_with("somebody else"))
        });
        let text = if impostor {
            format!("relay {number}: somebody else answers at its address")
        } else {
            format!("relay {number} cannot be reached")
        };
        return Finding::fail(
            "relay",
            text,
            "check its address (/p2p/… at its end) and this network's firewall; its operator can run quorate relay check",
        );
    }
    let rtt = seen.rtt().map_or("unknown".into(), ms);
    let text = format!(
        "relay {number}: round trip {rtt} over {}",
        over.join(" and ")
    );
    match seen.announcement() {
        Some(_) => Finding::ok("relay", text),
        None => Finding::warn(
            "relay",
            format!("{text}; it does not say what it carries"),
            "use a relay of quorate: others cut circuits after minutes",
        ),
    }
}

fn transports(seen: &[Seen]) -> Vec<Finding> {
    let udp = seen.iter().any(|s| s.quic.is_ok());
    let tcp = seen.iter().any(|s| s.tcp.is_ok());
    let one = |id, word: &str, works: bool, other: bool| {
        if works {
            Finding::ok(id, format!("{word} reaches a relay"))
        } else if other {
            let text = format!("{word} reaches no relay");
            let remedy =
                format!("allow outgoing {word}; without it sessions are slower, or relayed");
            Finding::warn(id, text, remedy)
        } else {
            let text = format!("{word} reaches no relay");
            let remedy = "ask for outgoing TCP 443 at least, and use a relay that listens there";
            Finding::fail(id, text, remedy)
        }
    };
    vec![one("udp", "UDP", udp, tcp), one("tcp", "TCP", tcp, udp)]
}

fn clocks(seen: &[Seen]) -> Finding {
    let here = clock::wall().0;
    let apart = seen
        .iter()
        .filter_map(Seen::announcement)
        .map(|a| a.at.0.saturating_sub(here).abs())
        .min();
    match apart {
        None => Finding::warn(
            "clock",
            "this machine's clock could not be compared",
            "see that it is set by the network: timedatectl",
        ),
        Some(seconds) if seconds <= CLOCK_TOLERANCE_SECONDS => {
            Finding::ok("clock", "this machine's clock and a relay's agree")
        }
        Some(seconds) => Finding::fail(
            "clock",
            format!("this machine's clock and the relays' are {seconds} s apart"),
            "set it: timedatectl set-ntp true",
        ),
    }
}

/// What the NAT does, by IPv4, which is where NATs are.
async fn mapping(seen: &[Seen]) -> Finding {
    let id = "nat";
    let servers: Vec<SocketAddr> = seen
        .iter()
        .filter(|s| s.ip.is_ipv4())
        .filter_map(|s| Some((s.ip, s.announcement()?.stun.clone())))
        .flat_map(|(ip, ports)| ports.into_iter().map(move |p| SocketAddr::new(ip, p)))
        .collect();
    let Ok(socket) = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await else {
        return Finding::fail(id, "no UDP socket could be opened", "see ulimit -n");
    };
    let mut mapped = BTreeSet::new();
    let mut answers = 0;
    for server in servers {
        if let Ok(address) = ask_stun(&socket, server).await {
            mapped.insert(address);
            answers += 1;
        }
    }
    let own: Vec<IpAddr> = if_addrs::get_if_addrs()
        .unwrap_or_default()
        .iter()
        .map(if_addrs::Interface::ip)
        .collect();
    let port = socket.local_addr().map_or(0, |a| a.port());
    let behind = mapped
        .iter()
        .any(|a| !own.contains(&a.ip()) || a.port() != port);
    judged(id, answers, mapped.len(), behind)
}

/// What comes of asking a relay to answer from the port that was not asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LetIn {
    /// No relay with two ports answered.
    Unknown,
    Yes,
    No,
}

/// What the NAT or firewall lets in, by IPv4.
async fn filtering(seen: &[Seen]) -> Finding {
    let of_ip4 = seen.iter().filter(|s| s.ip.is_ipv4());
    let servers = of_ip4.filter_map(|s| {
        let first = *s.announcement()?.stun.first()?;
        Some(SocketAddr::new(s.ip, first))
    });
    for server in servers {
        let let_in = lets_in(server).await;
        if let_in != LetIn::Unknown {
            return filter_finding(let_in);
        }
    }
    filter_finding(LetIn::Unknown)
}

async fn lets_in(server: SocketAddr) -> LetIn {
    let Ok(socket) = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await else {
        return LetIn::Unknown;
    };
    // That it answers at all, and has another port, has to be known before its silence means anything.
    let named = ask_for(&socket, server, server, Request::naming_other_port).await;
    let Some(port) = named.ok().and_then(|answer| answer.other_port) else {
        return LetIn::Unknown;
    };
    let other = SocketAddr::new(server.ip(), port);
    match ask_for(&socket, server, other, Request::from_other_port).await {
        Ok(_) => LetIn::Yes,
        Err(_) => LetIn::No,
    }
}

fn filter_finding(let_in: LetIn) -> Finding {
    let id = "filter";
    match let_in {
        LetIn::Yes => Finding::ok(
            id,
            "what is let in does not depend on the sender's port: many pairs become direct",
        ),
        LetIn::No => Finding::warn(
            id,
            "only answers from exactly where a packet went are let in: both ends have to knock at once",
            "nothing has to be done: quorate does that, and relays where it fails; a forwarded UDP port or UPnP helps",
        ),
        LetIn::Unknown => Finding::warn(
            id,
            "unknown: no relay showed a packet from a port that was not asked",
            "use a relay with two STUN ports that run this version; if UDP is blocked here, sessions are relayed",
        ),
    }
}

fn judged(id: &'static str, answers: usize, mapped: usize, behind: bool) -> Finding {
    match (answers, mapped) {
        (0, _) => Finding::warn(
            id,
            "unknown: no relay answered STUN",
            "if UDP is blocked here, sessions are relayed over TCP",
        ),
        (_, 1) if !behind => Finding::ok(id, "none: this machine has the address that relays see"),
        (1, _) => Finding::warn(
            id,
            "there is one; with one answer it cannot be said how it maps",
            "use a relay with two STUN ports, or a second relay",
        ),
        (_, 1) => Finding::ok(
            id,
            "one port for all destinations: direct paths are possible",
        ),
        _ => Finding::warn(
            id,
            "a new port per destination: direct paths only to parties without such a NAT",
            "nothing has to be done: other pairs are relayed; UPnP, IPv6 or a forwarded port would help",
        ),
    }
}

/// Whether the router lets others in when it is asked. What it maps is given back at once.
async fn ports() -> Finding {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await;
    let port = socket.as_ref().ok().and_then(|s| s.local_addr().ok());
    let Some(port) = port.and_then(|address| NonZeroU16::new(address.port())) else {
        return Finding::fail("ports", "no UDP socket could be opened", "see ulimit -n");
    };
    let wish = Wish {
        transport: Transport::Udp,
        port,
    };
    let asked = tokio::time::timeout(PORTS_WAIT, portmap::probe(wish)).await;
    said(asked.unwrap_or(Err(Obstacle::NoAnswer)))
}

fn said(answer: Result<Method, Obstacle>) -> Finding {
    let id = "ports";
    let remedy = match answer {
        Ok(method) => return Finding::ok(id, format!("the router maps a port ({method})")),
        Err(needless @ Obstacle::NotNeeded) => {
            return Finding::ok(id, format!("{needless}: no router has to map a port"));
        }
        Err(Obstacle::Carrier(_)) => {
            "nothing has to be done: what cannot be direct is relayed; IPv6, or a public address of the provider, would help"
        }
        Err(_) => {
            "nothing has to be done: what cannot be direct is relayed; PCP, NAT-PMP or UPnP, switched on in the router, would help"
        }
    };
    let why = answer.err().map(|why| why.to_string()).unwrap_or_default();
    Finding::warn(id, why, remedy)
}

fn ipv6() -> Finding {
    let global = if_addrs::get_if_addrs()
        .unwrap_or_default()
        .iter()
        .any(|i| matches!(i.ip(), IpAddr::V6(ip) if ip.segments()[0] & 0xe000 == 0x2000));
    if global {
        return Finding::ok("ipv6", "this machine has a global IPv6 address");
    }
    Finding::warn(
        "ipv6",
        "no global IPv6 address",
        "nothing has to be done: IPv4 is used; with IPv6, more pairs would be direct",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Verdict;

    #[test]
    fn a_nat_is_judged_by_how_many_ports_it_gives() {
        assert_eq!(judged("nat", 2, 1, false).verdict, Verdict::Ok);
        assert_eq!(judged("nat", 2, 1, true).verdict, Verdict::Ok);
        for (answers, mapped, word) in [
            (0, 0, "unknown"),
            (1, 1, "cannot be said"),
            (4, 2, "a new port per destination"),
        ] {
            let finding = judged("nat", answers, mapped, true);
            assert_eq!(finding.verdict, Verdict::Warn);
            assert!(finding.text.contains(word), "{finding:?}");
        }
    }

    #[test]
    fn what_the_router_says_is_told_with_a_remedy() {
        assert_eq!(
            said(Ok(Method::Pcp)),
            Finding::ok("ports", "the router maps a port (PCP)")
        );
        assert_eq!(said(Err(Obstacle::NotNeeded)).verdict, Verdict::Ok);
        for (obstacle, words) in [
            (Obstacle::NoAnswer, "knows neither"),
            (Obstacle::Carrier(Method::Upnp), "(UPnP), but is behind"),
            (Obstacle::ForEverOnly, "for ever only"),
        ] {
            let finding = said(Err(obstacle));
            assert_eq!(finding.verdict, Verdict::Warn);
            assert!(
                finding.text.contains(words) && finding.remedy.is_some(),
                "{finding:?}"
            );
        }
    }

    #[test]
    fn each_kind_of_filtering_is_said_with_what_to_do() {
        assert_eq!(filter_finding(LetIn::Yes).verdict, Verdict::Ok);
        for let_in in [LetIn::No, LetIn::Unknown] {
            let finding = filter_finding(let_in);
            assert!(finding.verdict == Verdict::Warn && finding.remedy.is_some());
        }
    }

    /// A relay's STUN ports; `elsewhere` says whether the second one is let in.
    fn server(elsewhere: bool) -> SocketAddr {
        let [one, two] =
            [0, 0].map(|_| std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket"));
        let [address, other] = [&one, &two].map(|s| s.local_addr().expect("bound"));
        std::thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok((length, from)) = one.recv_from(&mut buffer) {
                let answer =
                    quorate_path::stun::respond(&buffer[..length], from, Some(other.port()));
                match answer {
                    Some((answer, false)) => drop(one.send_to(&answer, from)),
                    Some((answer, true)) if elsewhere => drop(two.send_to(&answer, from)),
                    _ => {}
                }
            }
        });
        address
    }

    #[tokio::test]
    async fn an_answer_from_a_port_that_was_not_asked_shows_what_is_let_in() {
        assert_eq!(lets_in(server(true)).await, LetIn::Yes);
        assert_eq!(lets_in(server(false)).await, LetIn::No);
        let nobody = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let silent = nobody.local_addr().expect("bound");
        assert_eq!(lets_in(silent).await, LetIn::Unknown);
    }

    #[tokio::test]
    async fn without_a_relay_that_is_said() {
        let findings = network(&[]).await;
        let relay = findings.iter().find(|f| f.id == "relay");
        assert!(relay.is_some_and(|f| f.verdict == Verdict::Warn && f.remedy.is_some()));
    }
}
