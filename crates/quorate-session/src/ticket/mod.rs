//! Ticket: a short text that points at an open call, for people to copy, read out and scan.
//!
//! ```text
//! qrt1 ‖ bech32m( version = 1 ‖ PeerId's key (32) ‖ first half of the call's digest (16) ‖ 0..2 × [length ‖ multiaddr] )
//!   for the eye    qrt1qyw508-d6qej-…          groups of five
//!   for a QR code  QRT1QYW508D6QEJ…            alphanumeric mode
//!   as a link      https://quorate.org/j#qrt1… the fragment stays in the browser
//! ```
//! Case, white space and dashes do not matter on reading. Every change of one to three characters, and every swap of
//! neighbours, is found by the checksum before anything is asked of the network.
//!
//! Limits: [`MAX_TICKET_CHARS`], [`MAX_TICKET_HINTS`], [`MAX_HINT_BYTES`](hint::MAX_HINT_BYTES).
//!
//! Security. Provides: who holds a genuine ticket reaches the inviter's PeerId and no other, and accepts only the call that
//! the inviter signed before making the ticket (half a SHA-256: 2^64 work to make two calls for one ticket, which gains
//! the inviter nothing, and 2^128 to make another call for a given one). Does not provide: secrecy. A ticket is not a
//! secret: it lets one see the call and ask, never take a seat. Whoever changes the ticket on its way sends the reader
//! elsewhere; the DID and the name in the call, and the words compared on admission, are what tells.

mod checked_text;
mod hint;

use crate::{
    limits::{MAX_TICKET_CHARS, MAX_TICKET_HINTS},
    peer_id::PeerId,
};
use checked_text::Unreadable;
use quorate_identity::{Code, Digest, Rejection};
use std::fmt;

const PREFIX: &str = "qrt";
const LINK: &str = "https://quorate.org/j#";
const VERSION: u8 = 1;
/// Characters of one group in the form for people.
const GROUP_CHARS: usize = 5;
/// Bytes of the call's digest in a ticket.
const CALL_BYTES: usize = 16;

/// Where an open call is found, and which one it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    peer: PeerId,
    call: [u8; CALL_BYTES],
    hints: Vec<String>,
}

impl Ticket {
    /// A ticket for the call named `call`, served by `peer`. Of `hints` (multiaddr text) at most two can be in it; one that
    /// ends in `peer` is shortened.
    pub fn new(peer: PeerId, call: &Digest, hints: &[String]) -> Result<Self, Rejection> {
        let mut prefix = [0; CALL_BYTES];
        prefix.copy_from_slice(&call.0[..CALL_BYTES]);
        let own = format!("/p2p/{peer}");
        let hints: Vec<String> = hints
            .iter()
            .map(|text| text.strip_suffix(&own).unwrap_or(text).to_owned())
            .collect();
        if hints.len() > MAX_TICKET_HINTS {
            return Err(refuse(format!(
                "a ticket carries at most {MAX_TICKET_HINTS} addresses"
            )));
        }
        if let Some(bad) = hints.iter().find(|text| hint::to_bytes(text).is_none()) {
            return Err(refuse(format!(
                "{bad:?} is no address that a ticket can carry"
            )));
        }
        Ok(Self {
            peer,
            call: prefix,
            hints,
        })
    }

    /// Reads a ticket in any of its forms.
    pub fn parse(text: &str) -> Result<Self, Rejection> {
        if text.len() > MAX_TICKET_CHARS {
            return Err(refuse("this is too long for a ticket".into()));
        }
        let text = text.trim();
        let ticket = match text.split_once('#') {
            None => text,
            Some((page, fragment)) if is_page(page) => fragment,
            Some(_) => {
                return Err(refuse(
                    "this is neither a ticket nor a link with one".into(),
                ));
            }
        };
        let plain: String = ticket
            .chars()
            .filter(|c| !is_separator(*c))
            .map(|c| c.to_ascii_lowercase())
            .collect();
        let body = plain
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.strip_prefix('1'))
            .ok_or_else(|| refuse("this is not a ticket: it does not begin with qrt1".into()))?;
        let bytes = checked_text::decode(PREFIX, body).map_err(|why| match why {
            Unreadable::Character(c) => refuse(format!(
                "this ticket has a typing error: {c:?} cannot be in it"
            )),
            Unreadable::Checksum => {
                refuse("this ticket is not complete, or has a typing error (checksum)".into())
            }
        })?;
        Self::from_bytes(&bytes)
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, Rejection> {
        let short = || refuse("this ticket ends too early".into());
        let (version, rest) = bytes.split_first().ok_or_else(short)?;
        if *version != VERSION {
            return Err(refuse(format!(
                "this ticket is of version {version}, this is version {VERSION}: a newer quorate can read it"
            )));
        }
        let (key, rest) = rest.split_first_chunk::<32>().ok_or_else(short)?;
        let (call, mut rest) = rest.split_first_chunk::<CALL_BYTES>().ok_or_else(short)?;
        let mut hints = Vec::new();
        while let Some((length, more)) = rest.split_first() {
            let (bytes, more) = more
                .split_at_checked(usize::from(*length))
                .ok_or_else(short)?;
            let fits = hints.len() < MAX_TICKET_HINTS && bytes.len() <= hint::MAX_HINT_BYTES;
            let text = hint::to_text(bytes).filter(|_| fits);
            hints.push(text.ok_or_else(|| {
                refuse("this ticket carries an address that this version does not know".into())
            })?);
            rest = more;
        }
        let peer = PeerId::from_bytes(*key);
        peer.public_key()
            .map_err(|_| refuse("this ticket names no usable PeerId".into()))?;
        Ok(Self {
            peer,
            call: *call,
            hints,
        })
    }

    /// PeerId of whoever serves the call.
    pub fn peer(&self) -> PeerId {
        self.peer
    }

    /// The first half of the call's digest.
    pub fn call(&self) -> [u8; CALL_BYTES] {
        self.call
    }

    /// Addresses (multiaddr text, without `/p2p/…` of [`peer`](Self::peer)) to look at first.
    pub fn hints(&self) -> &[String] {
        &self.hints
    }

    /// Whether this ticket is for the call named `digest`.
    pub fn names(&self, digest: &Digest) -> bool {
        digest.0[..CALL_BYTES] == self.call
    }

    /// The form for people: `qrt1` and groups of five characters.
    pub fn encode(&self) -> String {
        let plain = self.plain();
        let (head, body) = plain.split_at(PREFIX.len() + 1);
        let groups: Vec<&[u8]> = body.as_bytes().chunks(GROUP_CHARS).collect();
        let groups = groups.iter().map(|group| String::from_utf8_lossy(group));
        format!("{head}{}", groups.collect::<Vec<_>>().join("-"))
    }

    /// The form for a QR code: capitals and digits, which its alphanumeric mode packs best.
    pub fn qr_text(&self) -> String {
        self.plain().to_ascii_uppercase()
    }

    /// The form as a link. No server sees what stands after the `#`.
    pub fn link(&self) -> String {
        format!("{LINK}{}", self.plain())
    }

    /// The key of the beacon by which holders of this ticket find the inviter on one machine.
    pub fn beacon_key(&self) -> [u8; 32] {
        Digest::of("quorate/1/lobby-beacon", &self.call).0
    }

    fn plain(&self) -> String {
        let mut bytes = vec![VERSION];
        bytes.extend(self.peer.as_bytes());
        bytes.extend(self.call);
        for hint in self.hints.iter().filter_map(|text| hint::to_bytes(text)) {
            // At most MAX_HINT_BYTES, which fits one byte.
            bytes.push(u8::try_from(hint.len()).unwrap_or_default());
            bytes.extend(hint);
        }
        checked_text::encode(PREFIX, &bytes)
    }
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.encode())
    }
}

impl std::str::FromStr for Ticket {
    type Err = Rejection;

    fn from_str(text: &str) -> Result<Self, Rejection> {
        Self::parse(text)
    }
}

/// Whether what stands before the `#` is a page. Which one does not matter: it is never fetched.
fn is_page(text: &str) -> bool {
    text.get(..8)
        .is_some_and(|scheme| scheme.eq_ignore_ascii_case("https://"))
}

/// White space, and the dashes that programs make of dashes.
fn is_separator(c: char) -> bool {
    c.is_whitespace() || matches!(c, '-' | '\u{ad}' | '\u{2010}'..='\u{2015}' | '\u{2212}')
}

fn refuse(why: String) -> Rejection {
    Rejection::new(Code::Ticket, "F1", why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use quorate_identity::SigningKey;

    fn peer(seed: u8) -> PeerId {
        PeerId::of(&SigningKey::from_seed(&[seed; 32]).public())
    }

    fn ticket(hints: &[&str]) -> Ticket {
        let hints: Vec<String> = hints.iter().map(|h| (*h).to_owned()).collect();
        Ticket::new(peer(7), &Digest::of("call", b"x"), &hints).expect("a ticket")
    }

    const HINTS: [&str; 2] = ["/ip4/192.0.2.7/udp/4001/quic-v1", "/ip6/2001:db8::1/tcp/9"];

    fn samples() -> [Ticket; 3] {
        [ticket(&[]), ticket(&HINTS[..1]), ticket(&HINTS)]
    }

    fn refused(text: &str) {
        let refusal = Ticket::parse(text).expect_err(text);
        assert_eq!((refusal.code, refusal.rule), (Code::Ticket, "F1"), "{text}");
    }

    #[test]
    fn every_form_reads_as_the_same_ticket() {
        for ticket in samples() {
            let text = ticket.encode();
            assert!(text.starts_with("qrt1q"), "{text}");
            let spaced = text.replace('-', " ");
            for form in [
                text.clone(),
                ticket.qr_text(),
                ticket.link(),
                ticket.link().to_uppercase(),
                format!(" \n{text}\t"),
                text.replace('-', "\n"),
                text.replace('-', "\u{2013}"),
                format!("Q{}", &spaced[1..]),
                format!("https://mirror.example/x?y#{text}"),
            ] {
                assert_eq!(Ticket::parse(&form), Ok(ticket.clone()), "{form}");
            }
        }
    }

    #[test]
    fn forms_have_the_size_and_alphabet_they_are_made_for() {
        let ticket = ticket(&[]);
        assert_eq!(ticket.qr_text().len(), 89);
        let alphanumeric = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit();
        assert!(ticket.qr_text().chars().all(alphanumeric));
        assert!(ticket.encode().split('-').skip(1).all(|g| g.len() == 5));
    }

    #[test]
    fn every_changed_character_is_found() {
        for ticket in samples() {
            let text: Vec<char> = ticket.qr_text().to_lowercase().chars().collect();
            for at in 0..text.len() {
                for c in ' '..='~' {
                    if c.to_ascii_lowercase() != text[at] {
                        let mut changed = text.clone();
                        changed[at] = c;
                        refused(&changed.into_iter().collect::<String>());
                    }
                }
            }
        }
    }

    #[test]
    fn every_swap_of_neighbours_and_every_lost_or_doubled_character_is_found() {
        for ticket in samples() {
            let text: Vec<char> = ticket.qr_text().to_lowercase().chars().collect();
            for at in 0..text.len() {
                let mut lost = text.clone();
                let c = lost.remove(at);
                refused(&lost.into_iter().collect::<String>());
                let mut doubled = text.clone();
                doubled.insert(at, c);
                refused(&doubled.into_iter().collect::<String>());
                if at > 0 && text[at] != text[at - 1] {
                    let mut swapped = text.clone();
                    swapped.swap(at, at - 1);
                    refused(&swapped.into_iter().collect::<String>());
                }
            }
        }
    }

    #[test]
    fn what_is_no_ticket_is_refused() {
        let good = ticket(&[]).plain();
        let link = "https://quorate.org/j?t=";
        let known = checked_text::decode("qrt", &good[4..]).expect("ours");
        for text in [
            "",
            "qrt1",
            "qrt",
            "quorate1:abc",
            "#",
            "https://quorate.org/j#",
            &format!("http://quorate.org/j#{good}"),
            &format!("{link}{good}"),
            &format!("{good}{good}"),
            &good[..good.len() - 1],
            &"q".repeat(MAX_TICKET_CHARS + 1),
            &checked_text::encode("qrt", &[]),
            &checked_text::encode("qrt", &[1; 48]),
            &checked_text::encode("qrt", &[2; 49]),
            // An address of a kind that is not known.
            &checked_text::encode("qrt", &[&known[..], &[1, 0xff]].concat()),
            &checked_text::encode("qrt", &[&known[..], &[9, 4]].concat()),
            // A key of small order.
            &checked_text::encode("qrt", &[&[1][..], &[0; 48]].concat()),
        ] {
            refused(text);
        }
    }

    #[test]
    fn addresses_that_do_not_fit_are_refused() {
        let many: Vec<String> = vec![HINTS[0].to_owned(); MAX_TICKET_HINTS + 1];
        for hints in [
            many,
            vec!["/dns4/x.example/tcp/1".to_owned()],
            vec![String::new()],
        ] {
            assert!(Ticket::new(peer(7), &Digest([0; 32]), &hints).is_err());
        }
        let own = format!("{}/p2p/{}", HINTS[0], peer(7));
        let ticket = Ticket::new(peer(7), &Digest([0; 32]), &[own]).expect("shortened");
        assert_eq!(ticket.hints(), [HINTS[0]]);
    }

    #[test]
    fn a_ticket_names_one_call() {
        let ticket = ticket(&[]);
        assert!(ticket.names(&Digest::of("call", b"x")));
        assert!(!ticket.names(&Digest::of("call", b"y")));
        let other = Ticket::new(peer(7), &Digest::of("call", b"y"), &[]).expect("a ticket");
        assert_ne!(ticket.beacon_key(), other.beacon_key());
    }

    proptest! {
        #[test]
        fn two_or_three_changed_characters_are_always_found(
            which in 0_usize..3, seed in any::<[u8; 32]>(), changes in proptest::collection::btree_map(4_usize..200, 1_u8..32, 2..=3)
        ) {
            let hints: Vec<String> = HINTS[..which].iter().map(|h| (*h).to_owned()).collect();
            let peer = PeerId::of(&SigningKey::from_seed(&seed).public());
            let ticket = Ticket::new(peer, &Digest(seed), &hints).expect("a ticket");
            let mut text = ticket.plain().into_bytes();
            let alphabet = b"qpzry9x8gf2tvdw0s3jn54khce6mua7l";
            let mut changed = false;
            for (at, by) in changes {
                if at < text.len() {
                    let old = alphabet.iter().position(|a| *a == text[at]).expect("in it");
                    text[at] = alphabet[old ^ usize::from(by)];
                    changed = true;
                }
            }
            prop_assume!(changed);
            let text = String::from_utf8(text).expect("ASCII");
            prop_assert_eq!(Ticket::parse(&text).expect_err("changed").code, Code::Ticket);
        }

        #[test]
        fn any_text_and_any_bytes_end_in_an_answer(text in ".{0,200}", bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Ticket::parse(&text);
            if let Ok(ticket) = Ticket::parse(&checked_text::encode("qrt", &bytes)) {
                prop_assert_eq!(Ticket::parse(&ticket.encode()), Ok(ticket));
            }
        }
    }
}
