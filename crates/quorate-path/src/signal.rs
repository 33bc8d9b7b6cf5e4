//! The signal: credentials and candidates of one end for the other, as JSON.
//!
//! ```json
//! {"v":2,"round":0,"ufrag":"k2Jd","password":"…","have":"x9Qa","list":2,"seen":1,"complete":true,
//!  "nat":"independent","stamp":81234,"echo":[80991,120],"go":false,"candidates":[
//!   {"kind":"host","address":"192.0.2.2:40001","priority":2130706431}]}
//! ```
//! Each signal is complete, so losing or repeating one does no harm. `have` names the user
//! fragment of the receiver that the sender already knows, `seen` the version of its list; the
//! sender of a signal repeats it until it sees its own there. A higher `round` replaces everything of
//! the rounds before. `stamp` is the sender's clock in microseconds, `echo` the receiver's last
//! stamp and how long it was held: so both ends know the round trip of signals. `go` says that the
//! sender's checks begin (see the agent). The password travels here, so the channel must be
//! encrypted and authenticated end to end.

use crate::{
    Candidate, Credentials, Nat, Refusal, Scope,
    candidate::filter,
    limits::{MAX_CANDIDATES, MAX_SIGNAL_BYTES},
};
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

const VERSION: u32 = 2;

/// Of any version, to tell which it is.
#[derive(Deserialize)]
struct Versioned {
    v: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    v: u32,
    round: u32,
    ufrag: String,
    password: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    have: Option<String>,
    list: u32,
    seen: u32,
    complete: bool,
    nat: Nat,
    stamp: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    echo: Option<(u64, u64)>,
    go: bool,
    candidates: Vec<Candidate>,
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.password.zeroize();
    }
}

/// A signal that was read and found in order.
#[derive(Debug)]
pub(crate) struct Signal {
    pub(crate) round: u32,
    pub(crate) credentials: Credentials,
    pub(crate) have: Option<String>,
    /// Version of the sender's list: candidates, `complete` and `nat`.
    pub(crate) list: u32,
    /// Version of the receiver's list that the sender has.
    pub(crate) seen: u32,
    /// No more candidates are being gathered.
    pub(crate) complete: bool,
    pub(crate) nat: Nat,
    pub(crate) stamp: u64,
    pub(crate) echo: Option<(u64, u64)>,
    pub(crate) go: bool,
    pub(crate) candidates: Vec<Candidate>,
}

impl Signal {
    /// Reads a signal of the peer. Candidates that cannot be a peer are left out.
    pub(crate) fn parse(bytes: &[u8], scope: Scope) -> Result<Self, Refusal> {
        if bytes.len() > MAX_SIGNAL_BYTES {
            return Err(Refusal::TooLarge(bytes.len()));
        }
        let format = |e: serde_json::Error| Refusal::Format(e.to_string());
        let Versioned { v } = serde_json::from_slice(bytes).map_err(format)?;
        if v != VERSION {
            return Err(Refusal::Version(v));
        }
        let mut wire: Wire = serde_json::from_slice(bytes).map_err(format)?;
        if wire.candidates.len() > MAX_CANDIDATES {
            return Err(Refusal::TooMany(wire.candidates.len()));
        }
        let ufrag = std::mem::take(&mut wire.ufrag);
        let password = std::mem::take(&mut wire.password);
        Ok(Self {
            round: wire.round,
            credentials: Credentials::new(ufrag, password)?,
            have: wire.have.take(),
            list: wire.list,
            seen: wire.seen,
            complete: wire.complete,
            nat: wire.nat,
            stamp: wire.stamp,
            echo: wire.echo,
            go: wire.go,
            candidates: filter(std::mem::take(&mut wire.candidates), scope),
        })
    }

    /// The text for the peer; the lowest-ranked candidates go when it would grow too long.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut wire = Wire {
            v: VERSION,
            round: self.round,
            ufrag: self.credentials.ufrag.clone(),
            password: String::clone(&self.credentials.password),
            have: self.have.clone(),
            list: self.list,
            seen: self.seen,
            complete: self.complete,
            nat: self.nat,
            stamp: self.stamp,
            echo: self.echo,
            go: self.go,
            candidates: self.candidates.clone(),
        };
        loop {
            let bytes = serde_json::to_vec(&wire).unwrap_or_default();
            if bytes.len() <= MAX_SIGNAL_BYTES || wire.candidates.pop().is_none() {
                return bytes;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn sample(count: u16) -> Signal {
        Signal {
            round: 3,
            credentials: Credentials::new("abcd1234".into(), "p".repeat(32)).unwrap(),
            have: Some("wxyz5678".into()),
            list: 2,
            seen: 1,
            complete: true,
            nat: Nat::Independent,
            stamp: u64::MAX,
            echo: Some((u64::MAX, u64::MAX)),
            go: true,
            candidates: (0..count)
                .map(|i| {
                    let text =
                        format!("[2001:db8:1111:2222:3333:4444:5555:{:x}]:40000", 0x1000 + i);
                    Candidate::host(text.parse().unwrap())
                })
                .collect(),
        }
    }

    #[test]
    fn a_signal_survives_the_wire() {
        let sent = sample(3);
        let read = Signal::parse(&sent.encode(), Scope::Lan).unwrap();
        assert_eq!(read.candidates, sent.candidates);
        assert_eq!(read.have, sent.have);
        assert_eq!(*read.credentials.password, *sent.credentials.password);
        assert_eq!(
            (read.round, read.list, read.seen, read.complete, read.nat),
            (3, 2, 1, true, Nat::Independent)
        );
        assert_eq!(
            (read.stamp, read.echo, read.go),
            (sent.stamp, sent.echo, true)
        );
    }

    #[test]
    fn a_full_signal_stays_within_its_bytes() {
        let bytes = sample(16).encode();
        assert!(bytes.len() <= MAX_SIGNAL_BYTES);
        assert!(Signal::parse(&bytes, Scope::Lan).unwrap().candidates.len() >= 13);
    }

    #[test]
    fn malformed_signals_are_refused_by_name() {
        let refusal = |text: &str| Signal::parse(text.as_bytes(), Scope::Lan).unwrap_err();
        assert!(matches!(refusal("{"), Refusal::Format(_)));
        let ok = String::from_utf8(sample(0).encode()).unwrap();
        assert!(matches!(
            refusal(&ok.replace("\"v\":2", "\"v\":1")),
            Refusal::Version(1)
        ));
        assert!(matches!(
            refusal(&ok.replace("\"v\":2", "\"v\":2,\"x\":1")),
            Refusal::Format(_)
        ));
        assert!(matches!(
            refusal(&ok.replace("abcd1234", "a")),
            Refusal::Credentials(_)
        ));
        assert!(matches!(
            refusal(&" ".repeat(MAX_SIGNAL_BYTES + 1)),
            Refusal::TooLarge(_)
        ));
        let one = r#"{"kind":"host","address":"1.2.3.4:5","priority":1}"#;
        let many = vec![one; 17].join(",");
        let text = ok.replace("\"candidates\":[]", &format!("\"candidates\":[{many}]"));
        assert!(matches!(refusal(&text), Refusal::TooMany(17)));
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Signal::parse(&bytes, Scope::Lan);
        }
    }
}
