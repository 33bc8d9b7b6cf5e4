//! Text with a checksum: bech32m (BIP 350) without its limit of 90 characters.
//!
//! Five bits per character from an alphabet without `1`, `b`, `i`, `o`, then six characters of checksum. The code is a
//! BCH code over GF(32): up to 1,023 characters it finds every change of one to three of them (up to 89, of four), and so
//! every swap of two neighbours. Other errors pass with a probability of 2^-30.
//!
//! Limits: the caller bounds the text. Security: a checksum against accidents, not against somebody who makes a text.
//!
//! Source: BIP 173 (alphabet, code), BIP 350 (the constant that also finds inserted and deleted characters).

const ALPHABET: &[u8; 32] = b"qpzry9x8gf2tvdw0s3jn54khce6mua7l";
const GENERATOR: [u32; 5] = [
    0x3b6a_57b2,
    0x2650_8e6d,
    0x1ea1_19fa,
    0x3d42_33dd,
    0x2a14_62b3,
];
const BECH32M: u32 = 0x2bc8_30a3;
const CHECKSUM_CHARS: usize = 6;

/// Why a text cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// A character that is not in the alphabet.
    Character(char),
    /// The checksum differs, or the last bits are not zero.
    Checksum,
}

/// `prefix`, `1`, the bytes and the checksum, in lower case.
pub(super) fn encode(prefix: &str, bytes: &[u8]) -> String {
    let mut symbols = regroup(bytes);
    let mut state = start(prefix);
    for symbol in symbols.iter().copied().chain([0; CHECKSUM_CHARS]) {
        state = step(state, symbol);
    }
    let checksum = state ^ BECH32M;
    symbols.extend((0..6).rev().map(|i| low_bits(checksum >> (5 * i))));
    let text = symbols
        .iter()
        .map(|s| char::from(ALPHABET[usize::from(*s)]));
    format!("{prefix}1{}", text.collect::<String>())
}

/// The bytes of what follows `prefix` and `1`, in lower case.
pub(super) fn decode(prefix: &str, body: &str) -> Result<Vec<u8>, Unreadable> {
    let mut symbols = Vec::with_capacity(body.len());
    for c in body.chars() {
        let at = ALPHABET.iter().position(|a| char::from(*a) == c);
        let symbol = at.and_then(|at| u8::try_from(at).ok());
        symbols.push(symbol.ok_or(Unreadable::Character(c))?);
    }
    let state = symbols
        .iter()
        .fold(start(prefix), |s, symbol| step(s, *symbol));
    if state != BECH32M || symbols.len() < CHECKSUM_CHARS {
        return Err(Unreadable::Checksum);
    }
    symbols.truncate(symbols.len() - CHECKSUM_CHARS);
    to_bytes(&symbols).ok_or(Unreadable::Checksum)
}

fn low_bits(value: u32) -> u8 {
    (value & 31) as u8
}

fn start(prefix: &str) -> u32 {
    let high = prefix.bytes().map(|b| b >> 5);
    let low = prefix.bytes().map(|b| b & 31);
    high.chain([0]).chain(low).fold(1, step)
}

fn step(state: u32, symbol: u8) -> u32 {
    let top = state >> 25;
    let next = (state & 0x01ff_ffff) << 5 ^ u32::from(symbol);
    (0..5)
        .filter(|i| top >> i & 1 == 1)
        .fold(next, |next, i| next ^ GENERATOR[i])
}

/// Bytes as groups of five bits, the last one filled with zeros.
fn regroup(bytes: &[u8]) -> Vec<u8> {
    let (mut held, mut bits, mut symbols) = (0_u32, 0, Vec::with_capacity(bytes.len() * 8 / 5 + 7));
    for byte in bytes {
        held = held << 8 | u32::from(*byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            symbols.push(low_bits(held >> bits));
        }
        held &= (1 << bits) - 1;
    }
    if bits > 0 {
        symbols.push(low_bits(held << (5 - bits)));
    }
    symbols
}

/// The other way; `None` if whole characters or bits that are not zero are left over.
fn to_bytes(symbols: &[u8]) -> Option<Vec<u8>> {
    let (mut held, mut bits, mut bytes) = (0_u32, 0, Vec::with_capacity(symbols.len() * 5 / 8));
    for symbol in symbols {
        held = held << 5 | u32::from(*symbol);
        bits += 5;
        if bits >= 8 {
            bits -= 8;
            bytes.push((held >> bits & 0xff) as u8);
        }
        held &= (1 << bits) - 1;
    }
    (bits < 5 && held == 0).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// BIP 350, valid bech32m strings: their checksums are ours.
    #[test]
    fn checksum_is_that_of_bip_350() {
        for text in [
            "a1lqfn3a",
            "an83characterlonghumanreadablepartthatcontainsthetheexcludedcharactersbioandnumber11sg7hg6",
            "abcdef1l7aum6echk45nj3s0wdvt2fg8x9yrzpqzd3ryx",
            "split1checkupstagehandshakeupstreamerranterredcaperredlc445v",
            "?1v759aa",
        ] {
            let (prefix, body) = text.rsplit_once('1').expect("a separator");
            let symbols = body.bytes().map(|b| {
                u8::try_from(
                    ALPHABET
                        .iter()
                        .position(|a| *a == b)
                        .expect("in the alphabet"),
                )
                .expect("below 32")
            });
            assert_eq!(symbols.fold(start(prefix), step), BECH32M, "{text}");
        }
    }

    #[test]
    fn bytes_of_every_length_come_back() {
        for length in 0..80_u8 {
            let bytes: Vec<u8> = (0..length).map(|i| i.wrapping_mul(37) ^ 0xa5).collect();
            let text = encode("qrt", &bytes);
            let body = text.strip_prefix("qrt1").expect("the prefix");
            assert_eq!(decode("qrt", body), Ok(bytes));
        }
    }
}
