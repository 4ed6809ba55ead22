//! The engine of EdgeMesh: everything that decides, nothing that touches the outside.
//!
//! `no_std`, no allocator, no `unsafe`, no panic. The shell around it (a Linux agent, a microcontroller, a
//! simulator) owns sockets, clocks and memory: it lends the memory once, passes time and random seeds in, hands
//! packets over, and carries out the verdicts. See `docs/ARCHITECTURE.md` for the way of a packet.
//!
//! To begin with, two shells that are small enough to be read at once: `examples/dns_responder.rs`, and
//! `examples/two_nodes`, where a packet for a Service crosses from one engine to another.
//!
//! * [`time`], [`rng`], [`trace`], [`counters`], [`packet`], [`signature`]: what every part uses
//! * [`wire`]: formats, as views over untrusted bytes and validated values
//! * [`storage`]: bounded containers over borrowed slices
//! * machines, which never import one another: [`dns`], [`service`], [`flow`], [`peer`], [`tunnel`], [`path`],
//!   [`control`]
//! * `bridge`: what two machines need to meet: the values, timers and views that [`node`] hands between them
//! * [`node`]: the one place that sees all machines and composes them; `commands`: what it is told that concerns one
//!   machine alone; `inspect`: what may be read of it
//! * [`mod@memory`]: all that it is lent, by numbers of peers, flows and Services
#![no_std]
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::std_instead_of_core
    )
)]

#[cfg(test)]
extern crate std;

mod bridge;
mod commands;
pub mod control;
pub mod counters;
pub mod dns;
pub mod flow;
mod inspect;
pub mod memory;
pub mod node;
pub mod noise;
pub mod packet;
pub mod path;
pub mod peer;
mod peer_id;
pub mod rng;
pub mod service;
pub mod signature;
pub mod storage;
pub mod time;
pub mod trace;
pub mod tunnel;
pub mod wire;

pub use peer_id::PeerId;
