//! Whether the lab does what it was told: delays, loss and rates, cuts, routers that forget, sites
//! that move, packets that are too long.
//!
//! Lower bounds are tight, since a packet that comes early is an error of the lab; upper bounds are
//! loose, since a busy machine delays everything.

use crate::{Context as _, Host, Lab, LinkSpec, Nat, Outcome, Plan, Site, Trouble, plan::Between};
use std::{
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

const ECHO_PORT: u16 = 7777;
/// One way between near and far.
const DELAY_MS: f64 = 40.0;
/// How long an answer is awaited.
const PATIENCE: Duration = Duration::from_millis(600);
/// A busy machine may be this late.
const LATE: Duration = Duration::from_millis(60);

/// One thing that was measured.
#[derive(Clone, Debug)]
pub struct Finding {
    /// What.
    pub what: &'static str,
    /// What it should be.
    pub expected: String,
    /// What it was.
    pub seen: String,
    /// Whether they agree.
    pub holds: bool,
}

fn finding(
    what: &'static str,
    expected: impl Into<String>,
    seen: impl Into<String>,
    holds: bool,
) -> Finding {
    Finding {
        what,
        expected: expected.into(),
        seen: seen.into(),
        holds,
    }
}

fn reached(what: &'static str, expected: bool, answer: Option<&Answer>) -> Finding {
    let words = |yes| if yes { "an answer" } else { "silence" };
    let seen = answer.is_some();
    finding(what, words(expected), words(seen), seen == expected)
}

fn plan() -> Plan {
    let between = |a: &str, b: &str, with| Between {
        between: [a.into(), b.into()],
        with,
    };
    let lossy = LinkSpec {
        loss_percent: 5.0,
        ..LinkSpec::default()
    };
    let slow = LinkSpec {
        rate_mbit: 20.0,
        queue_ms: 50.0,
        ..LinkSpec::default()
    };
    let narrow = LinkSpec {
        mtu: 1280,
        ..LinkSpec::default()
    };
    let hole = LinkSpec {
        black_hole: true,
        ..narrow
    };
    Plan {
        seed: 7,
        sites: vec![
            Site::new("near", Nat::Open).with_ipv6().region("near"),
            Site::new("far", Nat::Open).with_ipv6().region("far"),
            Site::new("lossy", Nat::Open).region("lossy"),
            Site::new("slow", Nat::Open).region("slow"),
            Site::new("narrow", Nat::Open).region("narrow"),
            Site::new("hole", Nat::Open).region("hole"),
            Site::new("home", Nat::Port).hosts(&["one", "two"]),
            Site::new("cone", Nat::FullCone),
            Site::new("v6", Nat::V6Firewall),
        ],
        links: vec![
            between("near", "far", LinkSpec::delay(DELAY_MS)),
            between("near", "lossy", lossy),
            between("near", "slow", slow),
            between("near", "narrow", narrow),
            between("near", "hole", hole),
        ],
        elsewhere: LinkSpec::default(),
    }
}

/// Builds a small lab and measures everything in it.
pub fn run() -> Outcome<Vec<Finding>> {
    let lab = Lab::build(plan(), None)?;
    let mut findings = Vec::new();
    let near = lab.host("near")?;
    let echo = Echo::start(near)?;
    let at4 = SocketAddr::new(near.ipv4().ok_or_else(no_address)?, ECHO_PORT);
    let at6 = SocketAddr::new(near.ipv6().ok_or_else(no_address)?, ECHO_PORT);
    findings.push(delay(&lab, "delay, IPv4", at4)?);
    findings.push(delay(&lab, "delay, IPv6", at6)?);
    findings.push(loss(&lab, at4)?);
    findings.push(rate(&lab, at4, &echo)?);
    findings.extend(cuts(&lab, at4)?);
    findings.extend(too_long(&lab, at4)?);
    findings.extend(routers(&lab, at4)?);
    findings.extend(moves(&lab, at4)?);
    Ok(findings)
}

fn no_address() -> Trouble {
    Trouble::new("a host has no address")
}

/// An answer of the echo: how long it took, and which source the echo saw.
struct Answer {
    taken: Duration,
    source: SocketAddr,
}

/// Answers every datagram with its source, until the value goes.
struct Echo {
    stop: Arc<AtomicBool>,
    bytes: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Echo {
    fn start(host: &Host) -> Outcome<Self> {
        let mut echo = Self {
            stop: Arc::default(),
            bytes: Arc::default(),
            threads: Vec::new(),
        };
        for address in &host.addresses {
            let socket = host.namespace.udp(SocketAddr::new(*address, ECHO_PORT))?;
            blocking(&socket)?;
            let (stop, bytes) = (Arc::clone(&echo.stop), Arc::clone(&echo.bytes));
            echo.threads.push(std::thread::spawn(move || {
                let mut buffer = [0; 2048];
                while !stop.load(Ordering::Relaxed) {
                    if let Ok((length, source)) = socket.recv_from(&mut buffer) {
                        bytes.fetch_add(length as u64, Ordering::Relaxed);
                        let number = buffer.first().copied().unwrap_or_default();
                        let _ = socket.send_to(format!("{number} {source}").as_bytes(), source);
                    }
                }
            }));
        }
        Ok(echo)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn blocking(socket: &UdpSocket) -> Outcome<()> {
    socket.set_nonblocking(false).during("a socket")?;
    let wait = Some(Duration::from_millis(100));
    socket.set_read_timeout(wait).during("a socket")
}

fn socket(host: &Host, to: SocketAddr) -> Outcome<UdpSocket> {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let at = any.parse().during("an address")?;
    let socket = host.namespace.udp(at)?;
    blocking(&socket)?;
    Ok(socket)
}

/// Asks the echo once.
fn ask(socket: &UdpSocket, to: SocketAddr, number: u8, length: usize) -> Option<Answer> {
    let mut datagram = vec![0; length.max(1)];
    datagram[0] = number;
    let begun = Instant::now();
    socket.send_to(&datagram, to).ok()?;
    let mut buffer = [0; 128];
    while begun.elapsed() < PATIENCE {
        let Ok((length, _)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        let text = std::str::from_utf8(&buffer[..length]).unwrap_or_default();
        let Some((answered, source)) = text.split_once(' ') else {
            continue;
        };
        if answered == number.to_string() {
            let taken = begun.elapsed();
            return source.parse().ok().map(|source| Answer { taken, source });
        }
    }
    None
}

/// Asks from a fresh socket on a host.
fn ask_from(host: &Host, to: SocketAddr) -> Outcome<Option<Answer>> {
    Ok(ask(&socket(host, to)?, to, 1, 1))
}

fn delay(lab: &Lab, what: &'static str, to: SocketAddr) -> Outcome<Finding> {
    let socket = socket(lab.host("far")?, to)?;
    let mut taken: Vec<Duration> = (0..15)
        .filter_map(|n| ask(&socket, to, n, 1))
        .map(|a| a.taken)
        .collect();
    taken.sort_unstable();
    let least = Duration::from_secs_f64(2.0 * DELAY_MS / 1000.0);
    let shown = |d: Option<&Duration>| {
        d.map_or_else(|| "–".into(), |d| format!("{:.1}", d.as_secs_f64() * 1e3))
    };
    let (first, median) = (taken.first(), taken.get(taken.len() / 2));
    let holds = taken.len() == 15
        && first.is_some_and(|d| *d >= least && *d < least + Duration::from_millis(15))
        && median.is_some_and(|d| *d < least + LATE);
    let seen = format!("{} ms least, {} ms median", shown(first), shown(median));
    Ok(finding(what, "80 ms round trip", seen, holds))
}

fn loss(lab: &Lab, to: SocketAddr) -> Outcome<Finding> {
    const SENT: u32 = 1000;
    let socket = socket(lab.host("lossy")?, to)?;
    let mut buffer = [0; 128];
    let mut answers = 0;
    socket
        .set_read_timeout(Some(Duration::from_millis(1)))
        .during("a socket")?;
    for _ in 0..SENT {
        let _ = socket.send_to(b"x", to);
        answers += u32::from(socket.recv_from(&mut buffer).is_ok());
    }
    blocking(&socket)?;
    while socket.recv_from(&mut buffer).is_ok() {
        answers += 1;
    }
    // Both ways: 0.95 squared is 902.5 of 1000, with a deviation of 9.4.
    let holds = (860..=945).contains(&answers);
    Ok(finding(
        "loss of 5 % each way",
        "902 of 1000",
        format!("{answers}"),
        holds,
    ))
}

#[allow(clippy::cast_precision_loss)] // a few megabytes
fn rate(lab: &Lab, to: SocketAddr, echo: &Echo) -> Outcome<Finding> {
    const LENGTH: usize = 1372; // 1400 bytes with its headers
    let socket = socket(lab.host("slow")?, to)?;
    let before = echo.bytes.load(Ordering::Relaxed);
    let begun = Instant::now();
    let datagram = [0; LENGTH];
    while begun.elapsed() < Duration::from_secs(1) {
        for _ in 0..10 {
            let _ = socket.send_to(&datagram, to);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    std::thread::sleep(Duration::from_millis(200));
    let bytes = (echo.bytes.load(Ordering::Relaxed) - before) as f64;
    let megabits = bytes * 1400.0 / LENGTH as f64 * 8.0 / 1e6;
    // A second's worth and a queue of 50 ms.
    let holds = (14.0..=22.0).contains(&megabits);
    Ok(finding(
        "rate of 20 Mbit/s",
        "20 to 21 Mbit in a second",
        format!("{megabits:.1} Mbit"),
        holds,
    ))
}

fn cuts(lab: &Lab, to: SocketAddr) -> Outcome<Vec<Finding>> {
    let far = lab.host("far")?;
    let mut findings = Vec::new();
    lab.cut_both("far", Some("near"), true)?;
    findings.push(reached("a cut path", false, ask_from(far, to)?.as_ref()));
    lab.cut_both("far", Some("near"), false)?;
    findings.push(reached("a mended path", true, ask_from(far, to)?.as_ref()));
    lab.cut(Some("near"), Some("far"), true)?;
    let socket = socket(far, to)?;
    findings.push(reached(
        "a path cut one way",
        false,
        ask(&socket, to, 1, 1).as_ref(),
    ));
    lab.cut(Some("near"), Some("far"), false)?;
    lab.link("near", "far", LinkSpec::delay(90.0));
    let answer = ask_from(far, to)?;
    let slower = answer.is_some_and(|a| a.taken >= Duration::from_millis(180));
    let seen = if slower { "slower" } else { "as before" };
    findings.push(finding("a changed delay", "slower", seen, slower));
    Ok(findings)
}

fn too_long(lab: &Lab, to: SocketAddr) -> Outcome<Vec<Finding>> {
    const LONG: usize = 1400;
    let narrow = socket(lab.host("narrow")?, to)?;
    // The kernel learns the MTU from the first one and cuts the next ones itself.
    let _ = ask(&narrow, to, 1, LONG);
    let told = ask(&narrow, to, 2, LONG);
    let hole = socket(lab.host("hole")?, to)?;
    let _ = ask(&hole, to, 1, LONG);
    let swallowed = ask(&hole, to, 2, LONG);
    let short = ask(&hole, to, 3, 1000);
    Ok(vec![
        reached("long packets, sender told of MTU 1280", true, told.as_ref()),
        reached("long packets into a black hole", false, swallowed.as_ref()),
        reached("short packets there", true, short.as_ref()),
    ])
}

fn routers(lab: &Lab, to: SocketAddr) -> Outcome<Vec<Finding>> {
    let mut findings = Vec::new();
    let near = lab.host("near")?;
    let back = socket(near, to)?;
    // A full cone lets anybody in at a mapped port, until its router forgets.
    let host = lab.host("cone")?;
    let inside = socket(host, to)?;
    let mapped = ask(&inside, to, 1, 1).ok_or_else(|| Trouble::new("the full cone is closed"))?;
    let arrives = || {
        let _ = back.send_to(b"9 192.0.2.1:1", mapped.source);
        let mut buffer = [0; 64];
        (0..5).any(|_| inside.recv_from(&mut buffer).is_ok())
    };
    let words = |open| if open { "open" } else { "closed" };
    let before = arrives();
    findings.push(finding("a full cone's port", "open", words(before), before));
    lab.reboot("cone")?;
    let after = arrives();
    findings.push(finding(
        "after its router restarted",
        "closed",
        words(after),
        !after,
    ));
    lab.expire("cone", 1)?;
    let _ = ask(&inside, to, 2, 1);
    // Longer than the lifetime of a mapping: the passing of time is what is tested.
    std::thread::sleep(Duration::from_millis(2500));
    let twin = socket(lab.host("one")?, to)?;
    let first = ask(&twin, to, 1, 1).map(|a| a.source);
    lab.expire("home", 1)?;
    let _ = ask(&twin, to, 2, 1);
    std::thread::sleep(Duration::from_millis(2500));
    let late = first.is_some_and(|source| {
        let _ = back.send_to(b"9 192.0.2.1:1", source);
        let mut buffer = [0; 64];
        (0..3).any(|_| twin.recv_from(&mut buffer).is_ok())
    });
    findings.push(finding(
        "a mapping after its lifetime",
        "closed",
        words(late),
        !late,
    ));
    Ok(findings)
}

fn moves(lab: &Lab, to: SocketAddr) -> Outcome<Vec<Finding>> {
    let host = lab.host("one")?;
    let before = ask_from(host, to)?.map(|a| a.source.ip());
    let outer = lab.readdress("home")?;
    let after = ask_from(host, to)?.map(|a| a.source.ip());
    let moved = before.is_some() && before != after && after == Some(outer.into());
    let shown = |a: Option<std::net::IpAddr>| a.map_or_else(|| "silence".into(), |a| a.to_string());
    let mut findings = vec![finding(
        "a site with a new address",
        outer.to_string(),
        shown(after),
        moved,
    )];
    lab.carry("two", "cone")?;
    let carried = ask_from(lab.host("two")?, to)?.map(|a| a.source.ip());
    let there = ask_from(lab.host("cone")?, to)?.map(|a| a.source.ip());
    let holds = carried.is_some() && carried == there;
    findings.push(finding(
        "a host carried to another site",
        shown(there),
        shown(carried),
        holds,
    ));
    let v6 = lab.host("v6")?;
    let near6 = lab.host("near")?.ipv6().ok_or_else(no_address)?;
    let asked = ask_from(v6, SocketAddr::new(near6, ECHO_PORT))?;
    findings.push(reached("IPv6 through a firewall", true, asked.as_ref()));
    Ok(findings)
}
