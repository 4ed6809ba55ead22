//! ChaCha20-Poly1305 for hosts, an [`Aead`] for the core's tunnels.
//!
//! `ring` seals and opens everywhere. Where the processor has AVX-512 with IFMA, packets of usual sizes go another way,
//! `wide`, in half to two thirds of `ring`'s time: the cipher is the largest part of what a packet costs, and no crate
//! has it for these instructions (docs/benchmarks.md). Both ways yield the same bytes, which the tests hold to for every
//! length.
//!
//! No state but the key; nothing allocates.

#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod wide;

use edgemesh_core::counters::DropReason;
use edgemesh_core::noise::{Aead, TAG};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, Tag, UnboundKey};

#[cfg(target_arch = "x86_64")]
use wide::Wide;

/// One key.
pub struct FastChaChaPoly {
    /// `None` only for a key of a wrong length, which a `[u8; 32]` cannot be.
    ring: Option<LessSafeKey>,
    /// `None` on processors without what it takes.
    #[cfg(target_arch = "x86_64")]
    wide: Option<Wide>,
}

impl FastChaChaPoly {
    /// What takes a text of this length, if not `ring`.
    #[cfg(target_arch = "x86_64")]
    fn wide(&self, associated: &[u8], len: usize) -> Option<&Wide> {
        self.wide.as_ref().filter(|_| associated.is_empty() && wide::LENGTHS.contains(&len))
    }
}

impl Aead for FastChaChaPoly {
    fn new(key: &[u8; 32]) -> Self {
        Self {
            ring: UnboundKey::new(&CHACHA20_POLY1305, key).ok().map(LessSafeKey::new),
            #[cfg(target_arch = "x86_64")]
            wide: Wide::new(key),
        }
    }

    fn seal(&self, counter: u64, associated: &[u8], in_out: &mut [u8]) -> Result<(), DropReason> {
        let (text, tag) = in_out.split_last_chunk_mut::<TAG>().ok_or(DropReason::NoRoom)?;
        #[cfg(target_arch = "x86_64")]
        if let Some(wide) = self.wide(associated, text.len()) {
            *tag = wide.seal(&nonce(counter), text);
            return Ok(());
        }
        let key = self.ring.as_ref().ok_or(DropReason::NoRoom)?;
        let nonce = Nonce::assume_unique_for_key(nonce(counter));
        let sealed: Tag = key
            .seal_in_place_separate_tag(nonce, Aad::from(associated), text)
            .map_err(|_| DropReason::NoRoom)?;
        tag.copy_from_slice(sealed.as_ref());
        Ok(())
    }

    fn open(&self, counter: u64, associated: &[u8], in_out: &mut [u8]) -> Result<(), DropReason> {
        let (text, tag) = in_out.split_last_chunk_mut::<TAG>().ok_or(DropReason::Truncated)?;
        #[cfg(target_arch = "x86_64")]
        if let Some(wide) = self.wide(associated, text.len()) {
            return wide.open(&nonce(counter), text, tag).then_some(()).ok_or(DropReason::Authentication);
        }
        let key = self.ring.as_ref().ok_or(DropReason::Authentication)?;
        let nonce = Nonce::assume_unique_for_key(nonce(counter));
        key.open_in_place_separate_tag(nonce, Aad::from(associated), Tag::from(*tag), text, 0..)
            .map(drop)
            .map_err(|_| DropReason::Authentication)
    }
}

fn nonce(counter: u64) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&counter.to_le_bytes());
    bytes
}
