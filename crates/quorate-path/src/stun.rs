//! What an ordinary STUN server is asked, and answers: "from which address do my packets come?"
//!
//! ```text
//!   party                                            server (a relay, or another party)
//!     | Binding request, 44 bytes ------------------> |
//!     | <--- Binding success, XOR-MAPPED-ADDRESS ---- |   32 bytes (IPv4) or 44 bytes (IPv6)
//!     | the same with CHANGE-REQUEST: port ---------> |   where the server has a second port
//!     | <--- the same answer, from the second port -- |   shows whether a NAT lets it in
//! ```
//! Only this one exchange of RFC 8489 is spoken, without credentials: checks between peers, which
//! have credentials, are the agents' (see [`crate::Agent`]). Requests are padded to the size of the
//! largest answer, and a shorter request gets no answer, so a server cannot be used to make a
//! forged sender's victim receive more than was sent. Of RFC 5780 the change of the port is spoken and
//! nothing else: an answer always goes where its question came from. A server with a second port names
//! it in its answers (`OTHER_PORT`, of ours) where the question leaves room for that.
//!
//! **Limits.** A message has at most [`MAX_CHECK_BYTES`]; attributes are walked, never collected.
//! **Security.** An answer is a claim of whoever knows the transaction id: the one who asks draws
//! it unpredictably, checks where the answer comes from, and treats the address as a candidate that
//! still has to be proven. Nothing here authenticates the server.
//!
//! Source: RFC 8489, sections 5, 6.3, 14.2 and 14.14; RFC 5780, section 7.2; examples of RFC 5769.

use crate::{Refusal, limits::MAX_CHECK_BYTES};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What tells one question from another.
pub type Transaction = [u8; 12];

const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const HEADER: usize = 20;
const BINDING_REQUEST: u16 = 0x0001;
const BINDING_SUCCESS: u16 = 0x0101;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
/// RFC 5780: answer from elsewhere. Of its flags, the one for another port.
const CHANGE_REQUEST: u16 = 0x0003;
const CHANGE_PORT: [u8; 4] = [0, 0, 0, 2];
/// Optional to understand: the other port of this server, and two zero bytes.
const OTHER_PORT: u16 = 0xc571;
/// Optional to understand, and of any length: it carries the padding.
const SOFTWARE: u16 = 0x8022;
/// Attributes below this number must be understood by who reads them.
const OPTIONAL: u16 = 0x8000;
const FAMILY_IPV4: u8 = 1;
const FAMILY_IPV6: u8 = 2;
/// Header, and an attribute with an IPv6 address: the largest answer, and so the smallest request.
const LARGEST_ANSWER: usize = HEADER + 4 + 20;
/// The same with the server's other port.
const LARGEST_WITH_PORT: usize = LARGEST_ANSWER + 8;

/// The question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    transaction: Transaction,
    /// Ask which other port there is, or for an answer from it.
    other: Option<Other>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Other {
    Named,
    Answers,
}

/// What a server answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Which question it answers.
    pub transaction: Transaction,
    /// The address that the server saw.
    pub seen: SocketAddr,
    /// Its other port, if it has one and said so.
    pub other_port: Option<u16>,
}

impl Request {
    /// A question with this transaction id, which the caller draws unpredictably.
    pub fn new(transaction: Transaction) -> Self {
        Self {
            transaction,
            other: None,
        }
    }

    /// The same, with room for the server's other port in the answer.
    #[must_use]
    pub fn naming_other_port(mut self) -> Self {
        self.other = Some(Other::Named);
        self
    }

    /// The same, to be answered from the server's other port.
    #[must_use]
    pub fn from_other_port(mut self) -> Self {
        self.other = Some(Other::Answers);
        self
    }

    /// The bytes of the datagram, as many as the largest answer has.
    pub fn encode(&self) -> Vec<u8> {
        let mut message = header(BINDING_REQUEST, self.transaction);
        if self.other == Some(Other::Answers) {
            push_attribute(&mut message, CHANGE_REQUEST, &CHANGE_PORT);
        }
        let size = match self.other {
            None => LARGEST_ANSWER,
            Some(_) => LARGEST_WITH_PORT,
        };
        let padding = vec![b' '; size - message.len() - 4];
        push_attribute(&mut message, SOFTWARE, &padding);
        message
    }
}

/// The transaction of a Binding success, whatever else is in it. Use it to tell answers to
/// questions of this end from checks of peers, on a socket that gets both.
pub fn answered(bytes: &[u8]) -> Option<Transaction> {
    let (kind, transaction, _) = parse(bytes).ok()?;
    (kind == BINDING_SUCCESS).then_some(transaction)
}

/// Reads an answer: which question it answers, and the address the server saw.
pub fn parse_response(bytes: &[u8]) -> Result<(Transaction, SocketAddr), Refusal> {
    parse_answer(bytes).map(|answer| (answer.transaction, answer.seen))
}

/// Reads an answer with all that is in it.
pub fn parse_answer(bytes: &[u8]) -> Result<Answer, Refusal> {
    let (kind, transaction, attributes) = parse(bytes)?;
    if kind != BINDING_SUCCESS {
        return Err(Refusal::Stun("not a Binding success"));
    }
    let mut seen = None;
    let mut other_port = None;
    for attribute in Attributes(attributes) {
        let (kind, value) = attribute?;
        match kind {
            XOR_MAPPED_ADDRESS if seen.is_none() => seen = Some(unmask(value, transaction)?),
            OTHER_PORT => {
                other_port = match value {
                    [high, low, 0, 0] => Some(u16::from_be_bytes([*high, *low])),
                    _ => None,
                };
            }
            kind if kind < OPTIONAL && kind != XOR_MAPPED_ADDRESS && !is_known(kind) => {
                return Err(Refusal::Stun("an attribute that has to be understood"));
            }
            _ => {}
        }
    }
    Ok(Answer {
        transaction,
        seen: seen.ok_or(Refusal::Stun("no mapped address"))?,
        other_port: other_port.filter(|port| *port != 0),
    })
}

/// The answer to a question that came from `source`. `None`: not such a question, shorter than its
/// answer, or one with credentials, which is meant for an agent.
pub fn answer(request: &[u8], source: SocketAddr) -> Option<Vec<u8>> {
    respond(request, source, None).map(|(answer, _)| answer)
}

/// The same of a server that has another port: the answer, and whether it is to leave from that one.
pub fn respond(
    request: &[u8],
    source: SocketAddr,
    other_port: Option<u16>,
) -> Option<(Vec<u8>, bool)> {
    let (kind, transaction, attributes) = parse(request).ok()?;
    if kind != BINDING_REQUEST {
        return None;
    }
    let mut elsewhere = false;
    for attribute in Attributes(attributes) {
        match attribute.ok()? {
            // Another address is refused: there is none.
            (CHANGE_REQUEST, value) if value == CHANGE_PORT && other_port.is_some() => {
                elsewhere = true;
            }
            (kind, _) if kind < OPTIONAL => return None,
            _ => {}
        }
    }
    let mut message = header(BINDING_SUCCESS, transaction);
    push_attribute(&mut message, XOR_MAPPED_ADDRESS, &mask(source, transaction));
    if let Some(port) = other_port.filter(|_| message.len() + 8 <= request.len()) {
        let [high, low] = port.to_be_bytes();
        push_attribute(&mut message, OTHER_PORT, &[high, low, 0, 0]);
    }
    (message.len() <= request.len()).then_some((message, elsewhere))
}

/// Attributes of RFC 8489 that servers of today add to an answer, and that change nothing for us:
/// MAPPED-ADDRESS, MESSAGE-INTEGRITY and its SHA-256 form.
fn is_known(kind: u16) -> bool {
    matches!(kind, 0x0001 | 0x0008 | 0x001c)
}

fn header(kind: u16, transaction: Transaction) -> Vec<u8> {
    let mut message = Vec::with_capacity(LARGEST_ANSWER);
    message.extend_from_slice(&kind.to_be_bytes());
    message.extend_from_slice(&[0, 0]);
    message.extend_from_slice(&COOKIE);
    message.extend_from_slice(&transaction);
    message
}

/// Adds an attribute; values here are short and need no padding.
fn push_attribute(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    debug_assert!(value.len().is_multiple_of(4));
    let length = |bytes: usize| u16::try_from(bytes).unwrap_or(0).to_be_bytes();
    message.extend_from_slice(&kind.to_be_bytes());
    message.extend_from_slice(&length(value.len()));
    message.extend_from_slice(value);
    let whole = length(message.len() - HEADER);
    message[2..4].copy_from_slice(&whole);
}

/// Splits a message into its type, transaction and attributes.
fn parse(bytes: &[u8]) -> Result<(u16, Transaction, &[u8]), Refusal> {
    if bytes.len() > MAX_CHECK_BYTES {
        return Err(Refusal::Stun("too long"));
    }
    let (head, attributes) = bytes
        .split_first_chunk::<HEADER>()
        .ok_or(Refusal::Stun("shorter than a header"))?;
    let kind = u16::from_be_bytes([head[0], head[1]]);
    let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
    if kind >= 0x4000 || head[4..8] != COOKIE {
        return Err(Refusal::Stun("not STUN"));
    }
    if length != attributes.len() || !length.is_multiple_of(4) {
        return Err(Refusal::Stun("its length is wrong"));
    }
    let mut transaction = [0; 12];
    transaction.copy_from_slice(&head[8..]);
    Ok((kind, transaction, attributes))
}

struct Attributes<'a>(&'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<(u16, &'a [u8]), Refusal>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let attribute = self.split();
        if attribute.is_none() {
            self.0 = &[];
        }
        Some(attribute.ok_or(Refusal::Stun("an attribute ends beyond the message")))
    }
}

impl<'a> Attributes<'a> {
    fn split(&mut self) -> Option<(u16, &'a [u8])> {
        let (head, rest) = self.0.split_first_chunk::<4>()?;
        let kind = u16::from_be_bytes([head[0], head[1]]);
        let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
        let value = rest.get(..length)?;
        self.0 = rest.get(length.next_multiple_of(4)..)?;
        Some((kind, value))
    }
}

/// The bytes an address is masked with: the cookie, then the transaction.
fn pad(transaction: Transaction) -> [u8; 16] {
    let mut pad = [0; 16];
    pad[..4].copy_from_slice(&COOKIE);
    pad[4..].copy_from_slice(&transaction);
    pad
}

fn mask(address: SocketAddr, transaction: Transaction) -> Vec<u8> {
    let pad = pad(transaction);
    let ip = address.ip().to_canonical();
    let (family, octets) = match ip {
        IpAddr::V4(ip) => (FAMILY_IPV4, ip.octets().to_vec()),
        IpAddr::V6(ip) => (FAMILY_IPV6, ip.octets().to_vec()),
    };
    let mut value = vec![0, family];
    value.extend(
        address
            .port()
            .to_be_bytes()
            .iter()
            .zip(pad)
            .map(|(a, b)| a ^ b),
    );
    value.extend(octets.iter().zip(pad).map(|(a, b)| a ^ b));
    value
}

fn unmask(value: &[u8], transaction: Transaction) -> Result<SocketAddr, Refusal> {
    let pad = pad(transaction);
    let (head, octets) = value
        .split_first_chunk::<4>()
        .ok_or(Refusal::Stun("a mapped address that is too short"))?;
    let port = u16::from_be_bytes([head[2] ^ pad[0], head[3] ^ pad[1]]);
    let mut plain = [0_u8; 16];
    for (to, (a, b)) in plain.iter_mut().zip(octets.iter().zip(pad)) {
        *to = a ^ b;
    }
    let ip: IpAddr = match (head[1], octets.len()) {
        (FAMILY_IPV4, 4) => Ipv4Addr::new(plain[0], plain[1], plain[2], plain[3]).into(),
        (FAMILY_IPV6, 16) => Ipv6Addr::from(plain).into(),
        _ => return Err(Refusal::Stun("a mapped address of no known family")),
    };
    Ok(SocketAddr::new(ip.to_canonical(), port))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    const EXAMPLE: Transaction = [
        0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae,
    ];

    fn message(kind: u16, attributes: &[u8]) -> Vec<u8> {
        let mut bytes = header(kind, EXAMPLE);
        bytes.extend_from_slice(attributes);
        let length = u16::try_from(attributes.len()).unwrap().to_be_bytes();
        bytes[2..4].copy_from_slice(&length);
        bytes
    }

    #[test]
    fn the_mapped_addresses_of_the_rfcs_examples_are_read() {
        let v4 = [0, 0x20, 0, 8, 0, 1, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43];
        let (transaction, address) = parse_response(&message(BINDING_SUCCESS, &v4)).unwrap();
        assert_eq!(transaction, EXAMPLE);
        assert_eq!(address, "192.0.2.1:32853".parse().unwrap());
        let v6 = [
            0, 0x20, 0, 0x14, 0, 2, 0xa1, 0x47, 0x01, 0x13, 0xa9, 0xfa, 0xa5, 0xd3, 0xf1, 0x79,
            0xbc, 0x25, 0xf4, 0xb5, 0xbe, 0xd2, 0xb9, 0xd9,
        ];
        let (_, address) = parse_response(&message(BINDING_SUCCESS, &v6)).unwrap();
        let expected = "[2001:db8:1234:5678:11:2233:4455:6677]:32853";
        assert_eq!(address, expected.parse().unwrap());
    }

    #[test]
    fn an_answer_tells_the_source_and_is_never_larger_than_the_request() {
        for source in [
            "192.0.2.7:4001",
            "[2001:db8::7]:9",
            "[::ffff:192.0.2.7]:4001",
        ] {
            let source: SocketAddr = source.parse().unwrap();
            let request = Request::new(EXAMPLE).encode();
            let response = answer(&request, source).unwrap();
            assert!(response.len() <= request.len());
            let canonical = SocketAddr::new(source.ip().to_canonical(), source.port());
            assert_eq!(parse_response(&response), Ok((EXAMPLE, canonical)));
            assert_eq!(answered(&response), Some(EXAMPLE));
            assert_eq!(answered(&request), None);
        }
    }

    #[test]
    fn a_request_without_padding_is_not_answered_to_a_larger_address() {
        let bare = message(BINDING_REQUEST, &[]);
        assert_eq!(answer(&bare, "[2001:db8::7]:9".parse().unwrap()), None);
        assert_eq!(answer(&bare, "192.0.2.7:9".parse().unwrap()), None);
    }

    #[test]
    fn a_server_with_another_port_names_it_and_answers_from_it_when_asked() {
        for source in ["192.0.2.7:4001", "[2001:db8::7]:9"] {
            let source: SocketAddr = source.parse().unwrap();
            let plain = Request::new(EXAMPLE).encode();
            let naming = Request::new(EXAMPLE).naming_other_port().encode();
            let from_there = Request::new(EXAMPLE).from_other_port().encode();
            for (request, elsewhere) in [(&plain, false), (&naming, false), (&from_there, true)] {
                let (response, other) = respond(request, source, Some(4003)).unwrap();
                assert_eq!(other, elsewhere);
                assert!(response.len() <= request.len());
                let answer = parse_answer(&response).unwrap();
                assert_eq!((answer.transaction, answer.seen), (EXAMPLE, source));
                let room = request.len() > plain.len() || source.is_ipv4();
                assert_eq!(answer.other_port, room.then_some(4003));
            }
            // Who has no other port says so by silence, and by naming none.
            assert_eq!(answer(&from_there, source), None);
            let (response, _) = respond(&naming, source, None).unwrap();
            assert_eq!(parse_answer(&response).unwrap().other_port, None);
        }
    }

    #[test]
    fn no_answer_is_sent_from_another_address() {
        let source = "192.0.2.7:4001".parse().unwrap();
        for flags in [4, 6, 0, 0xff] {
            let mut request = message(BINDING_REQUEST, &[]);
            push_attribute(&mut request, CHANGE_REQUEST, &[0, 0, 0, flags]);
            push_attribute(&mut request, SOFTWARE, &[b' '; 40]);
            assert_eq!(respond(&request, source, Some(4003)), None, "{flags}");
        }
    }

    #[test]
    fn checks_of_peers_are_left_to_the_agents() {
        let username = [0, 6, 0, 4, b'a', b':', b'b', b'c'];
        let mut check = message(BINDING_REQUEST, &[]);
        push_attribute(&mut check, SOFTWARE, &[b' '; 40]);
        let source = "192.0.2.7:9".parse().unwrap();
        assert!(answer(&check, source).is_some());
        check.extend_from_slice(&username);
        let length = u16::try_from(check.len() - HEADER).unwrap();
        check[2..4].copy_from_slice(&length.to_be_bytes());
        assert_eq!(answer(&check, source), None);
    }

    #[test]
    fn malformed_answers_are_refused_by_name() {
        let refusal = |bytes: &[u8]| parse_response(bytes).unwrap_err();
        let good = answer(
            &Request::new(EXAMPLE).encode(),
            "192.0.2.1:7".parse().unwrap(),
        )
        .unwrap();
        assert_eq!(refusal(&good[..19]), Refusal::Stun("shorter than a header"));
        assert_eq!(refusal(&good[..28]), Refusal::Stun("its length is wrong"));
        let mut other = good.clone();
        other[4] ^= 1;
        assert_eq!(refusal(&other), Refusal::Stun("not STUN"));
        assert_eq!(
            refusal(&message(BINDING_SUCCESS, &[])),
            Refusal::Stun("no mapped address")
        );
        assert_eq!(
            refusal(&message(BINDING_REQUEST, &[])),
            Refusal::Stun("not a Binding success")
        );
        let beyond = message(BINDING_SUCCESS, &[0, 0x20, 0, 40, 0, 1, 0, 0]);
        assert_eq!(
            refusal(&beyond),
            Refusal::Stun("an attribute ends beyond the message")
        );
        let family = message(
            BINDING_SUCCESS,
            &[0, 0x20, 0, 8, 0, 2, 0xa1, 0x47, 1, 2, 3, 4],
        );
        assert_eq!(
            refusal(&family),
            Refusal::Stun("a mapped address of no known family")
        );
        let unknown = message(BINDING_SUCCESS, &[0x7f, 0, 0, 0]);
        assert_eq!(
            refusal(&unknown),
            Refusal::Stun("an attribute that has to be understood")
        );
        assert_eq!(refusal(&vec![0; 5000]), Refusal::Stun("too long"));
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_an_answer_or_none(
            bytes in proptest::collection::vec(any::<u8>(), 0..200), cookie in any::<bool>()
        ) {
            let mut bytes = bytes;
            if cookie && bytes.len() >= HEADER {
                let length = u16::try_from(bytes.len() - HEADER).unwrap();
                bytes[0] &= 1;
                bytes[1] = 1;
                bytes[2..4].copy_from_slice(&length.to_be_bytes());
                bytes[4..8].copy_from_slice(&COOKIE);
            }
            let _ = parse_response(&bytes);
            let source = "[2001:db8::7]:9".parse().unwrap();
            for other in [None, Some(4003)] {
                if let Some((response, _)) = respond(&bytes, source, other) {
                    prop_assert!(response.len() <= bytes.len());
                }
            }
        }

        #[test]
        fn every_address_survives(ip in any::<u128>(), v4 in any::<u32>(), port in any::<u16>(), t in any::<Transaction>()) {
            let request = Request::new(t).encode();
            for ip in [IpAddr::V6(ip.into()), IpAddr::V4(v4.into())] {
                let source = SocketAddr::new(ip.to_canonical(), port);
                let response = answer(&request, source).unwrap();
                prop_assert_eq!(parse_response(&response), Ok((t, source)));
            }
        }
    }
}
