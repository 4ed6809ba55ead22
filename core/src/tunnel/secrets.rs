//! What a node shows who it is by: its key, for a while also the one before, and the keys that the mesh shares.
//!
//! **Another key.** A node that changes its key answers to both until [`Tunnels::forget_before`]: who has not heard of
//! the change yet still reaches it, and where an initiation with the new key has no answer, the next one is made with the
//! key before. Sessions stay as they are. What is under way with the old key ends with it.
//!
//! **Shared keys.** [`MeshPsk`] is known to nodes and to no server. The PSK of a pair is HKDF of it over both public keys
//! in their order, so that no pair can pass for another. Who answers uses the current one; who began tries the next one as
//! well, so a mesh changes it node by node: first as next everywhere, then as current, then alone.

use super::slots::{PeerSlot, flag};
use super::{PeerId, Tunnels};
use crate::noise::{PublicKey, StaticSecret, hash, hkdf1};
use crate::time::Instant;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Which of this node's keys.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(u8)]
pub(super) enum Which {
    /// The one that it has.
    #[default]
    Present = 0,
    /// The one that it had.
    Before,
}

/// A key of this node.
pub(super) struct Identity {
    pub(super) secret: StaticSecret,
    pub(super) public: PublicKey,
}

impl Identity {
    pub(super) fn new(secret: StaticSecret) -> Self {
        Self { public: secret.public(), secret }
    }
}

/// Keys that the nodes of a mesh share, each 32 bytes; all zero is no key, as in WireGuard.
#[derive(Clone, Default, Zeroize, ZeroizeOnDrop)]
pub struct MeshPsk {
    /// What this node answers with.
    pub current: [u8; 32],
    /// What others may answer with as well.
    pub next: Option<[u8; 32]>,
}

impl core::fmt::Debug for MeshPsk {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("MeshPsk(..)")
    }
}

/// The PSK of two nodes, zero without a shared one.
pub fn pair_psk(shared: &[u8; 32], one: &PublicKey, other: &PublicKey) -> [u8; 32] {
    if *shared == [0; 32] {
        return [0; 32];
    }
    let (first, second) = if one.0 <= other.0 { (one, other) } else { (other, one) };
    hkdf1(shared, &hash(&[b"edgemesh psk 1", &first.0, &second.0]))
}

impl Tunnels<'_> {
    /// Takes another key; the present one becomes the one before.
    pub fn rotate(&mut self, secret: StaticSecret) {
        let before = core::mem::replace(&mut self.identity, Identity::new(secret));
        self.set_before(Some(before));
        for slot in self.peers.iter_mut() {
            slot.forget_shared();
            if slot.index != 0 {
                slot.set(flag::BEFORE);
            }
        }
        for id in 1..=self.jobs.high_water() {
            if let Some(job) = self.jobs.get_mut(id) {
                job.which = Which::Before;
            }
        }
        self.guard.set_present(&self.identity.public);
    }

    /// This node had `secret` in an earlier life, and answers to it.
    pub fn answer_to(&mut self, secret: StaticSecret) {
        self.set_before(Some(Identity::new(secret)));
    }

    /// The key before counts no more.
    pub fn forget_before(&mut self) {
        self.set_before(None);
    }

    fn set_before(&mut self, before: Option<Identity>) {
        self.guard.set_before(before.as_ref().map(|before| &before.public));
        self.before = before;
    }

    /// Sets the keys that the mesh shares; they count from the next handshakes on.
    pub fn set_psk(&mut self, psk: MeshPsk) {
        self.psk = psk;
    }

    /// The PSKs that count with a peer, in the order in which they are tried: its own, or else those of the mesh.
    pub(super) fn psks(&self, slot: &PeerSlot, own: &PublicKey) -> ([u8; 32], Option<[u8; 32]>) {
        if slot.psk != [0; 32] {
            return (slot.psk, None);
        }
        let pair = |shared: &[u8; 32]| pair_psk(shared, own, &slot.key);
        (pair(&self.psk.current), self.psk.next.as_ref().map(pair))
    }

    /// The peer has another key in place of the one that it has proven to have: sessions go on, and whatever is under way
    /// with the key before begins anew. False when the key is another peer's or this node's own: then nothing is changed.
    // Apart, or its frame would lie below the checks of signatures.
    #[inline(never)]
    pub fn rekey_peer(&mut self, now: Instant, id: PeerId, key: &PublicKey) -> bool {
        let Some(slot) = self.slot(id).filter(|slot| slot.live) else { return true };
        let old = slot.key;
        if *key == self.identity.public || self.find_key(key).is_some_and(|other| other != id.0) {
            return false;
        }
        if old == *key {
            return true;
        }
        self.unlist_key(id, &old);
        self.drop_handshake(id);
        let hash = self.hash_of_key(key);
        if !self.keys.insert(hash, id.0) {
            return false;
        }
        if let Some(slot) = self.slot_mut(id) {
            slot.key = *key;
            slot.forget_shared();
            slot.forget_cookie();
            slot.generation = slot.generation.wrapping_add(1);
            slot.clear(flag::INITIATING);
        }
        // Jobs of the generation before end without a word.
        if self.slot(id).is_some_and(|slot| !slot.attempt.is_none()) {
            self.start(now, id, false);
        }
        true
    }
}
