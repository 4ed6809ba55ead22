//! What the agent and the server share on a machine with an operating system.
//!
//! * [`config`]: flags over `EDGEMESH_*` variables over a YAML file, with errors that name field, value and what
//!   is accepted
//! * [`state`]: a directory of small files that survive crashes and full disks
//! * [`admin`]: the HTTP endpoint for probes, metrics and the JSON that commands print, and its blocking client
//! * [`frames`]: datagrams in a byte stream
//! * [`metrics`]: Prometheus text
//! * [`programming`]: how long changes took to be in force, for metrics
//! * [`token`]: what lets a node join, in its one-line form: a join token, or the cluster's address
//! * [`tcp`]: connections that fit through narrow links, and which cannot be accepted now
//! * [`psk`]: the file of the keys that the nodes of a mesh share
//! * [`memory`], [`registers`]: keep secrets in the process
//! * [`clock`], [`entropy`], [`log`], [`signal`]: what the core wants passed in, and the process around it
//!
//! It knows nothing of nodes, Services or tunnels.

pub mod admin;
pub mod clock;
pub mod config;
pub mod entropy;
pub mod frames;
pub mod log;
pub mod memory;
pub mod metrics;
pub mod programming;
pub mod psk;
pub mod registers;
pub mod signal;
pub mod state;
pub mod tcp;
pub mod token;
