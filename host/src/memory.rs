//! Keeps what is in this process's memory from leaving it.

use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use std::hint::black_box;
use std::io;

/// The longest copy that [`forget_copies`] makes, in bytes: longer ones use the registers of this one.
const COPIED: usize = 4_096;

/// What of a process's memory goes into dumps, those of root's debugger included: nothing here. A process that is not
/// dumpable may not say so any more.
const FILTER: &str = "/proc/self/coredump_filter";

/// No core dump of this process is made, nobody but root attaches to it, and what root's debugger dumps holds no memory.
///
/// # Errors
/// When the kernel does not take it, which no kernel of the last 20 years does.
pub fn keep_private() -> io::Result<()> {
    match std::fs::write(FILTER, "0") {
        // A kernel that knows no dumps.
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// Overwrites what copies of secrets have left in vector registers. A thread begins with those of the one that makes it,
/// may wait for ever without a use for them, and root's debugger dumps them with it. The system's copies of different sizes
/// use different ones, so some of each are made.
pub fn forget_copies() {
    let (from, mut to) = ([0u8; COPIED], [0u8; COPIED]);
    for len in (5..=COPIED.ilog2()).flat_map(|bits| [1 << bits, (1 << bits) - 1]) {
        let len: usize = black_box(len);
        if let (Some(to), Some(from)) = (to.get_mut(..len), from.get(..len)) {
            to.copy_from_slice(black_box(from));
        }
        black_box(&mut to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::dumpable_behavior;

    #[test]
    fn the_kernel_has_been_told() {
        keep_private().unwrap();
        assert_eq!(std::fs::read_to_string(FILTER).unwrap().trim(), "00000000");
        assert!(matches!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable));
    }
}
