//! The stack's two sides towards WireGuard: packets in, packets out, both bounded.

use super::recovery::Recovery;
use bytes::BytesMut;
use smoltcp::{
    phy::{Checksum, ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken},
    time::Instant,
};
use std::time::Duration;
use tokio::sync::mpsc;

/// The way out. Used alone it is a device that never receives.
#[derive(Debug)]
pub(super) struct Outbound {
    queue: mpsc::Sender<BytesMut>,
    mtu: u16,
    pub(super) recovery: Recovery,
    /// The queue was full when a socket wanted to send.
    blocked: bool,
}

impl Outbound {
    pub(super) fn new(queue: mpsc::Sender<BytesMut>, mtu: u16) -> Self {
        Self {
            queue,
            mtu,
            recovery: Recovery::new(mtu),
            blocked: false,
        }
    }

    /// Whether something waits for room in the queue; forgets it.
    pub(super) fn take_blocked(&mut self) -> bool {
        std::mem::take(&mut self.blocked)
    }

    /// Sends what is to be sent again, as far as the queue has room.
    pub(super) fn repeat_lost(&mut self) {
        while self.recovery.has_packet() {
            if self.queue.capacity() == 0 && !self.queue.is_closed() {
                self.blocked = true;
                return;
            }
            if let Some(packet) = self.recovery.next_packet() {
                let _ = self.queue.try_send(packet);
            }
        }
    }

    fn token(&mut self, now: Instant) -> Option<Outgoing<'_>> {
        if self.queue.capacity() == 0 && !self.queue.is_closed() {
            self.blocked = true;
            return None;
        }
        Some(Outgoing {
            queue: &self.queue,
            recovery: &mut self.recovery,
            now: since_start(now),
            copies: 1,
        })
    }

    fn describe(&self) -> DeviceCapabilities {
        let mut checksum = ChecksumCapabilities::default();
        checksum.tcp = Checksum::Tx;
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = usize::from(self.mtu);
        capabilities.max_burst_size = None;
        capabilities.checksum = checksum;
        capabilities
    }
}

impl Device for Outbound {
    type RxToken<'a> = Incoming<'a>;
    type TxToken<'a> = Outgoing<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Incoming<'_>, Outgoing<'_>)> {
        None
    }

    fn transmit(&mut self, now: Instant) -> Option<Outgoing<'_>> {
        self.token(now)
    }

    fn capabilities(&self) -> DeviceCapabilities {
        self.describe()
    }
}

/// A batch of packets that came in.
#[derive(Debug)]
pub(super) struct Ingress<'a, F> {
    batch: std::vec::Drain<'a, F>,
    current: Option<F>,
}

impl<'a, F: AsRef<[u8]>> Ingress<'a, F> {
    pub(super) fn new(batch: &'a mut Vec<F>) -> Self {
        Self {
            batch: batch.drain(..),
            current: None,
        }
    }
}

/// Packets of a batch, one after the other, without knowing what holds them.
pub(super) trait Packets {
    /// Moves to the next packet. `false`: there is none.
    fn advance(&mut self) -> bool;
    /// The packet moved to.
    fn packet(&self) -> &[u8];
}

impl<F: AsRef<[u8]>> Packets for Ingress<'_, F> {
    fn advance(&mut self) -> bool {
        self.current = self.batch.next();
        self.current.is_some()
    }

    fn packet(&self) -> &[u8] {
        self.current.as_ref().map_or(&[], AsRef::as_ref)
    }
}

/// A device that receives exactly one packet.
#[derive(Debug)]
pub(super) struct Single<'a> {
    pub(super) packet: Option<&'a [u8]>,
    pub(super) out: &'a mut Outbound,
    /// How often the answer to it is sent.
    pub(super) answers: usize,
}

impl Device for Single<'_> {
    type RxToken<'b>
        = Incoming<'b>
    where
        Self: 'b;
    type TxToken<'b>
        = Outgoing<'b>
    where
        Self: 'b;

    fn receive(&mut self, now: Instant) -> Option<(Incoming<'_>, Outgoing<'_>)> {
        let packet = self.packet.take()?;
        // A full queue costs the answer to this packet, not the packet: TCP asks again.
        let out = Outgoing {
            queue: &self.out.queue,
            recovery: &mut self.out.recovery,
            now: since_start(now),
            copies: self.answers,
        };
        Some((Incoming(packet), out))
    }

    fn transmit(&mut self, now: Instant) -> Option<Outgoing<'_>> {
        self.out.token(now)
    }

    fn capabilities(&self) -> DeviceCapabilities {
        self.out.describe()
    }
}

/// One packet for the stack.
pub(super) struct Incoming<'a>(&'a [u8]);

impl RxToken for Incoming<'_> {
    fn consume<R, C: FnOnce(&[u8]) -> R>(self, consume: C) -> R {
        consume(self.0)
    }
}

/// Room for one packet from the stack.
pub(super) struct Outgoing<'a> {
    queue: &'a mpsc::Sender<BytesMut>,
    recovery: &'a mut Recovery,
    now: Duration,
    copies: usize,
}

impl TxToken for Outgoing<'_> {
    fn consume<R, C: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: C) -> R {
        // WireGuard pads to 16 bytes: with the room for it the packet is not moved once more.
        let mut packet = BytesMut::zeroed(length.next_multiple_of(16));
        packet.truncate(length);
        let result = fill(&mut packet);
        if !self.recovery.sent(&packet, self.now) {
            return result;
        }
        for _ in 1..self.copies {
            let _ = self.queue.try_send(packet.clone());
        }
        // Full only for the answer to an incoming packet (see `Single`), closed only at the end.
        let _ = self.queue.try_send(packet);
        result
    }
}

fn since_start(now: Instant) -> Duration {
    Duration::from_micros(u64::try_from(now.total_micros()).unwrap_or(0))
}
