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
mod memory;
mod node;
mod primitives;
mod segment;
mod stack;
mod steps;
mod world;

use core::mem::MaybeUninit;
use core::panic::PanicInfo;
use cortex_m_rt::{ExceptionFrame, entry, exception};
use cortex_m_semihosting::{debug, hprintln};
use edgemesh_core::memory::Resources;
use edgemesh_core::node::Engine;
use memory::{Far, Gateway};
use steps::{Bench, STEPS, Scratch, Step};
use world::{Buffers, Node, SCRIPTS, World};

/// What the core may take of the board's stack, `main`'s frame included.
const STACK_BUDGET: usize = 6 * 1024;

#[entry]
fn main() -> ! {
    // Built in place as statics: a table that is made on the stack and moved costs twice its size there.
    static mut MEMORY: Gateway = Gateway::ZERO;
    static mut FAR_MEMORY: Far = Far::ZERO;
    static mut NEAR: MaybeUninit<Engine<'static>> = MaybeUninit::uninit();
    static mut FAR: MaybeUninit<Engine<'static>> = MaybeUninit::uninit();
    static mut BENCH: MaybeUninit<Bench> = MaybeUninit::uninit();
    static mut BUFFERS: Buffers = Buffers::ZERO;
    static mut SCRATCH: Scratch = Scratch::ZERO;

    hprintln!("memory: {} B of {} B", size_of::<Gateway>(), memory::BUDGET);
    hprintln!("engine: {} B beside it", size_of::<Engine<'static>>());
    let mut clock = clock::Clock::start();
    let (near, made) = start(NEAR, MEMORY.lend(), 1, &mut clock);
    let (far, also) = start(FAR, FAR_MEMORY.lend(), 2, &mut clock);
    let bench = bench(BENCH, [near, far], BUFFERS, SCRATCH);
    let failed = STEPS.iter().filter(|step| !passes(step, bench, &mut clock)).count()
        + usize::from(!made)
        + usize::from(!also);
    hprintln!("probe: {} of {} steps passed", STEPS.len() + 2 - failed, STEPS.len() + 2);
    finish(failed == 0)
}

/// Makes the gateway's engine, as one more step.
#[inline(never)]
fn start(
    place: &'static mut MaybeUninit<Engine<'static>>,
    memory: Resources<'static>,
    node: u8,
    clock: &mut clock::Clock,
) -> (&'static mut Engine<'static>, bool) {
    stack::paint();
    clock.restart();
    let engine = place.write(world::engine(memory, node));
    let passed = report("engine: made", clock.instructions(), Ok(()));
    (engine, passed)
}

/// Puts together what the steps share, in its static.
#[inline(never)]
fn bench(
    place: &'static mut MaybeUninit<Bench>,
    [near, far]: [&'static mut Engine<'static>; 2],
    buffers: &'static mut Buffers,
    scratch: &'static mut Scratch,
) -> &'static mut Bench {
    let world = World::new(Node::new(near, &SCRIPTS[0]), Node::new(far, &SCRIPTS[1]), buffers);
    place.write(Bench { world, scratch })
}

/// Runs one step on fresh paint and prints its line.
#[inline(never)]
fn passes(step: &Step, bench: &mut Bench, clock: &mut clock::Clock) -> bool {
    stack::paint();
    clock.restart();
    let outcome = (step.run)(bench);
    report(step.name, clock.instructions(), outcome)
}

/// Prints a step's line; whether it passed.
fn report(name: &str, instructions: u32, outcome: Result<(), &'static str>) -> bool {
    let depth = stack::depth();
    let verdict = match outcome {
        Err(what) => what,
        Ok(()) if depth >= stack::room() => "the stack reached the statics",
        Ok(()) if depth > STACK_BUDGET => "over the stack budget",
        Ok(()) => "ok",
    };
    hprintln!("{}: stack {} B, {} k instructions: {}", name, depth, instructions / 1000, verdict);
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
