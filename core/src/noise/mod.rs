//! Noise: the symmetric state, keys and hashes that the tunnel (IKpsk2) and the control connection (IK) share.
//!
//! Suite `25519_ChaChaPoly_BLAKE2s`, Noise revision 34. A handshake mixes keys and hashes into a
//! [`SymmetricState`], then splits it into two transport keys. Everything here is stack-only and of fixed size;
//! secrets are zeroised when dropped. It does not choose patterns at run time, does not rekey, and does no more
//! Diffie-Hellman than the caller asks for: X25519 is the costly step, so machines call it one at a time.

mod aead;
mod hash;
pub mod ik;
mod keys;
mod symmetric;

pub use aead::{Aead, ChaChaPoly, TAG, open_extended, seal_extended};
pub use hash::{hash, hkdf1, hkdf2, hkdf3, mac};
pub use keys::{PublicKey, SharedSecret, StaticSecret};
pub use symmetric::{CipherKey, SymmetricState};

#[cfg(test)]
mod vectors;
