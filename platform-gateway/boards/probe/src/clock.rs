//! Instructions executed, read from SysTick.
//!
//! `cross/probe.sh` starts QEMU with `-icount shift=0`: one instruction then is one nanosecond of virtual time,
//! so the figure is exact to one tick and the same on every machine. On a real board it would be time.
//! A span beyond 2^24 ticks (1.3 G instructions) wraps; no step comes near.

use cortex_m::Peripherals;
use cortex_m::peripheral::{SYST, syst::SystClkSource};

/// The board leaves reset with a 12.5 MHz system clock.
const INSTRUCTIONS_PER_TICK: u32 = 80;
const RELOAD: u32 = 0x00ff_ffff;

/// The running SysTick.
pub struct Clock {
    systick: SYST,
}

impl Clock {
    /// Takes SysTick and starts it, without its interrupt.
    pub fn start() -> Self {
        let mut systick = Peripherals::take().expect("taken once, by main").SYST;
        systick.set_clock_source(SystClkSource::Core);
        systick.set_reload(RELOAD);
        systick.clear_current();
        systick.enable_counter();
        Self { systick }
    }

    /// Counts from here.
    pub fn restart(&mut self) {
        self.systick.clear_current();
    }

    /// Instructions since [`Clock::restart`].
    pub fn instructions(&self) -> u32 {
        (RELOAD - SYST::get_current()) * INSTRUCTIONS_PER_TICK
    }
}
