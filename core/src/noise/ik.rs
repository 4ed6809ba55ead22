//! Noise_IK_25519_ChaChaPoly_BLAKE2s: the handshake and transport of the control connection.
//!
//! `Initiator -> Pending -> Transport` on one side, `Responder -> Answer -> Transport` on the other; each step
//! consumes the one before, so none can be repeated or skipped, and an error ends the handshake. No call does
//! more than three X25519. The initiator knows the responder's static key beforehand and shows its own,
//! encrypted, in the first message; that message's payload can be replayed, so it may carry nothing that acts.
//! Framing, time-outs and who may connect are the caller's.

use super::aead::{Aead, ChaChaPoly, TAG};
use super::keys::{PublicKey, StaticSecret};
use super::symmetric::{CipherKey, SymmetricState};
use crate::counters::DropReason;
use crate::rng::Rng;

/// What message 1 adds to its payload, in bytes: ephemeral key, sealed static key, tag.
pub const MESSAGE1_OVERHEAD: usize = 32 + 32 + TAG + TAG;
/// What message 2 adds to its payload, in bytes: ephemeral key and tag.
pub const MESSAGE2_OVERHEAD: usize = 32 + TAG;

const PROTOCOL: &[u8] = b"Noise_IK_25519_ChaChaPoly_BLAKE2s";

/// The side that connects, before message 1.
pub struct Initiator {
    state: SymmetricState,
    identity: StaticSecret,
    public: PublicKey,
    ephemeral: StaticSecret,
    ephemeral_public: PublicKey,
    remote: PublicKey,
}

/// The side that connects, between its message 1 and message 2.
pub struct Pending {
    state: SymmetricState,
    identity: StaticSecret,
    ephemeral: StaticSecret,
}

/// The side that listens, before message 1.
pub struct Responder {
    state: SymmetricState,
    identity: StaticSecret,
}

/// The side that listens, before it answers.
pub struct Answer {
    state: SymmetricState,
    initiator: PublicKey,
    ephemeral: PublicKey,
}

/// Both directions of an established connection.
pub struct Transport {
    /// What we send.
    pub sealer: Sealer,
    /// What we receive.
    pub opener: Opener,
    transcript: [u8; 32],
}

/// The sending direction.
pub struct Sealer {
    cipher: ChaChaPoly,
    counter: u64,
}

/// The receiving direction.
pub struct Opener {
    cipher: ChaChaPoly,
    counter: u64,
}

impl Initiator {
    /// A handshake towards the node whose static key is `remote`; both sides must give the same `prologue`.
    pub fn new(identity: StaticSecret, remote: PublicKey, prologue: &[u8], rng: &mut Rng) -> Self {
        Self::with_ephemeral(identity, remote, prologue, StaticSecret::generate(rng))
    }

    pub(super) fn with_ephemeral(
        identity: StaticSecret,
        remote: PublicKey,
        prologue: &[u8],
        ephemeral: StaticSecret,
    ) -> Self {
        let mut state = SymmetricState::new(PROTOCOL, prologue);
        state.mix_hash(&remote.0);
        let (public, ephemeral_public) = (identity.public(), ephemeral.public());
        Self { state, identity, public, ephemeral, ephemeral_public, remote }
    }

    /// Writes message 1 (e, es, s, ss, payload) to the start of `out` and returns its length:
    /// `payload.len() + MESSAGE1_OVERHEAD`.
    ///
    /// # Errors
    /// [`DropReason::NoRoom`], [`DropReason::WeakKey`].
    pub fn write_message1(mut self, payload: &[u8], out: &mut [u8]) -> Result<(Pending, usize), DropReason> {
        let len = payload.len().checked_add(MESSAGE1_OVERHEAD).ok_or(DropReason::NoRoom)?;
        let message = out.get_mut(..len).ok_or(DropReason::NoRoom)?;
        let (e, rest) = message.split_first_chunk_mut::<32>().ok_or(DropReason::NoRoom)?;
        let (s, rest) = rest.split_first_chunk_mut::<48>().ok_or(DropReason::NoRoom)?;
        *e = self.ephemeral_public.0;
        self.state.mix_hash(e);
        let key = self.state.mix_key(self.ephemeral.agree(&self.remote)?.as_bytes());
        put(s, &self.public.0)?;
        self.state.seal(key, s)?;
        let key = self.state.mix_key(self.identity.agree(&self.remote)?.as_bytes());
        put(rest, payload)?;
        self.state.seal(key, rest)?;
        Ok((Pending { state: self.state, identity: self.identity, ephemeral: self.ephemeral }, len))
    }
}

impl Pending {
    /// Reads message 2 (e, ee, se, payload) in place; returns the connection and the payload.
    ///
    /// # Errors
    /// [`DropReason::Truncated`], [`DropReason::WeakKey`], [`DropReason::Authentication`].
    pub fn read_message2(mut self, message: &mut [u8]) -> Result<(Transport, &mut [u8]), DropReason> {
        let (e, rest) = message.split_first_chunk_mut::<32>().ok_or(DropReason::Truncated)?;
        let ephemeral = PublicKey(*e);
        self.state.mix_hash(e);
        let _ = self.state.mix_key(self.ephemeral.agree(&ephemeral)?.as_bytes());
        let key = self.state.mix_key(self.identity.agree(&ephemeral)?.as_bytes());
        let payload = self.state.open(key, rest)?;
        let (send, receive) = self.state.split();
        Ok((Transport::new(&self.state, &send, &receive), payload))
    }
}

impl Responder {
    /// Ready for a handshake; both sides must give the same `prologue`.
    pub fn new(identity: StaticSecret, prologue: &[u8]) -> Self {
        let mut state = SymmetricState::new(PROTOCOL, prologue);
        state.mix_hash(&identity.public().0);
        Self { state, identity }
    }

    /// Reads message 1 in place; returns what is needed to answer, and the payload. The initiator has proven
    /// its static key only once its first transport message opens.
    ///
    /// # Errors
    /// [`DropReason::Truncated`], [`DropReason::WeakKey`], [`DropReason::Authentication`].
    pub fn read_message1(mut self, message: &mut [u8]) -> Result<(Answer, &mut [u8]), DropReason> {
        let (e, rest) = message.split_first_chunk_mut::<32>().ok_or(DropReason::Truncated)?;
        let (s, rest) = rest.split_first_chunk_mut::<48>().ok_or(DropReason::Truncated)?;
        let ephemeral = PublicKey(*e);
        self.state.mix_hash(e);
        let key = self.state.mix_key(self.identity.agree(&ephemeral)?.as_bytes());
        let initiator = self.state.open(key, s)?.first_chunk().copied().ok_or(DropReason::Truncated)?;
        let initiator = PublicKey(initiator);
        let key = self.state.mix_key(self.identity.agree(&initiator)?.as_bytes());
        let payload = self.state.open(key, rest)?;
        Ok((Answer { state: self.state, initiator, ephemeral }, payload))
    }
}

impl Answer {
    /// The static key that the initiator showed.
    pub const fn initiator(&self) -> PublicKey {
        self.initiator
    }

    /// Writes message 2 to the start of `out`; returns the connection and the length:
    /// `payload.len() + MESSAGE2_OVERHEAD`.
    ///
    /// # Errors
    /// [`DropReason::NoRoom`], [`DropReason::WeakKey`].
    pub fn write_message2(
        self,
        payload: &[u8],
        out: &mut [u8],
        rng: &mut Rng,
    ) -> Result<(Transport, usize), DropReason> {
        self.answer(payload, out, &StaticSecret::generate(rng))
    }

    pub(super) fn answer(
        mut self,
        payload: &[u8],
        out: &mut [u8],
        ephemeral: &StaticSecret,
    ) -> Result<(Transport, usize), DropReason> {
        let len = payload.len().checked_add(MESSAGE2_OVERHEAD).ok_or(DropReason::NoRoom)?;
        let message = out.get_mut(..len).ok_or(DropReason::NoRoom)?;
        let (e, rest) = message.split_first_chunk_mut::<32>().ok_or(DropReason::NoRoom)?;
        *e = ephemeral.public().0;
        self.state.mix_hash(e);
        let _ = self.state.mix_key(ephemeral.agree(&self.ephemeral)?.as_bytes());
        let key = self.state.mix_key(ephemeral.agree(&self.initiator)?.as_bytes());
        put(rest, payload)?;
        self.state.seal(key, rest)?;
        let (receive, send) = self.state.split();
        Ok((Transport::new(&self.state, &send, &receive), len))
    }
}

impl Transport {
    fn new(state: &SymmetricState, send: &CipherKey, receive: &CipherKey) -> Self {
        Self {
            sealer: Sealer { cipher: ChaChaPoly::new(send.as_bytes()), counter: 0 },
            opener: Opener { cipher: ChaChaPoly::new(receive.as_bytes()), counter: 0 },
            transcript: *state.transcript(),
        }
    }

    /// As [`Sealer::seal`].
    ///
    /// # Errors
    /// As there.
    pub fn seal(&mut self, buffer: &mut [u8], len: usize) -> Result<usize, DropReason> {
        self.sealer.seal(buffer, len)
    }

    /// As [`Opener::open`].
    ///
    /// # Errors
    /// As there.
    pub fn open<'m>(&mut self, sealed: &'m mut [u8]) -> Result<&'m mut [u8], DropReason> {
        self.opener.open(sealed)
    }

    /// Equal on both sides and unique to this connection: what a ticket or signature binds itself to.
    pub const fn transcript(&self) -> &[u8; 32] {
        &self.transcript
    }
}

impl Sealer {
    /// Seals the first `len` bytes of `buffer` in place and returns the sealed length, `len + TAG`.
    ///
    /// # Errors
    /// [`DropReason::NoRoom`] when the tag does not fit behind, [`DropReason::SessionExpired`] after 2^64 - 1
    /// messages.
    pub fn seal(&mut self, buffer: &mut [u8], len: usize) -> Result<usize, DropReason> {
        let sealed = len.checked_add(TAG).ok_or(DropReason::NoRoom)?;
        let in_out = buffer.get_mut(..sealed).ok_or(DropReason::NoRoom)?;
        let next = self.counter.checked_add(1).ok_or(DropReason::SessionExpired)?;
        self.cipher.seal(self.counter, &[], in_out)?;
        self.counter = next;
        Ok(sealed)
    }
}

impl Opener {
    /// Opens `sealed` in place and returns the text. Messages must come in the order they were sealed.
    ///
    /// # Errors
    /// [`DropReason::Truncated`], [`DropReason::Authentication`]: the connection must be closed then.
    pub fn open<'m>(&mut self, sealed: &'m mut [u8]) -> Result<&'m mut [u8], DropReason> {
        let next = self.counter.checked_add(1).ok_or(DropReason::SessionExpired)?;
        self.cipher.open(self.counter, &[], sealed)?;
        self.counter = next;
        let text = sealed.len().checked_sub(TAG).ok_or(DropReason::Truncated)?;
        sealed.get_mut(..text).ok_or(DropReason::Truncated)
    }
}

/// Copies `text` to the start of `place`, which is a tag longer.
fn put(place: &mut [u8], text: &[u8]) -> Result<(), DropReason> {
    place.get_mut(..text.len()).ok_or(DropReason::NoRoom)?.copy_from_slice(text);
    Ok(())
}
