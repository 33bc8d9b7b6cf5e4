//! Frames of the post: JSON, each kind with its own members and no others.

use crate::{
    contact::read_frame,
    limits::{MAX_FRAME_BYTES, MAX_OFFER_CHARS, MAX_OFFERS, OFFER_TAGS_STEP},
};
use quorate_identity::{B64, Code, Digest, Rejection};
use serde::{Deserialize, Serialize};

/// One message between sender and receiver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "t", rename_all = "lowercase", deny_unknown_fields)]
pub enum Frame {
    /// Sender: whoever recognizes one of these has an offer waiting.
    Hello {
        /// One per offer, and random ones up to a multiple of eight.
        tags: Vec<B64<16>>,
    },
    /// Receiver: this one is for me.
    Mine {
        /// Proof of the same pair key.
        tag: B64<16>,
    },
    /// Sender: here it is.
    Offer {
        /// A bundle, plain or sealed.
        text: String,
    },
    /// Receiver: I have it.
    Taken {
        /// Digest of the text.
        digest: Digest,
    },
}

impl Frame {
    /// Reads one frame.
    pub fn parse(bytes: &[u8]) -> Result<Self, Rejection> {
        let frame: Self = read_frame(bytes, MAX_FRAME_BYTES, "F9")?;
        let fits = match &frame {
            Self::Hello { tags } => {
                (1..=MAX_OFFERS).contains(&tags.len()) && tags.len().is_multiple_of(OFFER_TAGS_STEP)
            }
            Self::Offer { text } => text.len() <= MAX_OFFER_CHARS,
            Self::Mine { .. } | Self::Taken { .. } => true,
        };
        if fits {
            return Ok(frame);
        }
        let text = "a frame holds more than its kind may";
        Err(Rejection::new(Code::Limit, "F9", text))
    }

    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn frames_round_trip_and_others_are_refused() {
        let hello = |n: usize| Frame::Hello {
            tags: vec![B64([1; 16]); n],
        };
        for frame in [
            hello(8),
            hello(MAX_OFFERS),
            Frame::Mine { tag: B64([2; 16]) },
        ] {
            assert_eq!(Frame::parse(&frame.encode()), Ok(frame));
        }
        for frame in [hello(0), hello(7), hello(MAX_OFFERS + 8)] {
            assert_eq!(
                Frame::parse(&frame.encode())
                    .expect_err("wrong number")
                    .code,
                Code::Limit
            );
        }
        for bad in [
            &br#"{"t":"mine"}"#[..],
            br#"{"t":"find","call":""}"#,
            b"{}",
            b"",
        ] {
            assert!(Frame::parse(bad).is_err());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Frame::parse(&bytes);
        }
    }
}
