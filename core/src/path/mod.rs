//! Grows with its first machine.
