//! The symmetric state of a handshake: chaining key and transcript hash (Noise section 5.2).

use zeroize::{Zeroize, ZeroizeOnDrop};

use super::aead::{Aead, ChaChaPoly, TAG};
use super::hash::{hash, hkdf1, hkdf2, hkdf3};
use crate::counters::DropReason;

/// Chaining key and transcript hash. Plain data, so that a half-done handshake can wait in a slot; all-zero is
/// an empty one. Whoever keeps it in a slot zeroises it.
#[derive(Clone, Copy, Zeroize)]
#[repr(C)]
pub struct SymmetricState {
    chaining_key: [u8; 32],
    hash: [u8; 32],
}

/// A cipher key for exactly one message: using it consumes it, so its nonce is always 0.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct CipherKey([u8; 32]);

impl CipherKey {
    /// The bytes, for a transport that counts its own nonces.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl SymmetricState {
    /// No handshake.
    pub const EMPTY: Self = Self { chaining_key: [0; 32], hash: [0; 32] };

    /// The state before the first token. `protocol`: a Noise protocol name longer than 32 bytes (it is hashed;
    /// both of ours are).
    pub fn new(protocol: &[u8], prologue: &[u8]) -> Self {
        let name = hash(&[protocol]);
        let mut state = Self { chaining_key: name, hash: name };
        state.mix_hash(prologue);
        state
    }

    /// Adds public data to the transcript.
    pub fn mix_hash(&mut self, data: &[u8]) {
        self.hash = hash(&[&self.hash, data]);
    }

    /// Mixes in input without taking a key: an ephemeral public key in patterns with a PSK (Noise section 9.2).
    pub fn mix_chain(&mut self, input: &[u8]) {
        self.chaining_key = hkdf1(&self.chaining_key, input);
    }

    /// Mixes in a Diffie-Hellman result; the key encrypts the next message part.
    #[must_use]
    pub fn mix_key(&mut self, input: &[u8]) -> CipherKey {
        let (chaining_key, key) = hkdf2(&self.chaining_key, input);
        self.chaining_key = chaining_key;
        CipherKey(key)
    }

    /// Mixes in a pre-shared key; the key encrypts the next message part.
    #[must_use]
    pub fn mix_key_and_hash(&mut self, psk: &[u8; 32]) -> CipherKey {
        let (chaining_key, mut temporary, key) = hkdf3(&self.chaining_key, psk);
        self.chaining_key = chaining_key;
        self.mix_hash(&temporary);
        temporary.zeroize();
        CipherKey(key)
    }

    /// Encrypts all but the last 16 bytes of `in_out`, writes the tag there and adds all to the transcript.
    ///
    /// # Errors
    /// [`DropReason::NoRoom`] when `in_out` cannot hold a tag.
    #[expect(clippy::needless_pass_by_value, reason = "a key is used once")]
    pub fn seal(&mut self, key: CipherKey, in_out: &mut [u8]) -> Result<(), DropReason> {
        ChaChaPoly::new(&key.0).seal(0, &self.hash, in_out)?;
        self.mix_hash(in_out);
        Ok(())
    }

    /// Adds `sealed` to the transcript, decrypts it in place and returns the text.
    ///
    /// # Errors
    /// [`DropReason::Truncated`] or [`DropReason::Authentication`]; the handshake is over then.
    #[expect(clippy::needless_pass_by_value, reason = "a key is used once")]
    pub fn open<'m>(&mut self, key: CipherKey, sealed: &'m mut [u8]) -> Result<&'m mut [u8], DropReason> {
        let before = self.hash;
        self.mix_hash(sealed);
        ChaChaPoly::new(&key.0).open(0, &before, sealed)?;
        let text = sealed.len().checked_sub(TAG).ok_or(DropReason::Truncated)?;
        sealed.get_mut(..text).ok_or(DropReason::Truncated)
    }

    /// The two transport keys: from initiator to responder, and back.
    pub fn split(&self) -> (CipherKey, CipherKey) {
        let (first, second) = hkdf2(&self.chaining_key, &[]);
        (CipherKey(first), CipherKey(second))
    }

    /// The transcript hash, which binds other protocols to this handshake (Noise section 11.2).
    pub const fn transcript(&self) -> &[u8; 32] {
        &self.hash
    }
}
