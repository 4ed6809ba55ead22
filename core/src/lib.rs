//! The engine of EdgeMesh: everything that decides, nothing that touches the outside.
//!
//! `no_std`, no allocator, no `unsafe`, no panic. The shell around it (a Linux agent, a microcontroller, a
//! simulator) owns sockets, clocks and memory: it lends the memory once, passes time and random seeds in, hands
//! packets over, and carries out the verdicts. See `docs/ARCHITECTURE.md` for the way of a packet.
//!
//! # To begin with
//!
//! Two shells that are small enough to be read at once: `examples/dns_responder.rs`, and `examples/two_nodes`, where a
//! packet for a Service crosses from one engine to another. Every machine can be used without the rest: [`tunnel`] begins
//! with two nodes and a packet, and this is the smallest whole engine:
//!
//! ```
//! use edgemesh_core::control::{Authority, Credentials, Feed};
//! use edgemesh_core::dns::{Domain, PodRecords, Settings, Transport, Verdict};
//! use edgemesh_core::node::{Config, Engine};
//! use edgemesh_core::{heapless, noise::StaticSecret, path, time::Instant};
//!
//! // Tables of fixed size, which the shell places and lends once.
//! edgemesh_core::memory! {
//!     struct Memory {
//!         peers: 2, window: 2, handshakes: 2, flows: 16, admitted: 16,
//!         services: 4, ports: 8, endpoints: 8, names: 16, namespaces: 8, side: 8,
//!     }
//! }
//! let mut memory = Memory::ZERO;
//! let mut engine = Engine::new(Instant::ZERO, memory.lend(), Config {
//!     identity: StaticSecret::from_bytes([1; 32]), // in earnest: 32 bytes of entropy, kept
//!     credentials: Credentials {
//!         name: heapless::String::try_from("edge-1").unwrap(),
//!         secret: None,
//!         account: false,
//!         agent: "example/1.0",
//!         feed: Feed::None,
//!     },
//!     authority: Authority { root: [0; 32], directory: [0; 32], epoch: 0 }, // in earnest: from the join token
//!     dns: Settings {
//!         domain: Domain::new("cluster.local").unwrap(),
//!         ttl: 30,
//!         negative_ttl: 30,
//!         address: None,
//!         pods: PodRecords::Insecure,
//!         recursion: false,
//!     },
//!     paths: path::Config { inner_mtu_max: 1408 },
//!     stamp: 0,
//!     seed: [2; 32], // in earnest: entropy
//! });
//!
//! // A query for the address of example.org is not for this node: its shell would ask somebody else.
//! let query = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x07example\x03org\0\0\x01\0\x01";
//! let verdict = engine.query(Instant::ZERO, Transport::Udp, query, &mut [0; 512]);
//! assert!(matches!(verdict, Verdict::Forward));
//! ```
//!
//! # Its parts
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

/// The bounded strings in this crate's values.
pub use heapless;
pub use peer_id::PeerId;
