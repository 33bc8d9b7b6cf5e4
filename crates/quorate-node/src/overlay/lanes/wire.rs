//! What is on the stream of a lane, in both directions.
//!
//! ```text
//!   length (2, big endian, 1..=MAX_DATAGRAM_BYTES) ‖ datagram
//!   0 (2) ‖ kind (1): 0 probe, 1 answer ‖ token (8)
//! ```
//! Limits: [`MAX_DATAGRAM_BYTES`]; the reader holds one buffer of [`BUFFER_BYTES`].

/// Largest datagram of a lane: a WireGuard packet of the largest MTU, with room.
pub const MAX_DATAGRAM_BYTES: usize = 2048;

/// Bytes read or written at a time.
pub(super) const BUFFER_BYTES: usize = 64 * 1024;
/// Bytes of the length.
const LENGTH_BYTES: usize = 2;
/// Bytes of kind and token.
const SIGN_BYTES: usize = 9;

/// One thing on the stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Item<'a> {
    Datagram(&'a [u8]),
    Probe([u8; 8]),
    Answer([u8; 8]),
}

/// Bytes that no lane sends.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::overlay) enum Malformed {
    #[error("a datagram of {0} bytes, allowed are 1 to {MAX_DATAGRAM_BYTES}")]
    Length(usize),
    #[error("a sign of kind {0}")]
    Kind(u8),
}

/// Takes the first item off `bytes`; `None` when it is not complete yet.
pub(super) fn take<'a>(bytes: &mut &'a [u8]) -> Result<Option<Item<'a>>, Malformed> {
    let all: &'a [u8] = bytes;
    let Some((length, rest)) = all.split_first_chunk::<LENGTH_BYTES>() else {
        return Ok(None);
    };
    let length = usize::from(u16::from_be_bytes(*length));
    if length > MAX_DATAGRAM_BYTES {
        return Err(Malformed::Length(length));
    }
    if length > 0 {
        let Some((datagram, rest)) = rest.split_at_checked(length) else {
            return Ok(None);
        };
        *bytes = rest;
        return Ok(Some(Item::Datagram(datagram)));
    }
    let Some((&kind, after)) = rest.split_first() else {
        return Ok(None);
    };
    if kind > 1 {
        return Err(Malformed::Kind(kind));
    }
    let Some((token, rest)) = after.split_first_chunk::<{ SIGN_BYTES - 1 }>() else {
        return Ok(None);
    };
    *bytes = rest;
    Ok(Some(if kind == 0 {
        Item::Probe(*token)
    } else {
        Item::Answer(*token)
    }))
}

/// Appends `item`; a datagram that is too large cannot be written and is left out.
pub(super) fn put(item: &Item<'_>, to: &mut Vec<u8>) {
    let (kind, token) = match item {
        Item::Datagram(datagram) => {
            let length = u16::try_from(datagram.len()).unwrap_or(u16::MAX);
            if (1..=MAX_DATAGRAM_BYTES).contains(&datagram.len()) {
                to.extend_from_slice(&length.to_be_bytes());
                to.extend_from_slice(datagram);
            }
            return;
        }
        Item::Probe(token) => (0, token),
        Item::Answer(token) => (1, token),
    };
    to.extend_from_slice(&[0, 0, kind]);
    to.extend_from_slice(token);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_was_put_is_taken_again() {
        let large = [7; MAX_DATAGRAM_BYTES];
        let items = [
            Item::Datagram(&[1]),
            Item::Probe([2; 8]),
            Item::Datagram(&large),
            Item::Answer([3; 8]),
        ];
        let mut stream = Vec::new();
        for item in &items {
            put(item, &mut stream);
        }
        let mut rest = &stream[..];
        for item in items {
            assert_eq!(take(&mut rest), Ok(Some(item)));
        }
        assert_eq!(take(&mut rest), Ok(None));
    }

    #[test]
    fn too_large_and_unknown_is_refused_before_it_is_read() {
        let length = u16::try_from(MAX_DATAGRAM_BYTES + 1).expect("small");
        assert_eq!(
            take(&mut &length.to_be_bytes()[..]),
            Err(Malformed::Length(MAX_DATAGRAM_BYTES + 1))
        );
        assert_eq!(take(&mut &[0, 0, 2][..]), Err(Malformed::Kind(2)));
        let mut none = Vec::new();
        put(&Item::Datagram(&[0; MAX_DATAGRAM_BYTES + 1]), &mut none);
        put(&Item::Datagram(&[]), &mut none);
        assert!(none.is_empty());
    }

    proptest! {
        #[test]
        fn any_bytes_are_items_or_a_refusal(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let mut rest = &bytes[..];
            while let Ok(Some(_)) = take(&mut rest) {}
            prop_assert!(rest.len() <= bytes.len());
        }
    }
}
