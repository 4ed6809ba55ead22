//! The parts of the EdgeMesh agent that are about Linux.
//!
//! Each module stands alone and knows nothing of the engine beyond its packet room and its clock type. All
//! `unsafe` lives in `sys`.

pub mod clock;
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
