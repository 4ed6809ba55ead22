//! The core on the reference microcontroller, under QEMU and without a network.
//!
//! Runs every step of [`steps::STEPS`], each checked against known answers, and prints one line per step with
//! the stack it took and its instruction count. Fails, with a line that says why, when an answer is wrong or a
//! budget of `docs/ARCHITECTURE.md` is exceeded. Flash size and the absence of an allocator are checked from
//! outside, by `cross/probe.sh`.
//!
//! It deliberately has no driver, no interrupt and no executor: what is measured is the core alone.
#![no_std]
#![no_main]

mod clock;
mod machines;
mod memory;
mod primitives;
mod stack;
mod steps;

use core::panic::PanicInfo;
use cortex_m_rt::{ExceptionFrame, entry, exception};
use cortex_m_semihosting::{debug, hprintln};
use memory::{Far, Memory};
use steps::{Bench, STEPS, Step};

/// What the core may take of the board's stack, `main`'s frame included.
const STACK_BUDGET: usize = 6 * 1024;

#[entry]
fn main() -> ! {
    // Built in place as statics: a table that is made on the stack and moved costs twice its size there.
    static mut MEMORY: Memory = Memory::ZERO;
    static mut FAR: Far = Far::ZERO;
    static mut BENCH: Option<Bench> = None;

    hprintln!("memory: {} B of {} B", size_of::<Memory>(), memory::BUDGET);
    for (part, size) in memory::PARTS {
        hprintln!("memory of {}: {} B", part, size);
    }
    let mut clock = clock::Clock::start();
    let bench = BENCH.get_or_insert_with(|| Bench::new(MEMORY, FAR));
    let failed = STEPS.iter().filter(|step| !passes(step, bench, &mut clock)).count();
    hprintln!("probe: {} of {} steps passed", STEPS.len() - failed, STEPS.len());
    finish(failed == 0)
}

/// Runs one step on fresh paint and prints its line.
#[inline(never)]
fn passes(step: &Step, bench: &mut Bench, clock: &mut clock::Clock) -> bool {
    stack::paint();
    clock.restart();
    let outcome = (step.run)(bench);
    let instructions = clock.instructions();
    let depth = stack::depth();
    let verdict = match outcome {
        Err(what) => what,
        Ok(()) if depth >= stack::room() => "the stack reached the statics",
        Ok(()) if depth > STACK_BUDGET => "over the stack budget",
        Ok(()) => "ok",
    };
    hprintln!("{}: stack {} B, {} k instructions: {}", step.name, depth, instructions / 1000, verdict);
    verdict == "ok"
}

fn finish(passed: bool) -> ! {
    debug::exit(if passed { debug::EXIT_SUCCESS } else { debug::EXIT_FAILURE });
    // Only reached when nobody listens on the other side of semihosting.
    loop {
        cortex_m::asm::wfi();
    }
}

#[panic_handler]
fn panicked(info: &PanicInfo<'_>) -> ! {
    hprintln!("FAILED: {}", info);
    finish(false)
}

#[exception]
unsafe fn HardFault(frame: &ExceptionFrame) -> ! {
    hprintln!("FAILED: hard fault at {:#010x}", frame.pc());
    finish(false)
}
