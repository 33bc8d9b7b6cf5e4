//! Lobby: where people with a ticket meet the inviter, before there is a session.
//!
//! ```text
//! applicant                                    host (the PeerId in the ticket and in the call)
//!   find{call} ─────────────────────────────►   another call ─► closed
//!   ◄──────────────── call{jws, commit, program}
//!   digest, signature, PeerId, time, the program's source if it came along; a person reads it and says yes
//!   apply{jws} ─────────────────────────────►   signature, this link, one per link, PeerId and DID
//!   ◄──────────────────────────── heard{reveal}  both show the same three words
//!   ◄───────── admitted{place} | declined{code}  a person admits by name
//!   ◄────────────────────────────── bundle{text} the closed invitation, when all seats are filled
//!   it replaces this call, with the same terms, and lists me
//!   taken{inv} ─────────────────────────────►
//! ```
//! [`Host`] and [`Applicant`] are pure: no clock, no socket, no randomness but a seed.
//!
//! Limits: [`MAX_LOBBY_LINKS`](crate::limits::MAX_LOBBY_LINKS) links, [`MAX_APPLICATIONS`](crate::limits::MAX_APPLICATIONS)
//! waiting applications, one application per link and per DID, and a few frames per link.
//!
//! Security. Requires: the transport authenticated the PeerIds; frames arrive whole. Provides: an applicant's DID and name
//! go to the ticket's PeerId only, and only after it served the call that the ticket names, signed for that PeerId; an
//! application counts on the link it was made for and nowhere else; the closed invitation goes to admitted DIDs, each on a
//! link it proved; three words, which neither side nor anybody between can choose, tell an applicant from another who
//! uses its name. Does not provide: secrecy of the call, which every holder of the ticket may read.

mod applicant;
mod frame;
mod host;

pub use applicant::{Applicant, ApplicantEvent};
pub use frame::Frame;
pub use host::{ApplicantId, Host, HostEvent, Misuse};
