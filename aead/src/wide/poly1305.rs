//! Poly1305 (RFC 8439, section 2.5), eight blocks at a time.
//!
//! The tag is a polynomial of the message's blocks at the point r, modulo p = 2^130 - 5. Each lane of a vector adds every
//! eighth block, so a step multiplies by r^8; the last one multiplies each lane by the power of r that is still due to
//! its block, and the lanes' sum is the polynomial.
//!
//! A number is three limbs of 44, 44 and 42 bits, little end first. IFMA multiplies limbs of up to 52 bits and adds the
//! lower or the upper 52 bits of the product. As 2^132 is 20 modulo p (4 * 2^130 = 4 * 5), what a product has beyond
//! the third limb comes back 20 times at the first.

use core::arch::x86_64::*;

use edgemesh_core::noise::TAG;

use super::load;

/// Bytes in a block.
const BLOCK: usize = 16;
/// Blocks in a vector.
const LANES: usize = 8;
/// Bytes of them.
const STEP: usize = LANES * BLOCK;
const MASK_44: u64 = (1 << 44) - 1;
const MASK_42: u64 = (1 << 42) - 1;
/// 2^128, which every block has added, in its third limb.
const MARK: i64 = 1 << (128 - 88);

/// A number in each lane.
#[derive(Clone, Copy)]
struct Numbers([__m512i; 3]);

/// What numbers are multiplied by: limbs below 2^45, and twenty times the second and third.
struct Factors {
    limbs: [__m512i; 3],
    wrapped: [__m512i; 2],
}

/// The tag of `text` as the AEAD has it, without associated data: `text` padded to whole blocks, then a block with both
/// lengths (section 2.8).
#[target_feature(enable = "avx512f,avx512ifma")]
pub(super) fn tag(key: &[u8; 32], text: &[u8]) -> [u8; TAG] {
    let (r, s) = key.split_at(16);
    let powers = Powers::new(u128::from_le_bytes(r.try_into().expect("half of 32")));
    let blocks = text.len().div_ceil(BLOCK) + 1;
    // All steps but the first are whole.
    let first = (blocks - 1) % LANES + 1;
    let marks = core::array::from_fn(|lane| if lane + first >= LANES { MARK } else { 0 });
    let mut sum = Numbers::of_blocks(&staged(text, 0, first), in_order(marks));
    if blocks > first {
        let mark = _mm512_set1_epi64(MARK);
        let (steps, _) = text[first * BLOCK..].as_chunks::<STEP>();
        let (odd, pairs) = steps[..(blocks - first) / LANES - 1].as_rchunks::<2>();
        for step in odd {
            sum = sum.times(&powers.eighth).plus(Numbers::of_blocks(step, mark));
        }
        for [step, next] in pairs {
            let products =
                Products::of(sum, &powers.sixteenth).plus(Numbers::of_blocks(step, mark), &powers.eighth);
            sum = products.carried().plus(Numbers::of_blocks(next, mark));
        }
        sum = sum.times(&powers.eighth).plus(Numbers::of_blocks(&staged(text, blocks - LANES, LANES), mark));
    }
    let polynomial = sum.times(&powers.due).reduced();
    polynomial.wrapping_add(u128::from_le_bytes(s.try_into().expect("half of 32"))).to_le_bytes()
}

/// `count` blocks from the one that has the number `from`, at the end of a step; the block of lengths is the last of all.
fn staged(text: &[u8], from: usize, count: usize) -> [u8; STEP] {
    let mut step = [0; STEP];
    let text_end = text.len().min((from + count) * BLOCK);
    let text_part = &text[from * BLOCK..text_end];
    step[(LANES - count) * BLOCK..][..text_part.len()].copy_from_slice(text_part);
    if from + count > text.len().div_ceil(BLOCK) {
        step[STEP - 8..].copy_from_slice(&(text.len() as u64).to_le_bytes());
    }
    step
}

/// One value for each block of a step, in the lanes that [`Numbers::of_blocks`] gives them.
#[inline]
#[target_feature(enable = "avx512f")]
fn in_order([a, b, c, d, e, f, g, h]: [i64; LANES]) -> __m512i {
    _mm512_setr_epi64(a, e, b, f, c, g, d, h)
}

struct Powers {
    /// In the lane of a step's first block r^8, in that of its last r.
    due: Factors,
    /// r^8 in all lanes.
    eighth: Factors,
    /// r^16 in all lanes.
    sixteenth: Factors,
}

impl Powers {
    /// Of `r`, which is clamped here (section 2.5).
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    fn new(r: u128) -> Self {
        let r = r & 0x0fff_fffc_0fff_fffc_0fff_fffc_0fff_ffff;
        let limb = |shift: u32| _mm512_set1_epi64(((r >> shift) as u64 & MASK_44) as i64);
        let first = Numbers([limb(0), limb(44), limb(88)]);
        let by_first = Factors::new(first);
        let second = first.times(&by_first);
        let by_second = Factors::new(second);
        let fourth = second.times(&by_second);
        let by_fourth = Factors::new(fourth);
        // One less than the power that is due, from the first block to the last: 7, 6, 5, 4, 3, 2, 1, 0. Its bits say
        // what to multiply r by; a lane's bit in the masks is where `in_order` puts its block.
        let due = first.where_set(0b0011_0011, second);
        let due = due.where_set(0b0000_1111, due.times(&by_second));
        let due = due.where_set(0b0101_0101, due.times(&by_fourth));
        let eighth = fourth.times(&by_fourth);
        let by_eighth = Factors::new(eighth);
        Self { due: Factors::new(due), sixteenth: Factors::new(eighth.times(&by_eighth)), eighth: by_eighth }
    }
}

impl Factors {
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn new(Numbers(limbs): Numbers) -> Self {
        let twenty_times =
            |limb| _mm512_add_epi64(_mm512_slli_epi64::<4>(limb), _mm512_slli_epi64::<2>(limb));
        Self { limbs, wrapped: [twenty_times(limbs[1]), twenty_times(limbs[2])] }
    }
}

/// Sums of at most two products for each limb: of their lower 52 bits, and of their upper ones.
struct Products {
    low: [__m512i; 3],
    high: [__m512i; 3],
}

impl Products {
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    fn of(numbers: Numbers, by: &Factors) -> Self {
        let zero = [_mm512_setzero_si512(); 3];
        Self { low: zero, high: zero }.plus(numbers, by)
    }

    /// Limbs of `numbers` may have 46 bits.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    fn plus(self, Numbers([a0, a1, a2]): Numbers, by: &Factors) -> Self {
        let ([b0, b1, b2], [w1, w2]) = (by.limbs, by.wrapped);
        let low = |sum, x, y, z| {
            _mm512_madd52lo_epu64(_mm512_madd52lo_epu64(_mm512_madd52lo_epu64(sum, a0, x), a1, y), a2, z)
        };
        let high = |sum, x, y, z| {
            _mm512_madd52hi_epu64(_mm512_madd52hi_epu64(_mm512_madd52hi_epu64(sum, a0, x), a1, y), a2, z)
        };
        let [low0, low1, low2] = self.low;
        let [high0, high1, high2] = self.high;
        Self {
            low: [low(low0, b0, w2, w1), low(low1, b1, b0, w2), low(low2, b2, b1, b0)],
            high: [high(high0, b0, w2, w1), high(high1, b1, b0, w2), high(high2, b2, b1, b0)],
        }
    }

    /// As limbs of 44, 45 and 42 bits, to which a block can be added. An upper half begins at bit 52 of its limb: 8 above
    /// the next limb's first bit, and 10 above the first limb's.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn carried(self) -> Numbers {
        let ([low0, low1, low2], [high0, high1, high2]) = (self.low, self.high);
        let (mask_44, mask_42) = (_mm512_set1_epi64(MASK_44 as i64), _mm512_set1_epi64(MASK_42 as i64));
        let carry = _mm512_add_epi64(_mm512_srli_epi64::<44>(low0), _mm512_slli_epi64::<8>(high0));
        let low1 = _mm512_add_epi64(low1, carry);
        let carry = _mm512_add_epi64(_mm512_srli_epi64::<44>(low1), _mm512_slli_epi64::<8>(high1));
        let low2 = _mm512_add_epi64(low2, carry);
        let carry = _mm512_add_epi64(_mm512_srli_epi64::<42>(low2), _mm512_slli_epi64::<10>(high2));
        let five_times = _mm512_add_epi64(carry, _mm512_slli_epi64::<2>(carry));
        let low0 = _mm512_add_epi64(_mm512_and_si512(low0, mask_44), five_times);
        let low1 = _mm512_add_epi64(_mm512_and_si512(low1, mask_44), _mm512_srli_epi64::<44>(low0));
        Numbers([_mm512_and_si512(low0, mask_44), low1, _mm512_and_si512(low2, mask_42)])
    }
}

impl Numbers {
    /// The blocks of a step with a `mark` above each, in the order 0, 4, 1, 5, 2, 6, 3, 7.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn of_blocks(step: &[u8; STEP], mark: __m512i) -> Self {
        let (halves, _) = step.as_chunks();
        let (front, back) = (load(&halves[0]), load(&halves[1]));
        let (low, high) = (_mm512_unpacklo_epi64(front, back), _mm512_unpackhi_epi64(front, back));
        let mask = _mm512_set1_epi64(MASK_44 as i64);
        let across = _mm512_or_si512(_mm512_srli_epi64::<44>(low), _mm512_slli_epi64::<20>(high));
        Self([
            _mm512_and_si512(low, mask),
            _mm512_and_si512(across, mask),
            _mm512_or_si512(_mm512_srli_epi64::<24>(high), mark),
        ])
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    fn times(self, by: &Factors) -> Self {
        Products::of(self, by).carried()
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn plus(self, Self(other): Self) -> Self {
        let [a0, a1, a2] = self.0;
        Self([_mm512_add_epi64(a0, other[0]), _mm512_add_epi64(a1, other[1]), _mm512_add_epi64(a2, other[2])])
    }

    /// `other` in the lanes of `mask`.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn where_set(self, mask: __mmask8, Self(other): Self) -> Self {
        let [a0, a1, a2] = self.0;
        Self([
            _mm512_mask_mov_epi64(a0, mask, other[0]),
            _mm512_mask_mov_epi64(a1, mask, other[1]),
            _mm512_mask_mov_epi64(a2, mask, other[2]),
        ])
    }

    /// The sum of all lanes modulo p, its lower 128 bits.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn reduced(self) -> u128 {
        let [mut low, mut middle, mut high] = self.0.map(|limb| _mm512_reduce_add_epi64(limb) as u64);
        // The second time a carry is at most one, and it leaves so little behind that nothing is left to carry.
        for _ in 0..2 {
            middle += low >> 44;
            high += middle >> 44;
            low = (low & MASK_44) + (high >> 42) * 5;
            (middle, high) = (middle & MASK_44, high & MASK_42);
        }
        let number = u128::from(low) | u128::from(middle) << 44 | u128::from(high) << 88;
        let beyond = high >> 40;
        // Not below p exactly if five more reach 2^130; then p is taken away, which is five more below 2^128.
        let (less_p, carry) = number.overflowing_add(5);
        let whole = (beyond + u64::from(carry)) >> 2;
        let mask = u128::from(whole).wrapping_neg();
        (less_p & mask) | (number & !mask)
    }
}
