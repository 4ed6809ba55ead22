//! Sessions between two nodes in virtual time, seen from the wire.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::std_instead_of_core,
    missing_docs,
    unreachable_pub
)]

mod crowd;
mod handshakes;
mod hostile;
mod net;
mod random;
mod secrets;
mod timers;
