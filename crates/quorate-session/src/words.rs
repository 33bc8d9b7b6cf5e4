//! Words that people compare by voice.
//!
//! ```text
//! safety words     12 words, 132 bits of the roster's digest: the same on all screens
//! admission words   3 words,  33 bits, of one application in one lobby: the same at the inviter and at the applicant
//! ```
//! Security. Twelve words cannot be hit by trying: a member who shows two rosters would need 2^66 work. Three words alone
//! could be (2^33), so they are made in a way that leaves nothing to try: the inviter commits to a random value before it
//! sees the application and reveals it afterwards, and the application carries a random value of the applicant. Whoever
//! stands between, or applies under another's name, has one guess in 2^33 per application.
//!
//! Source: the list of BIP 39, English; commitment before comparison as in ZRTP (RFC 6189, section 4.4.1.1).

use bip39::Language;
use quorate_identity::{B64, Digest};

/// Words of a roster.
pub const SAFETY_WORDS: usize = 12;
/// Words of an application.
pub const ADMISSION_WORDS: usize = 3;
/// Bits of one word: the list has 2,048.
const WORD_BITS: usize = 11;

/// The words of a roster digest, to be compared by all parties.
pub fn safety_words(roster: &Digest) -> [&'static str; SAFETY_WORDS] {
    words(roster)
}

/// What the inviter sends with the call, before it sees any application on that link.
pub fn admission_commitment(reveal: &B64<32>) -> Digest {
    Digest::of("quorate/1/admission-commit", &reveal.0)
}

/// The words of one application: of the call, the application and what the inviter had committed to.
pub fn admission_words(
    call: &Digest,
    application: &Digest,
    reveal: &B64<32>,
) -> [&'static str; ADMISSION_WORDS] {
    let all = [call.0, application.0, reveal.0].concat();
    words(&Digest::of("quorate/1/admission-words", &all))
}

/// The first bits of `digest` as words.
fn words<const N: usize>(digest: &Digest) -> [&'static str; N] {
    let list = Language::English.word_list();
    let bit = |at: usize| digest.0[at / 8] >> (7 - at % 8) & 1;
    std::array::from_fn(|n| {
        let bits = n * WORD_BITS..(n + 1) * WORD_BITS;
        list[bits.fold(0, |index, at| index << 1 | usize::from(bit(at)))]
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// BIP 39, first English vectors: 128 bits and a checksum make twelve words. The eleven first depend on the bits alone.
    #[test]
    fn words_are_those_of_the_list_in_its_order() {
        let mut digest = Digest([0x7f; 32]);
        let known = "legal winner thank year wave sausage worth useful legal winner thank";
        assert_eq!(safety_words(&digest)[..11].join(" "), known);
        digest = Digest([0x80; 32]);
        let known = "letter advice cage absurd amount doctor acoustic avoid letter advice cage";
        assert_eq!(safety_words(&digest)[..11].join(" "), known);
        assert_eq!(safety_words(&Digest([0; 32])), ["abandon"; 12]);
        assert_eq!(safety_words(&Digest([0xff; 32])), ["zoo"; 12]);
    }

    #[test]
    fn each_of_the_132_bits_changes_a_word_and_no_other_does() {
        let base = Digest::of("x", b"");
        let mut seen = BTreeSet::from([safety_words(&base)]);
        for at in 0..132 {
            let mut digest = base;
            digest.0[at / 8] ^= 0x80 >> (at % 8);
            assert!(seen.insert(safety_words(&digest)), "bit {at}");
        }
        let mut digest = base;
        digest.0[16] ^= 0x08;
        assert_eq!(safety_words(&digest), safety_words(&base));
    }

    #[test]
    fn admission_words_depend_on_all_three() {
        let (a, b) = (Digest([1; 32]), Digest([2; 32]));
        let (r, s) = (B64([3; 32]), B64([4; 32]));
        let all = BTreeSet::from([
            admission_words(&a, &b, &r),
            admission_words(&b, &a, &r),
            admission_words(&a, &b, &s),
            admission_words(&a, &a, &r),
        ]);
        assert_eq!(all.len(), 4);
        assert_ne!(admission_commitment(&r), admission_commitment(&s));
    }
}
