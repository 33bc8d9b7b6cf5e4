//! Looking at a relay from outside, as a party of a session will meet it.
//!
//! ```text
//!   given address ─┐
//!   its sibling ───┼─► announcement ─► STUN ports ─► reservation ─► test circuit ─► findings
//!   (TCP / QUIC)   │                                     └ other addresses it names ─► reached?
//! ```
//! Limits: [`MAX_ADDRESSES`] addresses are tried, each within the probe's waits; STUN is asked
//! [`STUN_TRIES`] times, [`STUN_WAIT`] each.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use futures::future::join_all;
use quorate_path::stun;
use quorate_session::relay::{Access, Announcement};
use tokio::{net::UdpSocket, time::timeout};

use crate::{
    Finding,
    doctor::ms,
    overlay::{
        Names, Scope, check_address,
        relay_probe::{self, Reached, both_transports, carry, parts, reach},
        written_out,
    },
    party::clock,
};

/// Addresses of one relay that are tried.
const MAX_ADDRESSES: usize = 8;
/// Questions to one STUN port.
const STUN_TRIES: u8 = 4;
/// Wait for one answer.
const STUN_WAIT: Duration = Duration::from_millis(700);
/// Bytes that the test circuit carries: more than the 128 KiB at which relays for signalling cut.
const TEST_BYTES: u64 = 512 * 1024;
/// A clock that differs by more makes signatures fail.
const CLOCK_TOLERANCE_SECONDS: i64 = 120;
/// A circuit that lasts shorter cuts runs.
const SHORT_SECONDS: u64 = 2 * 3600;

/// What was found.
#[derive(Debug, Clone)]
pub struct Checked {
    /// In the order they were looked at.
    pub findings: Vec<Finding>,
    /// Whether it was reached at all.
    pub reachable: bool,
    /// Whether a party can compute through it.
    pub usable: bool,
    /// Addresses for users that were reached, with `/p2p/…`.
    pub addresses: Vec<String>,
    /// Round trip to it.
    pub rtt: Option<Duration>,
    /// What it says it is.
    pub announcement: Option<Announcement>,
}

/// Looks at the relay at `address`, in which its host may be named.
pub async fn check(address: &str) -> Result<Checked, String> {
    check_with(address, &Names::default(), Scope::Lan).await
}

async fn check_with(address: &str, names: &Names, scope: Scope) -> Result<Checked, String> {
    check_address(address, scope)?;
    let mut all = Checked {
        findings: Vec::new(),
        reachable: false,
        usable: false,
        addresses: Vec::new(),
        rtt: None,
        announcement: None,
    };
    let found = match written_out(address, names, scope).await {
        Ok(found) => found,
        Err(why) => {
            let remedy =
                "the name has to lead to the relay's public address, for IPv4 (A) or IPv6 (AAAA)";
            all.findings.push(Finding::fail("name", why, remedy));
            return Ok(all);
        }
    };
    let is_named = found.first().is_none_or(|first| first != address.trim());
    if is_named {
        let ips: Vec<String> = found
            .iter()
            .filter_map(|address| Some(parts(address).ok()?.0.to_string()))
            .collect();
        let text = format!("the name leads to {}", ips.join(", "));
        all.findings.push(Finding::ok("name", text));
    }
    let mut siblings = Vec::new();
    for address in &found {
        siblings.push(both_transports(address)?);
    }
    let all_at_once = siblings.iter().map(|[quic, tcp]| async move {
        let answers = tokio::join!(reach(quic), reach(tcp));
        (quic, tcp, answers)
    });
    let mut at = None;
    for (quic, tcp, (over_quic, over_tcp)) in join_all(all_at_once).await {
        if over_quic.is_ok() || over_tcp.is_ok() {
            at = at.or(Some(quic));
        }
        let place = match parts(quic) {
            Ok((ip, _, _)) if found.len() > 1 => format!("{ip} "),
            _ => String::new(),
        };
        all.reached("quic", &place, quic, over_quic);
        all.reached("tcp", &place, tcp, over_tcp);
    }
    let Some(at) = at else {
        return Ok(all);
    };
    all.reachable = true;
    all.announced(at).await;
    let through = all.addresses[0].clone();
    let carried = carry(&through, TEST_BYTES).await;
    let named = carried
        .as_ref()
        .map(|c| c.addresses.clone())
        .unwrap_or_default();
    all.carried(carried);
    let peer = through.rsplit('/').next().unwrap_or_default();
    for other in named.into_iter().take(MAX_ADDRESSES) {
        let other = format!("{other}/p2p/{peer}");
        if siblings.concat().contains(&other) || all.addresses.contains(&other) {
            continue;
        }
        let answer = reach(&other).await;
        all.reached("also", "", &other, answer);
    }
    let is_reached = |written: &String| {
        let plain = written.split("/p2p/").next().unwrap_or(written);
        let that = format!("{plain}/p2p/{peer}");
        all.addresses.contains(&that)
    };
    if is_named && found.iter().any(is_reached) {
        // What users are given goes on working when the address changes.
        let host = address.split("/p2p/").next().unwrap_or(address);
        all.addresses
            .insert(0, format!("{}/p2p/{peer}", host.trim()));
    }
    Ok(all)
}

impl Checked {
    /// `before` comes before the port, where there are several addresses.
    fn reached(
        &mut self,
        id: &'static str,
        before: &str,
        address: &str,
        answer: Result<Reached, String>,
    ) {
        let (port, tcp) = parts(address).map_or((0, true), |(_, port, tcp)| (port, tcp));
        let place = format!("{before}{}/{port}", if tcp { "tcp" } else { "udp" });
        match answer {
            Ok(reached) => {
                let text = format!("{place} open, first answer after {}", ms(reached.took));
                self.findings.push(Finding::ok(id, text));
                let plain = address.split("/p2p/").next().unwrap_or(address);
                self.addresses.push(format!("{plain}/p2p/{}", reached.peer));
                self.rtt = match (self.rtt, reached.rtt) {
                    (Some(a), Some(b)) => Some(a.min(b)),
                    (a, b) => a.or(b),
                };
                if let Ok(announcement) = reached.announcement {
                    self.announcement = Some(announcement);
                }
            }
            Err(why) => {
                let text = format!("{place}: {why}");
                let remedy = if why.starts_with("somebody else") {
                    "ask the operator for the address again; its end (/p2p/…) names the relay"
                } else if tcp {
                    "allow this TCP port in the relay's firewall, or in this network"
                } else {
                    "allow this UDP port in the relay's firewall; where UDP is blocked, TCP is used"
                };
                self.findings.push(Finding::fail(id, text, remedy));
            }
        }
    }

    async fn announced(&mut self, address: &str) {
        let Some(announcement) = self.announcement.clone() else {
            let text = "it says nothing about itself: not a relay of quorate, or an old one";
            let remedy =
                "public libp2p relays cut circuits after 2 minutes; run `quorate relay run`";
            self.findings
                .push(Finding::warn("announcement", text, remedy));
            return;
        };
        let limits = announcement.limits;
        let load = announcement.load;
        let text = format!(
            "reservations {}/{}   circuits {}/{}   {} Mbit/s now",
            load.reservations,
            limits.reservations,
            load.circuits,
            limits.circuits,
            load.bits_per_second / 1_000_000,
        );
        let full = load.reservations >= limits.reservations || load.circuits >= limits.circuits;
        self.findings.push(if full {
            let remedy = "wait, use another relay, or raise --reservations and --circuits";
            Finding::warn("load", format!("{text}: full"), remedy)
        } else {
            Finding::ok("load", text)
        });
        if announcement.access == Access::Listed {
            let text = "only those whom its operator listed may use it (E_NOT_LISTED to others)";
            let remedy = "if you are listed, use it with --relay-pass; else ask its operator";
            self.findings.push(Finding::warn("access", text, remedy));
        }
        let here = clock::wall().0;
        let apart = announcement.at.0.saturating_sub(here);
        self.findings
            .push(if apart.abs() <= CLOCK_TOLERANCE_SECONDS {
                Finding::ok("clock", "its clock and this one agree")
            } else {
                let text = format!("its clock and this one are {} s apart", apart.abs());
                Finding::warn(
                    "clock",
                    text,
                    "set the one that is wrong: timedatectl set-ntp true",
                )
            });
        let Ok((ip, _, _)) = parts(address) else {
            return;
        };
        if announcement.stun.is_empty() {
            let remedy = "without STUN, fewer pairs become direct; run the relay without --no-stun";
            self.findings
                .push(Finding::warn("stun", "it answers no STUN", remedy));
        }
        for port in announcement.stun {
            self.findings.push(match stun_at(ip, port).await {
                Ok(_) => Finding::ok("stun", format!("udp/{port} answers STUN")),
                Err(why) => Finding::warn(
                    "stun",
                    format!("udp/{port}: {why}"),
                    "allow this UDP port in the relay's firewall: without STUN, fewer pairs become direct",
                ),
            });
        }
    }

    fn carried(&mut self, carried: Result<relay_probe::Carried, String>) {
        let carried = match carried {
            Ok(carried) => carried,
            Err(why) => {
                let remedy =
                    "see the relay's log (journalctl -u quorate-relay), its limits and --external";
                let text = format!("no circuit through it: {why}");
                self.findings.push(Finding::fail("circuit", text, remedy));
                return;
            }
        };
        self.usable = true;
        let rtt = carried.rtt.map_or("unknown".into(), ms);
        let text = format!(
            "a circuit carried {} KiB in {}, round trip {rtt}",
            TEST_BYTES / 1024,
            ms(carried.carried)
        );
        self.findings.push(Finding::ok("circuit", text));
        let short = carried.seconds.filter(|s| *s < SHORT_SECONDS);
        let small = carried.bytes.filter(|b| *b > 0);
        if short.is_some() || small.is_some() {
            let seconds = short.map(|s| format!("after {s} s"));
            let bytes = small.map(|b| format!("after {b} bytes"));
            let parts: Vec<String> = seconds.into_iter().chain(bytes).collect();
            let text = format!("it cuts circuits {}", parts.join(" and "));
            let remedy = "raise --duration and --circuit-bytes of the relay, or use another one";
            self.findings.push(Finding::warn("limits", text, remedy));
        }
    }
}

/// What a STUN server says this machine's address is, seen from a fresh socket.
async fn stun_at(ip: IpAddr, port: u16) -> Result<SocketAddr, String> {
    let any: SocketAddr = match ip {
        IpAddr::V4(_) => (std::net::Ipv4Addr::UNSPECIFIED, 0).into(),
        IpAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await.map_err(|e| e.to_string())?;
    ask_stun(&socket, SocketAddr::new(ip, port)).await
}

/// The same from a socket of the caller.
pub(crate) async fn ask_stun(socket: &UdpSocket, server: SocketAddr) -> Result<SocketAddr, String> {
    let answer = ask_for(socket, server, server, |request| request).await?;
    Ok(answer.seen)
}

/// Asks `server` something that `by` answers.
pub(crate) async fn ask_for(
    socket: &UdpSocket,
    server: SocketAddr,
    by: SocketAddr,
    question: impl FnOnce(stun::Request) -> stun::Request,
) -> Result<stun::Answer, String> {
    let mut transaction = [0; 12];
    getrandom::fill(&mut transaction).map_err(|e| e.to_string())?;
    let question = question(stun::Request::new(transaction)).encode();
    let mut buffer = [0; 1024];
    for _ in 0..STUN_TRIES {
        let sent = socket.send_to(&question, server).await;
        sent.map_err(|e| e.to_string())?;
        let answer = async {
            loop {
                let (length, from) = socket.recv_from(&mut buffer).await?;
                if from == by
                    && let Ok(answer) = stun::parse_answer(&buffer[..length])
                    && answer.transaction == transaction
                {
                    return std::io::Result::Ok(answer);
                }
            }
        };
        if let Ok(Ok(seen)) = timeout(STUN_WAIT, answer).await {
            return Ok(seen);
        }
    }
    Err("no answer".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        overlay::{Listen, RelayConfig, RelayLimits},
        relay::{Relay, RelayOptions},
    };
    use zeroize::Zeroizing;

    #[tokio::test]
    async fn a_relay_is_looked_at_behind_its_name_and_the_name_is_what_users_are_given() {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).expect("random");
        let options = RelayOptions {
            node: RelayConfig {
                secret: Zeroizing::new(secret),
                listen: vec![Listen {
                    address: "/ip4/127.0.0.1/tcp/0".into(),
                    required: true,
                }],
                external: Vec::new(),
                limits: RelayLimits::default(),
                name: None,
                stun: Vec::new(),
                allow: None,
                guests: None,
            },
            stun: Some([0, 0]),
            metrics: None,
        };
        let relay = Relay::start(options).await.expect("loopback works");
        let written = relay.status().addresses[0].clone();
        let named = written.replacen("/ip4/127.0.0.1", "/dns/relay.localhost", 1);
        // Nobody answers at the first address.
        let there = vec![[127, 0, 0, 9].into(), [127, 0, 0, 1].into()];
        let names = Names::by(move |_| {
            let there = there.clone();
            Box::pin(async move { Ok(there) })
        });
        let checked = check_with(&named, &names, Scope::Local)
            .await
            .expect("valid");
        assert!(checked.usable, "{:?}", checked.findings);
        assert_eq!(checked.addresses, [named.clone(), written]);
        let said = |text: &str| checked.findings.iter().any(|f| f.text == text);
        assert!(
            said("the name leads to 127.0.0.9, 127.0.0.1"),
            "{:?}",
            checked.findings
        );

        let names = Names::by(|_| Box::pin(async { Err("no such name".into()) }));
        let checked = check_with(&named, &names, Scope::Local)
            .await
            .expect("valid");
        assert!(!checked.reachable && checked.addresses.is_empty());
        let why = &checked.findings[0].text;
        assert!(
            why.contains("relay.localhost is not found: no such name"),
            "{why}"
        );
    }
}
