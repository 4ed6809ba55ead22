//! Seeds for the core's generator, from the operating system.

use std::io;

/// 32 fresh bytes for [`edgemesh_core::rng::Rng::new`].
///
/// # Errors
/// When the operating system has no entropy source, which is reason enough not to start.
pub fn seed() -> io::Result<[u8; 32]> {
    let mut out = [0; 32];
    getrandom::fill(&mut out).map_err(|e| io::Error::other(format!("no entropy source: {e}")))?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    #[test]
    fn seeds_differ() {
        assert_ne!(super::seed().unwrap(), super::seed().unwrap());
    }
}
