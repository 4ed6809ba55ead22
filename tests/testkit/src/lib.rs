//! A network in virtual time, for tests.
//!
//! * [`link`]: delay, loss, reordering, duplication, rate and a bounded queue
//! * [`nat`], [`firewall`]: the boxes in front of sites
//! * [`network`]: hosts, sites behind boxes, datagrams and TCP-like [`pipe`]s between them
//! * [`seeds`]: running a test over many seeds, replaying one
//!
//! All of it is sans-IO, seeded and deterministic: nothing iterates in hash order, nothing reads a clock. It
//! deliberately simulates neither TCP itself nor ICMP.

pub mod filter;
pub mod firewall;
pub mod link;
pub mod nat;
pub mod network;
pub mod pipe;
pub mod seeds;
