//! Formats: views over untrusted bytes, and validated values that write themselves.
//!
//! **No-panic contract.** Every `parse`/`new` takes any bytes and returns a value or a
//! [`DropReason`](crate::counters::DropReason); every accessor of a parsed view stays inside the length that was
//! checked. Nothing here keeps state, reads a clock or decides what happens next.

pub mod ask;
pub mod control;
pub mod dns;
pub mod feed;
pub mod health;
pub mod ip;
pub mod path;
pub mod relay;
pub mod wireguard;
