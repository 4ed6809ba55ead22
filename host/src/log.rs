//! Logging to standard error: one line an event, colour only on a terminal.
//!
//! `EDGEMESH_LOG` chooses what is shown: a level (`debug`) or targets (`info,edgemesh_core=trace`). Per-packet
//! events are at `trace`. Secrets are never logged.

use std::io::IsTerminal;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Name of the variable that chooses the level.
pub const VARIABLE: &str = "EDGEMESH_LOG";

/// Installs the process's logger. A second call changes nothing.
///
/// # Errors
/// The text for the user when [`VARIABLE`] holds something else than levels and targets.
pub fn init() -> Result<(), String> {
    let wanted = std::env::var(VARIABLE).unwrap_or_default();
    let filter = targets(&wanted)?;
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    // Fails only when a logger is installed already, as by an earlier call.
    let _ = tracing_subscriber::registry().with(filter).with(layer).try_init();
    Ok(())
}

fn targets(wanted: &str) -> Result<Targets, String> {
    let wanted = if wanted.is_empty() { "info" } else { wanted };
    wanted.parse().map_err(|e| {
        format!("{VARIABLE}: {wanted:?}: {e}; accepted: error, warn, info, debug, trace, or target=level,...")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_level_is_named_with_what_is_accepted() {
        assert!(targets("").is_ok() && targets("info,edgemesh_core=trace").is_ok());
        let message = targets("edgemesh=loud").unwrap_err();
        assert!(message.contains("EDGEMESH_LOG") && message.contains("loud") && message.contains("debug"));
    }
}
