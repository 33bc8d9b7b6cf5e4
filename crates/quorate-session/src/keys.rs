//! Keys of one epoch, and the pairwise pre-shared key of one roster.
//!
//! ```text
//! party i (lower)                                     party j (higher)
//!   (ct, ss) = X-Wing.Encaps(ek_j)   ── kem: ct ──►     ss = X-Wing.Decaps(dk_j, ct)
//!   PSK_ij = HKDF-SHA256(salt = R, ikm = ss, info = "quorate/1/wg-psk" 0 u16be(i) u16be(j) SHA-256(ct))
//! ```
//!
//! Security: X-Wing hides `ss` while ML-KEM-768 *or* X25519 holds, and binds it to the X25519 ciphertext and key. The PSK
//! is bound to roster, pair and ciphertext, and enters WireGuard beside WireGuard's own X25519, so a recorded tunnel stays
//! closed when one of the two falls. Keys of low order are refused where they arrive. Everything secret here is wiped on
//! drop and prints as `(secret)`.
//!
//! Source: draft-connolly-cfrg-xwing-kem (SHA3-256 over `ss_M ss_X ct_X pk_X label`, label last), FIPS 203 section 7.2
//! (modulus check), RFC 5869, RFC 7748 section 6.1 (low order); protocol section 7.

use crate::{message::Pid, peer_id::PeerId};
use chacha20::ChaCha20Rng;
use hkdf::Hkdf;
use quorate_identity::{B64, Code, Digest, Rejection, SigningKey};
use rand_core::Rng;
use sha2::{Digest as _, Sha256};
use std::fmt;
use x_wing::{
    DecapsulationKeyRejectNonContrib, Decapsulator, Encapsulate, EncapsulationKey, KeyExport,
    TryDecapsulate,
};
use x25519_dalek::{PublicKey as WireGuardPublic, StaticSecret};
use zeroize::{Zeroize, Zeroizing};

/// The keys a party makes for one epoch.
pub(crate) struct EpochKeys {
    wireguard: Zeroizing<[u8; 32]>,
    overlay: Zeroizing<[u8; 32]>,
    decapsulation: DecapsulationKeyRejectNonContrib,
    /// Nonce of the join.
    pub nonce: B64<16>,
}

impl EpochKeys {
    pub fn generate(rng: &mut ChaCha20Rng) -> Self {
        let mut seed = Zeroizing::new([0_u8; 32]);
        rng.fill_bytes(&mut *seed);
        let decapsulation = DecapsulationKeyRejectNonContrib::from(*seed);
        let mut keys = Self {
            wireguard: Zeroizing::new([0; 32]),
            overlay: Zeroizing::new([0; 32]),
            decapsulation,
            nonce: B64([0; 16]),
        };
        rng.fill_bytes(&mut *keys.wireguard);
        rng.fill_bytes(&mut *keys.overlay);
        rng.fill_bytes(&mut keys.nonce.0);
        keys
    }

    /// Private key for the WireGuard device.
    pub fn wireguard_secret(&self) -> Zeroizing<[u8; 32]> {
        self.wireguard.clone()
    }

    pub fn wireguard_public(&self) -> B64<32> {
        let secret = StaticSecret::from(*self.wireguard);
        B64(WireGuardPublic::from(&secret).to_bytes())
    }

    /// Seed of the overlay identity.
    pub fn overlay_secret(&self) -> &[u8; 32] {
        &self.overlay
    }

    /// Takes another overlay identity than the one that was made.
    pub fn set_overlay_secret(&mut self, secret: &[u8; 32]) {
        self.overlay.copy_from_slice(secret);
    }

    pub fn overlay_key(&self) -> SigningKey {
        SigningKey::from_seed(&self.overlay)
    }

    pub fn peer_id(&self) -> PeerId {
        PeerId::of(&self.overlay_key().public())
    }

    pub fn encapsulation_key(&self) -> B64<1216> {
        B64(self.decapsulation.encapsulation_key().to_bytes().0)
    }

    /// The secret behind `ct`; refused if its X25519 part is of low order.
    pub fn decapsulate(&self, ct: &[u8; 1120]) -> Result<SharedSecret, Rejection> {
        let refuse = |_| {
            Rejection::new(
                Code::Key,
                "S7",
                "the key share has an X25519 part of low order",
            )
        };
        let mut shared = self
            .decapsulation
            .try_decapsulate(&(*ct).into())
            .map_err(refuse)?;
        let secret = SharedSecret(Zeroizing::new(shared.0));
        shared.zeroize();
        Ok(secret)
    }
}

impl EpochKeys {
    /// Forgets what the mesh was made of.
    pub fn wipe_mesh(&mut self) {
        self.wireguard.zeroize();
        // The old key wipes itself when it is dropped.
        self.decapsulation = DecapsulationKeyRejectNonContrib::from([0; 32]);
    }

    /// Forgets everything.
    pub fn wipe(&mut self) {
        self.wipe_mesh();
        self.overlay.zeroize();
    }
}

impl fmt::Debug for EpochKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// Output of the KEM.
pub(crate) struct SharedSecret(Zeroizing<[u8; 32]>);

impl SharedSecret {
    /// The bytes, to derive a key from.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// A WireGuard pre-shared key.
pub type Psk = Zeroizing<[u8; 32]>;

/// Encapsulates to `ek`: ciphertext and shared secret.
pub(crate) fn encapsulate(
    ek: &[u8; 1216],
    rng: &mut ChaCha20Rng,
) -> Result<([u8; 1120], SharedSecret), Rejection> {
    let key = encapsulation_key(ek)?;
    let (ct, mut shared) = key.encapsulate_with_rng(rng);
    let secret = SharedSecret(Zeroizing::new(shared.0));
    shared.zeroize();
    Ok((ct.0, secret))
}

/// The pre-shared key of the pair `low < high` in roster `roster`.
pub(crate) fn derive_psk(
    roster: &Digest,
    secret: &SharedSecret,
    low: Pid,
    high: Pid,
    ct: &[u8; 1120],
) -> Psk {
    let mut info = b"quorate/1/wg-psk\0".to_vec();
    info.extend_from_slice(&low.0.to_be_bytes());
    info.extend_from_slice(&high.0.to_be_bytes());
    info.extend_from_slice(&Sha256::digest(ct));
    let mut psk = Zeroizing::new([0_u8; 32]);
    let expanded = Hkdf::<Sha256>::new(Some(&roster.0), &*secret.0).expand(&info, &mut *psk);
    debug_assert!(expanded.is_ok(), "32 bytes are within HKDF's output");
    psk
}

/// Refuses a WireGuard key with which every shared secret would be zero (`E_KEY`).
pub(crate) fn check_wireguard_key(key: &[u8; 32]) -> Result<(), Rejection> {
    if contributes(key) {
        return Ok(());
    }
    Err(Rejection::new(
        Code::Key,
        "S4",
        "the WireGuard key is of low order",
    ))
}

/// Refuses a KEM key whose ML-KEM part fails the modulus check or whose X25519 part is of low order (`E_KEY`).
pub(crate) fn check_encapsulation_key(ek: &[u8; 1216]) -> Result<(), Rejection> {
    encapsulation_key(ek)?;
    let mut x25519 = [0_u8; 32];
    x25519.copy_from_slice(&ek[1184..]);
    if contributes(&x25519) {
        return Ok(());
    }
    Err(Rejection::new(
        Code::Key,
        "S4",
        "the X25519 part of the KEM key is of low order",
    ))
}

fn encapsulation_key(ek: &[u8; 1216]) -> Result<EncapsulationKey, Rejection> {
    EncapsulationKey::try_from(ek.as_slice()).map_err(|_| {
        Rejection::new(
            Code::Key,
            "S4",
            "the KEM key fails the check of FIPS 203, section 7.2",
        )
    })
}

/// Any scalar is a multiple of 8 after clamping, so a point of low order gives zero with every scalar.
fn contributes(point: &[u8; 32]) -> bool {
    let probe = StaticSecret::from([0x42; 32]);
    probe
        .diffie_hellman(&WireGuardPublic::from(*point))
        .was_contributory()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_core::SeedableRng;
    use x_wing::{Decapsulate, DecapsulationKey, ENCAPSULATION_RANDOMNESS_SIZE};

    /// First vector of draft-connolly-cfrg-xwing-kem, appendix C; long values by their SHA-256.
    const SEED: &str = "7f9c2ba4e88f827d616045507605853ed73b8093f6efbc88eb1a6eacfa66ef26";
    const ESEED: &str = "3cb1eea988004b93103cfb0aeefd2a686e01fa4a58e8a3639ca8a1e3f9ae57e2\
                         35b8cc873c23dc62b8d260169afa2f75ab916a58d974918835d25e6a435085b2";
    const SHARED: &str = "d2df0522128f09dd8e2c92b1e905c793d8f57a54c3da25861f10bf4ca613e384";

    fn unhex<const N: usize>(hex: &str) -> [u8; N] {
        let mut bytes = [0; N];
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).expect("hex");
        }
        bytes
    }

    fn hex(bytes: &[u8]) -> String {
        bytes
            .iter()
            .fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
    }

    #[test]
    fn xwing_matches_the_published_vector() {
        let key = DecapsulationKey::from(unhex::<32>(SEED));
        let ek = key.encapsulation_key().to_bytes().0;
        let randomness: [u8; ENCAPSULATION_RANDOMNESS_SIZE] = unhex(ESEED);
        let (ct, shared) = key
            .encapsulation_key()
            .encapsulate_deterministic(&randomness.into());
        assert_eq!(hex(&shared), SHARED);
        assert_eq!(hex(&key.decapsulate(&ct)), SHARED);
        assert_eq!(
            hex(&Sha256::digest(ek)),
            "2e816deebcd76c5c80d0cd2d174478871658e8e2ff42bc9d4a6e486372e856bb"
        );
        assert_eq!(
            hex(&Sha256::digest(ct)),
            "17cd532d657e44c897ca6583e548a5424fc70bf54f99515a4d2bcf99e3469f33"
        );
    }

    #[test]
    fn both_ends_derive_one_psk_and_everything_enters_it() {
        let mut rng = ChaCha20Rng::from_seed([3; 32]);
        let keys = EpochKeys::generate(&mut rng);
        let (ct, ours) = encapsulate(&keys.encapsulation_key().0, &mut rng).expect("fresh key");
        let theirs = keys.decapsulate(&ct).expect("honest share");
        let roster = Digest([5; 32]);
        let psk = derive_psk(&roster, &ours, Pid(0), Pid(2), &ct);
        assert_eq!(*psk, *derive_psk(&roster, &theirs, Pid(0), Pid(2), &ct));
        assert_ne!(
            *psk,
            *derive_psk(&Digest([6; 32]), &ours, Pid(0), Pid(2), &ct)
        );
        assert_ne!(*psk, *derive_psk(&roster, &ours, Pid(1), Pid(2), &ct));
        assert_ne!(*psk, *derive_psk(&roster, &ours, Pid(0), Pid(1), &ct));
        let mut changed = ct;
        changed[0] ^= 1;
        assert_ne!(*psk, *derive_psk(&roster, &ours, Pid(0), Pid(2), &changed));
    }

    #[test]
    fn psk_derivation_is_pinned() {
        let secret = SharedSecret(Zeroizing::new([7; 32]));
        let psk = derive_psk(&Digest([1; 32]), &secret, Pid(0), Pid(1), &[9; 1120]);
        assert_eq!(
            hex(&*psk),
            "8580403b8b5258b245d57f8563bd08f24d649407d8a7952d79734aae235e71e2"
        );
    }

    #[test]
    fn a30_weak_or_malformed_keys_are_refused() {
        let mut one = [0; 32];
        one[0] = 1;
        for weak in [[0; 32], one] {
            assert_eq!(
                check_wireguard_key(&weak).expect_err("low order").code,
                Code::Key
            );
        }
        let mut rng = ChaCha20Rng::from_seed([4; 32]);
        let keys = EpochKeys::generate(&mut rng);
        let good = keys.encapsulation_key().0;
        assert!(check_encapsulation_key(&good).is_ok());
        // Twelve bits of ones are 4095, above the modulus 3329.
        let mut above = good;
        above[..3].copy_from_slice(&[0xff; 3]);
        assert_eq!(
            check_encapsulation_key(&above).expect_err("modulus").code,
            Code::Key
        );
        let mut low = good;
        low[1184..].fill(0);
        assert_eq!(
            check_encapsulation_key(&low).expect_err("low order").code,
            Code::Key
        );
        let (mut ct, _) = encapsulate(&good, &mut rng).expect("fresh key");
        ct[1088..].fill(0);
        assert_eq!(
            keys.decapsulate(&ct).err().expect("low order").code,
            Code::Key
        );
    }

    #[test]
    fn secrets_are_not_printed() {
        let keys = EpochKeys::generate(&mut ChaCha20Rng::from_seed([4; 32]));
        assert_eq!(format!("{keys:?}"), "(secret)");
    }
}
