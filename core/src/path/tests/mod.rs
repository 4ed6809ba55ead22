//! Scenarios: two nodes, their NATs and a relay in virtual time.

mod hostile;
mod nat;
mod ping;
mod scenarios;
mod world;
