//! Links: frames between two parties, and the handshake that proves who is at the other end.
//!
//! ```text
//! overlay link, both ends do the same at once:
//!   hello{tag = HMAC-SHA256(k, my PeerId 0 your PeerId)}   k is derived from the rendezvous secret
//!     wrong tag ─► refused E_NOT_MEMBER, closed; nothing else was sent
//!   proof{sid, inv, auth}                                  only after a right tag; auth is a signed hello statement
//!     not listed ─► refused E_NOT_MEMBER, closed          other inv under one sid ─► invitation{jws}
//!   invitation{jws}                                        signed by our organizer ─► E_SPLIT, both kept as evidence
//!   proven: have, want, statements, signal, peers
//! tunnel link: proven by WireGuard: ready, ping, pong, have, want, statements
//! ```
//!
//! Limits: [`MAX_FRAME_BYTES`] per frame, a token bucket per link, [`MAX_STRIKES`] refusals, [`HANDSHAKE_TIMEOUT`].
//!
//! Security: requires that the transport authenticated the PeerIds (Noise or TLS) and that frames arrive whole. Provides:
//! nothing about the session leaves before the other end showed the rendezvous secret; no statement, signal or address
//! before it proved a listed DID on this very connection. A leaked bundle therefore shows presence, never membership.

use crate::{
    bundle::RendezvousSecret,
    limits::{
        FRAME_BURST, FRAMES_PER_SECOND, HANDSHAKE_TIMEOUT, MAX_ADDRESS_BYTES, MAX_DIGESTS,
        MAX_FRAME_BYTES, MAX_PARTIES, MAX_PEER_ADDRESSES, MAX_SIGNAL_BYTES, MAX_STALE,
        MAX_STATEMENTS, MAX_STRIKES, MAX_UNPROVEN_FRAME_BYTES, MAX_UNPROVEN_FRAMES,
        MAX_UNTAGGED_FRAMES,
    },
    message::{Pid, is_unprintable},
    peer_id::PeerId,
};
use hmac::{Hmac, Mac};
use quorate_identity::{B64, Code, Did, Digest, MAX_STATEMENT_BYTES, Rejection, base64url, json};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use std::time::{Duration, Instant};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// A connection to one peer, named by the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

/// What kind of connection a link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkKind {
    /// Between two overlay identities that the transport authenticated.
    Overlay {
        /// Our PeerId.
        local: PeerId,
        /// Theirs.
        remote: PeerId,
    },
    /// Inside the mesh of a roster, with the party whose address the tunnel authenticated.
    Tunnel {
        /// The roster whose mesh it runs in.
        roster: Digest,
        /// The party at the other end.
        pid: Pid,
    },
}

/// One message on a link: JSON, at most [`MAX_FRAME_BYTES`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "t", rename_all = "lowercase", deny_unknown_fields)]
pub enum Frame {
    /// Proof of the rendezvous secret.
    Hello {
        /// [`hello_tag`] of sender and receiver.
        tag: B64<32>,
    },
    /// Proof of a DID.
    Proof {
        /// Session id of the sender's invitation.
        sid: B64<32>,
        /// Digest of the sender's invitation.
        inv: Digest,
        /// A signed hello statement.
        auth: String,
    },
    /// The sender's invitation, for an end that holds another one of the same session.
    Invitation {
        /// Compact JWS.
        jws: String,
    },
    /// Statements the sender holds.
    Have {
        /// Their digests.
        digests: Vec<Digest>,
    },
    /// Statements the sender asks for.
    Want {
        /// Their digests.
        digests: Vec<Digest>,
    },
    /// Statements.
    Statements {
        /// Compact JWS.
        jws: Vec<String>,
    },
    /// Connectivity information for the path to the sender, in one roster.
    Signal {
        /// The roster.
        roster: Digest,
        /// Opaque, base64url.
        data: String,
    },
    /// Where the sender and its neighbours can be reached.
    Peers {
        /// Addresses of the sender, multiaddr text.
        own: Vec<String>,
        /// Parties that it has proven links with, at the addresses they gave themselves.
        others: Vec<PeerAt>,
    },
    /// Are you there?
    Ping {
        /// Echoed.
        n: u64,
    },
    /// I am here.
    Pong {
        /// From the ping.
        n: u64,
    },
}

/// Where a peer can be reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerAt {
    /// Who.
    pub peer: PeerId,
    /// Multiaddr text.
    pub addresses: Vec<String>,
}

impl Frame {
    /// Reads one frame.
    pub fn parse(bytes: &[u8]) -> Result<Self, Rejection> {
        if bytes.len() > MAX_FRAME_BYTES {
            return Err(Rejection::new(
                Code::Limit,
                "S5",
                "a frame is larger than 256 KiB",
            ));
        }
        let value = json::parse_strict(bytes)?;
        let frame: Self = serde_json::from_value(value.clone())
            .map_err(|e| Rejection::new(Code::Format, "S5", format!("not a frame: {e}")))?;
        if serde_json::to_value(&frame).ok().as_ref() != Some(&value) {
            let text = "not a frame: not in its one form";
            return Err(Rejection::new(Code::Format, "S5", text));
        }
        frame.check()?;
        Ok(frame)
    }

    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let bytes = serde_json::to_vec(self);
        debug_assert!(
            bytes.is_ok(),
            "a frame holds strings, numbers and lists only"
        );
        bytes.unwrap_or_default()
    }

    fn check(&self) -> Result<(), Rejection> {
        if let Self::Peers { own, others } = self {
            let mut all = own.iter().chain(others.iter().flat_map(|at| &at.addresses));
            if all.any(|address| address.chars().any(is_unprintable)) {
                let text = "not a frame: an address has control or direction characters";
                return Err(Rejection::new(Code::Format, "S5", text));
            }
        }
        let fits = match self {
            Self::Have { digests } | Self::Want { digests } => digests.len() <= MAX_DIGESTS,
            Self::Statements { jws } => {
                jws.len() <= MAX_STATEMENTS
                    && jws.iter().all(|text| text.len() <= MAX_STATEMENT_BYTES)
            }
            Self::Signal { data, .. } => data.len() <= MAX_SIGNAL_BYTES.div_ceil(3) * 4,
            Self::Invitation { jws } => jws.len() <= MAX_STATEMENT_BYTES,
            Self::Proof { auth, .. } => auth.len() <= MAX_STATEMENT_BYTES,
            Self::Peers { own, others } => {
                let fits = |addresses: &[String]| {
                    addresses.len() <= MAX_PEER_ADDRESSES
                        && addresses.iter().all(|a| a.len() <= MAX_ADDRESS_BYTES)
                };
                fits(own)
                    && others.len() <= MAX_PARTIES
                    && others.iter().all(|at| fits(&at.addresses))
            }
            Self::Hello { .. } | Self::Ping { .. } | Self::Pong { .. } => true,
        };
        if fits {
            return Ok(());
        }
        Err(Rejection::new(
            Code::Limit,
            "S5",
            "a frame holds more than its kind may",
        ))
    }

    pub(crate) fn signal(roster: Digest, data: &[u8]) -> Self {
        Self::Signal {
            roster,
            data: base64url::encode(data),
        }
    }
}

/// The proof that `from` knows the rendezvous secret, for `to` only.
pub fn hello_tag(secret: &RendezvousSecret, from: &PeerId, to: &PeerId) -> B64<32> {
    let key = Zeroizing::new(secret.derive("hello"));
    let Ok(mut mac) = <Hmac<Sha256> as Mac>::new_from_slice(&*key) else {
        // HMAC takes keys of any length (RFC 2104); an all-zero tag would match nothing useful.
        return B64([0; 32]);
    };
    mac.update(from.to_string().as_bytes());
    mac.update(&[0]);
    mac.update(to.to_string().as_bytes());
    B64(mac.finalize().into_bytes().into())
}

/// Compares in constant time.
pub(crate) fn same_tag(left: &B64<32>, right: &B64<32>) -> bool {
    left.0.ct_eq(&right.0).into()
}

/// Who is at the other end of a proven link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Proven {
    /// A listed party (possibly ourselves, from another place).
    Party(Pid),
    /// The issuer of the invitation, who is not a party.
    Issuer,
}

/// How far the handshake of an overlay link is.
#[derive(Clone, Debug)]
pub(crate) enum Handshake {
    /// The core was not told to take part yet; nothing is sent.
    Held {
        /// Their tag arrived already, and was right.
        tagged: bool,
    },
    /// Our hello is out; theirs is awaited.
    Hello,
    /// Their tag was right, our proof is out; theirs is awaited.
    Proof,
    /// Their proof waits for the resolution of their DID.
    Resolving { auth: String },
    /// They hold another invitation of this session; it is awaited, signed by the organizer.
    Differs { did: Did, inv: Digest },
    /// Done.
    Proven(Proven),
}

/// One link and what it did so far.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub kind: LinkKind,
    pub handshake: Handshake,
    /// The handshake must be done by then.
    pub deadline: Instant,
    strikes: u32,
    stale: u32,
    /// Frames that came before the link was proven.
    frames: u32,
    tokens: u32,
    refilled: Instant,
}

impl Link {
    pub fn new(kind: LinkKind, handshake: Handshake, now: Instant) -> Self {
        Self {
            kind,
            handshake,
            deadline: now + HANDSHAKE_TIMEOUT,
            strikes: 0,
            stale: 0,
            frames: 0,
            tokens: FRAME_BURST,
            refilled: now,
        }
    }

    pub fn proven(&self) -> Option<&Proven> {
        match &self.handshake {
            Handshake::Proven(who) => Some(who),
            _ => None,
        }
    }

    /// The party at the other end, once proven.
    pub fn pid(&self) -> Option<Pid> {
        match self.proven() {
            Some(Proven::Party(pid)) => Some(*pid),
            _ => None,
        }
    }

    pub fn is_tunnel(&self) -> bool {
        matches!(self.kind, LinkKind::Tunnel { .. })
    }

    pub fn remote_peer(&self) -> Option<PeerId> {
        match self.kind {
            LinkKind::Overlay { remote, .. } => Some(remote),
            LinkKind::Tunnel { .. } => None,
        }
    }

    /// Whether one more frame of this size may be looked at. Until the other end has proven itself it gets little: a handshake
    /// is a few small frames, and one invitation if it holds another one.
    pub fn admit_frame(&mut self, bytes: usize, now: Instant) -> Result<(), Rejection> {
        let overflow = |text: &str| Rejection::new(Code::Overflow, "S5", text);
        if !self.take_token(now) {
            return Err(overflow("sends more frames than the protocol allows"));
        }
        let (size, count) = match &self.handshake {
            Handshake::Proven(_) => return Ok(()),
            Handshake::Held { tagged: false } | Handshake::Hello => {
                (MAX_UNPROVEN_FRAME_BYTES, MAX_UNTAGGED_FRAMES)
            }
            Handshake::Held { tagged: true } | Handshake::Proof | Handshake::Resolving { .. } => {
                (MAX_UNPROVEN_FRAME_BYTES, MAX_UNPROVEN_FRAMES)
            }
            Handshake::Differs { .. } => (
                MAX_UNPROVEN_FRAME_BYTES + MAX_STATEMENT_BYTES,
                MAX_UNPROVEN_FRAMES,
            ),
        };
        self.frames = self.frames.saturating_add(1);
        if self.frames > count {
            return Err(overflow("sends more frames than a handshake needs"));
        }
        if bytes > size {
            return Err(overflow("sends a larger frame than a handshake needs"));
        }
        Ok(())
    }

    /// Takes a token for one frame; false when the other end sends too fast.
    pub fn take_token(&mut self, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.refilled);
        let earned = u32::try_from(elapsed.as_millis() * u128::from(FRAMES_PER_SECOND) / 1000)
            .unwrap_or(u32::MAX);
        if earned > 0 {
            self.tokens = self.tokens.saturating_add(earned).min(FRAME_BURST);
            // Keeps the fraction of a token that was not earned yet.
            let used =
                Duration::from_millis(u64::from(earned) * 1000 / u64::from(FRAMES_PER_SECOND));
            self.refilled = (self.refilled + used).min(now);
        }
        if self.tokens == 0 {
            return false;
        }
        self.tokens -= 1;
        true
    }

    /// Notes an outdated statement of the other end itself; true when there are more than chance explains.
    pub fn note_stale(&mut self) -> bool {
        self.stale = self.stale.saturating_add(1);
        self.stale > MAX_STALE
    }

    /// Notes a refusal; true when it was one too many.
    pub fn strike(&mut self) -> bool {
        self.strikes = self.strikes.saturating_add(1);
        self.strikes >= MAX_STRIKES
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use quorate_identity::SigningKey;

    fn peer(seed: u8) -> PeerId {
        PeerId::of(&SigningKey::from_seed(&[seed; 32]).public())
    }

    #[test]
    fn tag_depends_on_secret_and_direction() {
        let secret = RendezvousSecret::new([1; 32]);
        let tag = hello_tag(&secret, &peer(1), &peer(2));
        assert!(same_tag(&tag, &hello_tag(&secret, &peer(1), &peer(2))));
        assert!(!same_tag(&tag, &hello_tag(&secret, &peer(2), &peer(1))));
        assert!(!same_tag(
            &tag,
            &hello_tag(&RendezvousSecret::new([2; 32]), &peer(1), &peer(2))
        ));
    }

    #[test]
    fn frames_round_trip_and_unknown_members_are_refused() {
        for frame in [
            Frame::Hello { tag: B64([1; 32]) },
            Frame::Have {
                digests: vec![Digest([2; 32])],
            },
            Frame::Ping { n: 7 },
            Frame::signal(Digest([3; 32]), b"candidate"),
        ] {
            assert_eq!(Frame::parse(&frame.encode()).expect("own frame"), frame);
        }
        for bad in [
            &br#"{"t":"ping","n":7,"x":1}"#[..],
            br#"{"t":"ping"}"#,
            br#"{"t":"nonsense"}"#,
            b"",
            b"[]",
        ] {
            assert!(Frame::parse(bad).is_err());
        }
    }

    #[test]
    fn frames_beyond_their_limits_are_refused() {
        let many = Frame::Have {
            digests: vec![Digest([2; 32]); MAX_DIGESTS + 1],
        };
        let long = Frame::Signal {
            roster: Digest([0; 32]),
            data: "A".repeat(MAX_SIGNAL_BYTES * 2),
        };
        for frame in [many, long] {
            assert_eq!(
                Frame::parse(&frame.encode()).expect_err("beyond").code,
                Code::Limit
            );
        }
        assert_eq!(
            Frame::parse(&vec![b' '; MAX_FRAME_BYTES + 1])
                .expect_err("beyond")
                .code,
            Code::Limit
        );
    }

    #[test]
    fn bucket_allows_a_burst_and_then_the_rate() {
        let start = Instant::now();
        let kind = LinkKind::Overlay {
            local: peer(1),
            remote: peer(2),
        };
        let mut link = Link::new(kind, Handshake::Hello, start);
        assert!((0..FRAME_BURST).all(|_| link.take_token(start)));
        assert!(!link.take_token(start));
        let later = start + Duration::from_secs(1);
        assert!((0..FRAMES_PER_SECOND).all(|_| link.take_token(later)));
        assert!(!link.take_token(later));
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Frame::parse(&bytes);
        }
    }
}
