//! ChaCha20-Poly1305 behind a trait: the core brings a portable one, a shell may bring a faster one.

use chacha20poly1305::{AeadInOut, ChaCha20Poly1305, KeyInit, XChaCha20Poly1305};

use crate::counters::DropReason;

/// Length of an authentication tag in bytes.
pub const TAG: usize = 16;

/// ChaCha20-Poly1305 (RFC 8439) under one key, with the nonce that Noise and WireGuard share: four zero bytes,
/// then the counter, little-endian.
pub trait Aead {
    /// The cipher under `key`.
    fn new(key: &[u8; 32]) -> Self;

    /// Encrypts all but the last [`TAG`] bytes of `in_out` and writes the tag there.
    ///
    /// # Errors
    /// [`DropReason::NoRoom`] when `in_out` cannot hold the tag.
    fn seal(&self, counter: u64, associated: &[u8], in_out: &mut [u8]) -> Result<(), DropReason>;

    /// Checks the tag in the last [`TAG`] bytes of `in_out` and decrypts the rest.
    ///
    /// # Errors
    /// [`DropReason::Truncated`] without room for a tag, [`DropReason::Authentication`] when it does not match;
    /// the bytes are to be discarded then.
    fn open(&self, counter: u64, associated: &[u8], in_out: &mut [u8]) -> Result<(), DropReason>;
}

/// The portable [`Aead`].
pub struct ChaChaPoly(ChaCha20Poly1305);

impl Aead for ChaChaPoly {
    fn new(key: &[u8; 32]) -> Self {
        Self(ChaCha20Poly1305::new(key.into()))
    }

    fn seal(&self, counter: u64, associated: &[u8], in_out: &mut [u8]) -> Result<(), DropReason> {
        seal(&self.0, &nonce(counter), associated, in_out)
    }

    fn open(&self, counter: u64, associated: &[u8], in_out: &mut [u8]) -> Result<(), DropReason> {
        open(&self.0, &nonce(counter), associated, in_out)
    }
}

/// XChaCha20-Poly1305 with a random nonce, as cookie replies use it: encrypts all but the last [`TAG`] bytes.
///
/// # Errors
/// As [`Aead::seal`].
pub fn seal_extended(
    key: &[u8; 32],
    nonce: &[u8; 24],
    associated: &[u8],
    in_out: &mut [u8],
) -> Result<(), DropReason> {
    seal(&XChaCha20Poly1305::new(key.into()), nonce, associated, in_out)
}

/// The opposite of [`seal_extended`].
///
/// # Errors
/// As [`Aead::open`].
pub fn open_extended(
    key: &[u8; 32],
    nonce: &[u8; 24],
    associated: &[u8],
    in_out: &mut [u8],
) -> Result<(), DropReason> {
    open(&XChaCha20Poly1305::new(key.into()), nonce, associated, in_out)
}

fn nonce(counter: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    if let Some(tail) = nonce.last_chunk_mut() {
        *tail = counter.to_le_bytes();
    }
    nonce
}

fn seal<C, const N: usize>(
    cipher: &C,
    nonce: &[u8; N],
    associated: &[u8],
    in_out: &mut [u8],
) -> Result<(), DropReason>
where
    C: AeadInOut,
    for<'n> &'n [u8; N]: Into<&'n chacha20poly1305::aead::Nonce<C>>,
{
    let (text, place) = in_out.split_last_chunk_mut::<TAG>().ok_or(DropReason::NoRoom)?;
    let tag = cipher
        .encrypt_inout_detached(nonce.into(), associated, text.into())
        .map_err(|_| DropReason::TooBig)?;
    place.copy_from_slice(&tag);
    Ok(())
}

fn open<C, const N: usize>(
    cipher: &C,
    nonce: &[u8; N],
    associated: &[u8],
    in_out: &mut [u8],
) -> Result<(), DropReason>
where
    C: AeadInOut,
    for<'n> &'n [u8; N]: Into<&'n chacha20poly1305::aead::Nonce<C>>,
    for<'t> &'t [u8; TAG]: Into<&'t chacha20poly1305::aead::Tag<C>>,
{
    let (text, tag) = in_out.split_last_chunk_mut::<TAG>().ok_or(DropReason::Truncated)?;
    cipher
        .decrypt_inout_detached(nonce.into(), associated, text.into(), (&*tag).into())
        .map_err(|_| DropReason::Authentication)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::vectors::unhex;

    /// RFC 8439 section 2.8.2 fixes a nonce that no counter yields; appendix A.5 neither. So the tag of the
    /// Noise vectors proves the nonce, and this proves that every bit is covered.
    #[test]
    fn any_flipped_bit_is_refused() {
        let cipher = ChaChaPoly::new(&[9; 32]);
        let mut sealed = *b"park lights on, please..................";
        let text = sealed;
        cipher.seal(7, b"head", &mut sealed).unwrap();
        for bit in 0..sealed.len() * 8 {
            let mut bad = sealed;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(cipher.open(7, b"head", &mut bad), Err(DropReason::Authentication));
        }
        assert_eq!(cipher.open(8, b"head", &mut sealed.clone()), Err(DropReason::Authentication));
        assert_eq!(cipher.open(7, b"heaD", &mut sealed.clone()), Err(DropReason::Authentication));
        cipher.open(7, b"head", &mut sealed).unwrap();
        assert_eq!(sealed[..24], text[..24]);
        assert_eq!(cipher.open(7, b"", &mut [0; 15]), Err(DropReason::Truncated));
        assert_eq!(cipher.seal(7, b"", &mut [0; 15]), Err(DropReason::NoRoom));
    }

    /// draft-irtf-cfrg-xchacha-03, appendix A.3.1.
    #[test]
    fn extended_nonces_agree_with_the_draft() {
        let key: [u8; 32] = core::array::from_fn(|n| 0x80 + n as u8);
        let nonce: [u8; 24] = core::array::from_fn(|n| 0x40 + n as u8);
        let associated = unhex("50515253c0c1c2c3c4c5c6c7");
        let text = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the \
            future, sunscreen would be it.";
        let mut sealed = text.to_vec();
        sealed.resize(text.len() + TAG, 0);
        seal_extended(&key, &nonce, &associated, &mut sealed).unwrap();
        assert_eq!(sealed[text.len()..], unhex("c0875924c1c7987947deafd8780acf49"));
        assert_eq!(sealed[..8], unhex("bd6d179d3e83d43b"));
        open_extended(&key, &nonce, &associated, &mut sealed).unwrap();
        assert_eq!(sealed[..text.len()], text[..]);
    }
}
