//! X25519 keys as newtypes, so that a public key, a secret and an agreement cannot be mixed up.

use core::fmt;

use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::counters::DropReason;
use crate::rng::Rng;

/// An X25519 public key (RFC 7748).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
#[repr(transparent)]
pub struct PublicKey(pub [u8; 32]);

/// An X25519 secret, of a node or of one handshake.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct StaticSecret([u8; 32]);

/// What two parties agreed on; never all zero.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct SharedSecret([u8; 32]);

impl StaticSecret {
    /// A fresh secret.
    pub fn generate(rng: &mut Rng) -> Self {
        Self(rng.bytes())
    }

    /// The secret with these bytes; they are clamped when used (RFC 7748 section 5).
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, to store where only the owner reads.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The public key. One X25519.
    pub fn public(&self) -> PublicKey {
        PublicKey(x25519_dalek::x25519(self.0, x25519_dalek::X25519_BASEPOINT_BYTES))
    }

    /// Diffie-Hellman with `peer`. One X25519.
    ///
    /// # Errors
    /// [`DropReason::WeakKey`] when the result is all zero: `peer` is a point of small order.
    pub fn agree(&self, peer: &PublicKey) -> Result<SharedSecret, DropReason> {
        let shared = SharedSecret(x25519_dalek::x25519(self.0, peer.0));
        if bool::from(shared.0.ct_eq(&[0; 32])) { Err(DropReason::WeakKey) } else { Ok(shared) }
    }
}

impl SharedSecret {
    /// An agreement computed earlier.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for StaticSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StaticSecret(..)")
    }
}

impl fmt::Debug for SharedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedSecret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::vectors::key;
    use std::format;

    /// RFC 7748 section 6.1.
    #[test]
    fn agrees_with_the_rfc() {
        let alice = "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a";
        let bob = "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb";
        let [alice, bob] = [alice, bob].map(|s| StaticSecret::from_bytes(key(s)));
        let public = "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a";
        assert_eq!(alice.public().0, key(public));
        let shared = key("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742");
        assert_eq!(*alice.agree(&bob.public()).unwrap().as_bytes(), shared);
        assert_eq!(*bob.agree(&alice.public()).unwrap().as_bytes(), shared);
    }

    /// Points of small order: 0, 1 and one of order 8 (RFC 7748 section 6.1 asks for the all-zero check).
    #[test]
    fn points_of_small_order_are_refused() {
        let secret = StaticSecret::generate(&mut Rng::new([1; 32]));
        let mut one = [0; 32];
        one[0] = 1;
        let eight = key("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800");
        for point in [[0; 32], one, eight] {
            assert_eq!(secret.agree(&PublicKey(point)).err(), Some(DropReason::WeakKey));
        }
    }

    #[test]
    fn secrets_do_not_print() {
        assert_eq!(format!("{:?}", StaticSecret::from_bytes([7; 32])), "StaticSecret(..)");
        assert_eq!(format!("{:?}", SharedSecret::from_bytes([7; 32])), "SharedSecret(..)");
    }
}
