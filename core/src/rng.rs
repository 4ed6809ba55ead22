//! Randomness as an argument: a ChaCha20 generator that the shell seeds once from its entropy source.
//!
//! Fast key erasure: each refill's first 32 bytes become the next key, so a memory image does not reveal what
//! was drawn before. Equal seeds draw equal sequences, which is what makes a simulation replayable.
//! It does not gather entropy and does not reseed itself.

use chacha20::ChaCha20;
use chacha20::cipher::{KeyIvInit, StreamCipher};
use zeroize::Zeroize;

const BLOCK: usize = 128;
const KEY: usize = 32;

/// A cryptographically secure generator.
pub struct Rng {
    key: [u8; KEY],
    pool: [u8; BLOCK],
    used: usize,
}

impl Rng {
    /// `seed`: 32 bytes from the platform's entropy source.
    pub const fn new(seed: [u8; KEY]) -> Self {
        Self { key: seed, pool: [0; BLOCK], used: BLOCK }
    }

    /// Fills `out`.
    pub fn fill(&mut self, out: &mut [u8]) {
        for byte in out {
            if self.used >= BLOCK {
                self.refill();
            }
            if let Some(fresh) = self.pool.get_mut(self.used) {
                *byte = *fresh;
                *fresh = 0;
            }
            self.used = self.used.saturating_add(1);
        }
    }

    /// `N` random bytes.
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        self.fill(&mut out);
        out
    }

    /// A uniform 32-bit number.
    pub fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.bytes())
    }

    /// A uniform 64-bit number.
    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.bytes())
    }

    /// A number in `0..bound` (0 for an empty range), by Lemire's multiplication: biased by at most `bound`/2^32.
    pub fn below(&mut self, bound: u32) -> u32 {
        let wide = u64::from(self.u32()).wrapping_mul(u64::from(bound));
        (wide >> 32) as u32
    }

    fn refill(&mut self) {
        self.pool = [0; BLOCK];
        ChaCha20::new(&self.key.into(), &[0; 12].into()).apply_keystream(&mut self.pool);
        if let Some(next) = self.pool.first_chunk_mut::<KEY>() {
            self.key = *next;
            next.zeroize();
        }
        self.used = KEY;
    }
}

impl Drop for Rng {
    fn drop(&mut self) {
        self.key.zeroize();
        self.pool.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_seeds_draw_equal_sequences_across_refills() {
        let (mut a, mut b) = (Rng::new([7; 32]), Rng::new([7; 32]));
        let mut long = [0; 500];
        a.fill(&mut long);
        for chunk in long.chunks(3) {
            let mut piece = [0; 3];
            b.fill(&mut piece[..chunk.len()]);
            assert_eq!(&piece[..chunk.len()], chunk);
        }
        assert_ne!(Rng::new([8; 32]).u64(), Rng::new([7; 32]).u64());
    }

    #[test]
    fn below_stays_in_range_and_reaches_both_ends() {
        let mut rng = Rng::new([1; 32]);
        let mut seen = [false; 5];
        for _ in 0..200 {
            seen[rng.below(5) as usize] = true;
        }
        assert_eq!(seen, [true; 5]);
        assert_eq!(rng.below(0), 0);
    }
}
