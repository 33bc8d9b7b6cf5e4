//! J8: signatures of statements, and the arithmetic to make wrong ones that look right.

use super::{Maker, envelope::parts, issuer};
use quorate_identity::base64url;
use sha2::{Digest as _, Sha512};

pub fn make(maker: &mut Maker) {
    let [header, payload, signature] = parts();
    let mut refuse = |name: &str, signature: &[u8], about: &str| {
        let text = format!("{header}.{payload}.{}", base64url::encode(signature));
        maker.alone("join", name, "E_SIG J8", text, about);
    };
    let good = base64url::decode(&signature).unwrap();
    refuse("zero-signature", &[0; 64], "All zero.");
    let mut flipped = good.clone();
    flipped[0] ^= 1;
    refuse(
        "flipped-bit",
        &flipped,
        "One bit of the signature was flipped.",
    );
    refuse(
        "s-plus-order",
        &plus_order(&good),
        "S is larger than the group order: a second signature of the same content.",
    );
    let small = small_commitment(format!("{header}.{payload}").as_bytes());
    refuse(
        "small-commitment",
        &small,
        "The commitment is the neutral element: it fits the equation, but not strict verification.",
    );
    let text = format!("{payload}.{header}.{signature}");
    maker.alone(
        "join",
        "parts-swapped",
        "E_HEADER J5",
        text,
        "Header and payload changed places.",
    );
}

/// The order of Ed25519's group, little endian.
const ORDER: [u8; 32] = [
    0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
];

/// The signature with the group order of Ed25519 added to S.
fn plus_order(signature: &[u8]) -> Vec<u8> {
    let mut sum = signature.to_vec();
    let mut carry = 0;
    for (byte, order) in sum[32..].iter_mut().zip(ORDER) {
        carry += u16::from(*byte) + u16::from(order);
        *byte = carry.to_le_bytes()[0];
        carry >>= 8;
    }
    sum
}

/// A signature by party 2 with the neutral element as commitment: S = k a, so that S B = R + k A holds.
fn small_commitment(message: &[u8]) -> Vec<u8> {
    let signer = issuer("join");
    let mut commitment = [0; 32];
    commitment[0] = 1;
    let mut secret = [0; 64];
    secret[..32].copy_from_slice(&Sha512::digest(signer.seed().as_slice())[..32]);
    secret[0] &= 0xf8;
    secret[31] = secret[31] & 0x7f | 0x40;
    let challenge = Sha512::new()
        .chain_update(commitment)
        .chain_update(signer.public().as_bytes())
        .chain_update(message)
        .finalize();
    let s = times(reduced(&challenge), reduced(&secret));
    [commitment, s].concat()
}

/// A number below twice the group order, less the order if it is not below it.
fn below_order(number: [u8; 32]) -> [u8; 32] {
    let mut less = [0; 32];
    let mut borrow = 0;
    for (at, byte) in number.iter().enumerate() {
        let difference = i16::from(*byte) - i16::from(ORDER[at]) - borrow;
        less[at] = difference.to_le_bytes()[0];
        borrow = i16::from(difference < 0);
    }
    if borrow == 0 { less } else { number }
}

fn plus(left: [u8; 32], right: [u8; 32]) -> [u8; 32] {
    let mut sum = [0; 32];
    let mut carry = 0;
    for at in 0..32 {
        carry += u16::from(left[at]) + u16::from(right[at]);
        sum[at] = carry.to_le_bytes()[0];
        carry >>= 8;
    }
    below_order(sum)
}

/// Doubles `sum` for each bit of `number`, highest first, and adds `step` where the bit is set; modulo the group order.
fn times_bits(number: &[u8], step: [u8; 32]) -> [u8; 32] {
    let bits = number
        .iter()
        .rev()
        .flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1));
    bits.fold([0; 32], |sum, bit| {
        let twice = plus(sum, sum);
        if bit == 1 { plus(twice, step) } else { twice }
    })
}

fn reduced(number: &[u8]) -> [u8; 32] {
    let mut one = [0; 32];
    one[0] = 1;
    times_bits(number, one)
}

fn times(left: [u8; 32], right: [u8; 32]) -> [u8; 32] {
    times_bits(&left, right)
}
