//! How deep the stack went, by painting it.
//!
//! [`paint`] fills what lies below the current frame with a pattern; [`depth`] finds the lowest word that lost
//! it. Depth counts from the top of the stack, `main`'s frame included, because that is what a board reserves.
//! A frame that leaves its lowest words untouched is under-reported by those words. No interrupt is enabled
//! while this runs, so nothing else writes below the stack pointer.

use core::hint::black_box;
use core::ptr::{read_volatile, write_volatile};

const PATTERN: u32 = 0xc0de_57ac;
const WORD: usize = size_of::<u32>();
/// Left unpainted below [`paint`]'s own local: more than its frame, less than any step's.
const MARGIN: usize = 128;

unsafe extern "C" {
    // Made by the linker script: the end of the statics, and the initial stack pointer. Never dereferenced as
    // such; only their addresses mean something.
    static _stack_end: u32;
    static _stack_start: u32;
}

fn low() -> usize {
    (&raw const _stack_end).addr()
}

fn top() -> usize {
    (&raw const _stack_start).addr()
}

/// Bytes between the statics and the top of the stack: what a board of this memory has for its stack.
pub fn room() -> usize {
    top() - low()
}

/// Fills the unused stack with the pattern.
#[inline(never)]
pub fn paint() {
    let marker = 0u32;
    let here = black_box(&raw const marker).addr() - MARGIN;
    let mut at = low();
    while at < here {
        // SAFETY: word-aligned RAM between the last static and this function's own frame. Nothing lives there:
        // the image has no heap, this frame and its callers' lie above `here`, and no interrupt is enabled.
        unsafe { write_volatile(core::ptr::with_exposed_provenance_mut(at), PATTERN) };
        at += WORD;
    }
}

/// Bytes from the top of the stack to the deepest word written since [`paint`].
#[inline(never)]
pub fn depth() -> usize {
    let mut at = low();
    // SAFETY: word-aligned RAM inside the stack region, which is initialised (painted) before it is read.
    while at < top() && unsafe { read_volatile(core::ptr::with_exposed_provenance::<u32>(at)) } == PATTERN {
        at += WORD;
    }
    top() - at
}
