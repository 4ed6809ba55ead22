//! The lab's one error: a sentence for the person who reads the report.
//!
//! Nothing here is matched on; a scenario fails with what was expected and what was seen.

use std::fmt;

/// Why a scenario or a step of the lab failed.
#[derive(Debug)]
pub struct Error(String);

/// What lab functions return.
pub type Result<T = ()> = core::result::Result<T, Error>;

impl Error {
    /// An error that says `message`.
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

/// Fails with `message`.
///
/// # Errors
/// Always.
pub fn fail<T>(message: impl Into<String>) -> Result<T> {
    Err(Error::new(message))
}

/// Says what was being done when something failed.
pub trait Context<T> {
    /// Puts `doing` in front of the cause.
    ///
    /// # Errors
    /// The error it was called on, with the sentence in front.
    fn context(self, doing: impl fmt::Display) -> Result<T>;
}

impl<T, E: fmt::Display> Context<T> for core::result::Result<T, E> {
    fn context(self, doing: impl fmt::Display) -> Result<T> {
        self.map_err(|cause| Error(format!("{doing}: {cause}")))
    }
}

impl<T> Context<T> for Option<T> {
    fn context(self, doing: impl fmt::Display) -> Result<T> {
        self.ok_or_else(|| Error(format!("{doing}: nothing there")))
    }
}

/// Fails the scenario with the formatted sentence unless the condition holds.
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $($sentence:tt)+) => {{
        let holds: bool = $condition;
        if !holds {
            return $crate::fail(format!($($sentence)+));
        }
    }};
}
