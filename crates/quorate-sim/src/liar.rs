//! Liars: what the world does with the frames of those who do not keep to the protocol.

use crate::setting::{SID, numbered, outsider_key, secret};
use quorate_identity::{
    B64, Digest, SigningKey, Statement, UnixMillis, UnixTime, Unverified, sign,
};
use quorate_session::{
    Frame, PeerId, hello_tag,
    message::{Confirm, Hello, Join},
};

/// A frame without the joins of `key`'s own DID, so that a twin does not see its other face.
pub(crate) fn without_own_joins(frame: Frame, key: &SigningKey) -> Frame {
    let Frame::Statements { jws } = frame else {
        return frame;
    };
    let own = key.did();
    let foreign =
        |text: &String| Unverified::<Join>::parse(text).map_or(true, |join| *join.issuer() != own);
    Frame::Statements {
        jws: jws.into_iter().filter(foreign).collect(),
    }
}

/// Whether a frame carries a ready.
pub(crate) fn carries_ready(frame: &Frame) -> bool {
    let Frame::Statements { jws } = frame else {
        return false;
    };
    jws.iter()
        .any(|text| quorate_identity::peek_typ(text).is_ok_and(|typ| typ == "quorate-ready+jwt"))
}

/// Confirms of rosters that nobody holds.
pub(crate) fn flood(
    key: &SigningKey,
    inv: Digest,
    parties: u16,
    epoch: u64,
    at: UnixTime,
    from: u64,
) -> Frame {
    let confirm = |n: u64| Confirm {
        v: 1,
        iss: key.did(),
        inv,
        roster: numbered(n),
        epoch: UnixMillis(epoch),
        joins: vec![numbered(n); usize::from(parties)],
        iat: at,
    };
    let signed = (from..from + 10).filter_map(|n| sign(confirm(n), key).ok());
    Frame::Statements {
        jws: signed.map(|confirm| confirm.text().to_string()).collect(),
    }
}

/// The stranger with the bundle.
pub(crate) struct Outsider {
    pub peer: PeerId,
    key: SigningKey,
}

impl Outsider {
    pub fn new() -> Self {
        let key = outsider_key();
        Self {
            peer: PeerId::of(&SigningKey::from_seed(&[0xef; 32]).public()),
            key,
        }
    }

    pub fn hello(&self, to: &PeerId) -> Frame {
        Frame::Hello {
            tag: hello_tag(&secret(), &self.peer, to),
        }
    }

    /// What the stranger answers; `None` to what should never have been said to it.
    pub fn answer(
        &self,
        frame: &Frame,
        to: &PeerId,
        inv: Digest,
        at: UnixTime,
    ) -> Option<Vec<Frame>> {
        match frame {
            Frame::Hello { .. } => Some(Vec::new()),
            Frame::Proof { .. } => Some(vec![
                self.proof(to, inv, at),
                Frame::Want { digests: vec![inv] },
            ]),
            _ => None,
        }
    }

    fn proof(&self, to: &PeerId, inv: Digest, at: UnixTime) -> Frame {
        let hello = Hello {
            v: 1,
            iss: self.key.did(),
            sid: SID,
            inv,
            local: self.peer,
            remote: *to,
            iat: at,
            exp: at.plus_seconds(60),
        };
        debug_assert!(hello.check().is_ok());
        let auth = sign(hello, &self.key)
            .map(|hello| hello.text().to_string())
            .unwrap_or_default();
        Frame::Proof {
            sid: B64(SID.0),
            inv,
            auth,
        }
    }
}
