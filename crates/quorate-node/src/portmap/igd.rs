//! UPnP: finding the router's port forwarding service, and using it.
//!
//! ```text
//!   M-SEARCH to the router and to 239.255.255.250:1900 ─► its answer: LOCATION of a description
//!   GET description ─► control address of the service WANIPConnection or WANPPPConnection
//!   POST GetExternalIPAddress, AddPortMapping, DeletePortMapping
//! ```
//! **Why not a library.** Those that are kept follow any address that an answer names, wherever it points, read as much
//! as is sent, and build a tree of it by recursion. Three requests with fixed texts and a reader that looks for single
//! elements need less than guarding against that.
//!
//! **Security.** Only answers of the default router count, only descriptions and control addresses at its own IP are
//! used, and all texts are bounded ([`MAX_ANSWERS`], [`SEARCH_WAIT`], `http`). Anybody on the local network can forge the
//! router's datagrams; that leads to requests to the router, at a path of the forger's choice. The external address is
//! the router's word; who uses it compares it with what others see.
//!
//! Source: UPnP Device Architecture 1.1, sections 1.3 and 3; WANIPConnection:1.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use tokio::{
    net::UdpSocket,
    time::{Instant, timeout_at},
};

use super::{LEASE, Obstacle, Transport, Way, Wish, http};

/// Where routers listen for searches.
const SEARCH_PORT: u16 = 1900;
/// The group they listen in.
const SEARCH_GROUP: Ipv4Addr = Ipv4Addr::new(239, 255, 255, 250);
/// How long an answer to a search is waited for.
pub const SEARCH_WAIT: Duration = Duration::from_secs(2);
/// Datagrams looked at in one search.
pub const MAX_ANSWERS: usize = 32;
/// Bytes of one that are looked at.
const MAX_DATAGRAM: usize = 2048;
/// Characters of a path at the router.
const MAX_PATH: usize = 512;
/// Other outside ports that are tried when the first is taken.
const OTHER_PORTS: usize = 3;
/// The services that forward ports, best first.
const SERVICES: [&str; 3] = [
    "urn:schemas-upnp-org:service:WANIPConnection:2",
    "urn:schemas-upnp-org:service:WANIPConnection:1",
    "urn:schemas-upnp-org:service:WANPPPConnection:1",
];
/// The error of a port that somebody else has.
const CONFLICT: &str = "718";
/// The error of a router that forwards for ever only.
const FOR_EVER_ONLY: &str = "725";

/// The forwarding service of a router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Service {
    server: SocketAddrV4,
    path: String,
    kind: &'static str,
}

/// A place at the router.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    server: SocketAddrV4,
    path: String,
}

/// Looks for the service of this router. Changes nothing there.
pub(super) async fn find(way: Way) -> Option<Service> {
    let place = search(way).await?;
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
        place.path, place.server
    );
    let answer = http::ask(place.server, &request).await?;
    (answer.status == 200).then_some(())?;
    service(&answer.body, place.server)
}

async fn search(way: Way) -> Option<Place> {
    let socket = UdpSocket::bind((way.own, 0)).await.ok()?;
    // To the network of the router, whatever other networks this machine is in.
    let _ = socket2::SockRef::from(&socket).set_multicast_if_v4(&way.own);
    for to in [way.gateway, SEARCH_GROUP] {
        let text = format!(
            "M-SEARCH * HTTP/1.1\r\nHOST: {SEARCH_GROUP}:{SEARCH_PORT}\r\nMAN: \"ssdp:discover\"\r\nMX: 1\r\nST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n\r\n"
        );
        let _ = socket.send_to(text.as_bytes(), (to, SEARCH_PORT)).await;
    }
    let deadline = Instant::now() + SEARCH_WAIT;
    let mut bytes = [0; MAX_DATAGRAM];
    for _ in 0..MAX_ANSWERS {
        let Ok((count, from)) = timeout_at(deadline, socket.recv_from(&mut bytes))
            .await
            .ok()?
        else {
            // Nobody listens at that port: somebody may in the group.
            continue;
        };
        if from.ip() == IpAddr::V4(way.gateway)
            && let Some(place) = location(&bytes[..count], way.gateway)
        {
            return Some(place);
        }
    }
    None
}

/// The place of the description, if the answer names one at the router itself.
fn location(bytes: &[u8], gateway: Ipv4Addr) -> Option<Place> {
    let text = std::str::from_utf8(bytes).ok()?;
    let mut lines = text.lines();
    let first = lines.next()?;
    (first.starts_with("HTTP/1.") && first.contains(" 200")).then_some(())?;
    let named = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.trim()
            .eq_ignore_ascii_case("location")
            .then_some(value.trim())
    })?;
    let place = absolute(named)?;
    (*place.server.ip() == gateway).then_some(place)
}

/// A place written as `http://IP[:PORT]/PATH`.
fn absolute(text: &str) -> Option<Place> {
    let rest = text.strip_prefix("http://")?;
    let (host, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, "/"),
    };
    let (ip, port) = match host.split_once(':') {
        Some((ip, port)) => (ip, port.parse().ok().filter(|p| *p != 0)?),
        None => (host, 80),
    };
    let server = SocketAddrV4::new(ip.parse().ok()?, port);
    plain(path).then(|| Place {
        server,
        path: path.into(),
    })
}

/// Whether it can stand in a request as it is.
fn plain(path: &str) -> bool {
    path.starts_with('/') && path.len() <= MAX_PATH && path.bytes().all(|b| b.is_ascii_graphic())
}

/// The best service that the description names.
fn service(description: &str, server: SocketAddrV4) -> Option<Service> {
    let mut best: Option<(usize, Service)> = None;
    let mut rest = description;
    while let Some((block, after)) = element(rest, "service") {
        rest = after;
        let kind = element(block, "serviceType").map_or("", |(text, _)| text.trim());
        let Some(rank) = SERVICES.iter().position(|known| *known == kind) else {
            continue;
        };
        let named = element(block, "controlURL").map_or("", |(text, _)| text.trim());
        let named = named.replace("&amp;", "&");
        let place = if named.starts_with("http://") {
            absolute(&named).filter(|place| place.server.ip() == server.ip())
        } else {
            let path = if named.starts_with('/') {
                named
            } else {
                format!("/{named}")
            };
            plain(&path).then_some(Place { server, path })
        };
        if let Some(Place { server, path }) = place
            && best.as_ref().is_none_or(|(other, _)| rank < *other)
        {
            let kind = SERVICES[rank];
            best = Some((rank, Service { server, path, kind }));
        }
    }
    best.map(|(_, service)| service)
}

/// What is inside of the first element of this name, and what comes after it.
fn element<'a>(text: &'a str, name: &str) -> Option<(&'a str, &'a str)> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let (_, after) = text.split_once(&open)?;
    after.split_once(&close)
}

impl Service {
    /// Asks for the port, the same one outside if that is free. Gives the outside address and port.
    pub(super) async fn add(
        &self,
        way: Way,
        wish: Wish,
        kept: Option<u16>,
    ) -> Result<SocketAddrV4, Obstacle> {
        let said = self.call("GetExternalIPAddress", "").await?;
        let ip = element(&said, "NewExternalIPAddress").and_then(|(ip, _)| ip.trim().parse().ok());
        let Some(ip) = ip else {
            return Err(Obstacle::Garbled);
        };
        let mut port = kept.unwrap_or(wish.port.get());
        for _ in 0..=OTHER_PORTS {
            match self
                .call("AddPortMapping", &addition(way, wish, port))
                .await
            {
                Ok(_) => return Ok(SocketAddrV4::new(ip, port)),
                Err(Obstacle::PortTaken) => {
                    let random = getrandom::u32().map_err(|_| Obstacle::Refused)?;
                    port = 32_768 + u16::try_from(random % 28_000).unwrap_or_default();
                }
                Err(other) => return Err(other),
            }
        }
        Err(Obstacle::PortTaken)
    }

    /// Gives the port back.
    pub(super) async fn remove(&self, transport: Transport, port: u16) -> Result<(), Obstacle> {
        let arguments = format!(
            "<NewRemoteHost></NewRemoteHost><NewExternalPort>{port}</NewExternalPort><NewProtocol>{}</NewProtocol>",
            word(transport)
        );
        self.call("DeletePortMapping", &arguments).await.map(drop)
    }

    async fn call(&self, action: &str, arguments: &str) -> Result<String, Obstacle> {
        let kind = self.kind;
        let body = format!(
            "<?xml version=\"1.0\"?>\r\n<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\" s:encodingStyle=\"http://schemas.xmlsoap.org/soap/encoding/\"><s:Body><u:{action} xmlns:u=\"{kind}\">{arguments}</u:{action}></s:Body></s:Envelope>\r\n"
        );
        let request = format!(
            "POST {} HTTP/1.1\r\nHost: {}\r\nContent-Type: text/xml; charset=\"utf-8\"\r\nSOAPAction: \"{kind}#{action}\"\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            self.path,
            self.server,
            body.len()
        );
        let Some(answer) = http::ask(self.server, &request).await else {
            return Err(Obstacle::Garbled);
        };
        if answer.status == 200 {
            return Ok(answer.body);
        }
        let code = element(&answer.body, "errorCode").map_or("", |(code, _)| code.trim());
        Err(match code {
            CONFLICT => Obstacle::PortTaken,
            FOR_EVER_ONLY => Obstacle::ForEverOnly,
            _ => Obstacle::Refused,
        })
    }
}

fn word(transport: Transport) -> &'static str {
    match transport {
        Transport::Udp => "UDP",
        Transport::Tcp => "TCP",
    }
}

fn addition(way: Way, wish: Wish, outside: u16) -> String {
    format!(
        "<NewRemoteHost></NewRemoteHost><NewExternalPort>{outside}</NewExternalPort><NewProtocol>{}</NewProtocol><NewInternalPort>{}</NewInternalPort><NewInternalClient>{}</NewInternalClient><NewEnabled>1</NewEnabled><NewPortMappingDescription>quorate</NewPortMappingDescription><NewLeaseDuration>{}</NewLeaseDuration>",
        word(wish.transport),
        wish.port,
        way.own,
        LEASE.as_secs()
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);

    #[test]
    fn only_descriptions_at_the_router_itself_are_read() {
        let answer = |at: &str| format!("HTTP/1.1 200 OK\r\nST: x\r\nLocation: {at}\r\n\r\n");
        let place = location(
            answer("http://192.168.1.1:5000/root.xml").as_bytes(),
            ROUTER,
        )
        .unwrap();
        assert_eq!(
            (place.server.port(), place.path.as_str()),
            (5000, "/root.xml")
        );
        let place = location(answer("http://192.168.1.1").as_bytes(), ROUTER).unwrap();
        assert_eq!((place.server.port(), place.path.as_str()), (80, "/"));
        for elsewhere in [
            "http://203.0.113.7:80/victim",
            "http://192.168.1.1:80@203.0.113.7/",
            "https://192.168.1.1/",
            "http://router.lan/",
            "http://192.168.1.1:0/",
            "http://192.168.1.1/a b",
            "http://192.168.1.1/\u{1}",
            "//192.168.1.1/",
            "",
        ] {
            let answer = answer(elsewhere);
            assert_eq!(location(answer.as_bytes(), ROUTER), None, "{elsewhere}");
        }
        for no_answer in [
            &b"NOTIFY * HTTP/1.1\r\nLocation: http://192.168.1.1/\r\n\r\n"[..],
            b"HTTP/1.1 404 no\r\nLocation: http://192.168.1.1/\r\n\r\n",
            b"\xff\xfe",
            b"",
        ] {
            assert_eq!(location(no_answer, ROUTER), None);
        }
        let long = answer(&format!("http://192.168.1.1/{}", "a".repeat(MAX_PATH)));
        assert_eq!(location(long.as_bytes(), ROUTER), None);
    }

    #[test]
    fn the_best_service_of_a_description_is_used_at_the_router_only() {
        let server = SocketAddrV4::new(ROUTER, 5000);
        let one = |kind: &str, url: &str| {
            format!(
                "<service><serviceType>{kind}</serviceType><controlURL>{url}</controlURL></service>"
            )
        };
        let text = format!(
            "<root><device>{}{}<deviceList>{}{}</deviceList></device></root>",
            one("urn:schemas-upnp-org:service:Layer3Forwarding:1", "/l3"),
            one(SERVICES[2], "/ppp"),
            one(SERVICES[1], " ctl/IPConn?a=1&amp;b=2 "),
            one(SERVICES[0], "http://203.0.113.7/steal"),
        );
        let found = service(&text, server).unwrap();
        assert_eq!(
            (found.path.as_str(), found.kind),
            ("/ctl/IPConn?a=1&b=2", SERVICES[1])
        );
        assert_eq!(found.server, server);
        for text in [
            String::new(),
            "<service>".repeat(20_000),
            one("urn:x", "/a"),
            one(SERVICES[1], "/a b"),
            one(SERVICES[1], "http://203.0.113.7/"),
        ] {
            assert_eq!(service(&text, server), None);
        }
    }
}
