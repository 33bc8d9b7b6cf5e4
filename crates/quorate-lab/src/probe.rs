//! Plain UDP hole punching, without anything of quorate: what the NATs of the lab allow.
//!
//! ```text
//! a ── hello(pair, 0) ─►  rendezvous  ◄─ hello(pair, 1) ── b      it sees both outer addresses
//! a ◄─ go(b's address) ──     │      ── go(a's address) ─► b      both at the same moment
//! a ◄─────────────── punch, and an answer to wherever a punch came from ────────────────► b
//! ```
//!
//! A pair is direct when both ends got an answer. Each pair has fresh sockets with random ports,
//! and all pairs run at the same time in one thread.

use crate::{Context as _, Host, Outcome, nat::Reach};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

/// How often an end says hello until it is told to go.
const HELLO_EVERY: Duration = Duration::from_millis(250);
/// How often it punches.
const PUNCH_EVERY: Duration = Duration::from_millis(100);
/// Addresses besides the told one that an end punches back to.
const MAX_OBSERVED: usize = 4;
/// The port of the rendezvous.
pub const RENDEZVOUS_PORT: u16 = 3478;
/// A pair is told again when it asks again, but for a late answer of one end.
const DATAGRAM_BYTES: usize = 64;

/// One pair that is probed.
#[derive(Clone, Copy, Debug)]
pub struct Pair<'a> {
    /// One end.
    pub one: &'a Host,
    /// The other.
    pub other: &'a Host,
}

struct End {
    socket: UdpSocket,
    rendezvous: SocketAddr,
    told: Option<SocketAddr>,
    observed: BTreeSet<SocketAddr>,
    answered: bool,
    next: Instant,
    /// Whom the rendezvous saw.
    seen: Option<SocketAddr>,
}

/// Probes all pairs through the rendezvous on `server`, for at most `patience` after the last was
/// told to go.
pub fn punch(pairs: &[Pair<'_>], server: &Host, patience: Duration) -> Outcome<Vec<Reach>> {
    let mut ends = Vec::with_capacity(2 * pairs.len());
    let begin = Instant::now();
    for pair in pairs {
        for host in [pair.one, pair.other] {
            ends.push(end(host, server, begin)?);
        }
    }
    let mut servers = Vec::new();
    for address in &server.addresses {
        let at = SocketAddr::new(*address, RENDEZVOUS_PORT);
        servers.push(server.namespace.udp(at)?);
    }
    let deadline = begin + patience;
    loop {
        let now = Instant::now();
        let all = ends.iter().all(|e| e.answered);
        if now >= deadline || all {
            break;
        }
        for (index, end) in ends.iter_mut().enumerate() {
            end.tick(index, now);
        }
        wait(&servers, &ends)?;
        for server in &servers {
            serve(server, &mut ends);
        }
        for end in &mut ends {
            end.receive(now);
        }
    }
    let direct = |pair: &[End]| pair.iter().all(|e| e.answered);
    let reach = ends.chunks(2).map(|pair| {
        if direct(pair) {
            Reach::Direct
        } else {
            Reach::Relay
        }
    });
    Ok(reach.collect())
}

fn end(host: &Host, server: &Host, now: Instant) -> Outcome<End> {
    let ipv6 = host.ipv4().is_none();
    let (any, rendezvous): (IpAddr, _) = if ipv6 {
        (Ipv6Addr::UNSPECIFIED.into(), server.ipv6())
    } else {
        (Ipv4Addr::UNSPECIFIED.into(), server.ipv4())
    };
    let rendezvous = rendezvous.ok_or_else(|| {
        crate::Trouble::new(format!("{} and {} share no IP", host.name, server.name))
    })?;
    Ok(End {
        socket: host.namespace.udp(SocketAddr::new(any, 0))?,
        rendezvous: SocketAddr::new(rendezvous, RENDEZVOUS_PORT),
        told: None,
        observed: BTreeSet::new(),
        answered: false,
        next: now,
        seen: None,
    })
}

fn wait(servers: &[UdpSocket], ends: &[End]) -> Outcome<()> {
    let sockets = servers.iter().chain(ends.iter().map(|e| &e.socket));
    let mut polled: Vec<PollFd<'_>> = sockets.map(|s| PollFd::new(s, PollFlags::IN)).collect();
    let timeout = Timespec {
        tv_sec: 0,
        tv_nsec: 10_000_000,
    };
    poll(&mut polled, Some(&timeout)).map(drop).during("poll")
}

/// Answers hellos: to both ends of a pair in the moment when both are known.
fn serve(server: &UdpSocket, ends: &mut [End]) {
    let mut buffer = [0; DATAGRAM_BYTES];
    while let Ok((length, source)) = server.recv_from(&mut buffer) {
        let Some(number) = hello_of(&buffer[..length]).filter(|n| *n < ends.len()) else {
            continue;
        };
        ends[number].seen = Some(source);
        if let (Some(a), Some(b)) = (ends[number].seen, ends[number ^ 1].seen) {
            for (whom, about) in [(a, b), (b, a)] {
                let _ = server.send_to(format!("G{about}").as_bytes(), whom);
            }
        }
    }
}

fn hello_of(datagram: &[u8]) -> Option<usize> {
    let text = std::str::from_utf8(datagram.strip_prefix(b"H")?).ok()?;
    text.parse().ok()
}

impl End {
    fn tick(&mut self, number: usize, now: Instant) {
        if now < self.next {
            return;
        }
        // Unreachable networks answer here at once; the next turn tries again.
        let send = |what: &[u8], to| drop(self.socket.send_to(what, to));
        match self.told {
            None => {
                send(format!("H{number}").as_bytes(), self.rendezvous);
                self.next = now + HELLO_EVERY;
            }
            Some(told) => {
                send(b"P", told);
                self.observed.iter().for_each(|o| send(b"P", *o));
                self.next = now + PUNCH_EVERY;
            }
        }
    }

    fn receive(&mut self, now: Instant) {
        let mut buffer = [0; DATAGRAM_BYTES];
        while let Ok((length, source)) = self.socket.recv_from(&mut buffer) {
            match &buffer[..length] {
                [b'G', address @ ..] if source == self.rendezvous && self.told.is_none() => {
                    let text = std::str::from_utf8(address).unwrap_or_default();
                    self.told = text.parse().ok();
                    self.next = now;
                }
                b"P" => {
                    if self.told != Some(source) && self.observed.len() < MAX_OBSERVED {
                        self.observed.insert(source);
                    }
                    let _ = self.socket.send_to(b"A", source);
                }
                b"A" => self.answered = true,
                _ => {}
            }
        }
    }
}
