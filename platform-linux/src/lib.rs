//! The parts of the EdgeMesh agent that are about Linux.
//!
//! [`agent`] puts the others around the engine. Each of these stands alone and knows nothing of the engine beyond
//! its packet room and its clock type. All `unsafe` lives in `sys`.

pub mod agent;
pub mod cli;
pub mod clock;
pub mod commands;
pub mod dns;
pub mod interception;
#[cfg(test)]
mod loop_tests;
pub mod netlink;
pub mod offload;
pub mod poll;
pub mod prefix;
mod sys;
#[cfg(test)]
mod testing;
pub mod tun;
pub mod udp;

/// What this build calls itself to the server.
pub const BUILD: &str = concat!("edgemesh-agent/", env!("CARGO_PKG_VERSION"));
