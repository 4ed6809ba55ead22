//! Two nodes, their NATs and a relay in virtual time; and one node alone against whatever it is sent.

mod direct;
mod hostile;
mod lives;
mod mtu;
mod nat;
mod ping;
mod relayed;
mod world;
