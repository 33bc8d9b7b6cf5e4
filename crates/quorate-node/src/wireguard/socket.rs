//! The one UDP socket of a mesh: segmentation offload on both ways, and the own address a packet
//! came to or goes from.
//!
//! In a local session it is bound to 127.0.0.1 and unreachable from elsewhere; otherwise to all
//! addresses of both families, or to IPv4 alone on machines without IPv6. Where the kernel has no
//! offload, `quinn-udp` says so and packets go one by one.

use super::{
    limits::{MAX_SEND_BYTES, SOCKET_BUFFER},
    table::Route,
};
use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use quorate_path::Scope;
use socket2::{MsgHdr, SockRef};
use std::{
    io::{self, IoSlice, IoSliceMut},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
};
use tokio::{io::Interest, net::UdpSocket, sync::oneshot};

/// Bytes one received run of datagrams may have.
const RUN: usize = 65_536;

// Numbers of Linux: `linux/in.h`.
const IPPROTO_IP: i32 = 0;
const IP_TTL: i32 = 2;
const IP_PKTINFO: i32 = 8;
/// Bytes of `struct cmsghdr`: a length and two numbers.
const CONTROL_HEADER: usize = size_of::<usize>() + 8;

/// Room for one batch of received runs.
#[derive(Debug)]
pub(super) struct ReceiveBuffer {
    bytes: Vec<u8>,
    meta: [RecvMeta; BATCH_SIZE],
}

impl Default for ReceiveBuffer {
    fn default() -> Self {
        Self {
            bytes: vec![0; RUN * BATCH_SIZE],
            meta: [RecvMeta::default(); BATCH_SIZE],
        }
    }
}

/// Datagrams of one source that came in together.
#[derive(Debug)]
pub(super) struct Run<'a> {
    pub(super) source: SocketAddr,
    pub(super) destination: Option<IpAddr>,
    bytes: &'a [u8],
    stride: usize,
}

impl<'a> Run<'a> {
    pub(super) fn datagrams(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        // An empty datagram has stride zero, and `chunks` does not take that.
        self.bytes.chunks(self.stride.max(1))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

/// The socket.
#[derive(Debug)]
pub(super) struct MeshSocket {
    io: UdpSocket,
    state: UdpSocketState,
    port: u16,
    ipv6: bool,
    /// Dropped with the socket, after its last user: that is how `stop` knows.
    _closing: oneshot::Sender<()>,
}

impl MeshSocket {
    /// Opens the socket on a port the system chooses.
    pub(super) fn bind(scope: Scope, closing: oneshot::Sender<()>) -> io::Result<Self> {
        let socket = match scope {
            Scope::Local => open(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?,
            Scope::Lan => open(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)))
                .or_else(|_| open(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))))?,
        };
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        // What the system does not grant it does not grant; the rest is flow control.
        let _ = state.set_send_buffer_size(UdpSockRef::from(&socket), SOCKET_BUFFER);
        let _ = state.set_recv_buffer_size(UdpSockRef::from(&socket), SOCKET_BUFFER);
        let address = socket.local_addr()?;
        Ok(Self {
            io: UdpSocket::from_std(socket)?,
            state,
            port: address.port(),
            ipv6: address.is_ipv6(),
            _closing: closing,
        })
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn has_ipv6(&self) -> bool {
        self.ipv6
    }

    /// How many datagrams of `length` bytes one call of [`MeshSocket::send`] takes.
    pub(super) fn max_run(&self, length: usize) -> usize {
        let by_bytes = MAX_SEND_BYTES / length.max(1);
        self.state.max_gso_segments().min(by_bytes).max(1)
    }

    /// Sends one datagram, or a run of datagrams of `segment` bytes each (the last may be
    /// shorter). Waits for room in the socket.
    pub(super) async fn send(
        &self,
        route: Route,
        contents: &[u8],
        segment: Option<usize>,
    ) -> io::Result<()> {
        let result = self.transmit(route, contents, segment).await;
        match (result, segment) {
            // The device below cannot segment after all; quinn-udp has noted it.
            (Err(_), Some(segment)) if self.max_run(segment) == 1 => {
                for datagram in contents.chunks(segment.max(1)) {
                    self.transmit(route, datagram, None).await?;
                }
                Ok(())
            }
            (result, _) => result,
        }
    }

    async fn transmit(
        &self,
        route: Route,
        contents: &[u8],
        segment: Option<usize>,
    ) -> io::Result<()> {
        let transmit = Transmit {
            destination: self.native(route.remote),
            ecn: None,
            contents,
            segment_size: segment,
            src_ip: (!route.local.is_unspecified()).then_some(route.local),
        };
        let attempt = || self.state.try_send(UdpSockRef::from(&self.io), &transmit);
        self.io.async_io(Interest::WRITABLE, attempt).await
    }

    /// Sends one datagram over IPv4 that at most `hops` routers pass on. Whatever else goes out at the same time has as
    /// many as usual: the number belongs to the datagram, not to the socket.
    pub(super) fn send_near(&self, route: Route, contents: &[u8], hops: u8) -> io::Result<()> {
        let (IpAddr::V4(local), SocketAddr::V4(_)) = (route.local, route.remote) else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        let control = near(local, hops);
        let destination = self.native(route.remote).into();
        let contents = [IoSlice::new(contents)];
        let message = MsgHdr::new()
            .with_addr(&destination)
            .with_buffers(&contents)
            .with_control(&control);
        SockRef::from(&self.io).sendmsg(&message, 0).map(drop)
    }

    /// A socket of both families wants IPv4 addresses in their IPv6 form.
    fn native(&self, address: SocketAddr) -> SocketAddr {
        match address {
            SocketAddr::V4(v4) if self.ipv6 => {
                SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0).into()
            }
            address => address,
        }
    }

    /// Receives at least one run, and as many as are there.
    pub(super) async fn receive<'a>(
        &self,
        buffer: &'a mut ReceiveBuffer,
    ) -> io::Result<impl Iterator<Item = Run<'a>> + use<'a>> {
        let ReceiveBuffer { bytes, meta } = buffer;
        let count = self
            .io
            .async_io(Interest::READABLE, || {
                let mut slices: [IoSliceMut<'_>; BATCH_SIZE] = {
                    let mut runs = bytes.chunks_mut(RUN);
                    std::array::from_fn(|_| IoSliceMut::new(runs.next().unwrap_or_default()))
                };
                self.state
                    .recv(UdpSockRef::from(&self.io), &mut slices, meta)
            })
            .await?;
        let runs = bytes.chunks(RUN).zip(meta.iter()).take(count);
        Ok(runs.map(|(bytes, meta)| Run {
            source: canonical(meta.addr),
            destination: meta.dst_ip.map(|ip| ip.to_canonical()),
            bytes: &bytes[..meta.len.min(RUN)],
            stride: meta.stride,
        }))
    }
}

fn open(address: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::DGRAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Two control messages of `sendmsg` (ip(7)): the own address, and the hops of this datagram.
fn near(local: Ipv4Addr, hops: u8) -> Vec<u8> {
    let mut all = Vec::with_capacity(56);
    let mut message = |kind: i32, data: &[u8]| {
        // `struct cmsghdr`: its length with data, level, kind; the next one begins at a whole word.
        all.extend((CONTROL_HEADER + data.len()).to_ne_bytes());
        all.extend(IPPROTO_IP.to_ne_bytes());
        all.extend(kind.to_ne_bytes());
        all.extend(data);
        all.resize(all.len().next_multiple_of(size_of::<usize>()), 0);
    };
    // `struct in_pktinfo`: interface, own address, an address that counts on arrival only.
    let own = [[0; 4], local.octets(), [0; 4]].concat();
    message(IP_PKTINFO, &own);
    message(IP_TTL, &i32::from(hops).to_ne_bytes());
    all
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    async fn pair(
        from: Scope,
        to: Scope,
        ip: IpAddr,
    ) -> (Vec<Vec<u8>>, Option<IpAddr>, SocketAddr) {
        let (a, b) = (oneshot::channel().0, oneshot::channel().0);
        let sender = MeshSocket::bind(from, a).unwrap();
        let receiver = MeshSocket::bind(to, b).unwrap();
        let route = Route {
            local: ip,
            remote: SocketAddr::new(ip, receiver.port()),
        };
        // Five datagrams of 1000 bytes and a shorter one, as one run.
        let contents: Vec<u8> = (0..5_100_u32)
            .map(|i| u8::try_from(i / 1000).unwrap())
            .collect();
        assert!(sender.max_run(1000) >= 1);
        if sender.max_run(1000) >= 6 {
            sender.send(route, &contents, Some(1000)).await.unwrap();
        } else {
            for datagram in contents.chunks(1000) {
                sender.send(route, datagram, None).await.unwrap();
            }
        }
        let mut buffer = ReceiveBuffer::default();
        let mut got = Vec::new();
        let mut seen = None;
        while got.len() < 6 {
            for run in receiver.receive(&mut buffer).await.unwrap() {
                seen = Some((run.destination, run.source));
                got.extend(run.datagrams().map(<[u8]>::to_vec));
            }
        }
        let (destination, source) = seen.unwrap();
        assert_eq!(source.port(), sender.port());
        (got, destination, source)
    }

    #[tokio::test]
    async fn a_run_arrives_as_the_datagrams_it_was_made_of() {
        let ip = IpAddr::from(Ipv4Addr::LOCALHOST);
        let (got, destination, source) = pair(Scope::Local, Scope::Local, ip).await;
        let lengths: Vec<usize> = got.iter().map(Vec::len).collect();
        assert_eq!(lengths, [1000, 1000, 1000, 1000, 1000, 100]);
        assert!(got.iter().zip(0..).all(|(d, i)| d.iter().all(|b| *b == i)));
        assert_eq!((destination, source.ip()), (Some(ip), ip));
    }

    #[tokio::test]
    async fn a_socket_of_both_families_speaks_plain_ipv4() {
        let ip = IpAddr::from(Ipv4Addr::LOCALHOST);
        let (got, destination, source) = pair(Scope::Lan, Scope::Lan, ip).await;
        assert_eq!(got.len(), 6);
        assert_eq!((destination, source.ip()), (Some(ip), ip));
    }

    #[tokio::test]
    async fn the_system_takes_the_hops_and_the_own_address_of_a_datagram() {
        for scope in [Scope::Local, Scope::Lan] {
            let sender = MeshSocket::bind(scope, oneshot::channel().0).unwrap();
            let receiver = MeshSocket::bind(Scope::Local, oneshot::channel().0).unwrap();
            let route = |local: [u8; 4]| Route {
                local: local.into(),
                remote: SocketAddr::from((Ipv4Addr::LOCALHOST, receiver.port())),
            };
            let here = route([127, 0, 0, 1]);
            // What the system refuses it has read.
            assert!(sender.send_near(here, b"none", 0).is_err());
            assert!(
                sender
                    .send_near(route([192, 0, 2, 1]), b"not ours", 4)
                    .is_err()
            );
            sender.send_near(here, b"near", 4).unwrap();
            let mut buffer = ReceiveBuffer::default();
            let mut runs = receiver.receive(&mut buffer).await.unwrap();
            let run = runs.next().unwrap();
            assert_eq!(run.datagrams().collect::<Vec<_>>(), [b"near"]);
            assert_eq!(run.source.port(), sender.port());
        }
    }

    #[tokio::test]
    async fn an_empty_datagram_is_harmless() {
        let receiver = MeshSocket::bind(Scope::Local, oneshot::channel().0).unwrap();
        let other = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        other.send_to(&[], ("127.0.0.1", receiver.port())).unwrap();
        let mut buffer = ReceiveBuffer::default();
        let runs: Vec<_> = receiver.receive(&mut buffer).await.unwrap().collect();
        assert!(runs[0].is_empty());
        assert_eq!(runs[0].datagrams().count(), 0);
    }
}
