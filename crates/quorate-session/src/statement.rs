//! The statements that are flooded, as one type: parsed by their `typ`, verified, named.

use crate::message::{Abort, Cancel, Confirm, Join, Kem, Ready, Receipt};
use quorate_identity::{
    Code, Did, Digest, Rejection, ResolvedDid, Statement as Claims, UnixTime, Unverified, Verified,
    peek_typ,
};
use std::sync::Arc;

/// Declares both enums and what is the same for every kind once, so that no kind can be forgotten in one place.
macro_rules! kinds {
    ($($kind:ident),* $(,)?) => {
        /// A statement of one of the session's kinds whose signature nobody has checked.
        #[derive(Clone, Debug)]
        pub(crate) enum Parsed { $($kind(Box<Unverified<$kind>>),)* }

        /// A verified statement of one of the session's kinds.
        #[derive(Clone, Debug)]
        pub(crate) enum Statement { $($kind(Box<Verified<$kind>>),)* }

        impl Parsed {
            pub fn parse(text: &str) -> Result<Self, Rejection> {
                let typ = peek_typ(text)?;
                $(if typ == <$kind as Claims>::TYP {
                    return Unverified::<$kind>::parse(text).map(|claims| Self::$kind(Box::new(claims)));
                })*
                Err(Rejection::new(Code::Header, "S5", format!("a {typ} is not exchanged between parties")))
            }

            pub fn issuer(&self) -> &Did {
                match self { $(Self::$kind(claims) => claims.issuer(),)* }
            }

            pub fn invitation(&self) -> Digest {
                match self { $(Self::$kind(claims) => claims.claims_unproven().inv,)* }
            }

            pub fn digest(&self) -> Digest {
                match self { $(Self::$kind(claims) => claims.digest(),)* }
            }

            pub fn verify(self, keys: &ResolvedDid, at: UnixTime) -> Result<Statement, Rejection> {
                match self {
                    $(Self::$kind(claims) => claims.verify(keys, at).map(|v| Statement::$kind(Box::new(v))),)*
                }
            }
        }

        impl Statement {
            pub fn digest(&self) -> Digest {
                match self { $(Self::$kind(claims) => claims.digest(),)* }
            }

            pub fn text(&self) -> &Arc<str> {
                match self { $(Self::$kind(claims) => claims.text(),)* }
            }

            pub fn issuer(&self) -> &Did {
                match self { $(Self::$kind(claims) => &claims.iss,)* }
            }

            /// Thumbprint of the key that signed it.
            pub fn thumbprint(&self) -> Digest {
                match self { $(Self::$kind(claims) => claims.key().thumbprint(),)* }
            }
        }
    };
}

kinds!(Join, Confirm, Kem, Ready, Abort, Cancel, Receipt);
