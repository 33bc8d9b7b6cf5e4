//! `quorate relay run`.

use std::{collections::HashSet, net::IpAddr, path::Path, process::ExitCode};

use quorate_identity::{Code, Did, Rejection};
use quorate_node::{
    files::read_bounded,
    overlay::{External, Listen, RelayConfig, RelayLimits},
    relay::{Relay, RelayOptions, listen_at, load_or_create_key},
};
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::runtime;
use crate::{
    args::{Global, RelayRunArgs},
    command::{home, print_stdout},
    failure::Failure,
    report::schema,
    text,
};

/// Largest file of `--allow`, in bytes.
const MAX_LIST_BYTES: u64 = 1 << 20;

pub fn run(global: &Global, args: RelayRunArgs) -> Result<ExitCode, Failure> {
    let secret = load_or_create_key(&home(global)?)?;
    runtime()?.block_on(serve(global, args, secret))
}

async fn serve(
    global: &Global,
    args: RelayRunArgs,
    secret: zeroize::Zeroizing<[u8; 32]>,
) -> Result<ExitCode, Failure> {
    let mut signals = Signals::new()?;
    let mut external = Vec::new();
    for text in &args.external {
        external.extend(resolve(text).await?);
    }
    let relay = Relay::start(RelayOptions {
        node: RelayConfig {
            secret,
            listen: listen(&args)?,
            external,
            limits: limits(&args),
            name: args.name.clone(),
            stun: Vec::new(),
            allow: allowed(&args.allow)?,
            guests: None,
        },
        stun: stun(&args)?,
        metrics: (!args.no_metrics).then_some(args.metrics),
    })
    .await?;
    started(global, &relay);
    let end = tokio::select! {
        name = signals.next() => name,
        () = relay.failed() => {
            return Err(Failure::new(Code::Internal, "the relay's task ended"));
        }
    };
    let status = relay.status();
    if global.json {
        let event = json!({"schema": schema("event"), "event": "relay-draining", "signal": end,
            "circuits": status.circuits, "seconds": args.drain.as_secs()});
        text::say(event);
    } else if !global.quiet {
        let wait = text::duration(i64::try_from(args.drain.as_secs()).unwrap_or(i64::MAX));
        let line = match status.circuits {
            0 => format!("{end}: no circuit is open"),
            n => format!(
                "{end}: nothing new is taken; {n} circuits may end, {wait} at most; again to stop now"
            ),
        };
        text::say(text::row("draining", &line));
    }
    tokio::select! {
        () = relay.drain(args.drain) => {}
        _ = signals.next() => {}
    }
    let left = relay.status().circuits;
    relay.stop().await;
    if !global.json && !global.quiet {
        let line = match left {
            0 => "the relay has ended".to_owned(),
            n => format!("the relay has ended; {n} circuits were cut"),
        };
        text::say(text::row("ended", &line));
    }
    Ok(ExitCode::SUCCESS)
}

/// What to give to users, once all sockets are open.
fn started(global: &Global, relay: &Relay) {
    let status = relay.status();
    if global.json {
        let document = json!({
            "schema": schema("event"),
            "event": "relay",
            "peer": relay.peer_id(),
            "addresses": status.addresses,
            "stun": relay.stun_ports(),
            "metrics": relay.metrics_address().map(|a| format!("http://{a}/metrics")),
        });
        print_stdout(&document.to_string());
        return;
    }
    if global.quiet {
        return;
    }
    text::say(text::row("relay", relay.peer_id()));
    for address in &status.addresses {
        text::say(text::row("address", address));
    }
    let ports = relay.stun_ports();
    if let [one, two] = ports[..] {
        text::say(text::row("stun", &format!("udp/{one}, udp/{two}")));
    }
    if let Some(address) = relay.metrics_address() {
        text::say(text::row("metrics", &format!("http://{address}/metrics")));
    }
    text::say(text::row(
        "give",
        "one address to your users: quorate join TICKET --relay ADDRESS",
    ));
}

fn listen(args: &RelayRunArgs) -> Result<Vec<Listen>, Failure> {
    let mut all = Vec::new();
    if !args.only {
        for (host, required) in [("/ip4/0.0.0.0", true), ("/ip6/::", false)] {
            let port = args.port;
            for address in [
                format!("{host}/tcp/{port}"),
                format!("{host}/udp/{port}/quic-v1"),
            ] {
                all.push(Listen { address, required });
            }
        }
    }
    for text in &args.listen {
        let Ok(port) = text.parse::<u16>() else {
            listen_at(text)?;
            all.push(Listen {
                address: text.clone(),
                required: true,
            });
            continue;
        };
        for (host, required) in [("/ip4/0.0.0.0", true), ("/ip6/::", false)] {
            let address = format!("{host}/tcp/{port}");
            all.push(Listen { address, required });
        }
    }
    Ok(all)
}

/// An IP address, a multiaddr, or a name that is looked up once, now.
async fn resolve(text: &str) -> Result<Vec<External>, Failure> {
    if text.starts_with('/') {
        listen_at(text)?;
        return Ok(vec![External::Address(text.to_owned())]);
    }
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(vec![External::Host(ip)]);
    }
    let unusable = |why: String| {
        Failure::new(Code::Address, format!("--external {text}: {why}"))
            .hint("write the IP address that the internet sees, or /ip4/…/tcp/…")
    };
    let found = tokio::net::lookup_host((text, 0)).await;
    let found = found.map_err(|e| unusable(e.to_string()))?;
    let hosts: Vec<External> = found.map(|a| External::Host(a.ip())).collect();
    if hosts.is_empty() {
        return Err(unusable("the name has no address".into()));
    }
    Ok(hosts)
}

/// The DIDs of a list: those that are written, and those in the files that are named, one a line.
fn allowed(named: &[String]) -> Result<Option<HashSet<Did>>, Failure> {
    if named.is_empty() {
        return Ok(None);
    }
    let mut all = HashSet::new();
    for text in named {
        if text.starts_with("did:") {
            all.insert(listed(text, "--allow")?);
            continue;
        }
        let bytes = read_bounded(Path::new(text), MAX_LIST_BYTES)?.ok_or_else(|| {
            let what = format!("--allow {}: no such file", text::foreign(text));
            Failure::new(Code::Usage, what).hint("name a DID, or a file with one DID a line")
        })?;
        let content = String::from_utf8_lossy(&bytes);
        let lines = content
            .lines()
            .map(|l| l.split('#').next().unwrap_or_default().trim());
        for line in lines.filter(|l| !l.is_empty()) {
            all.insert(listed(line, text)?);
        }
    }
    if all.is_empty() {
        return Err(Failure::new(
            Code::Usage,
            "--allow names nobody: the relay would serve nobody",
        )
        .hint("put one DID a line into the file, or leave --allow out"));
    }
    Ok(Some(all))
}

/// A DID that can be proven to a relay, which asks nobody for keys.
fn listed(text: &str, source: &str) -> Result<Did, Failure> {
    let wrong = |why: String| {
        let what = format!("{} is no DID for a list: {why}", text::foreign(text));
        Failure::new(Code::Usage, what)
            .note("from", text::foreign(source))
            .hint("people show theirs with: quorate id show")
    };
    let did: Did = text.parse().map_err(|e: Rejection| wrong(e.detail))?;
    if did.key().is_none() {
        return Err(wrong("only did:key can be shown to a relay".into()));
    }
    Ok(did)
}

fn stun(args: &RelayRunArgs) -> Result<Option<[u16; 2]>, Failure> {
    if args.no_stun {
        return Ok(None);
    }
    match args.stun {
        Some(ports) => Ok(Some(ports)),
        None if args.port == 0 => Ok(Some([0, 0])),
        None => {
            let next = |n| args.port.checked_add(n);
            next(1).zip(next(2)).map_or_else(
                || {
                    Err(
                        Failure::new(Code::Usage, "no ports after --port are left for STUN")
                            .hint("choose two with --stun"),
                    )
                },
                |(one, two)| Ok(Some([one, two])),
            )
        }
    }
}

/// What the options say about it.
pub(super) fn limits(args: &RelayRunArgs) -> RelayLimits {
    let limits = &args.limits;
    RelayLimits {
        circuits: limits.circuits,
        circuits_per_peer: limits.circuits_per_party,
        reservations: limits.reservations,
        connections_per_address: limits.connections_per_address,
        // Within 30 days by its parser.
        circuit_seconds: u32::try_from(limits.duration.as_secs()).unwrap_or(u32::MAX),
        circuit_bytes: limits.circuit_bytes,
        circuit_bits_per_second: limits.circuit_rate,
        total_bits_per_second: limits.rate,
    }
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        let on = |kind| {
            signal(kind).map_err(|e| Failure::new(Code::Internal, format!("no signals: {e}")))
        };
        Ok(Self {
            interrupt: on(SignalKind::interrupt())?,
            terminate: on(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}
