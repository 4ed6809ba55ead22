//! The end-to-end lab: real kernels, real packets, real programs, in network namespaces.
//!
//! One run lives in a private world ([`sandbox`]): its own mount, network and process namespaces (and a user
//! namespace for people who are not root), so that nothing it makes can be seen from, or outlive it on, the
//! machine. In that world [`topology`] builds an internet, a cloud network and two sites behind NATs, [`mesh`]
//! starts the product's binaries, and [`scenarios`] says what must hold.
//!
//! Bounds: every wait has a limit ([`wait`]), every child process ends with the [`process::Process`] that owns
//! it, and with the lab's process namespace at the latest.
//!
//! Not here: simulated networks (see the testkit), any logic of the product, load beyond what shows a claim.

pub mod capture;
pub mod demo;
pub mod error;
pub mod machine;
pub mod manifests;
pub mod mesh;
pub mod nat;
pub mod netns;
pub mod process;
pub mod product;
pub mod relay;
pub mod runner;
pub mod sandbox;
pub mod scenarios;
pub mod shell;
pub mod snapshot;
pub mod tools;
pub mod topology;
pub mod tunnel;
pub mod wait;
pub mod wireguard;
pub mod workloads;

pub use error::{Context, Error, Result, fail};
