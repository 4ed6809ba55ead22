//! Keeps what is in this process's memory from leaving it.

use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use std::io;

/// No core dump of this process is made, and nobody but root attaches to it.
///
/// # Errors
/// When the kernel does not take it, which no kernel of the last 20 years does.
pub fn keep_private() -> io::Result<()> {
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::dumpable_behavior;

    #[test]
    fn the_kernel_has_been_told() {
        keep_private().unwrap();
        assert!(matches!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable));
    }
}
