//! The signal: credentials and candidates of one end for the other, as JSON.
//!
//! ```json
//! {"v":1,"ufrag":"k2Jd","password":"…","have":"x9Qa","candidates":[
//!   {"kind":"host","address":"192.0.2.2:40001","priority":2130706431}]}
//! ```
//! Each signal is complete, so losing or repeating one does no harm. `have` names the user
//! fragment of the receiver that the sender already knows; the sender of a signal repeats it until
//! it sees its own fragment there. The password travels here, so the channel must be encrypted and
//! authenticated end to end.

use crate::{
    Candidate, Credentials, Refusal, Scope,
    candidate::filter,
    limits::{MAX_CANDIDATES, MAX_SIGNAL_BYTES},
};
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    v: u32,
    ufrag: String,
    password: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    have: Option<String>,
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
    pub(crate) credentials: Credentials,
    pub(crate) have: Option<String>,
    pub(crate) candidates: Vec<Candidate>,
}

impl Signal {
    /// Reads a signal of the peer. Candidates that cannot be a peer are left out.
    pub(crate) fn parse(bytes: &[u8], scope: Scope) -> Result<Self, Refusal> {
        if bytes.len() > MAX_SIGNAL_BYTES {
            return Err(Refusal::TooLarge(bytes.len()));
        }
        let mut wire: Wire =
            serde_json::from_slice(bytes).map_err(|e| Refusal::Format(e.to_string()))?;
        if wire.v != VERSION {
            return Err(Refusal::Version(wire.v));
        }
        if wire.candidates.len() > MAX_CANDIDATES {
            return Err(Refusal::TooMany(wire.candidates.len()));
        }
        let ufrag = std::mem::take(&mut wire.ufrag);
        let password = std::mem::take(&mut wire.password);
        Ok(Self {
            credentials: Credentials::new(ufrag, password)?,
            have: wire.have.take(),
            candidates: filter(std::mem::take(&mut wire.candidates), scope),
        })
    }

    /// The text for the peer; the lowest-ranked candidates go when it would grow too long.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut wire = Wire {
            v: VERSION,
            ufrag: self.credentials.ufrag.clone(),
            password: String::clone(&self.credentials.password),
            have: self.have.clone(),
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
            credentials: Credentials::new("abcd1234".into(), "p".repeat(24)).unwrap(),
            have: Some("wxyz5678".into()),
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
    }

    #[test]
    fn a_full_signal_stays_within_its_bytes() {
        let bytes = sample(16).encode();
        assert!(bytes.len() <= MAX_SIGNAL_BYTES);
        assert!(Signal::parse(&bytes, Scope::Lan).unwrap().candidates.len() >= 14);
    }

    #[test]
    fn malformed_signals_are_refused_by_name() {
        let refusal = |text: &str| Signal::parse(text.as_bytes(), Scope::Lan).unwrap_err();
        assert!(matches!(refusal("{"), Refusal::Format(_)));
        let ok = String::from_utf8(sample(0).encode()).unwrap();
        assert!(matches!(
            refusal(&ok.replace("\"v\":1", "\"v\":2")),
            Refusal::Version(2)
        ));
        assert!(matches!(
            refusal(&ok.replace("\"v\":1", "\"v\":1,\"x\":1")),
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
