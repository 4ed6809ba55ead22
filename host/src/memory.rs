//! Keeps what is in this process's memory from leaving it.

use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use std::io;

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
