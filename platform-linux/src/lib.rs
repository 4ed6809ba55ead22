//! The parts of the EdgeMesh agent that are about Linux.
//!
//! Each module stands alone and knows nothing of the engine beyond its packet room and its clock type. All
//! `unsafe` lives in `sys`.

pub mod offload;
