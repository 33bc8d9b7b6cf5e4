//! `quorate relay`: what can be written.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args as ClapArgs, Subcommand};
use quorate_node::{overlay::RelayLimits, relay::DEFAULT_UNIT_PATH};

use crate::text::parse_duration;

const EXAMPLES: &str = "\
Examples:
  quorate relay run                                          on this machine, port 4001
  quorate relay run --external 203.0.113.7 --listen 443      behind a cloud's NAT, also on TCP 443
  quorate relay check /ip4/203.0.113.7/tcp/4001/p2p/12D3…    as users will meet it";

#[derive(Debug, ClapArgs)]
#[command(before_help = EXAMPLES)]
pub struct RelayArgs {
    #[command(subcommand)]
    pub action: RelayAction,
}

#[derive(Debug, Subcommand)]
pub enum RelayAction {
    /// Carry sessions of others, until SIGTERM or Ctrl-C.
    Run(Box<RelayRunArgs>),
    /// Look at a relay from outside: ports, clock, limits, a circuit through it.
    Check {
        /// Its address, `/ip4/…/tcp/…/p2p/…` or `/dns4/NAME/tcp/…/p2p/…`.
        #[arg(value_name = "ADDR")]
        address: String,
    },
    /// Print the systemd unit that runs a relay, or write it.
    InstallService {
        /// Write it to this file instead; without FILE, where systemd looks for it.
        #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = DEFAULT_UNIT_PATH)]
        write: Option<PathBuf>,
        /// Arguments of `quorate relay run`.
        #[arg(last = true, value_name = "RUN OPTIONS")]
        run: Vec<String>,
    },
}

#[derive(Debug, ClapArgs)]
pub struct RelayRunArgs {
    /// Port for TCP and QUIC, on all addresses.
    #[arg(
        long,
        default_value_t = 4001,
        value_name = "PORT",
        help_heading = "Addresses"
    )]
    pub port: u16,
    /// Listen there too: a TCP port such as 443, or `/ip4/…/tcp/…`; may be given more than once.
    #[arg(long, value_name = "PORT|ADDR", help_heading = "Addresses")]
    pub listen: Vec<String>,
    /// Listen at the addresses of --listen only.
    #[arg(long, requires = "listen", help_heading = "Addresses")]
    pub only: bool,
    /// What others reach it at: an IP address or `/ip4/…/tcp/…`; those of this machine without it.
    #[arg(long, value_name = "IP|ADDR", help_heading = "Addresses")]
    pub external: Vec<String>,
    /// Two UDP ports that answer STUN; the two after --port without it.
    #[arg(long, value_name = "PORT,PORT", value_parser = two_ports, conflicts_with = "no_stun", help_heading = "Addresses")]
    pub stun: Option<[u16; 2]>,
    /// Answer no STUN; fewer pairs of parties become direct.
    #[arg(long, help_heading = "Addresses")]
    pub no_stun: bool,
    /// Loopback address of `/metrics` and `/healthz`.
    #[arg(
        long,
        default_value = "127.0.0.1:9411",
        value_name = "IP:PORT",
        help_heading = "Addresses"
    )]
    pub metrics: SocketAddr,
    /// No metrics.
    #[arg(long, help_heading = "Addresses")]
    pub no_metrics: bool,
    /// What users see beside its address.
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Serve only whoever proves one of these DIDs: a DID, or a file with one a line; may be given more than once.
    /// Users show theirs with --relay-pass.
    #[arg(long, value_name = "DID|FILE")]
    pub allow: Vec<String>,
    /// How long circuits may take to end after SIGTERM.
    #[arg(long, default_value = "30s", value_name = "TIME", value_parser = parse_duration)]
    pub drain: Duration,
    #[command(flatten)]
    pub limits: LimitArgs,
}

#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "Limits")]
pub struct LimitArgs {
    /// Circuits at a time; a session needs one for each pair that cannot be direct.
    #[arg(long, default_value_t = RelayLimits::default().circuits, value_name = "N", value_parser = positive())]
    pub circuits: u32,
    /// Circuits of one party at a time.
    #[arg(long, default_value_t = RelayLimits::default().circuits_per_peer, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub circuits_per_party: u32,
    /// Parties that can be reached through it at a time.
    #[arg(long, default_value_t = RelayLimits::default().reservations, value_name = "N", value_parser = positive())]
    pub reservations: u32,
    /// Connections from one address; an IPv6 network of 64 bits counts as one.
    #[arg(long, default_value_t = RelayLimits::default().connections_per_address, value_name = "N", value_parser = positive())]
    pub connections_per_address: u32,
    /// How long a circuit lasts, 30 days at most.
    #[arg(long, default_value = "24h", value_name = "TIME", value_parser = circuit_duration)]
    pub duration: Duration,
    /// Bytes of a circuit, such as 10GB; 0: no limit.
    #[arg(long, default_value = "0", value_name = "BYTES", value_parser = amount)]
    pub circuit_bytes: u64,
    /// Bits per second of one direction of a circuit, such as 50M; 0: no limit.
    #[arg(long, default_value = "50M", value_name = "BITS", value_parser = amount)]
    pub circuit_rate: u64,
    /// Bits per second of all circuits together, such as 1G; 0: no limit.
    #[arg(long, default_value = "0", value_name = "BITS", value_parser = amount)]
    pub rate: u64,
}

/// Longest time of one circuit, in seconds.
const MAX_DURATION_SECONDS: u64 = 30 * 24 * 3600;
/// Numbers in an announcement stay below 2^53; this is far below, and far above any use.
const MAX_AMOUNT: u64 = 1_000_000_000_000_000;

fn positive() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=1_000_000)
}

fn circuit_duration(text: &str) -> Result<Duration, String> {
    let duration = parse_duration(text)?;
    if duration.as_secs() > MAX_DURATION_SECONDS {
        return Err("a circuit lasts 30 days at most".into());
    }
    Ok(duration)
}

/// `4002,4003`; `0,0` lets the system choose.
fn two_ports(text: &str) -> Result<[u16; 2], String> {
    let wrong = || format!("{text:?} is not two different ports such as 4002,4003");
    let (one, two) = text.split_once(',').ok_or_else(wrong)?;
    let port = |text: &str| text.parse::<u16>().map_err(|_| wrong());
    match (port(one)?, port(two)?) {
        (one, two) if one == two && one != 0 => Err(wrong()),
        (one, two) => Ok([one, two]),
    }
}

/// `0`, `131072`, `50M`, `10GB`, in powers of ten.
fn amount(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is not an amount such as 0, 50M or 10G");
    let short = text.strip_suffix('B').unwrap_or(text);
    let (digits, factor) = match short.chars().last() {
        Some('k') => (&short[..short.len() - 1], 1_000),
        Some('M') => (&short[..short.len() - 1], 1_000_000),
        Some('G') => (&short[..short.len() - 1], 1_000_000_000),
        Some('T') => (&short[..short.len() - 1], 1_000_000_000_000),
        _ => (short, 1),
    };
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    let amount = number.checked_mul(factor).ok_or_else(wrong)?;
    if amount > MAX_AMOUNT {
        return Err(format!("{text} is more than 1000T"));
    }
    Ok(amount)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_read() {
        assert_eq!(amount("0"), Ok(0));
        assert_eq!(amount("131072"), Ok(131_072));
        assert_eq!(amount("50M"), Ok(50_000_000));
        assert_eq!(amount("10GB"), Ok(10_000_000_000));
        for text in ["", "M", "B", "-1", "1.5G", "1m", "99999999999T", "é"] {
            assert!(amount(text).is_err(), "{text}");
        }
        assert_eq!(two_ports("4002,4003"), Ok([4002, 4003]));
        for text in ["", "4002", "4002,4002", "1,2,3", "a,b", "1,70000"] {
            assert!(two_ports(text).is_err(), "{text}");
        }
        assert!(circuit_duration("31d").is_err() && circuit_duration("24h").is_ok());
    }
}
