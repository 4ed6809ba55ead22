//! Diagnostics shim: `log` where the shell has it, nothing otherwise.
//!
//! Never per packet, never a secret. What matters to an operator is a counter ([`crate::counters`]) or an
//! event; these lines are for whoever debugs the engine itself.

/// Logs at debug level when the feature `log` is on.
#[macro_export]
macro_rules! debug {
    ($($arg:tt)*) => {{
        #[cfg(feature = "log")]
        { log::debug!($($arg)*); }
        #[cfg(not(feature = "log"))]
        { let _ = core::format_args!($($arg)*); }
    }};
}
