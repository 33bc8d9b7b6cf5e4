//! PCP, and NAT-PMP where the router knows no PCP.
//!
//! ```text
//!   PCP MAP ─► lease            a router of NAT-PMP answers "version 0", an old one not at all
//!      └─ none ─► NAT-PMP: external address ─► map ─► lease
//! ```
//! Limits: [`TIMES`] for each question, so a silent router costs twice 1.75 s. **Security.** The datagrams go to the
//! default router's address from a socket that hears nobody else; PCP answers carry a nonce of 96 random bits, those of
//! NAT-PMP nothing: somebody who can send with the router's address can forge them. What they say is the router's word.
//!
//! Source: RFC 6887, RFC 6886.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddrV4},
    num::NonZeroU16,
    time::Duration,
};

use crab_nat::{
    InternetProtocol, PortMapping, PortMappingOptions, PortMappingType, TimeoutConfig, natpmp, pcp,
};

use super::{LEASE, Method, Obstacle, Transport, Way, Wish};

/// How often a question is asked, and how long an answer is waited for: 0.25, 0.5 and 1 s.
pub const TIMES: TimeoutConfig = TimeoutConfig {
    initial_timeout: Duration::from_millis(250),
    max_retries: 2,
    max_retry_timeout: Some(Duration::from_secs(1)),
};
/// The same for giving a port back, when a session waits for it.
const TIMES_AT_END: TimeoutConfig = TimeoutConfig {
    initial_timeout: Duration::from_millis(250),
    max_retries: 1,
    max_retry_timeout: Some(Duration::from_millis(500)),
};

/// What a router granted.
#[derive(Debug)]
pub(super) struct Granted {
    pub(super) outside: SocketAddrV4,
    pub(super) lasts: Duration,
    pub(super) method: Method,
    pub(super) mapping: PortMapping,
}

/// Asks for a port, or for the one that was granted before once more.
pub(super) async fn ask(
    way: Way,
    wish: Wish,
    before: Option<&PortMapping>,
) -> Result<Granted, Obstacle> {
    match before.map(PortMapping::mapping_type) {
        Some(PortMappingType::NatPmp) => by_nat_pmp(way, wish, before).await,
        Some(PortMappingType::Pcp { .. }) => {
            by_pcp(way, wish, before).await.map_err(|e| obstacle(&e))
        }
        None => match by_pcp(way, wish, None).await {
            Ok(granted) => Ok(granted),
            Err(pcp::Failure::Timeout | pcp::Failure::UnsupportedVersion(_)) => {
                by_nat_pmp(way, wish, None).await
            }
            Err(other) => Err(obstacle(&other)),
        },
    }
}

async fn by_pcp(
    way: Way,
    wish: Wish,
    before: Option<&PortMapping>,
) -> Result<Granted, pcp::Failure> {
    let known = before.map(PortMapping::mapping_type);
    let (nonce, ip) = match known {
        Some(PortMappingType::Pcp {
            nonce, external_ip, ..
        }) => (Some(nonce), Some(external_ip)),
        _ => (None, None),
    };
    let request = pcp::BaseMapRequest::new(
        way.gateway.into(),
        way.own.into(),
        protocol(wish.transport),
        wish.port,
    );
    let mapping = pcp::port_mapping(request, nonce, ip, options(wish, before)).await?;
    let ip = match mapping.mapping_type() {
        PortMappingType::Pcp { external_ip, .. } => external_ip,
        PortMappingType::NatPmp => Ipv4Addr::UNSPECIFIED.into(),
    };
    Ok(granted(mapping, ip, Method::Pcp))
}

async fn by_nat_pmp(
    way: Way,
    wish: Wish,
    before: Option<&PortMapping>,
) -> Result<Granted, Obstacle> {
    let gateway = way.gateway.into();
    let old = |failure| match failure {
        natpmp::Failure::Timeout
        | natpmp::Failure::Socket(_)
        | natpmp::Failure::UnsupportedVersion(_) => Obstacle::NoAnswer,
        natpmp::Failure::InvalidResponse(_) => Obstacle::Garbled,
        _ => Obstacle::Refused,
    };
    let ip = natpmp::external_address(gateway, Some(TIMES))
        .await
        .map_err(old)?;
    let protocol = protocol(wish.transport);
    let mapping = natpmp::port_mapping(gateway, protocol, wish.port, options(wish, before))
        .await
        .map_err(old)?;
    Ok(granted(mapping, ip.into(), Method::NatPmp))
}

/// An address that is none of IPv4 becomes the unspecified one, which nobody takes for public.
fn granted(mapping: PortMapping, ip: IpAddr, method: Method) -> Granted {
    let ip = match ip.to_canonical() {
        IpAddr::V4(ip) => ip,
        IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
    };
    Granted {
        outside: SocketAddrV4::new(ip, mapping.external_port().get()),
        lasts: Duration::from_secs(mapping.lifetime().into()),
        method,
        mapping,
    }
}

fn options(wish: Wish, before: Option<&PortMapping>) -> PortMappingOptions {
    let outside: NonZeroU16 = before.map_or(wish.port, PortMapping::external_port);
    PortMappingOptions {
        external_port: Some(outside),
        lifetime_seconds: u32::try_from(LEASE.as_secs()).ok(),
        timeout_config: Some(TIMES),
    }
}

fn protocol(transport: Transport) -> InternetProtocol {
    match transport {
        Transport::Udp => InternetProtocol::Udp,
        Transport::Tcp => InternetProtocol::Tcp,
    }
}

fn obstacle(failure: &pcp::Failure) -> Obstacle {
    match failure {
        pcp::Failure::Timeout | pcp::Failure::Socket(_) | pcp::Failure::UnsupportedVersion(_) => {
            Obstacle::NoAnswer
        }
        pcp::Failure::InvalidResponse(_) | pcp::Failure::Nonce => Obstacle::Garbled,
        _ => Obstacle::Refused,
    }
}

/// Gives the port back.
pub(super) async fn remove(mut mapping: PortMapping) -> Result<(), Obstacle> {
    mapping.timeout_config = TIMES_AT_END;
    mapping.try_drop().await.map_err(|_| Obstacle::Refused)
}
