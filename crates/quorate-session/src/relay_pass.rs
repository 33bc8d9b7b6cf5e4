//! Getting into a relay that serves listed DIDs only: what is said on a stream of [`PROTOCOL`].
//!
//! ```text
//!  client ── stream /quorate/relay-pass/1 ──► relay
//!         ◄── challenge: 32 random bytes ────
//!         ── pass, end ──────────────────────►  signature, both PeerIds, challenge, list
//!         ◄── "ok" or a refusal code, end ───
//! ```
//! Limits: [`MAX_PASS_BYTES`] for what a client sends, [`MAX_PASS_ANSWER_BYTES`] for the answer.
//!
//! Security. Requires: the connection is authenticated; the challenge is new. Provides: the DID behind this connection, to
//! a relay; bytes of either end finish in a result or a refusal. Does not provide: that a relay asks only those whom it
//! has to ask; a client shows its DID to relays that its user chose for that, and to no others.

use quorate_identity::{
    B64, Code, Did, DidKeyResolver, Rejection, Resolver as _, SigningKey, UnixTime, Unverified,
    sign,
};

use crate::{
    PeerId,
    limits::{MAX_PASS_ANSWER_BYTES, MAX_PASS_BYTES, PASS_LIFETIME_SECONDS},
    message::{PROTOCOL_VERSION, Pass},
};

/// The protocol of the stream.
pub const PROTOCOL: &str = "/quorate/relay-pass/1";
/// Bytes of a challenge.
pub const CHALLENGE_BYTES: usize = 32;

const GRANTED: &str = "ok";

/// The two ends of a connection, as one of them sees it, and what the relay asked on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// PeerId of the client.
    pub client: PeerId,
    /// PeerId of the relay.
    pub relay: PeerId,
    /// What the relay asked.
    pub challenge: [u8; CHALLENGE_BYTES],
}

impl Asked {
    /// What the client sends.
    pub fn answer(&self, key: &SigningKey, at: UnixTime) -> Result<String, Rejection> {
        let pass = Pass {
            v: PROTOCOL_VERSION,
            iss: key.did(),
            local: self.client,
            remote: self.relay,
            n: B64(self.challenge),
            iat: at,
            exp: at.plus_seconds(PASS_LIFETIME_SECONDS),
        };
        Ok(sign(pass, key)?.text().to_string())
    }

    /// Who sent `bytes`, if it is somebody on the list.
    pub fn check(
        &self,
        bytes: &[u8],
        is_listed: impl FnOnce(&Did) -> bool,
        at: UnixTime,
    ) -> Result<Did, Rejection> {
        if bytes.len() > MAX_PASS_BYTES {
            let text = format!("a pass is larger than {MAX_PASS_BYTES} bytes");
            return Err(Rejection::new(Code::Limit, "S14.1", text));
        }
        let text = std::str::from_utf8(bytes)
            .map_err(|_| Rejection::new(Code::Format, "S14.1", "a pass is not text"))?;
        let pass = Unverified::<Pass>::parse(text)?;
        let did = pass.issuer().clone();
        let keys = DidKeyResolver.resolve(&did).unwrap_or_else(|| {
            let text = "only did:key can be shown to a relay";
            Err(Rejection::new(Code::DidResolve, "S14.3", text).about(did.clone()))
        })?;
        let pass = pass.verify(&keys, at)?;
        let meant =
            (&pass.local, &pass.remote, pass.n) == (&self.client, &self.relay, B64(self.challenge));
        if !meant {
            let text = "a pass was made for another connection";
            return Err(Rejection::new(Code::Peer, "S14.4", text).about(did));
        }
        // Last, so that only who holds the key learns whether its DID is on the list.
        if !is_listed(&did) {
            let text = "this relay serves only whom its operator listed";
            return Err(Rejection::new(Code::NotListed, "S14.5", text).about(did));
        }
        Ok(did)
    }
}

/// What the relay answers.
pub fn verdict(result: &Result<Did, Rejection>) -> &'static str {
    match result {
        Ok(_) => GRANTED,
        Err(refusal) => refusal.code.as_str(),
    }
}

/// What a relay answered; its refusal is its word.
pub fn read_verdict(bytes: &[u8]) -> Result<(), Rejection> {
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    if text == GRANTED {
        return Ok(());
    }
    let short = bytes.len() <= MAX_PASS_ANSWER_BYTES;
    match text.parse::<Code>() {
        Ok(code) if short => {
            let text = format!("the relay refused the pass: {}", code.meaning());
            Err(Rejection::new(code, "S14.5", text))
        }
        _ => {
            let text = "the relay's answer to the pass is none";
            Err(Rejection::new(Code::Format, "S14.1", text))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use quorate_identity::Verified;

    const AT: UnixTime = UnixTime(1_795_000_000);

    fn key(n: u8) -> SigningKey {
        SigningKey::from_seed(&[n; 32])
    }

    fn asked() -> Asked {
        Asked {
            client: PeerId::of(&key(101).public()),
            relay: PeerId::of(&key(102).public()),
            challenge: [7; 32],
        }
    }

    fn refusal(asked: &Asked, text: &str, at: UnixTime) -> (Code, &'static str) {
        let listed = |did: &Did| *did == key(1).did();
        let refusal = asked
            .check(text.as_bytes(), listed, at)
            .expect_err("refused");
        assert_eq!(verdict(&Err(refusal.clone())), refusal.code.as_str());
        (refusal.code, refusal.rule)
    }

    #[test]
    fn who_is_listed_and_holds_the_key_gets_in() {
        let text = asked().answer(&key(1), AT).expect("signed");
        assert!(text.len() <= MAX_PASS_BYTES);
        let listed = |did: &Did| *did == key(1).did();
        let result = asked().check(text.as_bytes(), listed, AT);
        assert_eq!(result, Ok(key(1).did()));
        assert_eq!(read_verdict(verdict(&result).as_bytes()), Ok(()));
    }

    #[test]
    fn a_pass_of_somebody_else_for_something_else_or_of_another_time_is_refused() {
        let asked = asked();
        let good = asked.answer(&key(1), AT).expect("signed");
        let outsider = asked.answer(&key(2), AT).expect("signed");
        assert_eq!(refusal(&asked, &outsider, AT), (Code::NotListed, "S14.5"));
        // What one relay was shown opens no other one, no other connection, and not the same one again.
        let others = [
            Asked {
                client: PeerId::of(&key(103).public()),
                ..asked.clone()
            },
            Asked {
                relay: PeerId::of(&key(103).public()),
                ..asked.clone()
            },
            Asked {
                challenge: [8; 32],
                ..asked.clone()
            },
        ];
        for other in others {
            assert_eq!(refusal(&other, &good, AT), (Code::Peer, "S14.4"));
        }
        assert_eq!(
            refusal(&asked, &good, AT.plus_seconds(421)),
            (Code::Time, "T2")
        );
        let long = format!("{good}{}", " ".repeat(MAX_PASS_BYTES));
        assert_eq!(refusal(&asked, &long, AT), (Code::Limit, "S14.1"));
        let forged = good.replace(&good[good.len() - 8..], "AAAAAAAA");
        assert!(matches!(refusal(&asked, &forged, AT), (Code::Sig, _)));
        let binary = asked.check(&[0xff; 40], |_| true, AT).expect_err("no text");
        assert_eq!((binary.code, binary.rule), (Code::Format, "S14.1"));
    }

    #[test]
    fn a_pass_lives_two_minutes() {
        let long = |seconds: i64| -> Result<Verified<Pass>, Rejection> {
            let pass = Pass {
                v: 1,
                iss: key(1).did(),
                local: asked().client,
                remote: asked().relay,
                n: B64([7; 32]),
                iat: AT,
                exp: AT.plus_seconds(seconds),
            };
            sign(pass, &key(1))
        };
        assert!(long(120).is_ok());
        for seconds in [-1, 121] {
            let refusal = long(seconds).expect_err("refused");
            assert_eq!((refusal.code, refusal.rule), (Code::Time, "S14.2"));
        }
    }

    #[test]
    fn only_a_did_that_says_its_key_can_be_shown() {
        let web: Did = "did:web:uni.example".parse().expect("a DID");
        let good = asked().answer(&key(1), AT).expect("signed");
        let mut parts = good.split('.').map(|part| {
            let bytes = quorate_identity::base64url::decode(part).expect("base64url");
            String::from_utf8_lossy(&bytes).replace(key(1).did().as_str(), web.as_str())
        });
        let mut part =
            || quorate_identity::base64url::encode(parts.next().expect("a part").as_bytes());
        let (header, payload) = (part(), part());
        let other = format!(
            "{header}.{payload}.{}",
            good.rsplit('.').next().expect("a signature")
        );
        assert_eq!(refusal(&asked(), &other, AT), (Code::DidResolve, "S14.3"));
    }

    #[test]
    fn an_answer_is_a_code_or_ok() {
        let code = |bytes: &[u8]| read_verdict(bytes).expect_err("refused").code;
        assert_eq!(code(b"E_NOT_LISTED"), Code::NotListed);
        for bytes in [
            &b""[..],
            b"OK",
            b"ok ",
            b"E_NOPE",
            &[0xff; 9],
            &[b'E'; 4096],
        ] {
            assert_eq!(code(bytes), Code::Format, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(asked().check(&bytes, |_| true, AT).is_err());
            let _ = read_verdict(&bytes);
        }
    }
}
