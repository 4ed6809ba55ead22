//! A network in virtual time, for tests.
//!
//! * [`link`]: delay, loss, reordering, duplication, rate and a bounded queue
//! * [`nat`], [`firewall`]: the boxes in front of sites
//! * [`network`]: hosts, sites behind boxes, datagrams and TCP-like [`pipe`]s between them
//! * [`world`]: participants on hosts, driven by a clock that jumps from event to event and checks that deadlines
//!   are honest
//! * [`oracle`]: which pairs of NAT boxes can be punched at all
//! * [`star`]: engines with sessions and paths, for whoever measures what a packet costs
//! * [`seeds`]: running a test over many seeds, replaying one
//!
//! All of it is sans-IO, seeded and deterministic: nothing iterates in hash order, nothing reads a clock. It
//! deliberately simulates neither TCP itself nor ICMP.

pub mod filter;
pub mod firewall;
pub mod link;
pub mod nat;
pub mod network;
pub mod oracle;
pub mod pipe;
pub mod seeds;
pub mod star;
pub mod world;
