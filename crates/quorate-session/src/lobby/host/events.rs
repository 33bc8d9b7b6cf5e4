//! What the inviter is told, and how applications are named.

use crate::{message::Card, words::ADMISSION_WORDS};
use quorate_identity::{Did, Rejection, Verified};
use std::fmt;

/// An application, named by the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ApplicantId(pub u32);

impl fmt::Display for ApplicantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What the inviter is told.
#[derive(Clone, Debug)]
pub enum HostEvent {
    /// Somebody asks for a seat: admit or refuse.
    Applied {
        /// Names the application.
        id: ApplicantId,
        /// The DID that was proven.
        did: Did,
        /// What it calls itself; anybody can call itself anything.
        name: String,
        /// The applicant sees the same ones.
        words: [&'static str; ADMISSION_WORDS],
        /// Its card, if it sent one.
        card: Option<Box<Verified<Card>>>,
    },
    /// An applicant is gone; its seat, if it had one, is free.
    Left {
        /// Which.
        id: ApplicantId,
        /// Its DID.
        did: Did,
    },
    /// It has a seat.
    Admitted {
        /// Which.
        id: ApplicantId,
        /// How many were admitted before.
        place: u16,
    },
    /// All seats are taken: build the closed invitation, sign it, and call [`Host::seal`](super::Host::seal).
    Full,
    /// It holds the closed invitation.
    Delivered {
        /// Which.
        id: ApplicantId,
        /// Its DID.
        did: Did,
    },
    /// All hold it.
    AllDelivered,
    /// Something was refused; the lobby goes on.
    Refused(Rejection),
    /// Nobody can apply any more.
    Closed(Rejection),
}

/// The caller did something out of order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misuse {
    /// No such application is there (any more).
    #[error("there is no such application any more")]
    Unknown,
    /// All seats are taken.
    #[error("all seats are taken")]
    Full,
    /// The lobby was sealed or closed.
    #[error("the lobby is closed")]
    Closed,
}
