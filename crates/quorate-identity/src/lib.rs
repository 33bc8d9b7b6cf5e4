//! Who signed what: DIDs, keys, signed statements and credentials of quorate.
//!
//! ```text
//! bytes ─► Unverified<T>::parse ─► resolve(issuer) ─► verify(keys, at) ─► Verified<T>
//!            shape, limits            ResolvedDid        signature, key,      the only form
//!            (E_FORMAT, E_HEADER)     (E_DID_RESOLVE)    relationship, time   that protocol
//!                                                        (E_SIG, E_KID, …)    logic accepts
//! ```
//!
//! This crate is pure: it has no clock, no socket, no file and no source of randomness. Time is
//! passed to [`Unverified::verify`]; keys are made from seeds that the caller brings.
//!
//! Every refusal is a [`Rejection`] with a [`Code`], the number of the rule in `docs/protocol.md`
//! that was broken, and a cause in words.

pub mod base64url;
mod code;
mod credential;
mod did;
mod digest;
pub mod json;
mod jws;
mod key;
mod published;
mod rejection;
mod resolve;
mod statement;
mod time;

pub use base64url::B64;
pub use code::Code;
pub use credential::{Credential, Subject};
pub use did::{Did, KeyId};
pub use digest::Digest;
pub use jws::{MAX_STATEMENT_BYTES, peek_typ};
pub use key::{PublicKey, SigningKey};
pub use published::check_published;
pub use rejection::Rejection;
pub use resolve::{DidKeyResolver, Relationship, ResolvedDid, Resolver, VerificationKey};
pub use statement::{CLOCK_SKEW_SECONDS, Statement, Unverified, Validity, Verified, sign};
pub use time::{UnixMillis, UnixTime};
