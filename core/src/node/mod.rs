//! The composition.

pub mod peers;
