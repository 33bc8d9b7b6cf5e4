//! Every cap and timer of the session protocol, in one place.
//!
//! A limit is here because something outside decides how much of it there will be: how many parties an invitation lists,
//! how long a text is, how many statements a member signs, how long a peer may stay silent. Beyond a limit there is a named
//! refusal, never an allocation.
//!
//! Source: the caps of protocol sections 3 to 9; the timers follow from "detect a dead peer within 15 s, stop within 5 s".

use std::time::Duration;

// --- Invitation -----------------------------------------------------------------------------------------------------

/// Addresses of one peer in a `peers` frame.
pub const MAX_PEER_ADDRESSES: usize = 12;
/// Parties tell each other again where they are after this time at the earliest.
pub const PEERS_INTERVAL: Duration = Duration::from_secs(1);
/// Time in which news of where parties are is collected.
pub const PEERS_DELAY: Duration = Duration::from_millis(100);
/// Of the `peers` frames of one link that come sooner than this after the one before, the last one is taken when the time is over.
pub const PEERS_HEARD_INTERVAL: Duration = Duration::from_millis(200);
/// News of where a party is that are passed on at once.
pub const PEERS_NEWS: u32 = 3;
/// After them, what a party says anew of itself is reason to tell others this often.
pub const PEERS_NEWS_INTERVAL: Duration = Duration::from_secs(10);
/// Parties one invitation may list.
pub const MAX_PARTIES: usize = 64;
/// Fewest parties of a multiparty computation.
pub const MIN_PARTIES: usize = 2;
/// Longest validity of an invitation, in seconds (7 days).
pub const MAX_VALIDITY_SECONDS: i64 = 7 * 24 * 3600;
/// Most pseudorandom secret sharing keys, C(m, t), before PRSS has to be switched off.
pub const MAX_PRSS_KEYS: u64 = 20_000;
/// Longest title, in characters.
pub const MAX_TITLE_CHARS: usize = 120;
/// Longest purpose, in characters.
pub const MAX_PURPOSE_CHARS: usize = 500;
/// Longest name or role of a party, in characters.
pub const MAX_NAME_CHARS: usize = 64;
/// Verification keys pinned per party.
pub const MAX_PINNED_KEYS: usize = 8;
/// Public arguments of the program.
pub const MAX_ARGS: usize = 64;
/// Bytes of one public argument.
pub const MAX_ARG_BYTES: usize = 1024;
/// Bytes of a version text in an invitation or fingerprint.
pub const MAX_VERSION_BYTES: usize = 32;
/// Addresses of relays or bootstrap nodes in an invitation, each.
pub const MAX_RENDEZVOUS_ADDRESSES: usize = 8;
/// Bytes of one textual network address.
pub const MAX_ADDRESS_BYTES: usize = 256;
/// Times one party may join again (`policy.rejoin` cannot allow more; one first join plus these is what is kept).
pub const MAX_REJOIN: u8 = 3;
/// Smallest and largest MTU inside the tunnel.
pub const MTU_RANGE: std::ops::RangeInclusive<u16> = 1280..=1420;
/// The MPC port inside the tunnel has to be above this one, so that the control port, one below it, is not below 1024.
pub const MIN_PORT: u16 = 1024;

// --- Bundle and manifest ----------------------------------------------------------------------------------------------

/// Characters of a bundle's text form; one with the program's source still fits into a frame.
pub const MAX_BUNDLE_CHARS: usize = 240 * 1024;
/// Address hints in a bundle.
pub const MAX_HINTS: usize = 8;
/// Files of one program.
pub const MAX_MANIFEST_ENTRIES: usize = 4096;
/// Bytes of one path in a manifest.
pub const MAX_PATH_BYTES: usize = 512;
/// Bytes of a program's source that goes along with a call or in a bundle: with the largest call it fits into a frame.
pub const MAX_PROGRAM_SOURCE_BYTES: usize = 128 * 1024;
/// Files of such a source: a person looks at each.
pub const MAX_SOURCE_FILES: usize = 64;

// --- First contact ----------------------------------------------------------------------------------------------------

/// Characters of a ticket in any of its forms.
pub const MAX_TICKET_CHARS: usize = 1024;
/// Addresses in a ticket.
pub const MAX_TICKET_HINTS: usize = 2;
/// Longest validity of a card, in seconds (two years).
pub const MAX_CARD_SECONDS: i64 = 2 * 366 * 24 * 3600;
/// Bytes of a card.
pub const MAX_CARD_BYTES: usize = 8 * 1024;
/// Lifetime of an application, in seconds.
pub const APPLY_LIFETIME_SECONDS: i64 = 120;
/// Links a lobby or a post holds at once.
pub const MAX_LOBBY_LINKS: usize = 96;
/// Applications that may wait for an answer.
pub const MAX_APPLICATIONS: usize = 32;
/// More of them, for contacts of the inviter only: strangers cannot take their places.
pub const MAX_CONTACT_APPLICATIONS: usize = 8;
/// DIDs that were not admitted and are remembered, so that nobody is asked about them again.
pub const MAX_REFUSED_APPLICANTS: usize = 256;
/// Frames from one applicant on one link.
pub const MAX_LOBBY_FRAMES: u32 = 16;
/// Frames from the inviter on one link.
pub const MAX_LOBBY_ANSWERS: u32 = 64;
/// Events of first contact that may wait.
pub const MAX_CONTACT_EVENTS: usize = 1024;

// --- Statements -------------------------------------------------------------------------------------------------------

/// How far a join's epoch may lie in the future, in milliseconds (5 min): a stolen key cannot lock its owner out.
pub const MAX_EPOCH_AHEAD_MS: u64 = 5 * 60 * 1000;
/// Confirms kept per DID.
pub const MAX_CONFIRMS_PER_PARTY: usize = 8;
/// KEM shares kept per pair of parties (one per roster that may become current).
pub const MAX_KEMS_PER_PAIR: usize = 4;
/// Aborts kept per DID.
pub const MAX_ABORTS_PER_PARTY: usize = 2;
/// Receipts kept per DID.
pub const MAX_RECEIPTS_PER_PARTY: usize = 2;
/// Digests of refused statements remembered, so that they are not asked for again.
pub const MAX_REFUSED_DIGESTS: usize = 1024;
/// Statements that wait for the resolution of their issuer, over all links.
pub const MAX_UNRESOLVED: usize = 128;
/// Characters of the note in an abort or cancel.
pub const MAX_NOTE_CHARS: usize = 300;
/// Oldest acceptable resolution of a DID that can change (did:web) when the roster is confirmed.
pub const MAX_RESOLUTION_AGE: Duration = Duration::from_mins(10);

// --- Records ----------------------------------------------------------------------------------------------------------

/// Bytes of one record: four runs of 64 parties fit.
pub const MAX_RECORD_BYTES: usize = 4 * 1024 * 1024;
/// Runs of one record; as many as one party can start.
pub const MAX_RECORD_RUNS: usize = 1 + MAX_REJOIN as usize;

// --- Links ------------------------------------------------------------------------------------------------------------

/// Bytes of one frame.
pub const MAX_FRAME_BYTES: usize = 256 * 1024;
/// Links held at once.
pub const MAX_LINKS: usize = 256;
/// Links held at once that have not proven a listed DID.
pub const MAX_UNPROVEN_LINKS: usize = 64;
/// Proven links held at once per DID.
pub const MAX_LINKS_PER_PARTY: usize = 4;
/// Bytes of one frame of a link that is not proven; while another invitation is awaited, one statement more.
pub const MAX_UNPROVEN_FRAME_BYTES: usize = 16 * 1024;
/// Frames from a link that has not shown the session's secret.
pub const MAX_UNTAGGED_FRAMES: u32 = 16;
/// Frames from a link that has shown it and is not proven; a party that has our proof already, while its own got lost or
/// waits for a resolution, announces what it holds.
pub const MAX_UNPROVEN_FRAMES: u32 = 128;
/// Digests in one `have` or `want`.
pub const MAX_DIGESTS: usize = 1024;
/// Announced statements asked for at a time.
pub const MAX_ASKED: usize = 1024;
/// Statements in one `statements` frame.
pub const MAX_STATEMENTS: usize = 128;
/// Bytes of statements put into one outgoing frame before the next is begun.
pub const STATEMENTS_FRAME_BYTES: usize = 128 * 1024;
/// Bytes of one signal.
pub const MAX_SIGNAL_BYTES: usize = 2048;
/// Signals kept per party and direction while there is no link, or no mesh, to take them.
pub const MAX_SIGNALS: usize = 32;
/// Frames waiting for `poll_transmit`.
pub const MAX_TRANSMITS: usize = 8192;
/// Bytes waiting for `poll_transmit`.
pub const MAX_TRANSMIT_BYTES: usize = 16 * 1024 * 1024;
/// Events waiting for `poll_event`.
pub const MAX_EVENTS: usize = 8192;
/// Refusals of what one link brought before the link is closed.
pub const MAX_STRIKES: u32 = 16;
/// Outdated statements of its own that a member may send over one link before each more is a refusal that counts: some are
/// on their way whenever a roster is given up.
pub const MAX_STALE: u32 = 16;
/// Frames one link may bring in a burst.
pub const FRAME_BURST: u32 = 512;
/// Frames one link may bring per second in the long run.
pub const FRAMES_PER_SECOND: u32 = 64;

/// People a post receiver accepts invitations from.
pub const MAX_CONTACTS: usize = 1024;
/// Invitations a post sender holds; also the tags in its hello.
pub const MAX_OFFERS: usize = 64;
/// The number of tags is a multiple of this, so that it tells little.
pub const OFFER_TAGS_STEP: usize = 8;
/// Frames from the other end of one link of the post.
pub const MAX_POST_FRAMES: u32 = 16;
/// Invitations one contact can show a post receiver.
pub const MAX_OFFERS_PER_CONTACT: usize = 16;
/// Invitations taken by post that are remembered, so that none is shown twice.
pub const MAX_TAKEN: usize = 256;
/// Characters of one of them: with its frame it is not larger than a frame may be.
pub const MAX_OFFER_CHARS: usize = 240 * 1024;
/// Characters of a sealed bundle.
pub const MAX_SEALED_CHARS: usize = 340 * 1024;
/// Cards one bundle is sealed to.
pub const MAX_SEALED_TO: usize = 64;

// --- Relays -----------------------------------------------------------------------------------------------------------

/// Bytes of what a relay says about itself.
pub const MAX_ANNOUNCEMENT_BYTES: usize = 1024;
/// Characters of a relay's name.
pub const MAX_RELAY_NAME_CHARS: usize = 64;
/// STUN ports that a relay names, if it names any.
pub const MAX_STUN_PORTS: usize = 2;
/// Bytes of a pass for a relay that serves listed DIDs only.
pub const MAX_PASS_BYTES: usize = 4096;
/// Bytes of the relay's answer to it.
pub const MAX_PASS_ANSWER_BYTES: usize = 64;
/// Lifetime of a pass, in seconds.
pub const PASS_LIFETIME_SECONDS: i64 = 120;

// --- Rendezvous -------------------------------------------------------------------------------------------------------

/// Bytes of the padded text in a rendezvous record.
pub const RENDEZVOUS_PLAIN_BYTES: usize = 1536;
/// Bytes of a rendezvous record; all have the same size.
pub const RENDEZVOUS_VALUE_BYTES: usize = 1688;
/// Time for which one set of keys is used, in seconds.
pub const RENDEZVOUS_HOUR_SECONDS: i64 = 3600;
/// Lifetime of a rendezvous record, in seconds.
pub const RENDEZVOUS_LIFETIME_SECONDS: i64 = 1800;
/// So long before the next hour a party publishes for it too, in seconds.
pub const NEXT_HOUR_SECONDS: i64 = 900;
/// Addresses in one rendezvous record.
pub const MAX_PUBLISHED_ADDRESSES: usize = 8;
/// Answers of nodes that are looked at per lookup.
pub const MAX_RENDEZVOUS_ANSWERS: usize = 20;
/// Lookups under way at a time, except that one party's three hours are not torn apart.
pub const MAX_LOOKUPS: usize = 12;
/// Addresses that change within this time are published together.
pub const PUBLISH_DELAY: Duration = Duration::from_millis(300);
/// A record is published again after this time, while a party is missing.
pub const REPUBLISH_INTERVAL: Duration = Duration::from_mins(10);
/// Wait after a publication that no node took; doubles each time.
pub const PUBLISH_WAIT_FIRST: Duration = Duration::from_secs(2);
/// Longest such wait.
pub const PUBLISH_WAIT_LAST: Duration = Duration::from_mins(1);
/// Wait before a party that was not found is looked for again; doubles each time.
pub const LOOKUP_WAIT_FIRST: Duration = Duration::from_secs(2);
/// Longest such wait.
pub const LOOKUP_WAIT_LAST: Duration = Duration::from_secs(30);
/// An order to the network that is not answered within this time has failed.
pub const ORDER_WAIT: Duration = Duration::from_mins(1);

// --- Timers of first contact -------------------------------------------------------------------------------------------

/// A link to a lobby that asks for nothing is closed after this time.
pub const LOBBY_FIND_WAIT: Duration = Duration::from_secs(10);
/// A link to a lobby over which nobody applies is closed after this time; whoever still reads comes back over a new one.
pub const LOBBY_READ_WAIT: Duration = Duration::from_mins(5);
/// Wait for an answer of the inviter that no person has to give.
pub const LOBBY_ANSWER_WAIT: Duration = Duration::from_secs(10);
/// Wait for the call, which may bring a program: as long as a frame may take that has begun.
pub const LOBBY_CALL_WAIT: Duration = Duration::from_secs(30);
/// An applicant that was told that too many ask comes back after this time.
pub const LOBBY_RETRY_WAIT: Duration = Duration::from_secs(5);
/// An applicant that had a seat and is not given it again within this time asks like anybody else.
pub const SEAT_SAID_WAIT: Duration = Duration::from_secs(2);
/// One more application is heard after this time, once [`MAX_APPLICATIONS`] came in a burst: a person has to look at each.
pub const APPLICATION_INTERVAL: Duration = Duration::from_secs(2);
/// A seat stays its owner's for this time while there is no link to it.
pub const SEAT_KEPT: Duration = Duration::from_mins(1);
/// Wait for the acknowledgement of an invitation before it is sent again over a new link.
pub const DELIVERY_WAIT: Duration = Duration::from_secs(10);
/// Bytes per second of the slowest link that is waited for: an invitation with a program has more time to arrive.
pub const SLOWEST_LINK: usize = 8 * 1024;

// --- Timers -----------------------------------------------------------------------------------------------------------

/// Time from link up to a proven link.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Lifetime of the signed part of the link handshake, in seconds.
pub const HELLO_LIFETIME_SECONDS: i64 = 120;
/// Time in which new statements of others are collected before they are announced together, so that
/// a large group sends each other lists and not single names.
pub const PASS_ON_DELAY: Duration = Duration::from_millis(50);
/// Time in which an announced statement has to come before another link that announced it is asked.
pub const ASK_WAIT: Duration = Duration::from_secs(1);
/// Least interval of announcing what is held to every proven link; heals whatever was lost.
pub const RESYNC_INTERVAL: Duration = Duration::from_secs(3);
/// That interval per party, where this is longer.
pub const RESYNC_PER_PARTY: Duration = Duration::from_millis(300);
/// Wait before a DID that did not resolve is asked for again.
pub const RESOLVE_RETRY: Duration = Duration::from_secs(15);
/// Interval of pings on tunnel links.
pub const PING_INTERVAL: Duration = Duration::from_secs(2);
/// Pings sent one after the other when a tunnel link comes up, to know its round trip.
pub const FIRST_PINGS: u32 = 3;
/// Silence of a tunnel after which its party has left.
pub const PEER_SILENCE: Duration = Duration::from_secs(13);
/// Wait for receipts that are missing although nobody computes any more.
pub const RECEIPT_WAIT: Duration = Duration::from_secs(5);
/// Time a finished session stays to pass on receipts it holds.
pub const RECEIPT_LINGER: Duration = Duration::from_millis(500);
/// Longest wait for the others' receipts of a party that comes back after it was killed while the session closed; who is
/// still there waits for [`PEER_SILENCE`] and [`RECEIPT_WAIT`].
pub const SETTLE_WAIT: Duration = Duration::from_secs(20);
/// Wait for the receipts of an aborted run.
pub const ABORT_WAIT: Duration = Duration::from_secs(2);
/// Longest wait for the answer to a `Persist` event.
pub const PERSIST_TIMEOUT: Duration = Duration::from_secs(30);
