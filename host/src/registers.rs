//! Vector registers, in which copies and ciphers leave what they worked on.
//!
//! A thread that rests may keep it there for ever, another one begins with the registers of the thread that makes it,
//! and root's debugger dumps them. So who has handled keys [forgets](forget) before either.
#![allow(unsafe_code)]

/// Empties this thread's vector registers.
#[cfg(target_arch = "x86_64")]
pub fn forget() {
    // SAFETY: the processor has the instructions that were looked for (SSE2 is every one's), and vector registers are
    // the caller's to save (System V ABI, section 3.2.1).
    unsafe {
        if is_x86_feature_detected!("avx512f") {
            x86::forget_avx512();
        } else if is_x86_feature_detected!("avx") {
            x86::forget_avx();
        } else {
            x86::forget_sse();
        }
    }
}

/// Overwrites what copies have left in vector registers. The system's copies of different sizes use different ones, so
/// some of each are made; which ones a cipher uses is not known.
#[cfg(not(target_arch = "x86_64"))]
pub fn forget() {
    use std::hint::black_box;
    /// Longer copies use the registers of this one.
    const LONGEST: usize = 1_024;
    let (from, mut to) = ([0u8; LONGEST], [0u8; LONGEST]);
    for len in (5..=LONGEST.ilog2()).flat_map(|bits| [1 << bits, (1 << bits) - 1]) {
        let len: usize = black_box(len);
        if let (Some(to), Some(from)) = (to.get_mut(..len), from.get(..len)) {
            to.copy_from_slice(black_box(from));
        }
        black_box(&mut to);
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use core::arch::naked_asm;

    #[unsafe(naked)]
    pub(super) unsafe extern "sysv64" fn forget_avx512() {
        naked_asm!(
            "vzeroall",
            ".irp n, 16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
            "vpxord zmm\\n, zmm\\n, zmm\\n",
            ".endr",
            "ret"
        )
    }

    #[unsafe(naked)]
    pub(super) unsafe extern "sysv64" fn forget_avx() {
        naked_asm!("vzeroall", "ret")
    }

    #[unsafe(naked)]
    pub(super) unsafe extern "sysv64" fn forget_sse() {
        naked_asm!(".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15", "xorps xmm\\n, xmm\\n", ".endr", "ret")
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use std::arch::asm;

    extern "sysv64" fn forget() {
        super::forget();
    }

    #[test]
    fn nothing_is_left() {
        assert_eq!(left_in_xmm3(), [0; 16]);
        if is_x86_feature_detected!("avx512f") {
            assert_eq!(left_in_zmm3_and_zmm31(), [0; 64]);
        }
    }

    fn left_in_xmm3() -> [u8; 16] {
        let (from, mut to) = ([0xa5_u8; 16], [0xa5_u8; 16]);
        // SAFETY: all that is read and written is 16 bytes; a call keeps the registers that say where
        // (r12, r13), and what it may change is given up.
        unsafe {
            asm!(
                "movups xmm3, [r12]",
                "call {forget}",
                "movups [r13], xmm3",
                forget = sym forget,
                in("r12") from.as_ptr(),
                in("r13") to.as_mut_ptr(),
                clobber_abi("sysv64"),
            );
        }
        to
    }

    /// The processor must have AVX-512.
    fn left_in_zmm3_and_zmm31() -> [u8; 64] {
        let (from, mut to) = ([0xa5_u8; 64], [0xa5_u8; 64]);
        // SAFETY: the processor has the instructions; all that is read and written is 64 bytes; r12, r13 and others
        // as above.
        unsafe {
            asm!(
                "vmovdqu64 zmm3, [r12]",
                "vmovdqu64 zmm31, [r12]",
                "call {forget}",
                "vpord zmm31, zmm31, zmm3",
                "vmovdqu64 [r13], zmm31",
                forget = sym forget,
                in("r12") from.as_ptr(),
                in("r13") to.as_mut_ptr(),
                clobber_abi("sysv64"),
            );
        }
        to
    }
}
