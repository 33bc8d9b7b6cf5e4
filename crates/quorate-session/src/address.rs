//! Overlay addresses: computed from the invitation, never chosen by a party.
//!
//! `fd || SHA-256("quorate/1/ula" || 0x00 || D_inv)[0..5]` is the session's /48 (RFC 4193 unique local); party `i` has the
//! address `prefix::(i+1)`/128. Because everybody computes it, no statement carries an address and none can be claimed.

use crate::message::Pid;
use quorate_identity::Digest;
use std::net::Ipv6Addr;

/// The overlay address of party `pid` in the session of invitation `invitation`.
pub fn overlay_address(invitation: &Digest, pid: Pid) -> Ipv6Addr {
    let hash = Digest::of("quorate/1/ula", &invitation.0);
    let mut octets = [0_u8; 16];
    octets[0] = 0xfd;
    octets[1..6].copy_from_slice(&hash.0[..5]);
    // pid is a u16 position below MAX_PARTIES; u32 keeps the +1 exact.
    octets[12..].copy_from_slice(&(u32::from(pid.0) + 1).to_be_bytes());
    Ipv6Addr::from(octets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_unique_local_distinct_and_bound_to_the_invitation() {
        let one = Digest([1; 32]);
        let first = overlay_address(&one, Pid(0));
        assert_eq!(first.octets()[0], 0xfd);
        assert_eq!(first.segments()[7], 1);
        assert_eq!(first.segments()[3..7], [0, 0, 0, 0]);
        assert_ne!(first, overlay_address(&one, Pid(1)));
        assert_ne!(first, overlay_address(&Digest([2; 32]), Pid(0)));
    }
}
