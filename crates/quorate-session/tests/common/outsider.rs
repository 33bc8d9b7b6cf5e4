//! Somebody at the table who speaks by hand: an outsider, or a member that does not keep to the protocol, and the statements
//! that honest software would not make.

use super::*;

/// Somebody who speaks frames by hand over one link to a seat.
pub struct Outsider {
    pub link: LinkId,
    pub peer: quorate_session::PeerId,
    pub key: SigningKey,
}

impl Table {
    /// Opens a link from a hand-driven peer to `seat`.
    pub fn intrude(&mut self, seat: usize, key: SigningKey, peer_seed: u8) -> Outsider {
        let peer = quorate_session::PeerId::of(&SigningKey::from_seed(&[peer_seed; 32]).public());
        let link = LinkId(1 << 20 | self.next_link);
        self.next_link += 1;
        let local = self.seats[seat].session.peer_id();
        self.seats[seat].session.handle_link_up(
            link,
            LinkKind::Overlay {
                local,
                remote: peer,
            },
            self.at,
            self.now,
        );
        self.drain(seat);
        Outsider { link, peer, key }
    }

    pub fn say(&mut self, seat: usize, who: &Outsider, frame: &Frame) -> Vec<Frame> {
        self.say_bytes(seat, who, &frame.encode())
    }

    /// Delivers bytes and returns what the seat sends back on that link.
    pub fn say_bytes(&mut self, seat: usize, who: &Outsider, bytes: &[u8]) -> Vec<Frame> {
        self.seats[seat]
            .session
            .handle_message(who.link, bytes, self.at, self.now);
        let mut answers = Vec::new();
        loop {
            let Some((link, bytes)) = self.seats[seat].session.poll_transmit() else {
                match self.seats[seat].session.poll_event() {
                    Some(event) => self.handle_event(seat, event),
                    None => break,
                }
                continue;
            };
            if link == who.link {
                answers.push(Frame::parse(&bytes).unwrap());
            } else if let Some((a, b)) = self.wires.get(&link.0).copied() {
                self.in_flight
                    .push_back((link.0, if a == seat { b } else { a }, bytes));
            }
        }
        answers
    }

    pub fn hello(&mut self, seat: usize, who: &Outsider, secret: &RendezvousSecret) -> Vec<Frame> {
        let to = self.seats[seat].session.peer_id();
        self.say(
            seat,
            who,
            &Frame::Hello {
                tag: hello_tag(secret, &who.peer, &to),
            },
        )
    }

    pub fn proof(&self, seat: usize, who: &Outsider, inv: Digest) -> Frame {
        let sid = B64([0x51; 32]);
        let hello = Hello {
            v: 1,
            iss: who.key.did(),
            sid,
            inv,
            local: who.peer,
            remote: self.seats[seat].session.peer_id(),
            iat: self.at,
            exp: self.at.plus_seconds(60),
        };
        Frame::Proof {
            sid,
            inv,
            auth: sign(hello, &who.key).unwrap().text().to_string(),
        }
    }

    /// A hand-driven member with a proven link.
    pub fn intrude_as_member(&mut self, seat: usize, index: usize, peer_seed: u8) -> Outsider {
        let who = self.intrude(seat, key(index), peer_seed);
        self.hello(seat, &who, &secret());
        let proof = self.proof(seat, &who, self.seats[seat].session.invitation_digest());
        self.say(seat, &who, &proof);
        who
    }

    pub fn say_statements(&mut self, seat: usize, who: &Outsider, texts: &[&str]) -> Vec<Frame> {
        self.say(
            seat,
            who,
            &Frame::Statements {
                jws: texts.iter().map(|text| (*text).to_owned()).collect(),
            },
        )
    }
}

/// A link proof by anybody, from one overlay identity to another.
pub fn proof_of(
    invitation: &Verified<Invitation>,
    key: &SigningKey,
    local: quorate_session::PeerId,
    remote: quorate_session::PeerId,
) -> Frame {
    let (sid, inv) = (invitation.subject.sid, invitation.digest());
    let hello = Hello {
        v: 1,
        iss: key.did(),
        sid,
        inv,
        local,
        remote,
        iat: UnixTime(START),
        exp: UnixTime(START).plus_seconds(60),
    };
    let auth = sign(hello, key).unwrap().text().to_string();
    Frame::Proof { sid, inv, auth }
}

/// A join made by hand, as party `index` would make it with keys from `seed`.
pub fn forge_join(index: usize, seed: u8, epoch_ms: u64, inv: Digest) -> Join {
    let iss = key(index).did();
    let epoch = UnixMillis(epoch_ms);
    let wg =
        *x25519_dalek::PublicKey::from(&x25519_dalek::StaticSecret::from([seed; 32])).as_bytes();
    let ek = x_wing::DecapsulationKey::from([seed; 32])
        .encapsulation_key()
        .to_bytes()
        .0;
    let overlay = SigningKey::from_seed(&[seed; 32]);
    let wg = B64(wg);
    let mut join = Join {
        v: 1,
        iss,
        inv,
        pid: Pid(u16::try_from(index).unwrap()),
        epoch,
        n: B64([seed; 16]),
        wg,
        kem: Some(KemKey {
            alg: JOIN_KEM.into(),
            ek: B64(ek),
        }),
        peer: quorate_session::PeerId::of(&overlay.public()),
        peer_sig: B64([0; 64]),
        fp: fingerprint(),
        iat: UnixTime(START),
        exp: UnixTime(START + 3600),
    };
    resign_peer(&mut join, seed);
    join
}

/// Renews `peerSig` after a change.
pub fn resign_peer(join: &mut Join, seed: u8) {
    let input = peer_signature_input(&join.inv, &join.iss, join.epoch, &join.wg);
    join.peer_sig = B64(SigningKey::from_seed(&[seed; 32]).sign_bytes(&input));
}

pub fn epoch_now() -> u64 {
    u64::try_from(START).unwrap() * 1000
}

/// Signs what an honest implementation would refuse to sign: the checks of the type are skipped.
pub fn sign_unchecked<T: Statement>(claims: &T, key: &SigningKey) -> String {
    let header = serde_json::json!({ "alg": "EdDSA", "typ": T::TYP, "kid": key.key_id() });
    let encode = |value: Vec<u8>| quorate_identity::base64url::encode(&value);
    let input = format!(
        "{}.{}",
        encode(serde_json::to_vec(&header).unwrap()),
        encode(serde_json::to_vec(claims).unwrap())
    );
    let signature = key.sign_bytes(input.as_bytes());
    format!("{input}.{}", encode(signature.to_vec()))
}

/// The statement of a type in what a seat said, if there is one.
pub fn statement_in<T: Statement>(frames: &[Frame]) -> Option<Verified<T>> {
    let texts = frames.iter().filter_map(|frame| match frame {
        Frame::Statements { jws } => Some(jws),
        _ => None,
    });
    texts.flatten().find_map(|text| {
        let parsed = Unverified::<T>::parse(text).ok()?;
        let keys = DidKeyResolver.resolve(parsed.issuer())?.ok()?;
        parsed.verify(&keys, UnixTime(START)).ok()
    })
}

/// Two honest parties, 0 and 1, and a hand-driven party 2 linked to 0.
pub fn with_liar() -> (Table, Outsider) {
    let invitation = invitation(3);
    let mut table = Table::empty();
    for index in 0..2 {
        table.seat(setup(
            &invitation,
            index,
            None,
            0x20 + u8::try_from(index).unwrap(),
        ));
        table.join(index);
    }
    table.link(0, 1);
    table.run();
    let liar = table.intrude_as_member(0, 2, 88);
    (table, liar)
}

/// The name of the session of three.
pub fn inv() -> Digest {
    invitation(3).digest()
}

/// A confirm signed by party 2.
pub fn confirm(roster: Digest, joins: Vec<Digest>, epoch: u64) -> String {
    let confirm = Confirm {
        v: 1,
        iss: key(2).did(),
        inv: inv(),
        roster,
        epoch: UnixMillis(epoch),
        joins,
        iat: UnixTime(START),
    };
    sign_unchecked(&confirm, &key(2))
}

/// Why there is no session of this setup.
pub fn refusal_of_new(setup: Setup) -> Code {
    Session::new(setup, UnixTime(START), Instant::now())
        .err()
        .unwrap()
        .code
}

/// Changes one character of the part of a compact JWS.
pub fn alter(jws: &str, part: usize) -> String {
    let mut parts: Vec<String> = jws.split('.').map(str::to_owned).collect();
    let at = parts[part].len() / 2;
    let other = if &parts[part][at..=at] == "A" {
        "B"
    } else {
        "A"
    };
    parts[part].replace_range(at..=at, other);
    parts.join(".")
}
