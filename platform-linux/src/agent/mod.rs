//! The agent: everything around the engine on Linux.
//!
//! Two threads. The data thread ([`data`]) owns engine, TUN and UDP sockets. This one runs the async parts:
//! the control connection, DNS sockets, the source of Services, the admin endpoint, and storing what has to
//! outlive the process. A third, the keeper, holds routes and rules in place.
//!
//! **Life cycle.** [`run`]: state, device and sockets first, because nothing works without them and their errors
//! are the user's; then the engine with the last good table; then the server. The node's address in the mesh is
//! known once the directory has said it; routes, rules and DNS follow then, at once on later starts. A signal
//! ends it: state is kept, and so are device and routes, for the next run to take over.

pub mod admin;
mod claims;
pub mod cluster_dns;
pub mod command;
pub mod control;
pub mod data;
pub mod domain;
mod entry;
pub mod join;
pub mod kept;
pub mod locals;
pub mod park;
pub mod pod_names;
pub mod privileges;
mod prober;
mod psk;
pub mod refusals;
pub mod resolver;
pub mod responder;
pub mod source;
pub mod start;
pub mod state;
pub mod status;

pub use start::{RunError, run};
