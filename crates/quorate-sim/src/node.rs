//! One party of the world: its session, its record on disk, its mesh and program.

use quorate_identity::{Digest, SigningKey, UnixTime};
use quorate_session::{MeshPlan, Outcome, Pid, Record, Session};
use x25519_dalek::{PublicKey, StaticSecret};

/// One party, or one face of a lying one.
#[allow(
    clippy::struct_excessive_bools,
    reason = "four facts that change independently"
)]
pub(crate) struct Node {
    pub pid: Pid,
    /// Whether the invariants speak of it.
    pub honest: bool,
    pub key: SigningKey,
    /// Holds the other invitation.
    pub other_invitation: bool,
    pub skew_seconds: i64,
    pub session: Option<Session>,
    /// Grows with every start, so that what was meant for an earlier life is dropped.
    pub life: u32,
    pub record: Option<Vec<u8>>,
    /// What was signed, as kept.
    pub kept: Option<Record>,
    pub mesh: Option<MeshPlan>,
    pub program: bool,
    pub ready_sent: bool,
    pub outcome: Option<Outcome>,
    /// When the world wakes it.
    pub wake: Option<u64>,
}

impl Node {
    pub fn new(pid: u16, key: SigningKey, skew_seconds: i64) -> Self {
        Self {
            pid: Pid(pid),
            honest: true,
            key,
            other_invitation: false,
            skew_seconds,
            session: None,
            life: 0,
            record: None,
            kept: None,
            mesh: None,
            program: false,
            ready_sent: false,
            outcome: None,
            wake: None,
        }
    }

    /// The party's own wall time at a time of the world.
    pub fn wall(&self, now_ms: u64) -> UnixTime {
        let seconds = i64::try_from(now_ms / 1000).unwrap_or(i64::MAX);
        UnixTime(crate::setting::START + self.skew_seconds + seconds)
    }

    /// Dies: everything in memory is gone.
    pub fn die(&mut self, lose_record: bool) {
        self.session = None;
        self.mesh = None;
        self.program = false;
        self.wake = None;
        self.life += 1;
        if lose_record {
            self.record = None;
            self.kept = None;
        }
    }

    pub fn roster(&self) -> Option<Digest> {
        self.mesh.as_ref().map(|mesh| mesh.roster)
    }
}

/// Whether WireGuard would work between two meshes: each knows the other's key, and both one pre-shared key.
pub(crate) fn tunnels_fit(a: &MeshPlan, b: &MeshPlan) -> bool {
    let entry = |plan: &MeshPlan, other: Pid| {
        let peer = plan.peers.iter().find(|peer| peer.pid == other)?;
        Some((peer.public, *peer.psk))
    };
    let public = |plan: &MeshPlan| PublicKey::from(&StaticSecret::from(*plan.secret)).to_bytes();
    let (Some((of_b, psk_a)), Some((of_a, psk_b))) = (entry(a, b.me), entry(b, a.me)) else {
        return false;
    };
    a.roster == b.roster && of_b == public(b) && of_a == public(a) && psk_a == psk_b
}
